//! A terminal for tests: a pty, what a program draws on it, and the keys that somebody presses.
//!
//! The program is started as a login would: in a session of its own whose terminal this is, so that Ctrl-C and a change of the window's size
//! reach it as signals. What it writes is read by `vt100`, as a terminal would show it.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZero,
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    process::Process,
    reply::collect,
    support::{Folder, Launch, PATIENCE, command, holds_within, wait_for_exit},
};

/// Where standard output goes; input and errors are the terminal's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdout {
    Terminal,
    Pipe,
}

/// See the module.
pub(crate) struct Terminal {
    /// The terminal's side.
    keyboard: File,
    /// The program's side, kept open, so that its modes can be looked at after the program has ended.
    tty: OwnedFd,
    before: Termios,
    child: Child,
    drawn: Arc<Mutex<Drawn>>,
    stdout: Option<thread::JoinHandle<String>>,
    _folder: Folder,
}

struct Drawn {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

impl Terminal {
    /// Runs what `launch` says on a terminal of this size.
    pub(crate) fn run(launch: Launch, (rows, columns): (u16, u16), stdout: Stdout) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let tty = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        tcsetwinsize(&ours, size(rows, columns)).unwrap();
        let before = tcgetattr(&tty).unwrap();

        let (mut program, folder) = launch.into_command();
        let side = || Stdio::from(tty.try_clone().unwrap());
        let mut child = in_session(&mut program);
        child.stdin(side()).stderr(side());
        child.stdout(if stdout == Stdout::Pipe { Stdio::piped() } else { side() });
        let mut child = child.spawn().unwrap();
        let stdout = child.stdout.take().map(collect);

        let drawn = Arc::new(Mutex::new(Drawn {
            screen: vt100::Parser::new(non_zero(rows), non_zero(columns), 0),
            bytes: Vec::new(),
        }));
        let keyboard = File::from(ours);
        let mut reader = keyboard.try_clone().unwrap();
        let theirs = Arc::clone(&drawn);
        // Ends with the process of the tests, or when both sides are closed.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n) = reader.read(&mut bytes) {
                let mut drawn = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                drawn.screen.process(&bytes[..n]);
                drawn.bytes.extend_from_slice(&bytes[..n]);
            }
        });
        Terminal { keyboard, tty, before, child, drawn, stdout, _folder: folder }
    }

    fn drawn(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is on the screen now, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    pub(crate) fn text(&self) -> String {
        self.drawn().screen.screen().contents()
    }

    /// Everything that was ever written on it.
    pub(crate) fn everything(&self) -> String {
        String::from_utf8_lossy(&self.drawn().bytes).into_owned()
    }

    /// Whether the other screen is shown, whose content goes away with the program.
    pub(crate) fn is_alternate(&self) -> bool {
        self.drawn().screen.screen().alternate_screen()
    }

    pub(crate) fn hides_cursor(&self) -> bool {
        self.drawn().screen.screen().hide_cursor()
    }

    /// Whether the program gets each key as it is pressed.
    pub(crate) fn is_raw(&self) -> bool {
        !self.modes().contains(LocalModes::ICANON)
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.tty).unwrap().local_modes
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &str) {
        (&self.keyboard).write_all(keys.as_bytes()).unwrap();
    }

    /// Makes the window as large.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.drawn().screen.screen_mut().set_size(non_zero(rows), non_zero(columns));
        tcsetwinsize(&self.keyboard, size(rows, columns)).unwrap();
    }

    /// Waits until the screen shows what `condition` looks for.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        if !holds_within(PATIENCE, || condition(&self.text())) {
            panic!("waited {PATIENCE:?} for: {what}\n--- screen ---\n{}\n--- end ---", self.text());
        }
    }

    /// Waits until the screen shows this text.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_until(text, |screen| screen.contains(text));
    }

    /// Waits until the program has ended, and checks that the terminal is what it was before. Gives its status and what it wrote to a pipe.
    #[track_caller]
    pub(crate) fn end(mut self) -> (ExitStatus, String, Terminal) {
        let status = wait_for_exit(&mut self.child, PATIENCE);
        let status = status.unwrap_or_else(|| panic!("it did not end\n{}", self.text()));
        let after = tcgetattr(&self.tty).unwrap();
        let modes = |it: &Termios| (it.input_modes, it.output_modes, it.control_modes, it.local_modes);
        assert_eq!(modes(&after), modes(&self.before), "the terminal's modes");
        // What it wrote last may still be on its way.
        let is_as_before = || !self.is_alternate() && !self.hides_cursor();
        assert!(holds_within(PATIENCE, is_as_before), "the screen is not as it was\n{}", self.text());
        let stdout = self.stdout.take().map(|it| it.join().unwrap()).unwrap_or_default();
        (status, stdout, self)
    }

    /// The processes below the program.
    pub(crate) fn processes(&self) -> Vec<Process> {
        Process::below(self.pid())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Only when a test has failed; it is our own child.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The same command, in a session of its own.
fn in_session(program: &mut Command) -> Command {
    let mut setsid = command("setsid");
    setsid.env_remove("NO_COLOR").env("TERM", "xterm-256color");
    setsid.arg("--ctty").arg(program.get_program()).args(program.get_args());
    let variables = program.get_envs().map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned)));
    for (key, value) in variables.collect::<Vec<_>>() {
        match value {
            Some(value) => setsid.env(key, value),
            None => setsid.env_remove(key),
        };
    }
    if let Some(folder) = program.get_current_dir() {
        setsid.current_dir(folder);
    }
    setsid
}

fn non_zero(n: u16) -> NonZero<u16> {
    NonZero::new(n).expect("a window has rows and columns")
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
