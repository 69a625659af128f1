//! What the gateway says to a fresh server before it takes calls: `initialize` or `server/discover`, and the list of its
//! tools.
//!
//! Values in, values out: the worker's thread does the asking. Facts from `mcp.md` 2.1, 3.2 and 3.6, and the lifecycle page
//! of MCP 2025-11-25.

use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Hello, ServerInfo, own};
use crate::{
    error::Error,
    mcp::{
        content::EMPTY_OBJECT,
        incoming::{HEADER_MISMATCH, METHOD_NOT_FOUND, UNSUPPORTED_VERSION},
        message::{META, RpcError},
        raw,
        revision::{self, Era, MODERN, SERVER_INFO_KEY},
    },
};

/// Pages of `tools/list` that are read before the server is taken to be turning in circles.
pub(super) const PAGES_MAX: usize = 1000;

/// What the gateway can be asked when it speaks for itself: what its WebSocket clients can.
const CAPABILITIES: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;

/// Errors that only the modern era has.
const MODERN_ERRORS: RangeInclusive<i64> = UNSUPPORTED_VERSION..=HEADER_MISMATCH;

/// Parameters of `initialize`: in the name of the client that said `hello`, else in the gateway's own.
pub(super) fn initialize_params(hello: Option<&Hello>) -> String {
    let (capabilities, client_info) = match hello {
        Some(hello) => (hello.capabilities.get(), hello.client_info.get()),
        None => (CAPABILITIES, own::CLIENT_INFO),
    };
    let revision = revision::LATEST_LEGACY;
    format!(r#"{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{client_info}}}"#)
}

/// Reads the result of `initialize`. Fails with a sentence when it is none, or names a revision we do not speak.
pub(super) fn read_initialize(result: &RawValue) -> Result<ServerInfo, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InitializeResult {
        protocol_version: String,
    }
    let InitializeResult { protocol_version } = serde_json::from_str(result.get())
        .map_err(|cause| format!("its answer to `initialize` is not MCP: {cause}"))?;
    if !revision::LEGACY.contains(&protocol_version.as_str()) {
        return Err(wrong_revision(&protocol_version, &revision::LEGACY.join(", ")));
    }
    Ok(server_info(Era::Legacy, protocol_version, result, raw::field(result, "serverInfo")))
}

/// Reads the result of `server/discover`. Fails with a sentence when it is none, or does not name the revision we speak.
pub(super) fn read_discover(result: &RawValue) -> Result<ServerInfo, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct DiscoverResult {
        supported_versions: Vec<String>,
    }
    let DiscoverResult { supported_versions } = serde_json::from_str(result.get())
        .map_err(|cause| format!("its answer to `server/discover` is not MCP: {cause}"))?;
    if !supported_versions.iter().any(|it| it == MODERN) {
        return Err(wrong_revision(&supported_versions.join(", "), MODERN));
    }
    let info = raw::field(result, META).and_then(|meta| raw::field(meta, SERVER_INFO_KEY));
    Ok(server_info(Era::Modern, MODERN.to_owned(), result, info))
}

fn wrong_revision(theirs: &str, ours: &str) -> String {
    format!("it wants to speak MCP `{theirs}`; the gateway speaks {ours}")
}

fn server_info(era: Era, revision: String, result: &RawValue, info: Option<&RawValue>) -> ServerInfo {
    let text_of = |key: &str| info.and_then(|info| raw::text(info, key)).unwrap_or_default();
    ServerInfo {
        era,
        revision,
        name: text_of("name"),
        version: text_of("version"),
        raw: result.to_owned(),
        capabilities: raw::field(result, "capabilities").unwrap_or(&EMPTY_OBJECT).to_owned(),
        instructions: raw::text(result, "instructions"),
        server_info: info.map(ToOwned::to_owned),
    }
}

/// Whether a server that answers `server/discover` so speaks the modern era.
pub(super) fn speaks_modern(outcome: Result<&RawValue, RpcError<'_>>) -> bool {
    match outcome {
        Ok(result) => read_discover(result).is_ok(),
        Err(error) => MODERN_ERRORS.contains(&error.code),
    }
}

/// Whether a server that refuses `initialize` so is to be spoken to in the modern era: it says so, or it does not know what
/// that is.
pub(super) fn wants_modern(refusal: &Error) -> bool {
    let Error::WorkerError { rpc_code, message, raw_data, .. } = refusal else { return false };
    let names_it = || message.contains(MODERN) || raw_data.as_ref().is_some_and(|data| data.contains(MODERN));
    matches!(*rpc_code, UNSUPPORTED_VERSION | METHOD_NOT_FOUND) || names_it()
}

/// Parameters for a page of `tools/list`; `None` for the first.
pub(super) fn page_params(cursor: Option<&str>) -> Option<String> {
    cursor.map(|cursor| serde_json::json!({ "cursor": cursor }).to_string())
}

/// One page of `tools/list`: its tools, raw, and where the next page begins.
pub(super) fn read_page(result: &RawValue) -> Result<(Vec<Box<RawValue>>, Option<String>), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        tools: Vec<Box<RawValue>>,
        #[serde(default)]
        next_cursor: Option<String>,
    }
    serde_json::from_str::<Page>(result.get())
        .map(|page| (page.tools, page.next_cursor))
        .map_err(|cause| format!("its answer to `tools/list` is not MCP: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn the_four_revisions_with_a_handshake_are_taken_and_no_other() {
        for revision in revision::LEGACY {
            let info = read_initialize(&raw(&format!(
                r#"{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}}}}}}"#
            )));
            assert!(info.unwrap().offers("tools"), "{revision}");
        }
        for result in [r#"{"protocolVersion":"2026-07-28"}"#, r#"{"protocolVersion":"1"}"#, "{}", "[]", "null"] {
            assert!(read_initialize(&raw(result)).is_err(), "{result}");
        }
    }

    #[test]
    fn an_empty_cursor_is_a_cursor() {
        let (tools, cursor) = read_page(&raw(r#"{"tools":[{"name":"a"}],"nextCursor":""}"#)).unwrap();
        assert_eq!((tools.len(), cursor.as_deref()), (1, Some("")));
        assert_eq!(page_params(cursor.as_deref()).unwrap(), r#"{"cursor":""}"#);
        assert_eq!(read_page(&raw(r#"{"tools":[]}"#)).unwrap().1, None);
    }

    #[test]
    fn a_modern_server_must_name_the_revision_and_need_not_name_itself() {
        let info = read_discover(&raw(
            r#"{"supportedVersions":["2027-01-01","2026-07-28"],"capabilities":{"tools":{}},"instructions":"x","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1","title":"t"}}}"#,
        ))
        .unwrap();
        assert_eq!((info.era, info.revision.as_str()), (Era::Modern, MODERN));
        assert_eq!((info.name.as_str(), info.version.as_str(), info.instructions.as_deref()), ("n", "1", Some("x")));
        assert_eq!(info.server_info.unwrap().get(), r#"{"name":"n","version":"1","title":"t"}"#);

        let info = read_discover(&raw(r#"{"supportedVersions":["2026-07-28"]}"#)).unwrap();
        assert_eq!((info.name.as_str(), info.capabilities.get(), info.server_info.is_none()), ("", "{}", true));
        for result in [r#"{"supportedVersions":["2025-11-25"]}"#, r#"{"supportedVersions":[]}"#, "{}", "null"] {
            assert!(read_discover(&raw(result)).is_err(), "{result}");
        }
    }

    #[test]
    fn a_session_speaks_for_its_client_and_the_gateway_for_everybody_else() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            initialize_params(None),
            format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{{"elicitation":{{"form":{{}},"url":{{}}}},"sampling":{{}},"roots":{{}}}},"clientInfo":{{"name":"mcpgate","version":"{version}"}}}}"#
            )
        );
        let hello =
            Hello { capabilities: raw(r#"{"roots":{"listChanged":true}}"#), client_info: raw(r#"{"name":"c"}"#) };
        assert_eq!(
            initialize_params(Some(&hello)),
            r#"{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true}},"clientInfo":{"name":"c"}}"#
        );
    }

    #[test]
    fn only_a_refusal_that_speaks_for_the_modern_era_is_taken_for_one() {
        let cases = [
            (-32022, "unsupported", None, true),
            (-32601, "Method not found", None, true),
            (-32600, "use 2026-07-28", None, true),
            (-32602, "bad version", Some(r#"{"supported":["2026-07-28"]}"#), true),
            (-32602, "bad version", Some(r#"{"supported":["2024-11-05"]}"#), false),
            (-32603, "no database", None, false),
        ];
        for (rpc_code, message, data, expected) in cases {
            assert_eq!(wants_modern(&testing::refusal(rpc_code, message, data)), expected, "{rpc_code} {message}");
        }
        assert!(!wants_modern(&Error::Internal { what: MODERN.to_owned() }));
    }
}
