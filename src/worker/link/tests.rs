//! What a link writes into the pipe, and what it has in flight then.

use std::io::Read as _;

use super::{writing::DIRECT_CALLS_MAX, *};
use crate::worker::{Terms, Waiter, testing};

/// A link, the pipe that its lines come out of, and its inbox.
fn link(era: Era) -> (Arc<Link>, io::PipeReader, crossbeam_channel::Receiver<Event>) {
    let (reader, writer) = io::pipe().unwrap();
    let (inbox, events) = crossbeam_channel::bounded(4);
    (Link::new("s-1".into(), era, writer.into(), inbox).unwrap(), reader, events)
}

fn call(log_level: Option<&'static str>) -> Arc<Call> {
    let (line, habits) = ("somebody".into(), Arc::default());
    let terms = Terms { line, may_repeat: false, habits, log_level, takes_input_requests: false };
    Call::new(Request::plain("m", None), Some(terms), Waiter::Result(Arc::default()), 0)
}

/// Id, method and what else tells it from others, of each line that was written since the last time.
fn said(reader: &mut io::PipeReader) -> Vec<String> {
    let mut bytes = vec![0; 64 * 1024];
    let n = reader.read(&mut bytes).unwrap();
    let line = |line: &[u8]| {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        let params = &line["params"];
        let details = [&params["uri"], &params["level"], &params["requestId"], &params["notifications"]];
        let words = [&line["id"], &line["method"]].into_iter().chain(details).filter(|it| !it.is_null());
        words.map(|it| it.as_str().map_or(it.to_string(), ToOwned::to_owned)).collect::<Vec<_>>().join(" ")
    };
    bytes[..n].split(|byte| *byte == b'\n').filter(|it| !it.is_empty()).map(line).collect()
}

#[test]
fn no_call_is_the_only_one_while_the_server_may_still_speak_for_a_cancelled_one() {
    let (link, mut reader, _events) = link(Era::Legacy);
    let (stays, goes) = (call(None), call(None));
    assert!([&stays, &goes].into_iter().all(|call| link.send(call) == Sent::Yes));
    assert!(link.only_call().is_none(), "one of two");
    assert!(link.cancel(&goes, "enough"));
    assert!(link.only_call().is_none(), "it may not have read that");
    let said = said(&mut reader);
    let (ping, "ping") = said.last().unwrap().split_once(' ').unwrap() else { panic!("{said:?}") };
    assert!(matches!(link.answer(ping.parse().unwrap()), Found::Call(_)));
    assert!(Arc::ptr_eq(&link.only_call().unwrap(), &stays));
}

#[test]
fn a_worker_that_ends_with_lines_left_to_it_leaves_nothing_behind() {
    let (link, _reader, events) = link(Era::Legacy);
    for _ in 0..=DIRECT_CALLS_MAX {
        assert_eq!(link.send(&call(None)), Sent::Yes);
    }
    assert_eq!(events.len(), 1, "the last line is left to the worker's thread");
    drop(link.close());
    drop(events);
    let left = Arc::downgrade(&link);
    drop(link);
    assert_eq!(left.strong_count(), 0);
}

#[test]
fn who_brings_several_calls_writes_them_together() {
    let (link, mut reader, events) = link(Era::Legacy);
    gathering::start();
    for _ in 0..3 {
        assert_eq!(link.send(&call(None)), Sent::Yes);
    }
    assert!(link.lock().outbox.len() > 2, "nothing is written yet");
    gathering::write();
    assert_eq!(said(&mut reader), ["1 m", "2 m", "3 m"]);
    // By whoever writes first.
    link.send(&call(None));
    link.ping();
    assert_eq!(said(&mut reader), ["4 m", "5 ping"]);
    gathering::write();
    assert_eq!(events.len(), 0, "nothing is left to the worker's thread");

    link.send(&call(None));
    gathering::stop();
    assert_eq!(said(&mut reader), ["6 m"]);
    link.answer(6);
    link.answer(4);
    link.send(&call(None));
    assert_eq!(said(&mut reader), ["7 m"], "at once");
    gathering::start();
    link.send(&call(None));
    drop(link.close());
    gathering::stop();
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0, "a closed link is left alone");
}

#[test]
fn what_a_full_pipe_leaves_of_calls_that_were_gathered_is_left_to_the_workers_thread() {
    let (link, mut reader, events) = link(Era::Legacy);
    gathering::start();
    let params = format!(r#"{{"x":"{}"}}"#, "x".repeat(300_000));
    let (line, habits) = ("somebody".into(), Arc::default());
    let terms = Terms { line, may_repeat: false, habits, log_level: None, takes_input_requests: false };
    let request = Request::plain("m", Some(&params));
    link.send(&Call::new(request, Some(terms), Waiter::Result(Arc::default()), 0));
    gathering::stop();
    assert_eq!(events.len(), 1);
    let mut n_bytes = 0;
    while n_bytes < 300_000 {
        n_bytes += reader.read(&mut vec![0; 1 << 20]).unwrap();
        link.resume();
    }
}

#[test]
fn a_level_of_log_lines_is_set_before_a_call_that_wants_another_one() {
    let (link, mut reader, _events) = link(Era::Legacy);
    link.send(&call(Some("info")));
    assert_eq!(said(&mut reader), ["1 m"], "the server has not said yet that it can be told");
    link.answer(1);
    link.meet(&testing::info(Era::Legacy, r#"{"logging":{}}"#));
    for level in [Some("info"), Some("info"), None, Some("error")] {
        link.send(&call(level));
    }
    let expected =
        ["2 logging/setLevel info", "3 m", "4 m", "5 m", "6 logging/setLevel error", "7 m"].map(str::to_owned);
    assert_eq!(said(&mut reader), expected);
    assert!(matches!(link.answer(2), Found::Call(call) if call.as_unattended() == Some("logging/setLevel")));
    assert!(link.only_call().is_none() && link.close().iter().filter(|call| call.has_place()).count() == 4);
}

#[test]
fn a_legacy_server_is_told_of_each_subscription_and_its_end() {
    let (link, mut reader, _events) = link(Era::Legacy);
    link.meet(&testing::info(Era::Legacy, r#"{"tools":{"listChanged":true}}"#));
    link.subscribe("a");
    link.unsubscribe("a");
    assert_eq!(said(&mut reader), ["1 resources/subscribe a", "2 resources/unsubscribe a"]);
    assert!(link.only_call().is_none(), "these are no calls of a client");
}

#[test]
fn a_modern_server_is_listened_to_with_a_request_for_each_resource() {
    let (link, mut reader, _events) = link(Era::Modern);
    link.meet(&testing::info(Era::Modern, r#"{"tools":{"listChanged":true}}"#));
    link.subscribe("a");
    link.subscribe("a");
    link.unsubscribe("a");
    link.unsubscribe("b");
    let expected = [
        r#"1 subscriptions/listen {"toolsListChanged":true}"#,
        r#"2 subscriptions/listen {"resourceSubscriptions":["a"]}"#,
        "notifications/cancelled 2",
    ];
    assert_eq!(said(&mut reader), expected);
    assert!(matches!(link.answer(2), Found::Late { counts: false }));
    assert_eq!(link.late_answers(), 0, "nobody waited for it");
}

#[test]
fn what_a_server_has_ended_is_listened_to_again_with_the_next_subscription() {
    let (link, mut reader, _events) = link(Era::Modern);
    link.meet(&testing::info(Era::Modern, r#"{"tools":{"listChanged":true}}"#));
    link.subscribe("a");
    said(&mut reader);
    assert!(matches!(link.answer(1), Found::Call(_)));
    assert!(link.stop_listening(2) && !link.stop_listening(2));
    link.subscribe("a");
    let expected = [
        r#"3 subscriptions/listen {"toolsListChanged":true}"#,
        r#"4 subscriptions/listen {"resourceSubscriptions":["a"]}"#,
    ];
    assert_eq!(said(&mut reader), expected);
}

#[test]
fn a_modern_server_is_pinged_with_a_request_it_knows_and_its_log_level_is_left_alone() {
    let (link, mut reader, _events) = link(Era::Modern);
    link.meet(&testing::info(Era::Modern, r#"{"logging":{}}"#));
    let call = call(Some("info"));
    link.ping();
    link.send(&call);
    link.cancel(&call, "x");
    assert_eq!(said(&mut reader), ["1 server/discover", "2 m", "notifications/cancelled 2", "3 server/discover"]);
}
