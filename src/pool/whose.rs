//! Whose workers a group's are.

use std::sync::Arc;

use super::Asker;
use crate::config::Isolation;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Everybody shares them.
    Everybody,
    /// The clients with this key share them.
    Key(Arc<str>),
    /// One session has them alone. It belongs to its key: the same id with another key is another session.
    #[allow(missing_docs)]
    Session { key: Arc<str>, session: Arc<str> },
}

impl Whose {
    /// Whose workers take the calls of this asker, at a server with this isolation.
    pub(super) fn of(isolation: Isolation, asker: &Asker<'_>) -> Whose {
        match (isolation, asker.session) {
            (Isolation::Shared, _) | (Isolation::Session, None) => Whose::Everybody,
            (Isolation::Session, Some(session)) => {
                Whose::Session { key: Arc::clone(asker.key), session: session.into() }
            }
            (Isolation::Key, _) => Whose::Key(Arc::clone(asker.key)),
        }
    }

    /// Key and id of the session that has them alone.
    pub(super) fn session(&self) -> Option<(&str, &str)> {
        match self {
            Whose::Session { key, session } => Some((key, session)),
            Whose::Everybody | Whose::Key(_) => None,
        }
    }

    /// As `/stats` says it; `None` for everybody. The id of a session lets others into it, so it is not told.
    pub(super) fn label(&self) -> Option<String> {
        match self {
            Whose::Everybody => None,
            Whose::Key(key) => Some(format!("key {key}")),
            Whose::Session { .. } => Some("session".to_owned()),
        }
    }
}
