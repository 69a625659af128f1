//! `mcpgate top`: workers, queues and calls of a gateway that runs, live in the terminal; in a pipe, how they are now.
//!
//! Everything comes from `/stats` and `/stats/history`, once a second. A gateway that does not answer is said to be gone and asked again.
//!
//! | Thread | Takes from | Gives to | Ends when |
//! | --- | --- | --- | --- |
//! | `top-look` | the gateway, every second | main | nobody listens, or the process ends |
//! | `top-keys` | standard input | main | the process ends |
//! | `top-signals` | SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT | main | the process ends |
//!
//! **Limit.** An answer has 5 s and 64 MiB. **End.** A key, a signal, or a terminal that is gone; the terminal is then what it
//! was (`screen.rs`).

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _, Read as _, Write},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use serde::de::DeserializeOwned;
use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH},
    iterator::Signals,
};

use crate::{
    cli::{TopArgs, client::Client, terminal},
    config::Config,
    error::Error,
    logs, threads,
};

mod figures;
mod keys;
mod screen;
mod view;

use figures::{Look, Shown};
use keys::{Key, KeyReader};
use screen::Screen;
use view::{Page, View};

/// Time between two looks at the gateway.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Keys and signals that wait to be taken.
const EVENTS_MAX: usize = 64;

/// How many workers a page is, for those who scroll.
const PAGE_ROWS: usize = 10;

/// What is printed where nobody presses keys.
const SNAPSHOT_COLUMNS: usize = 120;
const SNAPSHOT_CALLS: usize = 20;

/// Somebody at the terminal, or somebody else, wants something.
enum Event {
    Key(Key),
    Signal(i32),
    /// There is nobody at the terminal any more.
    InputEnded,
}

/// What is on the screen.
struct State {
    view: View,
    shown: Option<Shown>,
    trouble: Option<String>,
    has_blocks: bool,
}

/// Shows the gateway until somebody wants no more; prints how it is now to `out` when that is no terminal, or it was asked for.
///
/// Fails with [`Error::Interrupted`] when a signal ended it. A gateway that does not answer is a failure only of the latter.
pub fn run(args: &TopArgs, env: impl Fn(&str) -> Option<OsString>, out: &mut dyn Write) -> Result<(), Error> {
    let has_blocks = speaks_unicode(&env);
    let (config, _) = Config::read(&args.config.flags(), env)?;
    let client = Client::new(&config, args.url.as_deref(), &args.trust)?;
    let is_live = !args.once && io::stdin().is_terminal() && io::stdout().is_terminal();
    if !is_live {
        return print_once(&client, has_blocks, out);
    }
    let url = client.url();
    let fail = |cause: io::Error| failed(format!("cannot start a thread: {cause}"));
    let (tell, looks) = bounded(1);
    let (tell_event, events) = bounded(EVENTS_MAX);
    listen(tell_event.clone()).map_err(fail)?;
    let screen = Screen::take(logs::wants_colour(true))?;
    threads::spawn_detached("top-keys", move || read_keys(&tell_event)).map_err(fail)?;
    threads::spawn_detached("top-look", move || look_on(&client, &tell)).map_err(fail)?;
    let mut state = State { view: View::default(), shown: None, trouble: None, has_blocks };
    state.show(&url, &screen, &looks, &events)
}

impl State {
    fn show(
        &mut self,
        url: &str,
        screen: &Screen,
        looks: &Receiver<Result<Look, Error>>,
        events: &Receiver<Event>,
    ) -> Result<(), Error> {
        loop {
            let size = terminal::size(io::stdout());
            let State { view, shown, trouble, has_blocks } = self;
            let page = Page { url, shown: shown.as_ref(), trouble: trouble.as_deref(), size, has_blocks: *has_blocks };
            screen.show(&view::lines(&page, view), size)?;
            select! {
                recv(looks) -> look => match look {
                    Ok(look) => self.take(look),
                    // It panicked, and has said why.
                    Err(_) => return Err(failed("nobody looks at the gateway any more".to_owned())),
                },
                recv(events) -> event => match event {
                    Ok(Event::Key(Key::Quit) | Event::InputEnded) => return Ok(()),
                    Ok(Event::Key(Key::Suspend)) => screen.suspend()?,
                    Ok(Event::Key(Key::Redraw) | Event::Signal(SIGCONT)) => screen.take_again()?,
                    Ok(Event::Key(key)) => self.obey(key),
                    // It is drawn in the new size.
                    Ok(Event::Signal(SIGWINCH)) => {}
                    Ok(Event::Signal(_)) | Err(_) => return Err(Error::Interrupted),
                },
            }
        }
    }

    fn take(&mut self, look: Result<Look, Error>) {
        match look {
            // That it is gone is said also to somebody who looks at old figures.
            Ok(look) => {
                self.trouble = None;
                if !self.view.is_paused {
                    let before = self.shown.take().map(|shown| shown.look);
                    self.shown = Some(Shown::new(look, before.as_ref()));
                }
            }
            Err(error) => {
                let hint = error.hint().map_or(String::new(), |hint| format!("; {hint}"));
                self.trouble = Some(format!("{error}{hint}; trying again every second"));
            }
        }
    }

    fn obey(&mut self, key: Key) {
        let view = &mut self.view;
        match key {
            Key::Pause => view.is_paused = !view.is_paused,
            Key::Reverse => view.is_reversed = !view.is_reversed,
            Key::Left | Key::Right => view.sort = view.sort.step(key == Key::Right),
            Key::Up => view.scroll = view.scroll.saturating_sub(1),
            Key::Down => view.scroll += 1,
            Key::PageUp => view.scroll = view.scroll.saturating_sub(PAGE_ROWS),
            Key::PageDown => view.scroll += PAGE_ROWS,
            Key::Quit | Key::Suspend | Key::Redraw => {}
        }
    }
}

fn print_once(client: &Client, has_blocks: bool, out: &mut dyn Write) -> Result<(), Error> {
    let shown = Shown::new(look(client)?, None);
    let size = terminal::Size { rows: usize::MAX, columns: SNAPSHOT_COLUMNS };
    let page = Page { url: &client.url(), shown: Some(&shown), trouble: None, size, has_blocks };
    let lines = view::snapshot(&page, SNAPSHOT_CALLS);
    let text: String = lines.iter().map(|line| format!("{}\n", line.plain())).collect();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|cause| failed(format!("cannot print: {cause}")))
}

/// Asks the gateway how it is.
fn look(client: &Client) -> Result<Look, Error> {
    Ok(Look { at: Instant::now(), stats: ask(client, "/stats")?, history: ask(client, "/stats/history")? })
}

fn ask<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let answer = client.ask(path, None, PATIENCE)?;
    let status = answer.status;
    let body = answer.whole(ANSWER_BYTES_MAX).map_err(|cause| client.failure(&cause))?;
    if status != 200 {
        return Err(client.refusal(&String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body).map_err(|_| client.foreign())
}

/// Looks at the gateway again and again, until nobody listens.
fn look_on(client: &Client, tell: &Sender<Result<Look, Error>>) {
    while tell.send(look(client)).is_ok() {
        thread::sleep(INTERVAL);
    }
}

fn read_keys(tell: &Sender<Event>) {
    let mut reader = KeyReader::default();
    let mut bytes = [0; 64];
    loop {
        match io::stdin().lock().read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => {
                for key in reader.feed(&bytes[..n]) {
                    if tell.send(Event::Key(key)).is_err() {
                        return;
                    }
                }
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Nobody listens when the command has ended by then.
    let _ = tell.send(Event::InputEnded);
}

fn listen(tell: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT])?;
    threads::spawn_detached("top-signals", move || {
        for signal in signals.forever() {
            if tell.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })
}

/// Whether the terminal shows more than ASCII, as far as the locale says.
fn speaks_unicode(env: impl Fn(&str) -> Option<OsString>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| env(name)).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

fn failed(what: String) -> Error {
    Error::Failed { what, hint: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_says_whether_there_is_more_than_ascii() {
        let speaks = |variables: &[(&str, &str)]| {
            let found =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            speaks_unicode(found)
        };
        assert!(speaks(&[("LANG", "de_DE.UTF-8")]) && speaks(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!speaks(&[]) && !speaks(&[("LANG", "C")]) && !speaks(&[("LC_ALL", "POSIX"), ("LANG", "C.UTF-8")]));
    }
}
