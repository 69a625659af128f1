//! The terminal while it is ours: the other screen, each key as it is pressed, no cursor; and as it was, whatever happens.
//!
//! **End.** Dropping [`Screen`] gives everything back; so does a panic in any thread, before its message is printed. Only SIGKILL leaves no time for it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    panic,
    sync::{Mutex, PoisonError},
};

use rustix::{
    process::{Signal, kill_current_process_group},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

use super::view::Line;
use crate::{cli::terminal::Size, error::Error};

/// The other screen, which keeps what is on the first; no cursor; lines that are too long end at the edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";

/// The same backwards, and no colour.
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The modes that the terminal had, while it is ours.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    is_coloured: bool,
}

impl Screen {
    /// Takes the terminal of standard input and output.
    pub(super) fn take(is_coloured: bool) -> Result<Screen, Error> {
        let default_hook = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            give_back();
            default_hook(about);
        }));
        enter()?;
        Ok(Screen { is_coloured })
    }

    /// Shows these lines and nothing else.
    pub(super) fn show(&self, lines: &[Line], size: Size) -> Result<(), Error> {
        let mut frame = String::new();
        for (row, line) in lines.iter().take(size.rows).enumerate() {
            // Writing to a string has no way to fail.
            let _ = write!(frame, "\x1b[{};1H{}\x1b[0m\x1b[K", row + 1, line.drawn(size.columns, self.is_coloured));
        }
        if lines.len() < size.rows {
            let _ = write!(frame, "\x1b[{};1H\x1b[J", lines.len() + 1);
        }
        write_out(&frame)
    }

    /// Takes the terminal again, when somebody else may have had it.
    pub(super) fn take_again(&self) -> Result<(), Error> {
        give_back();
        enter()
    }

    /// Gives the terminal back until somebody wants this program to go on.
    pub(super) fn suspend(&self) -> Result<(), Error> {
        give_back();
        // The whole job, as Ctrl-Z does. It goes on here.
        let _ = kill_current_process_group(Signal::TSTP);
        enter()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> Result<(), Error> {
    let failed = |cause: io::Error| Error::Failed {
        what: format!("the terminal cannot be used: {cause}"),
        hint: "`--once` prints how things are now".to_owned(),
    };
    let modes = tcgetattr(io::stdin()).map_err(|cause| failed(cause.into()))?;
    let mut raw = modes.clone();
    raw.make_raw();
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(modes);
    tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(|cause| failed(cause.into()))?;
    write_out(ENTER)
}

/// Makes the terminal what it was. Does nothing when it is.
fn give_back() {
    let Some(modes) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    // Both fail only when there is no terminal any more.
    let _ = write_out(LEAVE);
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
}

fn write_out(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|cause| Error::Failed { what: format!("cannot draw: {cause}"), hint: String::new() })
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::File,
        io::Read as _,
        process::{Command, Stdio},
        thread,
    };

    use rustix::{
        fs::{Mode, OFlags, open},
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    };

    use super::*;

    /// Says that this process is the one that is to panic.
    const MARK: &str = "MCPGATE_TEST_PANICS";

    /// The process of the test starts itself once more, on a terminal.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "it waits for what it starts")]
    fn a_panic_gives_the_terminal_back_before_its_message() {
        if env::var_os(MARK).is_some() {
            // Without the guard, so that it is the hook that is seen.
            std::mem::forget(Screen::take(false).unwrap());
            panic!("on purpose");
        }
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let modes = || {
            let modes = tcgetattr(&theirs).unwrap();
            (modes.input_modes, modes.output_modes, modes.local_modes)
        };
        let before = modes();
        let side = || Stdio::from(theirs.try_clone().unwrap());
        let test = "cli::top::screen::tests::a_panic_gives_the_terminal_back_before_its_message";
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(MARK, "1").env("RUST_BACKTRACE", "0");
        let mut child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        // It has their side too.
        drop(command);
        let reader = thread::Builder::new().spawn(move || {
            let (mut ours, mut said, mut bytes) = (File::from(ours), Vec::new(), [0; 4096]);
            // Fails when nobody has the other side any more.
            while let Ok(n) = ours.read(&mut bytes) {
                said.extend_from_slice(&bytes[..n]);
            }
            String::from_utf8_lossy(&said).into_owned()
        });
        assert!(!child.wait().unwrap().success(), "it fails");
        assert_eq!(modes(), before);
        drop(theirs);
        let said = reader.unwrap().join().unwrap();
        let [entered, left, message] = ["\x1b[?1049h", "\x1b[?1049l", "on purpose"].map(|it| said.find(it));
        assert!(entered.is_some() && entered < left && left < message, "{said:?}");
    }
}
