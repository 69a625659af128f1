//! Every session and every subscription there is, and what servers say that belongs to no request brought to them.
//!
//! **Limit.** `SESSIONS_MAX` sessions, `CONNECTIONS_MAX` subscriptions (each has a connection).
//! **End.** Sessions end when they are idle, see [`Sessions::end_idle`]; subscriptions with their connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    listen::Listen,
    session::{SPARE_AFTER, Session},
    streams::{Replays, Streams},
};
use crate::{
    config::Config,
    error::Error,
    mcp::incoming,
    pool::{Change, Watcher},
    worker::mailbox::Note,
};

/// When somebody may come back who found no room for a session.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    sessions_max: usize,
    untold_bytes_max: usize,
    idle_max: Duration,
    replays: Arc<Replays>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    sessions: HashMap<Arc<str>, Arc<Session>>,
    listens: Vec<Arc<Listen>>,
}

impl Sessions {
    /// None yet.
    pub fn new(config: &Config) -> Arc<Sessions> {
        Arc::new(Sessions {
            sessions_max: config.sessions_max,
            untold_bytes_max: config.stream_queue_bytes,
            idle_max: config.session_idle_timeout,
            replays: Arc::default(),
            open: Mutex::default(),
        })
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Makes room for another session if there is none: the session to end for it, if one must go.
    ///
    /// Fails with [`Error::Overloaded`] when all are in use.
    pub(super) fn make_room(&self) -> Result<Option<Arc<Session>>, Error> {
        let mut open = self.lock();
        if open.sessions.len() < self.sessions_max {
            return Ok(None);
        }
        let now = Instant::now();
        let idle = open.sessions.values().filter_map(|session| Some((session.idle_since()?, session)));
        let spare = idle.filter(|(since, _)| *since + SPARE_AFTER <= now).min_by_key(|(since, _)| *since);
        let Some(id) = spare.map(|(_, session)| Arc::clone(&session.id)) else {
            return Err(Error::Overloaded {
                what: format!("{} sessions are open already", open.sessions.len()),
                hint: "end sessions with DELETE, or raise `SESSIONS_MAX`",
                retry_after: RETRY_AFTER,
            });
        };
        Ok(open.sessions.remove(&id))
    }

    /// Opens a session.
    pub(super) fn open(&self, id: Arc<str>, key: &Arc<str>, scope: Option<&str>, is_old: bool) -> Arc<Session> {
        let streams = Streams::new(self.untold_bytes_max, Arc::clone(&self.replays));
        let session = Arc::new(Session::new(Arc::clone(&id), key, scope, is_old, streams));
        self.lock().sessions.insert(id, Arc::clone(&session));
        session
    }

    /// The session of this id.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.lock().sessions.get(id).cloned()
    }

    /// Takes a session out, so that nobody finds it any more.
    pub(super) fn remove(&self, id: &str) -> Option<Arc<Session>> {
        self.lock().sessions.remove(id)
    }

    /// Takes out the sessions that nobody has used for `SESSION_IDLE_TIMEOUT`. Returns them, and when to look again.
    pub(super) fn take_idle(&self, now: Instant) -> (Vec<Arc<Session>>, Instant) {
        let mut open = self.lock();
        let mut look_again_at = now + self.idle_max;
        let is_idle = |_: &Arc<str>, session: &mut Arc<Session>| match session.idle_since() {
            Some(since) if since + self.idle_max <= now => true,
            Some(since) => {
                look_again_at = look_again_at.min(since + self.idle_max);
                false
            }
            None => false,
        };
        let idle = open.sessions.extract_if(is_idle).map(|(_, session)| session).collect();
        (idle, look_again_at)
    }

    /// Takes all sessions out.
    pub(super) fn take_all(&self) -> Vec<Arc<Session>> {
        self.lock().sessions.drain().map(|(_, session)| session).collect()
    }

    /// Tells a subscriber from now on.
    pub(super) fn add_listen(&self, listen: &Arc<Listen>) {
        self.lock().listens.push(Arc::clone(listen));
    }

    /// The reverse.
    pub(super) fn remove_listen(&self, listen: &Arc<Listen>) {
        self.lock().listens.retain(|it| !Arc::ptr_eq(it, listen));
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message that tells a client of a change.
pub(super) fn message_of(change: &Change) -> String {
    let (method, params) = match change {
        Change::Tools => ("notifications/tools/list_changed", None),
        Change::Prompts => ("notifications/prompts/list_changed", None),
        Change::Resources => ("notifications/resources/list_changed", None),
        Change::Resource { params, .. } => ("notifications/resources/updated", Some(params.get())),
    };
    incoming::notification(method, params)
}

impl Watcher for Sessions {
    fn changed(&self, server: &Arc<str>, whose: Option<(&str, &str)>, change: &Change) {
        let (sessions, listens) = {
            let open = self.lock();
            let sessions: Vec<Arc<Session>> = match whose {
                Some((key, id)) => {
                    open.sessions.get(id).filter(|session| &*session.key == key).cloned().into_iter().collect()
                }
                None => open.sessions.values().filter(|session| !session.has_own(server)).cloned().collect(),
            };
            let listens = if whose.is_none() { open.listens.clone() } else { Vec::new() };
            (sessions, listens)
        };
        let is_in_scope = |scope: Option<&str>| scope.is_none_or(|scope| scope == &**server);
        for session in sessions.iter().filter(|session| is_in_scope(session.scope.as_deref())) {
            let is_wanted = match change {
                Change::Resource { uri, .. } => session.is_subscribed(server, uri),
                _ => true,
            };
            if is_wanted {
                session.streams.push_once(message_of(change));
            }
        }
        listens.iter().filter(|listen| is_in_scope(listen.scope())).for_each(|listen| listen.tell(server, change));
    }

    fn heard(&self, _server: &Arc<str>, (key, id): (&str, &str), note: Note) -> bool {
        let session = self.get(id).filter(|session| &*session.key == key);
        session.is_some_and(|session| session.hear(note))
    }
}
