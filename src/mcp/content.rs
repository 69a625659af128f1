//! The result of a tool, and the one value it comes down to.
//!
//! `data` of an answer is `structuredContent` if there is one; else the value of the only content block; else the array
//! of the blocks' values (none: `null`). The value of a text block is its text, or what it holds if that is a JSON object
//! or array; of any other block, the block.

use std::{borrow::Cow, sync::OnceLock};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq as _};
use serde_json::value::RawValue;

/// `{}`, for arguments that are absent.
pub static EMPTY_OBJECT: OnceLock<Box<RawValue>> = OnceLock::new();

/// See [`EMPTY_OBJECT`].
pub fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// A `CallToolResult`, raw where its content is. Serializes as its `data`.
#[derive(Debug)]
pub struct ToolResult<'a> {
    /// The array of content blocks, untouched; `[]` when there is none.
    pub content: &'a RawValue,
    /// Whether the tool says that it failed.
    pub is_error: bool,
    structured: Option<&'a RawValue>,
    blocks: Vec<Block<'a>>,
}

#[derive(Debug)]
struct Block<'a> {
    raw: &'a RawValue,
    text: Option<Cow<'a, str>>,
}

impl<'a> ToolResult<'a> {
    /// Reads a raw result. Fails with a sentence when it is none.
    pub fn read(raw: &'a RawValue) -> Result<ToolResult<'a>, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct CallToolResult<'a> {
            #[serde(borrow)]
            content: Option<&'a RawValue>,
            #[serde(borrow)]
            structured_content: Option<&'a RawValue>,
            #[serde(default)]
            is_error: Option<bool>,
        }
        #[derive(Deserialize)]
        struct RawBlock<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            #[serde(borrow)]
            text: Option<Cow<'a, str>>,
        }
        let is_object = raw.get().starts_with('{');
        if !is_object {
            return Err("the result of `tools/call` is not an object".to_owned());
        }
        let fail = |cause: serde_json::Error| format!("the result of `tools/call` cannot be read: {cause}");
        let result: CallToolResult<'a> = serde_json::from_str(raw.get()).map_err(fail)?;
        let raws: Vec<&'a RawValue> = match result.content {
            Some(content) => serde_json::from_str(content.get()).map_err(fail)?,
            None => Vec::new(),
        };
        let blocks = raws.into_iter().map(|raw| {
            let block: Option<RawBlock<'a>> = serde_json::from_str(raw.get()).ok();
            Block { raw, text: block.filter(|block| block.r#type == "text").and_then(|block| block.text) }
        });
        Ok(ToolResult {
            content: result.content.unwrap_or_else(|| no_content()),
            is_error: result.is_error.unwrap_or(false),
            structured: result.structured_content,
            blocks: blocks.collect(),
        })
    }

    /// The first text among the blocks.
    pub fn first_text(&self) -> Option<String> {
        self.blocks.iter().find_map(|block| block.text.as_deref()).map(str::to_owned)
    }
}

fn no_content() -> &'static RawValue {
    static NO_CONTENT: OnceLock<Box<RawValue>> = OnceLock::new();
    NO_CONTENT.get_or_init(|| RawValue::from_string("[]".to_owned()).unwrap_or_default())
}

impl Serialize for ToolResult<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(structured) = self.structured {
            return structured.serialize(serializer);
        }
        match &self.blocks[..] {
            [] => serializer.serialize_none(),
            [only] => only.serialize(serializer),
            blocks => {
                let mut seq = serializer.serialize_seq(Some(blocks.len()))?;
                blocks.iter().try_for_each(|block| seq.serialize_element(block))?;
                seq.end()
            }
        }
    }
}

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(text) = &self.text else { return self.raw.serialize(serializer) };
        let may_be_json = text.trim_ascii_start().starts_with(['{', '[']);
        match serde_json::from_str::<&RawValue>(text) {
            Ok(json) if may_be_json => json.serialize(serializer),
            _ => serializer.serialize_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_data(result: &str, data: &str) {
        let raw = RawValue::from_string(result.to_owned()).unwrap();
        assert_eq!(serde_json::to_string(&ToolResult::read(&raw).unwrap()).unwrap(), data, "{result}");
    }

    #[test]
    fn data_is_the_one_value_a_result_comes_down_to() {
        check_data(
            r#"{"content":[{"type":"text","text":"x"}],"structuredContent":{"b":1.10,"a":2}}"#,
            r#"{"b":1.10,"a":2}"#,
        );
        check_data(r#"{"content":[{"type":"text","text":"plain \u00e9"}]}"#, r#""plain é""#);
        check_data(
            r#"{"content":[{"type":"text","text":" {\"z\": 12345678901234567890}"}]}"#,
            r#"{"z": 12345678901234567890}"#,
        );
        check_data(r#"{"content":[{"type":"text","text":"[1,2]"}]}"#, "[1,2]");
        check_data(r#"{"content":[{"type":"text","text":"1.10"}]}"#, r#""1.10""#);
        check_data(r#"{"content":[{"type":"text","text":"true"}]}"#, r#""true""#);
        check_data(r#"{"content":[{"type":"text","text":"{no json"}]}"#, r#""{no json""#);
        check_data(
            r#"{"content":[{"type":"image","data":"AA","mimeType":"image/png"}]}"#,
            r#"{"type":"image","data":"AA","mimeType":"image/png"}"#,
        );
        check_data(
            r#"{"content":[{"type":"text","text":"a"},{"type":"x","y":1},{"type":"text","text":"{}"}]}"#,
            r#"["a",{"type":"x","y":1},{}]"#,
        );
        check_data(r#"{"content":[]}"#, "null");
        check_data("{}", "null");
    }

    #[test]
    fn a_result_that_is_none_is_told() {
        for result in ["[]", "1", "null", r#"{"content":1}"#, r#"{"content":[],"isError":"yes"}"#] {
            let raw = RawValue::from_string(result.to_owned()).unwrap();
            assert!(ToolResult::read(&raw).is_err(), "{result}");
        }
    }
}
