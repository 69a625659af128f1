//! Schemas as servers write them, well and badly, and arguments as clients send them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

/// What is wrong with `arguments` by `schema`; empty when nothing is.
fn wrong(schema: &Value, arguments: &Value) -> String {
    let (schema, arguments) = (raw(schema), raw(arguments));
    Schema::default().check(|| "t".to_owned(), || Some(&schema), &arguments, || {}).err().unwrap_or_default()
}

/// Why a schema is not enforced.
#[track_caller]
fn check_not_enforced(schema: &Value, why: &str) {
    let what = Rules::read(Some(&raw(schema))).map(|_| ()).expect_err(why);
    assert!(what.contains(why), "{what}");
    assert_eq!(wrong(schema, &json!({"any": ["thing"]})), "");
}

fn properties(properties: &Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn a_violation_names_path_and_rule() {
    let schema = json!({
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}, "n": {"minimum": 3}},
        "required": ["a"],
    });
    assert_eq!(wrong(&schema, &json!({"a": {"b": 1}})), "");
    assert_eq!(wrong(&schema, &json!({"a": {"b": "x"}})), r#"/a/b: "x" is not of type "integer""#);
    assert_eq!(wrong(&schema, &json!({})), r#""a" is a required property"#);
    assert_eq!(
        wrong(&schema, &json!({"a": {"b": "x"}, "n": 2})),
        r#"/a/b: "x" is not of type "integer"; /n: 2 is less than the minimum of 3"#
    );
}

#[test]
fn of_many_and_long_violations_the_beginning_is_shown() {
    let schema = properties(&json!({"a": {"items": {"type": "string"}}}));
    let told = wrong(&schema, &json!({"a": [1, 2, 3, 4, 5]}));
    assert!(told.starts_with("/a/0: 1 is not") && told.contains("/a/2: ") && told.ends_with("; and 2 more"), "{told}");
    let told = wrong(&properties(&json!({"a": {"type": "integer"}})), &json!({"a": "é".repeat(10_000)}));
    assert_eq!(told, r#"/a: the value is not of type "integer""#);
    let long_name = "é".repeat(10_000);
    let told = wrong(&json!({"additionalProperties": {"type": "integer"}}), &json!({long_name: "x"}));
    assert!(told.starts_with("/éé") && told.ends_with('…') && told.chars().count() == 201, "{told}");
    let told = wrong(&schema, &json!({"a": vec![1; 100_000]}));
    assert_eq!(told, r#"/a/0: 1 is not of type "string""#, "the first is enough");
}

#[test]
fn the_dialect_is_the_one_the_schema_names() {
    // A number up to draft 4 was a flag for `minimum`; `prefixItems` came with 2020-12, where `items` had been before.
    let tuple = json!({"a": {"items": [{"type": "integer"}]}});
    let draft = |uri: &str, properties: &Value| json!({"$schema": uri, "type": "object", "properties": properties});
    let draft_7 = draft("http://json-schema.org/draft-07/schema#", &tuple);
    assert_eq!(wrong(&draft_7, &json!({"a": ["x"]})), r#"/a/0: "x" is not of type "integer""#);
    let draft_4 =
        draft("http://json-schema.org/draft-04/schema#", &json!({"a": {"minimum": 1, "exclusiveMinimum": true}}));
    assert_ne!(wrong(&draft_4, &json!({"a": 1})), "");
    let newest = json!({"a": {"prefixItems": [{"type": "integer"}]}});
    assert_ne!(wrong(&properties(&newest), &json!({"a": ["x"]})), "", "2020-12 when nothing is said");
    assert_ne!(wrong(&draft("https://json-schema.org/draft/2020-12/schema", &newest), &json!({"a": ["x"]})), "");
    assert_eq!(wrong(&draft("http://json-schema.org/draft-07/schema#", &newest), &json!({"a": ["x"]})), "");
    // As zod-to-json-schema writes it: in draft 7 nothing beside `$ref` counts.
    let by_reference = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/definitions/Input",
        "definitions": {"Input": {"type": "object", "required": ["a"]}},
    });
    assert_eq!(wrong(&by_reference, &json!({})), r#""a" is a required property"#);
}

#[test]
fn formats_are_remarks() {
    for dialect in ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"] {
        let schema = json!({"$schema": dialect, "properties": {"a": {"format": "email"}}});
        assert_eq!(wrong(&schema, &json!({"a": "me"})), "", "{dialect}");
    }
}

#[test]
fn a_schema_without_rules_costs_nothing_and_admits_what_cannot_be_checked() {
    for schema in [
        json!(true),
        json!({}),
        json!({"type": "object"}),
        json!({"$schema": "x", "type": "object", "properties": {}, "required": [], "additionalProperties": true}),
    ] {
        assert!(matches!(Rules::read(Some(&raw(&schema))), Ok(Rules::Anything)), "{schema}");
    }
    assert!(matches!(Rules::read(None), Ok(Rules::Anything)));
    for schema in [json!({"additionalProperties": false}), json!({"required": ["a"]}), json!(false)] {
        assert!(matches!(Rules::read(Some(&raw(&schema))), Ok(Rules::Some(_))), "{schema}");
    }
}

#[test]
fn a_schema_that_is_wrong_is_not_enforced() {
    check_not_enforced(&json!({"type": "obj"}), "is wrong: /type");
    check_not_enforced(&json!("x"), "is wrong");
    check_not_enforced(&json!({"$ref": "#/$defs/none"}), "is wrong");
    check_not_enforced(&json!({"properties": {"a": {"pattern": "("}}}), "is wrong");
    check_not_enforced(&json!({"properties": {"a": {"pattern": "((a{500}){500}){500}"}}}), "is wrong");
    check_not_enforced(&json!({"$schema": "https://example.invalid/dialect", "required": ["a"]}), "is wrong");
}

#[test]
fn references_to_other_documents_are_not_followed() {
    for reference in ["http://127.0.0.1:1/x.json", "https://example.invalid/x.json", "file:///etc/passwd", "x.json"] {
        check_not_enforced(&json!({"$ref": reference}), "is wrong");
    }
}

/// A schema whose definitions `d0`, `d1` and so on are each made of the next one.
fn chain(length: usize, of_next: impl Fn(Value) -> Value, last: Value) -> Value {
    let mut definitions = serde_json::Map::new();
    for n in 0..length {
        definitions.insert(format!("d{n}"), of_next(json!({"$ref": format!("#/$defs/d{}", n + 1)})));
    }
    definitions.insert(format!("d{length}"), last);
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

#[test]
fn a_schema_that_explodes_when_its_references_are_followed_is_not_enforced() {
    let twice = |next: Value| json!({"allOf": [next.clone(), next]});
    for last in [json!(true), json!({}), json!({"type": "object"})] {
        check_not_enforced(&chain(60, twice, last), "amounts to more than 1000000 values");
    }
    let named = json!({
        "$defs": {
            "a": {"$anchor": "a", "allOf": vec![json!({"$ref": "#b"}); 1100]},
            "b": {"$anchor": "b", "allOf": vec![json!({"$ref": "#c"}); 1100]},
            "c": {"$anchor": "c"},
        },
        "$ref": "#a",
    });
    check_not_enforced(&named, "amounts to more than 1000000 values");
}

#[test]
fn a_schema_that_is_nested_too_deeply_is_not_enforced() {
    check_not_enforced(&chain(10_000, |next| next, json!(true)), "nested more than 200 deep");
    let deep = (0..120).fold(json!({"type": "integer"}), |inner, _| json!({"items": inner}));
    let why = Rules::read(Some(&RawValue::from_string(deep.to_string()).unwrap())).map(|_| ());
    assert_eq!(why, Ok(()), "as deep as JSON is read");
    let text = format!("{}true{}", r#"{"not":"#.repeat(10_000), "}".repeat(10_000));
    let what = Rules::read(Some(&RawValue::from_string(text).unwrap())).map(|_| ()).unwrap_err();
    assert!(what.starts_with("cannot be read: recursion limit"), "{what}");
}

#[test]
fn a_schema_that_is_too_large_is_not_enforced() {
    check_not_enforced(
        &json!({"description": "x".repeat(SCHEMA_BYTES_MAX), "required": ["a"]}),
        "bytes, more than 1048576",
    );
}

/// Runs on a stack like that of a connection.
fn on_a_small_stack(body: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(512 * 1024).spawn_scoped(scope, body).unwrap();
        thread.join().unwrap();
    });
}

/// `{"a":{"a":...}}`, so many deep.
fn nested(depth: usize) -> Box<RawValue> {
    RawValue::from_string(format!("{}0{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))).unwrap()
}

#[test]
fn deep_arguments_neither_end_the_process_nor_take_long() {
    let schemas = [
        json!({"required": ["a"]}),
        json!({"type": ["object", "number"], "properties": {"a": {"$ref": "#"}}}),
        json!({"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "required": ["a"]}),
        json!({"properties": {"a": {"oneOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}}, "type": "object"}),
        json!({"properties": {"a": {"not": {"not": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}}, "type": "object"}),
        json!({"anyOf": [{"properties": {"a": {"$ref": "#"}}, "required": ["b"]}, {"properties": {"a": {"$ref": "#"}}, "required": ["c"]}]}),
        json!({"$dynamicAnchor": "n", "properties": {"a": {"allOf": [{"$dynamicRef": "#n"}, {"$dynamicRef": "#n"}]}},
            "unevaluatedProperties": false, "required": ["a"]}),
        json!({"$defs": {"n": {"properties": {"a": {"allOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}]}}}},
            "allOf": [{"$ref": "#/$defs/n"}], "unevaluatedProperties": {"$ref": "#"}}),
    ];
    on_a_small_stack(|| {
        for schema in schemas {
            let rules = Schema::default();
            let text = raw(&schema);
            for depth in [1, 20, 60, 120, 100_000] {
                let before = metered::time_of_thread();
                // Whatever it says: that it comes back, and soon, is all that can be asked. What other programs take meanwhile does
                // not count, as it does not for the bound.
                let checked = rules.check(|| "t".to_owned(), || Some(&text), &nested(depth), || {});
                let taken = metered::time_of_thread() - before;
                assert!(taken < Duration::from_secs(10), "{schema} at {depth}: {taken:?}");
                if depth == 100_000 {
                    assert_eq!(checked, Err("they are nested too deeply to be checked".to_owned()), "{schema}");
                }
            }
        }
    });
}

#[test]
fn honest_arguments_may_be_nested_and_large() {
    let any_json = json!({
        "$defs": {"json": {"anyOf": [
            {"type": ["string", "number", "boolean", "null"]},
            {"type": "array", "items": {"$ref": "#/$defs/json"}},
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/json"}},
        ]}},
        "type": "object",
        "properties": {"value": {"$ref": "#/$defs/json"}},
        "required": ["value"],
    });
    on_a_small_stack(move || {
        let deep = (0..50).fold(json!(1), |inner, n| if n % 2 == 0 { json!([inner]) } else { json!({"x": inner}) });
        assert_eq!(wrong(&any_json, &json!({"value": deep})), "");
        let large: Vec<Value> = (0..300_000).map(|n| json!({"n": n})).collect();
        assert_eq!(wrong(&any_json, &json!({"value": large})), "");
    });
}

#[test]
fn a_pattern_that_goes_astray_lets_arguments_through_and_not_wrong_ones() {
    // Goes back and forth between the ways to divide the letters; the look-ahead keeps it from being done in one pass.
    let schema = properties(&json!({"a": {"pattern": "^(?=a)(a|a)*\\1$"}, "b": {"type": "integer"}}));
    let letters = format!("{}b", "a".repeat(60));
    let started_at = Instant::now();
    assert_eq!(wrong(&schema, &json!({"a": letters, "b": 1})), "");
    assert_eq!(wrong(&schema, &json!({"a": letters, "b": "x"})), r#"/b: "x" is not of type "integer""#);
    assert!(started_at.elapsed() < Duration::from_secs(10));
    assert_ne!(wrong(&schema, &json!({"a": "b"})), "");
}

#[test]
fn a_number_that_cannot_be_held_is_refused() {
    let schema = properties(&json!({"a": {"type": "number"}}));
    let arguments = RawValue::from_string(r#"{"a":1e999}"#.to_owned()).unwrap();
    let text = raw(&schema);
    let what = Schema::default().check(|| "t".to_owned(), || Some(&text), &arguments, || {}).unwrap_err();
    assert!(what.contains("number out of range"), "{what}");
    assert_eq!(wrong(&schema, &json!({"a": u64::MAX})), "");
}
