//! What the document says of one server's tools, made once for each list of tools it gives.
//!
//! A chapter is text, ready to be put into a document: a key that may use some tools only gets those parts, and thousands of
//! tools are not written anew for each reader.
//!
//! **Limit.** One chapter for each server, and one more for its own paths where names are prefixed on the shared ones.
//! **End.** It is replaced when its server lists other tools, and goes with its server.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    describe,
    endpoints::{CALL_FAILURES, JSON},
    schema,
};
use crate::{
    api::{Api, routes},
    json::json,
    mcp::raw,
    pool::{
        Pool, Roster,
        catalog::{Catalog, Tool},
    },
    schema::STACK_BYTES,
};

/// Longest `operationId`: what function calling takes.
const OPERATION_LETTERS_MAX: usize = 64;

/// The chapters that are ready.
#[derive(Debug, Default)]
pub(in crate::api) struct Chapters(Mutex<HashMap<Key, Arc<Chapter>>>);

/// A server, and whether its tools have its name before theirs.
type Key = (Arc<str>, bool, bool);

/// See the module.
#[derive(Debug)]
pub(super) struct Chapter {
    /// What it was made of.
    catalog: Arc<Catalog>,
    pub(super) tools: Vec<Entry>,
}

/// One tool in the document.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name that its server gave it.
    pub(super) own_name: String,
    /// Its field in `paths`.
    pub(super) path: String,
    /// Its fields in `components.schemas`, with commas between them.
    pub(super) schemas: String,
    /// Hash of all of it.
    pub(super) hash: u64,
}

impl Chapters {
    /// The chapter of a server for those who see `scope`; `None` when it has not told its tools yet.
    pub(super) fn get(&self, api: &Api, roster: &Roster, scope: Option<&str>, pool: &Pool) -> Option<Arc<Chapter>> {
        let catalog = pool.catalog()?;
        let is_prefixed = !roster.name_in(scope, pool, "").is_empty();
        let key = (Arc::clone(pool.server()), is_prefixed, api.access.needs_key());
        // Who else wants it waits, instead of making it once more.
        let mut chapters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chapters.get(&key).filter(|it| Arc::ptr_eq(&it.catalog, &catalog));
        if let Some(chapter) = known {
            return Some(Arc::clone(chapter));
        }
        let chapter = Arc::new(Chapter::new(api, roster, scope, pool, catalog));
        chapters.insert(key, Arc::clone(&chapter));
        chapters.retain(|(server, ..), _| roster.get(server).is_some());
        Some(chapter)
    }
}

impl Chapter {
    fn new(api: &Api, roster: &Roster, scope: Option<&str>, pool: &Pool, catalog: Arc<Catalog>) -> Chapter {
        let tools = thread::scope(|scope_of_threads| {
            let builder = thread::Builder::new().name("openapi".to_owned()).stack_size(STACK_BYTES);
            let write = || {
                let mut taken = HashSet::new();
                let entry = |tool: &Arc<Tool>| Entry::new(api, roster, scope, pool, tool, &mut taken);
                catalog.tools().iter().map(entry).collect::<Vec<Entry>>()
            };
            let thread = builder.spawn_scoped(scope_of_threads, write);
            thread.ok().and_then(|thread| thread.join().ok())
        });
        if tools.is_none() {
            log::error!("the tools of server {} could not be described for `/openapi.json`", pool.server());
        }
        let tools = tools.unwrap_or_default();
        log::debug!("{} tools of server {} are described for `/openapi.json`", tools.len(), pool.server());
        Chapter { catalog, tools }
    }
}

impl Entry {
    fn new(
        api: &Api,
        roster: &Roster,
        scope: Option<&str>,
        pool: &Pool,
        tool: &Tool,
        taken: &mut HashSet<String>,
    ) -> Entry {
        let name = roster.public_name(scope, pool, tool);
        let mut id = schema::safe_name(&name, OPERATION_LETTERS_MAX);
        while !taken.insert(id.clone()) {
            id = schema::safe_name(&format!("{id} "), OPERATION_LETTERS_MAX);
        }
        let listed = Listed::read(&tool.listing);
        let arguments = schema::embed(&format!("{id}.arguments"), listed.input_schema.as_deref());
        let result = listed.output_schema.as_deref().map(|it| schema::embed(&format!("{id}.result"), Some(it)));
        let operation =
            operation(&id, &name, pool.server(), &listed, &arguments, result.is_some(), api.access.needs_key());
        let path = format!("{}:{}", raw::quoted(&routes::call_path(&name)), json!({ "post": operation }));
        let schemas = arguments.iter().chain(result.iter().flatten());
        let schemas: Vec<String> = schemas.map(|(name, value)| format!("{}:{value}", raw::quoted(name))).collect();
        let schemas = schemas.join(",");
        let mut hasher = DefaultHasher::new();
        (&path, &schemas).hash(&mut hasher);
        Entry { own_name: tool.name.clone(), path, schemas, hash: hasher.finish() }
    }
}

/// What a tool's entry says that a reader of the document wants to know; whatever is of another type is passed over.
#[derive(Debug, Default)]
struct Listed {
    title: Option<String>,
    description: Option<String>,
    annotations: Option<Value>,
    input_schema: Option<Box<RawValue>>,
    output_schema: Option<Box<RawValue>>,
}

impl Listed {
    fn read(listing: &RawValue) -> Listed {
        let annotations = raw::field(listing, "annotations").and_then(|it| Value::deserialize(it).ok());
        let annotations = annotations.filter(Value::is_object);
        let title = annotations.as_ref().and_then(|it| it["title"].as_str()).map(str::to_owned);
        Listed {
            title: raw::text(listing, "title").or(title),
            description: raw::text(listing, "description"),
            annotations,
            input_schema: raw::field(listing, "inputSchema").map(ToOwned::to_owned),
            output_schema: raw::field(listing, "outputSchema").map(ToOwned::to_owned),
        }
    }
}

fn operation(
    id: &str,
    name: &str,
    server: &str,
    listed: &Listed,
    arguments: &[(String, Value)],
    has_result: bool,
    needs_key: bool,
) -> Value {
    let reference = |what: &str| json!({ "$ref": format!("{}{id}.{what}", schema::COMPONENTS) });
    let required = arguments.first().and_then(|(_, schema)| schema["required"].as_array());
    let needs_some = required.is_some_and(|it| !it.is_empty());
    let result = if has_result { reference("result") } else { json!({}) };
    let mut operation = Map::new();
    let mut set = |key: &str, value: Value| operation.insert(key.to_owned(), value);
    set("operationId", id.into());
    set("summary", listed.title.as_deref().unwrap_or(name).into());
    if let Some(description) = &listed.description {
        set("description", description.as_str().into());
    }
    set("tags", json!([server]));
    let content = json!({ JSON: { "schema": reference("arguments") } });
    set("requestBody", json!({ "description": "The arguments.", "required": needs_some, "content": content }));
    let mut responses = describe::failures(CALL_FAILURES, needs_key);
    let success = json!({ "description": "The result.", "content": { JSON: { "schema": result } } });
    responses.shift_insert(0, "200".to_owned(), success);
    set("responses", responses.into());
    let mut more = json!({ "tool": name, "server": server });
    if let Some(annotations) = &listed.annotations {
        more["annotations"] = annotations.clone();
    }
    set("x-mcpgate", more);
    operation.into()
}
