//! Log levels: each session its own, and the server told what it has to send.

use serde_json::{Value, json};

use super::{
    ISOLATIONS,
    client::{Opening, Session},
    shared, start,
};

const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The log messages that a call of `log` with this level brings.
#[track_caller]
fn logged(session: &Session, level: &str) -> Vec<Value> {
    let messages = session.call(level, "log", json!({"n": 2, "level": level, "data": level})).messages();
    let (response, logs) = messages.split_last().unwrap();
    assert!(response["result"].is_object(), "{response}");
    logs.iter().map(|log| log["params"]["data"].clone()).collect()
}

#[track_caller]
fn set_level(session: &Session, level: &str) {
    assert_eq!(session.result("logging/setLevel", json!({"level": level})), json!({}));
}

#[test]
fn a_level_reaches_the_worker() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        assert_eq!(session.text("level", json!({})), "none");
        for level in LEVELS {
            set_level(&session, level);
            gateway.wait_until(level, || session.text("level", json!({})) == level);
        }
    }
}

#[test]
fn a_session_hears_what_is_of_its_level_or_above() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        assert_eq!(logged(&session, "debug"), ["debug", "debug"], "everything, until it says otherwise");
        set_level(&session, "warning");
        for (n, level) in LEVELS.into_iter().enumerate() {
            // An id is used once.
            let other = Opening::new().open(&gateway);
            set_level(&other, "warning");
            let expected = if n < 3 { vec![] } else { vec![level; 2] };
            assert_eq!(logged(&other, level), expected, "{level}");
        }
        assert_eq!(logged(&session, "error"), ["error", "error"]);
        assert!(logged(&session, "notice").is_empty());
    }
}

#[test]
fn the_level_of_one_session_is_not_that_of_another() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let (all, few) = (Session::open(&gateway), Session::open(&gateway));
        set_level(&all, "debug");
        set_level(&few, "error");
        assert_eq!(logged(&all, "debug"), ["debug", "debug"], "{isolation}");
        assert!(logged(&few, "debug").is_empty(), "{isolation}");
        assert_eq!(logged(&few, "alert"), ["alert", "alert"], "{isolation}");
        // In the other order, too.
        set_level(&all, "info");
        assert!(logged(&few, "warning").is_empty(), "{isolation}");
        assert_eq!(logged(&all, "info"), ["info", "info"], "{isolation}");
    }
}

#[test]
fn a_level_that_there_is_not_is_refused() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for params in [json!({"level": "loud"}), json!({"level": "INFO"}), json!({"level": 3}), json!({})] {
        assert_eq!(session.error("logging/setLevel", params.clone())["code"], -32602, "{params}");
    }
    assert_eq!(session.text("level", json!({})), "none");
}

#[test]
fn a_server_without_logging_has_no_levels() {
    let gateway = shared(&["--capabilities", r#"{"tools":{}}"#]);
    let session = Session::open(&gateway);
    assert_eq!(session.error("logging/setLevel", json!({"level": "info"}))["code"], -32601);
}

#[test]
fn the_level_survives_the_worker() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        set_level(&session, "error");
        session.call(1, "crash", json!({})).error();
        gateway.wait_until("a worker", || session.response("tools/call", json!({"name": "pid"}))["result"].is_object());
        assert!(logged(&session, "info").is_empty(), "{isolation}");
        assert_eq!(logged(&session, "critical"), ["critical", "critical"], "{isolation}");
    }
}
