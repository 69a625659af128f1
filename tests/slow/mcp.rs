//! What a table full of MCP sessions does when one more is wanted: it takes a minute of idleness to find out.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/mcp/client.rs"]
mod client;
#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/mcp/stream.rs"]
mod stream;

use self::client::{Opening, Session};
use crate::{
    numbers::Turn,
    support::{Gateway, Helper},
};

/// A session that was idle for so long makes room.
const IDLE: Duration = Duration::from_secs(60);

/// A busy machine needs its time.
const MARGIN: Duration = Duration::from_secs(5);

#[test]
fn a_full_table_lets_the_session_go_that_was_idle_longest_for_a_minute() {
    let Some(_turn) = Turn::of("mcp") else { return };
    let settings = [("SESSIONS_MAX", "4"), ("MCP_REQUEST_TIMEOUT", "300"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let ping = |session: &Session| session.send("p", "ping", json!({})).reply().status;

    // The oldest of all listens, the next one waits for an answer; both are in use.
    let listening = Session::open(&gateway);
    let standing = listening.get();
    let calling = Session::open(&gateway);
    let running = calling.call(1, "silent", json!({}));
    let idle_longest = Session::open(&gateway);
    let idle = Session::open(&gateway);
    let since = Instant::now();
    Opening::new().try_open(&gateway).expect_status(503);

    // It is the time itself that is waited for.
    thread::sleep((IDLE + MARGIN).saturating_sub(since.elapsed()));
    let fifth = Session::open(&gateway);
    assert_eq!(ping(&idle_longest), 404, "{}", gateway.framed_log());
    assert_eq!(ping(&fifth), 200);
    // The other idle one is next, and then there is nobody left.
    let sixth = Session::open(&gateway);
    assert_eq!((ping(&idle), ping(&sixth)), (404, 200), "{}", gateway.framed_log());
    Opening::new().try_open(&gateway).expect_status(503);
    assert_eq!((ping(&listening), ping(&calling)), (200, 200), "{}", gateway.framed_log());
    drop((standing, running));
    calling.delete().expect_status(204);
}
