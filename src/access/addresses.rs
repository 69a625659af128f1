//! Where clients connect from: how many connections an address has, how many requests it may make, and how many wrong keys it
//! has tried.
//!
//! An IPv6 address stands for its /64, since whoever has one has all of those. Behind a proxy everybody has the proxy's address;
//! what a proxy says about its clients is not believed.
//!
//! A connection holds its [`Visit`] for as long as it lives, so the table is looked at once for each connection, not for each
//! request.
//!
//! **Limit.** Addresses with a connection, of which `CONNECTIONS_MAX` is the bound, and [`REMEMBERED_MAX`] others that something is
//! remembered of. When these are more, those are forgotten of which nothing matters any more; if half are left even so, all.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::limiter::{Limiter, Rate, Standing};
use crate::{error::Error, threads::lock};

/// Most addresses that are remembered without a connection.
const REMEMBERED_MAX: usize = 16 * 1024;

/// Wrong keys that an address may try within [`WRONG_KEYS_TIME`].
const WRONG_KEYS_MAX: usize = 10;

/// How long a wrong key counts, and how long further ones are refused.
const WRONG_KEYS_TIME: Duration = Duration::from_secs(60);

/// When a client with too many connections may try again: connections come and go quickly.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Addresses {
    table: Mutex<Table>,
    /// Most connections of an address; 0 for any number.
    connections_max: AtomicUsize,
    rate: Mutex<Option<Rate>>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<IpAddr, Entry>,
    /// Those without a connection.
    n_idle: usize,
}

#[derive(Debug)]
struct Entry {
    address: Arc<Address>,
    connections: usize,
}

/// What is known of an address.
#[derive(Debug)]
pub struct Address {
    ip: IpAddr,
    requests: ArcSwapOption<Limiter>,
    wrong_keys: Mutex<WrongKeys>,
}

#[derive(Debug, Default)]
struct WrongKeys {
    /// The last ones, at most [`WRONG_KEYS_MAX`].
    tried_at: VecDeque<Instant>,
    refused_until: Option<Instant>,
}

/// A connection of an address, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    addresses: Arc<Addresses>,
    address: Arc<Address>,
}

impl Addresses {
    /// Nobody yet.
    pub(super) fn new(connections_max: usize, rate: Option<Rate>) -> Arc<Addresses> {
        Arc::new(Addresses {
            table: Mutex::default(),
            connections_max: AtomicUsize::new(connections_max),
            rate: Mutex::new(rate),
        })
    }

    /// Allows as much as this from now on. Connections that are too many stay until they end.
    pub(super) fn retune(&self, connections_max: usize, rate: Option<Rate>) {
        self.connections_max.store(connections_max, Ordering::Relaxed);
        let table = self.lock();
        let before = std::mem::replace(&mut *lock(&self.rate), rate);
        if before != rate {
            let addresses = table.entries.values().map(|entry| &entry.address);
            addresses.for_each(|address| address.requests.store(rate.map(Limiter::new).map(Arc::new)));
        }
    }

    /// Counts a connection. Fails with [`Error::Overloaded`] when its address has as many as it may.
    pub(super) fn visit(self: &Arc<Addresses>, ip: IpAddr) -> Result<Visit, Error> {
        let ip = stands_for(ip);
        let mut table = self.lock();
        let Table { entries, n_idle } = &mut *table;
        if entries.get(&ip).is_some_and(|entry| entry.connections == 0) {
            *n_idle -= 1;
        }
        let entry = entries.entry(ip).or_insert_with(|| {
            let requests = ArcSwapOption::from_pointee(lock(&self.rate).map(Limiter::new));
            Entry { address: Arc::new(Address { ip, requests, wrong_keys: Mutex::default() }), connections: 0 }
        });
        let connections_max = self.connections_max.load(Ordering::Relaxed);
        let has_too_many = 0 < connections_max && connections_max <= entry.connections;
        if has_too_many {
            return Err(Error::Overloaded {
                what: format!("the gateway serves {} connections of your address already", entry.connections),
                hint: "close some, or raise `CONNECTIONS_PER_ADDRESS_MAX`",
                retry_after: RETRY_AFTER,
            });
        }
        entry.connections += 1;
        let address = Arc::clone(&entry.address);
        drop(table);
        Ok(Visit { addresses: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    fn forget_some(&mut self, now: Instant) {
        self.entries.retain(|_, entry| 0 < entry.connections || entry.address.has_memory(now));
        let n_idle = |table: &Table| table.entries.values().filter(|entry| entry.connections == 0).count();
        if REMEMBERED_MAX / 2 < n_idle(self) {
            self.entries.retain(|_, entry| 0 < entry.connections);
        }
        self.n_idle = n_idle(self);
    }
}

impl Visit {
    /// Whose connection it is.
    pub(super) fn address(&self) -> &Arc<Address> {
        &self.address
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut table = self.addresses.lock();
        let Some(entry) = table.entries.get_mut(&self.address.ip) else { return };
        entry.connections -= 1;
        if 0 < entry.connections {
            return;
        }
        let now = Instant::now();
        if !entry.address.has_memory(now) {
            table.entries.remove(&self.address.ip);
            return;
        }
        table.n_idle += 1;
        if REMEMBERED_MAX < table.n_idle {
            table.forget_some(now);
        }
    }
}

impl Address {
    /// Counts a request. Fails with [`Error::RateLimited`] when there are too many.
    pub fn take_request(&self) -> Result<(), Error> {
        let requests = self.requests.load();
        let Some(limiter) = &*requests else { return Ok(()) };
        limiter.take().map_err(|retry_after| {
            let rate = limiter.rate().per_second;
            let what = format!("an address may make {rate} requests a second");
            Error::RateLimited {
                what,
                hint: "wait before the next request, or raise `RATE_LIMIT_ADDRESS`",
                retry_after,
            }
        })
    }

    /// How its rate stands, if it has one.
    pub fn standing(&self) -> Option<Standing> {
        self.requests.load().as_deref().map(Limiter::standing)
    }

    /// Counts a wrong key at `now`. Fails with [`Error::RateLimited`] when there were too many.
    pub(super) fn take_wrong_key(&self, now: Instant) -> Result<(), Error> {
        let mut wrong = self.lock();
        if let Some(until) = wrong.refused_until.filter(|until| now < *until) {
            return Err(Error::RateLimited {
                what: format!("{WRONG_KEYS_MAX} wrong API keys came from your address within a minute"),
                hint: "wait, and use a key that is known; that is let in at any time",
                retry_after: until - now,
            });
        }
        wrong.forget(now);
        wrong.tried_at.push_back(now);
        if wrong.tried_at.len() == WRONG_KEYS_MAX {
            log::warn!("{WRONG_KEYS_MAX} wrong API keys came from {} within a minute", self.ip);
            wrong.tried_at.clear();
            wrong.refused_until = Some(now + WRONG_KEYS_TIME);
        }
        Ok(())
    }

    /// Whether it makes a difference to remember it.
    fn has_memory(&self, now: Instant) -> bool {
        let mut wrong = self.lock();
        wrong.forget(now);
        let is_refused = wrong.refused_until.is_some_and(|until| now < until);
        let has_used_up = self.standing().is_some_and(|standing| standing.remaining < standing.limit);
        is_refused || !wrong.tried_at.is_empty() || has_used_up
    }

    fn lock(&self) -> MutexGuard<'_, WrongKeys> {
        lock(&self.wrong_keys)
    }
}

impl WrongKeys {
    fn forget(&mut self, now: Instant) {
        self.tried_at.retain(|at| now.saturating_duration_since(*at) < WRONG_KEYS_TIME);
    }
}

/// The address itself, or the first of its /64.
fn stands_for(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn n_known(addresses: &Addresses) -> usize {
        addresses.lock().entries.len()
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_v6_one_shares_them_with_its_network() {
        let addresses = Addresses::new(2, None);
        let visit = |text: &str| addresses.visit(ip(text));
        let (_one, two) = (visit("192.0.2.1").unwrap(), visit("192.0.2.1").unwrap());
        let error = visit("::ffff:192.0.2.1").unwrap_err();
        assert_eq!((error.http_status(), error.code()), (503, "overloaded"));
        assert!(error.hint().unwrap().contains("CONNECTIONS_PER_ADDRESS_MAX"));
        let _other = visit("192.0.2.2").unwrap();
        drop(two);
        let _again = visit("192.0.2.1").unwrap();
        let _six = (visit("2001:db8::1").unwrap(), visit("2001:db8::ffff:0:0:2").unwrap());
        assert!(visit("2001:db8::3").is_err());
        assert!(visit("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn an_address_without_connections_is_forgotten_unless_it_matters() {
        let addresses = Addresses::new(0, Rate::new(0.1, None));
        drop(addresses.visit(ip("192.0.2.1")).unwrap());
        assert_eq!(n_known(&addresses), 0);
        let visit = addresses.visit(ip("192.0.2.1")).unwrap();
        assert!(visit.address().take_request().is_ok());
        drop(visit);
        let visit = addresses.visit(ip("192.0.2.1")).unwrap();
        let error = visit.address().take_request().unwrap_err();
        assert_eq!(
            (error.code(), error.to_string()),
            ("rate_limited", "an address may make 0.1 requests a second".to_owned())
        );
        let other = addresses.visit(ip("192.0.2.2")).unwrap();
        other.address().take_wrong_key(Instant::now()).unwrap();
        drop(other);
        assert_eq!(n_known(&addresses), 2);
    }

    #[test]
    fn other_limits_count_for_those_who_are_there() {
        let addresses = Addresses::new(1, None);
        let visit = addresses.visit(ip("192.0.2.1")).unwrap();
        assert!(addresses.visit(ip("192.0.2.1")).is_err());
        addresses.retune(2, Rate::new(0.1, None));
        let _second = addresses.visit(ip("192.0.2.1")).unwrap();
        assert!(visit.address().take_request().is_ok() && visit.address().take_request().is_err());
        addresses.retune(2, Rate::new(0.1, None));
        assert!(visit.address().take_request().is_err(), "the same limit is not given anew");
        addresses.retune(2, None);
        assert!(visit.address().take_request().is_ok());
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let addresses = Addresses::new(0, None);
        let _stays = addresses.visit(ip("192.0.2.1")).unwrap();
        for n in 0..3 * REMEMBERED_MAX {
            let visit =
                addresses.visit(IpAddr::from((0x2001_0db8_u128 << 96 | (n as u128) << 64).to_be_bytes())).unwrap();
            visit.address().take_wrong_key(Instant::now()).unwrap();
            let n_idle = addresses.lock().n_idle;
            assert!(n_known(&addresses) <= REMEMBERED_MAX + 2 && n_idle <= n_known(&addresses));
        }
        assert!(addresses.lock().entries.contains_key(&ip("192.0.2.1")));
    }

    #[test]
    fn ten_wrong_keys_within_a_minute_have_further_ones_refused_for_a_minute() {
        let addresses = Addresses::new(0, None);
        let visit = addresses.visit(ip("192.0.2.1")).unwrap();
        let began_at = Instant::now();
        let wrong_key_at = |seconds| visit.address().take_wrong_key(began_at + Duration::from_secs(seconds));
        assert!((0..9).all(|second| wrong_key_at(second).is_ok()));
        // Those are forgotten by now.
        assert!((100..110).all(|second| wrong_key_at(second).is_ok()));
        let error = wrong_key_at(110).unwrap_err();
        assert_eq!((error.code(), error.retry_after()), ("rate_limited", Some(Duration::from_secs(59))));
        assert!(wrong_key_at(168).is_err(), "refused ones do not make it longer");
        assert!((169..179).all(|second| wrong_key_at(second).is_ok()));
    }
}
