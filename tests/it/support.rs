//! What every test stands on: the real gateway in a folder of its own, the helper worker, and checks that explain.
//!
//! [`Gateway::start`] runs the binary cargo built, on a port the system chose, and waits until it is healthy. It knows
//! nothing of the gateway's code: everything goes through its port, its log and `/proc`.
//!
//! **Limit.** Nothing waits longer than [`PATIENCE`], and nothing sleeps in the hope that something has happened.
//!
//! **End.** Dropping a [`Gateway`] stops it with SIGTERM and then checks that none of its processes is left.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use serde_json::Value;

pub(crate) use crate::{
    folder::Folder,
    http::{Answer, ClientTls, Connection, PATIENCE},
    process::{Process, holds_within, pss_bytes, send_signal, wait_for_exit},
    reply::{Log, Reply, collect, raw_field, shortened},
};

/// The key every request carries unless a test says otherwise.
pub(crate) const KEY: &str = "super-secret";

// --- what stands behind the gateway -----------------------------------------------------------------------------

/// The helper worker with its flags; `tests/helper/helper.rs` lists them.
#[derive(Default)]
pub(crate) struct Helper(Vec<String>);

impl Helper {
    pub(crate) fn new() -> Helper {
        Helper::default()
    }

    pub(crate) fn with(flags: &[&str]) -> Helper {
        Helper(flags.iter().map(|flag| flag.to_string()).collect())
    }

    /// Program and arguments, as they go after `--` on the gateway's command line.
    pub(crate) fn command(&self) -> Vec<String> {
        let mut command = vec![Helper::program().display().to_string()];
        command.extend(self.0.iter().cloned());
        command
    }

    /// The compiled helper. Several test processes may come here at once: each compiles to a name of its own and
    /// renames, so that none sees half a file.
    pub(crate) fn program() -> &'static Path {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        PROGRAM.get_or_init(|| {
            let source = root().join("tests/helper/helper.rs");
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helper");
            let is_fresh = modified(&program).is_some_and(|built| modified(&source) < Some(built));
            if !is_fresh {
                let own_name = program.with_extension(std::process::id().to_string());
                let mut rustc = command(env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()));
                rustc.args(["-O", "--edition", "2024", "-o"]).arg(&own_name).arg(&source);
                let output = rustc.output().expect("rustc starts");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                fs::rename(&own_name, &program).unwrap();
            }
            program
        })
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|it| it.modified()).ok()
}

/// The top of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command that inherits nothing a test could trip over: no settings of the gateway or the helper.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for setting in mcpgate_settings().chain(env::vars().map(|(key, _)| key).filter(|key| key.starts_with("HELPER_"))) {
        command.env_remove(setting);
    }
    command
}

fn mcpgate_settings() -> impl Iterator<Item = String> {
    mcpgate::config::settings::SETTINGS.iter().map(|setting| setting.key.to_owned())
}

/// What the gateway puts on the network.
pub(crate) enum Server {
    /// The journeys server it brings along.
    Bundled,
    /// A program with its arguments.
    Program(Vec<String>),
    /// Whatever the settings say (`MCP_COMMAND`, `MCP_SERVERS`).
    FromSettings,
}

impl From<Helper> for Server {
    fn from(helper: Helper) -> Server {
        Server::Program(helper.command())
    }
}

impl From<&[&str]> for Server {
    fn from(command: &[&str]) -> Server {
        Server::Program(command.iter().map(|word| word.to_string()).collect())
    }
}

// --- the gateway ------------------------------------------------------------------------------------------------

/// How to start a gateway. [`Gateway::start`] covers the usual case.
pub(crate) struct Launch {
    server: Server,
    settings: BTreeMap<String, String>,
    arguments: Vec<String>,
    shell_prelude: Option<String>,
    client_tls: Option<ClientTls>,
    folder: Folder,
}

impl Launch {
    pub(crate) fn new(server: impl Into<Server>) -> Launch {
        let settings = BTreeMap::from([("LISTEN".to_owned(), "127.0.0.1:0".to_owned())]);
        Launch {
            server: server.into(),
            settings,
            arguments: Vec::new(),
            shell_prelude: None,
            client_tls: None,
            folder: Folder::new(),
        }
    }

    /// A setting, given in the environment.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Launch {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn set_all(self, settings: &[(&str, &str)]) -> Launch {
        settings.iter().fold(self, |launch, (key, value)| launch.set(key, value))
    }

    /// Not given in the environment, also not where the tests always give it (`LISTEN`).
    pub(crate) fn unset(mut self, key: &str) -> Launch {
        self.settings.remove(key);
        self
    }

    /// Arguments of the command line, before `--`.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Launch {
        self.arguments.extend(arguments.iter().map(|it| it.to_string()));
        self
    }

    /// A line of shell that runs before the gateway in its process, such as `ulimit -n 64`.
    pub(crate) fn shell_prelude(mut self, line: &str) -> Launch {
        self.shell_prelude = Some(line.to_owned());
        self
    }

    /// Clients speak TLS, as the settings then have to say.
    pub(crate) fn client_tls(mut self, tls: &ClientTls) -> Launch {
        self.client_tls = Some(ClientTls::clone(tls));
        self
    }

    /// Puts a file, such as `gateway.conf`, where the gateway will run.
    pub(crate) fn file(self, name: &str, text: &str) -> Launch {
        self.folder.file(name, text);
        self
    }

    /// The command, and the folder it has to run in, which goes away when dropped.
    pub(crate) fn into_command(self) -> (Command, Folder) {
        (self.command(), self.folder)
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_mcpgate");
        let mut command = match &self.shell_prelude {
            None => command(binary),
            Some(line) => {
                let mut shell = command("/bin/sh");
                shell.args(["-c", &format!("{line}; exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        command.args(&self.arguments);
        if let Server::Program(words) = &self.server {
            command.arg("--").args(words);
        }
        command.current_dir(self.folder.path()).envs(&self.settings);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, for what does not come up: wrong settings, and commands other than `serve`.
    #[track_caller]
    pub(crate) fn run(self) -> Ended {
        let mut child = self.command().spawn().expect("the gateway starts");
        let stdout = collect(child.stdout.take().unwrap());
        let log = Log::of(child.stderr.take().unwrap());
        let status = wait_for_exit(&mut child, PATIENCE);
        if status.is_none() {
            // It is our own child, not yet waited for.
            let _ = child.kill();
            let _ = child.wait();
            panic!("the gateway did not end by itself\n{}", log.framed());
        }
        log.wait_for_end();
        Ended { code: status.and_then(|it| it.code()), stdout: stdout.join().unwrap(), log: log.text() }
    }

    /// Starts it and waits until it says where it listens.
    #[track_caller]
    pub(crate) fn start_without_waiting(self) -> Gateway {
        let mut child = self.command().spawn().expect("the gateway starts");
        let log = Log::of(child.stderr.take().unwrap());
        drop(child.stdout.take());
        holds_within(PATIENCE, || log.address().is_some() || child.try_wait().unwrap().is_some());
        let Some(address) = log.address() else {
            // It is our own child; what it said explains it best.
            let _ = child.kill();
            let _ = child.wait();
            panic!("the gateway did not say `listening on http://...`\n{}", log.framed());
        };
        let client_tls = self.client_tls;
        Gateway { child, address, log, client_tls, seen: Mutex::default(), folder: self.folder }
    }

    /// Starts it and waits until `/health` answers 200.
    #[track_caller]
    pub(crate) fn start(self) -> Gateway {
        let gateway = self.start_without_waiting();
        gateway.wait_until("healthy", || gateway.get("/health").status == 200);
        gateway
    }
}

/// A gateway that ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) log: String,
}

impl Ended {
    /// It ended with `code` and said each of `texts` on stderr.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, texts: &[&str]) {
        let says_all = texts.iter().all(|text| self.log.contains(text));
        let is_as_expected = self.code == Some(code) && says_all;
        assert!(
            is_as_expected,
            "expected: exit code {code}, and on stderr {texts:#?}\nactual: exit code {:?}\n{}",
            self.code, self.log
        );
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    address: SocketAddr,
    log: Log,
    client_tls: Option<ClientTls>,
    /// Every process that was seen below this gateway.
    seen: Mutex<Vec<Process>>,
    /// Where it runs; goes away with it.
    folder: Folder,
}

impl Gateway {
    /// Starts a gateway with these settings before `server`, and waits until it is healthy.
    #[track_caller]
    pub(crate) fn start(settings: &[(&str, &str)], server: impl Into<Server>) -> Gateway {
        Launch::new(server).set_all(settings).start()
    }

    /// Starts a gateway before helpers with these names and flags, in this order, and waits until each is healthy that is
    /// not told to exit.
    #[track_caller]
    pub(crate) fn start_helpers(settings: &[(&str, &str)], helpers: &[(&str, &[&str])]) -> Gateway {
        let program = Helper::program();
        // By hand, because the order of the entries counts.
        let entry = |(name, flags): &(&str, &[&str])| {
            format!(r#"{name:?}:{{"command":{program:?},"args":{flags:?},"min_workers":1,"max_workers":1}}"#)
        };
        let entries: Vec<String> = helpers.iter().map(entry).collect();
        let launch = Launch::new(Server::FromSettings)
            .file("mcp.json", &format!(r#"{{"mcpServers":{{{}}}}}"#, entries.join(",")));
        let gateway = launch.set_all(settings).arguments(&["--servers", "mcp.json"]).start();
        for (name, _) in helpers.iter().filter(|(_, flags)| !flags.contains(&"--exit-at-start")) {
            let is_healthy = || gateway.get("/health").json()["servers"][name]["status"] == "healthy";
            gateway.wait_until(&format!("the server `{name}` healthy"), is_healthy);
        }
        gateway
    }

    /// Where it runs.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All of the log so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn connect(&self) -> Connection {
        self.speaking(Connection::open(self.address))
    }

    /// A connection that speaks as this gateway's clients do.
    pub(crate) fn speaking(&self, connection: Connection) -> Connection {
        match &self.client_tls {
            Some(tls) => connection.secured(tls),
            None => connection,
        }
    }

    /// What the helper worker counted; of the only one, or of any.
    #[track_caller]
    pub(crate) fn counts(&self) -> Value {
        self.call("counts", "{}").data()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[("X-API-Key", KEY)], b"")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        let headers = [("X-API-Key", KEY), ("Content-Type", "application/json")];
        self.request("POST", path, &headers, body.as_bytes())
    }

    /// Calls a tool with these arguments, which are JSON and sent as they stand.
    #[track_caller]
    pub(crate) fn call(&self, tool: &str, arguments: &str) -> Reply {
        self.post(&format!("/tools/{tool}"), &format!(r#"{{"arguments":{arguments}}}"#))
    }

    /// One request on a connection of its own, with these headers only.
    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut connection = self.connect();
        let shown = format!("{method} {path} {}", shortened(body));
        let answer = connection
            .send(method, path, headers, body)
            .and_then(|()| connection.receive(method == "HEAD"))
            .unwrap_or_else(|cause| panic!("request: {shown}\nno answer: {cause}\n{}", self.log.framed()));
        self.reply(shown, answer)
    }

    /// The log, framed, for failures that no [`Reply`] explains.
    pub(crate) fn framed_log(&self) -> String {
        self.log.framed()
    }

    /// What a [`Connection`] received, with what is needed to explain a failure.
    pub(crate) fn reply(&self, request: impl Into<String>, answer: Answer) -> Reply {
        Reply { request: request.into(), answer, log: self.log.clone() }
    }

    #[track_caller]
    pub(crate) fn stats(&self) -> Value {
        let reply = self.get("/stats");
        reply.expect_status(200);
        reply.json()
    }

    /// How many workers can take calls, with or without one in flight.
    #[track_caller]
    pub(crate) fn usable_workers(&self) -> u64 {
        let workers = self.get("/health").json()["workers"].take();
        workers["ready"].as_u64().unwrap_or(0) + workers["busy"].as_u64().unwrap_or(0)
    }

    /// The processes that `/stats` names as workers, of all servers, or of the only one.
    #[track_caller]
    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        let stats = self.stats();
        let servers = stats["servers"].as_object().cloned().unwrap_or_default();
        let workers = servers.values().flat_map(|server| server["workers"].as_array().cloned().unwrap_or_default());
        let pids = workers.filter_map(|worker| worker["pid"].as_u64()).map(|pid| pid as u32).collect();
        self.remember();
        pids
    }

    /// Waits until `condition` holds; fails with `what`, and the log, when it does not within [`PATIENCE`].
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        if !holds_within(PATIENCE, condition) {
            let health = self.get("/health");
            panic!("waited {PATIENCE:?} for: {what}\n/health: {}\n{}", health.text(), self.log.framed());
        }
    }

    /// Waits until a worker of the helper has a call. That it is counted does not say so: its arguments are checked in between.
    #[track_caller]
    pub(crate) fn wait_for_a_call_at_work(&self) {
        let is_at_work = |worker: &Value| worker["in_flight"] == 1;
        self.wait_until("a call at a worker", || {
            self.stats()["servers"]["helper"]["workers"].as_array().unwrap().iter().any(is_at_work)
        });
    }

    /// Sends a signal to the gateway itself.
    pub(crate) fn signal(&self, signal: Signal) {
        self.remember();
        send_signal(self.pid(), signal);
    }

    /// The gateway's processes at this moment: children, their children, and so on.
    pub(crate) fn processes(&self) -> Vec<Process> {
        Process::below(self.pid())
    }

    /// Every process that was ever noticed below this gateway and still lives.
    pub(crate) fn left_behind(&self) -> Vec<Process> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|process| process.is_alive()).cloned().collect()
    }

    fn remember(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(self.processes());
    }

    /// Waits until the gateway has ended by itself, or by a signal a test sent.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait_for_exit(&mut self.child, PATIENCE);
        status.unwrap_or_else(|| panic!("the gateway did not end\n{}", self.log.framed()))
    }

    /// Stops it with SIGTERM and gives its exit status.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.remember();
        let is_running = matches!(self.child.try_wait(), Ok(None));
        if is_running {
            send_signal(self.pid(), Signal::TERM);
            if wait_for_exit(&mut self.child, PATIENCE).is_none() {
                // It is our own child, not yet waited for.
                let _ = self.child.kill();
                let _ = self.child.wait();
                complain(&format!("the gateway did not stop on SIGTERM\n{}", self.log.framed()));
            }
        }
        if self.log.text().contains("panicked at") {
            complain(&format!("the gateway panicked\n{}", self.log.framed()));
        }
        if !holds_within(Duration::from_secs(2), || self.left_behind().is_empty()) {
            let left = self.left_behind();
            for process in &left {
                send_signal(process.pid, Signal::KILL);
            }
            complain(&format!("processes left behind: {left:?}\n{}", self.log.framed()));
        }
    }
}

/// Fails the test, unless it already has failed.
fn complain(what: &str) {
    if thread::panicking() { eprintln!("{what}") } else { panic!("{what}") }
}
