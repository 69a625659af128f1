//! Requests of modern clients that a legacy server interrupted with a question, until their client comes back with answers.
//!
//! The server's call goes on running in its worker; the client holds a signed `requestState` that names it. It is bound
//! to the key, the method and the parameters of the request.
//!
//! **Limit.** [`PARKED_MAX`] requests, each for `MCP_REQUEST_TIMEOUT`.
//! **End.** The client comes back, or the time is up, and then the call is taken back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, value::RawValue};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::running::{Asked, Running};
use crate::{
    error::Error,
    mcp::{
        incoming::{Failure, INVALID_PARAMS},
        message::META,
    },
    pool::TakenBack,
    worker::mailbox::{Mailbox, Question},
};

/// Requests that wait for their clients.
const PARKED_MAX: usize = 1024;

/// A request that waits for its client's answers.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) running: Running,
    /// What the client is asked, by key.
    pub(super) questions: Vec<(String, Question)>,
    pub(super) mailbox: Arc<Mailbox>,
    key: Arc<str>,
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ParkedCalls {
    secret: [u8; 32],
    patience: Duration,
    waiting: Mutex<HashMap<String, Parked>>,
    n_states: AtomicU64,
    /// Told when there is a new one, whose time will be up.
    poke: Sender<()>,
}

impl Parked {
    pub(super) fn new(running: Running, questions: Vec<(String, Question)>, mailbox: Arc<Mailbox>) -> Parked {
        Parked { running, questions, mailbox, key: "".into(), until: Instant::now() }
    }

    /// Whether `asked` is the request that was parked, apart from what answers add to it.
    fn is_of(&self, asked: &Asked<'_>) -> bool {
        let bare = |params: Option<&RawValue>| {
            let mut value: Value =
                params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                [META, "inputResponses", "requestState"].iter().for_each(|field| drop(fields.shift_remove(*field)));
            }
            value
        };
        self.running.method == asked.method && bare(self.running.asked_params.as_deref()) == bare(asked.params)
    }
}

impl ParkedCalls {
    /// None yet. `patience` is how long a client is waited for; `poke` wakes whoever sees to the time.
    pub(crate) fn new(patience: Duration, poke: Sender<()>) -> Result<ParkedCalls, Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|cause| Error::Failed {
            what: format!("the system gives no random numbers: {cause}"),
            hint: String::new(),
        })?;
        Ok(ParkedCalls { secret, patience, waiting: Mutex::default(), n_states: AtomicU64::new(0), poke })
    }

    /// Has a request of `key` wait. Returns the state that its client gets; or the request, when too many wait already.
    pub(super) fn put(&self, parked: Parked, key: &Arc<str>) -> Result<String, Box<Parked>> {
        let mut waiting = self.lock();
        if PARKED_MAX <= waiting.len() {
            return Err(Box::new(parked));
        }
        let id = format!("{:x}", self.n_states.fetch_add(1, Ordering::Relaxed));
        let state = format!("{id}.{}", self.sign(&id, key));
        let until = Instant::now() + self.patience;
        waiting.insert(state.clone(), Parked { key: Arc::clone(key), until, ..parked });
        // Full when it was poked already.
        let _ = self.poke.try_send(());
        Ok(state)
    }

    /// The request that a client comes back to. Fails when there is none, or not of this client.
    pub(super) fn take(&self, state: &RawValue, key: &Arc<str>, asked: &Asked<'_>) -> Result<Parked, Failure> {
        let wrong = || Failure::new(INVALID_PARAMS, "`requestState` is not one of this request, or has expired");
        let state: String = serde_json::from_str(state.get()).map_err(|_| wrong())?;
        let mut waiting = self.lock();
        let is_its = |parked: &Parked| {
            let id = state.split('.').next().unwrap_or_default();
            let signed = format!("{id}.{}", self.sign(id, key));
            let is_signed = bool::from(signed.as_bytes().ct_eq(state.as_bytes()));
            is_signed && parked.key == *key && parked.is_of(asked) && Instant::now() < parked.until
        };
        if !waiting.get(&state).is_some_and(is_its) {
            return Err(wrong());
        }
        waiting.remove(&state).ok_or_else(wrong)
    }

    /// Takes back the requests whose clients did not come. Returns when to look again, if any wait.
    pub(super) fn give_up(&self, now: Instant) -> Option<Instant> {
        let late: Vec<Parked> =
            self.lock().extract_if(|_, parked| parked.until <= now).map(|(_, parked)| parked).collect();
        for parked in late {
            parked.running.route.workers.cancel(&parked.running.call, TakenBack::TooLong);
        }
        self.lock().values().map(|parked| parked.until).min()
    }

    fn sign(&self, id: &str, key: &str) -> String {
        // Any length of key will do.
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        mac.update(format!("{id}\n{key}").as_bytes());
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Parked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
