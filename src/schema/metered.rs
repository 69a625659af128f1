//! JSON values that count how often they are looked at, so that a check has an end.
//!
//! `jsonschema` sees arguments through [`Node`], whose every look is paid for from the meter of the thread. A check has no other
//! place where it could be told to stop, so an empty meter unwinds the stack, up to where the check began. What a look
//! costs grows with what it may show.

use std::{borrow::Cow, cell::Cell, panic, time::Duration};

use jsonschema::{
    JsonType,
    json::{self, Array, Json, NodeIdentity, Object},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Number, Value, map};

/// What the looks of one check may cost: some tenths of a second. The largest body that is taken by default needs a tenth of it.
const COSTS_MAX: u64 = 50_000_000;

/// Longest time that one check may take of its processor, whatever it does between its looks. How much else is done there does not
/// count: a busy machine must not refuse what an idle one takes.
const TIME_MAX: Duration = Duration::from_secs(2);

/// Looks between two at the clock.
const LOOKS_PER_TICK: u32 = 128;

/// How long a check takes after its first look at the clock that is no short one.
const SHORT_TIME: Duration = Duration::from_millis(1);

/// How deep the stack may be below the beginning of a check. Threads of connections have half a MiB in all.
const STACK_BYTES_MAX: usize = 192 * 1024;

/// What is left of a check's means.
#[derive(Debug, Clone, Copy)]
struct Means {
    costs_left: u64,
    /// In the time of the thread; `None` before the first look at the clock, since most checks are over by then.
    until: Option<Duration>,
    looks_until_tick: u32,
    stack_began_at: usize,
    /// What is done when it has turned out to be long.
    at_length: Option<fn()>,
}

thread_local! {
    static METER: Cell<Option<Means>> = const { Cell::new(None) };
}

/// A check is paid for until this is dropped.
#[derive(Debug)]
pub(super) struct Meter(());

/// Begins a check in this thread, which calls `at_length` once it has turned out to be no short one.
pub(super) fn start(at_length: fn()) -> Meter {
    METER.set(Some(Means {
        costs_left: COSTS_MAX,
        until: None,
        looks_until_tick: LOOKS_PER_TICK,
        stack_began_at: stack_position(),
        at_length: Some(at_length),
    }));
    Meter(())
}

impl Drop for Meter {
    fn drop(&mut self) {
        METER.set(None);
    }
}

/// How long the processor has worked for this thread.
pub(super) fn time_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Where the stack ends now, roughly.
#[inline(never)]
fn stack_position() -> usize {
    let local = 0_u8;
    std::hint::black_box(std::ptr::from_ref(&local) as usize)
}

/// Pays for a look; unwinds when the means are spent. Without a meter, looking is free: an error that shows a value.
fn pay(cost: usize) {
    let Some(mut means) = METER.get() else { return };
    means.looks_until_tick -= 1;
    let is_tick = means.looks_until_tick == 0;
    let mut is_late = false;
    if is_tick {
        means.looks_until_tick = LOOKS_PER_TICK;
        let now = time_of_thread();
        is_late = means.until.is_some_and(|until| until <= now);
        let is_long = means.until.is_some_and(|until| until + SHORT_TIME <= now + TIME_MAX);
        if is_long && let Some(at_length) = means.at_length.take() {
            at_length();
        }
        means.until = means.until.or(Some(now + TIME_MAX));
    }
    let is_deep = STACK_BYTES_MAX < means.stack_began_at.abs_diff(stack_position());
    let left = means.costs_left.checked_sub(1 + cost as u64);
    match left {
        Some(costs_left) if !is_late && !is_deep => METER.set(Some(Means { costs_left, ..means })),
        // Not a panic, which would be logged: it is caught where the check began.
        _ => panic::resume_unwind(Box::new("a check was given up")),
    }
}

/// The kind of values.
#[derive(Debug)]
pub(super) struct Metered;

/// A value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a>(&'a Value);

/// The members of an object.
#[derive(Debug)]
pub(super) struct Members<'a>(&'a Map<String, Value>);

/// The elements of an array.
#[derive(Debug)]
pub(super) struct Elements<'a>(&'a [Value]);

impl<'a> Node<'a> {
    /// Has `value` looked at.
    pub(super) fn new(value: &'a Value) -> Node<'a> {
        Node(value)
    }

    fn look(&self) -> &'a Value {
        pay(0);
        self.0
    }
}

impl Json for Metered {
    type Node<'a> = Node<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Node<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Node(buffer))
    }
}

impl<'a> json::Node<'a, Metered> for Node<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        self.look().as_object().map(Members)
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        self.look().as_array().map(|elements| Elements(elements))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.look().as_str()?;
        // It is read to its end.
        pay(text.len() / 16);
        Some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.look().as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.look().as_bool()
    }

    fn is_null(&self) -> bool {
        self.look().is_null()
    }

    fn json_type(&self) -> JsonType {
        match self.look() {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Borrowed(self.look())
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.look()) as usize))
    }
}

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Node<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Node<'a>> {
        pay(0);
        self.0.get(key).map(Node)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

/// Goes through [`Members`].
#[derive(Debug)]
pub(super) struct MembersIter<'a>(map::Iter<'a>);

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        pay(0);
        self.0.next().map(|(name, value)| (name.as_str(), Node(value)))
    }
}

impl<'a> Array<'a, Metered> for Elements<'a> {
    type Node = Node<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        pay(self.0.len());
        json::unique::is_unique(self.0)
    }
}

/// Goes through [`Elements`].
#[derive(Debug)]
pub(super) struct ElementsIter<'a>(std::slice::Iter<'a, Value>);

impl<'a> Iterator for ElementsIter<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        pay(0);
        self.0.next().map(Node)
    }
}
