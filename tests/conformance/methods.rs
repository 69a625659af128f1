//! Which method does what in which era, and what the results of an era have in common.

use serde_json::{Map, Value, json};

use crate::{
    content,
    request::{Era, Failure, Outcome, Request, log_level, meta},
    tools,
};

/// From the oldest to the newest.
const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const MODERN_VERSION: &str = "2026-07-28";

/// Methods whose modern results say how long they may be kept.
const CACHEABLE: [&str; 6] =
    ["server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"];

/// What `subscriptions/listen` may ask to be told of.
const LIST_FILTERS: [&str; 3] = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];

pub(crate) fn answer(request: &Request<'_>, method: &str) -> Outcome {
    match request.era {
        Era::Legacy => answer_legacy(request, method),
        Era::Modern => answer_modern(request, method).map(|result| modern_result(method, result)),
    }
}

/// Whether a modern request says what it must.
pub(crate) fn check_meta(params: &Map<String, Value>) -> Result<(), Failure> {
    let meta = params.get("_meta").and_then(Value::as_object);
    let member = |key: &str| meta.and_then(|it| it.get(key));
    let Some(version) = member(meta::VERSION).filter(|it| it.is_string()) else {
        return Err(Failure::invalid_params(format!("`{}` must be a string", meta::VERSION)));
    };
    if version != MODERN_VERSION {
        return Err(unsupported_version(version.clone()));
    }
    if !member(meta::CAPABILITIES).is_some_and(Value::is_object) {
        return Err(Failure::invalid_params(format!("`{}` must be an object", meta::CAPABILITIES)));
    }
    member(meta::LOG_LEVEL).map_or(Ok(()), |it| log_level(it).map(drop))
}

pub(crate) fn unsupported_version(requested: Value) -> Failure {
    let data = json!({ "supported": [MODERN_VERSION], "requested": requested });
    Failure::new(-32022, format!("the protocol version {requested} is not supported")).with_data(data)
}

fn answer_legacy(request: &Request<'_>, method: &str) -> Outcome {
    match method {
        "initialize" => initialize(request),
        "ping" => Ok(json!({})),
        "logging/setLevel" => {
            let level = request.params.get("level").unwrap_or(&Value::Null);
            request.peer.set_log_level(log_level(level)?);
            Ok(json!({}))
        }
        "resources/subscribe" => {
            let uri = request.text("uri")?;
            content::must_exist(request.era, uri)?;
            request.peer.subscribe(uri);
            Ok(json!({}))
        }
        "resources/unsubscribe" => {
            request.peer.unsubscribe(request.text("uri")?);
            Ok(json!({}))
        }
        _ => answer_both(request, method),
    }
}

fn answer_modern(request: &Request<'_>, method: &str) -> Outcome {
    match method {
        "server/discover" => Ok(json!({
            "supportedVersions": [MODERN_VERSION],
            "capabilities": capabilities(),
            "instructions": INSTRUCTIONS,
        })),
        "subscriptions/listen" => listen(request),
        _ => answer_both(request, method),
    }
}

fn answer_both(request: &Request<'_>, method: &str) -> Outcome {
    match method {
        "tools/list" => all(request, "tools", tools::list(request.era)),
        "tools/call" => tools::call(request),
        "resources/list" => all(request, "resources", content::resources()),
        "resources/templates/list" => all(request, "resourceTemplates", content::templates()),
        "resources/read" => content::read(request),
        "prompts/list" => all(request, "prompts", content::prompts(request.era)),
        "prompts/get" => content::prompt(request),
        "completion/complete" => Ok(json!({ "completion": { "values": [], "total": 0, "hasMore": false } })),
        _ => Err(Failure::new(-32601, format!("there is no method `{method}`"))),
    }
}

const INSTRUCTIONS: &str = "A fixture of the conformance suite: each tool does what its name says.";

fn server_info() -> Value {
    json!({ "name": "conformance-server", "title": "Conformance fixture", "version": env!("CARGO_PKG_VERSION") })
}

fn capabilities() -> Value {
    json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "completions": {},
        "logging": {},
    })
}

/// Agrees to the version that is asked for if it is one of the era, else offers the newest.
fn initialize(request: &Request<'_>) -> Outcome {
    let asked = request.text("protocolVersion")?;
    let known = LEGACY_VERSIONS.into_iter().find(|it| *it == asked);
    let [.., newest] = LEGACY_VERSIONS;
    Ok(json!({
        "protocolVersion": known.unwrap_or(newest),
        "capabilities": capabilities(),
        "serverInfo": server_info(),
        "instructions": INSTRUCTIONS,
    }))
}

/// A list in one page, after which there is no other.
fn all(request: &Request<'_>, name: &str, items: Vec<Value>) -> Outcome {
    match request.params.get("cursor") {
        None => Ok(Value::Object(Map::from_iter([(name.to_owned(), Value::Array(items))]))),
        Some(cursor) => Err(Failure::invalid_params(format!("there is no page {cursor}"))),
    }
}

/// Runs until the client cancels it or leaves, and so is never answered.
fn listen(request: &Request<'_>) -> Outcome {
    let Some(Value::Object(asked)) = request.params.get("notifications") else {
        return Err(Failure::invalid_params("`notifications` must be an object"));
    };
    let mut honoured = Map::new();
    for key in LIST_FILTERS.into_iter().filter(|key| asked.get(*key) == Some(&json!(true))) {
        honoured.insert(key.to_owned(), json!(true));
    }
    if let Some(Value::Array(uris)) = asked.get("resourceSubscriptions") {
        let known = uris.iter().filter(|uri| uri.as_str().is_some_and(content::exists));
        honoured.insert("resourceSubscriptions".to_owned(), known.cloned().collect());
    }
    request.peer.listen(&request.id, honoured);
    let end = request.wait_for_the_end();
    request.peer.stop_listening(&request.id);
    Err(end)
}

/// Adds what every modern result has.
fn modern_result(method: &str, result: Value) -> Value {
    let Value::Object(mut result) = result else { return result };
    let is_complete = !result.contains_key("resultType");
    if is_complete {
        result.insert("resultType".to_owned(), json!("complete"));
    }
    if is_complete && CACHEABLE.contains(&method) {
        result.insert("ttlMs".to_owned(), json!(0));
        result.insert("cacheScope".to_owned(), json!("private"));
    }
    result.insert("_meta".to_owned(), json!({ meta::SERVER_INFO: server_info() }));
    Value::Object(result)
}
