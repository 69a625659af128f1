//! Who hears what servers say outside of any call.

use std::{fmt, sync::Arc};

use super::Whose;
use crate::worker::{Change, mailbox::Note};

/// Hears what servers say outside of any call; one for the whole gateway. All methods are called from workers' threads, and that of a reload, and
/// must not block.
pub trait Watcher: Send + Sync + fmt::Debug {
    /// Something has changed at `server`, as a worker says that is `whose`. Each worker of a server says so for itself.
    fn changed(&self, server: &Arc<str>, whose: &Whose, change: &Change);

    /// The servers are others than before, or their tools are called otherwise.
    fn regrouped(&self);

    /// The worker of a session, of which `whose` is key and id, says something that belongs to no request. False when nobody
    /// takes it; a question is then refused.
    fn heard(&self, server: &Arc<str>, whose: (&str, &str), note: Note) -> bool;
}

/// Nobody hears it: for commands that make a call or two.
#[derive(Debug)]
pub struct Nobody;

impl Watcher for Nobody {
    fn changed(&self, _server: &Arc<str>, _whose: &Whose, _change: &Change) {}

    fn regrouped(&self) {}

    fn heard(&self, _server: &Arc<str>, _whose: (&str, &str), _note: Note) -> bool {
        false
    }
}
