//! Who may call: keys, how much they and their addresses may ask for, and what browsers must show.
//!
//! **Keys** are known by their SHA-256 hashes; `keyring` says why the time of a look-up tells nothing of them.
//!
//! **A connection** is a [`Visitor`]: it keeps its address, and the key of its last request with its holder, so that the next
//! request with the same key costs one comparison. A key that was changed, taken away or has expired counts no more from the next
//! request, message or event on.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use subtle::ConstantTimeEq as _;

use crate::{config::Config, error::Error};

mod addresses;
pub mod browser;
pub mod keyfile;
mod keyring;
pub mod limiter;
mod principal;

pub use addresses::Address;
pub use browser::Allowed;
pub use limiter::Standing;
pub use principal::{CallInUse, Principal, Usage};

use addresses::{Addresses, Visit};
use browser::Browsers;
use keyring::Keyring;
use limiter::Rate;
use principal::ANYBODY;

/// See the module.
#[derive(Debug)]
pub struct Access {
    /// `None`: keys are switched off.
    keys: ArcSwapOption<Keyring>,
    /// Who calls without a key.
    anybody: Arc<Principal>,
    addresses: Arc<Addresses>,
    /// What pages may ask.
    browsers: ArcSwap<Browsers>,
}

/// Keys that are ready to take the place of others.
#[derive(Debug)]
pub struct NewKeys(Option<Keyring>);

/// Whoever is at the other end of a connection.
#[derive(Debug)]
pub struct Visitor {
    visit: Visit,
    /// The key of the last request, and whose it is.
    known: Option<(Box<[u8]>, Arc<Principal>)>,
}

impl Access {
    /// The keys, limits and names of the settings; `API_KEYS_FILE` is read now.
    pub fn new(config: &Config) -> Result<Access, Error> {
        let rate = rate_of(config);
        let keys = if config.has_keys_off() { None } else { Some(Keyring::new(config, rate)?) };
        Ok(Access {
            keys: ArcSwapOption::from_pointee(keys),
            anybody: Principal::unbound(ANYBODY, rate),
            addresses: Addresses::new(config.connections_per_address_max, rate_of_address(config)),
            browsers: ArcSwap::from_pointee(Browsers::new(config)),
        })
    }

    /// The keys of other settings, when they are others than now: another `API_KEY`, another `API_KEYS_FILE`. Fails as [`Access::new`] does;
    /// nothing has changed then.
    pub fn prepare(&self, config: &Config) -> Result<Option<NewKeys>, Error> {
        let is_same = match &*self.keys.load() {
            Some(keys) => keys.is_of(config),
            None => config.has_keys_off(),
        };
        if is_same {
            return Ok(None);
        }
        let keys = if config.has_keys_off() { None } else { Some(Keyring::new(config, rate_of(config))?) };
        Ok(Some(NewKeys(keys)))
    }

    /// Goes by other settings from now on, and by what [`Access::prepare`] made of them. Connections stay, and so do keys that are
    /// what they were.
    pub fn adapt(&self, config: &Config, keys: Option<NewKeys>) {
        let rate = rate_of(config);
        if let Some(NewKeys(keys)) = keys {
            let before = self.keys.load();
            let keys = keys.map(|mut keys| {
                before.iter().for_each(|before| keys.inherit(before));
                Arc::new(keys)
            });
            self.keys.store(keys);
        }
        self.keys.load().iter().for_each(|keys| keys.retune(rate));
        self.anybody.retune(rate);
        self.addresses.retune(config.connections_per_address_max, rate_of_address(config));
        self.browsers.store(Arc::new(Browsers::new(config)));
    }

    /// What pages may ask.
    pub fn browsers(&self) -> Guard<Arc<Browsers>> {
        self.browsers.load()
    }

    /// Counts a connection from `ip`. Fails with [`Error::Overloaded`] when there are too many.
    pub fn visit(&self, ip: IpAddr) -> Result<Visitor, Error> {
        Ok(Visitor { visit: self.addresses.visit(ip)?, known: None })
    }

    /// Whether requests need a key at all.
    pub fn needs_key(&self) -> bool {
        self.keys.load().is_some()
    }

    /// Finds whose key a request carries: in `X-API-Key`, else as bearer token, else as `api_key` of the query.
    ///
    /// Fails with [`Error::Unauthorized`] when there is none, or a wrong or expired one, and with [`Error::RateLimited`] at a wrong
    /// one after many.
    pub fn check_key(
        &self,
        visitor: &mut Visitor,
        api_key: Option<&str>,
        authorization: Option<&str>,
        query: Option<&str>,
    ) -> Result<Arc<Principal>, Error> {
        let keys = self.keys.load();
        let Some(keys) = &*keys else { return Ok(self.anybody()) };
        let from_query = || {
            let pairs = form_urlencoded::parse(query?.as_bytes());
            pairs.into_iter().find(|(name, _)| name == "api_key").map(|(_, value)| value)
        };
        let given = api_key.or_else(|| authorization.and_then(bearer)).map(Into::into).or_else(from_query);
        let Some(given) = given else { return Err(Error::Unauthorized { reason: "the request has no API key" }) };

        keys.look();
        let known = visitor.known.as_ref().filter(|(key, _)| bool::from(key.ct_eq(given.as_bytes())));
        let principal = match known.filter(|(_, principal)| !principal.is_stale()) {
            Some((_, principal)) => Arc::clone(principal),
            None => {
                let Some(principal) = keys.find(&given) else {
                    visitor.address().take_wrong_key(Instant::now())?;
                    return Err(Error::Unauthorized { reason: "the API key is not known" });
                };
                visitor.known = Some((given.as_bytes().into(), Arc::clone(&principal)));
                principal
            }
        };
        principal.check_valid(SystemTime::now)?;
        Ok(principal)
    }

    /// Whoever asks for what needs no key.
    pub fn anybody(&self) -> Arc<Principal> {
        Arc::clone(&self.anybody)
    }

    /// Fails with [`Error::Unauthorized`] when a key that was let in has been taken away or changed since, or has expired.
    pub fn check_still(&self, principal: &Principal) -> Result<(), Error> {
        self.keys.load().iter().for_each(|keys| keys.look());
        principal.check_valid(SystemTime::now)
    }

    /// Everybody who may call now.
    pub fn principals(&self) -> Vec<Arc<Principal>> {
        self.keys.load().as_ref().map_or_else(|| vec![self.anybody()], |keys| keys.principals())
    }
}

impl Visitor {
    /// Where they are.
    pub fn address(&self) -> &Arc<Address> {
        self.visit.address()
    }
}

fn rate_of(config: &Config) -> Option<Rate> {
    config.rate_limit.and_then(|per_second| Rate::new(per_second, config.rate_burst))
}

fn rate_of_address(config: &Config) -> Option<Rate> {
    config.rate_limit_address.and_then(|per_second| Rate::new(per_second, None))
}

/// The token of `Authorization: Bearer token`; the scheme's letter case does not matter (RFC 9110, 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        keyfile::{KeyEntry, KeyFile},
        *,
    };
    use crate::config::test_dir::TestDir;

    fn access(config: &Config) -> (Access, Visitor) {
        let access = Access::new(config).unwrap();
        let visitor = access.visit("192.0.2.1".parse().unwrap()).unwrap();
        (access, visitor)
    }

    #[test]
    fn a_key_is_taken_from_its_three_places_and_nowhere_else() {
        let (access, mut visitor) = access(&Config { api_key: "k+1".to_owned(), ..Config::default() });
        let good = [
            (Some("k+1"), None, None),
            (None, Some("Bearer k+1"), None),
            (None, Some("bearer  k+1"), None),
            (None, None, Some("a=b&api_key=k%2B1")),
        ];
        for (api_key, authorization, query) in good {
            assert_eq!(
                access.check_key(&mut visitor, api_key, authorization, query).unwrap().name.as_ref(),
                "api_key",
                "{authorization:?}"
            );
        }
        let bad = [
            (None, None, None),
            (Some("k+"), None, None),
            (Some("k+11"), None, None),
            (Some(""), None, None),
            (None, Some("Basic k+1"), None),
            (None, Some("k+1"), None),
            (None, None, Some("api_key=k+1")),
            (Some("wrong"), Some("Bearer k+1"), None),
        ];
        for (api_key, authorization, query) in bad {
            let error = access.check_key(&mut visitor, api_key, authorization, query).unwrap_err();
            assert_eq!(error.code(), "unauthorized", "{api_key:?} {authorization:?} {query:?}");
        }
    }

    #[test]
    fn a_key_of_the_file_holds_until_it_expires_and_for_its_tools() {
        let past = SystemTime::now() - Duration::from_secs(1);
        let future = SystemTime::now() + Duration::from_secs(60);
        let entry = |name: &str, expires, tools| KeyEntry {
            name: name.to_owned(),
            sha256: keyfile::hash(name),
            tools,
            rate: None,
            concurrent: None,
            expires: Some(expires),
        };
        let tools = ["fs__*", "add"].map(str::to_owned).to_vec();
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        KeyFile { keys: vec![entry("old", past, None), entry("ci", future, Some(tools))] }.save(&path).unwrap();
        let (access, mut visitor) =
            access(&Config { api_key: String::new(), api_keys_file: Some(path), ..Config::default() });
        let error = access.check_key(&mut visitor, Some("old"), None, None).unwrap_err();
        assert_eq!(error.to_string(), "the API key has expired");
        let principal = access.check_key(&mut visitor, Some("ci"), None, None).unwrap();
        assert!(principal.may_use("fs__read", "fs__read") && principal.may_use("add", "only__add"));
        assert!(principal.may_use("read", "fs__read"), "by its full name, where there is no other server");
        assert!(!principal.may_use("fs_read", "fs_read") && !principal.may_use("read", "db__read"));
        assert!(!principal.may_use("added", "only__added") && !principal.may_use("db__add", "db__add"));
        assert!(!principal.may_use_everything());
    }

    #[test]
    fn wrong_keys_are_refused_in_another_way_after_ten_and_a_right_one_never() {
        let (access, mut visitor) = access(&Config { api_key: "right".to_owned(), ..Config::default() });
        let mut code =
            |key| access.check_key(&mut visitor, key, None, None).map_or_else(|error| error.code(), |_| "let in");
        assert!((0..20).all(|_| code(None) == "unauthorized"), "no key is no wrong key");
        assert!((0..10).all(|_| code(Some("wrong")) == "unauthorized"));
        assert_eq!(
            [Some("wrong"), Some("right"), Some("wrong"), None].map(code),
            ["rate_limited", "let in", "rate_limited", "unauthorized"]
        );
        // Another connection of the same address knows that too, and another address does not.
        let mut second = access.visit("192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(access.check_key(&mut second, Some("wrong"), None, None).unwrap_err().http_status(), 429);
        let mut other = access.visit("192.0.2.2".parse().unwrap()).unwrap();
        assert_eq!(access.check_key(&mut other, Some("wrong"), None, None).unwrap_err().http_status(), 401);
    }

    #[test]
    fn a_connection_that_knows_its_key_learns_that_it_was_taken_away() {
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        let key = |name: &str| KeyEntry {
            name: name.to_owned(),
            sha256: keyfile::hash("k"),
            tools: None,
            rate: None,
            concurrent: None,
            expires: None,
        };
        KeyFile { keys: vec![key("one")] }.save(&path).unwrap();
        let (access, mut visitor) = access(&Config { api_keys_file: Some(path.clone()), ..Config::default() });
        let mut name = || access.check_key(&mut visitor, Some("k"), None, None).map(|it| it.name.to_string());
        assert_eq!((name(), name()), (Ok("one".to_owned()), Ok("one".to_owned())));
        KeyFile { keys: vec![key("two")] }.save(&path).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while name() == Ok("one".to_owned()) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(name(), Ok("two".to_owned()));
        KeyFile::default().save(&path).unwrap();
        while name().is_ok() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(name().unwrap_err().to_string(), "the API key is not known");
    }
}
