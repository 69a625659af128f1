//! A tool: what a client is told about it, what runs when it is called, and how it fails.

use serde::Serialize;
use serde_json::{Map, Value};

use super::context::Context;
use crate::json::json;

/// `_meta` key of a failed call's result: `{"code", "argument"}`, for programs that want more than the sentence.
pub const ERROR_KEY: &str = "mcpgate/error";

/// The `arguments` of a call.
pub type Arguments = Map<String, Value>;

pub(super) type Handler = Box<dyn Fn(&Context, Arguments) -> Result<Value, ToolError> + Send + Sync>;

/// What `tools/list` says of a tool.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// The name to call it by.
    pub name: &'static str,
    /// The name to show.
    pub title: &'static str,
    /// What it does and when to use it, for a model.
    pub description: String,
    /// JSON Schema of the arguments, an object at its root.
    pub input_schema: Value,
    /// JSON Schema of the result, an object at its root. With one, results are also sent as `structuredContent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Hints on what a call does to the world.
    pub annotations: Annotations,
}

/// Hints on what a call does to the world.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotations {
    /// It changes nothing.
    pub read_only_hint: bool,
    /// It may destroy or overwrite something.
    pub destructive_hint: bool,
    /// A second call with the same arguments changes nothing more.
    pub idempotent_hint: bool,
    /// It reaches beyond what the server holds.
    pub open_world_hint: bool,
}

/// A call that failed in a way its caller can do something about. It becomes a result with `isError`.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolError {
    /// A word for programs that does not change between versions.
    pub code: &'static str,
    /// The argument that is to blame, if one is.
    pub argument: Option<String>,
    /// What failed, on which value, in one line without a final period.
    pub message: String,
    /// What to do about it, likewise.
    pub hint: String,
}

impl ToolError {
    pub(super) fn into_result(self) -> Map<String, Value> {
        let mut error = Map::from_iter([("code".to_owned(), json!(self.code))]);
        if let Some(argument) = self.argument {
            error.insert("argument".to_owned(), json!(argument));
        }
        Map::from_iter([
            ("content".to_owned(), text_content(format!("{}; {}", self.message, self.hint))),
            ("isError".to_owned(), json!(true)),
            ("_meta".to_owned(), json!({ ERROR_KEY: error })),
        ])
    }
}

/// A tool with its handler.
pub(super) struct Registered {
    pub(super) tool: Tool,
    pub(super) handler: Handler,
}

impl Registered {
    /// The result of a call that gave `value`: its JSON text, and the value itself if the tool has an output schema.
    pub(super) fn to_result(&self, value: Value) -> Map<String, Value> {
        let mut result = Map::from_iter([("content".to_owned(), text_content(value.to_string()))]);
        if self.tool.output_schema.is_some() {
            result.insert("structuredContent".to_owned(), value);
        }
        result
    }
}

fn text_content(text: String) -> Value {
    json!([{"type": "text", "text": text}])
}
