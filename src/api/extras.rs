//! Headers that go with an answer because of who asked, whatever was asked: how their limits stand, and what browsers are told.
//!
//! Also what a browser is told that asks before it asks (a preflight; CORS in the Fetch standard).

use super::{Answer, Api, routes::Endpoint};
use crate::{
    access::{Address, Principal, browser::Browsers, limiter},
    http::head::Head,
};

/// Headers that pages may send, besides those that begin with [`PARAMETER_HEADER`].
const TAKEN: [&str; 14] = [
    "accept",
    "authorization",
    "cache-control",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "traceparent",
    "tracestate",
    "x-api-key",
    "x-request-id",
    "x-session-id",
];

/// Headers that MCP 2026-07-28 makes of arguments.
const PARAMETER_HEADER: &str = "mcp-param-";

/// Headers that pages may read.
const SHOWN: &str = "Mcp-Session-Id, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate";

/// How long a browser may remember a permission, in seconds.
const REMEMBERED_FOR: &str = "600";

/// Headers of an answer.
pub type Headers = Vec<(&'static str, String)>;

impl Api {
    /// What goes with the answer to a request from `address`, and of `principal` if they have been let in.
    pub fn extras(&self, head: &Head, head_bytes: &[u8], address: &Address, principal: Option<&Principal>) -> Headers {
        let mut headers = Headers::new();
        let of_key = principal.and_then(Principal::standing).map(|standing| ("key", standing));
        let of_address = address.standing().map(|standing| ("address", standing));
        let standings: Vec<_> = of_key.into_iter().chain(of_address).collect();
        headers.extend(limiter::fields(&standings).into_iter().flatten());

        let browsers = self.access.browsers();
        if browsers.is_choosy() {
            headers.push(("Vary", "Origin".to_owned()));
        }
        let header = |name: &str| head.header(head_bytes, name);
        if let Some(allowed) = browsers.allowed(header("Host"), header("Origin")) {
            headers.push(("Access-Control-Allow-Origin", allowed.to_string()));
            headers.push(("Access-Control-Expose-Headers", SHOWN.to_owned()));
        }
        headers
    }
}

/// Answers `OPTIONS`: what the endpoint takes, and what a page of a named origin may do that asks before it does it.
pub(super) fn options(browsers: &Browsers, endpoint: &Endpoint, header: impl Fn(&str) -> Option<String>) -> Answer {
    let mut headers = vec![("Allow", endpoint.allow.to_owned())];
    let is_preflight = header("Access-Control-Request-Method").is_some()
        && browsers.allowed(header("Host").as_deref(), header("Origin").as_deref()).is_some();
    if !is_preflight {
        return Answer { headers, ..Answer::empty(200) };
    }
    headers.push(("Access-Control-Allow-Methods", endpoint.allow.to_owned()));
    let asked = header("Access-Control-Request-Headers").unwrap_or_default().to_ascii_lowercase();
    let is_taken = |name: &&str| {
        let is_parameter = name.strip_prefix(PARAMETER_HEADER).is_some_and(|rest| !rest.is_empty());
        TAKEN.contains(name) || is_parameter
    };
    // Those that were asked for, since a list cannot say how a name begins.
    let taken: Vec<&str> = asked.split(',').map(str::trim).filter(is_taken).collect();
    if !taken.is_empty() {
        headers.push(("Access-Control-Allow-Headers", taken.join(", ")));
    }
    let is_from_outside = header("Access-Control-Request-Private-Network").is_some_and(|it| it == "true");
    if is_from_outside {
        headers.push(("Access-Control-Allow-Private-Network", "true".to_owned()));
    }
    headers.push(("Access-Control-Max-Age", REMEMBERED_FOR.to_owned()));
    headers.push(("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers".to_owned()));
    Answer { headers, ..Answer::empty(204) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::routes::find, config::Config};

    fn asked(headers: &[(&str, &str)]) -> Answer {
        let found = find("/mcp").unwrap();
        let cors_origins = vec!["https://app.example".to_owned()];
        let browsers = Browsers::new(&Config { cors_origins, ..Config::default() });
        options(&browsers, found.endpoint, |name| {
            headers.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_page_may_send_the_headers_of_callers_and_no_others() {
        let wanted = "x-api-key, Mcp-Param-Region,mcp-param-, mcp-session-id, cookie, x-forwarded-for";
        let answer = asked(&[
            ("Origin", "https://app.example"),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", wanted),
            ("Access-Control-Request-Private-Network", "true"),
        ]);
        assert_eq!(answer.status, 204);
        let value = |name: &str| answer.headers.iter().find(|(it, _)| *it == name).map(|(_, value)| value.as_str());
        assert_eq!(value("Access-Control-Allow-Headers"), Some("x-api-key, mcp-param-region, mcp-session-id"));
        assert_eq!(value("Access-Control-Allow-Methods"), Some("GET, POST, DELETE, OPTIONS"));
        assert_eq!(value("Access-Control-Allow-Private-Network"), Some("true"));
        assert_eq!(value("Access-Control-Allow-Credentials"), None);
    }

    #[test]
    fn a_question_that_no_page_asks_is_told_what_the_path_takes() {
        let foreign = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")];
        for headers in [&[][..], &foreign] {
            let answer = asked(headers);
            assert_eq!(
                (answer.status, answer.headers),
                (200, vec![("Allow", "GET, POST, DELETE, OPTIONS".to_owned())])
            );
        }
    }
}
