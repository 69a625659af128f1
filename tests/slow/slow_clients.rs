//! Five hundred clients that are as slow as they can be, and a normal one beside them that does not notice.
//!
//! `slowhttptest` (Debian) plays the slow ones, in each of its modes: heads that come a byte a second, bodies that do, ranges
//! without end, answers that are taken a few bytes at a time. The limits of time are all as long as the test, so that the
//! slow clients stay for the whole of it.
//!
//! What is held against the gateway:
//!
//! - Every call of the normal client is answered with 200. In the long form (30 s or more) its p99 stays within three times
//!   that of a quiet gateway; a short one is too short to hold that against a busy machine, and prints it.
//! - Memory stays within [`PSS_KB_EACH`] for each slow client.
//! - All are cut off when their time is up, and then no descriptor and no thread is left.

use std::{
    io,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Call, Client},
    figures::{Figures, log_end},
    numbers::{Turn, slow_seconds},
    support::{Gateway, Helper, KEY, command, holds_within},
};

const SLOW_CLIENTS: u64 = 500;

/// A thread and a connection, and the one answer that is being written.
const PSS_KB_EACH: usize = 128;

/// A client is cut off this long after its time was up at most.
const TOLERANCE: Duration = Duration::from_secs(10);

/// From here on the p99 counts.
const LONG: Duration = Duration::from_secs(30);

/// A mode of `slowhttptest`.
struct Mode {
    name: &'static str,
    /// Its options, URL aside.
    options: &'static str,
    path: String,
    /// Whether the clients stay until they are cut off: one range more or less makes no answer slow.
    stays: bool,
}

fn modes() -> [Mode; 4] {
    let with_key = |path: &str| format!("{path}api_key={KEY}");
    [
        Mode { name: "slow heads", options: "-H -x 1", path: "/health".to_owned(), stays: true },
        Mode { name: "slow bodies", options: "-B -x 1 -s 8192", path: with_key("/tools/echo?"), stays: true },
        Mode { name: "ranges", options: "-R -a 1 -b 3000", path: with_key("/tools?"), stays: false },
        Mode {
            name: "slow readers",
            // So many answers, one behind the other, that the buffers of the system do not hold them.
            options: "-X -w 10 -y 20 -n 1 -z 5 -k 10",
            path: with_key("/tools?"),
            stays: true,
        },
    ]
}

#[test]
fn five_hundred_slow_clients_do_not_slow_down_the_others() {
    let Some(_turn) = Turn::of("slow_clients") else { return };
    let is_there = command("slowhttptest").arg("-h").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        println!("skipped: `slowhttptest` is missing (Debian has it)");
        return;
    }
    let time = Duration::from_secs(slow_seconds());
    println!(
        "{:>14} {:>7} {:>9} {:>11} {:>11} {:>7} {:>28} {:>12}",
        "tried", "at once", "calls", "p99 quiet", "p99 beside", "ratio", "PSS kB before/during/after", "gone after"
    );
    for mode in modes() {
        attack(&mode, time);
    }
}

fn attack(mode: &Mode, time: Duration) {
    let seconds = time.as_secs().to_string();
    let limits = ["HEAD_TIMEOUT", "BODY_TIMEOUT", "WRITE_TIMEOUT", "KEEP_ALIVE_TIMEOUT"];
    let settings: Vec<(&str, &str)> = limits.iter().map(|limit| (*limit, &*seconds)).collect();
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    let before = Figures::when_idle(&gateway);
    let quiet = calls_for(&gateway, (time / 4).clamp(Duration::from_secs(1), Duration::from_secs(10)));

    let mut slow = Slow::start(&gateway, mode, time);
    let n_accepted = || gateway.stats()["connections"]["accepted"].as_u64().unwrap_or(0);
    let n_before = n_accepted();
    let connecting_since = Instant::now();
    let mut at_once = 0;
    // On a busy machine the first are cut off before the last have come.
    holds_within(time / 2, || {
        at_once = at_once.max(n_open(&gateway));
        let have_been = !mode.stays && n_before + SLOW_CLIENTS <= n_accepted();
        SLOW_CLIENTS <= at_once || have_been || slow.is_over()
    });
    let busy_for = time.saturating_sub(connecting_since.elapsed()).max(Duration::from_secs(1));
    let busy = calls_for(&gateway, busy_for);
    let during = Figures::of(&gateway);
    let is_cut_off = holds_within(time + TOLERANCE, || n_open(&gateway) == 0);
    let gone_after = connecting_since.elapsed();
    slow.stop();
    let holds_no_more = holds_within(TOLERANCE, || Figures::of(&gateway).holds_no_more_than(&before));
    let after = Figures::when_idle(&gateway);

    let ratio = busy.p99.as_secs_f64() / quiet.p99.as_secs_f64();
    println!(
        "{:>14} {at_once:>7} {:>9} {:>8.2} ms {:>8.2} ms {ratio:>7.2} {:>28} {:>10.1} s",
        mode.name,
        busy.n,
        quiet.p99.as_secs_f64() * 1000.0,
        busy.p99.as_secs_f64() * 1000.0,
        format!("{}/{}/{}", before.pss_kb, during.pss_kb, after.pss_kb),
        gone_after.as_secs_f64(),
    );
    let log = || log_end(&gateway);
    let are_there = time < LONG || !mode.stays || SLOW_CLIENTS <= at_once;
    assert!(are_there, "{}: only {at_once} clients came\n{}", mode.name, log());
    assert!(is_cut_off, "{}: {} clients are still there\n{}", mode.name, n_open(&gateway), log());
    assert!(holds_no_more, "{}: before {before:?}, after {after:?}\n{}", mode.name, log());
    let bound_kb = before.pss_kb + SLOW_CLIENTS as usize * PSS_KB_EACH;
    assert!(during.pss_kb <= bound_kb, "{}: {} kB, more than {bound_kb} kB\n{}", mode.name, during.pss_kb, log());
    assert!(time < LONG || ratio <= 3.0, "{}: the p99 is {ratio:.2} times the quiet one\n{}", mode.name, log());
}

/// Connections without the one that asks.
fn n_open(gateway: &Gateway) -> u64 {
    gateway.stats()["connections"]["open"].as_u64().unwrap_or(0).saturating_sub(1)
}

/// What the normal client saw.
struct Seen {
    n: usize,
    p99: Duration,
}

/// One call after the other, on one connection, for so long.
fn calls_for(gateway: &Gateway, time: Duration) -> Seen {
    let mut client = Client::new(gateway.address());
    let mut times = Vec::new();
    let started_at = Instant::now();
    while started_at.elapsed() < time {
        let id = times.len().to_string();
        let body = format!(r#"{{"arguments":{{"value":"{id}"}}}}"#);
        let called_at = Instant::now();
        let got = client.call(&Call { path: "echo", id: &id, body: &body, session: None });
        let got = got.unwrap_or_else(|cause| panic!("call {id}: {cause}\n{}", log_end(gateway)));
        times.push(called_at.elapsed());
        assert_eq!(got.status, 200, "call {id}: {}", got.text());
        // A normal client, not one that takes all there is.
        thread::sleep(Duration::from_millis(1));
    }
    times.sort_unstable();
    Seen { n: times.len(), p99: times[times.len() * 99 / 100] }
}

/// A running `slowhttptest`, ended when dropped.
struct Slow(Child);

impl Slow {
    fn start(gateway: &Gateway, mode: &Mode, time: Duration) -> Slow {
        let url = format!("http://{}{}", gateway.address(), mode.path);
        let mut command = command("slowhttptest");
        command.args(["-c", &SLOW_CLIENTS.to_string(), "-r", &SLOW_CLIENTS.to_string(), "-i", "1", "-p", "60"]);
        // It is to stay until it is cut off.
        command.args(["-l", &(time + 2 * TOLERANCE).as_secs().to_string(), "-v", "0", "-u", &url]);
        command.args(mode.options.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Slow(command.spawn().expect("slowhttptest starts"))
    }

    fn is_over(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }

    fn stop(&mut self) {
        // Fails when it has ended by itself.
        let _: io::Result<()> = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop();
    }
}
