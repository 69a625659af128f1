//! Lines that a thread has put into outboxes and writes together: who brings several calls in one go writes once for each server.
//!
//! **End.** Whatever was gathered is written by [`write()`], which a thread that gathers has to call before it waits for anything.

use std::{cell::RefCell, sync::Arc};

use super::Link;

thread_local! {
    /// Whose outboxes are to be written, on a thread that gathers.
    static GATHERED: RefCell<Option<Vec<Arc<Link>>>> = const { RefCell::new(None) };
}

/// Has the calls that this thread brings gathered, until [`stop`].
pub fn start() {
    GATHERED.set(Some(Vec::new()));
}

/// Writes what was gathered.
pub fn write() {
    GATHERED.with_borrow_mut(|gathered| {
        gathered.iter_mut().flat_map(|links| links.drain(..)).for_each(|link| link.flush())
    });
}

/// Writes what was gathered; from now on this thread gathers nothing.
pub fn stop() {
    write();
    GATHERED.set(None);
}

/// Notes that something was put into the outbox of `link`. False: this thread does not gather.
pub(super) fn note(link: &Arc<Link>) -> bool {
    GATHERED.with_borrow_mut(|gathered| {
        let Some(links) = gathered else { return false };
        let is_noted = links.iter().any(|it| Arc::ptr_eq(it, link));
        if !is_noted {
            links.push(Arc::clone(link));
        }
        true
    })
}
