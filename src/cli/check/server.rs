//! One server, tried: started as a worker of the gateway is, asked what it is and what tools it has, watched for a moment, and stopped.
//!
//! The process is a real worker (`worker/`) whose owner is [`Witness`]: it only takes down what happens. There is one process, and a second
//! one, as in the gateway, that is asked whether the server speaks the modern era too.
//!
//! **Limit.** Twice `MCP_REQUEST_TIMEOUT` to get ready, [`WATCH`] and `HEALTH_TIMEOUT` after that, `STOP_GRACE` for each step of its end.
//! **End.** The processes have ended when [`examine`] comes back, also when it was interrupted.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use serde_json::value::RawValue;

use super::report::{Finding, Report, Section, Verdict};
use crate::{
    config::{Command, EraSetting, Live, ServerSpec},
    error::{Error, Seconds},
    json::json,
    logs::milliseconds,
    mcp::{
        raw,
        revision::{Era, MODERN},
    },
    schema,
    threads::lock,
    worker::{Call, Change, End, Link, Owner, Ping, Plan, ServerInfo, Worker, mailbox::Note, probe::Probe, usage},
};

/// How long a server is watched once it is ready: some end, or print something, only then.
const WATCH: Duration = Duration::from_millis(300);

/// A server that takes longer to get ready is pointed out.
const SLOW_START: Duration = Duration::from_secs(2);

/// Most tools of a server that are named for being wrong.
const WRONG_TOOLS_SHOWN_MAX: usize = 10;

/// Programs that look for their package whenever they are started.
const RUNNERS: [&str; 6] = ["npx", "pnpx", "bunx", "uvx", "pipx", "uv"];

/// What the tried process says.
enum Heard {
    Ready { info: Arc<ServerInfo>, tools: Vec<Box<RawValue>> },
    Ended(End),
}

/// The owner of the one worker; see the module.
struct Witness {
    heard: Sender<Heard>,
    noise: Mutex<Noise>,
}

/// Lines on stdout that are no messages.
#[derive(Debug, Clone, Default)]
struct Noise {
    n_lines: usize,
    first: Option<String>,
}

/// How a start came out.
enum Start {
    Ready(Box<Ready>),
    /// It ended, or it was given up.
    Failed(End),
    /// As [`End::speaks_modern_only`]: why it refused the legacy era.
    ModernOnly(String),
}

struct Ready {
    worker: Worker,
    plan: Plan,
    after: Duration,
    info: Arc<ServerInfo>,
    tools: Vec<Box<RawValue>>,
}

/// What was seen of a server that got ready, until it had ended.
struct Seen {
    /// It ended by itself.
    end: Option<End>,
    speaks_modern_too: bool,
    rss_bytes: Option<u64>,
    stopped_after: Duration,
}

/// Tries a server and says what was found. `is_only`: the gateway would not start without its program.
pub(super) fn examine(
    spec: &ServerSpec,
    is_only: bool,
    config: &Live,
    interrupts: &Receiver<()>,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let about = |verdict, what: String, hint: &str| Finding {
        server: Some(spec.name.clone()),
        hint: hint.to_owned(),
        ..Finding::new(Section::Servers, verdict, what)
    };
    if let Err(error) = spec.resolve_program() {
        // The others would be served without this one.
        let error = if is_only { error } else { Error::Failed { what: error.to_string(), hint: hint_of(&error) } };
        return report.bad_server(&spec.name, &error);
    }
    let (heard, hears) = bounded(4);
    let witness = Arc::new(Witness { heard, noise: Mutex::default() });
    let mut era = if spec.era == EraSetting::Modern { Era::Modern } else { Era::Legacy };
    let mut refusal = None;
    let ready = loop {
        match start(spec, era, refusal.clone(), config, &witness, &hears, interrupts)? {
            Start::Ready(ready) => break ready,
            Start::ModernOnly(reason) if era == Era::Legacy && spec.era == EraSetting::Auto => {
                (era, refusal) = (Era::Modern, Some(reason.into()));
            }
            Start::ModernOnly(reason) => {
                let hint = "write `\"era\": \"modern\"` or leave `era` out in its entry of the `mcpServers` file";
                return report.add(about(Verdict::Error, reason, hint));
            }
            Start::Failed(end) => {
                report_noise(&witness, spec, report)?;
                let hint = failure_hint(&end);
                return report.add(Finding { stderr: end.stderr, ..about(Verdict::Error, end.reason, hint) });
            }
        }
    };
    let Ready { info, after, .. } = &*ready;
    let (info, after, tools) = (Arc::clone(info), *after, ready.tools.clone());
    let seen = watch(*ready, spec, &hears, interrupts)?;
    if let Some(end) = seen.end {
        let what = format!("was ready after {} and then ended: {}", rounded(after), end.reason);
        report_noise(&witness, spec, report)?;
        let hint = "a server goes on until its standard input ends";
        return report.add(Finding { stderr: end.stderr, ..about(Verdict::Error, what, hint) });
    }
    let noise = lock(&witness.noise).clone();
    let grace = config.now().stop_grace;
    let figures = json!({
        "ready_ms": milliseconds(after),
        "stopped_ms": milliseconds(seen.stopped_after),
        "revision": info.revision,
        "speaks_modern": seen.speaks_modern_too || info.era == Era::Modern,
        "name": info.name,
        "version": info.version,
        "tools": tools.len(),
        "rss_bytes": seen.rss_bytes,
        "noise_lines": noise.n_lines,
    });
    let what = summary(&info, &tools, after, &seen);
    report.add(Finding { figures, ..about(Verdict::Ok, what, "") })?;
    if SLOW_START <= after {
        let what = format!("takes {} to get ready, more than {}", rounded(after), Seconds(SLOW_START));
        report.add(about(Verdict::Warning, what, slow_start_hint(&spec.command)))?;
    }
    report_noise(&witness, spec, report)?;
    for (what, hint) in wrong_tools(&tools) {
        report.add(about(Verdict::Warning, what, hint))?;
    }
    let offers_nothing = tools.is_empty() && !info.offers("resources") && !info.offers("prompts");
    if offers_nothing {
        let hint = "it may need a setting, an argument or a login before it has any";
        report.add(about(Verdict::Warning, "has no tools, resources or prompts".to_owned(), hint))?;
    }
    if !grace.is_zero() && grace <= seen.stopped_after {
        let took = rounded(seen.stopped_after);
        let what = format!("did not end when its standard input was closed; it took {took} and a signal");
        let hint = "every stop, reload and recycling waits for it; mend it, or lower `STOP_GRACE`";
        report.add(about(Verdict::Warning, what, hint))?;
    }
    Ok(())
}

/// Starts a process in this era and waits until it is ready or has failed.
fn start(
    spec: &ServerSpec,
    era: Era,
    refusal: Option<Arc<str>>,
    config: &Live,
    witness: &Arc<Witness>,
    hears: &Receiver<Heard>,
    interrupts: &Receiver<()>,
) -> Result<Start, Error> {
    let server: Arc<str> = spec.name.as_str().into();
    let name: Arc<str> = format!("{server}-check").into();
    let plan = Plan { server, command: spec.command.clone(), config: config.clone(), era, refusal, hello: None };
    let owner = Arc::clone(witness) as Arc<dyn Owner>;
    let patience = 2 * config.now().request_timeout;
    let started_at = Instant::now();
    let worker = Worker::start(0, name, plan.clone(), owner)?;
    select! {
        recv(hears) -> heard => Ok(match heard {
            Ok(Heard::Ready { info, tools }) => {
                Start::Ready(Box::new(Ready { worker, plan, after: started_at.elapsed(), info, tools }))
            }
            Ok(Heard::Ended(end)) if end.speaks_modern_only => Start::ModernOnly(end.reason),
            Ok(Heard::Ended(end)) => Start::Failed(end),
            // The witness has the other end.
            Err(_) => Start::Failed(End::default()),
        }),
        recv(after(patience)) -> _ => {
            let stderr = worker.status().stderr;
            worker.begin_kill("the check gave it up".to_owned());
            drop(worker);
            // It has ended now, and says so.
            let _ = hears.try_iter().count();
            Ok(Start::Failed(End { reason: format!("is not ready after {}", Seconds(patience)), stderr, ..End::default() }))
        },
        recv(interrupts) -> _ => Err(Error::Interrupted),
    }
}

/// Watches a server that is ready, asks in another process whether it speaks the modern era too, and stops both.
fn watch(ready: Ready, spec: &ServerSpec, hears: &Receiver<Heard>, interrupts: &Receiver<()>) -> Result<Seen, Error> {
    let Ready { worker, plan, info, .. } = ready;
    let rss_bytes = worker.pid().and_then(usage::usage).map(|usage| usage.rss_bytes);
    let may_speak_both = spec.era == EraSetting::Auto && info.era == Era::Legacy;
    let (tell, told) = bounded(1);
    let mut probe = match may_speak_both {
        true => Probe::start(plan, move |speaks_modern| {
            // Nobody waits for it any more when the check was interrupted.
            let _ = tell.send(speaks_modern);
        })
        .ok(),
        false => None,
    };
    let watched = after(WATCH);
    let (mut answer, mut is_watched) = (probe.is_none().then_some(false), false);
    // One that cannot even be asked drops its end.
    let told = if probe.is_some() { told } else { never() };
    let mut end = None;
    while end.is_none() && !(is_watched && answer.is_some()) {
        let asked = if answer.is_none() { told.clone() } else { never() };
        select! {
            recv(hears) -> heard => if let Ok(Heard::Ended(it)) = heard { end = Some(it) },
            recv(asked) -> speaks_modern => answer = Some(speaks_modern.unwrap_or(false)),
            recv(watched) -> _ => is_watched = true,
            recv(interrupts) -> _ => return Err(Error::Interrupted),
        }
    }
    if let Some(probe) = &mut probe {
        probe.begin_stop();
    }
    let stopping_since = Instant::now();
    drop(worker);
    let stopped_after = stopping_since.elapsed();
    drop(probe);
    Ok(Seen { end, speaks_modern_too: answer.unwrap_or(false), rss_bytes, stopped_after })
}

fn summary(info: &ServerInfo, tools: &[Box<RawValue>], after: Duration, seen: &Seen) -> String {
    let who = [info.name.as_str(), info.version.as_str()].join(" ");
    let who = if who.trim().is_empty() { "a server without a name".to_owned() } else { who.trim().to_owned() };
    let too = if seen.speaks_modern_too { format!(" and {MODERN}") } else { String::new() };
    let n_tools = tools.len();
    let tools = if n_tools == 1 { "tool" } else { "tools" };
    #[allow(clippy::cast_precision_loss, reason = "one digit of it is shown")]
    let memory = seen.rss_bytes.map_or(String::new(), |bytes| format!(", {:.1} MB", bytes as f64 / 1e6));
    format!("ready after {}: {who}, MCP {}{too}, {n_tools} {tools}{memory}", rounded(after), info.revision)
}

fn report_noise(witness: &Witness, spec: &ServerSpec, report: &mut Report<'_>) -> Result<(), Error> {
    let Noise { n_lines, first: Some(first) } = lock(&witness.noise).clone() else { return Ok(()) };
    let lines = if n_lines == 1 { "a line that is".to_owned() } else { format!("{n_lines} lines that are") };
    let what = format!("wrote {lines} not JSON-RPC on its standard output, as {first}");
    report.add(Finding {
        server: Some(spec.name.clone()),
        hint: "standard output is for messages alone, and all else is passed over; have it log to standard error"
            .to_owned(),
        ..Finding::new(Section::Servers, Verdict::Warning, what)
    })
}

/// What is wrong with entries of `tools/list`, and what to do about each.
fn wrong_tools(tools: &[Box<RawValue>]) -> Vec<(String, &'static str)> {
    let mut names = HashSet::new();
    let mut wrong = Vec::new();
    for tool in tools {
        let Some(name) = raw::text(tool, "name") else {
            wrong.push(("lists a tool without a name".to_owned(), "the tool is left out; give it a name"));
            continue;
        };
        match raw::field(tool, "inputSchema").map(schema::check_input_schema) {
            Some(Ok(())) => {}
            Some(Err(what)) => wrong.push((
                format!("the `inputSchema` of its tool `{name}` {what}"),
                "its arguments are not checked, and clients may refuse the tool; correct the schema",
            )),
            None => wrong.push((
                format!("its tool `{name}` has no `inputSchema`, which MCP asks for"),
                "clients may refuse the tool; `{\"type\": \"object\"}` takes anything",
            )),
        }
        if !names.insert(name.clone()) {
            let hint = "only the first is served; give the other another name";
            wrong.push((format!("lists its tool `{name}` twice"), hint));
        }
    }
    let n_hidden = wrong.len().saturating_sub(WRONG_TOOLS_SHOWN_MAX);
    wrong.truncate(WRONG_TOOLS_SHOWN_MAX);
    if 0 < n_hidden {
        wrong.push((format!("has {n_hidden} more faults in its list of tools"), ""));
    }
    wrong
}

fn failure_hint(end: &End) -> &'static str {
    if end.reason.starts_with("did not answer") || end.reason.starts_with("is not ready") {
        "is it an MCP server that speaks on standard input and output? Some do so only with an argument such as `stdio`"
    } else if end.reason == "closed its stdout" {
        "a server answers on its standard output until its standard input ends"
    } else if end.stderr.is_empty() {
        "run its command by hand, to see what it says"
    } else {
        "its last lines on standard error say why; it may lack an argument, a variable in `env`, or a file"
    }
}

fn slow_start_hint(command: &Command) -> &'static str {
    let runs_packages = |program: &str| RUNNERS.iter().any(|it| program.rsplit('/').next() == Some(*it));
    match command {
        Command::Program { program, .. } if runs_packages(program) => {
            "it looks for its package at each start; install the package and name its program instead"
        }
        _ => "calls wait so long for a new worker; raise `MIN_WORKERS`, so that fewer have to be started in a burst",
    }
}

fn hint_of(error: &Error) -> String {
    error.hint().unwrap_or_default()
}

/// In milliseconds, or with one digit of a second.
fn rounded(duration: Duration) -> String {
    let is_short = duration < Duration::from_secs(1);
    if is_short { format!("{} ms", duration.as_millis()) } else { format!("{:.1} s", duration.as_secs_f64()) }
}

impl Owner for Witness {
    fn ready(&self, _: usize, _: &Arc<Link>, info: Arc<ServerInfo>, tools: Vec<Box<RawValue>>) {
        // There is room: a process is ready once and ends once, and is taken down before the next one is started.
        let _ = self.heard.try_send(Heard::Ready { info, tools });
    }
    fn ended(&self, _: usize, end: End) {
        let _ = self.heard.try_send(Heard::Ended(end));
    }
    fn noise(&self, beginning: &str) {
        let mut noise = lock(&self.noise);
        noise.n_lines += 1;
        noise.first.get_or_insert_with(|| beginning.to_owned());
    }
    fn tools_changed(&self, _: usize, _: Vec<Box<RawValue>>) {}
    fn closing(&self, _: usize) {}
    fn answered(&self, _: usize, _: &Arc<Link>, _: &Arc<Call>, _: bool) {}
    fn answered_late(&self) {}
    fn asked(&self, _: usize, _: &Arc<Link>) -> Option<Arc<Call>> {
        None
    }
    fn pong(&self, _: usize, _: &Arc<Link>, _: Ping, _: Duration) {}
    fn is_of_a_session(&self) -> bool {
        false
    }
    fn repeat(&self, _: &Arc<Call>) {}
    fn changed(&self, _: Change) {}
    fn heard(&self, _: Note) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(json: &str) -> String {
        let tools: Vec<Box<RawValue>> = serde_json::from_str(json).unwrap();
        wrong_tools(&tools).into_iter().map(|(what, _)| what).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_wrong_with_tools_is_named() {
        assert_eq!(wrong(r#"[{"name":"a","inputSchema":{"type":"object"}},{"name":"b","inputSchema":{}}]"#), "");
        assert_eq!(wrong(r#"[{"inputSchema":{}}]"#), "lists a tool without a name");
        assert_eq!(wrong(r#"[{"name":"a"}]"#), "its tool `a` has no `inputSchema`, which MCP asks for");
        let twice = r#"[{"name":"a","inputSchema":{}},{"name":"a","inputSchema":{}}]"#;
        assert_eq!(wrong(twice), "lists its tool `a` twice");
        let bad = wrong(r#"[{"name":"a","inputSchema":{"type":"objekt"}}]"#);
        assert!(bad.starts_with("the `inputSchema` of its tool `a` is wrong: "), "{bad}");
    }

    #[test]
    fn a_long_list_of_faults_is_cut() {
        let tools = vec!["{}"; WRONG_TOOLS_SHOWN_MAX + 3].join(",");
        assert!(wrong(&format!("[{tools}]")).ends_with("\nhas 3 more faults in its list of tools"));
    }

    #[test]
    fn programs_that_look_for_packages_are_known() {
        let hint = |program: &str| {
            let (args, env) = (Vec::new(), Default::default());
            slow_start_hint(&Command::Program { program: program.to_owned(), args, env, cwd: None })
        };
        assert!(hint("npx").contains("package") && hint("/usr/bin/uvx").contains("package"));
        assert!(!hint("/opt/server").contains("package") && !hint("npx-not").contains("package"));
    }
}
