//! `subscriptions/listen`: what a client of the modern era wants to hear of changes, for as long as its connection lives.
//!
//! Every message names the subscription: the id of its request. Facts: `mcp.md` 2.5.
//!
//! **Limit.** `STREAM_QUEUE_BYTES` of what was not told yet; a client further behind is cut off.
//! **End.** The client goes away, its key is not valid any more, or the gateway stops, and then the request is answered.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    plan::Party,
    sessions::{Sessions, message_of},
    streams::push_data,
};
use crate::{
    access::Principal,
    api::{Api, exchange::Events},
    mcp::{incoming, message::META, raw, revision},
    pool::{Change, Lease, Whose},
    worker::mailbox::{Mailbox, Wake},
};

/// What a client wants to hear of. Wire names of MCP 2026-07-28.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Wanted {
    pub(super) tools_list_changed: bool,
    pub(super) prompts_list_changed: bool,
    pub(super) resources_list_changed: bool,
    pub(super) resource_subscriptions: Vec<String>,
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Listen {
    scope: Option<String>,
    key: Arc<str>,
    session: Option<Arc<str>>,
    wanted: Wanted,
    /// The servers of the resources it watches.
    watched: Vec<(Arc<str>, String)>,
    /// The id of its request, raw.
    id: String,
    mailbox: Arc<Mailbox>,
    state: Mutex<Untold>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Untold {
    messages: VecDeque<String>,
    bytes: usize,
}

/// Workers that watch a resource, its server and its uri.
pub(super) type Subscribed = (Lease, Arc<str>, String);

/// A subscription that is being told.
#[derive(Debug)]
pub(super) struct Listening<'a> {
    api: &'a Api,
    principal: &'a Principal,
    sessions: Arc<Sessions>,
    listen: Arc<Listen>,
    quiet_max: Duration,
    subscribed: Vec<Subscribed>,
}

impl Wanted {
    /// Whether changes of lists are wanted.
    fn wants(&self, change: &Change) -> bool {
        match change {
            Change::Tools => self.tools_list_changed,
            Change::Prompts => self.prompts_list_changed,
            Change::Resources => self.resources_list_changed,
            Change::Resource { .. } => false,
        }
    }

    /// As the acknowledgement names it.
    fn to_json(&self) -> String {
        let mut fields = Vec::new();
        let flags = [
            ("toolsListChanged", self.tools_list_changed),
            ("promptsListChanged", self.prompts_list_changed),
            ("resourcesListChanged", self.resources_list_changed),
        ];
        fields.extend(flags.iter().filter(|(_, is_wanted)| *is_wanted).map(|(name, _)| format!("\"{name}\":true")));
        if !self.resource_subscriptions.is_empty() {
            let uris: Vec<_> = self.resource_subscriptions.iter().map(|uri| raw::quoted(uri)).collect();
            fields.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        format!("{{{}}}", fields.join(","))
    }
}

impl Listen {
    /// The server it is about; `None` for all.
    pub(super) fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Whether it is to hear what these workers say.
    pub(super) fn hears(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Everybody => true,
            Whose::Key(key) => self.key == *key,
            Whose::Session { key, session } => self.key == *key && self.session.as_ref() == Some(session),
        }
    }

    /// Has the client told of a change at `server`, if it wants to hear of such.
    pub(super) fn tell(&self, server: &Arc<str>, change: &Change) {
        let is_wanted = match change {
            Change::Resource { uri, .. } => self.watched.iter().any(|(its, watched)| its == server && watched == uri),
            _ => self.wanted.wants(change),
        };
        if !is_wanted {
            return;
        }
        let params = match change {
            Change::Resource { params, .. } => params.clone(),
            _ => raw::object(""),
        };
        let message = with_params(&message_of(change), &self.tagged(&params));
        let mut untold = self.lock();
        // One that waits to be told says the same.
        if untold.messages.contains(&message) {
            return;
        }
        untold.bytes += message.len();
        untold.messages.push_back(message);
        let is_too_far_behind = self.bytes_max < untold.bytes;
        drop(untold);
        if is_too_far_behind {
            log::warn!("a subscriber is more than {} bytes behind and is cut off", self.bytes_max);
            return self.mailbox.cut_off();
        }
        self.mailbox.nudge();
    }

    /// Parameters with the subscription's id in their `_meta`.
    fn tagged(&self, params: &RawValue) -> Box<RawValue> {
        let empty = raw::object("");
        let meta = raw::field(params, META).unwrap_or(&empty);
        raw::with(params, META, raw::with(meta, revision::SUBSCRIPTION_ID_KEY, &self.id).get())
    }

    fn take(&self) -> Vec<String> {
        let mut untold = self.lock();
        untold.bytes = 0;
        untold.messages.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Untold> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Listening<'a> {
    /// Subscribes a client by its request with this raw id. `wanted` is what can be had of what it wants; `subscribed` are
    /// the workers that watch resources for it, with their server and uri.
    pub(super) fn begin(party: &Party<'a>, id: &str, wanted: Wanted, subscribed: Vec<Subscribed>) -> Listening<'a> {
        let Party { api, scope, mailbox, .. } = party;
        let listen = Arc::new(Listen {
            scope: scope.map(str::to_owned),
            key: Arc::clone(&party.principal.name),
            session: party.session.clone(),
            wanted,
            watched: subscribed.iter().map(|(_, server, uri)| (Arc::clone(server), uri.clone())).collect(),
            id: id.to_owned(),
            mailbox: Arc::clone(mailbox),
            state: Mutex::default(),
            bytes_max: api.config.now().stream_queue_bytes,
        });
        let empty = raw::object(&format!(r#""notifications":{}"#, listen.wanted.to_json()));
        let acknowledged =
            incoming::notification("notifications/subscriptions/acknowledged", Some(listen.tagged(&empty).get()));
        // Before it can hear of anything.
        listen.lock().messages.push_back(acknowledged);
        api.sessions.add_listen(&listen);
        subscribed.iter().for_each(|(workers, _, uri)| workers.subscribe(uri, None));
        let sessions = Arc::clone(&api.sessions);
        Listening { api, principal: party.principal, sessions, listen, quiet_max: api.next_quiet_max(), subscribed }
    }
}

impl Events for Listening<'_> {
    fn run(self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
        let mut quiet_since = Instant::now();
        let mut bytes = Vec::new();
        // A key that was taken away hears nothing more.
        while self.api.check_still(self.principal).is_ok() {
            self.listen.take().iter().for_each(|message| push_data(&mut bytes, message));
            let client = &self.listen.mailbox;
            if client.is_draining() {
                let result = self.listen.tagged(&raw::object(r#""resultType":"complete""#));
                push_data(&mut bytes, &incoming::result(&self.listen.id, result.get()));
                return Ok(bytes);
            }
            if !bytes.is_empty() {
                write(&bytes)?;
                bytes.clear();
                quiet_since = Instant::now();
            }
            match client.wait(quiet_since + self.quiet_max) {
                Wake::Event(_) => {}
                Wake::Deadline => bytes.extend_from_slice(b": keep-alive\n\n"),
                Wake::Closed if client.is_draining() => {}
                Wake::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.sessions.remove_listen(&self.listen);
        self.subscribed.iter().for_each(|(workers, _, uri)| workers.unsubscribe(uri, None));
    }
}

/// A notification with other parameters.
fn with_params(message: &str, params: &RawValue) -> String {
    let message = raw::from_bytes(message.into()).unwrap_or_default();
    raw::with(&message, "params", params.get()).get().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(wanted: &str) -> Listen {
        Listen {
            scope: None,
            key: "k".into(),
            session: None,
            watched: vec![("s".into(), "x:1".to_owned())],
            wanted: serde_json::from_str(wanted).unwrap(),
            id: "\"7\"".to_owned(),
            mailbox: Arc::default(),
            state: Mutex::default(),
            bytes_max: 1000,
        }
    }

    #[test]
    fn a_subscriber_hears_what_it_asked_for_with_the_id_of_its_request() {
        let listen = listen(r#"{"toolsListChanged":true,"resourceSubscriptions":["x:1"]}"#);
        let server: Arc<str> = "s".into();
        let params = RawValue::from_string(r#"{"uri":"x:1","_meta":{"k":1}}"#.to_owned()).unwrap();
        listen.tell(&server, &Change::Tools);
        listen.tell(&server, &Change::Tools);
        listen.tell(&server, &Change::Prompts);
        listen.tell(&server, &Change::Resource { uri: "x:2".to_owned(), params: params.clone() });
        listen.tell(&server, &Change::Resource { uri: "x:1".to_owned(), params });
        assert_eq!(
            listen.take(),
            [
                concat!(
                    r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","#,
                    r#""params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"7"}}}"#
                ),
                concat!(
                    r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:1","#,
                    r#""_meta":{"k":1,"io.modelcontextprotocol/subscriptionId":"7"}}}"#
                ),
            ]
        );
        assert_eq!(listen.wanted.to_json(), r#"{"toolsListChanged":true,"resourceSubscriptions":["x:1"]}"#);
    }
}
