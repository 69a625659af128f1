//! Headers of the modern era that say again what the body says, so that proxies can tell requests apart.
//!
//! Source: MCP 2026-07-28, Streamable HTTP (`mcp.md` 2.3).

use serde_json::value::RawValue;

use super::{Request, VERSION_HEADER};
use crate::{
    mcp::{
        incoming::{Failure, HEADER_MISMATCH},
        raw,
    },
    pool::catalog::Tool,
};

/// Methods whose header `Mcp-Name` says what they are about, and where the body says it.
const NAMED: [(&str, &str); 3] = [("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri")];

/// Around a header's value that stands in base64 (MCP 2026-07-28, header encoding).
const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// Annotation of an argument that is said in a header as well.
const HEADER_ANNOTATION: &str = "x-mcp-header";

/// Fails when the headers that every request has do not say what its body says.
pub(super) fn check(
    request: &Request<'_>,
    version: &str,
    method: &str,
    params: &raw::Fields<'_>,
) -> Result<(), Failure> {
    same(request, VERSION_HEADER, version)?;
    same(request, "Mcp-Method", method)?;
    let Some((_, field)) = NAMED.iter().find(|(it, _)| *it == method) else { return Ok(()) };
    let name = params.get(field).and_then(raw::string).unwrap_or_default();
    same(request, "Mcp-Name", &name)
}

/// Fails when a header does not say what the body says.
fn same(request: &Request<'_>, header: &str, wanted: &str) -> Result<(), Failure> {
    let wrong = |what: String| Err(Failure::new(HEADER_MISMATCH, what));
    let Some(bytes) = request.head.header_bytes(request.head_bytes, header) else {
        return wrong(format!("the header `{header}` is missing"));
    };
    let Some(given) = decode(bytes) else {
        return wrong(format!("the header `{header}` is not encoded as it should be"));
    };
    if given == wanted { Ok(()) } else { wrong(format!("the header `{header}` says `{given}`, the body `{wanted}`")) }
}

/// The text of a header's value, which may stand in base64.
fn decode(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\t']);
    let encoded = text.strip_prefix(ENCODED.0).and_then(|rest| rest.strip_suffix(ENCODED.1));
    match encoded {
        Some(encoded) => String::from_utf8(data_encoding::BASE64.decode(encoded.as_bytes()).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

/// Fails when a header does not say what the argument says that the tool's schema wants it to. `params` are those of the call.
pub(super) fn check_arguments(tool: &Tool, params: &raw::Fields<'_>, request: &Request<'_>) -> Result<(), Failure> {
    for (property, header) in tool.in_headers.get_or_init(|| said_in_headers(tool)) {
        let argument = params.get("arguments").and_then(|arguments| raw::field(arguments, property));
        match argument.filter(|it| it.get() != "null") {
            Some(argument) => same_value(request, header, argument)?,
            None if request.head.header_bytes(request.head_bytes, header).is_some() => {
                let what = format!("the header `{header}` is there, and the argument `{property}` is not");
                return Err(Failure::new(HEADER_MISMATCH, what));
            }
            None => {}
        }
    }
    Ok(())
}

/// The arguments that the tool's schema wants said in headers, and the names of these.
fn said_in_headers(tool: &Tool) -> Vec<(String, String)> {
    let schema = raw::field(&tool.listing, "inputSchema");
    let properties =
        schema.and_then(|schema| raw::field(schema, "properties")).and_then(raw::Fields::read).unwrap_or_default();
    let annotated = properties.iter().filter_map(|(property, rules)| {
        let name = raw::text(rules, HEADER_ANNOTATION)?;
        Some((property.to_owned(), format!("Mcp-Param-{name}")))
    });
    annotated.collect()
}

fn same_value(request: &Request<'_>, header: &str, argument: &RawValue) -> Result<(), Failure> {
    let wanted = raw::string(argument).unwrap_or_else(|| argument.get().to_owned());
    let given = request.head.header_bytes(request.head_bytes, header).and_then(decode);
    let number = |text: &str| text.parse::<f64>().ok();
    let is_number = argument.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
    // 1.0 is 1, and both may be written.
    let is_same_number =
        is_number && given.as_deref().and_then(number).is_some_and(|given| Some(given) == number(&wanted));
    if is_same_number { Ok(()) } else { same(request, header, &wanted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_may_stand_in_base64() {
        let decoded = |value: &str| decode(value.as_bytes());
        assert_eq!(decoded(" plain\t").as_deref(), Some("plain"));
        assert_eq!(decoded("=?base64?w7xuw68=?=").as_deref(), Some("ünï"));
        for literal in ["=?base64?w7xuw68=", "base64?w7xuw68=?=", "=?BASE64?w7xuw68=?="] {
            assert_eq!(decoded(literal).as_deref(), Some(literal));
        }
        for malformed in ["=?base64?w7xuw68?=", "=?base64?w7x*w68=?=", "=?base64?/w==?="] {
            assert_eq!(decoded(malformed), None, "{malformed}");
        }
        assert_eq!(decode(b"\xff"), None);
    }
}
