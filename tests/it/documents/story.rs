//! A document followed from its first block to its last, as a reader would: in one folder, with one gateway.
//!
//! What is changed about what stands there is said in [`Story::here`] and nowhere else. Programs that a reader downloads stand
//! in a folder at the front of `PATH` (`tests/clients/stand_ins`) and take what `scripts/test.sh` has installed.
//!
//! **Limit.** A command has [`COMMAND_PATIENCE`] to end, and what goes on as long to begin.
//!
//! **End.** What goes on (a gateway, a web server) is ended with the story, or when a command takes its place.

use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use rustix::process::Signal;

use super::block::Example;
use crate::{
    clients::{program, run_within, tools},
    reply::Log,
    support::{Folder, KEY, PATIENCE, command, holds_within, root, send_signal, wait_for_exit},
};

/// How long a command may take, such as one that starts a browser while the machine does other things as well.
const COMMAND_PATIENCE: Duration = Duration::from_secs(90);

/// Ports that the documents name; each becomes a free one.
const PORTS: &[u16] = &[8000, 8080, 3000, 9000];

/// Folders of an installed gateway; each becomes one below the story's.
const PATHS: &[&str] = &[
    "/etc/mcpgate",
    "/srv/files",
    "/etc/nginx",
    "/etc/prometheus",
    "/var/lib/mcpgate",
    "/var/log/mcpgate",
    "/var/backups",
];

/// What the documents write where a reader puts a key.
const KEYS: &[&str] = &["${MCPGATE_KEY}", "${env:MCPGATE_KEY}", "${input:mcpgate-key}"];

/// The name under which a gateway is reached from other machines.
const NAME: &str = "gateway.local";

pub(super) struct Story {
    folder: Folder,
    ports: BTreeMap<u16, u16>,
    gateway: Option<Running>,
    others: Vec<Running>,
}

/// A command that goes on until it is ended.
struct Running {
    child: Child,
    log: Log,
}

impl Drop for Running {
    fn drop(&mut self) {
        send_signal(self.child.id(), Signal::TERM);
        if wait_for_exit(&mut self.child, PATIENCE).is_none() {
            // It is our own child, not yet waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Story {
    pub(super) fn new() -> Story {
        let folder = Folder::new();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_mcpgate"), bin.join("mcpgate")).unwrap();
        for path in PATHS {
            fs::create_dir_all(folder.path().join(&path[1..])).unwrap();
        }
        symlink(tools().join("mcp-clients/node_modules"), folder.path().join("node_modules")).unwrap();
        let ports = PORTS.iter().map(|port| (*port, free_port())).collect();
        Story { folder, ports, gateway: None, others: Vec::new() }
    }

    /// What stands in a document, for this story: its ports, its folders, its key.
    pub(super) fn here(&self, text: &str) -> String {
        let mut text = text.replace("./scripts/start_gateway.sh", "mcpgate").replace("0.0.0.0", "127.0.0.1");
        text = text.replace("target/release/mcpgate", env!("CARGO_BIN_EXE_mcpgate"));
        text = text.replace("/usr/bin/mcpgate", &self.path("bin/mcpgate").display().to_string());
        for (theirs, ours) in &self.ports {
            text = with_number(&text, &theirs.to_string(), &ours.to_string());
        }
        text = text.replace("localhost:", "127.0.0.1:").replace(NAME, "localhost");
        for path in PATHS {
            text = text.replace(path, &format!("{}{path}", self.folder.path().display()));
        }
        KEYS.iter().fold(text, |text, key| text.replace(key, KEY))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Saves what a document says under the name it says, if it says one, else under another.
    pub(super) fn save(&self, example: &Example, otherwise: &str) -> PathBuf {
        let name = self.here(example.file_name().unwrap_or(otherwise));
        let path = self.path(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, self.here(&example.code)).unwrap();
        path
    }

    /// Runs the commands of a block one after the other, and gives what they wrote.
    #[track_caller]
    pub(super) fn run(&mut self, example: &Example, is_left_out: impl Fn(&str) -> bool) -> String {
        let commands = commands(&example.code);
        let mut written = String::new();
        for line in commands.iter().filter(|line| !is_left_out(line)) {
            let line = &self.here(line);
            match kind(line) {
                Kind::Gateway => self.start_gateway(line),
                Kind::Service(verb) => self.service(&verb),
                Kind::Alone => {
                    self.gateway = None;
                    written.push_str(&self.shell(line, &example.place()));
                }
                Kind::Goes => self.start_other(line),
                Kind::Ends => {
                    self.ensure_gateway();
                    written.push_str(&self.shell(line, &example.place()));
                }
            }
        }
        written
    }

    /// Runs a file of a block with what a reader would use, and gives what it wrote.
    #[track_caller]
    pub(super) fn run_file(&mut self, example: &Example, interpreter: &str, name: &str) -> String {
        self.ensure_gateway();
        let path = self.save(example, name);
        self.shell(&format!("exec {interpreter} {}", path.display()), &example.place())
    }

    /// Runs a line of shell to its end, and gives what it wrote on standard output.
    #[track_caller]
    pub(super) fn shell(&self, line: &str, place: &str) -> String {
        let mut shell = self.command("sh");
        shell.arg("-c").arg(line);
        let ran = run_within(COMMAND_PATIENCE, shell, "");
        let log = self.gateway.as_ref().map_or(String::new(), |it| it.log.framed());
        assert!(ran.is_success, "{place}: {line}\n{}\n{log}", ran.shown());
        ran.stdout
    }

    /// A gateway runs, the bundled one when the document has not started any.
    #[track_caller]
    pub(super) fn ensure_gateway(&mut self) {
        if self.gateway.is_none() {
            self.start_gateway("mcpgate");
        }
    }

    #[track_caller]
    fn start_gateway(&mut self, line: &str) {
        // The port of the one before is to be free.
        self.gateway = None;
        let mut running = self.start(line);
        let has_ended = |child: &mut Child| child.try_wait().is_ok_and(|it| it.is_some());
        holds_within(COMMAND_PATIENCE, || running.log.address().is_some() || has_ended(&mut running.child));
        let address = running.log.address().unwrap_or_else(|| panic!("{line}\n{}", running.log.framed()));
        let scheme = if running.log.text().contains("listening on https") { "https" } else { "http" };
        let mut healthy = self.command("curl");
        healthy.args(["--silent", "--insecure", "--fail", &format!("{scheme}://{address}/health")]);
        let is_healthy = holds_within(COMMAND_PATIENCE, || {
            healthy.output().is_ok_and(|it| it.stdout.starts_with(br#"{"status":"healthy""#))
        });
        assert!(is_healthy, "{line}\n{}", running.log.framed());
        self.gateway = Some(running);
    }

    /// What systemd does with `scripts/mcpgate.service`.
    #[track_caller]
    fn service(&mut self, verb: &str) {
        match (verb, &self.gateway) {
            ("reload", Some(gateway)) => {
                let n_said = || RELOADED.iter().map(|it| gateway.log.text().matches(it).count()).sum::<usize>();
                let before = n_said();
                send_signal(gateway.child.id(), Signal::HUP);
                let is_reloaded = holds_within(COMMAND_PATIENCE, || before < n_said());
                assert!(is_reloaded, "{}", gateway.log.framed());
            }
            ("stop", _) => self.gateway = None,
            ("start" | "restart", _) => {
                let unit = fs::read_to_string(root().join("scripts/mcpgate.service")).unwrap();
                let value = |key: &str| {
                    let line = unit.lines().find_map(|line| line.strip_prefix(key)).expect("the unit says it");
                    self.here(line)
                };
                let (start, environment) = (value("ExecStart="), value("Environment="));
                self.start_gateway(&format!("cd {} && {environment} exec {start}", value("WorkingDirectory=")));
            }
            _ => panic!("systemctl {verb}: nothing runs, or this is not known here"),
        }
    }

    /// Starts what goes on beside the gateway.
    pub(super) fn start_other(&mut self, line: &str) {
        self.others.push(self.start(line));
    }

    fn start(&self, line: &str) -> Running {
        let mut shell = self.command("sh");
        shell.arg("-c").arg(if line.contains("exec ") { line.to_owned() } else { with_exec(line) });
        let mut child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Log::of(child.stderr.take().unwrap());
        Running { child, log }
    }

    /// A program as a reader starts it, with what is installed in the tests' way in front of the system's.
    pub(super) fn command(&self, program: &str) -> Command {
        let stand_ins = root().join("tests/clients/stand_ins");
        let path = env::var_os("PATH").unwrap_or_default();
        let front = [self.path("bin"), stand_ins, tools().join("venv/bin")];
        let path = env::join_paths(front.into_iter().chain(env::split_paths(&path))).unwrap();
        let mut command = command(program);
        command.current_dir(self.folder.path()).env("PATH", path).env("HOME", self.folder.path());
        command.env("MCPGATE_TOOLS", tools()).env("no_proxy", "*").env("FASTMCP_CHECK_FOR_UPDATES", "off");
        if !self.says_where_it_listens() {
            command.env("LISTEN", format!("127.0.0.1:{}", self.ports[&8000]));
        }
        command
    }

    /// The key of whoever may do everything here.
    pub(super) fn key(&self) -> String {
        fs::read_to_string(self.path("admin.key")).map_or_else(|_| KEY.to_owned(), |key| key.trim().to_owned())
    }

    /// Whether one of the story's `gateway.conf` has `LISTEN`, which the environment would hide.
    fn says_where_it_listens(&self) -> bool {
        let texts = ["gateway.conf", "etc/mcpgate/gateway.conf"].map(|name| fs::read_to_string(self.path(name)));
        texts.into_iter().flatten().any(|text| text.lines().any(|line| line.starts_with("LISTEN=")))
    }
}

/// What the log says when everything was read again; a change may have been seen before anybody asked.
const RELOADED: &[&str] = &["reloaded: ", "nothing has changed", "are as before"];

/// What is done with a command.
enum Kind {
    /// It is run to its end.
    Ends,
    /// It is the gateway.
    Gateway,
    /// It is run to its end, and no gateway beside it: `mcpgate check` tries the address too.
    Alone,
    /// It goes on, and is no gateway.
    Goes,
    /// `systemctl`, with its verb.
    Service(String),
}

fn kind(line: &str) -> Kind {
    let words = shlex::split(line).unwrap_or_default();
    let is_assignment = |word: &&str| {
        word.split_once('=').is_some_and(|(key, _)| key.bytes().all(|it| it.is_ascii_uppercase() || it == b'_'))
    };
    let words: Vec<&str> = words.iter().map(String::as_str).skip_while(|it| is_assignment(it)).collect();
    match words[..] {
        ["mcpgate"] | ["mcpgate", "serve", ..] => Kind::Gateway,
        ["mcpgate", first, ..] if first.starts_with('-') && !["--help", "--version"].contains(&first) => Kind::Gateway,
        ["mcpgate", "check", ..] => Kind::Alone,
        ["systemctl", "enable", "--now", "mcpgate"] => Kind::Service("start".to_owned()),
        ["systemctl", verb, "mcpgate"] => Kind::Service(verb.to_owned()),
        ["python3", "-m", "http.server", ..] => Kind::Goes,
        _ => Kind::Ends,
    }
}

/// The commands of a block: a line each, or several that belong together.
pub(super) fn commands(code: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut open = String::new();
    for line in code.lines() {
        open.push_str(line);
        let goes_on = line.ends_with('\\') || shlex::split(&open).is_none();
        if goes_on {
            open.push('\n');
            continue;
        }
        let whole = std::mem::take(&mut open);
        if !whole.trim().is_empty() && !whole.starts_with('#') {
            all.push(whole);
        }
    }
    assert!(open.is_empty(), "an open quote:\n{code}");
    all
}

/// The same command in the place of the shell, so that signals reach it.
fn with_exec(line: &str) -> String {
    let settings: usize = line.split_inclusive(' ').take_while(|word| word.contains('=')).map(str::len).sum();
    format!("{}exec {}", &line[..settings], &line[settings..])
}

/// The text with another number where this one stands alone.
fn with_number(text: &str, number: &str, other: &str) -> String {
    let mut changed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(number) {
        let (before, after) = (&rest[..at], &rest[at + number.len()..]);
        let is_alone = !before.ends_with(|it: char| it.is_ascii_alphanumeric() || it == '.')
            && !after.starts_with(|it: char| it.is_ascii_alphanumeric());
        changed.push_str(before);
        changed.push_str(if is_alone { other } else { number });
        rest = after;
    }
    changed + rest
}

/// A port below those that the system gives to others.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let seed = u16::try_from(std::process::id() % u32::from(COUNT)).expect("small");
    for _ in 0..COUNT {
        let port = FIRST + (seed.wrapping_mul(7) % COUNT + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Whether all that a story needs is there.
pub(super) fn has_all(needs: &[&str]) -> bool {
    needs.iter().all(|need| program(need).is_some())
}

#[test]
fn commands_are_told_apart() {
    let code = "# first\na \\\n  b\n\nc 'd\ne'\nf\n";
    assert_eq!(commands(code), ["a \\\n  b", "c 'd\ne'", "f"]);
    assert!(matches!(kind("API_KEY=x mcpgate --port 1 -- a"), Kind::Gateway));
    assert!(matches!(kind("mcpgate key new a"), Kind::Ends) && matches!(kind("mcpgate --version"), Kind::Ends));
    assert_eq!(with_number("a:80 180 80.1 80", "80", "81"), "a:81 180 81.1 81");
}
