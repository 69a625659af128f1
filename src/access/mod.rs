//! Who may call: keys, and the Host and Origin that a browser must show.
//!
//! **Keys** are compared as SHA-256 hashes in constant time, so neither the length nor the beginning of a wrong key shows
//! in the time of the answer.
//!
//! **Browsers.** A page of another site may not make a visitor's browser call the gateway: a foreign `Origin` is
//! refused, and a gateway on loopback answers only to names of this machine (else a foreign name that was made to point
//! here, DNS rebinding, would count as the same origin).

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use subtle::ConstantTimeEq as _;
use wildmatch::WildMatch;

use crate::{config::Config, error::Error};

pub mod keyfile;

use keyfile::{KeyEntry, KeyFile};

/// Whose request it is, and what they may use.
#[derive(Debug, PartialEq)]
pub struct Principal {
    /// The key's name in the file; `api_key` for the one in the settings; `anybody` without a key.
    pub name: Arc<str>,
    /// Globs of public tool names; `None` for all.
    tools: Option<Vec<WildMatch>>,
}

/// See the module.
#[derive(Debug)]
pub struct Access {
    /// `None`: keys are switched off.
    keys: Option<Vec<Key>>,
    /// Names the gateway answers to; `None` for any.
    hosts: Option<Vec<String>>,
}

#[derive(Debug)]
struct Key {
    sha256: [u8; 32],
    expires: Option<SystemTime>,
    principal: Arc<Principal>,
}

impl Principal {
    /// A caller without a key, who may use everything that needs none.
    pub fn anybody() -> Arc<Principal> {
        static ANYBODY: std::sync::LazyLock<Arc<Principal>> =
            std::sync::LazyLock::new(|| Arc::new(Principal { name: "anybody".into(), tools: None }));
        Arc::clone(&ANYBODY)
    }

    /// Whether the key is for every tool, and so for everything else.
    pub fn may_use_everything(&self) -> bool {
        self.tools.is_none()
    }

    /// Whether the key allows the tool of this public name.
    pub fn may_use(&self, public_name: &str) -> bool {
        self.tools.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(public_name)))
    }
}

impl Access {
    /// The keys and names of the settings; `API_KEYS_FILE` is read now.
    pub fn new(config: &Config) -> Result<Access, Error> {
        let mut keys = Vec::new();
        if !config.api_key.is_empty() {
            let principal = Arc::new(Principal { name: "api_key".into(), tools: None });
            keys.push(Key { sha256: keyfile::hash(&config.api_key), expires: None, principal });
        }
        if let Some(path) = &config.api_keys_file {
            keys.extend(KeyFile::load(path)?.keys.into_iter().map(Key::from));
        }
        let keys = if config.has_keys_off() { None } else { Some(keys) };
        let is_any_host = config.allowed_hosts.iter().any(|host| host == "*");
        let is_bound = config.listen.is_loopback() || !config.allowed_hosts.is_empty();
        let hosts = (is_bound && !is_any_host).then(|| config.allowed_hosts.clone());
        Ok(Access { keys, hosts })
    }

    /// Finds whose key a request carries: in `X-API-Key`, else as bearer token, else as `api_key` of the query.
    ///
    /// Fails with [`Error::Unauthorized`] when there is none, or a wrong or expired one.
    pub fn check_key(
        &self,
        api_key: Option<&str>,
        authorization: Option<&str>,
        query: Option<&str>,
    ) -> Result<Arc<Principal>, Error> {
        let Some(keys) = &self.keys else { return Ok(Principal::anybody()) };
        let from_query = || {
            let pairs = form_urlencoded::parse(query?.as_bytes());
            pairs.into_iter().find(|(name, _)| name == "api_key").map(|(_, value)| value)
        };
        let given = api_key.or_else(|| authorization.and_then(bearer)).map(Into::into).or_else(from_query);
        let Some(given) = given else { return Err(Error::Unauthorized { reason: "the request has no API key" }) };

        let sha256 = keyfile::hash(&given);
        let mut found = None;
        // All of them, always: the time must not tell which key was nearly right.
        for key in keys {
            if bool::from(key.sha256.ct_eq(&sha256)) {
                found = Some(key);
            }
        }
        let Some(key) = found else { return Err(Error::Unauthorized { reason: "the API key is not known" }) };
        let has_expired = key.expires.is_some_and(|expires| expires <= SystemTime::now());
        if has_expired {
            return Err(Error::Unauthorized { reason: "the API key has expired" });
        }
        Ok(Arc::clone(&key.principal))
    }

    /// Refuses what a page of another site could have sent, with [`Error::Forbidden`].
    ///
    /// `fetch_site` is `Sec-Fetch-Site`, which tells of requests that carry no `Origin`, those of an `<img>` for example.
    /// Browsers send it to https and to this machine.
    pub fn check_browser(
        &self,
        host: Option<&str>,
        origin: Option<&str>,
        fetch_site: Option<&str>,
    ) -> Result<(), Error> {
        let hint = "open the page from the gateway's own address, or call from a program";
        if let Some(site) = fetch_site.filter(|site| !matches!(*site, "same-origin" | "none")) {
            let what = format!("pages of another site may not call this gateway (`Sec-Fetch-Site: {site}`)");
            return Err(Error::Forbidden { what, hint });
        }
        if let (Some(hosts), Some(host)) = (&self.hosts, host) {
            let name = host_name(host);
            let is_listed = hosts.iter().any(|it| it.eq_ignore_ascii_case(name) || it.eq_ignore_ascii_case(host));
            if !is_listed && !is_local_name(name) {
                return Err(Error::Forbidden {
                    what: format!("the gateway does not answer to the name `{host}`"),
                    hint: "add the name to `ALLOWED_HOSTS`",
                });
            }
        }
        let Some(origin) = origin else { return Ok(()) };
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let is_same = authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
        if is_same {
            return Ok(());
        }
        Err(Error::Forbidden { what: format!("pages of `{origin}` may not call this gateway"), hint })
    }
}

impl From<KeyEntry> for Key {
    fn from(entry: KeyEntry) -> Key {
        let tools = entry.tools.map(|globs| globs.iter().map(|glob| WildMatch::new(glob)).collect());
        let principal = Arc::new(Principal { name: entry.name.into(), tools });
        Key { sha256: entry.sha256, expires: entry.expires, principal }
    }
}

/// The token of `Authorization: Bearer token`; the scheme's letter case does not matter (RFC 9110, 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A `Host` without its port.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_local_name(name: &str) -> bool {
    let is_address = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let name = name.to_ascii_lowercase();
    is_address || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn access(config: &Config) -> Access {
        Access::new(config).unwrap()
    }

    fn key(name: &str, text: &str, tools: Option<&[&str]>, expires: Option<SystemTime>) -> Key {
        let tools = tools.map(|globs| globs.iter().map(|glob| (*glob).to_owned()).collect());
        Key::from(KeyEntry { name: name.to_owned(), sha256: keyfile::hash(text), tools, expires })
    }

    #[test]
    fn a_key_is_taken_from_its_three_places_and_nowhere_else() {
        let access = access(&Config { api_key: "k+1".to_owned(), ..Config::default() });
        let good = [
            (Some("k+1"), None, None),
            (None, Some("Bearer k+1"), None),
            (None, Some("bearer  k+1"), None),
            (None, None, Some("a=b&api_key=k%2B1")),
        ];
        for (api_key, authorization, query) in good {
            assert_eq!(
                access.check_key(api_key, authorization, query).unwrap().name.as_ref(),
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
            let error = access.check_key(api_key, authorization, query).unwrap_err();
            assert_eq!(error.code(), "unauthorized", "{api_key:?} {authorization:?} {query:?}");
        }
    }

    #[test]
    fn a_key_of_the_file_holds_until_it_expires_and_for_its_tools() {
        let past = SystemTime::now() - Duration::from_secs(1);
        let future = SystemTime::now() + Duration::from_secs(60);
        let keys = vec![key("old", "1", None, Some(past)), key("ci", "2", Some(&["fs__*", "add"]), Some(future))];
        let access = Access { keys: Some(keys), hosts: None };
        let error = access.check_key(Some("1"), None, None).unwrap_err();
        assert_eq!(error.to_string(), "the API key has expired");
        let principal = access.check_key(Some("2"), None, None).unwrap();
        assert!(principal.may_use("fs__read") && principal.may_use("add"));
        assert!(!principal.may_use("fs_read") && !principal.may_use("added"));
    }

    #[test]
    fn only_names_of_this_machine_reach_a_gateway_on_loopback() {
        let access = access(&Config { allowed_hosts: vec!["box.local".to_owned()], ..Config::default() });
        for host in ["localhost:8000", "127.0.0.1", "127.9.9.9:1", "[::1]:8000", "app.localhost", "BOX.local:8000"] {
            assert!(access.check_browser(Some(host), None, None).is_ok(), "{host}");
        }
        for host in ["evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""] {
            assert!(access.check_browser(Some(host), None, None).is_err(), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let access = Access { keys: None, hosts: None };
        let check = |origin| access.check_browser(Some("localhost:8000"), Some(origin), None).is_ok();
        assert!(check("http://localhost:8000") && check("http://LOCALHOST:8000"));
        for origin in ["http://localhost:8001", "http://localhost", "https://evil.example", "null", ""] {
            assert!(!check(origin), "{origin}");
        }
        let check = |site| access.check_browser(Some("localhost:8000"), None, Some(site)).is_ok();
        assert!(check("same-origin") && check("none") && !check("same-site") && !check("cross-site"));
    }
}
