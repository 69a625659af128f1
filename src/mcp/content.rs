//! The result of a tool, and the one value it comes down to.
//!
//! `data` of an answer is `structuredContent` if there is one; else the value of the only content block; else the array
//! of the blocks' values (none: `null`). The value of a text block is its text, or what it holds if that is a JSON object
//! or array; of any other block, the block.

use std::{borrow::Cow, sync::LazyLock};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq as _};
use serde_json::value::RawValue;

/// `{}`, for arguments that are absent.
pub static EMPTY_OBJECT: LazyLock<Box<RawValue>> = LazyLock::new(|| literal("{}"));

static NO_CONTENT: LazyLock<Box<RawValue>> = LazyLock::new(|| literal("[]"));

fn literal(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap_or_default()
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
            content: result.content.unwrap_or(&**NO_CONTENT),
            is_error: result.is_error.unwrap_or(false),
            structured: result.structured_content,
            blocks: blocks.collect(),
        })
    }

    /// The items that the result comes in, each as JSON, when it is an array or has several content blocks.
    pub fn items(&self) -> Option<Vec<String>> {
        let array = match (self.structured, &self.blocks[..]) {
            (Some(structured), _) => Some(structured),
            (None, [only]) => only.text.as_deref().and_then(json_in),
            (None, []) => None,
            (None, blocks) => return blocks.iter().map(|block| serde_json::to_string(block).ok()).collect(),
        };
        let items: Vec<&RawValue> = serde_json::from_str(array?.get()).ok()?;
        Some(items.into_iter().map(|item| item.get().to_owned()).collect())
    }

    /// The first text among the blocks.
    pub fn first_text(&self) -> Option<String> {
        self.blocks.iter().find_map(|block| block.text.as_deref()).map(str::to_owned)
    }
}

impl Serialize for ToolResult<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.structured {
            Some(structured) => structured.serialize(serializer),
            None => serialize_blocks(&self.blocks, serializer),
        }
    }
}

fn serialize_blocks<S: Serializer>(blocks: &[Block<'_>], serializer: S) -> Result<S::Ok, S::Error> {
    match blocks {
        [] => serializer.serialize_none(),
        [only] => only.serialize(serializer),
        blocks => {
            let mut seq = serializer.serialize_seq(Some(blocks.len()))?;
            blocks.iter().try_for_each(|block| seq.serialize_element(block))?;
            seq.end()
        }
    }
}

/// A `ReadResourceResult`. Serializes as the value it comes down to, by the rule for content blocks: a text is its
/// text, or the JSON object or array in it.
#[derive(Debug)]
pub struct ResourceContents<'a> {
    /// The array of contents, untouched.
    pub raw: &'a RawValue,
    blocks: Vec<Block<'a>>,
}

impl<'a> ResourceContents<'a> {
    /// Reads a raw result. Fails with a sentence when it is none.
    pub fn read(raw: &'a RawValue) -> Result<ResourceContents<'a>, String> {
        #[derive(Deserialize)]
        struct ReadResourceResult<'a> {
            #[serde(borrow)]
            contents: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            text: Option<Cow<'a, str>>,
        }
        let fail = |cause: serde_json::Error| format!("the result of `resources/read` cannot be read: {cause}");
        let result: ReadResourceResult<'a> = serde_json::from_str(raw.get()).map_err(fail)?;
        let raws: Vec<&'a RawValue> = serde_json::from_str(result.contents.get()).map_err(fail)?;
        let blocks = raws.into_iter().map(|raw| {
            let content: Option<Content<'a>> = serde_json::from_str(raw.get()).ok();
            Block { raw, text: content.and_then(|content| content.text) }
        });
        Ok(ResourceContents { raw: result.contents, blocks: blocks.collect() })
    }
}

impl Serialize for ResourceContents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_blocks(&self.blocks, serializer)
    }
}

/// The JSON object or array that a text is.
fn json_in(text: &str) -> Option<&RawValue> {
    let may_be_json = text.trim_ascii_start().starts_with(['{', '[']);
    may_be_json.then(|| serde_json::from_str(text).ok()).flatten()
}

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(text) = &self.text else { return self.raw.serialize(serializer) };
        match json_in(text) {
            Some(json) => json.serialize(serializer),
            None => serializer.serialize_str(text),
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

    #[track_caller]
    fn check_items(result: &str, items: Option<&[&str]>) {
        let raw = RawValue::from_string(result.to_owned()).unwrap();
        let found = ToolResult::read(&raw).unwrap().items();
        assert_eq!(found, items.map(|items| items.iter().map(|it| (*it).to_owned()).collect()), "{result}");
    }

    #[test]
    fn an_array_or_several_blocks_come_in_items() {
        check_items(r#"{"content":[],"structuredContent":[1,"a"]}"#, Some(&["1", "\"a\""]));
        check_items(r#"{"content":[{"type":"text","text":"[{\"a\":1},2]"}]}"#, Some(&["{\"a\":1}", "2"]));
        check_items(r#"{"content":[{"type":"text","text":"a"},{"type":"x"}]}"#, Some(&["\"a\"", r#"{"type":"x"}"#]));
        for one in
            [r#"{"content":[{"type":"text","text":"a"}]}"#, r#"{"content":[],"structuredContent":{"a":1}}"#, "{}"]
        {
            check_items(one, None);
        }
    }

    #[test]
    fn a_result_that_is_none_is_told() {
        for result in ["[]", "1", "null", r#"{"content":1}"#, r#"{"content":[],"isError":"yes"}"#] {
            let raw = RawValue::from_string(result.to_owned()).unwrap();
            assert!(ToolResult::read(&raw).is_err(), "{result}");
        }
    }
}
