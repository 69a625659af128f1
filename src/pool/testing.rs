//! What the tests of a pool's parts have in common: calls, links, and a pool's settings, without any process.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{dispatch::Dispatch, names::Names, tend::Rules};
use crate::{
    config::Concurrency,
    mcp::message::Request,
    mcp::revision::Era,
    worker::{self, Call, Habits, Link, ServerInfo, Terms, Waiter},
};

fn new_call(key: &str, waiter: Waiter, habits: &Arc<Habits>) -> Arc<Call> {
    let (line, habits) = (key.into(), Arc::clone(habits));
    let terms = Terms { line, may_repeat: false, habits, log_level: None, takes_input_requests: false };
    Call::new(Request::plain("m", None), Some(terms), waiter, 0)
}

/// A call of somebody.
pub(super) fn call() -> Arc<Call> {
    call_of("somebody")
}

/// A call with this key.
pub(super) fn call_of(key: &str) -> Arc<Call> {
    new_call(key, Waiter::Result(Arc::default()), &Arc::default())
}

/// A call of a tool whose calls take this long.
pub(super) fn call_of_tool(habits: &Arc<Habits>) -> Arc<Call> {
    new_call("somebody", Waiter::Result(Arc::default()), habits)
}

/// A call that needs a worker of its own.
pub(super) fn exclusive_of(key: &str) -> Arc<Call> {
    new_call(key, Waiter::Dialogue(Arc::default()), &Arc::default())
}

/// A call that can be asked things and has other calls beside it.
pub(super) fn beside_of(key: &str) -> Arc<Call> {
    new_call(key, Waiter::Beside(Arc::default()), &Arc::default())
}

/// A link to nobody.
pub(super) fn link() -> Arc<Link> {
    let (_reader, writer) = io::pipe().unwrap();
    Link::new("s-1".into(), Era::Legacy, writer.into(), crossbeam_channel::bounded(1).0).unwrap()
}

/// What a server says of itself.
pub(super) fn info() -> Arc<ServerInfo> {
    Arc::new(worker::testing::info(Era::Legacy, "{}"))
}

/// Rules that only move when a test wants them to.
pub(super) fn rules(min_workers: usize, max_workers: usize, concurrency: usize) -> Rules {
    Rules {
        min_workers,
        max_workers,
        concurrency: Concurrency::Fixed(concurrency),
        queue_max: 1024,
        scale_up_after: Duration::from_millis(50),
        scale_down_after: Duration::from_secs(60),
        health_interval: Duration::from_secs(10),
        health_timeout: Duration::from_secs(5),
        calls_max: None,
        age_max: None,
        memory_bytes_max: None,
        breaker_failures: 5,
        breaker_cooldown: Duration::from_secs(10),
    }
}

/// A dispatch whose first workers are on their way.
pub(super) fn start(rules: Rules, now: Instant) -> Dispatch {
    let server: Arc<str> = "s".into();
    let mut dispatch =
        Dispatch::new(Arc::clone(&server), rules, Arc::new(Names::new(server)), Arc::default(), None, now);
    dispatch.tend(&[], now);
    dispatch
}

/// Worker `slot` gets ready.
pub(super) fn ready(dispatch: &mut Dispatch, slot: usize) -> Arc<Link> {
    let link = link();
    dispatch.ready(slot, &link, info(), Instant::now());
    link
}
