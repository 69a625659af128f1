//! Calls that wait: in order, the keys in turn, no more than fit, and none for longer than it may take.

use serde_json::json;

use super::{Keys, Sent, Trace, expect_all_succeed, pool_of, queued};
use crate::support::{Gateway, Helper, Reply};

/// Two clients at a worker that has one call at a time, and what it carries out in which order.
struct Scene {
    gateway: Gateway,
    trace: Trace,
    busy: String,
    quiet: String,
    /// The gateway reads their file again, so it stays.
    _keys: Keys,
}

impl Scene {
    fn new(queue_max: &str) -> Scene {
        let keys = Keys::new();
        let (busy, quiet) = (keys.make("busy", None), keys.make("quiet", None));
        let settings = [("API_KEYS_FILE", &*keys.path()), ("WORKER_CONCURRENCY", "1"), ("QUEUE_MAX", queue_max)];
        Scene { gateway: pool_of(1, &settings, Helper::new()), trace: Trace::new(), busy, quiet, _keys: keys }
    }

    #[track_caller]
    fn send(&self, key: &str, value: &str, ms: u32) -> Sent<'_> {
        let arguments = self.trace.arguments(json!({"value": value, "ms": ms}));
        Sent::call_as(&self.gateway, key, "write", &json!({ "arguments": arguments }))
    }

    /// Sends a call that waits, and sees it wait.
    #[track_caller]
    fn send_behind(&self, key: &str, value: &str, n_waiting: u64) -> Sent<'_> {
        let call = self.send(key, value, 0);
        self.gateway.wait_until(&format!("{n_waiting} calls that wait"), || queued(&self.gateway) == n_waiting);
        call
    }

    /// Gives the worker a call that takes long enough for others to line up.
    #[track_caller]
    fn hold_worker(&self, ms: u32) -> Sent<'_> {
        let call = self.send(&self.busy, "first", ms);
        self.gateway.wait_until("the first call at the worker", || self.trace.lines().len() == 1);
        call
    }

    fn order(&self) -> Vec<String> {
        self.trace.lines().into_iter().map(|(_, value)| value).collect()
    }
}

#[test]
fn calls_of_one_key_are_carried_out_in_the_order_they_came() {
    let scene = Scene::new("100");
    let first = scene.hold_worker(1500);
    let calls: Vec<Sent> = (1..=8).map(|n| scene.send_behind(&scene.busy, &n.to_string(), n)).collect();

    first.reply().expect_status(200);
    expect_all_succeed(calls);
    assert_eq!(scene.order(), ["first", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn a_client_with_a_hundred_calls_delays_another_by_one_or_two() {
    let scene = Scene::new("1024");
    let first = scene.hold_worker(2000);
    let flood: Vec<Sent> = (0..99).map(|_| scene.send(&scene.busy, "busy", 5)).collect();
    scene.gateway.wait_until("99 calls that wait", || queued(&scene.gateway) == 99);
    let quiet = scene.send_behind(&scene.quiet, "quiet", 100);

    quiet.reply().expect_status(200);
    let place = scene.order().iter().position(|value| value == "quiet");
    assert!(place.is_some_and(|place| place <= 3), "place {place:?} in {:?}", scene.order());
    first.reply().expect_status(200);
    expect_all_succeed(flood);
}

#[test]
fn a_full_queue_refuses_the_newest_call_of_the_busiest_and_not_a_newcomer() {
    let scene = Scene::new("4");
    let first = scene.hold_worker(2000);
    let mut waiting: Vec<Sent> = (1..=4).map(|n| scene.send_behind(&scene.busy, &n.to_string(), n)).collect();

    expect_overloaded(&scene.send(&scene.busy, "5", 0).reply());
    let newcomer = scene.send(&scene.quiet, "quiet", 0);
    // The fourth leaves for it, without waiting for its turn.
    expect_overloaded(&waiting.pop().unwrap().reply());
    newcomer.reply().expect_status(200);
    first.reply().expect_status(200);
    expect_all_succeed(waiting);
    let order = scene.order();
    assert_eq!(order.len(), 5, "{order:?}");
    assert!(!order.contains(&"4".to_owned()) && !order.contains(&"5".to_owned()), "{order:?}");
}

#[track_caller]
fn expect_overloaded(reply: &Reply) -> u64 {
    reply.expect_error(503, "overloaded", "wait");
    let retry_after = reply.header("Retry-After").and_then(|it| it.parse().ok());
    reply.expect(retry_after.is_some_and(|it| (1..=60).contains(&it)), "a Retry-After between 1 and 60");
    retry_after.unwrap_or_default()
}

#[test]
fn retry_after_is_what_the_queue_will_take() {
    let retry_after = |ms: u32, n_waiting: u64| {
        let queue_max = n_waiting.to_string();
        let settings = [("WORKER_CONCURRENCY", "1"), ("QUEUE_MAX", queue_max.as_str())];
        let gateway = pool_of(1, &settings, Helper::new());
        for _ in 0..4 {
            gateway.call("delay", &json!({"ms": ms}).to_string()).expect_status(200);
        }
        let held: Vec<Sent> = (0..=n_waiting).map(|_| Sent::call(&gateway, "delay", &json!({"ms": 60000}))).collect();
        gateway.wait_until("a full queue", || queued(&gateway) == n_waiting);
        let seconds = expect_overloaded(&gateway.call("delay", r#"{"ms":0}"#));
        drop(held);
        seconds
    };
    // 40 calls of a quarter of a second each.
    let slow = retry_after(250, 40);
    assert!((6..=30).contains(&slow), "{slow} s");
    let quick = retry_after(1, 4);
    assert!(quick <= 3, "{quick} s");
}

#[test]
fn waiting_is_part_of_the_time_that_a_call_may_take() {
    let gateway = pool_of(1, &[("WORKER_CONCURRENCY", "1")], Helper::new());
    let body = |ms: u32, timeout: f64| json!({"arguments": {"ms": ms}, "timeout": timeout});

    // Either would do by itself, both together are too much.
    let first = Sent::call(&gateway, "delay", &json!({"ms": 700}));
    gateway.wait_until("the first call at the worker", || super::in_flight(&gateway) == 1);
    let second = Sent::call_as(&gateway, crate::support::KEY, "delay", &body(800, 1.0));
    first.reply().expect_status(200);
    let reply = second.reply();
    let is_given_up = [(504, "timeout"), (503, "overloaded")]
        .iter()
        .any(|(status, code)| reply.status == *status && reply.json()["error"]["code"] == *code);
    reply.expect(is_given_up, "`timeout` (or `overloaded`)");
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_call_that_waits_in_vain_never_comes_to_a_worker() {
    let gateway = pool_of(1, &[("WORKER_CONCURRENCY", "1")], Helper::new());
    let trace = Trace::new();

    let held = Sent::call(&gateway, "delay", &json!({"ms": 60000}));
    gateway.wait_until("the first call at the worker", || super::in_flight(&gateway) == 1);
    let body = json!({"arguments": trace.arguments(json!({})), "timeout": 0.2});
    let reply = gateway.post("/tools/write", &body.to_string());
    reply.expect(reply.status == 503 || reply.status == 504, "503 or 504");
    let gone = Sent::call(&gateway, "write", &trace.arguments(json!({})));
    gateway.wait_until("a call that waits", || queued(&gateway) == 1);
    drop(gone);
    gateway.wait_until("an empty queue", || queued(&gateway) == 0);
    drop(held);
    gateway.wait_until("an idle worker", || super::in_flight(&gateway) == 0);
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(trace.lines(), []);
}
