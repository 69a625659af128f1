//! Messages that make no sense get an error event; frames that break the protocol end the socket with the right code.

use serde_json::json;

use crate::{
    support::{Gateway, Helper},
    ws::UNKNOWN,
    ws::client::{BINARY, CLOSE, CONTINUATION, FINAL, PING, PONG, Socket, TEXT, frame, frame_head},
};

const RESERVED_1: u8 = 0x40;
const RESERVED_2: u8 = 0x20;
const RESERVED_3: u8 = 0x10;

fn open(gateway: &Gateway) -> Socket {
    Socket::open(gateway, "/ws/tools/echo")
}

/// The gateway ends a fresh socket with this code on these bytes, and goes on serving.
#[track_caller]
fn check_ends(gateway: &Gateway, bytes: &[u8], shown: &str, code: u16) {
    let mut socket = open(gateway);
    socket.send_raw(bytes, shown);
    let texts = socket.expect_close(Some(code));
    socket.expect(!texts.iter().any(|text| text.contains("complete")), "no answered call", &texts.join("\n"));
}

// --- messages ---------------------------------------------------------------------------------------------------

#[test]
fn a_message_that_makes_no_sense_is_an_error_event_and_the_socket_stays_open() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);
    let mut check = |text: &str, code: &str, says: &str| {
        socket.send(text);
        let error = socket.expect_error(code, says);
        socket.expect_open();
        error
    };

    for text in ["", " ", "hello", "{", r#"{"id":1,}"#, "{'id':1}", "{\"id\":1}{\"id\":2}", "\u{feff}{}"] {
        let error = check(text, "invalid_json", "");
        assert!(error.get("id").is_none_or(serde_json::Value::is_null), "{}", error.raw);
    }
    for text in ["[]", "1", "null", r#""text""#, "[[[[]]]]"] {
        check(text, "bad_request", "");
    }
    for (text, says) in [
        (r#"{"event":"fly","id":1}"#, "fly"),
        (r#"{"event":7,"id":1}"#, "`7`"),
        (r#"{"event":"cancel"}"#, "id"),
        (r#"{"arguments":{},"id":1,"colour":"red"}"#, "colour"),
        (r#"{"event":"cancel","id":1,"colour":"red"}"#, "colour"),
        (r#"{"arguments":{},"id":{}}"#, "id"),
        (r#"{"arguments":{},"id":[1]}"#, "id"),
        (r#"{"arguments":{},"input":"no"}"#, "expected a boolean"),
        (r#"{"arguments":{},"id":true}"#, "id"),
    ] {
        check(text, "bad_request", says);
    }
    assert_eq!(check(r#"{"arguments":[],"id":5}"#, "invalid_arguments", "object")["id"], 5);
    assert_eq!(check(r#"{"event":"cancel","id":"nobody"}"#, UNKNOWN, "nobody")["id"], "nobody");
    // Nothing in them can be taken for a call.
    assert_eq!(gateway.stats()["servers"]["helper"]["status"], "healthy");
}

#[test]
fn an_id_that_is_in_use_is_refused_and_its_call_goes_on() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    socket.call("1", r#"{"method":"elicitation/create","value":"well?"}"#);
    socket.expect_event("started", "1");
    let question = socket.expect_event("input_required", "1");

    socket.call("1", r#"{"method":"ping"}"#);
    // With its id, the error would look like the end of the call that runs.
    assert!(socket.expect_error("bad_request", "1").get("id").is_none());
    // Another type, another id.
    socket.call(r#""1""#, r#"{"method":"ping"}"#);
    socket.expect_event("started", r#""1""#);
    socket.expect_event("complete", r#""1""#);
    socket.input(&question, r#""result":{}"#);
    socket.expect_event("complete", "1");
    socket.call("1", r#"{"method":"ping"}"#);
    socket.expect_event("started", "1");
    socket.expect_event("complete", "1");
}

#[test]
fn a_binary_message_is_an_error_event() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);

    socket.send_frame(FINAL | BINARY, br#"{"arguments":{},"id":1}"#);
    socket.expect_error("bad_request", "text");
    socket.send_frame(BINARY, b"\xff\xfe");
    socket.send_frame(FINAL | CONTINUATION, b"\x00");
    socket.expect_error("bad_request", "text");
    socket.expect_open();
}

#[test]
fn an_error_can_be_told_from_the_next_by_its_order() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);
    for n in 0..50 {
        socket.send(format!(r#"{{"event":"cancel","id":{n}}}"#));
    }
    for n in 0..50 {
        assert_eq!(socket.expect_error(UNKNOWN, &n.to_string())["id"], n);
    }
}

// --- sizes ------------------------------------------------------------------------------------------------------

#[test]
fn a_message_over_the_limit_closes_with_1009_and_one_at_the_limit_is_taken() {
    let gateway = Gateway::start(&[("BODY_BYTES_MAX", "64k")], Helper::new());
    let message = |bytes: usize| {
        let frame = r#"{"arguments":{"text":""},"id":1}"#;
        frame.replace(r#"":"""#, &format!(r#"":"{}""#, "x".repeat(bytes - frame.len())))
    };
    for bytes in [125, 126, 127, 65_535, 65_536] {
        let mut socket = open(&gateway);
        assert_eq!(message(bytes).len(), bytes);
        socket.send(message(bytes));
        socket.expect_event("started", "1");
        socket.expect_event("complete", "1");
    }
    check_ends(&gateway, &frame(FINAL | TEXT, message(65_537).as_bytes()), "65537 bytes in a frame", 1009);
    let all = message(70_000).into_bytes();
    let mut fragments = frame(TEXT, &all[..30_000]);
    fragments.extend(frame(CONTINUATION, &all[30_000..60_000]));
    fragments.extend(frame(FINAL | CONTINUATION, &all[60_000..]));
    check_ends(&gateway, &fragments, "70000 bytes in three frames", 1009);
}

#[test]
fn an_announced_size_over_the_limit_closes_at_once_and_costs_nothing() {
    let gateway = Gateway::start(&[], Helper::new());
    for length in [4 * 1024 * 1024 + 1, 1 << 32, i64::MAX as u64] {
        let mut head = frame_head(FINAL | TEXT, length, true);
        head.extend_from_slice(b"mask");
        check_ends(&gateway, &head, &format!("{length} bytes announced"), 1009);
    }
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn small_messages_in_any_number_of_pieces_are_reassembled() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);
    let text = r#"{"arguments":{"text":"ünï 🙂"},"id":1}"#.as_bytes();

    for piece_bytes in [1, 2, 3, 7] {
        let mut pieces = text.chunks(piece_bytes).peekable();
        let mut first = TEXT;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { FINAL } else { 0 };
            socket.send_frame(first | last, piece);
            first = CONTINUATION;
        }
        socket.expect_complete("1", &json!({"text": "ünï 🙂"}));
    }
    // Empty pieces count for nothing.
    socket.send_frame(TEXT, b"");
    socket.send_frame(CONTINUATION, b"");
    socket.send_frame(CONTINUATION, text);
    socket.send_frame(FINAL | CONTINUATION, b"");
    socket.expect_complete("1", &json!({"text": "ünï 🙂"}));
    // A frame that comes byte by byte.
    for byte in frame(FINAL | TEXT, text) {
        socket.send_raw(&[byte], "a byte");
    }
    socket.expect_complete("1", &json!({"text": "ünï 🙂"}));
}

// --- control frames ---------------------------------------------------------------------------------------------

#[test]
fn a_ping_is_answered_with_its_payload() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);
    for payload in [&b""[..], b"hello", b"\x00\xff\xfe", &[b'x'; 125]] {
        socket.send_frame(FINAL | PING, payload);
        let frame = socket.frame();
        assert_eq!((frame.opcode, frame.payload.as_slice()), (PONG, payload), "{frame:?}");
    }
    // A pong nobody asked for is none of anybody's business.
    socket.send_frame(FINAL | PONG, b"unasked");
    socket.expect_open();
}

#[test]
fn a_control_frame_may_come_between_the_pieces_of_a_message() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);
    socket.send_frame(TEXT, br#"{"arguments":{},"#);
    socket.send_frame(FINAL | PING, b"in between");
    let pong = socket.frame();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b"in between"[..]), "{pong:?}");
    socket.send_frame(FINAL | PONG, b"");
    socket.send_frame(FINAL | CONTINUATION, br#""id":1}"#);
    socket.expect_complete("1", &json!({}));
}

#[test]
fn a_ping_during_a_call_is_answered() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
    socket.call("1", "{}");
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");
    socket.send_frame(FINAL | PING, b"still there?");
    let pong = socket.frame();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, &b"still there?"[..]), "{pong:?}");
}

// --- what breaks the protocol -----------------------------------------------------------------------------------

#[test]
fn frames_that_break_the_protocol_close_with_1002() {
    let gateway = Gateway::start(&[], Helper::new());
    let check = |bytes: &[u8], shown: &str| check_ends(&gateway, bytes, shown, 1002);
    let call = br#"{"arguments":{},"id":1}"#;

    let mut unmasked = frame_head(FINAL | TEXT, call.len() as u64, false);
    unmasked.extend_from_slice(call);
    check(&unmasked, "an unmasked frame");
    let mut unmasked_ping = frame_head(FINAL | PING, 2, false);
    unmasked_ping.extend_from_slice(b"hi");
    check(&unmasked_ping, "an unmasked ping");
    for reserved in [RESERVED_1, RESERVED_2, RESERVED_3] {
        check(&frame(FINAL | reserved | TEXT, call), "a reserved bit");
        check(&frame(FINAL | reserved | PING, b""), "a reserved bit in a ping");
    }
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        check(&frame(FINAL | opcode, b""), "an unknown opcode");
        check(&frame(FINAL | opcode, b"with payload"), "an unknown opcode with payload");
    }
    check(&frame(PING, b"half"), "a ping in pieces");
    check(&frame(PONG, b"half"), "a pong in pieces");
    check(&frame(CLOSE, &1000_u16.to_be_bytes()), "a close in pieces");
    check(&frame(FINAL | PING, &[b'x'; 126]), "a ping of 126 bytes");
    check(&frame(FINAL | PONG, &[b'x'; 126]), "a pong of 126 bytes");
    check(&frame(FINAL | CONTINUATION, call), "a continuation of nothing");
    check(&frame(CONTINUATION, call), "a continuation of nothing, to be continued");
    let mut two = frame(TEXT, call);
    two.extend(frame(FINAL | TEXT, call));
    check(&two, "a second message within the first");
}

#[test]
fn text_that_is_not_utf_8_closes_with_1007() {
    let gateway = Gateway::start(&[], Helper::new());
    let check = |payload: &[u8]| {
        check_ends(&gateway, &frame(FINAL | TEXT, payload), &format!("{payload:x?}"), 1007);
        // The same in two pieces, cut within the offending bytes.
        let middle = payload.len() - 1;
        let mut pieces = frame(TEXT, &payload[..middle]);
        pieces.extend(frame(FINAL | CONTINUATION, &payload[middle..]));
        check_ends(&gateway, &pieces, &format!("{payload:x?} in two pieces"), 1007);
    };
    check(b"{\"arguments\":{},\"id\":\"\xff\"}");
    check(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64");
    // A character that never ends, an overlong one, half a pair, and one beyond the last.
    check(b"\"\xf0\x9f\x99");
    check(b"\xc0\xaf");
    check(b"\xed\xa0\x80");
    check(b"\xf4\x90\x80\x80");
}

#[test]
fn a_close_is_echoed_and_the_connection_ends() {
    let gateway = Gateway::start(&[], Helper::new());
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let mut socket = open(&gateway);
        let mut payload = u16::to_be_bytes(code).to_vec();
        payload.extend_from_slice("tschüß".as_bytes());
        socket.send_frame(FINAL | CLOSE, &payload);
        socket.expect_close(Some(code));
    }
    let mut socket = open(&gateway);
    socket.send_frame(FINAL | CLOSE, &[&1000_u16.to_be_bytes()[..], &[b'x'; 123]].concat());
    socket.expect_close(Some(1000));
    // Nothing behind it is heard.
    let mut socket = open(&gateway);
    let mut bytes = frame(FINAL | CLOSE, &1000_u16.to_be_bytes());
    bytes.extend(frame(FINAL | TEXT, br#"{"id":1}"#));
    socket.send_raw(&bytes, "a close and a call behind it");
    assert_eq!(socket.expect_close(Some(1000)), [""; 0]);
}

#[test]
fn a_close_without_a_code_is_answered() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = open(&gateway);
    socket.send_frame(FINAL | CLOSE, b"");
    let close = socket.frame();
    assert_eq!(close.opcode, CLOSE, "{close:?}");
    assert!(close.payload.is_empty() || close.payload.starts_with(&1000_u16.to_be_bytes()), "{close:?}");
    assert_eq!(socket.connection.rest().unwrap(), b"");
}

#[test]
fn a_close_that_is_none_closes_with_1002() {
    let gateway = Gateway::start(&[], Helper::new());
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        check_ends(&gateway, &frame(FINAL | CLOSE, &u16::to_be_bytes(code)), &format!("a close with {code}"), 1002);
    }
    check_ends(&gateway, &frame(FINAL | CLOSE, b"x"), "a close with half a code", 1002);
    let long = [&1000_u16.to_be_bytes()[..], &[b'x'; 124]].concat();
    check_ends(&gateway, &frame(FINAL | CLOSE, &long), "a close of 126 bytes", 1002);
}

#[test]
fn a_close_whose_reason_is_not_utf_8_closes_with_1007() {
    let gateway = Gateway::start(&[], Helper::new());
    let payload = [&1000_u16.to_be_bytes()[..], b"\xff\xfe"].concat();
    check_ends(&gateway, &frame(FINAL | CLOSE, &payload), "a close with a broken reason", 1007);
}

#[test]
fn a_broken_frame_ends_the_calls_of_its_socket() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
    socket.call("1", "{}");
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");
    socket.send_frame(FINAL | 0x3, b"");
    socket.expect_close(Some(1002));
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
}

#[test]
fn half_a_frame_leaves_nothing_behind() {
    let gateway = Gateway::start(&[], Helper::new());
    let whole = frame(FINAL | TEXT, br#"{"arguments":{},"id":1}"#);
    for end in 0..whole.len() {
        open(&gateway).send_raw(&whole[..end], "half a frame");
    }
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
    gateway.call("echo", "{}").expect_status(200);
}
