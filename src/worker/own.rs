//! Requests of the gateway's own, in the words of either era.

use std::sync::LazyLock;

use serde_json::value::RawValue;

use crate::mcp::{
    message::{Meta, Request},
    raw,
    revision::{CLIENT_CAPABILITIES_KEY, CLIENT_INFO_KEY, Era, LOG_LEVEL_KEY, MODERN, PROTOCOL_VERSION_KEY},
    trace::Trace,
};

/// The gateway's name and version, as JSON.
pub(super) const CLIENT_INFO: &str = concat!(r#"{"name":"mcpgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What the gateway says of itself in every modern request of its own: fields of `_meta`, without the braces. It declares
/// no capability, because nobody could be asked for what only the gateway wants to know.
pub fn stamp() -> &'static str {
    static STAMP: LazyLock<String> = LazyLock::new(|| {
        format!(
            r#""{PROTOCOL_VERSION_KEY}":"{MODERN}","{CLIENT_CAPABILITIES_KEY}":{{}},"{CLIENT_INFO_KEY}":{CLIENT_INFO}"#
        )
    });
    &STAMP
}

/// As [`stamp`], for a call of a tool, whose client may want to hear its log lines: a modern server writes none that were not
/// asked for.
pub fn call_stamp() -> &'static str {
    static STAMP: LazyLock<String> = LazyLock::new(|| format!(r#"{},"{LOG_LEVEL_KEY}":"info""#, stamp()));
    &STAMP
}

/// A request that is the gateway's own. `params` is a JSON object.
pub fn request(era: Era, method: &str, params: Option<&str>) -> Request {
    traced(era, method, params, None)
}

/// A request of the gateway's own, or of a client that speaks no MCP and may have said which trace it belongs to. `params` is a
/// JSON object.
pub fn traced(era: Era, method: &str, params: Option<&str>, trace: Option<&Trace>) -> Request {
    let meta = match era {
        Era::Legacy if trace.is_none() => return Request::plain(method, params),
        Era::Legacy => Meta::Legacy,
        Era::Modern => Meta::Put(stamp()),
    };
    let params = params.and_then(|params| serde_json::from_str::<&RawValue>(params).ok());
    Request::passed(method, params, meta, false, trace).0
}

/// A sign of life that a server of this era gives at any time.
pub(super) fn ping(era: Era) -> Request {
    match era {
        Era::Legacy => request(era, "ping", None),
        Era::Modern => request(era, "server/discover", None),
    }
}

/// Has a legacy server tell of changes of the resource `uri`, or no more; with its method.
pub(super) fn subscription(uri: &str, is_on: bool) -> (&'static str, Request) {
    let method = if is_on { "resources/subscribe" } else { "resources/unsubscribe" };
    (method, request(Era::Legacy, method, Some(&format!(r#"{{"uri":{}}}"#, raw::quoted(uri)))))
}

/// Sets the least severe log lines that a legacy server writes; with its method.
pub(super) fn log_level(level: &str) -> (&'static str, Request) {
    let method = "logging/setLevel";
    (method, request(Era::Legacy, method, Some(&format!(r#"{{"level":{}}}"#, raw::quoted(level)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &Request, line: &str) {
        let mut out = Vec::new();
        request.write_to(7, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\n"));
    }

    #[test]
    fn a_modern_request_says_each_time_what_a_legacy_one_has_said_at_the_start() {
        let version = env!("CARGO_PKG_VERSION");
        check(&ping(Era::Legacy), r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#);
        let meta = format!(
            r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"mcpgate","version":"{version}"}}}}"#
        );
        check(
            &ping(Era::Modern),
            &format!(r#"{{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{{{meta}}}}}"#),
        );
        check(
            &request(Era::Modern, "tools/list", Some(r#"{"cursor":""}"#)),
            &format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{{"cursor":"",{meta}}}}}"#),
        );
    }

    #[test]
    fn uris_and_levels_are_quoted() {
        check(
            &subscription("a\"b", true).1,
            r#"{"jsonrpc":"2.0","id":7,"method":"resources/subscribe","params":{"uri":"a\"b"}}"#,
        );
        check(
            &log_level("info").1,
            r#"{"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":"info"}}"#,
        );
    }
}
