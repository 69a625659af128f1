//! What `top` looks like: lines for a window of any size, made of what is shown and of what somebody wants to see.
//!
//! Values in, values out. What has no room is left out from the end: columns on the right, rows at the bottom; the last line is the one that
//! tells the keys.

use std::{cmp::Ordering, fmt::Write as _};

use super::figures::{Ended, Point, Server, Shown, Worker};
use crate::cli::terminal::{Size, cut, padded, printable, width};

/// Columns of what stands before and behind a row of points.
const LABEL_COLUMNS: usize = 9;
const SCALE_COLUMNS: usize = 14;

/// Fewest columns for the name of a worker or tool, and most.
const NAME_COLUMNS_MIN: usize = 10;
const NAME_COLUMNS_MAX: usize = 40;

/// How high a point is, least first.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BLOCKS: [char; 8] = ['_', '.', '-', '~', '=', '+', '*', '#'];

const KEYS: &str = " q quit   p pause   left/right sort by   r reverse   up/down scroll";

/// How a piece of a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Faint,
    Good,
    Warn,
    Bad,
    /// Dark on light.
    Bar,
}

/// One line, in pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

/// What somebody wants to see.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) sort: Column,
    pub(super) is_reversed: bool,
    pub(super) is_paused: bool,
    /// So many workers are scrolled away. Kept within what there is by [`lines`].
    pub(super) scroll: usize,
}

/// What the workers are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Column {
    #[default]
    Name,
    State,
    InFlight,
    Calls,
    Errors,
    Memory,
    Cpu,
    Age,
    Restarts,
}

/// All there is to show.
pub(super) struct Page<'a> {
    pub(super) url: &'a str,
    /// `None`: nothing has come yet.
    pub(super) shown: Option<&'a Shown>,
    /// Why nothing comes at the moment.
    pub(super) trouble: Option<&'a str>,
    pub(super) size: Size,
    /// Whether the terminal shows more than ASCII.
    pub(super) has_blocks: bool,
}

/// In the order of the columns: title, how wide.
const COLUMNS: [(Column, &str, usize); 9] = [
    (Column::Name, "WORKER", 0),
    (Column::State, "STATE", 9),
    (Column::InFlight, "ACTIVE", 7),
    (Column::Calls, "CALLS", 8),
    (Column::Errors, "ERRORS", 7),
    (Column::Memory, "MEMORY", 8),
    (Column::Cpu, "CPU%", 6),
    (Column::Age, "AGE", 8),
    (Column::Restarts, "RESTARTS", 9),
];

impl Line {
    fn new(style: Style, text: impl Into<String>) -> Line {
        Line(vec![(style, text.into())])
    }

    fn push(&mut self, style: Style, text: impl Into<String>) {
        self.0.push((style, text.into()));
    }

    /// The text alone.
    pub(super) fn plain(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect::<String>().trim_end().to_owned()
    }

    /// As a terminal takes it, in no more than so many columns.
    pub(super) fn drawn(&self, columns: usize, is_coloured: bool) -> String {
        let mut drawn = String::new();
        let mut left = columns;
        for (style, text) in &self.0 {
            let text = cut(text, left);
            left -= width(text);
            let codes = match style {
                Style::Plain => "",
                Style::Bold => "1",
                Style::Bar => "7",
                Style::Bad if !is_coloured => "1",
                Style::Faint | Style::Good | Style::Warn if !is_coloured => "",
                Style::Faint => "2",
                Style::Good => "32",
                Style::Warn => "33",
                Style::Bad => "31",
            };
            // Writing to a string has no way to fail.
            let _ = match codes {
                "" => write!(drawn, "{text}"),
                codes => write!(drawn, "\x1b[{codes}m{text}\x1b[0m"),
            };
        }
        drawn
    }
}

impl Column {
    /// The one beside it, round and round.
    pub(super) fn step(self, is_forward: bool) -> Column {
        let at = COLUMNS.iter().position(|(column, ..)| *column == self).unwrap_or_default();
        let step = if is_forward { 1 } else { COLUMNS.len() - 1 };
        COLUMNS[(at + step) % COLUMNS.len()].0
    }

    fn compare(self, shown: &Shown, one: &Worker, other: &Worker) -> Ordering {
        let number = |one: Option<f64>, other: Option<f64>| {
            // What is not known is least, and the greatest stands first.
            other.unwrap_or(-1.0).total_cmp(&one.unwrap_or(-1.0))
        };
        match self {
            Column::Name => Ordering::Equal,
            Column::State => one.state.cmp(&other.state),
            Column::InFlight => other.in_flight.cmp(&one.in_flight),
            Column::Calls => other.calls_total.cmp(&one.calls_total),
            Column::Errors => other.errors_total.cmp(&one.errors_total),
            Column::Memory => other.rss_bytes.cmp(&one.rss_bytes),
            Column::Cpu => number(shown.cpu(one), shown.cpu(other)),
            Column::Age => number(one.uptime_seconds, other.uptime_seconds),
            Column::Restarts => other.restarts.cmp(&one.restarts),
        }
        .then_with(|| natural(&one.id).cmp(&natural(&other.id)))
    }

    fn cell(self, shown: &Shown, worker: &Worker) -> String {
        match self {
            Column::Name => printable(&worker.id).into_owned(),
            Column::State => printable(&worker.state).into_owned(),
            Column::InFlight => worker.in_flight.to_string(),
            Column::Calls => count(worker.calls_total),
            Column::Errors => count(worker.errors_total),
            Column::Memory => worker.rss_bytes.map_or("-".to_owned(), bytes),
            Column::Cpu => shown.cpu(worker).map_or("-".to_owned(), |share| format!("{:.0}", share * 100.0)),
            Column::Age => worker.uptime_seconds.map_or("-".to_owned(), age),
            Column::Restarts => worker.restarts.to_string(),
        }
    }
}

/// The lines of a page: as many as the window has rows, or fewer.
pub(super) fn lines(page: &Page<'_>, view: &mut View) -> Vec<Line> {
    let Size { rows, .. } = page.size;
    let mut lines = vec![head(page, view)];
    lines.extend(page.trouble.map(|trouble| Line::new(Style::Bad, format!(" {}", printable(trouble)))));
    if let Some(shown) = page.shown {
        lines.push(figures(shown));
        let has_room = 10 <= rows;
        if has_room {
            lines.extend(charts(shown, page));
        }
        let footer = 1;
        let left = rows.saturating_sub(lines.len() + footer);
        lines.extend(servers(shown, (left / 4).max(1)));
        let left = rows.saturating_sub(lines.len() + footer);
        // The calls have what the workers leave, and a third at least.
        let n_workers_max = (left - left / 3).saturating_sub(1);
        lines.extend(workers(shown, page, view, n_workers_max));
        let left = rows.saturating_sub(lines.len() + footer);
        if 2 <= left {
            lines.extend(calls(shown, page, left - 1));
        }
    }
    lines.truncate(rows.saturating_sub(1));
    if rows == 1 {
        return vec![head(page, view)];
    }
    let blank = rows.saturating_sub(lines.len() + 1);
    lines.extend(std::iter::repeat_n(Line::default(), blank));
    lines.push(Line::new(Style::Bar, padded(KEYS, page.size.columns)));
    lines
}

/// The same for somebody who cannot press keys: everything, from top to bottom.
pub(super) fn snapshot(page: &Page<'_>, n_calls_max: usize) -> Vec<Line> {
    let mut view = View::default();
    let mut lines = vec![head(page, &view)];
    if let Some(shown) = page.shown {
        lines.push(figures(shown));
        lines.extend(charts(shown, page));
        lines.push(Line::default());
        lines.extend(servers(shown, usize::MAX));
        lines.push(Line::default());
        lines.extend(workers(shown, page, &mut view, usize::MAX));
        lines.push(Line::default());
        lines.extend(calls(shown, page, n_calls_max));
    }
    lines
}

fn head(page: &Page<'_>, view: &View) -> Line {
    let mut text = format!(" mcpgate  {}", page.url);
    if let Some(shown) = page.shown {
        let _ = write!(text, "  {}  up {}", shown.look.stats.status(), age(shown.look.stats.uptime_seconds));
    }
    let state = match page.trouble {
        Some(_) if page.shown.is_some() => " GONE, these are the last figures ",
        Some(_) => " NOT THERE ",
        None if page.shown.is_none() => " asking ",
        None if view.is_paused => " PAUSED ",
        None => "",
    };
    let columns = page.size.columns.saturating_sub(width(state));
    Line::new(Style::Bar, format!("{}{state}", padded(&text, columns)))
}

fn figures(shown: &Shown) -> Line {
    let stats = &shown.look.stats;
    let last = shown.look.history.points.iter().rfind(|point| point.p50_ms.is_some());
    let latency = |pick: fn(&Point) -> Option<f64>| last.and_then(pick).map_or("-".to_owned(), milliseconds);
    let (mut n_active, mut n_queued) = (0, 0);
    for server in stats.servers.values() {
        n_active += server.workers.iter().map(|worker| worker.in_flight).sum::<u64>();
        n_queued += server.pool.queued;
    }
    let mut line = Line::new(Style::Bold, format!(" {} calls/s", rate(shown.rate)));
    line.push(Style::Plain, format!("  p50 {}  p99 {}", latency(|it| it.p50_ms), latency(|it| it.p99_ms)));
    line.push(Style::Plain, format!("  active {n_active}"));
    line.push(if 0 < n_queued { Style::Warn } else { Style::Plain }, format!("  waiting {n_queued}"));
    line.push(Style::Plain, format!("  conn {}/{}", stats.connections.open, stats.connections.max));
    line.push(Style::Plain, format!("  calls {}", count(stats.totals.calls)));
    let style = if 0 < stats.totals.errors { Style::Bad } else { Style::Plain };
    line.push(style, format!("  errors {}", count(stats.totals.errors)));
    line
}

/// Rate and latency over the last minutes, one column for each point.
fn charts(shown: &Shown, page: &Page<'_>) -> [Line; 2] {
    let points = &shown.look.history.points;
    let room = page.size.columns.saturating_sub(LABEL_COLUMNS + SCALE_COLUMNS);
    let points = &points[points.len().saturating_sub(room)..];
    let rates: Vec<_> = points.iter().map(|it| (Some(it.rate()).filter(|rate| 0.0 < *rate), 0 < it.errors)).collect();
    let latencies: Vec<_> = points.iter().map(|it| (it.p99_ms, false)).collect();
    [
        chart("calls/s", &rates, page.has_blocks, |most| format!("max {}", rate(most))),
        chart("p99", &latencies, page.has_blocks, |most| format!("max {}", milliseconds(most))),
    ]
}

fn chart(label: &str, values: &[(Option<f64>, bool)], has_blocks: bool, scale: impl Fn(f64) -> String) -> Line {
    let blocks = if has_blocks { BLOCKS } else { ASCII_BLOCKS };
    let most = values.iter().filter_map(|(value, _)| *value).fold(0.0, f64::max);
    let mut line = Line::new(Style::Faint, format!(" {label:<0$}", LABEL_COLUMNS - 1));
    for (value, is_bad) in values {
        let style = if *is_bad { Style::Bad } else { Style::Good };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
        let block = value.map_or(' ', |value| blocks[((value / most * 8.0) as usize).min(7)]);
        match line.0.last_mut().filter(|(last, _)| *last == style || block == ' ') {
            Some((_, text)) => text.push(block),
            None => line.push(style, block),
        }
    }
    line.push(Style::Faint, format!(" {}", scale(most)));
    line
}

fn servers(shown: &Shown, n_lines_max: usize) -> Vec<Line> {
    let servers = &shown.look.stats.servers;
    // Those in trouble first, when there is no room for all.
    let mut listed: Vec<_> = servers.iter().collect();
    if n_lines_max < listed.len() {
        let (healthy, mut others): (Vec<_>, Vec<_>) = listed.iter().partition(|(_, server)| server.status == "healthy");
        others.extend(healthy);
        listed = others;
    }
    let n_hidden = listed.len().saturating_sub(n_lines_max);
    listed.truncate(n_lines_max);
    let columns = listed.iter().map(|(name, _)| width(name)).max().unwrap_or_default().min(NAME_COLUMNS_MAX);
    let mut lines: Vec<_> = listed.into_iter().map(|(name, server)| server_line(name, server, columns)).collect();
    if let Some(last) = lines.last_mut().filter(|_| 0 < n_hidden) {
        last.push(Style::Faint, format!("  and {n_hidden} more servers"));
    }
    lines
}

fn server_line(name: &str, server: &Server, columns: usize) -> Line {
    let mut line = Line::new(Style::Bold, format!(" {}", padded(&printable(name), columns)));
    let style = match server.status.as_str() {
        "healthy" => Style::Good,
        "starting" | "degraded" => Style::Warn,
        _ => Style::Bad,
    };
    line.push(style, format!("  {:<9}", printable(&server.status)));
    let n_usable = server.workers.iter().filter(|it| matches!(it.state.as_str(), "ready" | "busy")).count();
    line.push(Style::Plain, format!("  {n_usable} of {} workers", server.pool.max));
    let style = if 0 < server.pool.queued { Style::Warn } else { Style::Plain };
    line.push(style, format!("  {} waiting (peak {})", server.pool.queued, server.pool.queued_peak));
    if !matches!(server.breaker.state.as_str(), "" | "closed") {
        line.push(Style::Bad, format!("  breaker {}", printable(&server.breaker.state)));
    }
    if let Some(reason) = &server.reason {
        line.push(Style::Bad, format!("  {}", printable(reason)));
    }
    line
}

fn workers(shown: &Shown, page: &Page<'_>, view: &mut View, n_rows_max: usize) -> Vec<Line> {
    let mut workers: Vec<_> = shown.look.stats.workers().collect();
    workers.sort_by(|one, other| view.sort.compare(shown, one, other));
    if view.is_reversed {
        workers.reverse();
    }
    view.scroll = view.scroll.min(workers.len().saturating_sub(n_rows_max));
    // The first column has what the others leave, and these come while the first keeps enough.
    let mut columns: Vec<_> = COLUMNS.to_vec();
    let taken = |columns: &[(Column, &str, usize)]| columns.iter().map(|(_, _, wide)| wide + 1).sum::<usize>();
    while 1 < columns.len() && page.size.columns < taken(&columns) + NAME_COLUMNS_MIN {
        columns.pop();
    }
    let name_columns = page.size.columns.saturating_sub(taken(&columns)).min(NAME_COLUMNS_MAX);
    let align = |column: Column, text: &str, wide: usize| match column {
        Column::Name => padded(text, name_columns),
        Column::State => format!(" {}", padded(text, wide)),
        _ => format!(" {text:>wide$}"),
    };
    let titles: String = columns
        .iter()
        .map(|(column, title, wide)| {
            let mark = if view.is_reversed { "^" } else { "v" };
            let title = if *column == view.sort { format!("{title}{mark}") } else { (*title).to_owned() };
            align(*column, &title, *wide)
        })
        .collect();
    let mut lines = vec![Line::new(Style::Bar, padded(&format!(" {titles}"), page.size.columns))];
    for worker in workers.into_iter().skip(view.scroll).take(n_rows_max) {
        let mut line = Line::new(Style::Plain, " ");
        for (column, _, wide) in &columns {
            let style = match column {
                Column::State => match worker.state.as_str() {
                    "busy" => Style::Good,
                    "ready" => Style::Plain,
                    "down" => Style::Bad,
                    _ => Style::Warn,
                },
                Column::Errors if 0 < worker.errors_total => Style::Warn,
                _ => Style::Plain,
            };
            line.push(style, align(*column, &column.cell(shown, worker), *wide));
        }
        lines.push(line);
    }
    lines
}

fn calls(shown: &Shown, page: &Page<'_>, n_rows_max: usize) -> Vec<Line> {
    const TIME: usize = 8;
    const OUTCOME: usize = 17;
    const TOOK: usize = 9;
    const WORKER: usize = 14;
    const KEY: usize = 12;
    let columns = page.size.columns;
    let fixed = 1 + TIME + 1 + OUTCOME + 1 + TOOK + 1;
    let has_worker = fixed + WORKER + 1 + NAME_COLUMNS_MIN <= columns;
    let has_key = fixed + WORKER + 1 + KEY + 1 + NAME_COLUMNS_MIN <= columns;
    let others = usize::from(has_worker) * (WORKER + 1) + usize::from(has_key) * (KEY + 1);
    let name = columns.saturating_sub(fixed + others).min(NAME_COLUMNS_MAX);
    let row = |time: &str, tool: &str, outcome: (Style, &str), took: &str, worker: &str, key: &str| {
        let mut line = Line::new(Style::Plain, format!(" {} {} ", padded(time, TIME), padded(tool, name)));
        line.push(outcome.0, padded(outcome.1, OUTCOME));
        line.push(Style::Plain, format!(" {took:>TOOK$}"));
        if has_worker {
            line.push(Style::Plain, format!(" {}", padded(worker, WORKER)));
        }
        if has_key {
            line.push(Style::Plain, format!(" {}", padded(key, KEY)));
        }
        line
    };
    let titles = row("TIME", "LAST CALLS", (Style::Plain, "OUTCOME"), "TOOK", "WORKER", "KEY").plain();
    let mut lines = vec![Line::new(Style::Bar, padded(&titles, columns))];
    lines.extend(shown.look.history.calls.iter().take(n_rows_max).map(|call| {
        let Ended { time, tool, key, worker, outcome, duration_ms } = call;
        let style = if outcome == "ok" { Style::Good } else { Style::Bad };
        let worker = printable(worker.as_deref().unwrap_or("-"));
        // The clock of `2027-01-31T12:34:56.789Z`.
        let clock = time.get(11..19).unwrap_or_default();
        let took = milliseconds(*duration_ms);
        row(clock, &printable(tool), (style, &printable(outcome)), &took, &worker, &printable(key))
    }));
    lines
}

/// `s-10` behind `s-9`.
fn natural(id: &str) -> (&str, u64) {
    let (name, number) = id.rsplit_once('-').unwrap_or((id, ""));
    (name, number.parse().unwrap_or_default())
}

fn count(n: u64) -> String {
    match n {
        0..=999_999 => n.to_string(),
        1_000_000..=999_999_999 => format!("{}.{:02}M", n / 1_000_000, n / 10_000 % 100),
        _ => format!("{}.{:02}G", n / 1_000_000_000, n / 10_000_000 % 100),
    }
}

fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

fn bytes(n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one digit of it is shown")]
    let megabytes = n as f64 / 1e6;
    if megabytes < 1000.0 { format!("{megabytes:.1} MB") } else { format!("{:.1} GB", megabytes / 1000.0) }
}

fn age(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds, of less than centuries")]
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, seconds / 3600, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}h"),
    }
}

#[cfg(test)]
mod tests;
