//! Whose request it is: what their key allows, and what they have used.
//!
//! A key that is changed in its file gets a new [`Principal`], and the old one says so to those who still hold it, such as a
//! WebSocket that was opened with it. What is counted goes by the name and outlives changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use serde::Serialize;
use wildmatch::WildMatch;

use super::{
    keyfile::KeyEntry,
    limiter::{Limiter, Rate, Standing},
};
use crate::error::Error;

/// When to try again after too many calls at the same time: nobody knows when one ends.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Principal {
    /// The key's name in the file; `OWN` for the one in the settings; `ANYBODY` without a key.
    pub name: Arc<str>,
    /// Globs of tool names; `None` for all.
    tools: Option<Vec<WildMatch>>,
    expires: Option<SystemTime>,
    rate: ArcSwapOption<Limiter>,
    /// Whether that is the key's own, not the one of all.
    has_own_rate: bool,
    /// Most calls at a time.
    concurrent: Option<u32>,
    tally: Arc<Tally>,
    /// The key was changed or taken away.
    is_stale: AtomicBool,
}

/// What is counted for a key, since the gateway started.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: AtomicU64,
    errors: AtomicU64,
    rate_limited: AtomicU64,
    in_flight: AtomicU64,
}

/// What `/stats` shows of a key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Calls that were asked for.
    pub calls: u64,
    /// Those that ended without a result.
    pub errors: u64,
    /// Those of them that were refused because of a limit.
    pub rate_limited: u64,
    /// Those that run now.
    pub in_flight: u64,
}

/// A call that a key has begun: counted as running until this is dropped, and as an error unless it [succeeded](Self::succeed).
#[derive(Debug)]
pub struct CallInUse {
    tally: Arc<Tally>,
    is_error: AtomicBool,
}

impl Principal {
    /// Somebody who may use everything, with this limit.
    pub(super) fn unbound(name: &str, rate: Option<Rate>) -> Arc<Principal> {
        Arc::new(Principal {
            name: name.into(),
            tools: None,
            expires: None,
            rate: ArcSwapOption::from_pointee(rate.map(Limiter::new)),
            has_own_rate: false,
            concurrent: None,
            tally: Arc::default(),
            is_stale: AtomicBool::new(false),
        })
    }

    /// The holder of a key of the file. Without a rate of its own the key has `rate`.
    pub(super) fn of(entry: &KeyEntry, rate: Option<Rate>, tally: Arc<Tally>) -> Arc<Principal> {
        let own_rate = entry.rate.and_then(|per_second| Rate::new(per_second, None));
        Arc::new(Principal {
            name: (*entry.name).into(),
            tools: entry.tools.as_ref().map(|globs| globs.iter().map(|glob| WildMatch::new(glob)).collect()),
            expires: entry.expires,
            rate: ArcSwapOption::from_pointee(own_rate.or(rate).map(Limiter::new)),
            has_own_rate: own_rate.is_some(),
            concurrent: entry.concurrent,
            tally,
            is_stale: AtomicBool::new(false),
        })
    }

    /// A caller without a key, where there are no keys and no limits.
    pub fn anybody() -> Arc<Principal> {
        Principal::unbound(ANYBODY, None)
    }

    /// Whether the key is for every tool, and so for everything else.
    pub fn may_use_everything(&self) -> bool {
        self.tools.is_none()
    }

    /// Whether the key allows a tool: one of its globs fits the tool's public name, or its full name, which has that of its server
    /// before it also where there is no other.
    pub fn may_use(&self, public_name: &str, full_name: &str) -> bool {
        let fits = |glob: &WildMatch| glob.matches(public_name) || glob.matches(full_name);
        self.tools.as_ref().is_none_or(|globs| globs.iter().any(fits))
    }

    /// Fails with [`Error::Unauthorized`] when the key is not what it was, or has expired.
    pub(super) fn check_valid(&self, now: impl Fn() -> SystemTime) -> Result<(), Error> {
        if self.is_stale() {
            return Err(Error::Unauthorized { reason: "the API key was changed or taken away meanwhile" });
        }
        if self.expires.is_some_and(|expires| expires <= now()) {
            return Err(Error::Unauthorized { reason: "the API key has expired" });
        }
        Ok(())
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    pub(super) fn make_stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Counts a call as begun. Fails with [`Error::RateLimited`] when there are too many calls, at this moment or in this second.
    ///
    /// One that `goes_on` with a call that was begun before, and still counts as running, is not held against `concurrent`.
    pub fn begin_call(&self, goes_on: bool) -> Result<CallInUse, Error> {
        let tally = &self.tally;
        tally.calls.fetch_add(1, Ordering::Relaxed);
        let most = self.concurrent.filter(|_| !goes_on).map_or(u64::MAX, u64::from);
        let more = |n_running: u64| (n_running < most).then_some(n_running + 1);
        let is_begun = tally.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !is_begun {
            tally.errors.fetch_add(1, Ordering::Relaxed);
            return Err(self.has_too_many(most));
        }
        let call = CallInUse { tally: Arc::clone(tally), is_error: AtomicBool::new(true) };
        let rate = self.rate.load();
        let Some(limiter) = &*rate else { return Ok(call) };
        let taken = limiter.take().map_err(|retry_after| {
            let rate = limiter.rate().per_second;
            self.refused(format!("key `{}` may make {rate} calls a second", self.name), retry_after)
        });
        taken.map(|()| call)
    }

    /// Fails with [`Error::RateLimited`] when more calls are running than the key may have at a time: for one that was begun as if it
    /// went on with another, and does not.
    pub fn check_concurrent(&self) -> Result<(), Error> {
        let n_running = self.tally.in_flight.load(Ordering::Relaxed);
        match self.concurrent.map(u64::from).filter(|most| *most < n_running) {
            Some(most) => Err(self.has_too_many(most)),
            None => Ok(()),
        }
    }

    fn has_too_many(&self, most: u64) -> Error {
        let calls = if most == 1 { "call" } else { "calls" };
        self.refused(format!("key `{}` has {most} {calls} running already", self.name), RETRY_AFTER)
    }

    fn refused(&self, what: String, retry_after: Duration) -> Error {
        self.tally.rate_limited.fetch_add(1, Ordering::Relaxed);
        Error::RateLimited { what, hint: "wait before the next call, or ask for a larger limit", retry_after }
    }

    /// How the key's rate stands, if it has one.
    pub fn standing(&self) -> Option<Standing> {
        self.rate.load().as_deref().map(Limiter::standing)
    }

    /// Goes by another rate of all keys, unless it has one of its own. What was used of the same rate stays used.
    pub(super) fn retune(&self, rate: Option<Rate>) {
        let is_other = self.rate.load().as_ref().map(|limiter| limiter.rate()) != rate;
        if !self.has_own_rate && is_other {
            self.rate.store(rate.map(Limiter::new).map(Arc::new));
        }
    }

    /// What was counted.
    pub fn usage(&self) -> Usage {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Tally { calls, errors, rate_limited, in_flight } = &*self.tally;
        Usage { calls: get(calls), errors: get(errors), rate_limited: get(rate_limited), in_flight: get(in_flight) }
    }
}

/// Who has the key of the settings.
pub(super) const OWN: &str = "api_key";

/// Who calls when keys are off, and who asks for what needs none.
pub(super) const ANYBODY: &str = "anybody";

impl CallInUse {
    /// It has a result.
    pub fn succeed(&self) {
        self.is_error.store(false, Ordering::Relaxed);
    }
}

impl Drop for CallInUse {
    fn drop(&mut self) {
        self.tally.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.tally.errors.fetch_add(u64::from(*self.is_error.get_mut()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> KeyEntry {
        KeyEntry { name: "ci".to_owned(), sha256: [0; 32], tools: None, rate: None, concurrent: None, expires: None }
    }

    fn principal(entry: &KeyEntry) -> Arc<Principal> {
        Principal::of(entry, None, Arc::default())
    }

    #[track_caller]
    fn check_refused(principal: &Principal, message: &str) {
        let error = principal.begin_call(false).expect_err(message);
        assert_eq!((error.code(), error.http_status(), error.to_string()), ("rate_limited", 429, message.to_owned()));
        assert!(error.retry_after().is_some());
    }

    #[test]
    fn calls_are_counted_from_their_beginning_to_their_end() {
        let ci = principal(&entry());
        let (one, two) = (ci.begin_call(false).unwrap(), ci.begin_call(false).unwrap());
        assert_eq!(ci.usage(), Usage { calls: 2, errors: 0, rate_limited: 0, in_flight: 2 });
        one.succeed();
        drop(one);
        drop(two);
        assert_eq!(ci.usage(), Usage { calls: 2, errors: 1, rate_limited: 0, in_flight: 0 });
    }

    #[test]
    fn a_key_has_so_many_calls_at_a_time() {
        let ci = principal(&KeyEntry { concurrent: Some(1), ..entry() });
        let running = ci.begin_call(false).unwrap();
        check_refused(&ci, "key `ci` has 1 call running already");
        let again = ci.begin_call(true).expect("it goes on with the one that runs");
        assert!(ci.check_concurrent().is_err(), "unless it turns out to be another one");
        drop((again, running));
        assert!(ci.begin_call(false).is_ok());
        assert_eq!(ci.usage(), Usage { calls: 4, errors: 4, rate_limited: 2, in_flight: 0 });
    }

    #[test]
    fn a_key_has_so_many_calls_a_second_its_own_rate_or_that_of_all() {
        let ci = principal(&KeyEntry { rate: Some(0.01), ..entry() });
        assert_eq!(ci.standing().map(|it| (it.limit, it.remaining, it.window.as_secs())), Some((1, 1, 100)));
        assert!(ci.begin_call(false).is_ok());
        assert_eq!(ci.standing().map(|it| it.remaining), Some(0));
        check_refused(&ci, "key `ci` may make 0.01 calls a second");

        let of_all = Rate::new(0.01, std::num::NonZeroU32::new(2));
        let other = Principal::of(&entry(), of_all, Arc::default());
        assert!(other.begin_call(false).is_ok() && other.begin_call(false).is_ok());
        check_refused(&other, "key `ci` may make 0.01 calls a second");
        let own = Principal::of(&KeyEntry { rate: Some(1000.0), ..entry() }, of_all, Arc::default());
        assert!((0..10).all(|_| own.begin_call(false).is_ok()));
    }

    #[test]
    fn a_key_is_valid_until_it_expires_or_changes() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let ci = principal(&KeyEntry { expires: Some(now), ..entry() });
        assert_eq!(ci.check_valid(|| now - Duration::from_secs(1)), Ok(()));
        assert!(ci.check_valid(|| now).is_err_and(|error| error.to_string() == "the API key has expired"));
        let other = principal(&entry());
        other.make_stale();
        assert!(other.check_valid(|| now).is_err_and(|error| error.code() == "unauthorized"));
    }
}
