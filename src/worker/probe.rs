//! Asks a server which it is, in a process of its own: whether it speaks the modern era beside the legacy one.
//!
//! The question is not put to a worker: a server that does not know it may exit or never answer anything again, and one
//! that does will speak that era only from then on (`mcp.md` 3.6).
//!
//! | Thread | Takes from | Gives to | Ends when |
//! | --- | --- | --- | --- |
//! | `{server}-probe` | the answer, or word that nobody wants it any more | whoever asked | the process has ended |
//! | `{server}-probe-out` | child's stdout | `{server}-probe` | end of file, or nudged |
//! | `{server}-probe-err` | child's stderr | the log | end of file, or nudged |
//!
//! **End.** The process is stopped in order as soon as it has answered, after `HEALTH_TIMEOUT` without an answer, or when the
//! gateway stops. The thread that starts it waits for its end, so it is not left behind.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, after, bounded, select};

use super::{
    Plan, handshake, own,
    pipe::{Line, Pipe, Readers},
    process::{self, Started},
    stderr,
};
use crate::{
    error::Error,
    mcp::{
        message::Message,
        revision::{Era, MODERN},
    },
    threads::{self, Joined},
};

/// The id of the question; the process is asked nothing else.
const ID: u64 = 1;

/// A probe under way.
#[derive(Debug)]
pub struct Probe {
    /// Nothing is ever sent here: closed, it says that nobody wants the answer any more.
    wanted: Option<Sender<Infallible>>,
    // Joined last.
    _thread: Joined,
}

impl Probe {
    /// Starts a process of the server and asks it; `tell` hears whether it speaks the modern era.
    ///
    /// Fails when the system has no room for a thread.
    pub fn start(plan: Plan, tell: impl FnOnce(bool) + Send + 'static) -> io::Result<Probe> {
        let (wanted, is_wanted) = bounded(1);
        let name: Arc<str> = format!("{}-probe", plan.server).into();
        let thread = threads::spawn(&*name, {
            let name = Arc::clone(&name);
            move || run(&name, &plan, &is_wanted, tell)
        })?;
        Ok(Probe { wanted: Some(wanted), _thread: thread })
    }

    /// Has the process stop in order, without waiting for it.
    pub fn begin_stop(&mut self) {
        self.wanted = None;
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

fn run(name: &Arc<str>, plan: &Plan, is_wanted: &Receiver<Infallible>, tell: impl FnOnce(bool)) {
    let asked = ask(name, plan, is_wanted, tell);
    if let Err(error) = asked {
        log::warn!("server {} cannot be asked whether it speaks MCP {MODERN}: {error}", plan.server);
    }
}

/// Starts the process, tells what it says, and ends it. `tell` is dropped when that fails.
fn ask(name: &Arc<str>, plan: &Plan, is_wanted: &Receiver<Infallible>, tell: impl FnOnce(bool)) -> Result<(), Error> {
    let timeout = after(plan.config.now().health_timeout);
    let started_at = Instant::now();
    let Started { process, stdin, stdout, stderr } = process::start(name, &plan.command, &plan.config.now().data_dir)?;
    let mut readers = Readers::default();
    let (answer, answers) = bounded(1);
    let mut attached = readers.start(format!("{name}-out"), Pipe::new(stdout), {
        let line_bytes_max = plan.config.now().worker_line_bytes_max;
        move |pipe| pipe.read_lines(line_bytes_max, |line| take(&line, &answer))
    });
    if let (Some(stderr), Ok(())) = (stderr, &attached) {
        let name = Arc::clone(name);
        attached = readers.start(format!("{name}-err"), Pipe::new(stderr), move |pipe| {
            stderr::read(&name, pipe, &stderr::LastLines::default());
        });
    }
    if let Err(cause) = attached {
        drop(stdin);
        process.kill();
        return Err(Error::Failed { what: format!("it cannot be attached to: {cause}"), hint: String::new() });
    }
    let mut stdin = File::from(stdin);
    let mut line = Vec::new();
    own::request(Era::Modern, "server/discover", None).write_to(ID, &mut line);
    // Fails only when the process is gone, and then its stdout ends.
    let _ = stdin.write_all(&line);
    let speaks_modern = select! {
        recv(answers) -> answer => answer.unwrap_or(false),
        recv(timeout) -> _ => false,
        recv(is_wanted) -> _ => false,
    };
    let (verb, ms) = (if speaks_modern { "speaks" } else { "does not speak" }, started_at.elapsed().as_millis());
    log::info!("server {} {verb} MCP {MODERN}: known after {ms} ms", plan.server);
    tell(speaks_modern);
    drop(stdin);
    let ending = process.stop(plan.config.now().stop_grace);
    log::debug!("{name} was stopped: {ending}");
    Ok(())
}

/// Looks whether a line is the answer, and passes on what it says.
fn take(line: &Line<'_>, answer: &Sender<bool>) {
    let line = match line {
        Line::Whole(line) => *line,
        Line::Long(line) => &line[..],
        Line::TooLong(_) => return,
    };
    if let Ok(Message::Response { id: ID, outcome }) = Message::parse(line) {
        // Full when it has answered before, and the first answer counts.
        let _ = answer.try_send(handshake::speaks_modern(outcome));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::*;
    use crate::{
        config::{Command, Config, test_dir::TestDir},
        worker::testing::{plan, shell},
    };

    /// Asks a server that is this line of shell, and waits until its process has ended. What it said, and how long it took
    /// to say so.
    #[track_caller]
    fn ask_shell(script: &str, health_timeout: Duration) -> (Option<bool>, Duration) {
        let dir = TestDir::new();
        let pid_path = dir.path().join("pid");
        let command = shell(&format!("echo $$ > '{}'; {script}", pid_path.display()));
        let said = ask_command(command, Config { health_timeout, ..config(&dir) });
        let pid = fs::read_to_string(pid_path).expect("it was started");
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "{script}: process {pid} is left");
        said
    }

    fn config(dir: &TestDir) -> Config {
        Config { stop_grace: Duration::from_millis(200), data_dir: dir.path().to_owned(), ..Config::default() }
    }

    fn ask_command(command: Command, config: Config) -> (Option<bool>, Duration) {
        let (tell, told) = bounded(1);
        let started_at = Instant::now();
        let probe = Probe::start(plan(command, config), move |verdict| tell.send(verdict).unwrap()).unwrap();
        let verdict = told.recv().ok();
        let after = started_at.elapsed();
        drop(probe);
        (verdict, after)
    }

    #[track_caller]
    fn check(script: &str, verdict: bool) {
        let (said, after) = ask_shell(script, Duration::from_secs(60));
        assert_eq!(said, Some(verdict), "{script}");
        assert!(after < Duration::from_secs(30), "{script}: only after {after:?}");
    }

    /// Reads the question, gives this answer, and waits for the end.
    fn answers(fields: &str) -> String {
        format!(r#"read -r question; echo '{{"jsonrpc":"2.0",{fields}}}'; cat > /dev/null"#)
    }

    #[test]
    fn a_server_that_knows_the_question_speaks_modern_also_when_it_refuses_to_answer_it() {
        check(&answers(r#""id":1,"result":{"supportedVersions":["2026-07-28"],"capabilities":{}}"#), true);
        check(&answers(r#""id":1,"error":{"code":-32022,"message":"m"}"#), true);
        check(&answers(r#""id":1,"error":{"code":-32020,"message":"m"}"#), true);
    }

    #[test]
    fn a_server_that_does_not_know_the_question_does_not() {
        check(&answers(r#""id":1,"error":{"code":-32601,"message":"m"}"#), false);
        check(&answers(r#""id":1,"error":{"code":-32602,"message":"m"}"#), false);
        check(&answers(r#""id":1,"result":{}"#), false);
        check(&answers(r#""id":1,"result":{"supportedVersions":["2025-11-25"]}"#), false);
        check("read -r question; exit 1", false);
        check("exec 1>&-; cat > /dev/null", false);
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        let noise = r#"echo Loading; echo '{"id":2,"result":{}}'; echo '{"id":1,"method":"ping"}'; "#;
        check(&format!("{noise}{}", answers(r#""id":1,"error":{"code":-32022,"message":"m"}"#)), true);
    }

    #[test]
    fn a_silent_server_has_so_long_and_is_ended_also_when_it_does_not_want_to() {
        let (said, after) = ask_shell("trap '' TERM; while :; do sleep 0.05; done", Duration::from_millis(100));
        assert_eq!(said, Some(false));
        assert!(Duration::from_millis(100) <= after && after < Duration::from_secs(30), "{after:?}");
    }

    #[test]
    fn a_gateway_that_stops_does_not_wait_for_an_answer() {
        let dir = TestDir::new();
        let (tell, told) = bounded(1);
        let plan = plan(shell("cat > /dev/null"), config(&dir));
        let mut probe = Probe::start(plan, move |verdict| tell.send(verdict).unwrap()).unwrap();
        probe.begin_stop();
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(false));
    }

    #[test]
    fn the_bundled_server_speaks_modern_and_a_missing_one_says_nothing() {
        let dir = TestDir::new();
        assert_eq!(ask_command(Command::Direct, config(&dir)).0, Some(true));
        let missing = Command::Program {
            program: "/nowhere/server".to_owned(),
            args: Vec::new(),
            env: Default::default(),
            cwd: None,
        };
        assert_eq!(ask_command(missing, config(&dir)).0, None);
    }
}
