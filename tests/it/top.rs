//! `mcpgate top` on a terminal: what is drawn, what keys do, a gateway that goes and comes back, and a terminal that is left as it was.

use rustix::process::Signal;

use crate::{
    support::{Ended, Gateway, Helper, Launch, PATIENCE, Server, holds_within, send_signal},
    terminal::{Stdout, Terminal},
};

/// `top` at this gateway.
fn at(gateway: &Gateway) -> Launch {
    at_address(&gateway.address().to_string())
}

fn at_address(address: &str) -> Launch {
    Launch::new(Server::FromSettings).set("LISTEN", address).arguments(&["top"])
}

fn watch(launch: Launch, size: (u16, u16)) -> Terminal {
    Terminal::run(launch, size, Stdout::Terminal)
}

/// Ends it with `q`, which is no failure, and looks at what is left.
#[track_caller]
fn quit(terminal: Terminal) -> Terminal {
    terminal.press("q");
    let (status, _, terminal) = terminal.end();
    assert_eq!(status.code(), Some(0), "{}", terminal.text());
    terminal.wait_until("nothing of it on the screen", |screen| screen.trim().is_empty());
    terminal
}

#[test]
fn workers_and_calls_are_shown_as_they_are_and_the_terminal_is_left_as_it_was() {
    let gateway = Gateway::start(&[], Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    gateway.call("error", r#"{"text":"no"}"#).expect_status(422);
    let terminal = watch(at(&gateway), (24, 80));
    terminal.wait_for(" q quit");
    for text in
        ["healthy  up ", " calls/s", "helper-1 ", "helper-2 ", "2 of 8 workers", "LAST CALLS", "echo ", "tool_error"]
    {
        terminal.wait_for(text);
    }
    assert!(terminal.is_raw() && terminal.is_alternate() && terminal.hides_cursor());
    let lines = terminal.lines();
    assert_eq!(lines.len(), 24, "{}", terminal.text());
    assert!(lines[0].starts_with(&format!(" mcpgate  http://{}", gateway.address())), "{}", lines[0]);
    assert!(lines[23].starts_with(" q quit"), "{}", lines[23]);

    let mut caller = gateway.connect();
    caller
        .send("POST", "/tools/delay", &[("X-API-Key", crate::support::KEY)], br#"{"arguments":{"ms":60000}}"#)
        .unwrap();
    terminal.wait_until("a busy worker", |screen| screen.contains(" busy ") && screen.contains("active 1"));
    drop(caller);
    terminal.wait_for("cancelled");
    quit(terminal);
}

#[test]
fn it_fits_any_window_and_follows_its_size() {
    let gateway = Gateway::start(&[], Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    let terminal = watch(at(&gateway), (50, 200));
    terminal.wait_for("LAST CALLS");
    assert_eq!(terminal.lines().len(), 50);
    for (rows, columns) in [(10, 40), (4, 12), (24, 80), (2, 1), (1, 1), (60, 250), (24, 80)] {
        terminal.resize(rows, columns);
        let footer = &" q quit   p pause"[..usize::from(columns).min(17)];
        terminal.wait_until(&format!("{rows}x{columns}"), |screen| {
            let last = screen.lines().nth(usize::from(rows) - 1).unwrap_or_default();
            rows == 1 || columns == 1 || last.starts_with(footer.trim_end())
        });
    }
    terminal.wait_for("helper-1 ");
    quit(terminal);
}

#[test]
fn keys_sort_turn_round_and_pause() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "3")], Helper::new());
    let terminal = watch(at(&gateway), (24, 80));
    terminal.wait_for("WORKERv");
    let first_worker = |screen: &str| screen.lines().find_map(|line| line.strip_prefix(" helper-")?.chars().next());
    terminal.wait_until("the first worker first", |screen| first_worker(screen) == Some('1'));
    terminal.press("r");
    terminal
        .wait_until("the last worker first", |screen| first_worker(screen) == Some('3') && screen.contains("WORKER^"));
    terminal.press("r\x1b[C\x1b[C");
    terminal.wait_for("ACTIVEv");
    terminal.press("\x1b[D");
    terminal.wait_for("STATEv");
    terminal.press("p");
    terminal.wait_for("PAUSED");
    gateway.call("echo", "{}").expect_status(200);
    assert!(!terminal.text().contains("echo "), "{}", terminal.text());
    terminal.press("p");
    terminal.wait_for("echo ");
    quit(terminal);
}

#[test]
fn a_gateway_that_goes_is_told_and_one_that_comes_back_is_shown() {
    let mut gateway = Gateway::start(&[], Helper::new());
    let address = gateway.address().to_string();
    let terminal = watch(at(&gateway), (24, 100));
    terminal.wait_for("helper-2 ");
    assert!(gateway.stop().success());
    terminal.wait_for("GONE, these are the last figures");
    terminal.wait_for("no gateway answers at");
    terminal.wait_for("helper-2 ");
    let again = Launch::new(Helper::new()).set("LISTEN", &address).set("MIN_WORKERS", "3").start();
    terminal.wait_until("the new one", |screen| !screen.contains("GONE") && screen.contains("helper-3 "));
    drop(again);
    quit(terminal);
}

#[test]
fn a_wrong_key_and_nobody_there_are_said_so() {
    let gateway = Gateway::start(&[], Helper::new());
    let terminal = watch(at(&gateway).set("API_KEY", "wrong"), (24, 100));
    terminal.wait_for("NOT THERE");
    terminal.wait_for("(unauthorized)");
    quit(terminal);
    let terminal = watch(at_address("127.0.0.1:1"), (24, 100));
    terminal.wait_for("no gateway answers at `127.0.0.1:1`");
    quit(terminal);
}

#[test]
fn signals_end_it_and_leave_the_terminal_as_it_was() {
    let gateway = Gateway::start(&[], Helper::new());
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let terminal = watch(at(&gateway), (24, 80));
        terminal.wait_for("helper-1 ");
        send_signal(terminal.pid(), signal);
        assert_eq!(terminal.end().0.code(), Some(130), "{signal:?}");
    }
    let terminal = watch(at(&gateway), (24, 80));
    terminal.wait_for("helper-1 ");
    terminal.press("\x03");
    assert_eq!(terminal.end().0.code(), Some(0), "Ctrl-C is a key there");
}

#[test]
fn a_stop_from_outside_is_survived() {
    let gateway = Gateway::start(&[], Helper::new());
    let terminal = watch(at(&gateway), (24, 80));
    terminal.wait_for("helper-1 ");
    // For a moment the terminal is everybody's, and would show keys.
    let wait_until_taken_again = |n_times: usize| {
        terminal.wait_until("the terminal is its own again", |_| {
            let all = terminal.everything();
            let is_taken = all.rfind("\x1b[?1049l") < all.rfind("\x1b[?1049h") && terminal.is_raw();
            all.matches("\x1b[?1049l").count() == n_times && is_taken
        });
    };
    send_signal(terminal.pid(), Signal::STOP);
    send_signal(terminal.pid(), Signal::CONT);
    wait_until_taken_again(1);
    terminal.press("p");
    terminal.wait_for("PAUSED");
    // Nobody could wake up a job without a shell, so the system does not stop it.
    terminal.press("\x1a");
    wait_until_taken_again(2);
    terminal.press("p");
    terminal.wait_until("it goes on", |screen| screen.contains("helper-1 ") && !screen.contains("PAUSED"));
    assert!(terminal.is_raw() && terminal.is_alternate());
    quit(terminal);
}

#[track_caller]
fn check_plain(ended: &Ended) {
    assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""), "{ended:?}");
    assert!(!ended.stdout.contains(['\x1b', '\r']), "{}", ended.stdout);
    for text in [" mcpgate  http://", "helper-1 ", "LAST CALLS", "echo "] {
        assert!(ended.stdout.contains(text), "{text}\n{}", ended.stdout);
    }
}

#[test]
fn a_pipe_gets_one_plain_look() {
    let gateway = Gateway::start(&[], Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    check_plain(&at(&gateway).run());
    let url = format!("http://{}", gateway.address());
    check_plain(&Launch::new(Server::FromSettings).arguments(&["top", &url, "--once"]).run());
    at(&gateway).set("API_KEY", "wrong").run().expect(1, &["(unauthorized)", "hint: send the key"]);
    at_address("127.0.0.1:1").run().expect(1, &["no gateway answers at `127.0.0.1:1`"]);

    let (status, _, terminal) = watch(at(&gateway).arguments(&["--once"]), (60, 130)).end();
    assert!(status.success());
    terminal.wait_for("LAST CALLS");
    assert!(!terminal.everything().contains('\x1b'));
}

#[test]
fn no_colour_is_drawn_where_none_is_wanted() {
    let gateway = Gateway::start(&[], Helper::new());
    let colours = |launch: Launch| {
        let terminal = watch(launch, (24, 80));
        terminal.wait_for("helper-1 ");
        let terminal = quit(terminal);
        assert!(holds_within(PATIENCE, || terminal.everything().contains("\x1b[?1049l")));
        ["31", "32", "33"]
            .iter()
            .map(|colour| terminal.everything().matches(&format!("\x1b[{colour}m")).count())
            .sum::<usize>()
    };
    assert!(0 < colours(at(&gateway)));
    assert_eq!(colours(at(&gateway).set("NO_COLOR", "1")), 0);
}
