//! Results and errors of one era in the words of the other.
//!
//! Facts: `mcp.md` 3.5, and `schema.json` of MCP 2025-11-25 and 2026-07-28. What both eras share is left untouched.

use serde_json::value::RawValue;

use super::{
    incoming::{Failure, INVALID_PARAMS, RESOURCE_NOT_FOUND},
    message::META,
    raw, revision,
};

/// Methods whose results say how long they may be kept (MCP 2026-07-28, caching).
const CACHEABLE: [&str; 6] =
    ["server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"];

/// What every cacheable result says here: that it is not to be kept.
const NOT_TO_BE_KEPT: [(&str, &str); 2] = [("ttlMs", "0"), ("cacheScope", "\"private\"")];

/// The field that says whether a result is one, or asks for something.
pub const RESULT_TYPE: &str = "resultType";

/// A legacy server's result of `method`, for a modern client. `server_info` is what the server calls itself.
pub fn to_modern(method: &str, result: &RawValue, server_info: Option<&RawValue>) -> Box<RawValue> {
    let listed = (method == "tools/list").then(|| map_list(result, "tools", |tool| raw::without(tool, "execution")));
    let result = listed.as_deref().unwrap_or(result);
    let Some(fields) = raw::Fields::read(result) else { return result.to_owned() };
    let cacheable = CACHEABLE.contains(&method).then_some(NOT_TO_BE_KEPT).into_iter().flatten();
    let added = [(RESULT_TYPE, "\"complete\"")].into_iter().chain(cacheable);
    let mut added = added.filter(|(name, _)| fields.get(name).is_none()).peekable();
    let meta = server_info.map(|server_info| {
        let meta = fields.get(META).map_or_else(|| raw::object(""), ToOwned::to_owned);
        raw::with(&meta, revision::SERVER_INFO_KEY, server_info.get())
    });
    let is_complete = added.peek().is_none() && meta.is_none();
    if is_complete {
        return result.to_owned();
    }
    // Put together at once: a result may be long.
    let mut text = Vec::with_capacity(result.get().len() + meta.as_ref().map_or(0, |meta| meta.get().len()) + 128);
    text.push(b'{');
    let mut writer = raw::FieldsWriter::new(&mut text);
    for (name, value) in fields.iter() {
        writer.push(name, meta.as_ref().filter(|_| name == META).map_or(value.get(), |meta| meta.get()));
    }
    added.for_each(|(name, value)| writer.push(name, value));
    if let Some(meta) = meta.filter(|_| fields.get(META).is_none()) {
        writer.push(META, meta.get());
    }
    text.push(b'}');
    raw::from_bytes(text).unwrap_or_else(|| result.to_owned())
}

/// A modern server's result of `method`, for a legacy client, who may know more fields than it needs but not other types.
pub fn to_legacy(method: &str, result: &RawValue) -> Box<RawValue> {
    let is_object = |value: &RawValue| value.get().starts_with('{');
    match method {
        "tools/list" => map_list(result, "tools", |tool| {
            let is_for_objects = |schema: &RawValue| raw::text(schema, "type").as_deref() == Some("object");
            match raw::field(tool, "outputSchema") {
                Some(schema) if !is_for_objects(schema) => raw::without(tool, "outputSchema"),
                _ => tool.to_owned(),
            }
        }),
        "tools/call" => match raw::field(result, "structuredContent") {
            Some(structured) if !is_object(structured) => raw::without(result, "structuredContent"),
            _ => result.to_owned(),
        },
        _ => result.to_owned(),
    }
}

/// A legacy server's error, for a modern client. `uri` is the resource that was asked for, if one was.
pub fn error_to_modern(failure: Failure, uri: Option<&str>) -> Failure {
    if failure.code != RESOURCE_NOT_FOUND {
        return failure;
    }
    let data = uri.map(|uri| format!(r#"{{"uri":{}}}"#, raw::quoted(uri))).or(failure.data);
    Failure { code: INVALID_PARAMS, data, ..failure }
}

/// `result` with every entry of its list `field` changed.
pub fn map_list(result: &RawValue, field: &str, change: impl Fn(&RawValue) -> Box<RawValue>) -> Box<RawValue> {
    let entries = raw::field(result, field).and_then(|list| serde_json::from_str::<Vec<&RawValue>>(list.get()).ok());
    let Some(entries) = entries else { return result.to_owned() };
    let changed: Vec<Box<RawValue>> = entries.into_iter().map(change).collect();
    raw::with(result, field, &raw::array(&changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_modern_client_gets_what_its_revision_asks_of_every_result() {
        let modern =
            |method: &str, result: &str| to_modern(method, &json(result), Some(&json(r#"{"name":"s"}"#))).to_string();
        let meta = r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}"#;
        assert_eq!(
            modern("tools/list", r#"{"tools":[{"name":"a","execution":{"taskSupport":"optional"}}],"nextCursor":""}"#),
            format!(
                r#"{{"tools":[{{"name":"a"}}],"nextCursor":"","resultType":"complete","ttlMs":0,"cacheScope":"private",{meta}}}"#
            )
        );
        assert_eq!(
            modern("tools/call", r#"{"content":[],"x":1.10,"_meta":{"k":1}}"#),
            concat!(
                r#"{"content":[],"x":1.10,"_meta":{"k":1,"io.modelcontextprotocol/serverInfo":{"name":"s"}},"#,
                r#""resultType":"complete"}"#
            )
        );
    }

    #[test]
    fn what_says_all_that_is_asked_of_it_stays_as_it_is() {
        for result in [r#"{ "resultType": "input_required", "x": 1.10 }"#, "[1, 2]"] {
            assert_eq!(to_modern("tools/call", &json(result), None).get(), result);
        }
        let nothing = to_modern("resources/read", &json(r#"{"ttlMs":5}"#), None);
        assert_eq!(nothing.get(), r#"{"ttlMs":5,"resultType":"complete","cacheScope":"private"}"#);
    }

    #[test]
    fn a_legacy_client_gets_structured_content_only_of_the_type_it_knows() {
        let legacy = |method: &str, result: &str| to_legacy(method, &json(result)).to_string();
        assert_eq!(legacy("tools/call", r#"{"content":[],"structuredContent":[1]}"#), r#"{"content":[]}"#);
        let object = r#"{"content":[],"structuredContent":{"a":1}}"#;
        assert_eq!(legacy("tools/call", object), object);
        assert_eq!(
            legacy(
                "tools/list",
                r#"{"tools":[{"name":"a","outputSchema":{"type":"array"}},{"name":"b","outputSchema":{"type":"object"}}]}"#
            ),
            r#"{"tools":[{"name":"a"},{"name":"b","outputSchema":{"type":"object"}}]}"#
        );
    }

    #[test]
    fn a_resource_that_is_not_there_has_another_code_in_the_modern_era() {
        let missing = Failure::new(RESOURCE_NOT_FOUND, "no");
        let modern = error_to_modern(missing, Some("x:\"1\""));
        assert_eq!((modern.code, modern.data.as_deref()), (INVALID_PARAMS, Some(r#"{"uri":"x:\"1\""}"#)));
        assert_eq!(error_to_modern(Failure::new(-1, "m"), Some("x")), Failure::new(-1, "m"));
    }
}
