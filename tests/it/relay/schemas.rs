//! Messages of the gateway against the JSON schema of their revision (`tests/mcp-schema`).
//!
//! Which definition a message must fit follows from what it is: the `method` of a request or notification, the code of an
//! error, and for a result the request that it answers.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::traffic::{Message, Party};
use crate::support::root;

const MODERN: &str = "2026-07-28";
const PROTOCOL_VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// Revisions in which several messages may come in an array.
const WITH_BATCHES: [&str; 2] = ["2024-11-05", "2025-03-26"];

/// Codes of errors that 2026-07-28 has others for.
const NOT_MODERN_CODES: [i64; 2] = [-32002, -32042];

/// What is wrong with the messages of the gateway, one sentence each.
pub(crate) fn violations(messages: &[Message], revision: &str) -> Vec<String> {
    let schema = Schema::of(revision);
    let mut found = Vec::new();
    for message in messages {
        let own = match message.by {
            Party::Gateway => schema.wrong_with(message),
            Party::Client => Vec::new(),
        };
        let all = own.into_iter().chain(other_revision(message, revision));
        found.extend(all.map(|what| format!("{what}\n    {}", message.value)));
    }
    found
}

/// Says so when a message shows that another revision is spoken.
fn other_revision(message: &Message, revision: &str) -> Option<String> {
    let negotiated = match message.answers.as_deref() {
        Some("initialize") if message.by == Party::Gateway => &message.value["result"]["protocolVersion"],
        _ if message.by == Party::Client => &message.value["params"]["_meta"][PROTOCOL_VERSION_KEY],
        _ => &Value::Null,
    };
    let spoken = negotiated.as_str().filter(|it| *it != revision)?;
    Some(format!("{spoken} is spoken"))
}

/// The schema of one revision.
struct Schema {
    revision: String,
    document: Value,
    /// `definitions` or `$defs`, as the dialect has it.
    definitions: &'static str,
    /// By definition, as they are needed.
    validators: Mutex<BTreeMap<String, Arc<Validator>>>,
}

impl Schema {
    fn of(revision: &str) -> Arc<Schema> {
        static SCHEMAS: OnceLock<Mutex<BTreeMap<String, Arc<Schema>>>> = OnceLock::new();
        let schemas = SCHEMAS.get_or_init(Mutex::default);
        let mut schemas = schemas.lock().unwrap_or_else(PoisonError::into_inner);
        let schema = schemas.entry(revision.to_owned()).or_insert_with(|| Arc::new(Schema::read(revision)));
        Arc::clone(schema)
    }

    fn read(revision: &str) -> Schema {
        let path = root().join(format!("tests/mcp-schema/{revision}.schema.json"));
        let text = fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        let document: Value = serde_json::from_str(&text).unwrap();
        let definitions = if document.get("$defs").is_some() { "$defs" } else { "definitions" };
        Schema { revision: revision.to_owned(), document, definitions, validators: Mutex::default() }
    }

    fn wrong_with(&self, message: &Message) -> Vec<String> {
        let value = &message.value;
        let mut found = self.errors("JSONRPCMessage", value);
        if message.is_of_batch && !WITH_BATCHES.contains(&self.revision.as_str()) {
            found.push(format!("{} has no batches", self.revision));
        }
        found.extend(match (message.method(), value.get("result")) {
            (Some(method), _) if message.is_request() => self.wrong_with_said("ServerRequest", method, value),
            (Some(method), _) => self.wrong_with_said("ServerNotification", method, value),
            (None, Some(result)) => self.wrong_with_result(message, result),
            (None, None) => self.wrong_with_error(message),
        });
        found
    }

    /// A request or notification must be one of those that `union` lists.
    fn wrong_with_said(&self, union: &str, method: &str, value: &Value) -> Vec<String> {
        match self.members(union).into_iter().find(|it| self.method_of(it) == Some(method)) {
            Some(definition) => self.errors(definition, value),
            None => vec![format!("`{method}` is no {union}")],
        }
    }

    fn wrong_with_result(&self, message: &Message, result: &Value) -> Vec<String> {
        let Some(method) = message.answers.as_deref() else {
            return vec!["a result that answers no request".to_owned()];
        };
        let Some(request) = self.members("ClientRequest").into_iter().find(|it| self.method_of(it) == Some(method))
        else {
            return vec![format!("a result for `{method}`, which is no ClientRequest")];
        };
        let name = request.trim_end_matches("Request");
        let asks_back = result["resultType"] == "input_required" && self.revision == MODERN;
        if asks_back && !self.may_ask_back(name) {
            return vec![format!("`{method}` may not ask back")];
        }
        let of_its_own = format!("{name}Result");
        let definition = match self.definition(&of_its_own) {
            _ if asks_back => "InputRequiredResult",
            Some(_) => &of_its_own,
            None => "EmptyResult",
        };
        self.errors(definition, result)
    }

    fn wrong_with_error(&self, message: &Message) -> Vec<String> {
        let error = &message.value["error"];
        let Some(code) = error["code"].as_i64() else { return Vec::new() };
        let mut found = Vec::new();
        let is_lost = message.value.get("id").is_some() && message.answers.is_none();
        if is_lost {
            found.push("an error that answers no request".to_owned());
        }
        if self.revision == MODERN && NOT_MODERN_CODES.contains(&code) {
            found.push(format!("{code} is not of {MODERN}"));
        }
        let definitions = self.document[self.definitions].as_object().into_iter().flatten();
        for (name, definition) in definitions {
            // Some describe the whole response, some only its `error`.
            if is_code_of(&definition["properties"]["error"], code) {
                found.extend(self.errors(name, &message.value));
            } else if is_code_of(definition, code) {
                found.extend(self.errors(name, error));
            }
        }
        found
    }

    /// Whether the answer to this request may be a question.
    fn may_ask_back(&self, name: &str) -> bool {
        let response = self.definition(&format!("{name}ResultResponse"));
        response.is_some_and(|it| references(&it["properties"]["result"]).contains(&"InputRequiredResult"))
    }

    fn members(&self, union: &str) -> Vec<&str> {
        self.definition(union).map(references).unwrap_or_default()
    }

    fn method_of(&self, definition: &str) -> Option<&str> {
        self.definition(definition)?["properties"]["method"]["const"].as_str()
    }

    fn definition(&self, name: &str) -> Option<&Value> {
        self.document[self.definitions].get(name)
    }

    fn errors(&self, definition: &str, instance: &Value) -> Vec<String> {
        let validator = self.validator(definition);
        validator.iter_errors(instance).map(|it| format!("{definition}: {} at `{}`", it, it.instance_path())).collect()
    }

    fn validator(&self, definition: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let entry = json!({
                "$schema": self.document["$schema"],
                "$ref": format!("#/{}/{definition}", self.definitions),
                self.definitions: self.document[self.definitions],
            });
            Arc::new(jsonschema::validator_for(&entry).unwrap())
        };
        Arc::clone(validators.entry(definition.to_owned()).or_insert_with(build))
    }
}

/// The names of the definitions that `anyOf` in a definition lists.
fn references(definition: &Value) -> Vec<&str> {
    let members = definition["anyOf"].as_array().into_iter().flatten();
    members.filter_map(|it| it["$ref"].as_str()).filter_map(|it| it.rsplit('/').next()).collect()
}

/// Whether a definition is that of an error object with this code, by itself or as one of `allOf`.
fn is_code_of(definition: &Value, code: i64) -> bool {
    let parts = definition["allOf"].as_array().into_iter().flatten();
    parts.chain([definition]).any(|it| it["properties"]["code"]["const"] == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{exchange::Exchange, traffic::Traffic};

    /// What is found wrong with `answer` to `request`; both are JSON.
    fn found(revision: &str, request: &str, answer: &str) -> Vec<String> {
        let body = request.as_bytes().to_vec();
        let answer = crate::http::Answer { status: 200, body: answer.as_bytes().to_vec(), ..Default::default() };
        let exchange = Exchange {
            method: "POST".to_owned(),
            body,
            answer: Some(answer),
            is_complete: true,
            ..Exchange::default()
        };
        let traffic = Traffic::of(vec![exchange]);
        assert!(traffic.oddities.is_empty(), "{:?}", traffic.oddities);
        violations(&traffic.messages, revision)
    }

    #[track_caller]
    fn check_right(revision: &str, request: &str, answer: &str) {
        let found = found(revision, request, answer);
        assert!(found.is_empty(), "{revision}: {found:#?}");
    }

    #[track_caller]
    fn check_wrong(revision: &str, request: &str, answer: &str, expected: &str) {
        let found = found(revision, request, answer);
        assert!(found.iter().any(|it| it.contains(expected)), "{revision}: expected {expected:?} in {found:#?}");
    }

    fn request(method: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#)
    }

    fn result(fields: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{fields}}}}}"#)
    }

    fn error(fields: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{{fields}}}}}"#)
    }

    const REVISIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN];
    const CACHEABLE: &str = r#","resultType":"complete","ttlMs":0,"cacheScope":"private""#;

    #[test]
    fn results_are_held_against_the_request_they_answer() {
        for revision in REVISIONS {
            let more = if revision == MODERN { CACHEABLE } else { "" };
            let tools = |tool: &str| result(&format!(r#""tools":[{tool}]{more}"#));
            let list = request("tools/list");
            check_right(revision, &list, &tools(r#"{"name":"a","inputSchema":{"type":"object"}}"#));
            check_wrong(revision, &list, &tools(r#"{"name":"a"}"#), "ListToolsResult: \"inputSchema\"");
            check_wrong(revision, &list, &tools(r#"{"name":1,"inputSchema":{"type":"object"}}"#), "ListToolsResult");
            check_wrong(revision, &request("prompts/list"), &tools(""), "ListPromptsResult: \"prompts\"");
            check_wrong(revision, &request("no/such"), &tools(""), "no ClientRequest");
            check_wrong(revision, &list.replace(":1,", ":2,"), &tools(""), "answers no request");
            check_wrong(revision, &list.replace(":1,", r#":"1","#), &tools(""), "answers no request");
        }
    }

    #[test]
    fn each_revision_has_its_own_results() {
        let call = request("tools/call");
        let audio = r#""content":[{"type":"audio","data":"","mimeType":"audio/wav"}]"#;
        check_wrong("2024-11-05", &call, &result(audio), "CallToolResult");
        check_right("2025-03-26", &call, &result(audio));
        check_wrong(MODERN, &call, &result(audio), "resultType");
        check_right("2025-11-25", &request("ping"), &result(""));
        check_wrong(MODERN, &request("ping"), &result(r#""resultType":"complete""#), "no ClientRequest");
        check_wrong(MODERN, &request("tools/list"), &result(r#""tools":[],"resultType":"complete""#), "ttlMs");
        let version = |version: &str| {
            result(&format!(
                r#""protocolVersion":"{version}","capabilities":{{}},"serverInfo":{{"name":"a","version":"1"}}"#
            ))
        };
        check_right("2025-06-18", &request("initialize"), &version("2025-06-18"));
        check_wrong("2025-06-18", &request("initialize"), &version("2025-11-25"), "2025-11-25 is spoken");
        let of_another =
            call.replace("}", r#","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2027-01-01"}}}"#);
        check_wrong(MODERN, &of_another, &result(r#""content":[],"resultType":"complete""#), "2027-01-01 is spoken");
    }

    #[test]
    fn only_some_requests_may_be_answered_with_a_question() {
        let asks =
            result(r#""resultType":"input_required","inputRequests":{"a":{"method":"roots/list"}},"requestState":"s""#);
        check_right(MODERN, &request("tools/call"), &asks);
        check_wrong(MODERN, &request("tools/list"), &asks, "may not ask back");
        check_wrong(MODERN, &request("prompts/get"), &asks.replace("roots/list", "ping"), "InputRequiredResult");
        check_wrong("2025-11-25", &request("tools/call"), &asks, "\"content\" is a required property");
    }

    #[test]
    fn errors_are_held_against_their_code() {
        let unsupported = r#""code":-32022,"message":"m""#;
        let data = r#","data":{"supported":["2026-07-28"],"requested":"1900-01-01"}"#;
        check_right(MODERN, &request("tools/list"), &error(&format!("{unsupported}{data}")));
        check_wrong(MODERN, &request("tools/list"), &error(unsupported), "UnsupportedProtocolVersionError");
        check_right(MODERN, &request("tools/list"), &error(r#""code":-32602,"message":"m""#));
        check_wrong(MODERN, &request("resources/read"), &error(r#""code":-32002,"message":"m""#), "is not of");
        for revision in REVISIONS {
            check_wrong(revision, &request("tools/list"), &error(r#""code":-32602"#), "JSONRPC");
            check_wrong(revision, &request("tools/list"), &error(r#""code":"x","message":"m""#), "JSONRPC");
            let of_no_id = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#;
            check_wrong(revision, &request("tools/list"), of_no_id, "JSONRPC");
            let lost = error(r#""code":-32603,"message":"m""#).replace(":1,", ":2,");
            check_wrong(revision, &request("tools/list"), &lost, "answers no request");
        }
        let without_id = r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#;
        check_right("2025-11-25", &request("tools/list"), without_id);
        check_wrong("2025-06-18", &request("tools/list"), without_id, "JSONRPC");
    }

    #[test]
    fn only_what_a_server_may_say_is_right() {
        let say = |method: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        let ask = |method: &str, params: &str| say(method, params).replace("\"method\"", "\"id\":7,\"method\"");
        let none = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let progress = |params: &str| say("notifications/progress", params);
        for revision in REVISIONS {
            check_right(revision, none, &progress(r#"{"progressToken":"t","progress":1}"#));
            check_wrong(revision, none, &progress(r#"{"progressToken":1.5,"progress":1}"#), "ProgressNotification");
            check_wrong(revision, none, &progress(r#"{"progress":1}"#), "ProgressNotification");
            check_wrong(revision, none, &say("notifications/message", r#"{"level":"loud","data":1}"#), "level");
            check_wrong(revision, none, none, "`notifications/initialized` is no ServerNotification");
            check_wrong(revision, none, &ask("tools/list", "{}"), "`tools/list` is no ServerRequest");
        }
        let elicit =
            ask("elicitation/create", r#"{"message":"m","requestedSchema":{"type":"object","properties":{}}}"#);
        check_wrong("2025-03-26", none, &elicit, "is no ServerRequest");
        check_right("2025-06-18", none, &elicit);
        check_wrong("2025-06-18", none, &elicit.replace("\"message\"", "\"text\""), "ElicitRequest");
        check_wrong(MODERN, none, &elicit, "is no ServerRequest");
        check_wrong(
            "2025-11-25",
            none,
            &say("notifications/subscriptions/acknowledged", "{}"),
            "is no ServerNotification",
        );
    }

    #[test]
    fn arrays_are_of_early_revisions_only() {
        let requests = format!("[{}]", request("ping"));
        let results = format!("[{}]", result(""));
        check_right("2025-03-26", &requests, &results);
        check_wrong("2025-06-18", &requests, &results, "has no batches");
    }
}
