//! A tool's schema made fit to stand in an OpenAPI document.
//!
//! It is told in 2020-12, the dialect of OpenAPI 3.1: what older ones say differently is put into its words. Its `$defs` become
//! components of their own and its references lead there, since many readers follow no others: not those to an `$id` of the
//! schema's own, and not those to anchors.
//!
//! **Limit.** A schema that is wrong, that refers to something outside of itself or has an `$id` inside of itself, or that is
//! nested deeper than JSON may be here (128) is told as any object.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind},
};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, value::RawValue};

use crate::{json::json, schema::check_schema};

/// Where references to components lead.
pub(super) const COMPONENTS: &str = "#/components/schemas/";

/// Keywords whose value is a schema.
const ONE: &[&str] = &[
    "items",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
    "additionalProperties",
    "additionalItems",
    "unevaluatedProperties",
    "unevaluatedItems",
];

/// Keywords whose value is an array of schemas.
const SEVERAL: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];

/// Keywords whose value has schemas by name.
const NAMED: &[&str] = &["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];

/// Keywords that only give schemas a name.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// What cannot stand in a reference as it is (RFC 3986, 3.5).
const UNSAFE_IN_FRAGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What stays beside a reference in dialects where it stands alone.
const BESIDE_REFERENCE: &[&str] = &["$ref", "$defs", "definitions", "title", "description", "default", "examples"];

/// Letters that are safe in the name of a component.
pub(super) fn is_safe(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// `text` as it is if it is safe and has at most `letters_max`, else with its hash behind what is left of it.
pub(super) fn safe_name(text: &str, letters_max: usize) -> String {
    if is_safe(text) && text.len() <= letters_max {
        return text.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let hash = format!("_{:08x}", hasher.finish() >> 32);
    let safe = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' };
    let kept: String = text.chars().take(letters_max - hash.len()).map(safe).collect();
    kept + &hash
}

/// The components that `raw` becomes, by name: `name` itself, and what it defines below it.
pub(super) fn embed(name: &str, raw: Option<&RawValue>) -> Vec<(String, Value)> {
    let read = |raw: &RawValue| serde_json::from_str(raw.get()).ok();
    let told = raw.and_then(read).map(modern).filter(is_sound);
    let mut schema = told.unwrap_or_else(any_object);
    let mut anchors = BTreeMap::new();
    if !lift_anchors(&mut schema, "#", &mut anchors) {
        schema = any_object();
    }
    spread(name, schema, anchors)
}

fn any_object() -> Value {
    json!({ "type": "object" })
}

/// A schema inside of another.
struct Part<'a> {
    keyword: &'a str,
    /// Its key or index below the keyword, if there is one.
    step: Option<String>,
    schema: &'a mut Value,
}

/// Every schema right inside of one.
fn parts(schema: &mut Value) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for (keyword, value) in schema.as_object_mut().into_iter().flatten() {
        let keyword = keyword.as_str();
        if ONE.contains(&keyword) {
            parts.push(Part { keyword, step: None, schema: value });
        } else if SEVERAL.contains(&keyword) {
            let inside = value.as_array_mut().into_iter().flatten().enumerate();
            parts.extend(inside.map(|(index, schema)| Part { keyword, step: Some(index.to_string()), schema }));
        } else if NAMED.contains(&keyword) {
            let inside = value.as_object_mut().into_iter().flatten();
            parts.extend(inside.map(|(key, schema)| Part { keyword, step: Some(key.clone()), schema }));
        }
    }
    parts
}

/// A schema in the words of 2020-12.
fn modern(mut schema: Value) -> Value {
    let dialect = schema["$schema"].as_str().unwrap_or_default().to_owned();
    let is_before_2019 = ["/draft-03/", "/draft-04/", "/draft-06/", "/draft-07/"].iter().any(|it| dialect.contains(it));
    let is_old = is_before_2019 || dialect.contains("/2019-09/");
    if let Value::Object(fields) = &mut schema {
        if is_old || dialect.contains("/2020-12/") {
            fields.shift_remove("$schema");
        }
        // Where it stood; references within it do not need it.
        fields.shift_remove("$id");
        if is_before_2019 && fields.get("id").is_some_and(Value::is_string) {
            fields.shift_remove("id");
        }
    }
    modernise(&mut schema, is_old, is_before_2019);
    schema
}

fn modernise(schema: &mut Value, is_old: bool, is_before_2019: bool) {
    if let Value::Object(fields) = schema {
        if is_before_2019 && fields.get("$ref").is_some_and(Value::is_string) {
            fields.retain(|keyword, _| BESIDE_REFERENCE.contains(&keyword.as_str()));
        }
        if fields.get("items").is_some_and(Value::is_array) {
            rename(fields, "items", "prefixItems");
            rename(fields, "additionalItems", "items");
        }
        for (limit, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
            let Some(Value::Bool(is_exclusive)) = fields.get(exclusive).cloned() else { continue };
            fields.shift_remove(exclusive);
            if is_exclusive {
                rename(fields, limit, exclusive);
            }
        }
        // Older, and the same in a schema that is alone in its document.
        rename(fields, "$recursiveRef", "$ref");
        fields.shift_remove("$recursiveAnchor");
        if is_old && let Some(Value::Object(dependencies)) = fields.shift_remove("dependencies") {
            let (required, schemas): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
                dependencies.into_iter().partition(|(_, value)| value.is_array());
            fields.insert("dependentRequired".to_owned(), required.into());
            fields.insert("dependentSchemas".to_owned(), schemas.into());
        }
    }
    for Part { keyword, schema, .. } in parts(schema) {
        let may_be_boolean = keyword.starts_with("additional") || keyword.starts_with("unevaluated");
        match schema {
            // Some readers, Open WebUI among them, expect objects here.
            Value::Bool(true) if !may_be_boolean => *schema = json!({}),
            Value::Bool(false) if !may_be_boolean => *schema = json!({ "not": {} }),
            _ => modernise(schema, is_old, is_before_2019),
        }
    }
}

fn rename(fields: &mut serde_json::Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = fields.shift_remove(from) {
        fields.insert(to.to_owned(), value);
    }
}

/// Whether a schema is right, down to its patterns, and refers to nothing but itself.
fn is_sound(schema: &Value) -> bool {
    // What makes the library fail is not shown either.
    catch_unwind(AssertUnwindSafe(|| check_schema(schema).is_ok())).unwrap_or(false)
}

/// Takes the names off the schemas that have some, and notes where these are, from the root on. A dynamic reference becomes a plain
/// one, which it is in a schema that is alone in its document. False when there are ids: they would need an address each.
fn lift_anchors(schema: &mut Value, way: &str, anchors: &mut BTreeMap<String, String>) -> bool {
    if let Value::Object(fields) = schema {
        if fields.contains_key("$id") || (fields.contains_key("$ref") && fields.contains_key("$dynamicRef")) {
            return false;
        }
        rename(fields, "$dynamicRef", "$ref");
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(Value::String(name)) = fields.shift_remove(keyword) {
                anchors.insert(format!("#{name}"), way.to_owned());
            }
        }
    }
    parts(schema).into_iter().all(|Part { keyword, step, schema }| {
        let step = step.map_or(String::new(), |step| format!("/{}", step.replace('~', "~0").replace('/', "~1")));
        // What is no letter of an address is none of a reference either (RFC 6901, 6).
        let step = utf8_percent_encode(&step, UNSAFE_IN_FRAGMENT);
        lift_anchors(schema, &format!("{way}/{keyword}{step}"), anchors)
    })
}

/// The schema and each of its definitions as components, with references that lead there.
fn spread(name: &str, mut schema: Value, anchors: BTreeMap<String, String>) -> Vec<(String, Value)> {
    let mut components = vec![(name.to_owned(), Value::Null)];
    let mut places = BTreeMap::new();
    for keyword in DEFINITIONS {
        let Some(Value::Object(defined)) = schema.as_object_mut().and_then(|fields| fields.shift_remove(keyword))
        else {
            continue;
        };
        for (key, value) in defined {
            let mut component = format!("{name}.{}", safe_name(&key, 64));
            while components.iter().any(|(taken, _)| *taken == component) {
                component.push('_');
            }
            places.insert((keyword, key), component.clone());
            components.push((component, value));
        }
    }
    components[0].1 = schema;
    let guide = Guide { name, anchors, places };
    for (_, component) in &mut components {
        guide.redirect(component);
    }
    components
}

/// Where things are now.
struct Guide<'a> {
    /// The component that the root has become.
    name: &'a str,
    /// Ways from the root, by anchor.
    anchors: BTreeMap<String, String>,
    /// The components that definitions have become, by keyword and name.
    places: BTreeMap<(&'static str, String), String>,
}

impl Guide<'_> {
    fn redirect(&self, schema: &mut Value) {
        if let Some(Value::String(reference)) = schema.get_mut("$ref") {
            *reference = self.redirected(reference);
        }
        parts(schema).into_iter().for_each(|part| self.redirect(part.schema));
    }

    fn redirected(&self, reference: &str) -> String {
        let reference = self.anchors.get(reference).map_or(reference, String::as_str);
        let way = reference.trim_start_matches('#');
        let mut steps = way.splitn(4, '/').skip(1);
        let (first, second, rest) = (steps.next(), steps.next().and_then(decoded), steps.next());
        let keyword = DEFINITIONS.into_iter().find(|it| Some(*it) == first);
        let place = keyword.zip(second).and_then(|key| self.places.get(&key));
        match (place, rest) {
            (Some(place), Some(rest)) => format!("{COMPONENTS}{place}/{rest}"),
            (Some(place), None) => format!("{COMPONENTS}{place}"),
            (None, _) => format!("{COMPONENTS}{}{way}", self.name),
        }
    }
}

/// A step of a reference as the key that it stands for.
fn decoded(step: &str) -> Option<String> {
    let decoded = percent_decode_str(step).decode_utf8().ok()?;
    Some(decoded.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: &str, expected: &Value) {
        let raw = RawValue::from_string(schema.to_owned()).unwrap();
        let components: serde_json::Map<String, Value> = embed("t", Some(&raw)).into_iter().collect();
        assert_eq!(Value::Object(components), *expected, "{schema}");
    }

    #[test]
    fn definitions_become_components_and_references_follow() {
        check(
            r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/A"},"self":{"$ref":"#"},"$ref":{"const":"#/$defs/A"},
                "b":{"$ref":"#/definitions/x~1y%20z/properties/p"},"c":{"$ref":"#/properties/a"}},
                "$defs":{"A":{"items":{"$ref":"#/$defs/A"}}},"definitions":{"x/y z":{"properties":{"p":{"type":"null"}}}}}"##,
            &json!({
                "t": {"type": "object", "properties": {
                    "a": {"$ref": "#/components/schemas/t.A"},
                    "self": {"$ref": "#/components/schemas/t"},
                    "$ref": {"const": "#/$defs/A"},
                    "b": {"$ref": format!("#/components/schemas/t.{}/properties/p", safe_name("x/y z", 64))},
                    "c": {"$ref": "#/components/schemas/t/properties/a"},
                }},
                "t.A": {"items": {"$ref": "#/components/schemas/t.A"}},
                (format!("t.{}", safe_name("x/y z", 64))): {"properties": {"p": {"type": "null"}}},
            }),
        );
        check(
            r##"{"$ref":"#/$defs/A","$defs":{"A":{"type":"object"}}}"##,
            &json!({"t": {"$ref": "#/components/schemas/t.A"}, "t.A": {"type": "object"}}),
        );
    }

    #[test]
    fn definitions_of_one_name_stay_apart() {
        check(
            r##"{"anyOf":[{"$ref":"#/$defs/A"},{"$ref":"#/definitions/A"}],"$defs":{"A":{}},"definitions":{"A":{"type":"null"}}}"##,
            &json!({
                "t": {"anyOf": [{"$ref": "#/components/schemas/t.A"}, {"$ref": "#/components/schemas/t.A_"}]},
                "t.A": {}, "t.A_": {"type": "null"},
            }),
        );
    }

    #[test]
    fn old_dialects_are_put_into_the_words_of_the_new_one() {
        let old = |rest: &str| format!(r#"{{"$schema":"http://json-schema.org/draft-07/schema#",{rest}}}"#);
        check(&old(r#""type":"object","$id":"http://x/y""#), &json!({"t": {"type": "object"}}));
        check(
            &old(r#""items":[{"type":"string"},true],"additionalItems":false"#),
            &json!({"t": {"prefixItems": [{"type": "string"}, {}], "items": {"not": {}}}}),
        );
        check(
            &old(r#""dependencies":{"a":["b"],"c":{"required":["d"]}}"#),
            &json!({"t": {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"c": {"required": ["d"]}}}}),
        );
        check(
            &old(r##""properties":{"a":{"$ref":"#/definitions/A","minLength":3,"title":"T"}},"definitions":{"A":{}}"##),
            &json!({"t": {"properties": {"a": {"$ref": "#/components/schemas/t.A", "title": "T"}}}, "t.A": {}}),
        );
        check(
            r#"{"$schema":"http://json-schema.org/draft-04/schema#","id":"x","minimum":1,"exclusiveMinimum":true,"exclusiveMaximum":false}"#,
            &json!({"t": {"exclusiveMinimum": 1}}),
        );
    }

    #[test]
    fn references_by_name_become_ways() {
        check(
            r##"{"properties":{"a":{"$ref":"#x"},"b/ c":{"$anchor":"y"},"d":{"$ref":"#y"}},"$defs":{"A":{"items":{"$anchor":"x"}}}}"##,
            &json!({
                "t": {"properties": {
                    "a": {"$ref": "#/components/schemas/t.A/items"},
                    "b/ c": {},
                    "d": {"$ref": "#/components/schemas/t/properties/b~1%20c"},
                }},
                "t.A": {"items": {}},
            }),
        );
        check(
            r##"{"$dynamicAnchor":"node","properties":{"next":{"$dynamicRef":"#node"}}}"##,
            &json!({"t": {"properties": {"next": {"$ref": "#/components/schemas/t"}}}}),
        );
        check(
            r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"items":{"$recursiveRef":"#"}}"##,
            &json!({"t": {"items": {"$ref": "#/components/schemas/t"}}}),
        );
    }

    #[test]
    fn what_is_no_schema_is_any_object() {
        let deep = format!("{}{}", r#"{"not":"#.repeat(127), "{}".to_owned() + &"}".repeat(127));
        for wrong in [
            r#"{"type":"objekt"}"#,
            r#"{"properties":[]}"#,
            r##"{"$ref":"#/$defs/none"}"##,
            r#"{"$ref":"https://example.com/schema.json"}"#,
            r#"{"pattern":"("}"#,
            r#"{"$schema":"https://example.com/dialect"}"#,
            r#"{"properties":{"a":{"$id":"inner","type":"string"}}}"#,
            "[]",
            "null",
            &deep,
        ] {
            check(wrong, &json!({"t": {"type": "object"}}));
        }
        check("true", &json!({"t": true}));
    }

    #[test]
    fn names_are_safe_and_tell_things_apart() {
        assert_eq!(safe_name("fs__read-file_2", 64), "fs__read-file_2");
        let odd = ["a b", "a.b", "a/b", "", "ä", &"x".repeat(65), &"x".repeat(66)];
        let safe: std::collections::BTreeSet<String> = odd.iter().map(|it| safe_name(it, 64)).collect();
        assert_eq!(safe.len(), odd.len());
        assert!(safe.iter().all(|it| is_safe(it) && it.len() <= 64), "{safe:?}");
    }
}
