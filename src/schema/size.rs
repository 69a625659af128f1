//! What a schema amounts to when its references are followed: how deep, and how much.
//!
//! A check that looks at no value (`true` behind many references) costs nothing on the meter, and a chain of references goes
//! down the stack without a look. Both are told from the schema alone. Keywords make no difference here: whatever is nested
//! counts, which is never too little.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// How deep a schema may be nested, references followed.
const DEPTH_MAX: usize = 200;

/// Most values of a schema, with everything counted as often as it is referred to.
const VALUES_MAX: u64 = 1_000_000;

/// Keywords that stand for another schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Keywords that give a schema a name.
const NAMES: [&str; 4] = ["$anchor", "$dynamicAnchor", "$id", "id"];

/// Fails with what is too much about `schema`.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let mut survey = Survey { documents: vec![schema], names: HashMap::new(), known: HashMap::new() };
    survey.note_names(schema);
    match survey.measure(schema, DEPTH_MAX) {
        None => Err(format!("is nested more than {DEPTH_MAX} deep, with its references")),
        Some(size) if VALUES_MAX < size.values => {
            Err(format!("amounts to more than {VALUES_MAX} values, with its references"))
        }
        Some(_) => Ok(()),
    }
}

#[derive(Debug, Clone, Copy)]
struct Size {
    values: u64,
    depth: usize,
}

struct Survey<'a> {
    /// What `#` may stand for: the schema itself, and everything in it with an id.
    documents: Vec<&'a Value>,
    /// Schemas by the last part of their names. Several may share one; then all of them are taken to be meant.
    names: HashMap<&'a str, Vec<&'a Value>>,
    /// By address; `None` while it is being measured.
    known: HashMap<usize, Option<Size>>,
}

impl<'a> Survey<'a> {
    /// `None` when it is nested deeper than `depth_max`.
    fn measure(&mut self, value: &'a Value, depth_max: usize) -> Option<Size> {
        let address = std::ptr::from_ref(value) as usize;
        match self.known.get(&address) {
            // A circle: going round it looks at the value that is checked, which is paid for.
            Some(None) => return Some(Size { values: 1, depth: 0 }),
            Some(Some(size)) => return (size.depth <= depth_max).then_some(*size),
            None => {}
        }
        let depth_max = depth_max.checked_sub(1)?;
        self.known.insert(address, None);
        let mut size = Size { values: 1, depth: 0 };
        let mut add = |more: Size| {
            size.values = size.values.saturating_add(more.values);
            size.depth = size.depth.max(more.depth + 1);
        };
        match value {
            Value::Object(members) => {
                for member in members.values() {
                    add(self.measure(member, depth_max)?);
                }
                for target in references(members).flat_map(|reference| self.find(reference)).collect::<Vec<_>>() {
                    add(self.measure(target, depth_max)?);
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    add(self.measure(element, depth_max)?);
                }
            }
            _ => {}
        }
        self.known.insert(address, Some(size));
        Some(size)
    }

    /// What a reference may stand for. Nothing is what the compiler cannot find either.
    fn find(&self, reference: &str) -> Vec<&'a Value> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let named = |name: &str| self.names.get(name).cloned().unwrap_or_default();
        let documents = if document.is_empty() { self.documents.clone() } else { named(last_part(document)) };
        if fragment.is_empty() {
            return documents;
        }
        if !fragment.starts_with('/') {
            return named(fragment);
        }
        let Ok(pointer) = percent_encoding::percent_decode_str(fragment).decode_utf8() else { return Vec::new() };
        documents.iter().filter_map(|document| document.pointer(&pointer)).collect()
    }

    fn note_names(&mut self, value: &'a Value) {
        match value {
            Value::Object(members) => {
                for name in NAMES.iter().filter_map(|keyword| members.get(*keyword)?.as_str()) {
                    self.names.entry(last_part(name.trim_start_matches('#'))).or_default().push(value);
                }
                let is_document =
                    ["$id", "id"].iter().any(|keyword| members.get(*keyword).is_some_and(Value::is_string));
                if is_document {
                    self.documents.push(value);
                }
                members.values().for_each(|member| self.note_names(member));
            }
            Value::Array(elements) => elements.iter().for_each(|element| self.note_names(element)),
            _ => {}
        }
    }
}

fn references(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    REFERENCES.iter().filter_map(|keyword| schema.get(*keyword)?.as_str())
}

/// What a name ends with, however it is resolved.
fn last_part(name: &str) -> &str {
    name.trim_end_matches('#').rsplit('/').next().unwrap_or(name)
}
