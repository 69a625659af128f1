//! The tools of one server, as it listed them.
//!
//! A catalog does not change: a server that changes its tools gets a new one. What is counted for a tool outlives its
//! catalog, by name.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::raw;

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
    /// What was counted for it.
    pub counters: Arc<ToolCounters>,
}

/// What is counted for each tool, since the gateway started.
#[derive(Debug, Default)]
pub struct ToolCounters {
    /// Calls that ended, in whatever way.
    pub calls_total: AtomicU64,
    /// Those that did not end with a result.
    pub errors_total: AtomicU64,
}

impl Catalog {
    /// Reads the entries of `tools/list`. One without a name, or with the name of an earlier one, is left out with a
    /// line in the log. Counters are taken over from `before`.
    pub fn new(server: &str, entries: Vec<Box<RawValue>>, before: &Catalog) -> Catalog {
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
            let counters = before.get(&name).map(|tool| Arc::clone(&tool.counters)).unwrap_or_default();
            let listing = raw::with_string(&raw, "server", server);
            catalog.by_name.insert(name.clone(), catalog.tools.len());
            catalog.tools.push(Arc::new(Tool { name, listing, counters }));
        }
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

impl ToolCounters {
    /// Counts one call.
    pub fn count(&self, is_error: bool) {
        self.calls_total.fetch_add(1, Ordering::Relaxed);
        self.errors_total.fetch_add(u64::from(is_error), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(json: &str, before: &Catalog) -> Catalog {
        Catalog::new("s", serde_json::from_str(json).unwrap(), before)
    }

    #[test]
    fn a_listing_is_what_the_server_said_plus_its_name() {
        let listed = catalog(r#"[{"name":"a","z":1.10,"inputSchema":{"y":1,"x":2}}]"#, &Catalog::default());
        let listing = listed.get("a").unwrap().listing.get();
        assert_eq!(listing, r#"{"name":"a","z":1.10,"inputSchema":{"y":1,"x":2},"server":"s"}"#);
    }

    #[test]
    fn entries_without_a_name_or_with_one_twice_are_left_out() {
        let listed =
            catalog(r#"[{"name":"a","n":1},{},{"name":7},{"name":"a","n":2},{"name":"b"}]"#, &Catalog::default());
        let names: Vec<_> = listed.tools().iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(listed.get("a").unwrap().listing.get().contains(r#""n":1"#));
    }

    #[test]
    fn counters_outlive_a_change_of_the_list() {
        let before = catalog(r#"[{"name":"a"}]"#, &Catalog::default());
        before.get("a").unwrap().counters.count(true);
        let after = catalog(r#"[{"name":"b"},{"name":"a"}]"#, &before);
        assert_eq!(after.get("a").unwrap().counters.errors_total.load(Ordering::Relaxed), 1);
    }
}
