//! What is counted in instructions: one function for each piece of work on the way of a call.
//!
//! A function does its work so many times and says nothing of how long that took. `scripts/instructions.sh` runs each in a
//! process of its own under valgrind, twice, the second time more often: the difference is what the work costs, without start and
//! end of the process, warm caches and the first look at anything. What has to be made ready stands before the loop.
//! They are no part of the program: `--cfg benching` compiles them into `bench/instructions.rs`, and `cargo test` to see that they work.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "whoever measures wants to see it fail, and reads what is printed"
)]

use std::{env, hint::black_box, process::ExitCode};

use serde_json::value::RawValue;

use crate::{
    access::keyfile,
    api,
    http::{
        self,
        chunked::Decoder,
        head::{self, Head},
    },
    mcp::{
        content::ToolResult,
        id_scanner::IdScanner,
        incoming::Parcel,
        message::{Message, Meta, Request},
    },
    pool,
    schema::Schema,
    worker,
};

#[cfg(benching)]
mod calls;
#[cfg(benching)]
pub(crate) mod server;

/// A piece of work: its name, how often it is done in the shorter run, and the function that does it as often as it is told.
pub type Bench = (&'static str, u32, fn(u32));

/// Those that need nothing but values.
pub const PARTS: &[Bench] = &[
    ("request_head", 500, request_head),
    ("answer_head", 500, http::benching::answer_head),
    ("chunked_body_64k", 4, chunked_body),
    ("client_message", 500, client_message),
    ("request_line", 500, request_line),
    ("worker_lines_100", 10, worker::benching::lines),
    ("worker_message", 500, worker_message),
    ("id_scanner_64k", 4, id_scanner),
    ("tool_result", 500, tool_result),
    ("tool_result_64k", 10, tool_result_64k),
    ("arguments", 500, arguments),
    ("events_100", 20, api::stream_benching::events),
    ("key_hash", 100, key_hash),
    ("mailbox", 500, worker::benching::mailbox),
    ("dispatch_1_worker", 500, |times| pool::benching::dispatch(1, times)),
    ("dispatch_8_workers", 500, |times| pool::benching::dispatch(8, times)),
    ("dispatch_64_workers", 500, |times| pool::benching::dispatch(64, times)),
    ("dispatch_64_full", 500, pool::benching::dispatch_full),
    ("queue_1000_of_10_keys", 5, |times| pool::benching::queue(10, times)),
    ("queue_1000_of_1000_keys", 5, |times| pool::benching::queue(1000, times)),
];

/// Whole calls, from the client's socket to the server's pipe and back.
#[cfg(benching)]
const CALLS: &[Bench] = calls::CALLS;
#[cfg(not(benching))]
const CALLS: &[Bench] = &[];

/// A head as browsers and libraries send it.
const HEAD: &[u8] = b"POST /tools/search_documents HTTP/1.1\r\nHost: gateway.example:8000\r\nUser-Agent: python-httpx/0.28.1\r\n\
Accept: */*\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n\
X-API-Key: mk_3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\nX-Request-Id: 0b9a4d2e-6c1f\r\nContent-Length: 113\r\n\r\n";

const HEAD_BYTES_MAX: usize = 16 * 1024;

const ARGUMENTS: &str = r#"{"query":"rust gateways","limit":20,"filters":{"status":"active","tags":["a","b"]}}"#;

const SCHEMA: &str = r#"{"type":"object","required":["query"],"additionalProperties":false,"properties":{
    "query":{"type":"string","minLength":1,"maxLength":1000},
    "limit":{"type":"integer","minimum":1,"maximum":100},
    "filters":{"type":"object","properties":{
        "status":{"enum":["draft","active","completed"]},
        "tags":{"type":"array","maxItems":10,"items":{"type":"string"}}}}}}"#;

/// `--list`, or the name of a bench and how often it does its work.
pub fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let mut all = PARTS.iter().chain(CALLS);
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            all.for_each(|(name, times, _)| println!("{name} {times}"));
            ExitCode::SUCCESS
        }
        [name, times] => {
            let (_, _, bench) = all.find(|(it, ..)| it == name).expect("a name of `--list`");
            bench(times.parse().expect("a number"));
            // Without the end of what still runs, which would only be counted.
            std::process::exit(0)
        }
        _ => ExitCode::from(2),
    }
}

/// The head of a request (`http/head.rs`).
fn request_head(times: u32) {
    for _ in 0..times {
        let bytes = black_box(HEAD);
        let end = head::find_end(bytes, 0, HEAD_BYTES_MAX).unwrap().unwrap();
        let head = Head::parse(&bytes[..end]).unwrap();
        black_box((head.path(bytes), head.header(bytes, "X-API-Key"), &head));
    }
}

/// A body of 64 chunks (`http/chunked.rs`).
fn chunked_body(times: u32) {
    let chunk = [b"400\r\n", "a".repeat(1024).as_bytes(), b"\r\n"].concat();
    let bytes = [chunk.repeat(64), b"0\r\n\r\n".to_vec()].concat();
    for _ in 0..times {
        let (mut decoder, mut body) = (Decoder::default(), Vec::with_capacity(64 * 1024));
        decoder.feed(black_box(&bytes), &mut body).unwrap();
        assert!(decoder.is_done() && body.len() == 64 * 1024);
    }
}

/// A call as a client of `/mcp` sends it (`mcp/incoming.rs`).
fn client_message(times: u32) {
    let params = format!(r#"{{"name":"search","arguments":{ARGUMENTS},"_meta":{{"progressToken":"t-1"}}}}"#);
    let body = format!(r#"{{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{params}}}"#);
    for _ in 0..times {
        let parcel = Parcel::read(black_box(body.as_bytes())).unwrap();
        black_box(parcel.messages().count());
    }
}

/// The line that a server gets of it (`mcp/message.rs`).
fn request_line(times: u32) {
    let params = format!(r#"{{"name":"search","arguments":{ARGUMENTS},"_meta":{{"progressToken":"t-1"}}}}"#);
    let params: &RawValue = serde_json::from_str(&params).unwrap();
    let mut line = Vec::with_capacity(1024);
    for n in 0..times {
        let (request, token) = Request::passed("tools/call", black_box(Some(params)), Meta::Keep, true, None);
        line.clear();
        request.write_to(u64::from(n) % 10, &mut line);
        black_box((token, &line));
    }
}

/// A line of a server, as it is read (`mcp/message.rs`).
fn worker_message(times: u32) {
    let result = result_with(&"a page of text, with \\\"quotes\\\" in it. ".repeat(20));
    let line = format!(r#"{{"jsonrpc":"2.0","id":17,"result":{result}}}"#);
    for _ in 0..times {
        black_box(Message::parse(black_box(line.as_bytes())).unwrap());
    }
}

/// A line that is too long to be kept (`mcp/id_scanner.rs`).
fn id_scanner(times: u32) {
    let line = format!(r#"{{"jsonrpc":"2.0","result":{},"id":17}}"#, result_with(&"a page of text. ".repeat(4096)));
    for _ in 0..times {
        let mut scanner = IdScanner::default();
        scanner.feed(black_box(line.as_bytes()));
        assert_eq!(scanner.id(), Some(17));
    }
}

/// What a result comes down to (`mcp/content.rs`).
fn tool_result(times: u32) {
    read_result(&result_with(&"a page of text, with \\\"quotes\\\" in it. ".repeat(20)), times);
}

fn tool_result_64k(times: u32) {
    read_result(&result_with(&"a page of text. ".repeat(4096)), times);
}

fn read_result(result: &str, times: u32) {
    let result: &RawValue = serde_json::from_str(result).unwrap();
    for _ in 0..times {
        let result = ToolResult::read(black_box(result)).unwrap();
        let mut data = String::with_capacity(512);
        result.data(|part| data.push_str(&part));
        black_box(data);
    }
}

/// Arguments against a schema (`schema`).
fn arguments(times: u32) {
    let (schema, raw): (Schema, &RawValue) = (Schema::default(), serde_json::from_str(SCHEMA).unwrap());
    let arguments: &RawValue = serde_json::from_str(ARGUMENTS).unwrap();
    for _ in 0..times {
        schema.check(|| "`search`".to_owned(), || Some(raw), black_box(arguments), || {}).unwrap();
    }
}

/// A key, as one that is sent is looked up (`access`).
fn key_hash(times: u32) {
    for _ in 0..times {
        black_box(keyfile::hash(black_box("mk_3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")));
    }
}

/// A result with one block of text, which is written as it stands between the quotes of JSON.
fn result_with(text: &str) -> String {
    format!(r#"{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bench_does_its_work() {
        for (_, _, bench) in PARTS {
            bench(2);
        }
    }

    #[test]
    fn no_two_benches_share_a_name() {
        for (index, (name, ..)) in PARTS.iter().enumerate() {
            assert!(PARTS[..index].iter().all(|(it, ..)| it != name), "{name}");
        }
    }
}
