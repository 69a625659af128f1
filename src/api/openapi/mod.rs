//! `/openapi.json`: what can be done here, as OpenAPI 3.1; and `/docs`, a page that shows it.
//!
//! Each tool that the key may use has an operation of its own, `POST /call/{name}`, made from its schemas as they are now
//! ([`chapter`]); the gateway's own endpoints come from the map of routes ([`describe`], [`endpoints`]). A document is put together
//! from text that is ready, and is not sent again to a client that has it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::{Answer, Api, Request};
use crate::{access::Principal, mcp::raw::FieldsWriter};

mod chapter;
mod describe;
mod docs;
mod endpoints;
#[cfg(test)]
mod reference;
mod schema;

pub(super) use chapter::Chapters;
pub(super) use docs::docs;

use chapter::Entry;

/// The document for those who see `scope`.
pub(super) fn answer(api: &Api, scope: Option<&str>, principal: &Principal, request: &Request<'_>) -> Answer {
    let mut chapters = Vec::new();
    let roster = api.servers.now();
    for pool in roster.in_scope(scope) {
        chapters.extend(api.chapters.get(api, &roster, scope, pool).map(|chapter| (pool, chapter)));
    }
    let (mut servers, mut entries) = (Vec::new(), Vec::new());
    for (pool, chapter) in &chapters {
        let n_before = entries.len();
        entries.extend(chapter.tools.iter().filter(|entry| api.may_use(principal, pool, &entry.own_name)));
        if n_before < entries.len() {
            servers.push(&**pool.server());
        }
    }
    let etag = etag(scope, api.access.needs_key(), &entries);
    let headers = vec![("ETag", etag.clone()), ("Cache-Control", "private, no-cache".to_owned())];
    if request.header("If-None-Match").is_some_and(|known| names(known, &etag)) {
        return Answer { headers, ..Answer::empty(304) };
    }
    let document = document(scope, api.access.needs_key(), &servers, &entries);
    Answer { headers, ..Answer::text(endpoints::JSON, document) }
}

/// Changes whenever the document does. Which servers there are shows in their tools.
fn etag(scope: Option<&str>, needs_key: bool, entries: &[&Entry]) -> String {
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), scope, needs_key).hash(&mut hasher);
    entries.iter().for_each(|entry| entry.hash.hash(&mut hasher));
    format!("\"{:016x}\"", hasher.finish())
}

/// Whether an `If-None-Match` names this tag (RFC 9110, 13.1.2).
fn names(known: &str, etag: &str) -> bool {
    known.split(',').map(str::trim).any(|it| it == "*" || it.strip_prefix("W/").unwrap_or(it) == etag)
}

fn document(scope: Option<&str>, needs_key: bool, servers: &[&str], entries: &[&Entry]) -> Vec<u8> {
    let mut fixed = describe::document(scope, needs_key, servers);
    let paths = fixed.shift_remove("paths").unwrap_or_default();
    let components = fixed.shift_remove("components").unwrap_or_default();
    let n_bytes: usize = entries.iter().map(|it| it.path.len() + it.schemas.len() + 2).sum();
    let mut text = Vec::with_capacity(n_bytes + 64 * 1024);
    text.push(b'{');
    let mut document = FieldsWriter::new(&mut text);
    fixed.iter().for_each(|(key, value)| document.push(key, &value.to_string()));
    document.push_with("paths", |text| {
        text.push(b'{');
        let mut all = FieldsWriter::new(text);
        entries.iter().for_each(|entry| all.push_all(&entry.path));
        paths.as_object().into_iter().flatten().for_each(|(key, value)| all.push(key, &value.to_string()));
        text.push(b'}');
    });
    document.push_with("components", |text| {
        text.push(b'{');
        let mut kinds = FieldsWriter::new(text);
        for (kind, own) in components.as_object().into_iter().flatten() {
            kinds.push_with(kind, |text| {
                text.push(b'{');
                let mut all = FieldsWriter::new(text);
                own.as_object().into_iter().flatten().for_each(|(key, value)| all.push(key, &value.to_string()));
                let is_for_tools = kind == "schemas";
                entries.iter().filter(|_| is_for_tools).for_each(|entry| all.push_all(&entry.schemas));
                text.push(b'}');
            });
        }
        text.push(b'}');
    });
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_the_document_is_known_by_its_tag() {
        for known in ["\"a\"", "W/\"a\"", "\"b\" , \"a\"", "*"] {
            assert!(names(known, "\"a\""), "{known}");
        }
        for known in ["", "a", "\"aa\"", "\"b\",\"c\""] {
            assert!(!names(known, "\"a\""), "{known}");
        }
    }

    #[test]
    fn a_document_without_tools_is_one_too() {
        for (scope, needs_key) in [(None, true), (Some("fs"), false)] {
            let document: serde_json::Value = serde_json::from_slice(&document(scope, needs_key, &[], &[])).unwrap();
            assert_eq!(document["openapi"], "3.1.0");
            assert_eq!(document["components"].get("securitySchemes").is_some(), needs_key);
            assert_eq!(document["paths"].get("/stats").is_some(), scope.is_none());
            assert!(document["paths"]["/tools"]["get"]["responses"]["200"].is_object());
            assert_eq!(document["paths"]["/tools"]["get"]["responses"].get("401").is_some(), needs_key);
        }
    }
}
