//! The end of a call on a WebSocket: put into messages in a turn of the conversation, or, when it is the only call there, by the thread
//! that has its result, so that nobody else need wake up for it.
//!
//! The conversation leaves the call in its mailbox behind a turn, and takes it back before it writes anything in the next, so
//! messages never mix, and what happened in a call comes before its end.
//!
//! **Limit.** Results of at most [`RESULT_BYTES_MAX`]: nobody is to hold up the results of others by long ones.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use super::{
    Socket,
    wording::{beginning, chunk_text, error_text},
};
use crate::{
    api::{RawOutlet, calls::Prepared, json::Json},
    error::Error,
    worker::mailbox::{Ended, Leftover, Relay, Taken},
};

/// See the module.
pub(super) const RESULT_BYTES_MAX: usize = 16 * 1024;

/// Room for the messages of a short result.
const FRAMES_BYTES: usize = 768;

/// A call, as far as its end needs it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) socket: Arc<Socket>,
    pub(super) outlet: Option<Arc<dyn RawOutlet>>,
    /// The client's own id, raw.
    pub(super) id: String,
    /// Taken by whoever deals with the end.
    pub(super) prepared: Mutex<Option<Prepared>>,
    /// That it has started, until that is told.
    pub(super) untold: Mutex<Option<String>>,
    /// Its server streams the items of its result itself.
    pub(super) has_chunks: AtomicBool,
}

impl Shared {
    /// Looks at the call, unless its end has been dealt with.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Prepared) -> T) -> Option<T> {
        self.prepared().as_ref().map(look)
    }

    /// Takes the call, for its end.
    pub(super) fn take(&self) -> Option<Prepared> {
        self.prepared().take()
    }

    /// Takes what was not told yet.
    pub(super) fn take_untold(&self) -> Option<String> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts the end of a call, and tells of it with `tell`, message by message.
    pub(super) fn conclude<E>(
        &self,
        prepared: &Prepared,
        ended: Ended,
        mut tell: impl FnMut(String) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut chunks: Vec<String> = Vec::new();
        let worker = ended.worker.clone();
        let told = prepared.workers.answered(ended).and_then(|answered| {
            let result = prepared.read(&answered)?;
            if !self.has_chunks.load(Ordering::Relaxed) {
                chunks = result.items().unwrap_or_default().into_iter().map(Cow::into_owned).collect();
            }
            let mut success = Json::copied();
            beginning("complete", &self.id).into_iter().for_each(|part| success.push(part));
            success.push(",");
            prepared.success(&answered, &result, &self.socket.request_id).push(&mut success);
            Ok(success.into_string())
        });
        self.socket.api.count_end(
            prepared,
            &self.socket.request_id,
            worker.as_deref(),
            told.as_ref().err().map(Error::code),
        );
        for (index, item) in chunks.iter().enumerate() {
            tell(chunk_text(&self.id, index, item))?;
        }
        match told {
            Ok(success) => tell(success),
            Err(error) => tell(error_text(Some(&self.id), &error)),
        }
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay for Shared {
    fn take(&self, ended: Ended) -> Taken {
        let is_short = ended.outcome.as_ref().is_ok_and(|raw| raw.get().len() <= RESULT_BYTES_MAX);
        let Some(outlet) = self.outlet.as_ref().filter(|_| is_short) else { return Taken::Not(ended) };
        let Some(prepared) = Shared::take(self) else { return Taken::Not(ended) };
        let mut frames = Vec::with_capacity(FRAMES_BYTES);
        let mut put = |text: String| {
            let frame = Frame::message(text, OpCode::Data(Data::Text), true);
            frame.format(&mut frames)
        };
        let concluded = catch_unwind(AssertUnwindSafe(|| {
            self.take_untold().map_or(Ok(()), &mut put)?;
            self.conclude(&prepared, ended, &mut put)
        }));
        // Its place is free before its client can know.
        drop(prepared);
        Taken::Done(match concluded {
            Ok(Ok(())) => outlet.write(frames),
            Ok(Err(_)) => Leftover::Gone,
            Err(_) => {
                log::error!(
                    "the gateway failed while it served request {}; the panic stands above",
                    self.socket.request_id
                );
                Leftover::Gone
            }
        })
    }
}
