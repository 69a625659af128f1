//! The result of a tool, and the one value it comes down to.
//!
//! `data` of an answer is `structuredContent` if there is one; else the value of the only content block; else the array
//! of the blocks' values (none: `null`). The value of a text block is its text, or what it holds if that is a JSON object
//! or array; of any other block, the block.

use std::{borrow::Cow, iter, sync::LazyLock};

use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;

use super::{raw, skim};

/// `{}`, for arguments that are absent.
pub static EMPTY_OBJECT: LazyLock<Box<RawValue>> =
    LazyLock::new(|| RawValue::from_string("{}".to_owned()).unwrap_or_default());

/// A `CallToolResult`, raw where its content is.
#[derive(Debug)]
pub struct ToolResult<'a> {
    /// The array of content blocks, untouched; `[]` when there is none.
    pub content: &'a str,
    /// Whether the tool says that it failed.
    pub is_error: bool,
    structured: Option<&'a str>,
    blocks: Vec<Block<'a>>,
}

#[derive(Debug)]
enum Block<'a> {
    Text(Text<'a>),
    /// Any other, as it stands.
    Other(&'a str),
}

#[derive(Debug)]
enum Text<'a> {
    /// As it stands in JSON, quotes included, with no escapes but those that it would be written with again.
    Quoted(&'a str),
    /// What it says.
    Plain(String),
}

impl<'a> ToolResult<'a> {
    /// Reads a raw result. Fails with a sentence when it is none.
    pub fn read(raw: &'a RawValue) -> Result<ToolResult<'a>, String> {
        let fail = |what: &str| Err(format!("the result of `tools/call` cannot be read: {what}"));
        let Some(fields) = skim::fields(raw.get()) else {
            return Err("the result of `tools/call` is not an object".to_owned());
        };
        let (mut content, mut structured, mut is_error) = (None, None, None);
        for (name, value) in fields {
            let place = match () {
                () if skim::is(name, "content") => &mut content,
                () if skim::is(name, "structuredContent") => &mut structured,
                () if skim::is(name, "isError") => &mut is_error,
                () => continue,
            };
            if place.replace(value).is_some() {
                return fail(&format!("it has {name} twice"));
            }
        }
        let there = |value: &&str| *value != "null";
        let is_error = match is_error.filter(there) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return fail("`isError` is neither true nor false"),
        };
        let content = content.filter(there).unwrap_or("[]");
        let Some(blocks) = skim::items(content) else { return fail("`content` is not an array") };
        let blocks = blocks.map(|raw| text_of(raw, Some("text")).map_or(Block::Other(raw), Block::Text)).collect();
        Ok(ToolResult { content, is_error, structured: structured.filter(there), blocks })
    }

    /// The items that the result comes in, each as JSON, when it is an array or has several content blocks.
    pub fn items(&self) -> Option<Vec<Cow<'a, str>>> {
        let array = match (self.structured, &self.blocks[..]) {
            (Some(structured), _) => Cow::Borrowed(structured),
            (None, [Block::Text(text)]) => text.json_in()?,
            (None, [] | [Block::Other(_)]) => return None,
            (None, blocks) => return Some(blocks.iter().map(Block::value).collect()),
        };
        match array {
            Cow::Borrowed(array) => Some(skim::items(array)?.map(Cow::Borrowed).collect()),
            Cow::Owned(array) => Some(skim::items(&array)?.map(|item| Cow::Owned(item.to_owned())).collect()),
        }
    }

    /// The first text among the blocks.
    pub fn first_text(&self) -> Option<String> {
        self.blocks.iter().find_map(|block| match block {
            Block::Text(text) => text.plain().map(Cow::into_owned),
            Block::Other(_) => None,
        })
    }

    /// Gives `push` the JSON of its `data`, part by part: what stands in the result as it stands there, anything else made for it.
    pub fn data(&self, push: impl FnMut(Cow<'a, str>)) {
        match self.structured {
            Some(structured) => iter::once(Cow::Borrowed(structured)).for_each(push),
            None => value_of(&self.blocks, push),
        }
    }
}

/// The text of a block or a resource, if it has one and is of this type.
fn text_of<'a>(block: &'a str, wanted_type: Option<&str>) -> Option<Text<'a>> {
    let (mut its_type, mut text) = (None, None);
    for (name, value) in skim::fields(block)? {
        let place = match () {
            () if skim::is(name, "text") => &mut text,
            () if wanted_type.is_some() && skim::is(name, "type") => &mut its_type,
            () => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    let is_wanted = wanted_type.is_none_or(|wanted| its_type.is_some_and(|its_type| skim::is(its_type, wanted)));
    let text = text.filter(|text| is_wanted && text.starts_with('"'))?;
    if is_written_so(text) {
        Some(Text::Quoted(text))
    } else {
        skim::text(text).map(|text| Text::Plain(text.into_owned()))
    }
}

/// Whether a string in JSON looks as it would if it were written anew: only `\u` and `\/` can be written otherwise.
fn is_written_so(string: &str) -> bool {
    let bytes = string.as_bytes();
    let mut at = 0;
    while let Some(n) = memchr::memchr(b'\\', &bytes[at..]) {
        at += n + 2;
        if let Some(b'u' | b'/') = bytes.get(at - 1) {
            return false;
        }
        at = at.min(bytes.len());
    }
    true
}

/// The JSON that blocks come down to, part by part.
fn value_of<'a>(blocks: &[Block<'a>], mut push: impl FnMut(Cow<'a, str>)) {
    match blocks {
        [] => push(Cow::Borrowed("null")),
        [only] => push(only.value()),
        blocks => {
            for (index, block) in blocks.iter().enumerate() {
                push(Cow::Borrowed(if index == 0 { "[" } else { "," }));
                push(block.value());
            }
            push(Cow::Borrowed("]"));
        }
    }
}

impl<'a> Block<'a> {
    /// Its value, as JSON.
    fn value(&self) -> Cow<'a, str> {
        match self {
            Block::Other(raw) => Cow::Borrowed(raw),
            Block::Text(text) => text.json_in().unwrap_or_else(|| match text {
                Text::Quoted(string) => Cow::Borrowed(string),
                Text::Plain(text) => Cow::Owned(raw::quoted(text)),
            }),
        }
    }
}

impl<'a> Text<'a> {
    fn plain(&self) -> Option<Cow<'a, str>> {
        match self {
            Text::Quoted(string) => skim::text(string),
            Text::Plain(text) => Some(Cow::Owned(text.clone())),
        }
    }

    /// The JSON object or array that it is.
    fn json_in(&self) -> Option<Cow<'a, str>> {
        let may_be_json = match self {
            Text::Quoted(string) => {
                let mut rest = &string[1..];
                while let Some(less) = [" ", "\\n", "\\r", "\\t"].iter().find_map(|blank| rest.strip_prefix(blank)) {
                    rest = less;
                }
                rest.starts_with(['{', '['])
            }
            Text::Plain(text) => text.trim_ascii_start().starts_with(['{', '[']),
        };
        let text = if may_be_json { self.plain()? } else { return None };
        match text {
            Cow::Borrowed(text) => serde_json::from_str(text).ok().map(|json: &RawValue| Cow::Borrowed(json.get())),
            Cow::Owned(text) => {
                let n_bytes = serde_json::from_str::<&RawValue>(&text).ok()?.get().len();
                // Without the white space around it.
                Some(Cow::Owned(if n_bytes == text.len() { text } else { text.trim_ascii().to_owned() }))
            }
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
        let fail = |what: &str| format!("the result of `resources/read` cannot be read: {what}");
        let contents = raw::field(raw, "contents").ok_or_else(|| fail("it has no `contents`"))?;
        let blocks = skim::items(contents.get()).ok_or_else(|| fail("`contents` is not an array"))?;
        let blocks = blocks.map(|raw| text_of(raw, None).map_or(Block::Other(raw), Block::Text)).collect();
        Ok(ResourceContents { raw: contents, blocks })
    }
}

impl Serialize for ResourceContents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = String::new();
        value_of(&self.blocks, |part| json.push_str(&part));
        RawValue::from_string(json).map_err(S::Error::custom)?.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_data(result: &str, data: &str) {
        let raw = RawValue::from_string(result.to_owned()).unwrap();
        let mut found = String::new();
        ToolResult::read(&raw).unwrap().data(|part| found.push_str(&part));
        assert_eq!(found, data, "{result}");
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
        assert_eq!(found, items.map(|items| items.iter().map(|it| Cow::Borrowed(*it)).collect()), "{result}");
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
