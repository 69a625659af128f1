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
    time::Instant,
};

use crossbeam_channel::Sender;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, value::RawValue};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::running::{Asked, Running};
use crate::{
    config::Live,
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

/// The connection that is cut when a request has more to tell than its client takes: the one that waits for it now.
#[derive(Debug, Default)]
pub(super) struct Leash(Mutex<Option<Arc<Mailbox>>>);

impl Leash {
    /// A mailbox whose client is on this leash.
    pub(super) fn mailbox(leash: &Arc<Leash>, note_bytes_max: usize) -> Arc<Mailbox> {
        let leash = Arc::clone(leash);
        Arc::new(Mailbox::new(note_bytes_max, move || {
            let client = leash.lock().clone();
            client.iter().for_each(|client| client.cut_off());
        }))
    }

    /// The connection that waits at `client` now; `None` while none does.
    pub(super) fn hold(&self, client: Option<&Arc<Mailbox>>) {
        *self.lock() = client.map(Arc::clone);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Mailbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits for its client's answers.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) running: Running,
    /// What the client is asked, by key.
    pub(super) questions: Vec<(String, Question)>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) leash: Arc<Leash>,
    key: Arc<str>,
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ParkedCalls {
    secret: [u8; 32],
    config: Live,
    waiting: Mutex<HashMap<String, Parked>>,
    n_states: AtomicU64,
    /// Told when there is a new one, whose time will be up.
    poke: Sender<()>,
}

impl Parked {
    pub(super) fn new(
        running: Running,
        questions: Vec<(String, Question)>,
        mailbox: Arc<Mailbox>,
        leash: Arc<Leash>,
    ) -> Parked {
        Parked { running, questions, mailbox, leash, key: "".into(), until: Instant::now() }
    }

    /// Whether `asked` is the request that was parked, apart from what answers add to it.
    fn is_of(&self, asked: &Asked<'_>) -> bool {
        let bare = |params: Option<&RawValue>| {
            let mut value: Value = params.map_or(Ok(Value::Null), |params| serde_json::from_str(params.get())).ok()?;
            if let Some(fields) = value.as_object_mut() {
                [META, "inputResponses", "requestState"].iter().for_each(|field| drop(fields.shift_remove(*field)));
            }
            Some(value)
        };
        let (before, now) = (bare(self.running.asked_params.as_deref()), bare(asked.params));
        // Parameters that are too deep to be compared are those of no request.
        self.running.method == asked.method && before.is_some() && before == now
    }
}

impl ParkedCalls {
    /// None yet. `MCP_REQUEST_TIMEOUT` is how long a client is waited for; `poke` wakes whoever sees to the time.
    pub(crate) fn new(config: Live, poke: Sender<()>) -> Result<ParkedCalls, Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|cause| Error::Failed {
            what: format!("the system gives no random numbers: {cause}"),
            hint: String::new(),
        })?;
        Ok(ParkedCalls { secret, config, waiting: Mutex::default(), n_states: AtomicU64::new(0), poke })
    }

    /// Has a request of `key` wait. Returns the state that its client gets; or the request, when too many wait already.
    pub(super) fn put(&self, parked: Parked, key: &Arc<str>) -> Result<String, Box<Parked>> {
        let mut waiting = self.lock();
        if PARKED_MAX <= waiting.len() {
            return Err(Box::new(parked));
        }
        let id = format!("{:x}", self.n_states.fetch_add(1, Ordering::Relaxed));
        let state = format!("{id}.{}", self.sign(&id, key));
        let until = (Instant::now() + self.config.now().request_timeout).min(parked.running.give_up_at(true));
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
