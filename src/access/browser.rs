//! What browsers must show: the name they called the gateway by, and the page that makes them do so.
//!
//! A page of another site may not make its visitor's browser call the gateway, unless its origin is one of `CORS_ORIGINS`. A gateway
//! on loopback answers only to names of this machine and of `ALLOWED_HOSTS`; else a foreign name that was made to point here (DNS
//! rebinding) would count as the same origin. On the network any name is answered unless `ALLOWED_HOSTS` says which: there
//! everybody needs a key, which a foreign page does not have.
//!
//! Keys are never sent by a browser on its own, so no answer allows credentials.

use std::{fmt, net::IpAddr};

use crate::{config::Config, error::Error};

/// See the module.
#[derive(Debug)]
pub struct Browsers {
    /// Names the gateway answers to, beside those of this machine; `None` for any.
    hosts: Option<Vec<String>>,
    origins: Origins,
    /// The gateway's own pages come over TLS. Without, they may have come through a proxy that speaks it.
    is_secure: bool,
}

#[derive(Debug)]
enum Origins {
    Any,
    /// As browsers write them, in small letters.
    These(Vec<String>),
}

/// What `Access-Control-Allow-Origin` says to a page of another origin that may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed<'o> {
    /// `*`
    Anybody,
    /// This origin, and for others the answer would be another.
    This(&'o str),
}

impl fmt::Display for Allowed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Allowed::Anybody => ANY_ORIGIN,
            Allowed::This(origin) => origin,
        })
    }
}

/// What stands for any origin in `CORS_ORIGINS`.
pub const ANY_ORIGIN: &str = "*";

impl Browsers {
    /// The names and origins of the settings.
    pub fn new(config: &Config) -> Browsers {
        let is_bound = config.listen.is_loopback() || !config.allowed_hosts.is_empty();
        let is_any = config.cors_origins.iter().any(|origin| origin == ANY_ORIGIN);
        let origins = if is_any { Origins::Any } else { Origins::These(config.cors_origins.clone()) };
        let hosts = is_bound.then(|| config.allowed_hosts.clone());
        Browsers { hosts, origins, is_secure: config.tls_cert.is_some() }
    }

    /// Refuses what a page of another site could have sent, with [`Error::Forbidden`].
    ///
    /// `fetch_site` is `Sec-Fetch-Site`, which tells of requests that carry no `Origin`, those of an `<img>` for example.
    /// Browsers send it to https and to this machine.
    pub fn check(&self, host: Option<&str>, origin: Option<&str>, fetch_site: Option<&str>) -> Result<(), Error> {
        let hint =
            "open the page from the gateway's own address, call from a program, or add its origin to `CORS_ORIGINS`";
        if let (Some(hosts), Some(host)) = (&self.hosts, host) {
            let name = host_name(host);
            let is_listed = hosts.iter().any(|it| it.eq_ignore_ascii_case(name) || it.eq_ignore_ascii_case(host));
            if !is_listed && !is_local_name(name) {
                return Err(Error::Forbidden {
                    what: format!("the gateway does not answer to the name `{name}`"),
                    hint: "add the name to `ALLOWED_HOSTS`",
                });
            }
        }
        if self.allowed(host, origin).is_some() {
            return Ok(());
        }
        if let Some(origin) = origin.filter(|origin| !self.is_own(origin, host)) {
            return Err(Error::Forbidden { what: format!("pages of `{origin}` may not call this gateway"), hint });
        }
        match fetch_site.filter(|site| !matches!(*site, "same-origin" | "none")) {
            Some(site) => {
                let what = format!("pages of another site may not call this gateway (`Sec-Fetch-Site: {site}`)");
                Err(Error::Forbidden { what, hint })
            }
            None => Ok(()),
        }
    }

    /// Whom the answer to a request is for, if a page of another origin makes it that may.
    pub fn allowed<'o>(&self, host: Option<&str>, origin: Option<&'o str>) -> Option<Allowed<'o>> {
        let origin = origin.filter(|origin| !self.is_own(origin, host))?;
        match &self.origins {
            Origins::Any => Some(Allowed::Anybody),
            Origins::These(origins) => {
                origins.iter().any(|it| it.eq_ignore_ascii_case(origin)).then_some(Allowed::This(origin))
            }
        }
    }

    /// Whether answers differ by the origin of the page.
    pub fn is_choosy(&self) -> bool {
        matches!(&self.origins, Origins::These(origins) if !origins.is_empty())
    }

    fn is_own(&self, origin: &str, host: Option<&str>) -> bool {
        let plain = || origin.strip_prefix("http://").filter(|_| !self.is_secure);
        let authority = origin.strip_prefix("https://").or_else(plain);
        authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
    }
}

/// A `Host` without its port.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_local_name(name: &str) -> bool {
    let is_below = |domain: &str| {
        let end = name.len().checked_sub(domain.len()).and_then(|at| name.get(at..));
        end.is_some_and(|end| end.eq_ignore_ascii_case(domain))
    };
    let is_address = || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    name.eq_ignore_ascii_case("localhost") || is_below(".localhost") || is_address()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;

    fn browsers(hosts: &[&str], origins: &[&str]) -> Browsers {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Browsers::new(&Config { allowed_hosts: owned(hosts), cors_origins: owned(origins), ..Config::default() })
    }

    #[test]
    fn only_names_of_this_machine_reach_a_gateway_on_loopback() {
        let browsers = browsers(&["box.local"], &["https://evil.example"]);
        let check = |host| browsers.check(Some(host), Some("https://evil.example"), None);
        for host in ["localhost:8000", "127.0.0.1", "127.9.9.9:1", "[::1]:8000", "app.localhost", "BOX.local:8000"] {
            assert!(check(host).is_ok(), "{host}");
        }
        for host in ["evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""] {
            assert!(
                check(host).is_err_and(|error| error.to_string().contains("does not answer to the name")),
                "{host}"
            );
        }
    }

    #[test]
    fn on_the_network_any_name_will_do_unless_some_are_named() {
        let listen = Listen { host: "0.0.0.0".to_owned(), port: 8000 };
        let check = |allowed_hosts| {
            let browsers = Browsers::new(&Config { listen: listen.clone(), allowed_hosts, ..Config::default() });
            browsers.check(Some("box.example:8000"), None, None)
        };
        assert!(check(Vec::new()).is_ok() && check(vec!["box.example".to_owned()]).is_ok());
        assert!(check(vec!["other.example".to_owned()]).is_err());
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let browsers = browsers(&[], &[]);
        let check = |origin| browsers.check(Some("localhost:8000"), Some(origin), None).is_ok();
        assert!(check("http://localhost:8000") && check("http://LOCALHOST:8000"));
        for origin in ["http://localhost:8001", "http://localhost", "https://evil.example", "null", ""] {
            assert!(!check(origin), "{origin}");
        }
        let check = |site| browsers.check(Some("localhost:8000"), None, Some(site)).is_ok();
        assert!(check("same-origin") && check("none") && !check("same-site") && !check("cross-site"));
        assert!(!browsers.is_choosy());
    }

    #[test]
    fn with_tls_a_page_that_came_without_is_of_another_origin() {
        let browsers = Browsers::new(&Config { tls_cert: Some("cert.pem".into()), ..Config::default() });
        let check = |origin| browsers.check(Some("localhost:8000"), Some(origin), None).is_ok();
        assert!(check("https://localhost:8000") && !check("http://localhost:8000"));
    }

    #[test]
    fn a_page_of_a_named_origin_is_let_in_and_told_so() {
        let host = Some("localhost:8000");
        let some = browsers(&[], &["https://app.example", "http://localhost:3000"]);
        assert_eq!(some.allowed(host, Some("https://app.example")), Some(Allowed::This("https://app.example")));
        assert_eq!(some.check(host, Some("http://localhost:3000"), Some("same-site")), Ok(()));
        for origin in ["http://app.example", "https://app.example:444", "https://app.example.evil.example", "null"] {
            assert_eq!(some.allowed(host, Some(origin)), None, "{origin}");
            assert!(some.check(host, Some(origin), Some("cross-site")).is_err(), "{origin}");
        }
        // Its own pages need no permission, and an `<img>` on an allowed one has no origin to show.
        assert_eq!(some.allowed(host, Some("http://localhost:8000")), None);
        assert!(some.check(host, None, Some("cross-site")).is_err());
        assert!(some.is_choosy());

        let any = browsers(&[], &["*"]);
        assert_eq!(any.allowed(host, Some("null")), Some(Allowed::Anybody));
        assert!(any.check(host, Some("https://evil.example"), Some("cross-site")).is_ok() && !any.is_choosy());
    }
}
