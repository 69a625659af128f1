//! Calls whose arguments are against the `inputSchema` of their tool: answered before a worker sees them.
//!
//! The answer is a result with `isError`, not a JSON-RPC error, so that the model behind the client reads what to mend (MCP
//! 2025-11-25, tools, error handling).

use serde_json::value::RawValue;

use super::plan::{Party, Route};
use crate::{
    api::Counters,
    error::Error,
    mcp::{content::EMPTY_OBJECT, eras, raw, revision::Era},
};

/// The result for a call with wrong arguments, in the words of the client's era, counted as an error; `None` for any other request.
/// `params` are those of the client.
pub(super) fn refuse(party: &Party<'_>, route: &Route, params: Option<&RawValue>) -> Option<Box<RawValue>> {
    let tool = route.tool.as_ref().filter(|_| party.api.config.now().validate_input)?;
    let arguments = params.and_then(|params| raw::field(params, "arguments")).unwrap_or(&EMPTY_OBJECT);
    let what = tool.check_arguments(arguments).err()?;
    Counters::add(&party.api.counters.errors_total);
    let name = params.and_then(|params| raw::text(params, "name")).unwrap_or_default();
    let text = Error::InvalidArguments { tool: name, what }.to_string();
    let result = raw::object(&format!(r#""content":[{{"type":"text","text":{}}}],"isError":true"#, raw::quoted(&text)));
    Some(match party.era {
        Era::Legacy => result,
        Era::Modern => eras::to_modern("tools/call", &result, route.info.server_info.as_deref()),
    })
}
