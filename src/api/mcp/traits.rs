//! What a client of `/mcp` says it can do, and how much it wants to hear.

use serde_json::value::RawValue;

use crate::mcp::raw;

/// Something a server may ask a client for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ability {
    /// To have a model say something.
    Sampling,
    /// To ask its user.
    Elicitation,
    /// To name the folders it works in.
    Roots,
}

impl Ability {
    const ALL: [Ability; 3] = [Ability::Sampling, Ability::Elicitation, Ability::Roots];

    /// What is needed to answer a request of this method.
    pub(super) fn of(method: &str) -> Option<Ability> {
        match method {
            "sampling/createMessage" => Some(Ability::Sampling),
            "elicitation/create" => Some(Ability::Elicitation),
            "roots/list" => Some(Ability::Roots),
            _ => None,
        }
    }

    /// Its name among the client's capabilities.
    pub(super) fn name(self) -> &'static str {
        match self {
            Ability::Sampling => "sampling",
            Ability::Elicitation => "elicitation",
            Ability::Roots => "roots",
        }
    }

    /// The first revision that has it.
    fn since(self) -> &'static str {
        match self {
            Ability::Sampling | Ability::Roots => "2024-11-05",
            Ability::Elicitation => "2025-06-18",
        }
    }
}

/// What a client can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traits {
    abilities: [bool; 3],
}

impl Traits {
    /// Reads a client's `capabilities`, as far as its revision has them.
    pub(super) fn read(capabilities: &RawValue, revision: &str) -> Traits {
        let has = |ability: Ability| {
            // Revisions are dates, which sort as text.
            ability.since() <= revision
                && raw::field(capabilities, ability.name()).is_some_and(|value| value.get().starts_with('{'))
        };
        Traits { abilities: Ability::ALL.map(has) }
    }

    /// Whether it can do this.
    pub(super) fn can(self, ability: Ability) -> bool {
        self.abilities[ability as usize]
    }

    /// Whether it can be asked anything at all.
    pub(super) fn can_be_asked(self) -> bool {
        self.abilities.contains(&true)
    }
}

/// How severe a log line is (RFC 5424), the least severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogLevel(usize);

impl LogLevel {
    /// Their names in MCP.
    pub(super) const NAMES: [&str; 8] =
        ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

    /// The level of this name.
    pub(super) fn from_name(name: &str) -> Option<LogLevel> {
        LogLevel::NAMES.iter().position(|it| *it == name).map(LogLevel)
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        LogLevel::NAMES[self.0]
    }

    /// Whether a log line with these parameters is as severe. One that does not say how severe it is, is.
    pub(super) fn admits(self, params: &RawValue) -> bool {
        let level = raw::text(params, "level").and_then(|level| LogLevel::from_name(&level));
        level.is_none_or(|level| self <= level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_client_can_do_what_it_says_if_its_revision_has_it() {
        let said = json(r#"{"sampling":{},"elicitation":{"form":{}},"roots":null}"#);
        let traits = Traits::read(&said, "2025-11-25");
        assert!(traits.can(Ability::Sampling) && traits.can(Ability::Elicitation) && !traits.can(Ability::Roots));
        assert!(!Traits::read(&said, "2025-03-26").can(Ability::Elicitation));
        assert!(Traits::read(&said, "2024-11-05").can_be_asked());
        assert!(!Traits::read(&json("{}"), "2025-11-25").can_be_asked());
        for ability in Ability::ALL {
            assert_eq!(Ability::ALL[ability as usize], ability);
        }
    }

    #[test]
    fn a_line_is_heard_from_its_level_on() {
        let line = |level: &str| json(&format!(r#"{{"level":"{level}","data":1}}"#));
        let warning = LogLevel::from_name("warning").unwrap();
        assert!(warning.admits(&line("warning")) && warning.admits(&line("alert")) && warning.admits(&json("{}")));
        assert!(!warning.admits(&line("notice")) && LogLevel::from_name("warn").is_none());
    }
}
