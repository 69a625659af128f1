//! A storm: clients call without pause while a worker is killed, stopped or made to exit every half second.
//!
//! What is held against the gateway:
//!
//! - Every call gets one answer and its own: an id in the head, a value in the body, and nothing behind it.
//! - In the first third of the storm workers are only killed (SIGKILL), and no read-only call may fail at all. Later a
//!   read-only call may meet two faults (it was at a stopped worker, and the one it was sent to next died as well), so
//!   it may fail; naming SIGKILL only when a worker had just been stopped.
//! - What fails is a 502 `worker_crashed` or a 504 `timeout`.
//! - Stopped workers are found, and once the last victim is found, the pool is whole again within [`RECOVERY`].
//! - No zombie and no stray process is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    client::{Call, Client, Got},
    figures::{Figures, log_end, print_head, print_row},
    numbers::{Turn, chaos_seconds},
    random::Random,
    support::{Gateway, Helper, PATIENCE, Process, holds_within, send_signal},
};

const CLIENTS: u64 = 32;
const MIN_WORKERS: u64 = 4;
const PERIOD: Duration = Duration::from_millis(500);

/// From the moment the last victim is found to full strength.
const RECOVERY: Duration = Duration::from_secs(2);

/// A stopped worker is found after HEALTH_INTERVAL and HEALTH_TIMEOUT; this leaves room for a busy machine.
const FOUND_WITHIN: Duration = Duration::from_secs(3);

#[test]
fn a_storm_of_faults_costs_each_call_at_most_a_typed_error() {
    let Some(turn) = Turn::of("chaos") else { return };
    let settings = [
        ("MIN_WORKERS", "4"),
        ("MAX_WORKERS", "8"),
        ("HEALTH_INTERVAL", "0.2"),
        ("HEALTH_TIMEOUT", "0.3"),
        ("STOP_GRACE", "0.2"),
        ("MCP_REQUEST_TIMEOUT", "5"),
    ];
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.wait_until("full strength before the storm", || is_whole(&gateway));

    let storm = Storm { gateway: &gateway, faults: Mutex::default(), is_over: AtomicBool::new(false) };
    let (seconds, seed) = (chaos_seconds(), turn.seed);
    let (tallies, recovered_after) = thread::scope(|scope| {
        let storm = &storm;
        let callers: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || storm.call_without_pause(number, seed))).collect();
        storm.rage(Duration::from_secs(seconds), Random::new(seed, CLIENTS), scope);
        // They still call: full strength is wanted under load.
        let recovered_after = storm.full_strength_after();
        storm.is_over.store(true, Ordering::Relaxed);
        let tallies: Vec<Tally> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        (tallies, recovered_after)
    });
    let faults = storm.faults.into_inner().unwrap();
    let tally = tallies.into_iter().fold(Tally::default(), Tally::plus);
    print(&gateway, seconds, &faults, &tally, recovered_after);

    let log = || log_end(&gateway);
    assert!(tally.broken.is_empty(), "calls without a proper answer of their own: {:#?}\n{}", tally.broken, log());
    let untyped: Vec<&Failure> = tally.failures.iter().filter(|it| !it.is_typed()).collect();
    assert!(untyped.is_empty(), "failures that are neither 502 nor 504: {:#?}\n{}", first(&untyped), log());
    let by_kill: Vec<&Failure> = tally.failures.iter().filter(|it| it.is_read_only_by_kill(&faults)).collect();
    assert!(by_kill.is_empty(), "read-only calls that failed by SIGKILL: {:#?}\n{}", first(&by_kill), log());
    let unfound: Vec<&Fault> = faults.iter().filter(|fault| fault.found_after.is_none()).collect();
    assert!(unfound.is_empty(), "victims that were not found within {FOUND_WITHIN:?}: {unfound:#?}\n{}", log());
    assert!(tally.starved.is_empty(), "clients with fewer than one call a second: {:?}\n{}", tally.starved, log());
    match recovered_after {
        None => panic!("the pool did not come back: {}\n{}", gateway.get("/health").text(), log()),
        Some(after) => assert!(after <= RECOVERY, "full strength took {after:?}\n{}", log()),
    }
    expect_nothing_stray(&gateway, &faults);
}

/// As many failures as a reader wants to see.
fn first<'a>(failures: &'a [&'a Failure]) -> &'a [&'a Failure] {
    &failures[..failures.len().min(5)]
}

/// Every minimum worker can take calls, and the gateway says that all is well.
fn is_whole(gateway: &Gateway) -> bool {
    let health = gateway.get("/health").json();
    let workers = |state: &str| health["workers"][state].as_u64().unwrap_or(0);
    let is_strong = MIN_WORKERS <= workers("ready") + workers("busy");
    health["status"] == "healthy" && is_strong && workers("unhealthy") == 0
}

/// No zombie, and below the gateway exactly the processes that `/stats` names.
#[track_caller]
fn expect_nothing_stray(gateway: &Gateway, faults: &[Fault]) {
    let is_clean = || {
        let named: BTreeSet<u32> = gateway.worker_pids().into_iter().collect();
        let figures = Figures::of(gateway);
        let has_survivor = faults.iter().filter_map(|fault| fault.victim.as_ref()).any(Process::is_alive);
        figures.zombies == 0 && !has_survivor && figures.processes.into_iter().collect::<BTreeSet<u32>>() == named
    };
    let is_clean_in_time = holds_within(RECOVERY, is_clean);
    let (named, processes) = (gateway.worker_pids(), gateway.processes());
    assert!(is_clean_in_time, "workers are {named:?}, and the processes are {processes:#?}\n{}", log_end(gateway));
}

// --- faults -----------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Kill,
    Stop,
    Terminate,
    Crash,
}

impl Kind {
    fn signal(self) -> Option<Signal> {
        match self {
            Kind::Kill => Some(Signal::KILL),
            Kind::Stop => Some(Signal::STOP),
            Kind::Terminate => Some(Signal::TERM),
            // The call `crash` makes it exit.
            Kind::Crash => None,
        }
    }
}

#[derive(Debug)]
struct Fault {
    kind: Kind,
    at: Instant,
    /// Whom it struck; `None` for a crash, whose worker the gateway chooses.
    victim: Option<Process>,
    /// How long it took until the victim was reaped; for a crash, until its call had failed.
    found_after: Option<Duration>,
}

struct Storm<'a> {
    gateway: &'a Gateway,
    faults: Mutex<Vec<Fault>>,
    is_over: AtomicBool,
}

impl Storm<'_> {
    /// Strikes every half second for so long; workers are only killed in the first third.
    fn rage<'scope>(&'scope self, length: Duration, mut random: Random, scope: &'scope thread::Scope<'scope, '_>) {
        let started_at = Instant::now();
        for number in 1.. {
            let at = PERIOD * number;
            if length < at {
                return;
            }
            thread::sleep((started_at + at).saturating_duration_since(Instant::now()));
            let is_early = at < length / 3;
            // Stopping and exiting, in its two forms, as often as killing.
            let mixed = [Kind::Kill, Kind::Kill, Kind::Stop, Kind::Stop, Kind::Terminate, Kind::Crash];
            let kind = if is_early { Kind::Kill } else { *random.pick(&mixed) };
            match self.choose(&mut random) {
                _ if kind == Kind::Crash => drop(scope.spawn(move || self.strike(kind, None))),
                Some(victim) => drop(scope.spawn(move || self.strike(kind, Some(victim)))),
                // All of them are stopped at this moment.
                None => {}
            }
        }
    }

    /// A worker of `/stats` that runs.
    fn choose(&self, random: &mut Random) -> Option<Process> {
        let named = self.gateway.worker_pids();
        // Also makes sure that it still is a process of this gateway.
        let mut processes = self.gateway.processes();
        processes.retain(|process| named.contains(&process.pid) && !['T', 'Z'].contains(&process.state));
        (!processes.is_empty()).then(|| random.pick(&processes).clone())
    }

    fn strike(&self, kind: Kind, victim: Option<Process>) {
        let at = Instant::now();
        // Noted before it works, so that whoever it hits finds it there.
        let number = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            faults.push(Fault { kind, at, victim: victim.clone(), found_after: None });
            faults.len() - 1
        };
        let is_found = match kind.signal().zip(victim) {
            Some((signal, victim)) => {
                send_signal(victim.pid, signal);
                let is_zombie = || Process::read(victim.pid).is_some_and(|now| now.state == 'Z');
                holds_within(FOUND_WITHIN, || !victim.is_alive() && !is_zombie())
            }
            None => {
                // It may wait at a stopped worker, and then ends with that one.
                let reply = self.gateway.call("crash", r#"{"code":9}"#);
                reply.status == 502 && at.elapsed() <= FOUND_WITHIN
            }
        };
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults[number].found_after = is_found.then(|| at.elapsed());
    }

    /// Waits until the last victim is found, and then until the pool is whole; gives how long the latter took.
    fn full_strength_after(&self) -> Option<Duration> {
        let is_found = || {
            let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            let named = self.gateway.worker_pids();
            let is_named = |victim: &Process| named.contains(&victim.pid) && !victim.is_alive();
            faults.iter().all(|fault| fault.found_after.is_some())
                && !faults.iter().filter_map(|fault| fault.victim.as_ref()).any(is_named)
        };
        if !holds_within(FOUND_WITHIN + Duration::from_secs(1), is_found) {
            return None;
        }
        let found_at = Instant::now();
        holds_within(PATIENCE, || is_whole(self.gateway)).then(|| found_at.elapsed())
    }
}

// --- calls ------------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Failure {
    tool: &'static str,
    sent_at: Instant,
    answered_at: Instant,
    status: u16,
    code: String,
    message: String,
}

impl Failure {
    fn is_typed(&self) -> bool {
        matches!((self.status, self.code.as_str()), (502, "worker_crashed") | (504, "timeout"))
    }

    /// A read-only call that failed by SIGKILL, and had no stopped worker to meet as well.
    fn is_read_only_by_kill(&self, faults: &[Fault]) -> bool {
        let may_have_met = |fault: &Fault| {
            let until = fault.at + fault.found_after.unwrap_or(FOUND_WITHIN);
            fault.kind == Kind::Stop && fault.at <= self.answered_at && self.sent_at <= until
        };
        let had_no_stop = !faults.iter().any(may_have_met);
        let is_in_kills_only = faults.iter().all(|fault| fault.kind == Kind::Kill || self.answered_at < fault.at);
        self.tool == "lookup" && had_no_stop && (is_in_kills_only || self.message.contains("signal 9"))
    }

    /// What it was, without names and numbers that differ from call to call.
    fn summary(&self) -> String {
        let (_, cause) = self.message.split_once(": ").unwrap_or(("", &self.message));
        format!("{} {} {}: {cause}", self.tool, self.status, self.code)
    }
}

#[derive(Default)]
struct Tally {
    calls: u64,
    failures: Vec<Failure>,
    /// Calls that did not get one answer of their own. Each ends its client.
    broken: Vec<String>,
    starved: Vec<u64>,
    longest: Duration,
}

impl Tally {
    fn plus(mut self, other: Tally) -> Tally {
        self.calls += other.calls;
        self.failures.extend(other.failures);
        self.broken.extend(other.broken);
        self.starved.extend(other.starved);
        self.longest = self.longest.max(other.longest);
        self
    }
}

impl Storm<'_> {
    /// Calls `lookup` and `write` in turn, a third of them with some milliseconds to do.
    fn call_without_pause(&self, client_number: u64, seed: u64) -> Tally {
        let mut random = Random::new(seed, client_number);
        let mut client = Client::new(self.gateway.address());
        let mut tally = Tally::default();
        let started_at = Instant::now();
        while !self.is_over.load(Ordering::Relaxed) {
            let tool = if (client_number + tally.calls).is_multiple_of(2) { "lookup" } else { "write" };
            let id = format!("c{client_number}-{}", tally.calls);
            let ms = if random.below(3) == 0 { 1 + random.below(50) } else { 0 };
            let arguments = if ms == 0 { String::new() } else { format!(r#","ms":{ms}"#) };
            let body = format!(r#"{{"arguments":{{"value":"{id}"{arguments}}}}}"#);
            let sent_at = Instant::now();
            tally.calls += 1;
            match client.call(&Call { path: tool, id: &id, body: &body, session: None }) {
                Ok(got) => tally.take(tool, &id, sent_at, &got),
                Err(cause) => tally.broken.push(format!("{tool} {id}: {cause}")),
            }
            tally.longest = tally.longest.max(sent_at.elapsed());
            if !tally.broken.is_empty() {
                return tally;
            }
        }
        if let Err(cause) = client.expect_silence(Duration::from_millis(50)) {
            tally.broken.push(format!("after the last call of client {client_number}: {cause}"));
        }
        if tally.calls < started_at.elapsed().as_secs() {
            tally.starved.push(client_number);
        }
        tally
    }
}

impl Tally {
    fn take(&mut self, tool: &'static str, id: &str, sent_at: Instant, got: &Got) {
        let body: Value = serde_json::from_slice(got.body).unwrap_or_default();
        if got.status == 200 {
            let is_ours = body["status"] == "success" && body["data"]["value"] == id;
            if !is_ours {
                self.broken.push(format!("{tool} {id} got {}", got.text()));
            }
            return;
        }
        let text = |field: &str| body["error"][field].as_str().unwrap_or_default().to_owned();
        let (code, message) = (text("code"), text("message"));
        self.failures.push(Failure { tool, sent_at, answered_at: Instant::now(), status: got.status, code, message });
    }
}

// --- what there was ---------------------------------------------------------------------------------------------

fn print(gateway: &Gateway, seconds: u64, faults: &[Fault], tally: &Tally, recovered_after: Option<Duration>) {
    let Tally { calls, failures, longest, .. } = tally;
    println!("{calls} calls by {CLIENTS} clients in a storm of {seconds} s, the longest {} ms", longest.as_millis());
    for kind in [Kind::Kill, Kind::Stop, Kind::Terminate, Kind::Crash] {
        let of_kind: Vec<&Fault> = faults.iter().filter(|fault| fault.kind == kind).collect();
        let found: Vec<Duration> = of_kind.iter().filter_map(|fault| fault.found_after).collect();
        let (n_faults, n_found) = (of_kind.len(), found.len());
        let longest = found.iter().max().map_or("-".to_owned(), |it| it.as_millis().to_string());
        println!("{:>16} {n_faults:>4} times, {n_found} found, after {longest} ms at most", format!("{kind:?}"));
    }
    let mut summaries: BTreeMap<String, u64> = BTreeMap::new();
    failures.iter().for_each(|failure| *summaries.entry(failure.summary()).or_default() += 1);
    println!("{} calls failed:", failures.len());
    summaries.iter().for_each(|(summary, count)| println!("{count:>16} {summary}"));
    match recovered_after {
        Some(after) => println!("full strength {} ms after the last fault was found", after.as_millis()),
        None => println!("full strength was not reached"),
    }
    print_head("calls");
    print_row(&calls.to_string(), Some(*calls as f64 / seconds.max(1) as f64), &Figures::of(gateway));
}
