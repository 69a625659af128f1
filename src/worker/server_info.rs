//! What a server says of itself before it takes calls, and what a client says of itself to it.

use serde_json::value::RawValue;

use crate::mcp::{
    raw::{self, Fields},
    revision::Era,
};

/// What a server said of itself, in the answer to `initialize` or to `server/discover`.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// The era that this process speaks.
    pub era: Era,
    /// The revision it chose.
    pub revision: String,
    /// Its own name, for people.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// All of its answer.
    pub raw: Box<RawValue>,
    /// The object of its capabilities; `{}` when it names none.
    pub capabilities: Box<RawValue>,
    /// How it wants to be used.
    pub instructions: Option<String>,
    /// The object with its name and version, and what else it says there.
    pub server_info: Option<Box<RawValue>>,
}

/// What a session's own client said of itself in `initialize`: its workers are told so in the gateway's stead.
#[derive(Debug)]
pub struct Hello {
    /// The object of its capabilities.
    pub capabilities: Box<RawValue>,
    /// The object with its name and version.
    pub client_info: Box<RawValue>,
}

impl ServerInfo {
    /// Whether it has a capability at all, such as `tools`.
    pub fn offers(&self, capability: &str) -> bool {
        raw::field(&self.capabilities, capability).is_some_and(is_granted)
    }

    /// Whether it has a part of a capability, such as `subscribe` of `resources`.
    pub fn has(&self, capability: &str, part: &str) -> bool {
        raw::field(&self.capabilities, capability).and_then(|it| raw::field(it, part)).is_some_and(is_granted)
    }
}

/// Whether the value of a capability says that it is there.
fn is_granted(value: &RawValue) -> bool {
    value.get() == "true" || Fields::read(value).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    #[test]
    fn a_capability_is_an_object_or_true() {
        let info = testing::info(
            Era::Legacy,
            r#"{"tools":{"listChanged":true},"logging":{},"resources":{"subscribe":false},"prompts":null,"x":{"y":{}}}"#,
        );
        let offered = ["tools", "logging", "resources", "prompts", "completions", "x"].map(|it| info.offers(it));
        assert_eq!(offered, [true, true, true, false, false, true]);
        let parts = [("tools", "listChanged"), ("resources", "subscribe"), ("logging", "x"), ("no", "no"), ("x", "y")];
        assert_eq!(parts.map(|(capability, part)| info.has(capability, part)), [true, false, false, false, true]);
    }
}
