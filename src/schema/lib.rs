//! What a tool's `inputSchema` says of its arguments, checked before a worker sees them.
//!
//! A [`Schema`] is what a server said, made ready to check with by whoever needs it first; `jsonschema` does the checking.
//! Its dialect is that of `$schema`, else 2020-12 (MCP 2025-11-25, JSON Schema usage). References to other documents are not
//! followed. `format` is taken for a remark, as 2020-12 has it: formats mean different things to different libraries, and a call
//! that the server would take must not be refused.
//!
//! **Limit.** A schema of more than `SCHEMA_BYTES_MAX` bytes, or that amounts to more than `size` allows when its references
//! are followed, is not made ready; one that is wrong neither. Such a schema is logged once, and everything passes. A check may
//! look at its values so often, for so long and from so deep in the stack as `metered` allows; arguments that need more are
//! refused.

use std::{
    fmt::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
    thread,
};

use jsonschema::{PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value, value::RawValue};

mod metered;
mod size;

use metered::{Metered, Node};

/// Largest schema that is made ready.
const SCHEMA_BYTES_MAX: usize = 1024 * 1024;

/// Stack of the thread that makes a schema ready, which goes deeper than a connection's may. Only touched pages cost memory.
pub const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Memory that a `pattern` may take, in bytes.
const PATTERN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Steps back that the search for a `pattern` may take.
const PATTERN_STEPS_MAX: usize = 100_000;

/// Violations that are named.
const VIOLATIONS_MAX: usize = 3;

/// In arguments beyond this size only the first violation is looked for: there may be one for every few bytes.
const ALL_VIOLATIONS_BYTES_MAX: usize = 64 * 1024;

/// Letters of a violation that are shown: a value may be as long as a request.
const VIOLATION_LETTERS_MAX: usize = 200;

/// Keywords that rule nothing out, whatever they say.
const REMARKS: [&str; 8] = ["$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"];

/// The rules for the arguments of a tool, made ready by the first who needs them.
#[derive(Debug, Default)]
pub struct Schema(OnceLock<Rules>);

#[derive(Debug)]
enum Rules {
    /// Every object is welcome.
    Anything,
    Some(Box<Validator<Metered>>),
}

/// Fails with what is wrong with a schema, or too much about it. To be called with a stack of [`STACK_BYTES`].
pub fn check_schema(schema: &Value) -> Result<(), String> {
    size::check(schema)?;
    compile(schema).map(drop)
}

/// Fails with why the arguments of a tool with this `inputSchema` would not be checked.
pub fn check_input_schema(schema: &RawValue) -> Result<(), String> {
    Rules::read(Some(schema)).map(drop)
}

impl Schema {
    /// Fails with what is wrong with `arguments`, a JSON object, by the rules of `schema`: paths and rules, of a few violations.
    ///
    /// `who` names the tool in the log when its schema is wrong. `schema` is the same in every call. `at_length` is called before
    /// anything that takes longer than usual: making the schema ready, and what is left of a long check.
    pub fn check<'s>(
        &self,
        who: impl Fn() -> String,
        schema: impl Fn() -> Option<&'s RawValue>,
        arguments: &RawValue,
        at_length: fn(),
    ) -> Result<(), String> {
        if self.0.get().is_none() {
            at_length();
        }
        let rules = self.0.get_or_init(|| {
            Rules::read(schema()).unwrap_or_else(|what| {
                log::warn!("arguments of {} are not checked: its `inputSchema` {what}", who());
                Rules::Anything
            })
        });
        match rules {
            Rules::Anything => Ok(()),
            Rules::Some(validator) => check(validator, who, arguments, at_length),
        }
    }
}

impl Rules {
    /// Makes a schema ready. Fails with what is wrong with it.
    fn read(schema: Option<&RawValue>) -> Result<Rules, String> {
        // A tool must have one, but nothing is to be checked then.
        let Some(schema) = schema else { return Ok(Rules::Anything) };
        let n_bytes = schema.get().len();
        if SCHEMA_BYTES_MAX < n_bytes {
            return Err(format!("has {n_bytes} bytes, more than {SCHEMA_BYTES_MAX}"));
        }
        let schema: Value = serde_json::from_str(schema.get()).map_err(|cause| format!("cannot be read: {cause}"))?;
        if admits_every_object(&schema) {
            return Ok(Rules::Anything);
        }
        size::check(&schema)?;
        let compiled = thread::scope(|scope| {
            let builder = thread::Builder::new().name("schema".to_owned()).stack_size(STACK_BYTES);
            let thread = builder.spawn_scoped(scope, || compile(&schema)).map_err(|cause| cause.to_string())?;
            thread.join().map_err(|_| "makes the gateway fail; the panic stands above".to_owned())?
        });
        compiled.map(|validator| Rules::Some(Box::new(validator)))
    }
}

/// Whether a schema can be told at a glance to rule nothing out.
fn admits_every_object(schema: &Value) -> bool {
    let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty) || value == &Value::Array(Vec::new());
    let admits = |(keyword, value): (&String, &Value)| match keyword.as_str() {
        "type" => value == "object",
        "properties" | "required" | "$defs" | "definitions" => is_empty(value),
        "additionalProperties" => value == true || is_empty(value),
        keyword => REMARKS.contains(&keyword),
    };
    schema == true || schema.as_object().is_some_and(|schema| schema.iter().all(admits))
}

fn compile(schema: &Value) -> Result<Validator<Metered>, String> {
    let patterns = PatternOptions::fancy_regex().backtrack_limit(PATTERN_STEPS_MAX).size_limit(PATTERN_BYTES_MAX);
    let options = jsonschema::options_for::<Metered>().offline().should_validate_formats(false);
    let validator = options.with_pattern_options(patterns).build(schema).map_err(|error| {
        let path = error.instance_path().as_str().to_owned();
        format!("is wrong: {}", sentence(&path, &error))
    })?;
    // One that cannot even cope with nothing would refuse every call.
    let nothing = Value::Object(Map::new());
    match within_bounds(|| {}, || validator.is_valid(Node::new(&nothing))) {
        Some(_) => Ok(validator),
        None => Err("takes too long to check anything against".to_owned()),
    }
}

fn check(
    validator: &Validator<Metered>,
    who: impl Fn() -> String,
    arguments: &RawValue,
    at_length: fn(),
) -> Result<(), String> {
    let value: Value = serde_json::from_str(arguments.get()).map_err(|cause| match cause.to_string() {
        what if what.starts_with("recursion limit") => "they are nested too deeply to be checked".to_owned(),
        what => format!("they cannot be checked: {what}"),
    })?;
    let node = Node::new(&value);
    let checked = within_bounds(at_length, || match validator.is_valid(node) {
        true => Ok(()),
        false => violations(validator, node, arguments.get().len() <= ALL_VIOLATIONS_BYTES_MAX),
    });
    match checked {
        Some(Err(what)) if what.is_empty() => {
            log::warn!("a `pattern` in the `inputSchema` of {} takes too long; arguments are let through", who());
            Ok(())
        }
        Some(checked) => checked,
        None => Err("it takes too much to check them against the tool's `inputSchema`".to_owned()),
    }
}

/// Runs a check; `None` when it was given up.
fn within_bounds<T>(at_length: fn(), run: impl FnOnce() -> T) -> Option<T> {
    let _meter = metered::start(at_length);
    // The meter unwinds the stack when it has run out, since a check cannot be told to stop. Nothing is left half done that
    // anybody looks at again.
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// Names the first few violations. Empty when nothing is known to be violated, since a search was given up.
fn violations(validator: &Validator<Metered>, node: Node<'_>, is_each_wanted: bool) -> Result<(), String> {
    let is_known = |error: &ValidationError<'_>| {
        !matches!(
            error.kind(),
            ValidationErrorKind::BacktrackLimitExceeded { .. } | ValidationErrorKind::RegexEngineFailure { .. }
        )
    };
    let found: Vec<ValidationError<'_>> = if is_each_wanted {
        validator.iter_errors(node).filter(is_known).collect()
    } else {
        validator.validate(node).err().into_iter().filter(is_known).collect()
    };
    let shown = found.iter().take(VIOLATIONS_MAX).map(|error| sentence(error.instance_path().as_str(), error));
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if let Some(n_more) = found.len().checked_sub(VIOLATIONS_MAX).filter(|n_more| 0 < *n_more) {
        text.push_str(&format!("; and {n_more} more"));
    }
    Err(text)
}

/// `/a/b: "x" is not of type "integer"`; without a value that is too long, so that the rule is to be seen.
fn sentence(path: &str, error: &ValidationError<'_>) -> String {
    let colon = if path.is_empty() { "" } else { ": " };
    let mut text = Shortened { text: String::new(), letters_left: VIOLATION_LETTERS_MAX };
    if write!(text, "{path}{colon}{error}").is_ok() {
        return text.text;
    }
    text = Shortened { text: String::new(), letters_left: VIOLATION_LETTERS_MAX };
    if write!(text, "{path}{colon}{}", error.masked_with("the value")).is_err() {
        text.text.push('…');
    }
    text.text
}

/// Text that takes no more when it is full, so that nobody goes on writing.
struct Shortened {
    text: String,
    letters_left: usize,
}

impl fmt::Write for Shortened {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for letter in more.chars() {
            self.letters_left = self.letters_left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(letter);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
