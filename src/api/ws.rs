//! `/ws` and `/ws/tools/{name}`: calls on a WebSocket, several at once, told apart by `id`.
//!
//! Here is how one is opened. tungstenite speaks the protocol (RFC 6455); what is said over it is decided in `conversation.rs`, with
//! the words of `wording.rs`, and how the socket is waited on in `http`.

use std::{io, sync::Arc};

use rustix::event::EventfdFlags;
use tungstenite::handshake::derive_accept_key;

use super::{Api, RawOutlet, Request, exchange::WEBSOCKET_VERSION, routes::Found};
use crate::{
    access::{Address, Principal},
    error::Error,
    mcp::trace::Trace,
    worker::mailbox::Mailbox,
};

mod conversation;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod relay;
mod wording;

pub use conversation::{Conversation, Pause};

/// A socket that is about to be spoken over.
#[derive(Debug)]
pub struct Socket {
    api: Arc<Api>,
    scope: Option<String>,
    principal: Arc<Principal>,
    /// The session that all calls here belong to.
    session: Option<String>,
    /// The trace that its calls belong to which do not say otherwise.
    trace: Option<Arc<Trace>>,
    client: Arc<Mailbox>,
    address: Arc<Address>,
    request_id: String,
    /// The tool of `/ws/tools/{name}`.
    tool: Option<String>,
    /// The answer to the client's key.
    pub accept: String,
}

impl Api {
    /// Checks the handshake, and that the tool exists and may be used.
    pub(super) fn open_socket(
        self: &Arc<Api>,
        found: &Found,
        principal: &Arc<Principal>,
        session: Option<&str>,
        request: &Request<'_>,
    ) -> Result<Socket, Error> {
        let Found { scope, name: tool, .. } = found;
        let has = |name: &str, wanted: &str| {
            let value = request.header(name).unwrap_or_default();
            value.split(',').any(|it| it.trim().eq_ignore_ascii_case(wanted))
        };
        if !has("Upgrade", "websocket") || !has("Connection", "upgrade") {
            return Err(Error::UpgradeRequired {
                what: "this is a WebSocket; the request has no `Upgrade: websocket`",
            });
        }
        if request.header("Sec-WebSocket-Version") != Some(WEBSOCKET_VERSION) {
            return Err(Error::UpgradeRequired { what: "only version 13 of the WebSocket protocol is spoken here" });
        }
        if request.head.version != (1, 1) {
            return Err(Error::UpgradeRequired { what: "a WebSocket needs HTTP/1.1" });
        }
        // 16 bytes in base64.
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        let is_key = |key: &&str| {
            let digits = key.strip_suffix("==");
            digits.is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_base64))
        };
        let Some(key) = request.header("Sec-WebSocket-Key").filter(is_key) else {
            return Err(Error::BadRequest { what: "`Sec-WebSocket-Key`: expected 16 bytes in base64".to_owned() });
        };
        if let Some(tool) = tool {
            let target =
                self.servers.find(scope.as_deref(), tool, self.config.now().request_timeout, request.client)?;
            self.check_allowed(principal, &target)?;
        }
        Ok(Socket {
            api: Arc::clone(self),
            scope: scope.clone(),
            principal: Arc::clone(principal),
            session: session.map(str::to_owned),
            trace: request.trace.map(Arc::clone),
            client: Arc::clone(request.client),
            address: Arc::clone(request.address),
            request_id: request.id.to_owned(),
            tool: tool.clone(),
            accept: derive_accept_key(key.as_bytes()),
        })
    }
}

impl Socket {
    /// Begins to speak. `read_ahead` came together with the handshake; through `outlet` others may write. Fails when the system has no
    /// room for another eventfd.
    pub fn begin(self, outlet: Option<Arc<dyn RawOutlet>>, read_ahead: Vec<u8>) -> io::Result<Conversation> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Conversation::new(self, Arc::new(bell), outlet, read_ahead))
    }
}
