//! The pool: it grows and shrinks, heals, renews its workers, keeps clients apart, and leaves nothing behind.
//!
//! What its tests share stands here: a pool of a known size, calls whose answers are taken later, a load that notices
//! every call that fails, and what `/stats` says of the only server.

mod admin;
mod breaker;
mod eras;
mod health;
mod isolation;
mod learning;
mod misbehaviour;
mod orphans;
mod queue;
mod recovery;
mod recycling;
mod scaling;
mod stats;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{Connection, Folder, Gateway, KEY, Launch, PATIENCE, Process, Reply, Server, send_signal};

/// Settings with which a worker that is silent is noticed soon.
const QUICK_PINGS: [(&str, &str); 3] = [("HEALTH_INTERVAL", "0.1"), ("HEALTH_TIMEOUT", "0.2"), ("STOP_GRACE", "0.2")];

/// A gateway whose pool always has this many workers; all are ready.
#[track_caller]
fn pool_of(n_workers: u64, settings: &[(&str, &str)], server: impl Into<Server>) -> Gateway {
    let count = n_workers.to_string();
    let launch = Launch::new(server).set("MIN_WORKERS", &count).set("MAX_WORKERS", &count);
    let gateway = launch.set_all(settings).start();
    wait_for_workers(&gateway, n_workers);
    gateway
}

/// Waits until exactly this many workers can take calls.
#[track_caller]
fn wait_for_workers(gateway: &Gateway, n_workers: u64) {
    gateway.wait_until(&format!("{n_workers} usable workers"), || gateway.usable_workers() == n_workers);
}

/// What `/stats` says of the only server.
#[track_caller]
fn server(gateway: &Gateway) -> Value {
    let stats = gateway.stats();
    let servers = stats["servers"].as_object().unwrap_or_else(|| panic!("no servers in {stats}"));
    servers.values().next().cloned().unwrap_or_default()
}

/// What `/stats` says of each worker of the only server.
#[track_caller]
fn workers(gateway: &Gateway) -> Vec<Value> {
    server(gateway)["workers"].as_array().cloned().unwrap_or_default()
}

/// Whether some worker's `last_error` says `text`.
#[track_caller]
fn has_last_error(gateway: &Gateway, text: &str) -> bool {
    workers(gateway).iter().any(|worker| worker["last_error"].as_str().is_some_and(|it| it.contains(text)))
}

/// Waits until none of these processes runs any more.
#[track_caller]
fn wait_for_end(gateway: &Gateway, what: &str, processes: &[Process]) {
    let is_over = || processes.iter().all(|process| !process.is_alive());
    gateway.wait_until(&format!("the end of {what}: {processes:?}"), is_over);
}

/// The process with this id, which runs.
#[track_caller]
fn process(pid: u32) -> Process {
    Process::read(pid).unwrap_or_else(|| panic!("there is no process {pid}"))
}

/// Kills every worker.
#[track_caller]
fn kill_all(gateway: &Gateway) {
    for pid in gateway.worker_pids() {
        send_signal(pid, rustix::process::Signal::KILL);
    }
}

// --- calls whose answer is taken later ---------------------------------------------------------------------------

/// A call on a connection of its own that was sent and not yet answered. Dropping it takes the call back.
struct Sent<'a> {
    gateway: &'a Gateway,
    connection: Connection,
    shown: String,
}

impl<'a> Sent<'a> {
    #[track_caller]
    fn call(gateway: &'a Gateway, tool: &str, arguments: &Value) -> Sent<'a> {
        Sent::call_as(gateway, KEY, tool, &json!({"arguments": arguments}))
    }

    /// With any key and any body.
    #[track_caller]
    fn call_as(gateway: &'a Gateway, key: &str, tool: &str, body: &Value) -> Sent<'a> {
        let (path, body) = (format!("/tools/{tool}"), body.to_string());
        let mut connection = gateway.connect();
        let shown = format!("POST {path} {body}");
        if let Err(cause) = connection.send("POST", &path, &[("X-API-Key", key)], body.as_bytes()) {
            panic!("request: {shown}\nit could not be sent: {cause}\n{}", gateway.framed_log());
        }
        Sent { gateway, connection, shown }
    }

    #[track_caller]
    fn reply(self) -> Reply {
        self.reply_within(PATIENCE)
    }

    #[track_caller]
    fn reply_within(mut self, patience: Duration) -> Reply {
        self.connection.stream.set_read_timeout(Some(patience)).unwrap();
        let answer = self.connection.receive(false).unwrap_or_else(|cause| {
            panic!("request: {}\nno answer: {cause}\n{}", self.shown, self.gateway.framed_log())
        });
        self.gateway.reply(self.shown, answer)
    }
}

/// Takes the answers of all; each succeeded.
#[track_caller]
fn expect_all_succeed<'a>(calls: impl IntoIterator<Item = Sent<'a>>) {
    for call in calls {
        call.reply().expect_status(200);
    }
}

/// Calls at workers of the only server.
#[track_caller]
fn in_flight(gateway: &Gateway) -> u64 {
    workers(gateway).iter().filter_map(|worker| worker["in_flight"].as_u64()).sum()
}

#[track_caller]
fn queued(gateway: &Gateway) -> u64 {
    server(gateway)["pool"]["queued"].as_u64().unwrap_or_else(|| panic!("no `queued` in {}", server(gateway)))
}

// --- load --------------------------------------------------------------------------------------------------------

/// Runs `body` while so many clients call `tool`, which gives back its arguments, without pause. Every call must be
/// answered with its own arguments.
#[track_caller]
fn under_load<T>(gateway: &Gateway, n_clients: usize, tool: &str, arguments: &Value, body: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when `body` fails, so that the clients end and the failure is seen.
        let _over = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        for client in 0..n_clients {
            let is_over = &is_over;
            scope.spawn(move || keep_calling(gateway, client, tool, arguments.clone(), is_over));
        }
        body()
    })
}

fn keep_calling(gateway: &Gateway, client: usize, tool: &str, mut arguments: Value, is_over: &AtomicBool) {
    let mut connection = gateway.connect();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        arguments["value"] = json!(format!("call {number} of client {client}"));
        let body = json!({ "arguments": arguments }).to_string();
        let answer = connection
            .send("POST", &format!("/tools/{tool}"), &[("X-API-Key", KEY)], body.as_bytes())
            .and_then(|()| connection.receive(false))
            .unwrap_or_else(|cause| panic!("{tool} {body}\nno answer: {cause}\n{}", gateway.framed_log()));
        gateway.reply(format!("{tool} {body}"), answer).expect_data(&arguments);
    }
}

/// Does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

// --- files -------------------------------------------------------------------------------------------------------

/// Where the helper's `lookup`, `put` and `write` note each time that they are carried out.
struct Trace {
    folder: Folder,
}

impl Trace {
    fn new() -> Trace {
        Trace { folder: Folder::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    /// These arguments, and where to note them.
    fn arguments(&self, mut arguments: Value) -> Value {
        arguments["trace"] = json!(self.path());
        arguments
    }

    /// As [`Trace::arguments`]; the worker that comes to it first dies of it.
    fn crashing_once(&self, mut arguments: Value) -> Value {
        arguments["crash_once"] = json!(self.folder.path().join("crashed"));
        self.arguments(arguments)
    }

    /// The process and the `value` of each time.
    fn lines(&self) -> Vec<(u32, String)> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let line =
            |line: &str| line.split_once(' ').and_then(|(pid, value)| Some((pid.parse().ok()?, value.to_owned())));
        text.lines().map(|it| line(it).unwrap_or_else(|| panic!("not a line of a trace: {it:?}"))).collect()
    }

    /// The process of each time.
    fn pids(&self) -> Vec<u32> {
        self.lines().into_iter().map(|(pid, _)| pid).collect()
    }
}

/// A file of keys.
pub(crate) struct Keys {
    folder: Folder,
}

impl Keys {
    pub(crate) fn new() -> Keys {
        Keys { folder: Folder::new() }
    }

    pub(crate) fn path(&self) -> String {
        self.folder.path().join("keys.json").display().to_string()
    }

    /// Makes a key for these tools; `None`: for all.
    #[track_caller]
    pub(crate) fn make(&self, name: &str, tools: Option<&str>) -> String {
        let path = self.path();
        let mut arguments = vec!["key", "new", name, "--file", &path];
        if let Some(tools) = tools {
            arguments.extend(["--tools", tools]);
        }
        let made = Launch::new(Server::FromSettings).arguments(&arguments).run();
        assert_eq!(made.code, Some(0), "{made:?}");
        made.stdout.trim().to_owned()
    }
}

/// A gateway before the servers of an `mcpServers` file.
fn launch_servers(servers: &Value) -> Launch {
    let text = json!({ "mcpServers": servers }).to_string();
    Launch::new(Server::FromSettings).file("mcp.json", &text).arguments(&["--servers", "mcp.json"])
}
