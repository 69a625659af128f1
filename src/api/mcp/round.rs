//! Answers that are gathered from a client of the legacy era for a result of a modern server that asked for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::worker::mailbox::Mailbox;

/// An answer under its key: a result, or an error object.
pub(super) type Answer = (String, Result<String, String>);

/// See the module.
#[derive(Debug)]
pub(super) struct Round {
    answers: Mutex<Vec<Answer>>,
    wanted: usize,
    mailbox: Arc<Mailbox>,
}

impl Round {
    /// A round that wants this many answers, which whoever waits at `mailbox` hears of.
    pub(super) fn new(wanted: usize, mailbox: &Arc<Mailbox>) -> Arc<Round> {
        Arc::new(Round { answers: Mutex::default(), wanted, mailbox: Arc::clone(mailbox) })
    }

    /// All answers by key, each a result or an error object, when they are complete.
    pub(super) fn answers(&self) -> Option<Vec<Answer>> {
        let answers = self.lock();
        (answers.len() == self.wanted).then(|| answers.clone())
    }

    /// Notes an answer.
    pub(super) fn put(&self, key: String, answer: Result<String, String>) {
        self.lock().push((key, answer));
        self.mailbox.nudge();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
