//! A day of traffic, played to the real [`Dispatch`] in virtual time.
//!
//! Only the server is made up: how long it takes to start, how long a call takes, and whether it does several at once.
//! `cargo test --lib simulation -- --nocapture` prints how many workers there were and how long calls waited.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    dispatch::{Admitted, Dispatch, Left, Placed},
    tend::{Order, Rules, Tended},
    testing,
};
use crate::{
    config::Concurrency,
    worker::{Call, End, Habits, Link},
};

/// What is made up.
#[derive(Clone, Copy)]
struct Server {
    start: Duration,
    /// Whether calls wait for each other inside of it.
    is_serial: bool,
}

/// A call that will come.
#[derive(Clone, Copy)]
struct Arrival {
    at: Duration,
    takes: Duration,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival(usize),
    Ready(usize),
    Stopped(usize),
    Done(usize, usize),
    Look,
}

struct Simulation {
    dispatch: Dispatch,
    server: Server,
    start: Instant,
    now: Duration,
    happenings: BinaryHeap<Reverse<(Duration, Happening)>>,
    look_at: Duration,
    arrivals: Vec<Arrival>,
    /// How long calls of each tool take: there is one for those below a second, one for the others.
    habits: [Arc<Habits>; 2],
    calls: HashMap<*const Call, usize>,
    /// Calls inside of each worker, the one it works on first when it is serial.
    inside: HashMap<usize, (Arc<Link>, VecDeque<Arc<Call>>)>,
    n_done: usize,
    waits: Vec<Duration>,
    starts: usize,
    workers_peak: usize,
    worker_seconds: f64,
    /// The number of workers at the end of each hour.
    by_hour: Vec<usize>,
}

impl Simulation {
    fn run(rules: Rules, server: Server, arrivals: Vec<Arrival>, until: Duration) -> Simulation {
        let start = Instant::now();
        let name: Arc<str> = "s".into();
        let names = Arc::new(super::names::Names::new(Arc::clone(&name)));
        let mut simulation = Simulation {
            dispatch: Dispatch::new(name, rules, names, Arc::default(), None, start),
            server,
            start,
            now: Duration::ZERO,
            happenings: BinaryHeap::new(),
            look_at: Duration::ZERO,
            calls: HashMap::new(),
            inside: HashMap::new(),
            n_done: 0,
            waits: Vec::new(),
            starts: 0,
            workers_peak: 0,
            worker_seconds: 0.0,
            by_hour: Vec::new(),
            habits: [Arc::default(), Arc::default()],
            arrivals,
        };
        for (index, arrival) in simulation.arrivals.iter().enumerate() {
            simulation.happenings.push(Reverse((arrival.at, Happening::Arrival(index))));
        }
        simulation.happenings.push(Reverse((Duration::ZERO, Happening::Look)));
        while let Some(Reverse((at, happening))) = simulation.happenings.pop()
            && at <= until
        {
            simulation.pass_to(at);
            simulation.happen(happening);
        }
        simulation.pass_to(until);
        simulation
    }

    fn clock(&self) -> Instant {
        self.start + self.now
    }

    fn pass_to(&mut self, at: Duration) {
        let n_workers = self.dispatch.counts().total;
        self.worker_seconds += (at - self.now).as_secs_f64() * n_workers as f64;
        while (self.by_hour.len() as u64 + 1) * 3600 <= at.as_secs() {
            self.by_hour.push(n_workers);
        }
        self.workers_peak = self.workers_peak.max(n_workers);
        self.now = at;
    }

    fn happen(&mut self, happening: Happening) {
        let clock = self.clock();
        match happening {
            Happening::Arrival(index) => {
                let tool = usize::from(ms(1000) <= self.arrivals[index].takes);
                let call = testing::call_of_tool(&self.habits[tool]);
                self.calls.insert(Arc::as_ptr(&call), index);
                match self.dispatch.admit(&call, clock).expect("there is room") {
                    Admitted::Placed(placed) => self.send(placed),
                    Admitted::Waits => {}
                    Admitted::InsteadOf(..) => panic!("the queue is full"),
                }
            }
            Happening::Ready(slot) => {
                let link = testing::link();
                self.inside.insert(slot, (Arc::clone(&link), VecDeque::new()));
                let placed = self.dispatch.ready(slot, &link, testing::info(), clock);
                placed.into_iter().for_each(|placed| self.send(placed));
            }
            Happening::Stopped(slot) => {
                self.inside.remove(&slot);
                self.dispatch.closing(slot, clock);
                self.dispatch.ended(slot, End { was_wanted: true, ..End::default() }, clock);
            }
            Happening::Done(slot, index) => self.done(slot, index),
            Happening::Look => {}
        }
        if self.dispatch.needs_tending || self.look_at <= self.now {
            self.tend();
        }
    }

    fn tend(&mut self) {
        let Tended { orders, placed, look_again_at } = self.dispatch.tend(&[], self.clock());
        placed.into_iter().for_each(|placed| self.send(placed));
        for order in orders {
            match order {
                Order::Start(slot, _) => {
                    self.starts += 1;
                    self.happenings.push(Reverse((self.now + self.server.start, Happening::Ready(slot))));
                }
                Order::Stop(slot) => {
                    self.happenings.push(Reverse((self.now + Duration::from_millis(5), Happening::Stopped(slot))));
                }
                Order::Kill(slot, reason) => panic!("{slot} is killed: {reason}"),
                Order::Ping(link) => {
                    // One that was told to stop in the same breath says nothing any more.
                    let Some(slot) = self.dispatch.slot_of(&link) else { continue };
                    let ping = crate::worker::Ping::Routine;
                    self.dispatch.pong(slot, &link, ping, Duration::ZERO, self.clock());
                }
            }
        }
        self.look_at = look_again_at - self.start;
        self.happenings.push(Reverse((self.look_at, Happening::Look)));
    }

    fn send(&mut self, placed: Placed) {
        let Placed { slot, call, .. } = placed;
        let index = self.calls[&Arc::as_ptr(&call)];
        let (_, inside) = self.inside.get_mut(&slot).expect("it is ready");
        inside.push_back(call);
        let is_at_work = !self.server.is_serial || inside.len() == 1;
        if is_at_work {
            self.begin(slot, index);
        }
    }

    fn begin(&mut self, slot: usize, index: usize) {
        let Arrival { at, takes } = self.arrivals[index];
        self.waits.push(self.now - at);
        self.happenings.push(Reverse((self.now + takes, Happening::Done(slot, index))));
    }

    fn done(&mut self, slot: usize, index: usize) {
        let (link, inside) = self.inside.get_mut(&slot).expect("it runs");
        let position = inside.iter().position(|call| self.calls[&Arc::as_ptr(call)] == index).expect("it is there");
        let call = inside.remove(position).expect("it is there");
        let next = inside.front().filter(|_| self.server.is_serial).map(|call| self.calls[&Arc::as_ptr(call)]);
        let link = Arc::clone(link);
        if let Some(next) = next {
            self.begin(slot, next);
        }
        self.n_done += 1;
        let placed = self.dispatch.call_left(slot, &link, &call, Left::Answered, self.clock());
        placed.into_iter().for_each(|placed| self.send(placed));
    }

    fn wait(&mut self, share: f64) -> Duration {
        self.waits.sort_unstable();
        let last = self.waits.len().saturating_sub(1);
        self.waits.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }

    fn print(&mut self, name: &str, until: Duration) {
        let mean = self.worker_seconds / until.as_secs_f64();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.wait(share).as_secs_f64() * 1000.0);
        let (calls, peak, starts) = (self.arrivals.len(), self.workers_peak, self.starts);
        println!(
            "{name:<34} {calls:>7} {mean:>8.2} {peak:>5} {starts:>7} {p50:>9.1} {p99:>9.1} {max:>9.1}  {:?}",
            self.by_hour
        );
    }
}

fn day_rules() -> Rules {
    Rules { concurrency: Concurrency::Auto, ..testing::rules(2, 8, 1) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    /// From 0 to below 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Calls that come by chance, so many a second on average, each taking `takes` or up to twice that.
    fn calls(&mut self, from: Duration, to: Duration, per_second: f64, takes: Duration) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut at = from;
        loop {
            at += Duration::from_secs_f64(-(1.0 - self.roll()).ln() / per_second);
            if to <= at {
                return arrivals;
            }
            arrivals.push(Arrival { at, takes: takes.mul_f64(1.0 + self.roll()) });
        }
    }
}

/// Quiet nights, busy hours, a burst of 40 calls every ten minutes of the day, and a report that takes 20 s every hour.
fn a_day() -> Vec<Arrival> {
    let mut dice = Dice(42);
    let mut arrivals = dice.calls(hours(0), hours(24), 1.0 / 60.0, ms(100));
    arrivals.extend(dice.calls(hours(8), hours(18), 2.0, ms(100)));
    for minute in (8 * 60..18 * 60).step_by(10) {
        let at = Duration::from_secs(minute * 60);
        arrivals.extend((0..40).map(|_| Arrival { at, takes: ms(200) }));
    }
    arrivals.extend((0..24).map(|hour| Arrival { at: hours(hour) + ms(90_000), takes: ms(20_000) }));
    arrivals
}

#[test]
fn a_day_of_traffic_is_served_with_few_workers_and_short_waits() {
    println!(
        "{:<34} {:>7} {:>8} {:>5} {:>7} {:>9} {:>9} {:>9}  workers at the end of each hour",
        "a day", "calls", "workers", "peak", "starts", "wait p50", "p99 ms", "longest"
    );
    let until = hours(24);
    let cases = [
        ("serial, starts in 50 ms", Server { start: ms(50), is_serial: true }),
        ("serial, starts in 5 s", Server { start: ms(5000), is_serial: true }),
        ("several at once, starts in 50 ms", Server { start: ms(50), is_serial: false }),
        ("several at once, starts in 5 s", Server { start: ms(5000), is_serial: false }),
    ];
    for (name, server) in cases {
        let mut simulation = Simulation::run(day_rules(), server, a_day(), until);
        simulation.print(name, until);
        assert_eq!(simulation.n_done, simulation.arrivals.len(), "{name}: every call is answered");
        assert!(simulation.workers_peak <= 8, "{name}");
        // 60 bursts; with workers that do one thing at a time each of them needs all of the pool, once.
        assert!(simulation.starts <= 2 + 60 * 6 + 24 * 6, "{name}: {} starts", simulation.starts);
        assert!(simulation.wait(0.5) < ms(1), "{name}: most calls do not wait at all");
        assert!(simulation.wait(1.0) < server.start * 3 + ms(8000), "{name}: {:?}", simulation.wait(1.0));
        assert_eq!(simulation.by_hour.last(), Some(&2), "{name}: back to the minimum at night");
    }
}

#[test]
fn a_load_that_rises_and_falls_finds_its_workers_still_there() {
    let server = Server { start: ms(300), is_serial: true };
    let burst = |at: u64| (0..16).map(move |_| Arrival { at: Duration::from_secs(at), takes: ms(200) });
    for (period, until) in [(10, 1200), (55, 3600)] {
        let arrivals: Vec<_> = (0..until).step_by(period).flat_map(|at| burst(at as u64 + 1)).collect();
        let mut simulation = Simulation::run(day_rules(), server, arrivals, Duration::from_secs(until as u64));
        simulation.print(&format!("sawtooth of {period} s"), Duration::from_secs(until as u64));
        assert_eq!(simulation.starts, 8, "every {period} s: none is stopped and started again");
    }
}

#[test]
fn a_burst_is_at_the_maximum_within_three_starts() {
    let server = Server { start: ms(1000), is_serial: true };
    let arrivals: Vec<_> = (0..64).map(|_| Arrival { at: ms(10_000), takes: ms(200) }).collect();
    let mut simulation = Simulation::run(day_rules(), server, arrivals.clone(), ms(12_010));
    assert_eq!(simulation.dispatch.counts().starting, 0);
    assert_eq!(simulation.dispatch.counts().total, 8, "two starts are enough");
    simulation = Simulation::run(day_rules(), server, arrivals, ms(90_000));
    simulation.print("burst of 64", ms(90_000));
    assert_eq!((simulation.n_done, simulation.dispatch.counts().total), (64, 2));
}
