//! The way out: whole messages, one write for each, from any thread.

use std::{
    io::{self, Write},
    sync::{Mutex, OnceLock, PoisonError},
};

use serde_json::Value;

/// The output of one connection. After its first failure it swallows everything.
pub(super) struct Outbox {
    output: Mutex<Box<dyn Write + Send>>,
    failure: OnceLock<io::Error>,
}

impl Outbox {
    pub(super) fn new(output: impl Write + Send + 'static) -> Outbox {
        Outbox { output: Mutex::new(Box::new(output)), failure: OnceLock::new() }
    }

    /// Writes `message` as one line. A failure shows in [`Outbox::has_failed`].
    pub(super) fn send(&self, message: &Value) {
        if self.has_failed() {
            return;
        }
        let mut line = message.to_string();
        line.push('\n');
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let written = output.write_all(line.as_bytes()).and_then(|()| output.flush());
        if let Err(cause) = written {
            // Of several failures the first one tells the story.
            let _ = self.failure.set(cause);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// The first failure, if there was one.
    pub(super) fn result(&self) -> io::Result<()> {
        match self.failure.get() {
            Some(cause) => Err(io::Error::new(cause.kind(), cause.to_string())),
            None => Ok(()),
        }
    }
}
