//! Pages for windows of all sizes.

use std::time::Instant;

use super::*;
use crate::{
    cli::top::figures::{History, Look},
    json::json,
};

fn shown(n_servers: usize, n_workers: usize) -> Shown {
    let worker = |server: usize| {
        move |n: usize| {
            json!({ "id": format!("server{server}-{n}"), "pid": n, "state": if n == 2 { "busy" } else { "ready" },
                "in_flight": n % 3, "calls_total": n * 1000, "errors_total": 20 - n.min(20), "rss_bytes": 3_100_000,
                "uptime_seconds": 3_725.0, "cpu_seconds": 37.25 * n as f64 })
        }
    };
    let server = |server: usize| {
        let workers: Vec<_> = (1..=n_workers).map(worker(server)).collect();
        let status = if server == 0 { "unhealthy" } else { "healthy" };
        let value = json!({ "status": status, "reason": if server == 0 { Some("it died\u{1b}[2J") } else { None },
            "pool": { "max": 8, "queued": 3 }, "workers": workers });
        (format!("server{server}"), value)
    };
    let servers: serde_json::Map<_, _> = (0..n_servers).map(server).collect();
    let stats = json!({ "uptime_seconds": 90_061.0, "totals": { "calls": 1_234_567, "errors": 3 }, "servers": servers,
        "connections": { "open": 5, "max": 1024 } });
    let points: Vec<_> = (0..60)
        .map(|n| json!({ "seconds": 5.0, "calls": n * 5, "errors": n / 59, "p50_ms": 1.5, "p99_ms": n }))
        .collect();
    let call = |n: usize| {
        json!({ "time": "2027-01-31T12:34:56.789Z", "tool": format!("tool{n}日本語"), "key": "api_key", "worker": "server1-1",
            "outcome": if n == 0 { "tool_error" } else { "ok" }, "duration_ms": 12.3 })
    };
    let history = json!({ "points": points, "calls": (0..30).map(call).collect::<Vec<_>>() });
    let stats = serde_json::from_value(stats).unwrap();
    let history: History = serde_json::from_value(history).unwrap();
    Shown::new(Look { at: Instant::now(), stats, history }, None)
}

fn page(shown: Option<&Shown>, rows: usize, columns: usize) -> Page<'_> {
    Page { url: "http://127.0.0.1:8000", shown, trouble: None, size: Size { rows, columns }, has_blocks: true }
}

fn plain(lines: &[Line]) -> String {
    lines.iter().map(Line::plain).collect::<Vec<_>>().join("\n")
}

/// Without what gives it its colours.
fn visible(drawn: &str) -> String {
    let (first, rest) = drawn.split_once("\x1b[").unwrap_or((drawn, ""));
    let pieces = rest.split("\x1b[").filter_map(|piece| Some(piece.split_once('m')?.1));
    std::iter::once(first).chain(pieces).collect()
}

#[test]
fn a_window_of_any_size_is_filled_and_no_more() {
    let few = shown(1, 2);
    let many = shown(20, 8);
    for shown in [None, Some(&few), Some(&many)] {
        for rows in 1..60 {
            for columns in [1, 2, 10, 20, 39, 40, 60, 79, 80, 81, 120, 300] {
                for trouble in [None, Some("no gateway answers")] {
                    let page = Page { trouble, ..page(shown, rows, columns) };
                    let lines = lines(&page, &mut View::default());
                    assert_eq!(lines.len(), rows, "{rows}x{columns}");
                    let is_too_wide = |line: &Line| columns < width(&visible(&line.drawn(columns, true)));
                    assert!(!lines.iter().any(is_too_wide), "{rows}x{columns}");
                }
            }
        }
    }
}

#[test]
fn the_usual_window_has_all_of_it() {
    let shown = shown(2, 3);
    let text = plain(&lines(&page(Some(&shown), 24, 80), &mut View::default()));
    for part in [
        " mcpgate  http://127.0.0.1:8000  degraded  up 1d 01h",
        "59 calls/s  p50 1.50 ms  p99 59 ms",
        "  waiting 6  conn 5/1024  calls 1.23M",
        " calls/s  ",
        "█ max 59",
        " server0  unhealthy  3 of 8 workers  3 waiting (peak 0)  it died [2J",
        " WORKERv ",
        " server1-2 ",
        " busy ",
        "  3.1 MB",
        "  1h 02m",
        " 12:34:56 tool0日本語",
        "tool_error",
        " q quit",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn workers_are_sorted_turned_round_and_scrolled() {
    let shown = shown(1, 30);
    let order = |view: &mut View| {
        let lines = lines(&page(Some(&shown), 24, 80), view);
        let workers = lines.iter().map(Line::plain).filter(|line| line.starts_with(" server0-"));
        workers.map(|line| line.split_whitespace().next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let first = |view: &mut View| order(view).first().cloned().unwrap_or_default();
    assert_eq!(first(&mut View::default()), "server0-1");
    assert_eq!(first(&mut View { sort: Column::Calls, ..View::default() }), "server0-30");
    assert_eq!(first(&mut View { sort: Column::Cpu, ..View::default() }), "server0-30");
    assert_eq!(first(&mut View { sort: Column::Errors, ..View::default() }), "server0-1");
    assert_eq!(first(&mut View { sort: Column::State, ..View::default() }), "server0-2");
    assert_eq!(first(&mut View { is_reversed: true, ..View::default() }), "server0-30");
    assert_eq!(first(&mut View { scroll: 2, ..View::default() }), "server0-3");
    let mut far = View { scroll: 1000, ..View::default() };
    assert_eq!(order(&mut far).last().map(String::as_str), Some("server0-30"));
    assert!(far.scroll < 30, "it stays within what there is");
}

#[test]
fn columns_go_round() {
    let mut column = Column::default();
    for _ in 0..COLUMNS.len() {
        column = column.step(true);
    }
    assert_eq!(
        (column, Column::Name.step(false), Column::Name.step(true)),
        (Column::Name, Column::Restarts, Column::State)
    );
}

#[test]
fn a_gateway_that_is_gone_is_said_so_above_the_last_figures() {
    let shown = shown(1, 1);
    let page = Page { trouble: Some("no gateway answers at `x`; trying again"), ..page(Some(&shown), 24, 80) };
    let text = plain(&lines(&page, &mut View::default()));
    assert!(text.contains("GONE, these are the last figures\n no gateway answers at `x`; trying again\n"), "{text}");
    let never = Page { shown: None, ..page };
    assert!(plain(&lines(&never, &mut View::default())).contains("NOT THERE"));
}

#[test]
fn without_colours_no_colour_is_used() {
    let shown = shown(1, 3);
    for line in lines(&page(Some(&shown), 24, 80), &mut View::default()) {
        let drawn = line.drawn(80, false);
        assert!(!drawn.contains("\x1b[3"), "{drawn:?}");
    }
}

#[test]
fn a_snapshot_has_everything() {
    let shown = shown(9, 9);
    let text = plain(&snapshot(&page(Some(&shown), 0, 120), 10));
    for part in ["server8  healthy", " server8-9 ", "tool9", " KEY"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("tool10") && !text.contains("q quit"), "{text}");
}

#[test]
fn figures_are_short() {
    assert_eq!([0, 999_999, 1_234_567, 12_345_678_901].map(count), ["0", "999999", "1.23M", "12.34G"]);
    assert_eq!([9.0, 75.0, 3_725.0, 90_061.0].map(age), ["9s", "1m 15s", "1h 02m", "1d 01h"]);
    assert_eq!([0.5, 42.4, 1500.0].map(milliseconds), ["0.50 ms", "42 ms", "1.5 s"]);
    assert_eq!([3_100_000, 2_500_000_000].map(bytes), ["3.1 MB", "2.5 GB"]);
}
