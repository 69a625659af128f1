//! Event streams: what is in them, in which order and when, and how they begin and end.

pub(crate) mod client;
mod gone;
mod slow;

use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    http::tool_call,
    support::{Gateway, Helper, KEY, Server, send_signal},
};
use client::{EventStream, names};

/// One worker for all calls, so that its counts are all counts.
const ONE_WORKER: [(&str, &str); 3] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "32")];

/// Text as part of a URL's query.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn a_stream_gives_progress_then_the_result_then_done_and_its_connection_goes_on() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut stream = EventStream::open(&gateway, "progress", r#"{"n":2}"#);
    for path in ["/tools/progress/stream", "/servers/helper/tools/progress/stream"] {
        let (head, events) = (stream.head.clone(), stream.rest());
        head.expect_header("Cache-Control", "no-cache").expect_header("X-Accel-Buffering", "no");
        head.expect(head.is_chunked() && head.header("Content-Length").is_none(), "a chunked body");
        assert_eq!(names(&events), ["progress", "progress", "result", "done"], "{events:#?}");
        assert_eq!(events[0].data, json!({"progress": 1, "total": 2, "message": "step 1"}));
        assert_eq!(events[1].data, json!({"progress": 2, "total": 2, "message": "step 2"}));
        let result = &events[2].data;
        assert_eq!((&result["status"], &result["data"]), (&json!("success"), &json!("done")));
        assert_eq!(result["content"], json!([{"type": "text", "text": "done"}]));
        assert_eq!(result["tool"], "progress");
        assert!(result["worker"].as_str().is_some_and(|it| it.starts_with("helper-")), "{result}");
        assert!(result["duration_ms"].is_number(), "{result}");
        assert_eq!(result["request_id"].as_str(), head.header("X-Request-Id"));
        assert_eq!(events[3].data, json!({"status": "complete"}));

        let mut connection = stream.connection;
        connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], br#"{"arguments":{"a":1}}"#).unwrap();
        gateway.reply("after a stream", connection.receive(false).unwrap()).expect_data(&json!({"a": 1}));
        stream = EventStream::request(connection, &gateway, "POST", path, r#"{"arguments":{"n":2}}"#);
    }
}

#[test]
fn a_list_of_journeys_is_progress_one_chunk_for_each_journey_the_result_and_done() {
    let gateway = Gateway::start(&[], Server::Bundled);
    let events = EventStream::open(&gateway, "journeys_tool", r#"{"action":"list"}"#).rest();

    assert_eq!(names(&events), ["progress", "chunk", "chunk", "chunk", "result", "done"], "{events:#?}");
    assert_eq!(events[0].data, json!({"progress": 0, "message": "Loading data..."}));
    let journeys = events[4].data["data"]["journeys"].as_array().unwrap();
    let chunks: Vec<Value> = events[1..4].iter().map(|event| event.data.clone()).collect();
    let expected: Vec<Value> = journeys.iter().enumerate().map(|(n, it)| json!({"index": n, "data": it})).collect();
    assert_eq!(chunks, expected);
}

#[test]
fn each_event_comes_by_itself_and_before_the_tool_ends() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());

    for (tool, name) in [("stream", "progress"), ("chunks", "chunk")] {
        let mut stream = EventStream::open(&gateway, tool, r#"{"n":3,"gate":"each"}"#);
        for step in 0..3 {
            // The tool takes no step before this call.
            gateway.call("open", "{}").expect_status(200);
            let event = stream.next().unwrap();
            assert_eq!((event.name.as_str(), event.is_alone), (name, true), "{event:?}");
            let number = if name == "chunk" {
                &event.data["index"]
            } else {
                &json!(event.data["progress"].as_u64().unwrap() - 1)
            };
            assert_eq!(number, step, "{event:?}");
        }
        gateway.call("open", "{}").expect_status(200);
        let events = stream.rest();
        assert_eq!(
            names(&events),
            ["result", "done"],
            "a result of an array is not split once it was streamed: {events:#?}"
        );
    }
}

#[test]
fn a_stream_begins_before_anything_has_happened() {
    let gateway = Gateway::start(&[("SSE_KEEP_ALIVE", "600")], Helper::new());
    let mut connection = gateway.connect();
    connection.send_raw(tool_call("delay/stream", r#"{"ms":600000}"#)).unwrap();
    gateway.reply("a slow call", connection.head().unwrap()).expect_status(200);
    gateway.wait_for_a_call_at_work();
}

#[test]
fn a_thousand_steps_arrive_all_and_in_order() {
    let gateway = Gateway::start(&[], Helper::new());

    for (tool, name) in [("stream", "progress"), ("chunks", "chunk")] {
        let events = EventStream::open(&gateway, tool, r#"{"n":1000,"bytes":100}"#).rest();
        let number = |data: &Value| data["progress"].as_u64().map(|it| it - 1).or_else(|| data["index"].as_u64());
        let numbers: Vec<u64> =
            events.iter().filter(|it| it.name == name).filter_map(|event| number(&event.data)).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert_eq!(names(&events[1000..]), ["result", "done"]);
    }
}

#[test]
fn many_streams_at_once_get_their_own_events_only() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());

    let mut streams: Vec<EventStream> = (1..=20)
        .map(|n| EventStream::open(&gateway, "chunks", &format!(r#"{{"n":{n},"bytes":{n},"ms":1}}"#)))
        .collect();
    for (stream, n) in streams.iter_mut().zip(1_usize..) {
        let events = stream.rest();
        let chunks: Vec<&Value> = events.iter().filter(|it| it.name == "chunk").map(|it| &it.data).collect();
        let expected: Vec<Value> =
            (0..n).map(|index| json!({"index": index, "data": {"item": index, "fill": "x".repeat(n)}})).collect();
        assert_eq!(chunks, expected.iter().collect::<Vec<_>>());
        assert_eq!(names(&events[n..]), ["result", "done"]);
    }
}

#[test]
fn a_browser_can_ask_with_get() {
    let gateway = Gateway::start(&[], Helper::new());
    let get = |query: &str| {
        let mut connection = gateway.connect();
        connection
            .send("GET", &format!("/tools/echo/stream?{query}"), &[("Accept", "text/event-stream")], b"")
            .unwrap();
        connection
    };
    let arguments = r#"{"text":"a + b & c = 100%, ünï 🙂","n":[1.10,{"z":1,"a":2}]}"#;
    for query in [
        format!("arguments={}&api_key={KEY}", encoded(arguments)),
        format!("api_key={KEY}&timeout=5&arguments={}", encoded(arguments).replace('+', "%20")),
    ] {
        let events = EventStream::answering(get(&query), &gateway, &query).rest();
        assert_eq!(names(&events), ["result", "done"]);
        let expected = format!(r#""data":{arguments},"#);
        assert!(events[0].raw.contains(&expected), "{query}\nexpected: {expected}\nactual: {}", events[0].raw);
    }
    let without_arguments = format!("api_key={KEY}");
    let events = EventStream::answering(get(&without_arguments), &gateway, &without_arguments).rest();
    assert_eq!(events[0].data["data"], json!({}));

    let refused = |query: &str, status: u16, code: &str, text: &str| {
        let reply = gateway.reply(query, get(query).receive(false).unwrap());
        reply.expect_error(status, code, text);
    };
    let arguments = encoded("{}");
    refused(&format!("arguments={arguments}"), 401, "unauthorized", "");
    refused(&format!("arguments={arguments}&api_key=wrong"), 401, "unauthorized", "");
    refused(&format!("arguments={}&api_key={KEY}", encoded(r#"{"a":"#)), 400, "invalid_json", "not valid JSON");
    refused(&format!("arguments={}&api_key={KEY}", encoded("[1]")), 400, "invalid_arguments", "object");
    for timeout in ["soon", "-1", "0", ""] {
        let query = format!("arguments={arguments}&timeout={timeout}&api_key={KEY}");
        let reply = gateway.reply(&query, get(&query).receive(false).unwrap());
        reply.expect_status(400).expect(reply.text().contains("`timeout`"), "`timeout` in the message");
    }
}

#[test]
fn what_fails_before_the_call_starts_is_a_plain_answer() {
    let gateway = Gateway::start(&[], Helper::new());
    let post = |path: &str, key: &str, body: &str| {
        let reply = gateway.request("POST", path, &[("X-API-Key", key)], body.as_bytes());
        reply.expect_header("Content-Type", "application/json");
        reply
    };

    post("/tools/echo/stream", "wrong", "{}").expect_error(401, "unauthorized", "key");
    post("/tools/ecko/stream", KEY, "{}").expect_error(404, "unknown_tool", "`echo`");
    post("/servers/nobody/tools/echo/stream", KEY, "{}").expect(true, "").expect_status(404);
    post("/tools/echo/stream", KEY, r#"{"arguments":"#).expect_error(400, "invalid_json", "");
    post("/tools/echo/stream", KEY, r#"{"arguments":[]}"#).expect_error(400, "invalid_arguments", "object");
    post("/tools/echo/stream", KEY, r#"{"colour":1}"#).expect_error(400, "bad_request", "colour");
    post("/tools/echo/stream", KEY, r#"{"timeout":-1}"#).expect_error(400, "bad_request", "timeout");
    let reply = gateway.request("DELETE", "/tools/echo/stream", &[("X-API-Key", KEY)], b"");
    reply.expect_error(405, "method_not_allowed", "");
    let headers = [("X-API-Key", KEY), ("Origin", "https://evil.example")];
    gateway.request("POST", "/tools/echo/stream", &headers, b"{}").expect_error(403, "forbidden", "evil");
}

#[test]
fn a_head_request_calls_nothing() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let before = gateway.counts()["calls"].as_u64().unwrap();
    let mut connection = gateway.connect();
    for _ in 0..2 {
        connection.send("HEAD", "/tools/echo/stream", &[("X-API-Key", KEY)], b"").unwrap();
        let status = connection.receive(true).unwrap().status;
        assert!(status == 200 || status == 405, "{status}");
    }
    assert_eq!(gateway.counts()["calls"], before + 1);
}

#[test]
fn a_full_queue_is_said_before_the_stream_begins() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("WORKER_CONCURRENCY", "1"), ("QUEUE_MAX", "1")]);
    let gateway = Gateway::start(&settings, Helper::new());
    let queued = || gateway.stats()["servers"]["helper"]["pool"]["queued"] == 1;

    let mut running = EventStream::open(&gateway, "quiet", "{}");
    running.expect_event("progress");
    let mut waiting = gateway.connect();
    waiting.send("POST", "/tools/progress/stream", &[("X-API-Key", KEY)], br#"{"arguments":{"n":1}}"#).unwrap();
    gateway.wait_until("a call in the queue", queued);
    let refused = gateway.post("/tools/progress/stream", r#"{"arguments":{"n":1}}"#);
    refused.expect_error(503, "overloaded", "").expect(refused.header("Retry-After").is_some(), "a Retry-After");
    drop(running);
    let events = EventStream::answering(waiting, &gateway, "the one that waited").rest();
    assert_eq!(names(&events), ["progress", "result", "done"]);
}

#[test]
fn a_failure_is_an_error_event_and_done_says_error() {
    let gateway = Gateway::start(&[], Helper::new());
    let check = |tool: &str, arguments: &str, code: &str, text: &str| {
        let mut stream = EventStream::open(&gateway, tool, arguments);
        let error = stream.expect_event("error");
        let says = error["error"]["message"].as_str().is_some_and(|it| it.contains(text));
        let is_as_expected = error["status"] == "error" && error["error"]["code"] == code && says;
        stream.expect(is_as_expected, &format!("error.code `{code}` and {text:?}"), &error.to_string());
        assert_eq!(error["request_id"].as_str(), stream.head.header("X-Request-Id"));
        assert_eq!(stream.expect_event("done"), json!({"status": "error"}));
        assert!(stream.next().is_none(), "nothing after `done`");
        error
    };
    let error = check("error", r#"{"text":"no luck"}"#, "tool_error", "no luck");
    assert_eq!(error["content"], json!([{"type": "text", "text": "no luck"}]));
    let error = check("rpc_error", r#"{"code":-32123,"data":[1.50]}"#, "worker_error", "no such luck");
    assert_eq!((&error["error"]["rpc_code"], &error["error"]["data"]), (&json!(-32123), &json!([1.5])));
    check("not_mcp", "{}", "worker_error", "MCP");
    check("crash", r#"{"code":3}"#, "worker_crashed", "exited with code 3");
}

#[test]
fn a_quiet_stream_is_kept_alive_with_comments() {
    let gateway = Gateway::start(&[("SSE_KEEP_ALIVE", "0.1")], Helper::new());

    // Its head comes although nothing happens in the call.
    EventStream::open(&gateway, "silent", "{}").expect_comments(3);
    let mut stream = EventStream::open(&gateway, "quiet", "{}");
    stream.expect_event("progress");
    stream.expect_comments(3);
    let mut stream = EventStream::open(&gateway, "progress", r#"{"n":2,"ms":350}"#);
    let events = stream.rest();
    assert_eq!(names(&events), ["progress", "progress", "result", "done"]);
    stream.expect(2 <= stream.n_comments, "comments between the events", &stream.n_comments.to_string());
}

#[test]
fn a_result_of_several_parts_is_split_into_chunks() {
    let gateway = Gateway::start(&[], Helper::new());
    let chunks = |tool: &str, arguments: &str| {
        let events = EventStream::open(&gateway, tool, arguments).rest();
        let n_chunks = events.len() - 2;
        assert_eq!(names(&events[n_chunks..]), ["result", "done"], "{events:#?}");
        assert!(events[..n_chunks].iter().all(|event| event.name == "chunk"), "{events:#?}");
        events[..n_chunks].iter().map(|event| event.raw.clone()).collect::<Vec<String>>()
    };

    // Several blocks: the values of the blocks.
    let blocks = chunks("blocks", "{}");
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    assert_eq!(blocks[0], r#"{"index":0,"data":"one"}"#);
    assert!(blocks[1].starts_with(r#"{"index":1,"data":{"type":"image","#), "{blocks:?}");
    assert!(blocks[2].starts_with(r#"{"index":2,"data":{"type":"resource","#), "{blocks:?}");
    // An array: its items, as the server wrote them.
    let items = chunks("delay", r#"{"ms":0,"value":[12345678901234567890, {"z":1.10,"a":[]}, "x", null]}"#);
    let expected = [
        r#"{"index":0,"data":12345678901234567890}"#,
        r#"{"index":1,"data":{"z":1.10,"a":[]}}"#,
        r#"{"index":2,"data":"x"}"#,
        r#"{"index":3,"data":null}"#,
    ];
    assert_eq!(items, expected);
    assert_eq!(chunks("delay", r#"{"ms":0,"value":[]}"#), [""; 0]);
    assert_eq!(chunks("echo", r#"{"one":[1,2]}"#), [""; 0], "one value is no list");
    assert_eq!(chunks("no_content", "{}"), [""; 0]);
}

#[test]
fn carriage_returns_of_a_server_do_not_break_the_stream() {
    let gateway = Gateway::start(&[], Helper::new());
    let events = EventStream::open(&gateway, "blanks", "{}").rest();

    assert_eq!(names(&events), ["chunk", "result", "done"], "{events:#?}");
    assert_eq!(events[0].data, json!({"index": 0, "data": [1, 2]}));
    assert_eq!(events[1].data["data"], json!({"a": 1}));
}

#[test]
fn log_messages_of_the_server_are_log_events() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let events = EventStream::open(&gateway, "log", r#"{"n":3,"level":"warning"}"#).rest();

    assert_eq!(names(&events), ["log", "log", "log", "result", "done"], "{events:#?}");
    for (event, n) in events.iter().zip(1..=3) {
        assert_eq!(event.data, json!({"level": "warning", "logger": "helper", "data": n}));
    }
    let events = EventStream::open(&gateway, "log", r#"{"data":{"line":"a\nb","z":1.10}}"#).rest();
    assert!(events[0].raw.contains(r#""data":{"line":"a\nb","z":1.10}"#), "{events:#?}");
}

#[test]
fn what_a_server_asks_over_http_is_declined() {
    let gateway = Gateway::start(&[], Helper::new());
    for method in ["elicitation/create", "sampling/createMessage"] {
        let mut stream = EventStream::open(&gateway, "ask", &format!(r#"{{"method":"{method}","value":"well?"}}"#));
        let result = stream.expect_event("result");
        assert!(result["data"]["error"]["code"].is_i64(), "{method}: {result}");
        stream.expect_event("done");
    }
}

#[test]
fn a_call_that_takes_too_long_ends_its_stream_and_is_cancelled() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let body = r#"{"arguments":{"n":1,"gate":"end"},"timeout":0.2}"#;
    let mut stream = EventStream::request(gateway.connect(), &gateway, "POST", "/tools/stream/stream", body);

    stream.expect_event("progress");
    let error = stream.expect_event("error");
    stream.expect(error["error"]["code"] == "timeout", "error.code `timeout`", &error.to_string());
    assert_eq!(stream.expect_event("done"), json!({"status": "error"}));
    assert!(stream.next().is_none());
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
}

#[test]
fn progress_extends_a_stream_up_to_the_longest_time_of_a_call() {
    let gateway = Gateway::start(&[("MCP_REQUEST_TIMEOUT", "0.5"), ("MCP_CALL_TIME_MAX", "1.5")], Helper::new());

    let events = EventStream::open(&gateway, "progress", r#"{"n":10,"ms":100}"#).rest();
    assert_eq!(names(&events[10..]), ["result", "done"]);
    let events = EventStream::open(&gateway, "progress", r#"{"n":100,"ms":100}"#).rest();
    let [.., error, done] = &events[..] else { panic!("{events:#?}") };
    assert_eq!((error.name.as_str(), &error.data["error"]["code"]), ("error", &json!("timeout")), "{events:#?}");
    assert_eq!(done.data, json!({"status": "error"}));
}

#[test]
fn an_old_client_gets_its_stream_up_to_the_end_of_the_connection() {
    let gateway = Gateway::start(&[], Helper::new());
    let body = r#"{"arguments":{"n":2}}"#;
    for headers in ["", "Connection: keep-alive\r\n"] {
        let mut connection = gateway.connect();
        let request = format!(
            "POST /tools/progress/stream HTTP/1.0\r\nX-API-Key: {KEY}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.send_raw(&request).unwrap();
        let mut stream = EventStream::answering(connection, &gateway, &request);
        assert!(stream.head.header("Transfer-Encoding").is_none(), "HTTP/1.0 knows no chunks");
        let events = stream.rest();
        assert_eq!(names(&events), ["progress", "progress", "result", "done"]);
    }
}

#[test]
fn a_request_sent_during_a_stream_is_served_after_it() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    let body = br#"{"arguments":{"n":3,"ms":30}}"#;
    connection.send("POST", "/tools/progress/stream", &[("X-API-Key", KEY)], body).unwrap();
    connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], br#"{"arguments":{"a":1}}"#).unwrap();

    let mut stream = EventStream::answering(connection, &gateway, "a stream, then a call");
    assert_eq!(names(&stream.rest()), ["progress", "progress", "progress", "result", "done"]);
    let answer = stream.connection.receive(false).unwrap();
    gateway.reply("the call behind the stream", answer).expect_data(&json!({"a": 1}));
}

#[test]
fn a_worker_killed_in_mid_stream_is_an_error_event() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut stream = EventStream::open(&gateway, "chunks", r#"{"n":2,"gate":"end"}"#);
    stream.expect_event("chunk");
    stream.expect_event("chunk");

    send_signal(gateway.worker_pids()[0], Signal::KILL);
    let error = stream.expect_event("error");
    stream.expect(error["error"]["code"] == "worker_crashed", "error.code `worker_crashed`", &error.to_string());
    stream.expect(error.to_string().contains("signal 9"), "the signal", &error.to_string());
    assert_eq!(stream.expect_event("done"), json!({"status": "error"}));
    assert!(stream.next().is_none());
    // The connection has outlived the worker.
    let mut connection = stream.connection;
    connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], b"{}").unwrap();
    gateway.reply("after a crash", connection.receive(false).unwrap()).expect_status(200);
}

#[test]
fn a_gateway_that_stops_lets_its_streams_end() {
    let mut gateway = Gateway::start(&[], Helper::new());
    let mut stream = EventStream::open(&gateway, "progress", r#"{"n":5,"ms":100}"#);
    stream.expect_event("progress");

    gateway.signal(Signal::TERM);
    assert_eq!(names(&stream.rest()), ["progress", "progress", "progress", "progress", "result", "done"]);
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
}

#[test]
fn a_stream_that_outlasts_the_stop_is_ended_in_time() {
    let mut gateway = Gateway::start(&[("DRAIN_TIMEOUT", "0.3"), ("STOP_GRACE", "0.3")], Helper::new());
    let mut stream = EventStream::open(&gateway, "quiet", "{}");
    stream.expect_event("progress");

    gateway.signal(Signal::TERM);
    let reading = thread::spawn(move || while matches!(stream.try_next(), Ok(Some(_))) {});
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
    reading.join().unwrap();
}
