//! Streams that outlive their connection: what a client missed is told again, once and in order.

use serde_json::{Value, json};

use super::{
    client::{Opening, Session, check_error},
    open_gate, progress_of, shared, start,
    stream::{Event, Stream},
    text_of,
};
use crate::support::Gateway;

/// A call that takes so many gated steps and then answers behind the gate too; its stream, behind the first step.
#[track_caller]
fn gated(session: &Session, n: u32) -> (Stream, Event) {
    let posted = session.follow("g", "t", "stream", json!({"n": n, "gate": "each"}));
    open_gate(session.gateway);
    let mut stream = posted.stream();
    let event = stream.told();
    assert!(event.raw.contains("step 1"), "{event:?}");
    (stream, event)
}

/// The id of an event, which has one.
#[track_caller]
fn id_of(event: &Event) -> &str {
    event.id.as_deref().unwrap_or_else(|| panic!("no id: {event:?}"))
}

/// Everything up to the end: these steps, and the response to `gated`.
#[track_caller]
fn check_rest(mut stream: Stream, steps: &[u32]) {
    let messages = stream.rest();
    let expected: Vec<String> = steps.iter().map(|step| format!("step {step}")).collect();
    assert_eq!(progress_of(&messages), expected, "{messages:#?}");
    assert_eq!(messages.len(), expected.len() + 1, "{messages:#?}");
    let response = messages.last().unwrap();
    assert_eq!((&response["id"], text_of(response)), (&json!("g"), "done"));
}

/// A session that is subscribed to `helper://item/1` and so on.
#[track_caller]
fn subscribed(gateway: &Gateway) -> Session<'_> {
    let session = Session::open(gateway);
    for n in 1..=9 {
        session.result("resources/subscribe", json!({"uri": uri(n)}));
    }
    session
}

fn uri(n: u32) -> String {
    format!("helper://item/{n}")
}

#[track_caller]
fn update(gateway: &Gateway, n: u32) {
    gateway.call("update", &json!({"uri": uri(n)}).to_string()).expect_status(200);
}

/// The next message says that these were updated, in this order.
#[track_caller]
fn expect_updates(stream: &mut Stream, numbers: &[u32]) {
    for n in numbers {
        assert_eq!(stream.expect("notifications/resources/updated")["params"]["uri"], uri(*n));
    }
}

#[test]
fn a_stream_that_is_cut_goes_on_behind_the_last_event() {
    let gateway = shared(&[]);
    for revision in ["2025-11-25", "2025-06-18"] {
        let session = Opening::new().revision(revision).open(&gateway);
        let (stream, first) = gated(&session, 4);
        drop(stream);
        // While nobody listens.
        open_gate(&gateway);
        open_gate(&gateway);
        let mut resumed = session.resume(id_of(&first));
        assert!(resumed.told().raw.contains("step 2"));
        assert!(resumed.told().raw.contains("step 3"));
        // And what happens from now on.
        open_gate(&gateway);
        open_gate(&gateway);
        check_rest(resumed, &[4]);
    }
}

#[test]
fn a_stream_can_be_cut_again_and_again() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let (mut stream, mut last) = gated(&session, 20);
    for step in 2..=20 {
        // Before and after the step, in turn.
        if step % 2 == 0 {
            drop(stream);
            open_gate(&gateway);
            stream = session.resume(id_of(&last));
        } else {
            drop(stream);
            stream = session.resume(id_of(&last));
            open_gate(&gateway);
        }
        last = stream.told();
        assert!(last.raw.contains(&format!("\"step {step}\"")), "{last:?}");
    }
    drop(stream);
    open_gate(&gateway);
    assert_eq!(text_of(&session.resume(id_of(&last)).response("g")), "done");
}

#[test]
fn ids_go_on_across_a_cut() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let (stream, first) = gated(&session, 3);
    drop(stream);
    (0..3).for_each(|_| open_gate(&gateway));
    let mut resumed = session.resume(id_of(&first));
    let events: Vec<Event> = std::iter::from_fn(|| resumed.next()).collect();
    let split = |event: &Event| {
        let (stream, number) = id_of(event).split_once('-').expect("STREAM-NUMBER");
        (stream.to_owned(), number.parse::<u64>().expect("a number"))
    };
    let numbers: Vec<(String, u64)> = std::iter::once(&first).chain(&events).map(split).collect();
    assert!(numbers.iter().all(|it| it.0 == numbers[0].0), "{numbers:?}");
    assert!(numbers.is_sorted_by(|before, after| before.1 < after.1), "{numbers:?}");
}

#[test]
fn a_client_that_comes_back_takes_over_from_its_old_connection() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let (mut old, first) = gated(&session, 3);
    let resumed = session.resume(id_of(&first));
    (0..3).for_each(|_| open_gate(&gateway));
    check_rest(resumed, &[2, 3]);
    // Nothing is told twice, and nobody waits for the old one.
    while let Ok(Some(event)) = old.try_next() {
        assert!(event.raw.is_empty(), "told twice: {event:?}");
    }
}

#[test]
fn what_was_told_before_the_first_event_came_is_told_again_to_who_knows_the_priming_one() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let posted = session.follow("g", "t", "stream", json!({"n": 2, "gate": "each"}));
    open_gate(&gateway);
    let mut stream = posted.stream();
    let priming = stream.event();
    assert!(priming.raw.is_empty(), "{priming:?}");
    drop(stream);
    (0..2).for_each(|_| open_gate(&gateway));
    check_rest(session.resume(id_of(&priming)), &[1, 2]);
}

#[test]
fn a_stream_that_has_ended_is_told_again_from_any_event() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let mut stream = session.follow("g", "t", "progress", json!({"n": 3})).stream();
    let events: Vec<Event> = std::iter::from_fn(|| stream.next()).filter(|event| !event.raw.is_empty()).collect();
    assert_eq!(events.len(), 4);
    for (event, missed) in events.iter().zip([&[2, 3][..], &[3], &[]]) {
        // As often as it is asked for.
        for _ in 0..2 {
            check_rest(session.resume(id_of(event)), missed);
        }
    }
    // Behind the response there is nothing.
    session.resume(id_of(&events[3])).end();
}

#[test]
fn an_answer_whose_client_is_gone_waits_for_it() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let (stream, first) = gated(&session, 1);
    drop(stream);
    open_gate(&gateway);
    gateway.wait_until("the end of the call", || super::in_flight(&gateway) == 0);
    check_rest(session.resume(id_of(&first)), &[]);
}

#[test]
fn streams_of_a_session_are_resumed_each_by_itself() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let begin = |name: &str| {
        let arguments = json!({"n": 1, "gate": "end", "value": name});
        let mut stream = session.follow(name, name, "stream", arguments).stream();
        let first = stream.told();
        assert!(first.raw.contains(name), "{first:?}");
        first
    };
    let (a, b) = (begin("a"), begin("b"));
    (0..2).for_each(|_| open_gate(&gateway));
    assert_eq!(text_of(&session.resume(id_of(&b)).response("b")), "done");
    assert_eq!(text_of(&session.resume(id_of(&a)).response("a")), "done");
}

#[test]
fn the_standalone_stream_loses_nothing_when_it_is_cut() {
    let gateway = shared(&[]);
    let session = subscribed(&gateway);
    let mut stream = session.get();
    update(&gateway, 1);
    let first = stream.told();
    assert!(id_of(&first).starts_with("0-"), "the stream 0: {first:?}");
    drop(stream);
    // Some of it may still be sent into the cut connection.
    for n in [2, 3, 4] {
        update(&gateway, n);
    }
    let mut resumed = session.resume(id_of(&first));
    expect_updates(&mut resumed, &[2, 3, 4]);
    update(&gateway, 5);
    expect_updates(&mut resumed, &[5]);
}

#[test]
fn the_standalone_stream_is_taken_over_while_its_old_connection_is_open() {
    let gateway = shared(&[]);
    let session = subscribed(&gateway);
    let mut old = session.get();
    for n in [1, 2, 3] {
        update(&gateway, n);
    }
    let first = old.told();
    let mut resumed = session.resume(id_of(&first));
    expect_updates(&mut resumed, &[2, 3]);
    update(&gateway, 4);
    expect_updates(&mut resumed, &[4]);
    let late: Vec<Event> = std::iter::from_fn(|| old.try_next().ok().flatten()).collect();
    assert!(late.iter().all(|event| !event.raw.contains(&uri(4))), "told twice: {late:#?}");
}

#[test]
fn an_event_nobody_knows_cannot_be_resumed_from() {
    let gateway = shared(&[]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    let mut stream = session.follow(1, "t", "progress", json!({"n": 1})).stream();
    let known = stream.told();
    let (number, _) = id_of(&known).split_once('-').unwrap();
    let too_new = format!("{number}-999999");
    for id in ["abc", "1", "-", "1-", "-1", "a-b", "999-1", "0-999999", "1-1-1", "99999999999999999999-1", &too_new] {
        check_error(&session.try_get(Some(id)).reply(), 400, -32600, None);
    }
    // Ids are those of one session.
    check_error(&other.try_get(Some(id_of(&known))).reply(), 400, -32600, None);
    assert_eq!(session.resume(id_of(&known)).rest().len(), 1);
}

#[test]
fn an_event_from_too_long_ago_cannot_be_resumed_from() {
    let gateway = start("shared", &[], &[("STREAM_QUEUE_BYTES", "64k")]);
    let session = Session::open(&gateway);
    let uri = format!("helper://item/{}", "x".repeat(10_000));
    session.result("resources/subscribe", json!({"uri": uri}));
    let mut stream = session.get();
    let events: Vec<Event> = (0..200)
        .map(|_| {
            session.text("update", json!({"uri": uri}));
            stream.told()
        })
        .collect();
    // It has told 2 MB, of which not much more than 64 kB are kept.
    check_error(&session.try_get(Some(id_of(&events[0]))).reply(), 400, -32600, None);
    let mut resumed = session.resume(id_of(&events[198]));
    assert_eq!(resumed.told().id, events[199].id);
}

#[test]
fn a_resumed_stream_belongs_to_its_session() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let (stream, first) = gated(&session, 1);
    drop(stream);
    let mut resumed = session.resume(id_of(&first));
    session.delete().expect_status(204);
    resumed.end();
}

#[test]
fn who_has_come_back_may_think_about_a_question_for_longer_than_a_server_may_be_silent() {
    let gateway = start("shared", &[], &[("MCP_REQUEST_TIMEOUT", "0.5"), ("SSE_KEEP_ALIVE", "0.1")]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let asked = stream.told();
    let question: Value = serde_json::from_str(&asked.raw).unwrap();
    let mut resumed = session.resume(id_of(&asked));
    // The signs of life are the clock: more than a second has passed.
    resumed.expect_comments(12);
    session.respond(&question, json!({"action": "accept"}));
    assert!(text_of(&resumed.response(1)).contains("accept"));
}
