//! What was said through a relay: exchanges, the JSON-RPC messages in them, and which request a response answers.
//!
//! Ids are unique within a session only, so a response is looked up among the requests of its own session; where there are
//! no sessions (2026-07-28), among those of its own exchange. What is replayed after a reconnection counts once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    exchange::{Exchange, SseEvent},
    schemas::violations,
};

/// Statuses of refusals that come before MCP: they have the error shape of the gateway, not that of JSON-RPC.
const STATUSES_BEFORE_MCP: [u16; 7] = [401, 403, 405, 408, 413, 431, 503];

/// More of a message is not shown when a test fails.
const SHOWN_CHARS_MAX: usize = 160;

/// All that was said.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) messages: Vec<Message>,
    /// What stood where a message should, one sentence each.
    pub(crate) oddities: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    Client,
    Gateway,
}

/// One JSON-RPC message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) by: Party,
    pub(crate) value: Value,
    /// The method of the request that this is the response to.
    pub(crate) answers: Option<String>,
    /// Whether it was one of several in an array.
    pub(crate) is_of_batch: bool,
    /// Where its id means something: a session, or one exchange.
    scope: String,
}

impl Message {
    pub(crate) fn method(&self) -> Option<&str> {
        self.value["method"].as_str()
    }

    pub(crate) fn is_request(&self) -> bool {
        self.method().is_some() && self.value.get("id").is_some()
    }

    pub(crate) fn is_response(&self) -> bool {
        self.method().is_none()
    }
}

impl Traffic {
    pub(crate) fn of(exchanges: Vec<Exchange>) -> Traffic {
        let mut traffic = Traffic { exchanges, ..Traffic::default() };
        let mut replayed = BTreeSet::new();
        for index in 0..traffic.exchanges.len() {
            traffic.take(index, &mut replayed);
        }
        traffic.pair();
        traffic
    }

    /// The messages that the gateway wrote.
    pub(crate) fn by_gateway(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|it| it.by == Party::Gateway)
    }

    /// The notifications of this method that the gateway wrote, their `params`.
    pub(crate) fn told(&self, method: &str) -> Vec<&Value> {
        self.by_gateway().filter(|it| it.method() == Some(method)).map(|it| &it.value["params"]).collect()
    }

    /// The exchanges with this HTTP method.
    pub(crate) fn requests(&self, method: &str) -> Vec<&Exchange> {
        self.exchanges.iter().filter(|it| it.method == method).collect()
    }

    /// All messages, one a line and shortened, for a failure.
    pub(crate) fn shown(&self) -> String {
        let line = |message: &Message| {
            let arrow = if message.by == Party::Client { "->" } else { "<-" };
            let text: String = message.value.to_string().chars().take(SHOWN_CHARS_MAX).collect();
            format!("{arrow} {text}\n")
        };
        let lines: String = self.messages.iter().map(line).collect();
        format!("--- messages, by connection ---\n{lines}--- end of messages ---")
    }

    /// Everything the gateway wrote is what the schema of `revision` says, answers a request if it is a response, and both
    /// sides spoke this revision and no other.
    #[track_caller]
    pub(crate) fn check_schemas(&self, revision: &str) {
        assert!(self.by_gateway().next().is_some(), "the gateway wrote no message at all: {:#?}", self.exchanges);
        let mut found = self.oddities.clone();
        found.extend(violations(&self.messages, revision));
        assert!(found.is_empty(), "against the schema of {revision}:\n{}\n{}", found.join("\n"), self.shown());
    }

    fn take(&mut self, index: usize, replayed: &mut BTreeSet<(String, String)>) {
        let exchange = self.exchanges[index].clone();
        let events = exchange.events();
        let scope = scope(&exchange, &events).unwrap_or_else(|| format!("exchange {index}"));
        if exchange.method == "POST" {
            self.take_body(Party::Client, &scope, &exchange.body);
        }
        for event in &events {
            let is_endpoint = event.event.as_deref() == Some("endpoint");
            let data = event.data.as_deref().filter(|data| !data.is_empty() && !is_endpoint);
            let is_new = event.id.as_ref().is_none_or(|id| replayed.insert((scope.clone(), id.clone())));
            if let Some(data) = data.filter(|_| is_new) {
                self.take_body(Party::Gateway, &scope, data.as_bytes());
            }
        }
        if let Some(answer) = exchange.answer.as_ref().filter(|_| !exchange.is_stream() && exchange.is_complete) {
            let is_of_the_gateway_itself = STATUSES_BEFORE_MCP.contains(&answer.status);
            let is_json_rpc = answer.body.windows(9).any(|it| it == b"\"jsonrpc\"");
            if !answer.body.is_empty() && (is_json_rpc || !is_of_the_gateway_itself) {
                self.take_body(Party::Gateway, &scope, &answer.body);
            }
        }
    }

    /// Takes a body, or the data of an event: one message, or an array of them.
    fn take_body(&mut self, by: Party, scope: &str, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let (values, is_of_batch) = match serde_json::from_str(&text) {
            Ok(Value::Array(values)) => (values, true),
            Ok(value) => (vec![value], false),
            Err(cause) => return self.note(by, format!("no JSON ({cause}): {text}")),
        };
        for value in values {
            if value["jsonrpc"] != "2.0" {
                self.note(by, format!("no message of JSON-RPC 2.0: {value}"));
                continue;
            }
            let scope = scope.to_owned();
            self.messages.push(Message { by, value, answers: None, is_of_batch, scope });
        }
    }

    /// What a client of a test sends may be nonsense on purpose; what the gateway writes may not.
    fn note(&mut self, by: Party, what: String) {
        if by == Party::Gateway {
            self.oddities.push(what);
        }
    }

    /// Tells each response which method it answers; the first response to a request counts.
    fn pair(&mut self) {
        type Key = (String, Party, String);
        let mut methods: BTreeMap<Key, String> = BTreeMap::new();
        for message in self.messages.iter().filter(|it| it.is_request()) {
            let key = (message.scope.clone(), message.by, message.value["id"].to_string());
            methods.insert(key, message.method().unwrap_or_default().to_owned());
        }
        for message in self.messages.iter_mut().filter(|it| it.is_response() && it.value.get("id").is_some()) {
            let asker = match message.by {
                Party::Client => Party::Gateway,
                Party::Gateway => Party::Client,
            };
            message.answers = methods.remove(&(message.scope.clone(), asker, message.value["id"].to_string()));
        }
    }
}

/// The session that an exchange belongs to: in its headers, or in the path and the first event of HTTP with SSE
/// (2024-11-05).
fn scope(exchange: &Exchange, events: &[SseEvent]) -> Option<String> {
    let header = exchange.header("Mcp-Session-Id").or_else(|| exchange.answer_header("Mcp-Session-Id"));
    let endpoint = events.iter().find(|it| it.event.as_deref() == Some("endpoint")).and_then(|it| it.data.as_deref());
    let of_path = |path: &str| path.split_once("sessionId=").map(|(_, id)| id.to_owned());
    header.map(str::to_owned).or_else(|| of_path(&exchange.path)).or_else(|| endpoint.and_then(of_path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::exchange::read;

    fn traffic(connections: &[(&str, &str)]) -> Traffic {
        let read = |(by_client, by_gateway): &(&str, &str)| read(by_client.as_bytes(), by_gateway.as_bytes()).unwrap();
        Traffic::of(connections.iter().flat_map(read).collect())
    }

    fn post(headers: &str, body: &str) -> String {
        format!("POST /mcp HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    fn json(headers: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    }

    fn stream(events: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{events}")
    }

    fn told(traffic: &Traffic) -> Vec<(Party, Option<&str>)> {
        traffic.messages.iter().map(|it| (it.by, it.method().or(it.answers.as_deref()))).collect()
    }

    const IN_S: &str = "Mcp-Session-Id: s\r\n";
    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;
    const QUESTION: &str = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

    #[test]
    fn responses_find_their_requests_across_connections_of_a_session_but_not_in_another() {
        let answer_elsewhere = (post(IN_S, RESULT), "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned());
        let call = (post(IN_S, CALL), stream(&format!("data: {QUESTION}\n\ndata: {RESULT}\n\n")));
        let other = (post("Mcp-Session-Id: t\r\n", "[]"), json("", RESULT));
        let connections = [&answer_elsewhere, &call, &other].map(|it| (it.0.as_str(), it.1.as_str()));
        let traffic = traffic(&connections);
        let expected = [
            (Party::Client, Some("roots/list")),
            (Party::Client, Some("tools/call")),
            (Party::Gateway, Some("roots/list")),
            (Party::Gateway, Some("tools/call")),
            (Party::Gateway, None),
        ];
        assert_eq!(told(&traffic), expected);
    }

    #[test]
    fn the_session_of_an_initialize_is_that_of_its_answer_and_without_sessions_an_exchange_is_its_own() {
        let initialize = CALL.replace("tools/call", "initialize");
        let first = post("", &initialize) + &post("", CALL);
        let answers = json(IN_S, RESULT) + &json("", RESULT);
        let traffic = traffic(&[(&first, &answers)]);
        let answered: Vec<Option<&str>> = traffic.by_gateway().map(|it| it.answers.as_deref()).collect();
        assert_eq!(answered, [Some("initialize"), Some("tools/call")]);
    }

    #[test]
    fn http_with_sse_is_paired_by_the_session_of_its_endpoint() {
        let events =
            stream(&format!("event: endpoint\ndata: /messages?sessionId=7\n\nevent: message\ndata: {RESULT}\n\n"));
        let call = post("", CALL).replace("/mcp", "/messages?sessionId=7");
        let accepted = "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted";
        let traffic = traffic(&[("GET /sse HTTP/1.1\r\n\r\n", &events), (&call, accepted)]);
        assert_eq!(traffic.by_gateway().next().unwrap().answers.as_deref(), Some("tools/call"));
        assert_eq!(traffic.oddities.len(), 1, "{:?}", traffic.oddities);
    }

    #[test]
    fn what_is_replayed_counts_once_and_priming_events_and_cut_off_ones_are_no_messages() {
        let events = format!("id: 1-1\nretry: 1000\ndata:\n\nid: 1-2\ndata: {QUESTION}\n\nid: 1-3\ndata: {{\"jso");
        let again = format!("id: 1-2\ndata: {QUESTION}\n\nid: 1-3\ndata: {RESULT}\n\n");
        let resume = format!("GET /mcp HTTP/1.1\r\n{IN_S}Last-Event-ID: 1-1\r\n\r\n");
        let traffic = traffic(&[(&post(IN_S, CALL), &stream(&events)), (&resume, &stream(&again))]);
        let by_gateway: Vec<String> = traffic.by_gateway().map(|it| it.value.to_string()).collect();
        assert_eq!(by_gateway, [QUESTION, RESULT]);
        assert!(traffic.oddities.is_empty());
    }

    #[test]
    fn batches_are_taken_apart_and_what_is_no_message_is_noted_unless_it_came_before_mcp() {
        let batch = format!("[{RESULT},{QUESTION}]");
        let by_client = [post(IN_S, "nonsense"), post(IN_S, CALL), post(IN_S, CALL), post(IN_S, CALL)].concat();
        let refusal = json("", r#"{"status":"error"}"#).replace("200 OK", "401 Unauthorized");
        let by_gateway = [json("", &batch), json("", "{}"), json("", "oops"), refusal].concat();
        let traffic = traffic(&[(&by_client, &by_gateway)]);
        assert_eq!(traffic.by_gateway().filter(|it| it.is_of_batch).count(), 2);
        assert_eq!(traffic.oddities.len(), 2, "{:#?}", traffic.oddities);
    }
}
