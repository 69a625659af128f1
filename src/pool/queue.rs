//! Calls that wait for a worker: in the order they came, and the keys in turn.
//!
//! Each key has a line of its own. The front call of each line goes in turn, so a key with a thousand calls waiting
//! delays another key's by one of them. When the queue is full and somebody with a shorter line comes, the newest of the longest
//! line has to leave for him: a queue full of one key's calls would else shut all others out.
//!
//! Exclusive calls, which wait for a worker of their own, and others pass each other.
//!
//! **Limit.** `QUEUE_MAX` calls of all keys together.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::worker::Call;

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A place beside other calls.
    Shared,
    /// A worker without any other call.
    Exclusive,
}

impl Kind {
    /// What `call` waits for.
    pub(super) fn of(call: &Call) -> Kind {
        if call.is_exclusive() { Kind::Exclusive } else { Kind::Shared }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Lines,
    exclusive: Lines,
    calls_max: usize,
    peak: usize,
    n_pushed: u64,
}

/// What became of a call that came.
#[derive(Debug)]
pub(super) enum Queued {
    /// It waits.
    Yes,
    /// It waits, and this one has left for it.
    InsteadOf(Arc<Call>),
    /// There is no room for it.
    No,
}

/// Lines of calls of one kind.
#[derive(Debug, Default)]
struct Lines {
    by_key: HashMap<Arc<str>, VecDeque<Waiting>>,
    /// Keys with calls, the one whose turn it is first.
    turns: VecDeque<Arc<str>>,
    n_calls: usize,
}

/// A call, which one it was to come, of all, and when.
#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Instant,
    call: Arc<Call>,
}

impl Queue {
    pub(super) fn new(calls_max: usize) -> Queue {
        Queue { shared: Lines::default(), exclusive: Lines::default(), calls_max, peak: 0, n_pushed: 1 }
    }

    /// Lets so many calls wait from now on; those that wait already stay.
    pub(super) fn set_calls_max(&mut self, calls_max: usize) {
        self.calls_max = calls_max;
    }

    /// Calls that wait.
    pub(super) fn len(&self) -> usize {
        self.shared.n_calls + self.exclusive.n_calls
    }

    /// Calls of this kind that wait.
    pub(super) fn len_of(&self, kind: Kind) -> usize {
        self.lines(kind).n_calls
    }

    /// Most calls that ever waited.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// Whether no call of this kind waits.
    pub(super) fn is_empty_of(&self, kind: Kind) -> bool {
        self.lines(kind).n_calls == 0
    }

    /// Puts a call at the end of its key's line.
    pub(super) fn push(&mut self, call: &Arc<Call>, now: Instant) -> Queued {
        let mut left = None;
        if self.calls_max <= self.len() {
            match self.newest_of_longest(key_of(call)) {
                Some(newest) => {
                    self.remove(&newest);
                    left = Some(newest);
                }
                None => return Queued::No,
            }
        }
        self.n_pushed += 1;
        let number = self.n_pushed;
        self.lines_mut(Kind::of(call)).push_back(Waiting { number, since: now, call: Arc::clone(call) });
        self.peak = self.peak.max(self.len());
        left.map_or(Queued::Yes, Queued::InsteadOf)
    }

    /// Puts a call that had been given hope of a worker before all others of its kind, whatever the limit.
    pub(super) fn push_front(&mut self, call: &Arc<Call>, now: Instant) {
        self.lines_mut(Kind::of(call)).push_front(Waiting { number: 0, since: now, call: Arc::clone(call) });
    }

    /// The kinds of which calls wait, the one first whose turn has waited for longer.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let number = |kind| self.lines(kind).front().map(|waiting| waiting.number);
        let (shared, exclusive) = (number(Kind::Shared), number(Kind::Exclusive));
        let is_exclusive_first = exclusive.is_some_and(|exclusive| shared.is_none_or(|shared| exclusive < shared));
        let kinds = [(shared, Kind::Shared), (exclusive, Kind::Exclusive)];
        let kinds = if is_exclusive_first { [kinds[1], kinds[0]] } else { kinds };
        kinds.into_iter().filter(|(number, _)| number.is_some()).map(|(_, kind)| kind)
    }

    /// The call of this kind whose turn it is.
    pub(super) fn front(&self, kind: Kind) -> Option<&Arc<Call>> {
        self.lines(kind).front().map(|waiting| &waiting.call)
    }

    /// Takes the call of this kind whose turn it is, and since when it has waited.
    pub(super) fn pop(&mut self, kind: Kind) -> Option<(Arc<Call>, Instant)> {
        self.lines_mut(kind).pop().map(|waiting| (waiting.call, waiting.since))
    }

    /// Takes a call out. False when it does not wait here.
    pub(super) fn remove(&mut self, call: &Arc<Call>) -> bool {
        self.lines_mut(Kind::of(call)).remove(call)
    }

    /// Takes all calls out.
    pub(super) fn drain(&mut self) -> Vec<Arc<Call>> {
        let mut calls = Vec::with_capacity(self.len());
        for lines in [&mut self.exclusive, &mut self.shared] {
            while let Some(waiting) = lines.pop() {
                calls.push(waiting.call);
            }
        }
        calls
    }

    /// The newest call of the longest line, when that is longer than the line of `key` will be.
    fn newest_of_longest(&self, key: &Arc<str>) -> Option<Arc<Call>> {
        let length = |key: &Arc<str>| self.shared.len_of(key) + self.exclusive.len_of(key);
        let keys = self.shared.turns.iter().chain(&self.exclusive.turns);
        let longest = keys.max_by_key(|key| length(key))?;
        if length(longest) <= length(key) + 1 {
            return None;
        }
        let newest = |lines: &Lines| Some(Arc::clone(&lines.by_key.get(longest)?.back()?.call));
        newest(&self.shared).or_else(|| newest(&self.exclusive))
    }

    fn lines(&self, kind: Kind) -> &Lines {
        match kind {
            Kind::Shared => &self.shared,
            Kind::Exclusive => &self.exclusive,
        }
    }

    fn lines_mut(&mut self, kind: Kind) -> &mut Lines {
        match kind {
            Kind::Shared => &mut self.shared,
            Kind::Exclusive => &mut self.exclusive,
        }
    }
}

impl Lines {
    fn len_of(&self, key: &Arc<str>) -> usize {
        self.by_key.get(key).map_or(0, VecDeque::len)
    }

    fn front(&self) -> Option<&Waiting> {
        self.by_key.get(self.turns.front()?)?.front()
    }

    fn push_back(&mut self, waiting: Waiting) {
        let key = Arc::clone(key_of(&waiting.call));
        let line = self.by_key.entry(Arc::clone(&key)).or_default();
        if line.is_empty() {
            self.turns.push_back(key);
        }
        line.push_back(waiting);
        self.n_calls += 1;
    }

    fn push_front(&mut self, waiting: Waiting) {
        let key = Arc::clone(key_of(&waiting.call));
        self.turns.retain(|it| *it != key);
        self.turns.push_front(Arc::clone(&key));
        self.by_key.entry(key).or_default().push_front(waiting);
        self.n_calls += 1;
    }

    fn pop(&mut self) -> Option<Waiting> {
        let key = self.turns.pop_front()?;
        let line = self.by_key.get_mut(&key)?;
        let waiting = line.pop_front()?;
        self.n_calls -= 1;
        if line.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        Some(waiting)
    }

    fn remove(&mut self, call: &Arc<Call>) -> bool {
        let key = key_of(call);
        let Some(line) = self.by_key.get_mut(key) else { return false };
        let Some(index) = line.iter().position(|it| Arc::ptr_eq(&it.call, call)) else { return false };
        line.remove(index);
        self.n_calls -= 1;
        if line.is_empty() {
            self.by_key.remove(key);
            self.turns.retain(|it| it != key);
        }
        true
    }
}

/// Whose call it is. The gateway's own requests never wait.
fn key_of(call: &Call) -> &Arc<str> {
    static NOBODY: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "".into());
    call.terms.as_ref().map_or(&NOBODY, |terms| &terms.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::testing::{call_of, exclusive_of};

    fn queue_of(calls_max: usize, calls: &[Arc<Call>]) -> Queue {
        let mut queue = Queue::new(calls_max);
        for call in calls {
            assert!(matches!(queue.push(call, Instant::now()), Queued::Yes));
        }
        queue
    }

    #[track_caller]
    fn check_order(queue: &mut Queue, kind: Kind, expected: &[&Arc<Call>]) {
        for (index, expected) in expected.iter().enumerate() {
            assert!(queue.pop(kind).is_some_and(|(call, _)| Arc::ptr_eq(&call, expected)), "call {index}");
        }
        assert!(queue.is_empty_of(kind));
    }

    #[test]
    fn one_key_is_served_in_the_order_of_its_calls() {
        let calls = ["a", "a", "a"].map(call_of);
        check_order(&mut queue_of(10, &calls), Kind::Shared, &[&calls[0], &calls[1], &calls[2]]);
    }

    #[test]
    fn keys_take_turns_however_long_their_lines_are() {
        let calls = ["a", "a", "a", "b", "c", "b"].map(call_of);
        let order = [0, 3, 4, 1, 5, 2].map(|index| &calls[index]);
        check_order(&mut queue_of(10, &calls), Kind::Shared, &order);
    }

    #[test]
    fn calls_of_different_kinds_pass_each_other() {
        let calls = [call_of("a"), exclusive_of("a"), call_of("a")];
        let mut queue = queue_of(10, &calls);
        check_order(&mut queue, Kind::Exclusive, &[&calls[1]]);
        check_order(&mut queue, Kind::Shared, &[&calls[0], &calls[2]]);
    }

    #[test]
    fn a_full_queue_makes_room_for_a_newcomer_at_the_cost_of_the_longest_line() {
        let calls = ["a", "a", "a"].map(call_of);
        let mut queue = queue_of(3, &calls);
        assert!(matches!(queue.push(&call_of("a"), Instant::now()), Queued::No));
        let newcomer = call_of("b");
        assert!(
            matches!(queue.push(&newcomer, Instant::now()), Queued::InsteadOf(left) if Arc::ptr_eq(&left, &calls[2]))
        );
        assert!(matches!(queue.push(&call_of("b"), Instant::now()), Queued::No), "two of `a` and two of `b` are even");
        assert_eq!((queue.len(), queue.peak()), (3, 3));
        check_order(&mut queue, Kind::Shared, &[&calls[0], &newcomer, &calls[1]]);
    }

    #[test]
    fn a_call_that_leaves_takes_its_turn_along() {
        let calls = ["a", "b", "c"].map(call_of);
        let mut queue = queue_of(10, &calls);
        assert!(queue.remove(&calls[0]) && !queue.remove(&calls[0]));
        queue.push_front(&calls[0], Instant::now());
        assert!(queue.remove(&calls[1]));
        check_order(&mut queue, Kind::Shared, &[&calls[0], &calls[2]]);
        assert_eq!(queue.drain().len(), 0);
    }
}
