//! A great many calls, all that can happen to a call mixed in, and the gateway holds no more at the end than before.
//!
//! Workers are recycled, crash, and are given up on; clients leave in mid-call; plain calls and streams share
//! connections. Along the way memory (PSS), descriptors, threads and processes are looked at and printed as a table.
//!
//! What is held against the gateway:
//!
//! - Each call gets one answer, its own, and the one its kind is due; only a crash of its worker (exit code
//!   [`CRASH_CODE`]) may come between. Recycling fails nobody.
//! - A worker is recycled soon after its `WORKER_CALLS_MAX` calls.
//! - After warm-up (the first fifth) memory stays flat: the median of the last fifth is at most 1.1 times that of the
//!   second.
//! - Idle again, there are no more descriptors, threads and processes than before, and no zombie.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::{Call, Client, Got},
    figures::{Figures, log_end, print_head, print_row},
    numbers::{Turn, soak_calls},
    random::Random,
    support::{Gateway, Helper, PATIENCE, holds_within},
};

const CLIENTS: u64 = 16;

/// Tells the crashes that are part of the mix from any other end of a worker.
const CRASH_CODE: i64 = 9;

/// As in the settings.
const WORKER_CALLS_MAX: u64 = 2000;

/// How many looks are taken along the way, of which every fifth is printed.
const LOOKS: u64 = 100;

#[test]
fn a_long_run_of_all_that_can_happen_leaves_nothing_behind() {
    let Some(turn) = Turn::of("soak") else { return };
    let settings = [
        ("MIN_WORKERS", "2"),
        ("MAX_WORKERS", "4"),
        ("WORKER_CALLS_MAX", "2000"),
        ("SCALE_DOWN_AFTER", "1"),
        ("STOP_GRACE", "1"),
    ];
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    let before = Figures::when_idle(&gateway);

    let run =
        Run { gateway: &gateway, calls: soak_calls(), begun: AtomicU64::new(0), is_broken: AtomicBool::new(false) };
    let (tally, looks, elapsed) = run.go(turn.seed, &before);
    let leaves_no_more = holds_within(PATIENCE, || Figures::of(&gateway).holds_no_more_than(&before));
    let after = Figures::when_idle(&gateway);
    print_row("idle again", None, &after);
    tally.print(elapsed);

    let log = || log_end(&gateway);
    assert!(tally.broken.is_empty(), "calls without their due answer: {:#?}\n{}", tally.broken, log());
    assert!(leaves_no_more, "before: {before:?}\nidle again: {after:?}\n{}", log());
    assert_eq!(after.zombies, 0, "{}", log());
    let (early_kb, late_kb) = (median_kb(&looks, 1), median_kb(&looks, 4));
    println!("median PSS of the second fifth {early_kb} kB, of the last {late_kb} kB");
    assert!(late_kb * 10 <= early_kb * 11, "memory grew from {early_kb} kB to {late_kb} kB\n{}", log());
}

/// The median PSS of a fifth of the looks.
fn median_kb(looks: &[Figures], fifth: usize) -> usize {
    let size = looks.len() / 5;
    let mut sizes: Vec<usize> = looks[fifth * size..(fifth + 1) * size].iter().map(|look| look.pss_kb).collect();
    sizes.sort_unstable();
    sizes[sizes.len() / 2]
}

// --- the run ----------------------------------------------------------------------------------------------------

struct Run<'a> {
    gateway: &'a Gateway,
    calls: u64,
    begun: AtomicU64,
    is_broken: AtomicBool,
}

impl Run<'_> {
    /// Makes all calls, and looks at the gateway meanwhile.
    fn go(&self, seed: u64, before: &Figures) -> (Tally, Vec<Figures>, Duration) {
        let started_at = Instant::now();
        print_head("calls");
        print_row("idle", None, before);
        thread::scope(|scope| {
            let callers: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || self.call(number, seed))).collect();
            let mut looks: Vec<Figures> = Vec::new();
            let (mut printed_calls, mut printed_at) = (0, started_at);
            // When all callers gave up before the last call, there is nothing more to see.
            let has_given_up =
                || callers.iter().all(|it| it.is_finished()) && self.begun.load(Ordering::Relaxed) < self.calls;
            while (looks.len() as u64) < LOOKS && !has_given_up() {
                let due = self.calls * (looks.len() as u64 + 1) / LOOKS;
                let begun = self.begun.load(Ordering::Relaxed).min(self.calls);
                if begun < due {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let figures = Figures::of(self.gateway);
                if looks.len() % 5 == 4 {
                    let per_second = (begun - printed_calls) as f64 / printed_at.elapsed().as_secs_f64();
                    print_row(&begun.to_string(), Some(per_second), &figures);
                    (printed_calls, printed_at) = (begun, Instant::now());
                }
                looks.push(figures);
            }
            let tallies = callers.into_iter().map(|caller| caller.join().unwrap());
            let tally = tallies.fold(Tally::default(), Tally::plus);
            (tally, looks, started_at.elapsed())
        })
    }

    fn call(&self, client_number: u64, seed: u64) -> Tally {
        let mut random = Random::new(seed, client_number);
        let mut client = Client::new(self.gateway.address());
        let mut tally = Tally::default();
        while !self.is_broken.load(Ordering::Relaxed) {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if self.calls <= number {
                break;
            }
            let kind = Kind::choose(&mut random);
            let count = tally.counts.entry(kind).or_default();
            count.calls += 1;
            match kind.run(&mut client, &number.to_string(), &mut random) {
                Ok(End::Due) => {}
                Ok(End::Crashed) => count.crashed += 1,
                Err(cause) => {
                    tally.broken.push(format!("call {number}, {kind:?}: {cause}"));
                    self.is_broken.store(true, Ordering::Relaxed);
                }
            }
        }
        tally
    }
}

#[derive(Default)]
struct Tally {
    counts: BTreeMap<Kind, Count>,
    broken: Vec<String>,
}

#[derive(Default)]
struct Count {
    calls: u64,
    /// Those whose worker crashed under them.
    crashed: u64,
}

impl Tally {
    fn plus(mut self, other: Tally) -> Tally {
        for (kind, count) in other.counts {
            let sum = self.counts.entry(kind).or_default();
            sum.calls += count.calls;
            sum.crashed += count.crashed;
        }
        self.broken.extend(other.broken);
        self
    }

    fn print(&self, elapsed: Duration) {
        let calls: u64 = self.counts.values().map(|count| count.calls).sum();
        println!("{calls} calls by {CLIENTS} clients in {:.1} s:", elapsed.as_secs_f64());
        for (kind, Count { calls, crashed }) in &self.counts {
            println!("{calls:>16} {kind:?}, of which {crashed} by a crash of their worker");
        }
    }
}

// --- the mix ----------------------------------------------------------------------------------------------------

/// What a call does, and so what it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Echo,
    Lookup,
    Stream,
    Chunks,
    ToolError,
    Counts,
    Timeout,
    LateAnswer,
    LeftCall,
    LeftStream,
    Crash,
}

/// How a call ended, when nothing is wrong with that.
enum End {
    Due,
    Crashed,
}

impl Kind {
    /// In two thousand calls, so many of each; the rest are plain.
    fn choose(random: &mut Random) -> Kind {
        match random.below(2000) {
            0 => Kind::Crash,
            1..=4 => Kind::Timeout,
            5..=8 => Kind::LateAnswer,
            9..=28 => Kind::LeftCall,
            29..=38 => Kind::LeftStream,
            39..=48 => Kind::Counts,
            49..=68 => Kind::ToolError,
            69..=88 => Kind::Chunks,
            89..=128 => Kind::Stream,
            it if it % 2 == 0 => Kind::Lookup,
            _ => Kind::Echo,
        }
    }

    fn run(self, client: &mut Client, id: &str, random: &mut Random) -> io::Result<End> {
        let n_steps = 1 + random.below(5);
        let (path, body) = match self {
            Kind::Echo => ("echo", format!(r#"{{"arguments":{{"value":"{id}"}}}}"#)),
            Kind::Lookup => ("lookup", format!(r#"{{"arguments":{{"value":"{id}"}}}}"#)),
            Kind::Stream => ("stream/stream", format!(r#"{{"arguments":{{"n":{n_steps}}}}}"#)),
            Kind::Chunks => ("chunks/stream", format!(r#"{{"arguments":{{"n":{n_steps}}}}}"#)),
            Kind::ToolError => ("error", format!(r#"{{"arguments":{{"text":"sorry {id}"}}}}"#)),
            Kind::Counts => ("counts", r#"{"arguments":{}}"#.to_owned()),
            Kind::Timeout => ("silent", r#"{"arguments":{},"timeout":0.02}"#.to_owned()),
            Kind::LateAnswer => ("delay", r#"{"arguments":{"ms":40,"late":true},"timeout":0.01}"#.to_owned()),
            Kind::LeftCall => ("delay", r#"{"arguments":{"ms":60000}}"#.to_owned()),
            Kind::LeftStream => ("stream/stream", r#"{"arguments":{"n":100000,"ms":5,"bytes":100}}"#.to_owned()),
            Kind::Crash => ("crash", format!(r#"{{"arguments":{{"code":{CRASH_CODE}}}}}"#)),
        };
        let call = Call { path, id, body: &body, session: None };
        let with_reset = random.below(2) == 0;
        match self {
            // Also before it has reached its worker.
            Kind::LeftCall => {
                client.abandon(&call, Duration::from_micros(random.below(3000)), with_reset).map(|()| End::Due)
            }
            Kind::LeftStream => client.abandon_stream(&call, with_reset).map(|()| End::Due),
            _ => self.judge(&client.call(&call)?, id, n_steps),
        }
    }

    fn judge(self, got: &Got, id: &str, n_steps: u64) -> io::Result<End> {
        let is_due = match self {
            Kind::Echo | Kind::Lookup => got.status == 200 && got.has(&format!(r#""value":"{id}""#)),
            Kind::Stream => is_stream(got, "progress", n_steps),
            Kind::Chunks => is_stream(got, "chunk", n_steps),
            Kind::ToolError => got.status == 422 && got.has(&format!("sorry {id}\"")),
            Kind::Counts => got.status == 200 && is_recycled_in_time(got),
            Kind::Timeout | Kind::LateAnswer => is_given_up(got),
            Kind::Crash => false,
            Kind::LeftCall | Kind::LeftStream => true,
        };
        // A stream has begun with 200 and says it in an event.
        let may_crash = got.status == 502 || matches!(self, Kind::Stream | Kind::Chunks);
        let has_crashed = may_crash && got.has("worker_crashed") && got.has(&format!("exited with code {CRASH_CODE}"));
        match (is_due, has_crashed) {
            (true, _) => Ok(End::Due),
            (false, true) => Ok(End::Crashed),
            (false, false) => Err(io::Error::other(format!("got {} {}", got.status, got.text()))),
        }
    }
}

/// The stream ended well after so many of these events. Progress may have been merged.
fn is_stream(got: &Got, event: &str, n_steps: u64) -> bool {
    let text = got.text();
    let n_events = text.matches(&format!("event: {event}\n")).count() as u64;
    let has_all = if event == "progress" { 1 <= n_events && n_events <= n_steps } else { n_events == n_steps };
    got.status == 200 && has_all && text.contains("event: result\n") && text.ends_with("{\"status\":\"complete\"}\n\n")
}

/// Its time ran out: at its worker, or while it waited for one, as when all of them have just crashed.
fn is_given_up(got: &Got) -> bool {
    let is_at_worker = got.status == 504 && got.has(r#""code":"timeout""#);
    let is_in_queue = got.status == 503 && got.has(r#""code":"overloaded""#);
    is_at_worker || is_in_queue
}

/// The worker that answered has not had many more calls than it should. Until its successor is ready, it goes on.
fn is_recycled_in_time(got: &Got) -> bool {
    let body: Value = serde_json::from_slice(got.body).unwrap_or_default();
    body["data"]["calls"].as_u64().is_some_and(|calls| calls <= WORKER_CALLS_MAX * 3 / 2)
}
