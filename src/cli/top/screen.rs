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
