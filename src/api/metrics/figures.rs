//! What there is to say at one moment, gathered from where it is counted.

use std::collections::BTreeMap;

use crate::{
    access::{Principal, Usage},
    api::{Api, Counters},
    pool::{Pool, PoolFigures, PoolState, Roster, TotalsSnapshot, WorkerSnapshot, buckets::Distribution},
    worker::usage::{self, OwnUsage},
};

/// Keys that are named; what further ones have done is added up under [`OTHERS`].
pub(super) const KEYS_MAX: usize = 100;

/// Stands for the keys that are not named. No key can be called so.
const OTHERS: &str = "(others)";

/// See the module.
pub(super) struct Figures<'a> {
    pub(super) api: &'a Api,
    pub(super) servers: Vec<Server<'a>>,
    pub(super) tools: Vec<Tool<'a>>,
    /// By name.
    pub(super) keys: Vec<(String, Usage)>,
    pub(super) process: Option<OwnUsage>,
    /// Descriptors that are open, and that may be.
    pub(super) descriptors: (Option<u64>, Option<u64>),
}

/// A server and its workers.
pub(super) struct Server<'a> {
    pub(super) name: &'a str,
    pub(super) state: PoolState,
    pub(super) figures: PoolFigures,
    pub(super) totals: TotalsSnapshot,
    pub(super) in_flight: usize,
    pub(super) queued: usize,
    pub(super) workers: Vec<WorkerSnapshot>,
}

/// A tool that was called.
pub(super) struct Tool<'a> {
    pub(super) server: &'a str,
    pub(super) name: String,
    pub(super) durations: Distribution,
    pub(super) errors_by_code: BTreeMap<&'static str, u64>,
}

impl Figures<'_> {
    /// Everything that `principal` may see, of the servers in `roster`.
    pub(super) fn gather<'a>(api: &'a Api, roster: &'a Roster, principal: &Principal) -> Figures<'a> {
        let tools = roster.tools(None).filter_map(|(pool, tool)| {
            let (durations, errors_by_code) = tool.figures.distribution()?;
            Some(Tool { server: pool.server(), name: tool.name.clone(), durations, errors_by_code })
        });
        Figures {
            api,
            servers: roster.pools().iter().map(|pool| Server::gather(pool)).collect(),
            tools: tools.collect(),
            keys: keys(api, principal),
            process: usage::own_usage(),
            descriptors: usage::own_descriptors(),
        }
    }

    /// One of the gateway's counters.
    pub(super) fn counter(&self, of: impl FnOnce(&Counters) -> u64) -> u64 {
        of(&self.api.counters)
    }
}

impl Server<'_> {
    fn gather(pool: &Pool) -> Server<'_> {
        let (in_flight, queued) = pool.load();
        Server {
            name: pool.server(),
            state: pool.state(),
            figures: pool.figures(),
            totals: pool.totals(),
            in_flight,
            queued,
            workers: pool.workers(),
        }
    }
}

/// The keys that `principal` may see.
fn keys(api: &Api, principal: &Principal) -> Vec<(String, Usage)> {
    let is_shown = |it: &Principal| principal.may_use_everything() || it.name == principal.name;
    let shown = api.access.principals().into_iter().filter(|it| is_shown(it));
    named(shown.map(|it| (it.name.to_string(), it.usage())))
}

/// The first keys by name, and the others added up.
fn named(keys: impl Iterator<Item = (String, Usage)>) -> Vec<(String, Usage)> {
    let mut named: Vec<_> = keys.collect();
    if KEYS_MAX < named.len() {
        let others = named.split_off(KEYS_MAX).into_iter().fold(Usage::default(), |sum, (_, usage)| Usage {
            calls: sum.calls + usage.calls,
            errors: sum.errors + usage.errors,
            rate_limited: sum.rate_limited + usage.rate_limited,
            in_flight: sum.in_flight + usage.in_flight,
        });
        named.push((OTHERS.to_owned(), others));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(n: usize) -> Vec<(String, Usage)> {
        let usage = Usage { calls: 5, errors: 3, rate_limited: 2, in_flight: 1 };
        named((0..n).map(|index| (format!("key-{index}"), usage)))
    }

    #[test]
    fn only_so_many_keys_are_named_and_none_is_lost() {
        assert!(keys_of(KEYS_MAX).iter().all(|(name, _)| name != OTHERS));
        let keys = keys_of(KEYS_MAX + 7);
        assert_eq!(keys.len(), KEYS_MAX + 1);
        let others = Usage { calls: 35, errors: 21, rate_limited: 14, in_flight: 7 };
        assert_eq!(keys.last(), Some(&(OTHERS.to_owned(), others)));
        assert!(!crate::config::is_plain_name(OTHERS));
    }
}
