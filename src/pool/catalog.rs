//! The tools of one server, as it listed them.
//!
//! A catalog does not change: a server that changes its tools gets a new one. What is counted for a tool outlives its
//! catalog, by name, and is shared by all catalogs of a server: its workers may list different tools to different clients.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{buckets::Distribution, dispatch::MORE_WORKERS, lock};
use crate::{
    error::Error,
    mcp::raw,
    schema::Schema,
    threads::about_to_wait,
    worker::{Habits, ServerInfo, mailbox::Mailbox},
};

/// Digits of a latency that are kept. Each further one takes about ten times the memory.
const LATENCY_DIGITS: u8 = 2;

/// The tools of one server.
#[derive(Debug, Default)]
pub struct Catalog {
    tools: Vec<Arc<Tool>>,
    by_name: HashMap<String, usize>,
}

/// One tool.
#[derive(Debug)]
pub struct Tool {
    /// The name its server gave it.
    pub name: String,
    /// The whole entry as the server gave it, plus `server`.
    pub listing: Box<RawValue>,
    /// Whether its server says that a second call does no harm: it only reads, or it changes nothing more the second time.
    pub may_repeat: bool,
    /// What was counted for it.
    pub figures: Arc<ToolFigures>,
    /// What its calls have shown of it.
    pub habits: Arc<Habits>,
    /// Its arguments that are said in a header as well, and what that is called, once that is known.
    pub in_headers: OnceLock<Vec<(String, String)>>,
    /// The rules of its `inputSchema`, shared by all catalogs that have the same.
    rules: Arc<Schema>,
}

/// What the tools of some workers of a server are now, for everybody who waits to know.
#[derive(Debug)]
pub(super) struct Catalogs {
    server: Arc<str>,
    ledger: Arc<Ledger>,
    known: Mutex<Known>,
    /// Notified when `known` changes, or when it turns out that it will not.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    catalog: Option<Arc<Catalog>>,
    /// Hash of the entries it was made of.
    hash: u64,
    /// What the server last said of itself.
    info: Option<Arc<ServerInfo>>,
    /// Callers that wait for the first catalog.
    n_waiting: usize,
}

/// How often a caller that waits for a server's first words looks whether its client is still there.
pub(super) const CLIENT_LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Catalogs {
    /// `ledger` is that of the server.
    pub(super) fn new(server: Arc<str>, ledger: Arc<Ledger>) -> Catalogs {
        Catalogs { server, ledger, known: Mutex::default(), changed: Condvar::new() }
    }

    /// The tools, if any worker has told them yet.
    pub(super) fn get(&self) -> Option<Arc<Catalog>> {
        lock(&self.known).catalog.clone()
    }

    /// What the server says of itself, as soon as its tools are known.
    pub(super) fn info(&self) -> Option<Arc<ServerInfo>> {
        lock(&self.known).info.clone()
    }

    /// The tools, waiting for the server's first worker at most until `deadline`, and only while `client` is there and
    /// there is no `refusal`.
    ///
    /// Fails with that refusal, with [`Error::NoWorker`] when the time is up, with [`Error::Overloaded`] when `waiting_max`
    /// wait already.
    pub(super) fn get_by(
        &self,
        deadline: Instant,
        client: &Mailbox,
        waiting_max: usize,
        refusal: impl Fn() -> Option<Error>,
    ) -> Result<Arc<Catalog>, Error> {
        self.wait(deadline, client, waiting_max, refusal, |known| known.catalog.clone())
    }

    /// What the server says of itself. Waits and fails as [`Catalogs::get_by`] does.
    pub(super) fn info_by(
        &self,
        deadline: Instant,
        client: &Mailbox,
        waiting_max: usize,
        refusal: impl Fn() -> Option<Error>,
    ) -> Result<Arc<ServerInfo>, Error> {
        self.wait(deadline, client, waiting_max, refusal, |known| known.info.clone())
    }

    /// Waits for something to be `known`.
    fn wait<T>(
        &self,
        deadline: Instant,
        client: &Mailbox,
        waiting_max: usize,
        refusal: impl Fn() -> Option<Error>,
        wanted: impl Fn(&Known) -> Option<T>,
    ) -> Result<T, Error> {
        let retry_after = Duration::from_secs(1);
        let mut known = lock(&self.known);
        if known.catalog.is_none() && waiting_max <= known.n_waiting {
            let what = format!("{waiting_max} calls wait for server `{}` to start already", self.server);
            return Err(Error::Overloaded { what, hint: MORE_WORKERS, retry_after });
        }
        loop {
            if let Some(wanted) = wanted(&known) {
                return Ok(wanted);
            }
            if let Some(error) = refusal() {
                return Err(error);
            }
            let now = Instant::now();
            if deadline <= now || client.is_closed() {
                let (server, reason) = (self.server.to_string(), "it is still starting".to_owned());
                return Err(Error::NoWorker { server, reason, retry_after });
            }
            let pause = CLIENT_LOOK_INTERVAL.min(deadline - now);
            known.n_waiting += 1;
            about_to_wait();
            (known, _) = self.changed.wait_timeout(known, pause).unwrap_or_else(PoisonError::into_inner);
            known.n_waiting -= 1;
        }
    }

    /// A new worker has told who its server is, and its tools. Whether these are others than were known before.
    pub(super) fn meet(&self, info: &Arc<ServerInfo>, tools: Vec<Box<RawValue>>) -> bool {
        let mut known = lock(&self.known);
        known.info = Some(Arc::clone(info));
        let was_known = known.catalog.is_some();
        self.note_tools(&mut known, tools) && was_known
    }

    /// A worker has told the server's tools anew.
    pub(super) fn learn(&self, tools: Vec<Box<RawValue>>) {
        self.note_tools(&mut lock(&self.known), tools);
    }

    /// Notes tools. Most workers tell what is known already; false then.
    fn note_tools(&self, known: &mut Known, tools: Vec<Box<RawValue>>) -> bool {
        let mut hasher = DefaultHasher::new();
        tools.iter().for_each(|tool| tool.get().hash(&mut hasher));
        let hash = hasher.finish();
        if known.catalog.is_some() && known.hash == hash {
            return false;
        }
        known.catalog = Some(Arc::new(Catalog::new(&self.server, tools, &self.ledger)));
        known.hash = hash;
        self.changed.notify_all();
        true
    }

    /// Has those who wait look again whether they wait in vain.
    pub(super) fn nudge(&self) {
        // The lock orders this behind a caller that has just found the server hopeful and is about to wait.
        let _known = lock(&self.known);
        self.changed.notify_all();
    }
}

/// What is known of the calls of a server's tools, by their names, as long as some catalog has such a tool.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<HashMap<String, Account>>);

/// What is known of the calls of one tool, as long as its catalogs keep it.
#[derive(Debug)]
struct Account {
    figures: Weak<ToolFigures>,
    habits: Weak<Habits>,
    /// The rules of the entry that was read last, and its hash.
    rules: Weak<Schema>,
    entry_hash: u64,
}

impl Ledger {
    /// What is known of the calls of one tool.
    fn open(&self, name: &str) -> (Arc<ToolFigures>, Arc<Habits>) {
        let mut accounts = lock(&self.0);
        let known = accounts.get(name).and_then(|it| Some((it.figures.upgrade()?, it.habits.upgrade()?)));
        known.unwrap_or_else(|| {
            let (figures, habits) = <(Arc<ToolFigures>, Arc<Habits>)>::default();
            let (figures_kept, habits_kept) = (Arc::downgrade(&figures), Arc::downgrade(&habits));
            let account = Account { figures: figures_kept, habits: habits_kept, rules: Weak::new(), entry_hash: 0 };
            accounts.insert(name.to_owned(), account);
            (figures, habits)
        })
    }

    /// The rules for the arguments of the tool `name`, which is known, whose server lists it as `entry`. Each session may have
    /// workers of its own, and so a catalog; the rules are made ready for all of them once.
    fn rules(&self, name: &str, entry: &RawValue) -> Arc<Schema> {
        let mut hasher = DefaultHasher::new();
        entry.get().hash(&mut hasher);
        let hash = hasher.finish();
        let mut accounts = lock(&self.0);
        let Some(account) = accounts.get_mut(name) else { return Arc::default() };
        let known = account.rules.upgrade().filter(|_| account.entry_hash == hash);
        known.unwrap_or_else(|| {
            let rules = Arc::default();
            account.rules = Arc::downgrade(&rules);
            account.entry_hash = hash;
            rules
        })
    }

    /// Forgets tools that no catalog has any more.
    fn close_unused(&self) {
        lock(&self.0).retain(|_, account| 0 < account.figures.strong_count());
    }
}

/// What is counted for each tool, since the gateway started.
#[derive(Debug, Default)]
pub struct ToolFigures {
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    errors_by_code: BTreeMap<&'static str, u64>,
    /// Microseconds. It is made by the first call: most tools of most servers are never called.
    latency: Option<Histogram<u64>>,
    /// What all of them took together.
    latency_sum_micros: u64,
}

/// The figures of a tool as `/stats` shows them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolSnapshot {
    /// Calls that ended, in whatever way.
    pub calls: u64,
    /// Those that did not end with a result.
    pub errors: u64,
    /// Those by [`Error::code`](crate::error::Error::code), or `cancelled`.
    pub errors_by_code: BTreeMap<&'static str, u64>,
    /// Half of all calls took at most this long, from their arrival to their end. `None` before the first.
    pub p50_ms: Option<f64>,
    /// As many as nine in ten took at most this long.
    pub p90_ms: Option<f64>,
    /// As many as 99 in a hundred took at most this long.
    pub p99_ms: Option<f64>,
}

impl Catalog {
    /// Reads the entries of `tools/list`. One without a name, or with the name of an earlier one, is left out with a
    /// line in the log. What is known of a tool's calls is in `ledger`.
    fn new(server: &str, entries: Vec<Box<RawValue>>, ledger: &Ledger) -> Catalog {
        #[derive(Deserialize)]
        struct Entry {
            name: String,
        }
        let mut catalog = Catalog::default();
        for raw in entries {
            let Ok(Entry { name }) = serde_json::from_str(raw.get()) else {
                log::warn!("server {server} lists a tool without a name: {}", raw.get());
                continue;
            };
            if catalog.by_name.contains_key(&name) {
                log::warn!("server {server} lists tool `{name}` twice; the first one counts");
                continue;
            }
            let (figures, habits) = ledger.open(&name);
            let listing = raw::with_string(&raw, "server", server);
            let may_repeat = may_repeat(&raw);
            let rules = ledger.rules(&name, &raw);
            catalog.by_name.insert(name.clone(), catalog.tools.len());
            let in_headers = OnceLock::new();
            catalog.tools.push(Arc::new(Tool { name, listing, may_repeat, figures, habits, in_headers, rules }));
        }
        ledger.close_unused();
        catalog
    }

    /// All tools, in the server's order.
    pub fn tools(&self) -> &[Arc<Tool>] {
        &self.tools
    }

    /// The tool of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Tool>> {
        self.by_name.get(name).map(|index| &self.tools[*index])
    }
}

impl Tool {
    /// Fails with what is wrong with `arguments`, a JSON object, by the tool's `inputSchema`, which is made ready by the first
    /// call.
    pub fn check_arguments(&self, arguments: &RawValue) -> Result<(), String> {
        let schema = || raw::field(&self.listing, "inputSchema");
        let who = || format!("`{}` of server {}", self.name, raw::text(&self.listing, "server").unwrap_or_default());
        self.rules.check(who, schema, arguments, about_to_wait)
    }
}

impl ToolFigures {
    /// Counts one call, which took `duration`; `error_code` says why it has no result.
    pub fn count(&self, duration: Duration, error_code: Option<&'static str>) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut tally = lock(&self.tally);
        tally.calls += 1;
        tally.latency_sum_micros = tally.latency_sum_micros.saturating_add(micros);
        if let Some(code) = error_code {
            *tally.errors_by_code.entry(code).or_default() += 1;
        }
        let new = || Histogram::new(LATENCY_DIGITS).expect("up to 5 digits can be kept");
        // It grows for every value it can hold at all, which is centuries.
        let _ = tally.latency.get_or_insert_with(new).record(micros);
    }

    /// How long its calls took, and how many of them had no result, by code. `None` before the first.
    pub fn distribution(&self) -> Option<(Distribution, BTreeMap<&'static str, u64>)> {
        let tally = lock(&self.tally);
        let latency = tally.latency.as_ref()?;
        Some((Distribution::of(latency, tally.latency_sum_micros), tally.errors_by_code.clone()))
    }

    /// The figures as they stand now.
    pub fn snapshot(&self) -> ToolSnapshot {
        let tally = lock(&self.tally);
        #[allow(clippy::cast_precision_loss, reason = "only two digits of it are kept anyway")]
        let percentile = |quantile: f64| Some(tally.latency.as_ref()?.value_at_quantile(quantile) as f64 / 1000.0);
        ToolSnapshot {
            calls: tally.calls,
            errors: tally.errors_by_code.values().sum(),
            errors_by_code: tally.errors_by_code.clone(),
            p50_ms: percentile(0.5),
            p90_ms: percentile(0.9),
            p99_ms: percentile(0.99),
        }
    }
}

/// Whether the annotations of an entry say that a second call does no harm. Anything but `true` does not say so.
fn may_repeat(entry: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Value,
    }
    let annotations =
        serde_json::from_str(entry.get()).map(|Annotated { annotations }| annotations).unwrap_or_default();
    ["readOnlyHint", "idempotentHint"].iter().any(|hint| annotations[*hint] == true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mcp::revision::Era, worker::testing};

    fn catalog(json: &str) -> Catalog {
        Catalog::new("s", tools(json), &Ledger::default())
    }

    fn tools(json: &str) -> Vec<Box<RawValue>> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_listing_is_what_the_server_said_plus_its_name() {
        let listed = catalog(r#"[{"name":"a","z":1.10,"inputSchema":{"y":1,"x":2}}]"#);
        let listing = listed.get("a").unwrap().listing.get();
        assert_eq!(listing, r#"{"name":"a","z":1.10,"inputSchema":{"y":1,"x":2},"server":"s"}"#);
    }

    #[test]
    fn entries_without_a_name_or_with_one_twice_are_left_out() {
        let listed = catalog(r#"[{"name":"a","n":1},{},{"name":7},{"name":"a","n":2},{"name":"b"}]"#);
        let names: Vec<_> = listed.tools().iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(listed.get("a").unwrap().listing.get().contains(r#""n":1"#));
    }

    #[test]
    fn a_tool_may_be_repeated_when_its_annotations_say_so() {
        let listed = |annotations: &str| {
            let json = format!(r#"[{{"name":"a","annotations":{annotations}}}]"#);
            catalog(&json).get("a").expect(annotations).may_repeat
        };
        for yes in [
            r#"{"readOnlyHint":true}"#,
            r#"{"idempotentHint":true,"destructiveHint":true}"#,
            r#"{"readOnlyHint":false,"idempotentHint":true}"#,
        ] {
            assert!(listed(yes), "{yes}");
        }
        for no in [
            "null",
            "{}",
            "true",
            r#""readOnlyHint""#,
            "[true]",
            r#"{"readOnlyHint":"true"}"#,
            r#"{"readOnlyHint":1}"#,
            r#"{"readOnlyHint":{"true":true},"idempotentHint":false}"#,
            r#"{"readOnlyHint":1e999}"#,
        ] {
            assert!(!listed(no), "{no}");
        }
        assert!(!catalog(r#"[{"name":"a"}]"#).get("a").unwrap().may_repeat);
    }

    #[test]
    fn what_is_known_already_is_not_learned_again() {
        let catalogs = Catalogs::new("s".into(), Arc::default());
        catalogs.learn(tools(r#"[{"name":"a"}]"#));
        let first = catalogs.get().unwrap();
        catalogs.learn(tools(r#"[{"name":"a"}]"#));
        assert!(Arc::ptr_eq(&first, &catalogs.get().unwrap()));
        catalogs.learn(tools(r#"[{"name":"a","title":"A"}]"#));
        assert!(!Arc::ptr_eq(&first, &catalogs.get().unwrap()));
    }

    #[test]
    fn a_new_worker_with_other_tools_is_noticed() {
        let catalogs = Catalogs::new("s".into(), Arc::default());
        let info = Arc::new(testing::info(Era::Legacy, "{}"));
        assert!(catalogs.info().is_none());
        assert!(!catalogs.meet(&info, tools(r#"[{"name":"a"}]"#)), "the first one");
        assert!(!catalogs.meet(&info, tools(r#"[{"name":"a"}]"#)), "the same");
        assert!(catalogs.meet(&info, tools(r#"[{"name":"b"}]"#)));
        assert!(catalogs.info().is_some_and(|it| Arc::ptr_eq(&it, &info)));
    }

    #[test]
    fn figures_outlive_a_change_of_the_list() {
        let ledger = Ledger::default();
        let before = Catalog::new("s", tools(r#"[{"name":"a"}]"#), &ledger);
        before.get("a").unwrap().figures.count(Duration::from_millis(1), Some("timeout"));
        let after = Catalog::new("s", tools(r#"[{"name":"b"},{"name":"a"}]"#), &ledger);
        drop(before);
        assert_eq!(after.get("a").unwrap().figures.snapshot().errors, 1);
        drop(after);
        Catalog::new("s", Vec::new(), &ledger);
        assert!(lock(&ledger.0).is_empty(), "nobody has these tools any more");
    }

    #[test]
    fn catalogs_of_one_server_count_together_and_list_apart() {
        let ledger = Arc::default();
        let [one, other] = [(); 2].map(|()| Catalogs::new("s".into(), Arc::clone(&ledger)));
        one.learn(tools(r#"[{"name":"a","title":"A"}]"#));
        other.learn(tools(r#"[{"name":"a"},{"name":"b"}]"#));
        let [one, other] = [one, other].map(|catalogs| catalogs.get().unwrap());
        assert_eq!((one.tools().len(), other.tools().len()), (1, 2));
        one.get("a").unwrap().habits.usual.note(Duration::from_millis(1));
        assert_eq!(other.get("a").unwrap().habits.usual.get(), Some(Duration::from_millis(1)));
    }

    #[test]
    fn figures_tell_errors_by_code_and_how_long_calls_take() {
        let figures = ToolFigures::default();
        let snapshot = figures.snapshot();
        assert_eq!((snapshot.calls, snapshot.errors, snapshot.p50_ms, snapshot.p99_ms), (0, 0, None, None));

        (1..=97).for_each(|ms| figures.count(Duration::from_millis(ms), None));
        figures.count(Duration::ZERO, Some("overloaded"));
        for seconds in [3600, u64::MAX] {
            figures.count(Duration::from_secs(seconds), Some("timeout"));
        }
        let snapshot = figures.snapshot();
        assert_eq!((snapshot.calls, snapshot.errors), (100, 3));
        assert_eq!(snapshot.errors_by_code, BTreeMap::from([("overloaded", 1), ("timeout", 2)]));
        for (percentile, ms) in [(snapshot.p50_ms, 49.0), (snapshot.p90_ms, 89.0), (snapshot.p99_ms, 3_600_000.0)] {
            let percentile = percentile.expect("there were calls");
            assert!((percentile - ms).abs() <= ms / 100.0, "{percentile} ms, not about {ms} ms");
        }
    }
}
