//! Every way to call a tool, as one question: what does a client with this key get?

use serde_json::{Value, json};

use crate::{
    mcp::{
        client::{Modern, Opening, PLAIN, calling, changed, request},
        stream::{Posted, messages},
    },
    support::{Gateway, Reply},
    ws::client::{Socket, handshake},
};

/// What a call came to: [`LET_IN`], or the code of an error.
pub(super) type Outcome = String;

/// The tool was run.
pub(super) const LET_IN: &str = "let in";

type Call = fn(&Gateway, Option<&str>, &str) -> Outcome;

/// Calls a tool that takes no arguments, with a key or without one.
pub(super) const SURFACES: [(&str, Call); 11] = [
    ("POST", |gateway, key, tool| {
        of_reply(&post(gateway, &format!("/tools/{tool}"), &header(key)), |body| body["status"] == "success")
    }),
    ("POST, bearer", |gateway, key, tool| {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        of_reply(&post(gateway, &format!("/tools/{tool}"), &headers), |body| body["status"] == "success")
    }),
    ("POST, key in the query", |gateway, key, tool| {
        let path = format!("/tools/{tool}{}", query(key));
        of_reply(&post(gateway, &path, &[]), |body| body["status"] == "success")
    }),
    ("POST of one server", |gateway, key, tool| {
        of_reply(&post(gateway, &format!("/servers/helper/tools/{tool}"), &header(key)), |it| it["status"] == "success")
    }),
    ("POST, events", |gateway, key, tool| of_events(&post(gateway, &format!("/tools/{tool}/stream"), &header(key)))),
    ("GET, events", |gateway, key, tool| {
        of_events(&gateway.request("GET", &format!("/tools/{tool}/stream{}", query(key)), &[], b""))
    }),
    ("WebSocket of a tool", |gateway, key, tool| {
        of_socket(gateway, &format!("/ws/tools/{tool}{}", query(key)), &json!({"id": 1}))
    }),
    ("WebSocket", |gateway, key, tool| {
        of_socket(gateway, &format!("/ws{}", query(key)), &json!({"id": 1, "tool": tool}))
    }),
    ("/mcp with a session", |gateway, key, tool| {
        let opening = Opening::new().key(key.unwrap_or_default());
        // The client that is used here always sends a key; without one the first request tells.
        let opened = match key {
            Some(_) => opening.try_open(gateway),
            None => {
                gateway.request("POST", "/mcp", &PLAIN[1..], request(0, "initialize", &opening.params()).as_bytes())
            }
        };
        if opened.status != 200 {
            return code(&opened.json());
        }
        of_message(&opening.open(gateway).response("tools/call", calling(tool, json!({}), None)))
    }),
    ("/mcp, 2026-07-28", |gateway, key, tool| {
        let modern = Modern::new(gateway);
        let reply = modern.send_with(&[("X-API-Key", key)], 1, "tools/call", calling(tool, json!({}), None)).reply();
        messages(&reply).last().map(of_message).unwrap_or_default()
    }),
    ("/sse", |gateway, key, tool| {
        let headers = changed(&[("Accept", "text/event-stream")], &[("X-API-Key", key)]);
        let mut stream = gateway.connect();
        stream.send("GET", "/sse", &headers, b"").unwrap();
        let head = stream.head().unwrap();
        if head.status != 200 {
            let length = head.header("Content-Length").unwrap().parse().unwrap();
            return code(&serde_json::from_slice(&stream.bytes(length).unwrap()).unwrap());
        }
        let mut data = || loop {
            // Each event is a chunk.
            let event = String::from_utf8(stream.chunk().unwrap().expect("an event")).unwrap();
            if let Some((_, data)) = event.split_once("data: ") {
                return data.trim_end().to_owned();
            }
        };
        let endpoint = data();
        let headers = changed(&PLAIN, &[("X-API-Key", key)]);
        let mut ask = |id: i64, method: &str, params: Value| {
            Posted::send(gateway, "POST", &endpoint, &headers, &request(id, method, &params))
                .reply()
                .expect_status(202);
            serde_json::from_str::<Value>(&data()).unwrap()
        };
        ask(0, "initialize", Opening::new().revision("2024-11-05").params());
        of_message(&ask(1, "tools/call", calling(tool, json!({}), None)))
    }),
];

fn header(key: Option<&str>) -> Vec<(&str, &str)> {
    key.into_iter().map(|key| ("X-API-Key", key)).collect()
}

fn query(key: Option<&str>) -> String {
    key.map_or(String::new(), |key| format!("?api_key={key}"))
}

fn post(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Reply {
    gateway.request("POST", path, headers, b"{}")
}

fn of_reply(reply: &Reply, is_success: impl Fn(&Value) -> bool) -> Outcome {
    let body = reply.json();
    if is_success(&body) { LET_IN.to_owned() } else { code(&body) }
}

fn of_events(reply: &Reply) -> Outcome {
    match reply.status {
        200 if reply.text().contains("event: result\n") => LET_IN.to_owned(),
        _ => code(&reply.json()),
    }
}

fn of_socket(gateway: &Gateway, path: &str, call: &Value) -> Outcome {
    let head = format!("{}\r\n", handshake(path));
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    let answer = connection.receive(false).unwrap();
    if answer.status != 101 {
        return code(&serde_json::from_slice(&answer.body).unwrap());
    }
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    let mut socket = Socket::answering(connection, gateway, &head);
    socket.send(call.to_string());
    loop {
        let message = socket.next();
        match message["event"].as_str() {
            Some("complete") => return LET_IN.to_owned(),
            Some("error") => return code(&message),
            _ => {}
        }
    }
}

fn of_message(message: &Value) -> Outcome {
    match &message["result"] {
        result if result.is_object() && result["isError"] != true => LET_IN.to_owned(),
        // A JSON-RPC error, or what HTTP says before JSON-RPC is heard.
        _ => message["error"]["data"]["code"].as_str().map_or_else(|| code(message), str::to_owned),
    }
}

fn code(body: &Value) -> Outcome {
    body["error"]["code"].as_str().map_or_else(|| body.to_string(), str::to_owned)
}
