//! What a call may say: the actions, what each takes, and the arguments with their limits.
//!
//! The input schema and the checks are made from the same lists. A gateway in front may have checked a call
//! against the schema before; a client on stdio has not.

use serde_json::Value;

use crate::{
    json::json,
    mcp::server::{Arguments, ToolError},
};

use super::journey::{Status, StepName};

/// The longest list.
pub(super) const LIMIT_MAX: usize = 100;

/// How long a list is that has no `limit`.
pub(super) const LIMIT_DEFAULT: usize = 50;

/// What to do. The order is that of the schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Action {
    List,
    Get,
    Create,
    Update,
    Delete,
    AddStep,
    CompleteStep,
}

/// What an action takes.
struct Takes {
    name: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
}

impl Action {
    const ALL: [Action; 7] = [
        Action::List,
        Action::Get,
        Action::Create,
        Action::Update,
        Action::Delete,
        Action::AddStep,
        Action::CompleteStep,
    ];

    pub(super) fn name(self) -> &'static str {
        self.takes().name
    }

    fn takes(self) -> Takes {
        let (name, required, optional): (_, &[_], &[_]) = match self {
            Action::List => ("list", &[], &["status", "query", "limit"]),
            Action::Get => ("get", &["id"], &[]),
            Action::Create => ("create", &["name"], &["description", "status"]),
            Action::Update => ("update", &["id"], &["name", "description", "status"]),
            Action::Delete => ("delete", &["id"], &[]),
            Action::AddStep => ("add_step", &["id", "step"], &[]),
            Action::CompleteStep => ("complete_step", &["id", "step"], &[]),
        };
        Takes { name, required, optional }
    }
}

/// A text argument and its limits, in characters, after blanks at both ends are cut off.
pub(super) struct Text {
    name: &'static str,
    chars_min: usize,
    chars_max: usize,
    description: &'static str,
}

pub(super) const ID: Text =
    Text { name: "id", chars_min: 1, chars_max: 64, description: "Id of a journey, as `list` gives it." };

pub(super) const NAME: Text = Text { name: "name", chars_min: 1, chars_max: 200, description: "Name of the journey." };

pub(super) const DESCRIPTION: Text =
    Text { name: "description", chars_min: 0, chars_max: 2000, description: "What the journey is about." };

pub(super) const QUERY: Text = Text {
    name: "query",
    chars_min: 0,
    chars_max: 200,
    description: "Only journeys with this text in name or description; case does not matter.",
};

const STEP: Text = Text {
    name: "step",
    chars_min: 1,
    chars_max: 200,
    description: "For `add_step` the text of the new step; for `complete_step` the number or the exact text of a step.",
};

const NAMES: [&str; 8] = ["action", "id", "name", "description", "status", "step", "query", "limit"];

/// The arguments of one call, of which the action is known and the names are right.
pub(super) struct Given {
    action: Action,
    values: Arguments,
}

impl Given {
    /// Fails when there is no such action, or when it lacks an argument or has one it does not take.
    pub(super) fn read(mut values: Arguments) -> Result<Given, ToolError> {
        // Models like to send every argument they know of.
        values.retain(|_, value| !value.is_null());

        let actions = in_backticks(Action::ALL.map(Action::name));
        let action = match values.remove("action") {
            None => {
                return Err(error(
                    "missing_argument",
                    "action",
                    "`action` is missing",
                    format!("use one of {actions}"),
                ));
            }
            Some(Value::String(name)) => Action::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| {
                error(
                    "unknown_action",
                    "action",
                    format!("there is no action `{name}`"),
                    format!("use one of {actions}"),
                )
            })?,
            Some(other) => return Err(bad("action", &other, format!("one of {actions}"))),
        };

        let takes = action.takes();
        for name in values.keys() {
            let is_taken = takes.required.contains(&name.as_str()) || takes.optional.contains(&name.as_str());
            if is_taken {
                continue;
            }
            let known = takes.required.iter().chain(takes.optional).copied();
            let hint = if known.clone().next().is_none() {
                format!("send `{}` without arguments", takes.name)
            } else {
                format!("it takes {}", in_backticks(known))
            };
            let message = format!("`{}` does not take an argument `{name}`", takes.name);
            let code = if NAMES.contains(&name.as_str()) { "unexpected_argument" } else { "unknown_argument" };
            return Err(error(code, name, message, hint));
        }
        for name in takes.required {
            if !values.contains_key(*name) {
                let message = format!("`{}` needs the argument `{name}`", takes.name);
                return Err(error("missing_argument", name, message, format!("add `{name}` to the arguments")));
            }
        }
        Ok(Given { action, values })
    }

    pub(super) fn action(&self) -> Action {
        self.action
    }

    /// A text without blanks at its ends, if it was given.
    pub(super) fn text(&self, text: &Text) -> Result<Option<String>, ToolError> {
        let Some(value) = self.values.get(text.name) else { return Ok(None) };
        let expected = || format!("a text of {} to {} characters", text.chars_min, text.chars_max);
        let Some(content) = value.as_str().map(str::trim) else { return Err(bad(text.name, value, expected())) };
        let chars = content.chars().count();
        if chars < text.chars_min || text.chars_max < chars {
            let message = format!("`{}` has {chars} characters", text.name);
            return Err(error("bad_argument", text.name, message, format!("send {}", expected())));
        }
        // They have no place in these texts, and cost six bytes each as JSON.
        let control = content.chars().find(|it| it.is_control() && !matches!(it, '\n' | '\r' | '\t'));
        if let Some(control) = control {
            let message = format!("`{}` has the control character {}", text.name, control.escape_unicode());
            return Err(error("bad_argument", text.name, message, "leave it out; line breaks and tabs may stay"));
        }
        Ok(Some(content.to_owned()))
    }

    /// A text that the action requires.
    pub(super) fn required_text(&self, text: &Text) -> Result<String, ToolError> {
        // `read` has refused a call without it.
        Ok(self.text(text)?.unwrap_or_default())
    }

    pub(super) fn status(&self) -> Result<Option<Status>, ToolError> {
        let Some(value) = self.values.get("status") else { return Ok(None) };
        match value.as_str().and_then(Status::from_name) {
            Some(status) => Ok(Some(status)),
            None => Err(bad("status", value, format!("one of {}", in_backticks(Status::ALL.map(Status::name))))),
        }
    }

    pub(super) fn limit(&self) -> Result<usize, ToolError> {
        let Some(value) = self.values.get("limit") else { return Ok(LIMIT_DEFAULT) };
        let limit = whole_number(value).and_then(|it| usize::try_from(it).ok());
        limit
            .filter(|it| (1..=LIMIT_MAX).contains(it))
            .ok_or_else(|| bad("limit", value, format!("a whole number from 1 to {LIMIT_MAX}")))
    }

    /// The text of a new step.
    pub(super) fn new_step(&self) -> Result<String, ToolError> {
        self.required_text(&STEP)
    }

    /// Which of the steps.
    pub(super) fn step_name(&self) -> Result<StepName, ToolError> {
        match self.values.get(STEP.name).filter(|it| it.is_number()) {
            Some(value) => whole_number(value)
                .map(StepName::Number)
                .ok_or_else(|| bad(STEP.name, value, "the number or the text of a step".to_owned())),
            None => self.required_text(&STEP).map(StepName::Text),
        }
    }
}

/// JSON Schema of the arguments.
pub(super) fn schema() -> Value {
    let text = |text: &Text| {
        json!({
            "type": "string",
            "description": text.description,
            "minLength": text.chars_min,
            "maxLength": text.chars_max,
        })
    };
    let mut step = text(&STEP);
    step["type"] = json!(["string", "integer"]);
    step["minimum"] = json!(1);
    let statuses = Status::ALL.map(Status::name);
    json!({
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": Action::ALL.map(Action::name), "description": "What to do."},
            "id": text(&ID),
            "name": text(&NAME),
            "description": text(&DESCRIPTION),
            "status": {
                "type": "string",
                "enum": statuses,
                "description": "Status to set, or to filter a list by. A new journey is a draft unless told otherwise.",
            },
            "step": step,
            "query": text(&QUERY),
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": LIMIT_MAX,
                "default": LIMIT_DEFAULT,
                "description": "Most journeys in a list.",
            },
        },
        "required": ["action"],
        "additionalProperties": false,
    })
}

/// The actions with their arguments, for the description of the tool: ``list(status?, query?, limit?)``, ...
pub(super) fn signatures() -> String {
    let signature = |action: Action| {
        let Takes { name, required, optional } = action.takes();
        let required = required.iter().map(|it| (*it).to_owned());
        let arguments: Vec<_> = required.chain(optional.iter().map(|it| format!("{it}?"))).collect();
        format!("{name}({})", arguments.join(", "))
    };
    Action::ALL.map(signature).join(", ")
}

/// An error about one argument.
pub(super) fn error(
    code: &'static str,
    argument: &str,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> ToolError {
    ToolError { code, argument: Some(argument.to_owned()), message: message.into(), hint: hint.into() }
}

fn bad(argument: &str, value: &Value, expected: String) -> ToolError {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut shown = value.to_string();
    if let Some((end, _)) = shown.char_indices().nth(SHOWN_CHARS_MAX) {
        shown.truncate(end);
        shown.push('…');
    }
    error("bad_argument", argument, format!("`{argument}` is `{shown}`"), format!("send {expected}"))
}

/// JSON knows one kind of number: `2.0` is a whole one too.
fn whole_number(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|it| it.fract() == 0.0 && (0.0..=1e15).contains(it)).map(|it| it as u64);
    value.as_u64().or_else(float)
}

fn in_backticks<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
