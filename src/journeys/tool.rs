//! The tool `journeys_tool`: one action for each call.

use serde_json::Value;

use crate::{
    json::json,
    mcp::server::{Annotations, Arguments, Context, Tool, ToolError},
};

use super::{
    arguments::{self, Action, DESCRIPTION, Given, ID, LIMIT_MAX, NAME, QUERY, error},
    journey::{Journey, Problem, STEPS_MAX, Status, StepName},
    store::{Filter, Store},
};

/// What clients are told about the tool.
pub(super) fn description() -> Tool {
    Tool {
        name: "journeys_tool",
        title: "Journeys",
        description: format!(
            "Keeps journeys: things to do, each with a status (draft, active, completed) and up to {STEPS_MAX} steps. \
             Choose an `action`: {}. A list is newest first and streams its journeys one by one. Completing the last \
             open step completes the journey; adding a step to a completed journey makes it active again.",
            arguments::signatures()
        ),
        input_schema: arguments::schema(),
        output_schema: Some(output_schema()),
        annotations: Annotations {
            read_only_hint: false,
            destructive_hint: true,
            idempotent_hint: false,
            open_world_hint: false,
        },
    }
}

/// Carries out one call.
pub(super) fn call(store: &Store, context: &Context, arguments: Arguments) -> Result<Value, ToolError> {
    let given = Given::read(arguments)?;
    let journey = match given.action() {
        Action::List => return list(store, context, &given),
        Action::Get => store.get(&given.required_text(&ID)?)?,
        Action::Create => create(store, &given)?,
        Action::Update => update(store, &given)?,
        Action::Delete => store.delete(&given.required_text(&ID)?)?,
        Action::AddStep => {
            let step = given.new_step()?;
            store.change(&given.required_text(&ID)?, |journey| journey.add_step(step))?
        }
        Action::CompleteStep => {
            let step = given.step_name()?;
            store.change(&given.required_text(&ID)?, |journey| journey.complete_step(step))?
        }
    };
    Ok(json!({"action": given.action().name(), "journey": journey}))
}

fn list(store: &Store, context: &Context, given: &Given) -> Result<Value, ToolError> {
    let filter =
        Filter { status: given.status()?, query: given.text(&QUERY)?.unwrap_or_default(), limit: given.limit()? };
    context.report_progress(0.0, None, "Loading data...");
    let found = store.list(&filter)?;
    let mut journeys = Vec::with_capacity(found.journeys.len());
    for journey in found.journeys {
        if context.is_cancelled() {
            break;
        }
        let journey = json!(journey);
        context.emit(journey.clone());
        journeys.push(journey);
    }
    let count = journeys.len();
    Ok(json!({"action": "list", "journeys": journeys, "count": count, "has_more": found.has_more}))
}

fn create(store: &Store, given: &Given) -> Result<Journey, ToolError> {
    let name = given.required_text(&NAME)?;
    let description = given.text(&DESCRIPTION)?.unwrap_or_default();
    let status = given.status()?.unwrap_or(Status::Draft);
    Ok(store.create(&name, &description, status)?)
}

fn update(store: &Store, given: &Given) -> Result<Journey, ToolError> {
    let (name, description, status) = (given.text(&NAME)?, given.text(&DESCRIPTION)?, given.status()?);
    let has_change = name.is_some() || description.is_some() || status.is_some();
    if !has_change {
        let hint = "add `name`, `description` or `status`";
        return Err(error("missing_argument", "name", "`update` has nothing to change", hint));
    }
    let updated = store.change(&given.required_text(&ID)?, |journey| {
        journey.name = name.unwrap_or_else(|| journey.name.clone());
        journey.description = description.unwrap_or_else(|| journey.description.clone());
        journey.status = status.unwrap_or(journey.status);
        Ok(())
    })?;
    Ok(updated)
}

impl From<Problem> for ToolError {
    fn from(problem: Problem) -> ToolError {
        match problem {
            Problem::UnknownJourney { id } => {
                let message = format!("there is no journey `{id}`");
                error("unknown_journey", "id", message, "use `list` to see the ids")
            }
            Problem::UnknownStep { id, step, steps } => {
                let step = match step {
                    StepName::Number(number) => number.to_string(),
                    StepName::Text(text) => text,
                };
                let message = format!("journey `{id}` has no step `{step}`");
                let hint = match steps {
                    0 => "it has none yet: use `add_step` first".to_owned(),
                    1 => "it has one step: send 1, or its exact text".to_owned(),
                    _ => format!("send a number from 1 to {steps}, or the exact text of a step"),
                };
                error("unknown_step", "step", message, hint)
            }
            Problem::TooManySteps { id } => {
                let message = format!("journey `{id}` has {STEPS_MAX} steps, the most it can have");
                error("too_many_steps", "step", message, "use `create` for a second journey")
            }
            Problem::Storage { cause } => ToolError {
                code: "storage",
                argument: None,
                message: format!("the journeys cannot be read or written: {cause}"),
                hint: "try again; if it stays, look at the file in `DATA_DIR` and the room on its disk".to_owned(),
            },
        }
    }
}

fn output_schema() -> Value {
    let statuses = Status::ALL.map(Status::name);
    let journey = json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "name": {"type": "string"},
            "description": {"type": "string"},
            "status": {"type": "string", "enum": statuses},
            "steps": {
                "type": "array",
                "maxItems": STEPS_MAX,
                "items": {
                    "type": "object",
                    "properties": {
                        "number": {"type": "integer", "minimum": 1, "description": "Counted from 1."},
                        "text": {"type": "string"},
                        "completed": {"type": "boolean"},
                    },
                    "required": ["number", "text", "completed"],
                },
            },
            "created_at": {"type": "string", "format": "date-time"},
            "updated_at": {"type": "string", "format": "date-time"},
        },
        "required": ["id", "name", "description", "status", "steps", "created_at", "updated_at"],
    });
    let mut one = journey.clone();
    one["description"] = json!("The journey after the action; after `delete`, what it was. Not for `list`.");
    json!({
        "type": "object",
        "properties": {
            "action": {"type": "string", "description": "The action that was carried out."},
            "journey": one,
            "journeys": {"type": "array", "maxItems": LIMIT_MAX, "items": journey, "description": "Only for `list`."},
            "count": {"type": "integer", "description": "Only for `list`: how many journeys it has."},
            "has_more": {"type": "boolean", "description": "Only for `list`: whether `limit` cut it short."},
        },
        "required": ["action"],
    })
}
