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
    config::Live,
    error::Error,
    mcp::incoming,
    pool::{Change, Watcher, Whose},
    worker::mailbox::Note,
};

/// When somebody may come back who found no room for a session.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    config: Live,
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
    pub fn new(config: Live) -> Arc<Sessions> {
        Arc::new(Sessions { config, replays: Arc::default(), open: Mutex::default() })
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Fails with [`Error::Overloaded`] when there is no room for another session, and none that can make room.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        self.spare(&self.lock()).map(drop)
    }

    /// Opens a session, in the place of one that has been idle longest if there is no other; that one is to be ended now.
    ///
    /// Fails as [`Sessions::check_room`] does.
    pub(super) fn open(
        &self,
        id: Arc<str>,
        key: &Arc<str>,
        scope: Option<&str>,
        is_old: bool,
    ) -> Result<(Arc<Session>, Option<Arc<Session>>), Error> {
        let mut open = self.lock();
        let given_up = self.spare(&open)?.and_then(|id| open.sessions.remove(&id));
        let streams = Streams::new(self.config.now().stream_queue_bytes, Arc::clone(&self.replays));
        let session = Arc::new(Session::new(Arc::clone(&id), key, scope, is_old, streams));
        open.sessions.insert(id, Arc::clone(&session));
        Ok((session, given_up))
    }

    /// The session that must go for another one, if there is no room without.
    fn spare(&self, open: &Open) -> Result<Option<Arc<str>>, Error> {
        if open.sessions.len() < self.config.now().sessions_max {
            return Ok(None);
        }
        let now = Instant::now();
        let idle = open.sessions.values().filter_map(|session| Some((session.idle_since()?, session)));
        let spare = idle.filter(|(since, _)| *since + SPARE_AFTER <= now).min_by_key(|(since, _)| *since);
        spare.map(|(_, session)| Some(Arc::clone(&session.id))).ok_or_else(|| Error::Overloaded {
            what: format!("{} sessions are open already", open.sessions.len()),
            hint: "end sessions with DELETE, or raise `SESSIONS_MAX`",
            retry_after: RETRY_AFTER,
        })
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
        let idle_max = self.config.now().session_idle_timeout;
        let mut open = self.lock();
        let mut look_again_at = now + idle_max;
        let is_idle = |_: &Arc<str>, session: &mut Arc<Session>| match session.idle_since() {
            Some(since) if since + idle_max <= now => true,
            Some(since) => {
                look_again_at = look_again_at.min(since + idle_max);
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
    fn changed(&self, server: &Arc<str>, whose: &Whose, change: &Change) {
        let (sessions, listens) = {
            let open = self.lock();
            let hears = |session: &&Arc<Session>| match whose {
                Whose::Everybody => !session.has_own(server),
                Whose::Key(key) => session.key == *key,
                Whose::Session { key, session: id } => session.key == *key && session.id == *id,
            };
            let sessions: Vec<Arc<Session>> = open.sessions.values().filter(hears).cloned().collect();
            let listens: Vec<Arc<Listen>> = open.listens.iter().filter(|listen| listen.hears(whose)).cloned().collect();
            (sessions, listens)
        };
        let is_in_scope = |scope: Option<&str>| scope.is_none_or(|scope| scope == &**server);
        for session in sessions.iter().filter(|session| is_in_scope(session.scope.as_deref())) {
            let is_wanted = match change {
                Change::Resource { uri, .. } => session.is_subscribed(server, uri),
                // Before `initialize` nothing is told.
                _ => session.agreed().is_some(),
            };
            if is_wanted {
                session.streams.push_once(message_of(change));
            }
        }
        listens.iter().filter(|listen| is_in_scope(listen.scope())).for_each(|listen| listen.tell(server, change));
    }

    fn regrouped(&self) {
        let (sessions, listens) = {
            let open = self.lock();
            let is_of_all = |scope: Option<&str>| scope.is_none();
            let sessions: Vec<_> =
                open.sessions.values().filter(|it| is_of_all(it.scope.as_deref())).cloned().collect();
            let listens: Vec<_> = open.listens.iter().filter(|it| is_of_all(it.scope())).cloned().collect();
            (sessions, listens)
        };
        for change in [Change::Tools, Change::Prompts, Change::Resources] {
            for session in sessions.iter().filter(|session| session.agreed().is_some()) {
                session.streams.push_once(message_of(&change));
            }
            listens.iter().for_each(|listen| listen.tell(&Arc::from(""), &change));
        }
    }

    fn heard(&self, _server: &Arc<str>, (key, id): (&str, &str), note: Note) -> bool {
        let session = self.get(id).filter(|session| &*session.key == key);
        session.is_some_and(|session| session.hear(note))
    }
}
