//! What a client saw on stdio and what it saw through the gateway, without what must differ.
//!
//! - How often a list has changed: a server says so for each tool it adds while it starts, before a client has seen any.
//!   What a client must hear of, its plan waits for.
//! - Where the gateway translates, because the client found the modern era and the server has only the legacy one,
//!   results have the fields that the modern era adds and lack those it took away, tasks are not declared, and what a
//!   server says when it starts, or of subscriptions, is said to no request of the client.

use serde_json::{Value, json};

/// Where the documents that a client program printed differ, one entry each.
pub(super) fn differences(direct: &Value, through: &Value, is_translated: bool) -> Vec<String> {
    let [mut ours, mut theirs] = [direct, through].map(|it| prepared(it, is_translated));
    for (ours, theirs) in array(ours.get_mut("steps")).zip(array(theirs.get_mut("steps"))) {
        if let (Some(ours), Some(theirs)) = (ours.get_mut("progress"), theirs.get_mut("progress")) {
            forgive_lost_progress(ours, theirs);
        }
    }
    let mut found = Vec::new();
    compare("", Some(&ours), Some(&theirs), &mut found);
    found
}

/// Where two results differ, one entry each.
pub(super) fn differences_of_results(direct: &Value, through: &Value, is_translated: bool) -> Vec<String> {
    let [ours, theirs] = [direct, through].map(|result| {
        let mut result = result.clone();
        prepare_connected(&mut result, is_translated);
        prepare_result(&mut result, is_translated);
        result
    });
    let mut found = Vec::new();
    compare("", Some(&ours), Some(&theirs), &mut found);
    found
}

/// A list of tools without these.
pub(super) fn without_tools(mut result: Value, names: &[&str]) -> Value {
    if let Some(tools) = result.get_mut("tools").and_then(Value::as_array_mut) {
        tools.retain(|tool| !names.iter().any(|name| tool["name"] == *name));
    }
    result
}

/// Where two values differ.
fn compare(path: &str, direct: Option<&Value>, through: Option<&Value>, found: &mut Vec<String>) {
    match (direct, through) {
        (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
            for key in ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key))) {
                compare(&format!("{path}/{key}"), ours.get(key), theirs.get(key), found);
            }
        }
        (Some(Value::Array(ours)), Some(Value::Array(theirs))) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(&format!("{path}/{index}"), Some(ours), Some(theirs), found);
            }
        }
        _ if direct == through => {}
        _ => {
            let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), |it| it.to_string());
            found.push(format!("{path}\n    on stdio: {}\n    through:  {}", shown(direct), shown(through)));
        }
    }
}

fn prepared(document: &Value, is_translated: bool) -> Value {
    let mut document = document.clone();
    if let Some(connected) = document.get_mut("connected") {
        prepare_connected(connected, is_translated);
    }
    for step in array(document.get_mut("steps")) {
        if let Some(result) = step.get_mut("result") {
            prepare_result(result, is_translated);
        }
        if let Some(progress) = step.get_mut("progress").and_then(Value::as_array_mut) {
            // This a client tells itself.
            progress
                .retain(|it| !it["message"].as_str().is_some_and(|text| text.starts_with("Fulfilling input required")));
        }
    }
    if let Some(told) = document.get_mut("told") {
        prepare_told(told, is_translated);
    }
    for question in array(document.pointer_mut("/asked/elicitation~1create").filter(|_| is_translated)) {
        remove(question, "elicitationId");
    }
    // server-everything asks a third of a second after its start by itself, and when a tool needs them and they are not there: once or
    // twice, as time passes.
    if let Some(asked) = document.pointer_mut("/asked/roots~1list").and_then(Value::as_array_mut) {
        asked.dedup();
    }
    document
}

fn prepare_connected(connected: &mut Value, is_translated: bool) {
    if is_translated {
        let is_legacy = connected["protocolVersion"] != "2026-07-28";
        if let Some(capabilities) = connected.get_mut("capabilities").filter(|_| is_legacy) {
            remove(capabilities, "tasks");
        }
        remove(connected, "protocolVersion");
    }
}

fn prepare_result(result: &mut Value, is_translated: bool) {
    if !is_translated {
        return;
    }
    without_meta(result, "io.modelcontextprotocol/serverInfo");
    for added in ["resultType", "ttlMs", "cacheScope"] {
        remove(result, added);
    }
    for tool in array(result.get_mut("tools")) {
        remove(tool, "execution");
    }
}

/// Notifications by their method.
fn prepare_told(told: &mut Value, is_translated: bool) {
    let Some(told) = told.as_object_mut() else { return };
    told.retain(|method, _| !method.ends_with("/list_changed"));
    if is_translated {
        told.shift_remove("notifications/message");
    }
    for notifications in told.values_mut() {
        for params in array(Some(notifications)) {
            without_meta(params, "io.modelcontextprotocol/subscriptionId");
        }
    }
}

/// Of progress that is told right before the response, some clients lose some, on stdio or through the gateway.
fn forgive_lost_progress(direct: &mut Value, through: &mut Value) {
    let (Some(direct), Some(through)) = (direct.as_array_mut(), through.as_array_mut()) else { return };
    let common = direct.len().min(through.len());
    if direct.len().max(through.len()) == common + 1 {
        direct.truncate(common);
        through.truncate(common);
    }
}

fn array(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value.and_then(Value::as_array_mut).into_iter().flatten()
}

fn remove(object: &mut Value, key: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove(key);
    }
}

/// Takes a key out of `_meta`, and `_meta` too when nothing else is in it.
fn without_meta(object: &mut Value, key: &str) {
    let Some(meta) = object.get_mut("_meta") else { return };
    remove(meta, key);
    if *meta == json!({}) {
        remove(object, "_meta");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Value {
        json!({
            "connected": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}},
            "steps": [{"result": {"tools": [{"name": "a"}]}, "progress": [{"progress": 1}, {"progress": 2}]}],
            "asked": {"roots/list": [{}]},
            "told": {"notifications/message": [{"level": "info", "data": {"extra": null}}]},
        })
    }

    fn finds(is_translated: bool, change: impl Fn(&mut Value)) -> bool {
        let mut through = seen();
        change(&mut through);
        !differences(&seen(), &through, is_translated).is_empty()
    }

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        assert!(!finds(false, |_| {}));
        assert!(finds(false, |it| it["connected"]["protocolVersion"] = json!("2024-11-05")));
        assert!(finds(false, |it| it["connected"]["capabilities"]["tasks"] = json!({})));
        assert!(finds(true, |it| {
            it["connected"] = json!({"protocolVersion": "2026-07-28", "capabilities": {"tools": {}, "tasks": {}}});
        }));
        assert!(finds(true, |it| it["steps"][0]["result"]["tools"][0]["name"] = json!("b")));
        assert!(finds(false, |it| it["steps"][0]["result"]["ttlMs"] = json!(0)));
        assert!(finds(false, |it| it["steps"][0]["progress"] = json!([])));
        assert!(finds(false, |it| it["steps"][0]["progress"][0] = json!({"progress": 3})));
        assert!(finds(false, |it| it["steps"] = json!([])));
        assert!(finds(true, |it| it["asked"] = json!({})));
        assert!(!finds(false, |it| it["asked"]["roots/list"] = json!([{}, {}])));
        assert!(finds(false, |it| it["asked"]["roots/list"] = json!([{}, {"a": 1}])));
        assert!(finds(false, |it| it["told"] = json!({})));
        assert!(finds(false, |it| it["told"]["notifications/message"][0]["data"] = json!({})));
    }

    #[test]
    fn what_must_differ_is_forgiven() {
        assert!(!finds(false, |it| it["steps"][0]["progress"] = json!([{"progress": 1}])));
        assert!(!finds(true, |it| it["connected"]["protocolVersion"] = json!("2026-07-28")));
        assert!(!finds(true, |it| it["steps"][0]["result"]["resultType"] = json!("complete")));
        assert!(!finds(true, |it| it["steps"][0]["result"]["tools"][0]["execution"] = json!({})));
        assert!(!finds(true, |it| it["told"] = json!({})));
        assert!(!finds(false, |it| it["told"]["notifications/tools/list_changed"] = json!([{}, {}])));
    }
}
