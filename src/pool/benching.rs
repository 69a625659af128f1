//! Which worker takes a call, and the queue before them, for `crate::benching`.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    dispatch::{Admitted, Dispatch, Left, Placed},
    queue::{Kind, Queue, Queued},
    testing::{call, call_of, ready, rules, start},
};
use crate::worker::{Call, Link};

/// Calls that wait.
const QUEUED: usize = 1000;

/// A call comes to idle workers and goes.
pub(crate) fn dispatch(n_workers: usize, times: u32) {
    let (mut dispatch, _links) = start_with(n_workers, 2);
    let (call, now) = (call(), Instant::now());
    for _ in 0..times {
        let placed = admit(&mut dispatch, &call, now);
        let next = dispatch.call_left(placed.slot, &placed.link, &placed.call, Left::Answered, now);
        assert!(next.is_empty());
    }
}

/// A call leaves one of 64 busy workers, and one of many that wait takes its place.
pub(crate) fn dispatch_full(times: u32) {
    let (mut dispatch, _links) = start_with(64, 1);
    let now = Instant::now();
    let mut running: Vec<Placed> = (0..64).map(|_| admit(&mut dispatch, &call(), now)).collect();
    for _ in 0..QUEUED {
        assert!(matches!(dispatch.admit(&call(), now), Ok(Admitted::Waits)));
    }
    for n in 0..times {
        let index = n as usize % running.len();
        let left = &running[index];
        let mut next = dispatch.call_left(left.slot, &left.link, &left.call, Left::Answered, now);
        let again = std::mem::replace(&mut running[index], next.pop().expect("somebody waits"));
        assert!(matches!(dispatch.admit(&again.call, now), Ok(Admitted::Waits)));
    }
}

/// A thousand calls of so many keys come to wait, and go in turn.
pub(crate) fn queue(n_keys: usize, times: u32) {
    let calls: Vec<Arc<Call>> = (0..QUEUED).map(|n| call_of(&format!("key-{}", n % n_keys))).collect();
    let (mut queue, now) = (Queue::new(QUEUED), Instant::now());
    for _ in 0..times {
        for call in &calls {
            assert!(matches!(queue.push(call, now), Queued::Yes));
        }
        while let Some(popped) = queue.pop(Kind::Shared) {
            black_box(popped);
        }
    }
}

fn start_with(n_workers: usize, concurrency: usize) -> (Dispatch, Vec<Arc<Link>>) {
    let mut rules = rules(n_workers, n_workers, concurrency);
    rules.scale_up_after = Duration::from_secs(3600);
    let mut dispatch = start(rules, Instant::now());
    let links = (0..n_workers).map(|slot| ready(&mut dispatch, slot)).collect();
    (dispatch, links)
}

fn admit(dispatch: &mut Dispatch, call: &Arc<Call>, now: Instant) -> Placed {
    match dispatch.admit(call, now) {
        Ok(Admitted::Placed(placed)) => placed,
        other => panic!("no place: {other:?}"),
    }
}
