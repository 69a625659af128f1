//! What is said of the servers in scope when a client asks who is there: the results of `initialize` and
//! `server/discover`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{Trouble, plan::Party};
use crate::{
    error::Error,
    mcp::{
        eras, raw,
        revision::{self, Era},
    },
    pool::{Lease, Pool},
    worker::ServerInfo,
};

/// Longest wait for servers that are still starting, when others are there.
const STARTING_WAIT: Duration = Duration::from_secs(5);

/// Capabilities that a key for some tools has nothing of.
const FOR_EVERY_KEY: [&str; 2] = ["tools", "logging"];

/// What the gateway calls itself where it speaks for several servers.
pub(super) fn gateway_info() -> Box<RawValue> {
    raw::object(&format!(r#""name":"mcpgate","version":"{}""#, env!("CARGO_PKG_VERSION")))
}

/// Workers that belong to one session alone, by server.
pub(super) type Own = Vec<(Arc<str>, Lease)>;

/// The servers in scope as their clients are told of them.
pub(super) struct Offers {
    infos: Vec<(Arc<str>, Arc<ServerInfo>)>,
    /// Workers that belong to the session alone, by server.
    pub(super) own: Own,
    is_one: bool,
    is_restricted: bool,
}

impl Offers {
    /// Asks every server in scope who it is; those that are still starting are waited for.
    ///
    /// Fails when the only one cannot be asked, or none of several.
    pub(super) fn gather(party: &Party<'_>) -> Result<Offers, Trouble> {
        let pools = party.pools();
        let is_one = pools.len() == 1;
        let patience = if is_one { party.limits().silence_max } else { party.limits().silence_max.min(STARTING_WAIT) };
        let deadline = Instant::now() + patience;
        let mut offers =
            Offers { infos: Vec::new(), own: Vec::new(), is_one, is_restricted: !party.principal.may_use_everything() };
        let mut failure = None;
        for pool in pools {
            match offers.ask(party, &pool, deadline) {
                Ok(()) => {}
                Err(_) if party.mailbox.is_closed() => return Err(Trouble::Gone),
                Err(error) => {
                    log::warn!("server {} is left out for now: {error}", pool.server());
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if offers.infos.is_empty() => Err(error.into()),
            _ => Ok(offers),
        }
    }

    fn ask(&mut self, party: &Party<'_>, pool: &Pool, deadline: Instant) -> Result<(), Error> {
        let workers = party.lease(pool)?;
        let info = workers.info_by(deadline, &party.mailbox)?;
        self.infos.push((Arc::clone(pool.server()), info));
        if workers.is_own() && party.era == Era::Legacy {
            self.own.push((Arc::clone(pool.server()), workers));
        }
        Ok(())
    }

    /// Whether a server here has this capability.
    pub(super) fn any(&self, has: impl Fn(&ServerInfo) -> bool) -> bool {
        self.infos.iter().any(|(_, info)| has(info))
    }

    /// The result of `initialize` for a client that speaks `revision`.
    pub(super) fn initialize(&self, revision: &str) -> Box<RawValue> {
        let server_info = self.server_info();
        let instructions = self.instructions().map_or(String::new(), |it| format!(r#","instructions":{it}"#));
        raw::object(&format!(
            r#""protocolVersion":"{revision}","capabilities":{},"serverInfo":{}{instructions}"#,
            self.capabilities(Era::Legacy),
            server_info.get()
        ))
    }

    /// The result of `server/discover`.
    pub(super) fn discover(&self) -> Box<RawValue> {
        let instructions = self.instructions().map_or(String::new(), |it| format!(r#","instructions":{it}"#));
        let result = raw::object(&format!(
            r#""supportedVersions":["{}"],"capabilities":{}{instructions}"#,
            revision::MODERN,
            self.capabilities(Era::Modern)
        ));
        eras::to_modern("server/discover", &result, Some(&self.server_info()))
    }

    fn server_info(&self) -> Box<RawValue> {
        let only = self.infos.first().filter(|_| self.is_one);
        only.and_then(|(_, info)| info.server_info.clone()).unwrap_or_else(gateway_info)
    }

    /// JSON.
    fn instructions(&self) -> Option<String> {
        let said = self.infos.iter().filter_map(|(server, info)| Some((server, info.instructions.as_ref()?)));
        let texts: Vec<String> = if self.is_one {
            said.map(|(_, text)| text.clone()).collect()
        } else {
            said.map(|(server, text)| format!("# {server}\n\n{text}")).collect()
        };
        (!texts.is_empty()).then(|| raw::quoted(&texts.join("\n\n")))
    }

    /// JSON: what one server has, or what any of several has. A list of several changes when a server comes or goes.
    fn capabilities(&self, era: Era) -> String {
        let mut merged: Vec<(String, String)> = Vec::new();
        for (server, info) in &self.infos {
            let is_own = self.own.iter().any(|(it, _)| it == server);
            let Some(fields) = raw::Fields::read(&info.capabilities) else { continue };
            for (name, value) in fields.iter() {
                // Tasks of one client would be seen by others, and are another thing in the modern era.
                let is_left_out = (name == "tasks" && !(is_own && era == Era::Legacy))
                    || (self.is_restricted && !FOR_EVERY_KEY.contains(&name));
                if !is_left_out && !merged.iter().any(|(it, _)| it == name) {
                    merged.push((name.to_owned(), value.get().to_owned()));
                }
            }
        }
        if !self.is_one {
            let can_subscribe = self.any(|info| info.has("resources", "subscribe"));
            for (name, value) in &mut merged {
                match name.as_str() {
                    "tools" | "prompts" => *value = r#"{"listChanged":true}"#.to_owned(),
                    "resources" => *value = format!(r#"{{"subscribe":{can_subscribe},"listChanged":true}}"#),
                    _ => {}
                }
            }
        }
        let fields: Vec<String> = merged.iter().map(|(name, value)| format!("{}:{value}", raw::quoted(name))).collect();
        format!("{{{}}}", fields.join(","))
    }
}
