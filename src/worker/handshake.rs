//! What the gateway says to a fresh server before it takes calls: `initialize`, and the list of its tools.
//!
//! Values in, values out: the worker's thread does the asking. Facts from `mcp.md` 3.2 and the lifecycle page of MCP
//! 2025-11-25.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::revision;

/// Pages of `tools/list` that are read before the server is taken to be turning in circles.
pub(super) const PAGES_MAX: usize = 1000;

/// Parameters of `initialize`. The gateway can be asked what its WebSocket clients can: to sample, and to elicit.
pub(super) fn initialize_params() -> String {
    format!(
        r#"{{"protocolVersion":"{}","capabilities":{{"elicitation":{{"form":{{}},"url":{{}}}},"sampling":{{}}}},"clientInfo":{{"name":"mcpgate","version":"{}"}}}}"#,
        revision::LATEST_LEGACY,
        env!("CARGO_PKG_VERSION")
    )
}

/// What a server said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerInfo {
    /// The revision it chose; one of the four with a handshake.
    pub revision: String,
    /// Its own name, for people.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Whether it has tools at all.
    pub has_tools: bool,
    /// Whether it has resources.
    pub has_resources: bool,
    /// Whether it has prompts.
    pub has_prompts: bool,
}

/// Reads the result of `initialize`. Fails with a sentence when it is none, or names a revision we do not speak.
pub(super) fn read_initialize(result: &RawValue) -> Result<ServerInfo, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InitializeResult {
        protocol_version: String,
        #[serde(default)]
        capabilities: serde_json::Map<String, serde_json::Value>,
        #[serde(default)]
        server_info: Implementation,
    }
    #[derive(Deserialize, Default)]
    struct Implementation {
        #[serde(default)]
        name: String,
        #[serde(default)]
        version: String,
    }
    let result: InitializeResult = serde_json::from_str(result.get())
        .map_err(|cause| format!("its answer to `initialize` is not MCP: {cause}"))?;
    if !revision::LEGACY.contains(&result.protocol_version.as_str()) {
        return Err(format!(
            "it wants to speak MCP `{}`; the gateway speaks {}",
            result.protocol_version,
            revision::LEGACY.join(", ")
        ));
    }
    Ok(ServerInfo {
        revision: result.protocol_version,
        name: result.server_info.name,
        version: result.server_info.version,
        has_tools: result.capabilities.contains_key("tools"),
        has_resources: result.capabilities.contains_key("resources"),
        has_prompts: result.capabilities.contains_key("prompts"),
    })
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

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn the_four_revisions_with_a_handshake_are_taken_and_no_other() {
        for revision in revision::LEGACY {
            let info = read_initialize(&raw(&format!(
                r#"{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}}}}}}"#
            )));
            assert!(info.unwrap().has_tools, "{revision}");
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
}
