//! The protocol revisions, the two eras they fall into, and the `_meta` keys of the newer one.
//!
//! Revisions up to 2025-11-25 (*legacy*) open with an `initialize` handshake. From 2026-07-28 on (*modern*) there is
//! none: every request carries its protocol version and the client's capabilities in `params._meta`.

/// The two ways to speak MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// With a handshake and sessions: revisions up to 2025-11-25.
    Legacy,
    /// Every request for itself: from 2026-07-28 on.
    Modern,
}

impl Era {
    /// The word for it in `/stats` and in the servers file.
    pub fn word(self) -> &'static str {
        match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }
}

/// The legacy revisions, oldest first.
pub const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_LEGACY];

/// The last revision with a handshake: what a client is offered that asks for one nobody here knows.
pub const LATEST_LEGACY: &str = "2025-11-25";

/// The modern revision.
pub const MODERN: &str = "2026-07-28";

/// `_meta` key of a modern request: the revision it is written in, required.
pub const PROTOCOL_VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// `_meta` key of a modern request: what the client can do, required.
pub const CLIENT_CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";

/// `_meta` key of a modern request: name and version of the client.
pub const CLIENT_INFO_KEY: &str = "io.modelcontextprotocol/clientInfo";

/// `_meta` key of a modern request: the least severe log lines that the client wants to hear.
pub const LOG_LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";

/// All `_meta` keys of a modern request.
pub const REQUEST_KEYS: [&str; 4] = [PROTOCOL_VERSION_KEY, CLIENT_CAPABILITIES_KEY, CLIENT_INFO_KEY, LOG_LEVEL_KEY];

/// `_meta` key of what is told to a subscriber: the id of its `subscriptions/listen`.
pub const SUBSCRIPTION_ID_KEY: &str = "io.modelcontextprotocol/subscriptionId";

/// `_meta` key of a modern result: name and version of the server.
pub const SERVER_INFO_KEY: &str = "io.modelcontextprotocol/serverInfo";

/// The revision to answer `initialize` with: the one asked for if it is legacy, else the latest legacy one.
pub fn negotiate(requested: &str) -> &'static str {
    LEGACY.into_iter().find(|it| *it == requested).unwrap_or(LATEST_LEGACY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_legacy_revision_is_granted_and_any_other_becomes_the_latest_legacy_one() {
        for revision in LEGACY {
            assert_eq!(negotiate(revision), revision);
        }
        for revision in [MODERN, "2024-10-07", "", "2025-11-25 "] {
            assert_eq!(negotiate(revision), LATEST_LEGACY, "{revision}");
        }
    }
}
