//! `/metrics`: that it says what happened, agrees with `/stats`, and is written as Prometheus reads it.

use std::thread;

use serde_json::{Value, json};

use crate::{
    mcp::client::Session,
    sse::client::EventStream,
    support::{Folder, Gateway, Helper, KEY, Launch, Reply, Server},
    ws::client::Socket,
};

/// One worker that takes one call at a time.
const ONE_AT_A_TIME: [(&str, &str); 3] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "1")];

/// What `/metrics` says.
struct Metrics(String);

impl Metrics {
    #[track_caller]
    fn of(gateway: &Gateway) -> Metrics {
        let reply = gateway.get("/metrics");
        reply.expect_status(200).expect_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
        Metrics(reply.text())
    }

    /// The value of a sample, which is named with its labels.
    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("there is no `{sample}` in\n{}", self.0))
    }

    fn find(&self, sample: &str) -> Option<f64> {
        let mut lines = self.0.lines().filter_map(|line| line.rsplit_once(' '));
        lines.find(|(name, _)| *name == sample).and_then(|(_, value)| value.parse().ok())
    }

    /// The buckets of a histogram; `labels` are those besides the bound.
    fn buckets(&self, name: &str, labels: &str) -> Vec<f64> {
        let is_bucket = |it: &str| it.starts_with(&format!("{name}_bucket{{")) && it.contains(labels);
        let lines = self.0.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(it, _)| is_bucket(it));
        lines.map(|(_, value)| value.parse().unwrap()).collect()
    }
}

/// Waits until a sample has this value.
#[track_caller]
fn wait_for(gateway: &Gateway, sample: &str, expected: f64) {
    gateway.wait_until(&format!("{sample} {expected}"), || Metrics::of(gateway).find(sample) == Some(expected));
}

#[test]
fn figures_agree_with_stats_after_a_known_load() {
    let gateway = Gateway::start(&[], Helper::new());
    for _ in 0..7 {
        gateway.call("echo", "{}").expect_status(200);
    }
    gateway.call("error", "{}").expect_status(422);
    gateway.call("error", "{}").expect_status(422);
    gateway.call("rpc_error", "{}").expect_status(502);
    gateway.post("/tools/silent", r#"{"timeout":0.05}"#).expect_status(504);
    gateway.call("no_such_tool", "{}").expect_status(404);
    EventStream::open(&gateway, "echo", "{}").rest();
    Session::open(&gateway).call(1, "echo", json!({})).reply();

    let (metrics, stats) = (Metrics::of(&gateway), gateway.stats());
    let calls = |tool: &str, code: &str| {
        let sample = format!(r#"mcpgate_tool_calls_total{{server="helper",tool="{tool}",code="{code}"}}"#);
        metrics.value(&sample)
    };
    assert_eq!((calls("echo", "ok"), calls("error", "ok"), calls("error", "tool_error")), (9.0, 0.0, 2.0));
    assert_eq!((calls("rpc_error", "worker_error"), calls("silent", "timeout")), (1.0, 1.0));
    for tool in ["echo", "error", "rpc_error", "silent"] {
        let figures = &stats["tools"][tool];
        let labels = format!(r#"{{server="helper",tool="{tool}"}}"#);
        let count = metrics.value(&format!("mcpgate_tool_call_duration_seconds_count{labels}"));
        assert_eq!(json!(count), json!(figures["calls"].as_f64()), "{tool}: {figures}");
        for (code, n) in figures["errors_by_code"].as_object().unwrap() {
            assert_eq!(json!(calls(tool, code)), json!(n.as_f64()), "{tool} {code}");
        }
    }
    assert_eq!(
        metrics.find(r#"mcpgate_tool_calls_total{server="helper",tool="delay",code="ok"}"#),
        None,
        "never called"
    );
    for (sample, stat) in [
        ("mcpgate_calls_total", &stats["totals"]["calls"]),
        ("mcpgate_call_errors_total", &stats["totals"]["errors"]),
        (r#"mcpgate_key_calls_total{key="api_key"}"#, &stats["keys"]["api_key"]["calls"]),
        (r#"mcpgate_key_errors_total{key="api_key"}"#, &stats["keys"]["api_key"]["errors"]),
        ("mcpgate_connections_max", &stats["connections"]["max"]),
        (r#"mcpgate_workers_min{server="helper"}"#, &stats["servers"]["helper"]["pool"]["min"]),
        (r#"mcpgate_workers_max{server="helper"}"#, &stats["servers"]["helper"]["pool"]["max"]),
    ] {
        assert_eq!(json!(metrics.value(sample)), json!(stat.as_f64()), "{sample}");
    }
    assert_eq!(metrics.value("mcpgate_call_errors_total"), 5.0, "the one that there is no tool for included");
    assert_eq!(metrics.value(r#"mcpgate_server_status{server="helper",status="healthy"}"#), 1.0);
    assert_eq!(metrics.value(r#"mcpgate_breaker_state{server="helper",state="closed"}"#), 1.0);
    let workers = stats["servers"]["helper"]["workers"].as_array().unwrap();
    for worker in workers {
        let labels = format!(r#"{{server="helper",worker={}}}"#, worker["id"]);
        let rss_bytes = metrics.value(&format!("mcpgate_worker_resident_memory_bytes{labels}"));
        assert!(100_000.0 < rss_bytes && metrics.find(&format!("mcpgate_worker_cpu_seconds_total{labels}")).is_some());
    }
}

#[test]
fn a_histogram_holds_every_call_and_only_grows() {
    let gateway = Gateway::start(&[], Helper::new());
    let labels = r#"server="helper",tool="delay""#;
    let name = "mcpgate_tool_call_duration_seconds";
    let mut before = vec![0.0; 17];
    let mut sum_before = 0.0;
    for ms in [0, 30, 120] {
        gateway.call("delay", &format!(r#"{{"ms":{ms}}}"#)).expect_status(200);
        let metrics = Metrics::of(&gateway);
        let buckets = metrics.buckets(name, labels);
        assert_eq!(buckets.len(), 17, "{}", metrics.0);
        assert!(buckets.is_sorted(), "each holds the one before: {buckets:?}");
        assert!(before.iter().zip(&buckets).all(|(before, after)| before <= after), "{before:?}, then {buckets:?}");
        let sum = metrics.value(&format!("{name}_sum{{{labels}}}"));
        assert!(sum_before + f64::from(ms) / 1000.0 <= sum, "{sum_before}, then {sum}");
        (before, sum_before) = (buckets, sum);
    }
    let up_to_100_ms = before[7];
    assert!(before[16] == 3.0 && up_to_100_ms <= 2.0, "{before:?}");
}

#[test]
fn it_is_written_in_the_format_that_is_asked_for_and_needs_a_key() {
    let gateway = Gateway::start(&[], Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    let ask = |headers: &[(&str, &str)]| gateway.request("GET", "/metrics", headers, b"");
    ask(&[]).expect_error(401, "unauthorized", "has no API key");
    let bearer = format!("Bearer {KEY}");
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let reply = ask(&[("Authorization", &bearer), ("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")]);
    reply.expect_status(200).expect_header("Content-Type", open_metrics);
    let text = reply.text();
    assert!(
        text.ends_with("\n# EOF\n") && text.contains("\n# TYPE mcpgate_calls counter\nmcpgate_calls_total "),
        "{text}"
    );
    assert!(text.contains("\n# UNIT mcpgate_tool_call_duration_seconds seconds\n"), "{text}");

    let classic = Metrics::of(&gateway).0;
    assert!(!classic.contains("# EOF") && !classic.contains("# UNIT"), "{classic}");
    assert!(classic.contains("\n# TYPE mcpgate_calls_total counter\nmcpgate_calls_total "), "{classic}");
    // Every sample stands below its own family, once.
    let mut seen = std::collections::BTreeSet::new();
    let mut family = "";
    for line in classic.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
        } else if !line.starts_with('#') {
            assert!(line.starts_with(family) && seen.insert(line.rsplit_once(' ').unwrap().0), "{family}: {line}");
        }
    }
    gateway.post("/metrics", "").expect_error(405, "method_not_allowed", "/metrics");
}

#[test]
fn a_key_for_no_tool_sees_everything_but_other_keys() {
    let folder = Folder::new();
    let file = folder.path().join("keys.json").display().to_string();
    let command = Launch::new(Server::FromSettings);
    let made = command.arguments(&["key", "new", "watcher", "--tools", "none", "--file", &file]).run();
    let key = made.stdout.trim();
    let gateway = Gateway::start(&[("API_KEYS_FILE", &file)], Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    let ask = |method: &str, path: &str| gateway.request(method, path, &[("X-API-Key", key)], b"");
    ask("POST", "/tools/echo").expect_error(403, "forbidden", "watcher");
    let metrics = Metrics(ask("GET", "/metrics").expect_status(200).text());
    assert_eq!(metrics.value(r#"mcpgate_tool_calls_total{server="helper",tool="echo",code="ok"}"#), 1.0);
    assert_eq!(metrics.find(r#"mcpgate_key_calls_total{key="api_key"}"#), None);
    assert_eq!(metrics.value(r#"mcpgate_key_calls_total{key="watcher"}"#), 1.0);
    assert_eq!(Metrics::of(&gateway).value(r#"mcpgate_key_calls_total{key="api_key"}"#), 1.0);
}

#[test]
fn calls_that_wait_are_counted_while_they_do_and_timed_when_they_get_a_worker() {
    let gateway = Gateway::start(&ONE_AT_A_TIME, Helper::new());
    thread::scope(|scope| {
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| gateway.call("delay", r#"{"ms":300}"#))).collect();
        wait_for(&gateway, r#"mcpgate_calls_queued{server="helper"}"#, 2.0);
        assert_eq!(Metrics::of(&gateway).value(r#"mcpgate_calls_in_flight{server="helper"}"#), 1.0);
        assert_eq!(Metrics::of(&gateway).value(r#"mcpgate_workers{server="helper",state="busy"}"#), 1.0);
        for call in calls {
            call.join().unwrap().expect_status(200);
        }
    });
    let metrics = Metrics::of(&gateway);
    assert_eq!(metrics.value(r#"mcpgate_queue_wait_seconds_count{server="helper"}"#), 2.0, "the first had not to wait");
    let sum = metrics.value(r#"mcpgate_queue_wait_seconds_sum{server="helper"}"#);
    assert!((0.3..30.0).contains(&sum), "{sum}");
    assert_eq!(metrics.value(r#"mcpgate_calls_queued{server="helper"}"#), 0.0);
    gateway.call("delay", r#"{"ms":0}"#).expect_status(200);
    let labels = r#"{server="helper"}"#;
    assert_eq!(Metrics::of(&gateway).value(&format!("mcpgate_queue_wait_seconds_count{labels}")), 2.0);
}

#[test]
fn what_becomes_of_workers_is_counted_and_not_forgotten() {
    let gateway = Gateway::start(
        &[("MIN_WORKERS", "1"), ("MAX_WORKERS", "2"), ("WORKER_CONCURRENCY", "1"), ("SCALE_DOWN_AFTER", "0.2")],
        Helper::new(),
    );
    let of_server = |name: &str| format!("mcpgate_{name}{{server=\"helper\"}}");
    let direction = |word: &str| format!("mcpgate_scale_events_total{{server=\"helper\",direction=\"{word}\"}}");
    assert_eq!(Metrics::of(&gateway).value(&of_server("worker_starts_total")), 1.0);
    gateway.call("crash", "{}").expect_error(502, "worker_crashed", "");
    wait_for(&gateway, &of_server("worker_deaths_total"), 1.0);
    wait_for(&gateway, &of_server("worker_restarts_total"), 1.0);
    gateway.wait_until("a worker again", || gateway.usable_workers() == 1);

    gateway.post("/tools/delay", r#"{"arguments":{"ms":150,"late":true},"timeout":0.05}"#).expect_status(504);
    wait_for(&gateway, &of_server("late_answers_total"), 1.0);

    thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| gateway.call("delay", r#"{"ms":300}"#).expect_status(200).status)));
    });
    wait_for(&gateway, &direction("down"), 1.0);
    let metrics = Metrics::of(&gateway);
    assert_eq!(metrics.value(&direction("up")), 1.0);
    assert_eq!(metrics.value(&of_server("worker_deaths_total")), 1.0, "one that was stopped has not died");
    gateway.wait_until("one worker", || gateway.worker_pids().len() == 1);
    let metrics = Metrics::of(&gateway);
    assert_eq!(metrics.value(&of_server("late_answers_total")), 1.0, "also when its worker is gone");
    assert_eq!(metrics.value(&of_server("worker_restarts_total")), 1.0);
}

#[test]
fn an_open_breaker_is_seen_and_counted() {
    let settings = [("BREAKER_FAILURES", "2"), ("BREAKER_COOLDOWN", "60"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Launch::new(Helper::with(&["--exit-at-start", "3"])).set_all(&settings).start_without_waiting();
    wait_for(&gateway, r#"mcpgate_breaker_state{server="helper",state="open"}"#, 1.0);
    let metrics = Metrics::of(&gateway);
    assert_eq!(metrics.value(r#"mcpgate_breaker_opened_total{server="helper"}"#), 1.0);
    assert_eq!(metrics.value(r#"mcpgate_breaker_state{server="helper",state="closed"}"#), 0.0);
    assert_eq!(metrics.value(r#"mcpgate_server_status{server="helper",status="unhealthy"}"#), 1.0);
    assert_eq!(metrics.value(r#"mcpgate_worker_deaths_total{server="helper"}"#), 2.0);
}

#[test]
fn streams_sockets_and_sessions_are_counted_while_they_are_open() {
    let gateway = Gateway::start(&[], Helper::new());
    let open = ["mcpgate_event_streams", "mcpgate_websockets", "mcpgate_mcp_sessions"];
    assert!(open.iter().all(|sample| Metrics::of(&gateway).value(sample) == 0.0));
    let stream = EventStream::open(&gateway, "silent", "{}");
    let socket = Socket::open(&gateway, "/ws");
    let session = Session::open(&gateway);
    open.iter().for_each(|sample| wait_for(&gateway, sample, 1.0));
    // These two, and the one that asks; those that asked before may still be closing.
    wait_for(&gateway, "mcpgate_connections", 3.0);
    drop((stream, socket));
    session.delete();
    open.iter().for_each(|sample| wait_for(&gateway, sample, 0.0));
    wait_for(&gateway, r#"mcpgate_http_requests_total{status="1xx"}"#, 1.0);
}

#[test]
fn requests_and_bytes_are_counted() {
    let gateway = Gateway::start(&[], Helper::new());
    let class =
        |metrics: &Metrics, word: &str| metrics.value(&format!("mcpgate_http_requests_total{{status=\"{word}\"}}"));
    let before = Metrics::of(&gateway);
    let argument = "x".repeat(100_000);
    let reply: Reply = gateway.call("echo", &format!(r#"{{"a":"{argument}"}}"#));
    reply.expect_status(200);
    gateway.get("/nothing").expect_status(404);
    gateway.post("/tools/echo", "[").expect_status(400);
    let mut gone = gateway.connect();
    gone.send("POST", "/tools/silent", &[("X-API-Key", KEY)], b"{}").unwrap();
    wait_for(&gateway, r#"mcpgate_calls_in_flight{server="helper"}"#, 1.0);
    drop(gone);
    wait_for(&gateway, r#"mcpgate_http_requests_total{status="none"}"#, 1.0);
    let after = Metrics::of(&gateway);
    assert_eq!(class(&after, "4xx") - class(&before, "4xx"), 2.0);
    assert!(1.0 <= class(&after, "2xx") - class(&before, "2xx"));
    let grown = |name: &str| after.value(name) - before.value(name);
    let (received, sent) = (grown("mcpgate_http_received_bytes_total"), grown("mcpgate_http_sent_bytes_total"));
    // The argument comes back twice: as data and as content.
    assert!((100_000.0..150_000.0).contains(&received), "{received}");
    assert!((200_000.0..400_000.0).contains(&sent), "{sent}");
    let status = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    assert!(!status.is_empty());
    for sample in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_threads"] {
        assert!(1.0 < after.value(sample), "{sample}");
    }
    let uptime: Value = gateway.stats()["uptime_seconds"].clone();
    let started_at = after.value("process_start_time_seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - started_at - uptime.as_f64().unwrap()).abs() < 5.0, "{started_at} and up for {uptime}");
}
