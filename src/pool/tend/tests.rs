//! What is decided about workers, as sequences of events and orders. One file, with a long game of chance that looks for
//! contradictions.

use super::*;
use crate::{
    pool::{
        dispatch::{Admitted, Left},
        names::{Budget, Names},
        slot::Counts,
        testing::{call, exclusive_of, info, link, rules, start},
    },
    worker::Ping,
};

/// Orders in words, names without their server: `start 1`, `kill 0: left 3 pings unanswered`.
fn words(orders: &[Order]) -> Vec<String> {
    let word = |order: &Order| match order {
        Order::Start(slot, _) => format!("start {slot}"),
        Order::Stop(slot) => format!("stop {slot}"),
        Order::Kill(slot, reason) => format!("kill {slot}: {reason}"),
        Order::Ping(_) => "ping".to_owned(),
    };
    orders.iter().map(word).collect()
}

struct Play {
    dispatch: Dispatch,
    start: Instant,
}

impl Play {
    /// All workers there are at first get ready at once.
    fn new(rules: Rules) -> Play {
        let start_at = Instant::now();
        let mut play = Play { dispatch: start(rules, start_at), start: start_at };
        (0..play.dispatch.slots.len()).for_each(|slot| play.ready(slot, 0.0));
        play
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    fn ready(&mut self, slot: usize, seconds: f64) {
        self.dispatch.ready(slot, &link(), info(), self.at(seconds));
    }

    fn link(&self, slot: usize) -> Arc<Link> {
        let State::Ready(link) = &self.dispatch.slots[slot].state else { panic!("{slot} is not ready") };
        Arc::clone(link)
    }

    #[track_caller]
    fn send(&mut self, seconds: f64) -> Arc<Call> {
        let call = call();
        let admitted = self.dispatch.admit(&call, self.at(seconds));
        assert!(matches!(admitted, Ok(Admitted::Placed(_) | Admitted::Waits)), "{admitted:?}");
        call
    }

    fn leave(&mut self, slot: usize, call: &Arc<Call>, left: Left, seconds: f64) {
        let now = self.at(seconds);
        self.dispatch.call_left(slot, &self.link(slot), call, left, now);
    }

    fn die(&mut self, slot: usize, seconds: f64) {
        let now = self.at(seconds);
        self.dispatch.closing(slot, now);
        self.dispatch.ended(slot, End { reason: "exited with code 3".to_owned(), ..End::default() }, now);
    }

    fn end_as_told(&mut self, slot: usize, seconds: f64) {
        let now = self.at(seconds);
        self.dispatch.closing(slot, now);
        self.dispatch.ended(slot, End { was_wanted: true, ..End::default() }, now);
    }

    #[track_caller]
    fn check_at(&mut self, seconds: f64, expected: &[&str]) {
        self.check_seeing(&[], seconds, expected);
    }

    #[track_caller]
    fn check_seeing(&mut self, seen: &[Seen], seconds: f64, expected: &[&str]) {
        let tended = self.dispatch.tend(seen, self.at(seconds));
        assert_eq!(words(&tended.orders), expected, "at {seconds} s");
        assert!(self.at(seconds) < tended.look_again_at);
    }

    /// What happens from now on when nothing happens: every order that is given, and when.
    fn play_on(&mut self, from: f64, to: f64) -> Vec<String> {
        let mut said = Vec::new();
        let mut now = self.at(from);
        while now < self.at(to) {
            let tended = self.dispatch.tend(&[], now);
            let seconds = (now - self.start).as_secs_f64();
            said.extend(words(&tended.orders).into_iter().map(|words| format!("{seconds:.0} s: {words}")));
            now = tended.look_again_at;
        }
        said
    }
}

#[test]
fn an_idle_worker_may_leave_two_pings_unanswered_but_not_three() {
    let mut play = Play::new(rules(1, 1, 1));
    assert_eq!(
        play.play_on(0.0, 34.0),
        ["10 s: ping", "20 s: ping", "30 s: ping"],
        "the last one still has its five seconds"
    );
    assert_eq!(play.dispatch.counts(), Counts { total: 1, unhealthy: 1, ..Counts::default() });
    assert_eq!(play.play_on(34.0, 36.0), ["35 s: kill 0: left 3 pings unanswered"]);
}

#[test]
fn an_answered_ping_begins_the_count_anew() {
    let mut play = Play::new(rules(1, 1, 1));
    assert_eq!(play.play_on(0.0, 29.0).len(), 2);
    let now = play.at(29.0);
    play.dispatch.pong(0, &play.link(0), Ping::Routine, Duration::from_millis(3), now);
    assert_eq!(play.dispatch.slots[0].health.last_ping, Some(Duration::from_millis(3)));
    assert_eq!(play.play_on(29.0, 54.0), ["30 s: ping", "40 s: ping", "50 s: ping"]);
}

#[test]
fn a_busy_worker_is_left_alone_but_gets_no_new_calls() {
    let mut play = Play::new(rules(2, 2, 8));
    play.send(0.0);
    assert_eq!(play.play_on(0.0, 9.9), Vec::<String>::new());
    play.check_at(10.0, &["ping", "ping"]);
    let now = play.at(10.0);
    play.dispatch.pong(1, &play.link(1), Ping::Routine, Duration::ZERO, now);
    // The busy one is asked once and no more, for as long as it is busy.
    let said = play.play_on(10.1, 100.0);
    assert!(said.iter().all(|words| words.ends_with("ping") || words.contains("kill 1")), "{said:?}");
    assert!(play.dispatch.slots[0].health.is_mute && play.dispatch.slots[0].health.pings.len() == 1);
}

#[test]
fn a_stopped_process_is_replaced_as_soon_as_it_misses_a_ping() {
    for is_busy in [false, true] {
        let mut play = Play::new(rules(1, 1, 1));
        if is_busy {
            play.send(1.0);
        }
        play.check_at(10.0, &["ping"]);
        let seen = [Seen { slot: 0, is_stopped: true, rss_bytes: 0 }];
        play.check_seeing(&seen, 14.9, &[]);
        assert_eq!(play.dispatch.to_look_at(play.at(15.0)), [0]);
        play.check_seeing(&seen, 15.0, &["kill 0: is stopped by a signal and does not answer pings"]);
    }
}

#[test]
fn a_worker_that_says_nothing_after_a_call_timed_out_is_replaced() {
    let mut play = Play::new(rules(1, 1, 1));
    let late = play.send(1.0);
    play.leave(0, &late, Left::TimedOut, 2.0);
    play.check_at(6.9, &[]);
    play.check_at(7.0, &["kill 0: did not answer a ping within 5 s after one of its calls timed out"]);
}

#[test]
fn a_worker_that_answers_after_a_call_timed_out_is_kept() {
    let mut play = Play::new(rules(1, 1, 1));
    let late = play.send(1.0);
    play.leave(0, &late, Left::TimedOut, 2.0);
    let now = play.at(6.0);
    play.dispatch.pong(0, &play.link(0), Ping::BehindCancel, Duration::ZERO, now);
    play.check_at(8.0, &[]);
    assert_eq!(play.dispatch.counts().ready, 1);
}

#[test]
fn a_worker_that_is_busy_with_what_a_client_took_back_gets_no_calls_and_some_time() {
    let mut play = Play::new(rules(1, 2, 1));
    let taken_back = play.send(1.0);
    play.leave(0, &taken_back, Left::Cancelled, 2.0);
    play.send(2.0);
    play.check_at(2.0, &["start 1"]);
    assert_eq!(play.dispatch.queued().0, 1);
    play.ready(1, 3.0);
    assert_eq!((play.dispatch.queued().0, play.dispatch.slots[1].calls.len()), (0, 1));
    let said = play.play_on(3.0, 38.0);
    let expected = "37 s: kill 0: did not answer a ping within 35 s after one of its calls was cancelled";
    assert!(said.iter().any(|words| words == expected), "{said:?}");
}

#[test]
fn a_pool_whose_workers_are_all_stuck_in_what_was_taken_back_grows() {
    let mut play = Play::new(rules(2, 8, 1));
    let calls = [play.send(1.0), play.send(1.0)];
    for (slot, call) in calls.iter().enumerate() {
        play.leave(slot, call, Left::Cancelled, 2.0);
    }
    play.send(3.0);
    play.check_at(3.0, &["start 2"]);
}

#[test]
fn a_call_that_needs_a_worker_alone_has_the_pool_grow_and_takes_the_first_that_is_free() {
    let mut play = Play::new(rules(2, 8, 8));
    play.send(1.0);
    play.send(1.0);
    let alone = exclusive_of("a");
    assert!(matches!(play.dispatch.admit(&alone, play.at(2.0)), Ok(Admitted::Waits)));
    assert!(play.dispatch.needs_tending);
    play.check_at(2.0, &["start 2"]);
    play.ready(2, 3.0);
    assert!(play.dispatch.slots[2].is_exclusive);
    assert!(play.dispatch.slots.iter().all(|slot| !slot.is_kept_free));
}

#[test]
fn the_successor_is_ready_before_the_old_worker_drains() {
    let mut play = Play::new(Rules { calls_max: Some(2), ..rules(1, 1, 8) });
    let calls = [play.send(1.0), play.send(1.0)];
    play.check_at(1.0, &["start 1"]);
    let last = play.send(2.0);
    assert_eq!(play.dispatch.slots[0].calls.len(), 3, "it serves until then");
    play.ready(1, 3.0);
    play.check_at(3.0, &[]);
    play.send(3.0);
    assert_eq!((play.dispatch.slots[0].calls.len(), play.dispatch.slots[1].calls.len()), (3, 1));
    for call in calls.iter().chain([&last]) {
        play.leave(0, call, Left::Answered, 4.0);
    }
    play.check_at(4.0, &["stop 0"]);
    play.end_as_told(0, 4.1);
    assert_eq!(play.dispatch.counts().total, 1);
}

#[test]
fn workers_are_replaced_for_their_age_their_memory_and_on_demand_one_at_a_time() {
    let mut play = Play::new(Rules { age_max: Some(Duration::from_secs(5)), ..rules(2, 2, 1) });
    assert_eq!(play.play_on(0.0, 9.0), ["5 s: start 2"]);
    play.ready(2, 9.0);
    play.check_at(9.0, &["stop 0", "start 3"]);

    let mut play = Play::new(Rules { memory_bytes_max: Some(1000), ..rules(1, 1, 1) });
    assert_eq!(play.dispatch.to_look_at(play.at(10.0)), [0]);
    play.check_seeing(&[Seen { slot: 0, is_stopped: false, rss_bytes: 1000 }], 10.0, &["ping"]);
    play.check_seeing(&[Seen { slot: 0, is_stopped: false, rss_bytes: 1001 }], 11.0, &["start 1"]);

    let mut play = Play::new(rules(2, 2, 1));
    let now = play.at(1.0);
    assert!(play.dispatch.ask_restart(0, now) && play.dispatch.ask_restart(1, now));
    play.check_at(1.0, &["start 2"]);
    play.ready(2, 2.0);
    play.check_at(2.0, &["stop 0", "start 3"]);
    play.ready(3, 3.0);
    play.check_at(3.0, &["stop 1"]);
}

#[test]
fn one_that_dies_before_its_successor_is_ready_is_not_started_again() {
    let mut play = Play::new(Rules { calls_max: Some(1), ..rules(1, 1, 1) });
    play.send(1.0);
    play.check_at(1.0, &["start 1"]);
    play.die(0, 2.0);
    play.ready(1, 3.0);
    play.check_at(60.0, &["ping"]);
    assert_eq!(play.dispatch.counts(), Counts { total: 1, ready: 1, ..Counts::default() });
}

#[test]
fn a_dead_worker_is_started_again_after_a_pause_that_doubles() {
    let mut play = Play::new(rules(1, 1, 1));
    play.die(0, 1.0);
    play.check_at(1.04, &[]);
    play.check_at(1.07, &["start 0"]);
    play.die(0, 2.0);
    play.check_at(2.09, &[]);
    play.check_at(2.13, &["start 0"]);
    assert_eq!(play.dispatch.slots[0].restarts, 2);
}

#[test]
fn with_an_open_breaker_one_probe_is_started_and_the_rest_follows_when_it_is_ready() {
    let mut play = Play::new(Rules { breaker_failures: 2, ..rules(2, 2, 1) });
    play.die(0, 1.0);
    play.die(1, 1.0);
    assert_eq!(play.play_on(1.0, 20.0), ["11 s: start 0"]);
    play.die(0, 20.0);
    assert_eq!(play.play_on(20.0, 40.0), ["30 s: start 0"]);
    play.ready(0, 40.0);
    play.check_at(40.0, &["start 1"]);
    play.ready(1, 41.0);
    assert_eq!(play.dispatch.counts().ready, 2);
}

#[test]
fn the_newest_idle_workers_go_first_and_none_that_has_a_call() {
    let mut play = Play::new(Rules { health_interval: Duration::from_secs(3600), ..rules(1, 4, 1) });
    let calls: Vec<_> = (0..4).map(|_| play.send(1.0)).collect();
    play.check_at(1.0, &["start 1"]);
    play.ready(1, 2.0);
    play.check_at(2.0, &["start 2", "start 3"]);
    play.ready(2, 3.0);
    play.ready(3, 3.0);
    for (slot, call) in calls.iter().enumerate().filter(|(slot, _)| *slot != 3) {
        play.leave(slot, call, Left::Answered, 4.0);
    }
    let stops: Vec<_> = play.play_on(4.0, 80.0).into_iter().filter(|words| words.contains("stop")).collect();
    assert_eq!(stops.len(), 3, "{stops:?}");
    assert!(stops[0].ends_with("stop 2") && stops[1].ends_with("stop 1") && stops[2].ends_with("stop 0"), "{stops:?}");
    let last = play.dispatch.scale_events.get().pop().unwrap();
    assert_eq!((last.from, last.to, last.reason.as_str()), (4, 1, "at most 1 calls at a time in 60 s"));
}

#[test]
fn the_dead_go_before_the_living_when_a_pool_shrinks() {
    let health_interval = Duration::from_secs(3600);
    let mut play = Play::new(Rules { breaker_failures: 2, health_interval, ..rules(2, 4, 1) });
    (0..4).for_each(|_| drop(play.send(1.0)));
    play.check_at(1.0, &["start 2", "start 3"]);
    play.ready(2, 2.0);
    play.ready(3, 2.0);
    // What is started now dies, and what runs works on.
    play.die(0, 3.0);
    play.die(1, 3.0);
    let ids: Vec<_> = [2, 3].map(|slot| Arc::clone(&play.dispatch.slots[slot].calls[0].call)).into();
    for (slot, call) in ids.iter().enumerate() {
        play.leave(slot + 2, call, Left::Cancelled, 4.0);
        let now = play.at(4.0);
        play.dispatch.pong(slot + 2, &play.link(slot + 2), Ping::BehindCancel, Duration::ZERO, now);
    }
    let said = play.play_on(64.0, 80.0);
    assert!(said.iter().all(|words| !words.contains("stop")), "{said:?}");
    assert_eq!(play.dispatch.counts().ready, 2);
}

#[test]
fn more_calls_than_a_worker_may_have_in_its_life_do_not_make_a_pile_of_workers() {
    let mut play = Play::new(Rules { calls_max: Some(1), ..rules(2, 2, 1) });
    (0..100).for_each(|_| drop(play.send(1.0)));
    for round in 0..20 {
        let now = play.at(2.0 + f64::from(round));
        play.dispatch.tend(&[], now);
        let starting: Vec<_> = (0..play.dispatch.slots.len())
            .filter(|slot| matches!(play.dispatch.slots[*slot].state, State::Starting))
            .collect();
        starting.into_iter().for_each(|slot| play.ready(slot, 2.0 + f64::from(round)));
    }
    assert_eq!(play.dispatch.counts().total, 3, "one drains, and the other waits for that");
}

#[test]
fn one_whose_successor_is_not_needed_any_more_serves_on() {
    let mut play = Play::new(rules(1, 4, 1));
    let calls = [play.send(1.0), play.send(1.0)];
    play.check_at(1.0, &["start 1"]);
    play.ready(1, 2.0);
    for (slot, call) in calls.iter().enumerate() {
        play.leave(slot, call, Left::Answered, 2.0);
    }
    let now = play.at(2.0);
    play.dispatch.ask_restart(0, now);
    play.check_at(2.0, &["start 2"]);
    play.die(2, 3.0);
    play.dispatch.target = 1;
    play.dispatch.tend(&[], play.at(4.0));
    assert_eq!(play.dispatch.slots[0].duty, Duty::Serve);
}

#[test]
fn a_pool_that_stops_forgets_those_that_are_down_and_looks_no_more() {
    let mut play = Play::new(rules(1, 1, 1));
    play.die(0, 1.0);
    let now = play.at(1.0);
    play.dispatch.stop(now);
    assert!(play.dispatch.slots.iter().all(Slot::is_vacant));
    let tended = play.dispatch.tend(&[], now);
    assert!(now + Duration::from_secs(60) < tended.look_again_at);
}

#[test]
fn a_probe_comes_when_the_breaker_says_so_however_long_the_worker_has_failed() {
    let mut play = Play::new(rules(1, 1, 1));
    let mut starts = 0;
    for round in 0..20 {
        let at = f64::from(round) * 100.0;
        play.die(0, at);
        let said = play.play_on(at, at + 11.0);
        starts += usize::from(said.last().is_some_and(|words| words.ends_with("start 0")));
    }
    assert_eq!(starts, 20, "within the cooldown of 10 s each time");
}

#[test]
fn isolated_workers_come_out_of_one_budget() {
    let budget = Arc::new(Budget::new(3));
    assert_eq!(budget.take(1), 1);
    let names = Arc::new(Names::new("s".into()));
    let now = Instant::now();
    let mut dispatch = Dispatch::new("s".into(), rules(1, 8, 1), names, Arc::default(), Some(Arc::clone(&budget)), now);
    dispatch.tend(&[], now);
    let mut play = Play { dispatch, start: now };
    play.ready(0, 0.0);
    (0..8).for_each(|_| drop(play.send(1.0)));
    play.check_at(1.0, &["start 1"]);
    play.ready(1, 2.0);
    play.check_at(2.0, &["start 2"]);
    play.ready(2, 3.0);
    play.check_at(3.0, &[]);
    assert_eq!((budget.used(), play.dispatch.target), (3, 3));
}

#[test]
fn the_pause_between_starts_doubles_up_to_its_limit() {
    for (failures, least) in [(1, 50), (2, 100), (3, 200), (4, 400), (11, 30_000), (1000, 30_000)] {
        let pause = backoff(failures);
        let least = Duration::from_millis(least);
        assert!(least <= pause && pause <= least.mul_f64(1.25), "{failures}: {pause:?}");
    }
}

/// A game of chance: whatever happens in whatever order, nothing is lost, nothing is there twice, and in the end everything is
/// as it was.
struct Game {
    play: Play,
    seed: u64,
    seconds: f64,
    look_again_at: Instant,
    /// Calls that have not ended, and where each is: at a worker, or waiting.
    calls: Vec<Arc<Call>>,
    /// Slots with a process, and whether it was told to end.
    processes: Vec<(usize, bool)>,
    n_pings: Vec<Arc<Link>>,
}

impl Game {
    fn roll(&mut self, sides: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % sides
    }

    fn tend(&mut self) {
        let now = self.play.at(self.seconds);
        let at_workers = self.at_workers();
        let tended = self.play.dispatch.tend(&[], now);
        self.look_again_at = tended.look_again_at;
        for order in tended.orders {
            match order {
                Order::Start(slot, name) => {
                    assert!(
                        !name.is_empty() && self.processes.iter().all(|(it, _)| *it != slot),
                        "{slot} runs already"
                    );
                    self.processes.push((slot, false));
                }
                Order::Stop(slot) => self.told(slot),
                Order::Kill(slot, _) => {
                    let is_lost =
                        |call: &Arc<Call>| at_workers.iter().any(|(at, it)| *at == slot && Arc::ptr_eq(it, call));
                    self.calls.retain(|call| !is_lost(call));
                    self.ended(slot, false);
                }
                Order::Ping(link) => self.n_pings.push(link),
            }
        }
    }

    fn told(&mut self, slot: usize) {
        let process = self.processes.iter_mut().find(|(it, _)| *it == slot).expect("it runs");
        process.1 = true;
        assert!(self.play.dispatch.slots[slot].calls.is_empty(), "a worker with calls was told to stop");
    }

    fn ended(&mut self, slot: usize, was_wanted: bool) {
        let now = self.play.at(self.seconds);
        self.processes.retain(|(it, _)| *it != slot);
        let lost: Vec<_> =
            self.play.dispatch.slots[slot].calls.iter().map(|running| Arc::clone(&running.call)).collect();
        self.calls.retain(|call| !lost.iter().any(|it| Arc::ptr_eq(it, call)));
        self.play.dispatch.closing(slot, now);
        let in_vain = self.play.dispatch.ended(slot, End { was_wanted, ..End::default() }, now);
        self.calls.retain(|call| !in_vain.iter().any(|it| Arc::ptr_eq(it, call)));
    }

    fn starting(&self) -> Vec<usize> {
        let is_starting = |slot: &usize| matches!(self.play.dispatch.slots[*slot].state, State::Starting);
        self.processes.iter().map(|(slot, _)| *slot).filter(is_starting).collect()
    }

    fn at_workers(&self) -> Vec<(usize, Arc<Call>)> {
        let slots = self.play.dispatch.slots.iter().enumerate();
        slots.flat_map(|(index, slot)| slot.calls.iter().map(move |it| (index, Arc::clone(&it.call)))).collect()
    }

    fn leave(&mut self, left: Left) {
        let at_workers = self.at_workers();
        if at_workers.is_empty() {
            return;
        }
        let (slot, call) = at_workers[self.roll(at_workers.len())].clone();
        let link = self.play.link(slot);
        self.play.leave(slot, &call, left, self.seconds);
        if matches!(left, Left::Cancelled | Left::TimedOut) && self.roll(4) != 0 {
            let now = self.play.at(self.seconds);
            self.play.dispatch.pong(slot, &link, Ping::BehindCancel, Duration::ZERO, now);
        }
        self.calls.retain(|it| !Arc::ptr_eq(it, &call));
    }

    fn step(&mut self) {
        let now = self.play.at(self.seconds);
        match self.roll(16) {
            0..=4 => {
                let call = if self.roll(5) == 0 { exclusive_of("b") } else { call() };
                if let Ok(admitted) = self.play.dispatch.admit(&call, now) {
                    if let Admitted::InsteadOf(other, _) = admitted {
                        self.calls.retain(|it| !Arc::ptr_eq(it, &other));
                    }
                    self.calls.push(call);
                }
            }
            5..=8 => self.leave(Left::Answered),
            9 => self
                .leave([Left::Cancelled, Left::TimedOut, Left::Failed, Left::Unsent][(self.seed >> 40) as usize % 4]),
            10 => {
                let starting = self.starting();
                if !starting.is_empty() {
                    let slot = starting[self.roll(starting.len())];
                    self.play.ready(slot, self.seconds);
                }
            }
            11 => {
                let told: Vec<_> = self.processes.iter().filter(|(_, told)| *told).map(|(slot, _)| *slot).collect();
                told.into_iter().for_each(|slot| self.ended(slot, true));
            }
            12 if self.roll(6) == 0 && !self.processes.is_empty() => {
                let index = self.roll(self.processes.len());
                let (slot, told) = self.processes[index];
                self.ended(slot, told);
            }
            13 if self.roll(8) == 0 => {
                let slot = self.roll(self.play.dispatch.slots.len());
                self.play.dispatch.ask_restart(slot, now);
            }
            14 => {
                for link in std::mem::take(&mut self.n_pings) {
                    if let Some(slot) = self.play.dispatch.slot_of(&link) {
                        self.play.dispatch.pong(slot, &link, Ping::Routine, Duration::ZERO, now);
                    }
                }
            }
            15 => {
                let waiting: Vec<_> = {
                    let at_workers = self.at_workers();
                    let is_there = |call: &Arc<Call>| at_workers.iter().any(|(_, it)| Arc::ptr_eq(it, call));
                    self.calls.iter().filter(|call| !is_there(call)).map(Arc::clone).collect()
                };
                if self.roll(3) == 0 && !waiting.is_empty() {
                    let call = &waiting[self.roll(waiting.len())];
                    self.play.dispatch.remove(call, now);
                    self.calls.retain(|it| !Arc::ptr_eq(it, call));
                }
            }
            _ => {}
        }
        self.seconds += self.roll(100) as f64 / 1000.0;
        if self.play.dispatch.needs_tending || self.look_again_at <= self.play.at(self.seconds) {
            self.tend();
        }
        self.check();
    }

    fn check(&self) {
        let dispatch = &self.play.dispatch;
        let (at_workers, rules) = (self.at_workers(), &dispatch.rules);
        assert_eq!(dispatch.in_flight(), at_workers.len());
        assert_eq!(dispatch.queued().0 + at_workers.len(), self.calls.len(), "a call is lost, or there twice");
        assert!(rules.min_workers <= dispatch.target && dispatch.target <= rules.max_workers, "{}", dispatch.target);
        let counted = dispatch.slots.iter().filter(|slot| slot.counts()).count();
        assert!(counted <= dispatch.target + 1, "{counted} workers, {} wanted", dispatch.target);
        let mut turns: Vec<_> = dispatch.slots.iter().enumerate().map(|(index, slot)| slot.turn(index)).collect();
        turns.sort_unstable();
        assert!(turns.iter().map(|(.., slot)| *slot).eq(dispatch.turns.all()), "a worker is out of turn");
        let is_kept_free = dispatch.slots.iter().any(|slot| slot.is_kept_free);
        assert!(!is_kept_free || dispatch.may_keep_free, "a worker that is kept free is forgotten");
        let is_doubtful = dispatch.slots.iter().any(|slot| slot.health.is_doubtful());
        assert!(!is_doubtful || dispatch.may_be_doubtful, "a worker that is held up is forgotten");
        for slot in &dispatch.slots {
            let is_alone = slot.calls.len() == 1;
            assert!(!slot.is_exclusive || is_alone, "an exclusive call has company");
            assert!(slot.is_ready() || slot.calls.is_empty() && !slot.is_kept_free);
        }
    }

    /// Lets everything come to its end: workers get ready, calls are answered, pings too.
    fn settle(&mut self) {
        for _ in 0..2000 {
            self.starting().into_iter().for_each(|slot| self.play.ready(slot, self.seconds));
            let told: Vec<_> = self.processes.iter().filter(|(_, told)| *told).map(|(slot, _)| *slot).collect();
            told.into_iter().for_each(|slot| self.ended(slot, true));
            self.leave(Left::Answered);
            for link in std::mem::take(&mut self.n_pings) {
                if let Some(slot) = self.play.dispatch.slot_of(&link) {
                    let now = self.play.at(self.seconds);
                    self.play.dispatch.pong(slot, &link, Ping::Routine, Duration::ZERO, now);
                }
            }
            self.seconds += 0.5;
            if self.play.dispatch.needs_tending || self.look_again_at <= self.play.at(self.seconds) {
                self.tend();
            }
            self.check();
        }
        let dispatch = &self.play.dispatch;
        assert_eq!((self.calls.len(), dispatch.queued().0), (0, 0), "a call waits for ever");
        let counts = dispatch.counts();
        assert_eq!((counts.total, counts.ready), (rules_of(dispatch), rules_of(dispatch)), "{counts:?}");
    }
}

fn rules_of(dispatch: &Dispatch) -> usize {
    dispatch.rules.min_workers
}

#[test]
fn whatever_happens_no_call_is_lost_and_the_pool_comes_back() {
    for seed in 1..=60 {
        let calls_max = (seed % 3 == 0).then_some(20);
        let concurrency = if seed % 2 == 0 { Concurrency::Auto } else { Concurrency::Fixed(3) };
        let scale_down_after = Duration::from_secs(5);
        let rules = Rules { concurrency, calls_max, scale_down_after, queue_max: 12, ..rules(2, 5, 1) };
        let play = Play::new(rules);
        let processes = vec![(0, false), (1, false)];
        let (look_again_at, seconds) = (play.start, 0.0);
        let mut game = Game { play, seed, seconds, look_again_at, calls: Vec::new(), processes, n_pings: Vec::new() };
        (0..3000).for_each(|_| game.step());
        game.settle();
    }
}

#[test]
fn a_process_that_was_asked_in_the_wrong_era_is_started_again_at_once_and_did_not_die() {
    let mut play = Play { dispatch: start(rules(2, 2, 1), Instant::now()), start: Instant::now() };
    let waiting = play.send(0.0);
    let now = play.at(1.0);
    for slot in 0..2 {
        play.dispatch.closing(slot, now);
        let end = End { speaks_modern_only: true, ..End::default() };
        assert!(play.dispatch.ended(slot, end, now).is_empty(), "there is hope");
    }
    play.check_at(1.0, &["start 0", "start 1"]);
    assert_eq!((play.dispatch.breaker.failures(), play.dispatch.reason()), (0, None));
    assert!(play.dispatch.slots.iter().all(|slot| slot.restarts == 0 && slot.failures == 0));
    play.ready(0, 1.1);
    assert!(play.dispatch.slots[0].calls.iter().any(|running| Arc::ptr_eq(&running.call, &waiting)));
}

#[test]
fn calls_that_wait_when_the_workers_are_told_to_stop_wait_in_vain_once_none_is_ready() {
    let mut play = Play::new(rules(1, 1, 1));
    let at_worker = play.send(0.0);
    let waiting = play.send(0.0);
    let now = play.at(1.0);
    assert!(play.dispatch.stop(now).is_empty(), "its worker may still answer");
    play.dispatch.closing(0, now);
    let in_vain = play.dispatch.ended(0, End { was_wanted: true, ..End::default() }, now);
    assert!(in_vain.len() == 1 && Arc::ptr_eq(&in_vain[0], &waiting) && !Arc::ptr_eq(&at_worker, &waiting));
    assert_eq!(play.dispatch.admit(&call(), now).expect_err("it stops").code(), "no_worker");
}

#[test]
fn other_settings_start_workers_that_are_missing_and_dismiss_those_that_are_too_many() {
    let mut play = Play::new(rules(1, 1, 1));
    let call = play.send(0.0);
    let now = play.at(1.0);
    play.dispatch.adapt(rules(3, 3, 1), "more", now);
    play.check_at(1.0, &["start 1", "start 2"]);
    (1..3).for_each(|slot| play.ready(slot, 1.5));
    let now = play.at(2.0);
    play.dispatch.adapt(rules(1, 1, 1), "fewer", now);
    // The busy one is needed most, so it is the one that stays.
    play.check_at(2.0, &["stop 1", "stop 2"]);
    play.leave(0, &call, Left::Answered, 3.0);
    play.check_at(3.0, &[]);
    let events: Vec<_> =
        play.dispatch.scale_events.get().iter().map(|it| (it.from, it.to, it.reason.clone())).collect();
    assert_eq!(events, [(1, 3, "more".to_owned()), (3, 1, "fewer".to_owned())]);
}

#[test]
fn a_worker_that_is_dismissed_while_it_works_or_starts_is_stopped_when_it_can_be() {
    let mut play = Play::new(rules(2, 2, 1));
    let calls = [play.send(0.0), play.send(0.0)];
    let now = play.at(1.0);
    play.dispatch.adapt(rules(1, 1, 1), "fewer", now);
    play.check_at(1.0, &[]);
    let waiting = play.send(1.0);
    let leaving = (0..2).find(|slot| play.dispatch.slots[*slot].duty == Duty::Drain).expect("one is to leave");
    let of = |slot: usize| if play_has(&play, slot, &calls[0]) { &calls[0] } else { &calls[1] };
    let (first, second) = (of(leaving), of(1 - leaving));
    play.leave(leaving, first, Left::Answered, 2.0);
    play.check_at(2.0, &[&format!("stop {leaving}")]);
    play.leave(1 - leaving, second, Left::Answered, 3.0);
    assert!(play_has(&play, 1 - leaving, &waiting), "what waits goes to the one that stays");

    let mut play = Play::new(rules(1, 1, 1));
    let now = play.at(1.0);
    play.dispatch.adapt(rules(2, 2, 1), "more", now);
    play.check_at(1.0, &["start 1"]);
    play.dispatch.adapt(rules(1, 1, 1), "fewer", now);
    play.check_at(1.1, &[]);
    play.ready(1, 2.0);
    play.check_at(2.0, &["stop 1"]);
}

fn play_has(play: &Play, slot: usize, call: &Arc<Call>) -> bool {
    play.dispatch.slots[slot].calls.iter().any(|running| Arc::ptr_eq(&running.call, call))
}

/// What it was started from may have changed since.
#[test]
fn a_worker_that_is_starting_when_a_restart_is_asked_for_is_replaced_when_it_is_ready() {
    let mut play = Play::new(rules(1, 1, 1));
    let now = play.at(1.0);
    assert!(play.dispatch.ask_restart(0, now));
    play.check_at(1.0, &["start 1"]);
    assert!(play.dispatch.ask_restart(1, now) && play.dispatch.ask_restart(0, now));
    play.ready(1, 2.0);
    play.check_at(2.0, &["stop 0", "start 2"]);
    play.ready(2, 3.0);
    play.check_at(3.0, &["stop 1"]);
}
