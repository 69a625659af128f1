//! Named threads that are joined when their owner is dropped.
//!
//! Every thread of the gateway starts here, so each has a name that shows in `top -H` and in panics,
//! a stack of known size, and an owner. Stopping is the owner's part: it closes the channel or the pipe
//! the thread waits on, and dropping [`Joined`] waits until the thread has left.
//!
//! Connections are the exception: there are many, and each ends on its own. They are counted by
//! [`crate::http`] and started with [`spawn_detached`].

use std::{
    cell::RefCell,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

/// Virtual size of a thread's stack. Only touched pages cost memory; connections nest no deeper than JSON does.
const STACK_BYTES: usize = 512 * 1024;

/// A thread that is joined when this handle is dropped.
#[derive(Debug)]
pub struct Joined(Option<thread::JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        let Some(handle) = self.0.take() else { return };
        // A thread may come to drop the last handle to itself; it cannot wait for its own end.
        let is_own = handle.thread().id() == thread::current().id();
        if !is_own && handle.join().is_err() {
            log::error!("a thread panicked; its message stands above");
        }
    }
}

/// Starts a thread called `name` (the first 15 bytes show in the system's tools).
///
/// Fails when the system has no room for another thread.
pub fn spawn(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> io::Result<Joined> {
    builder(name).spawn(body).map(|handle| Joined(Some(handle)))
}

/// Locks a mutex, also when a thread panicked that had it: what it guards is whole after every step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that nobody joins. Its owner must count it and wait for the count to reach zero.
pub fn spawn_detached(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    builder(name).spawn(body).map(drop)
}

/// Has another thread take over what this one does for several clients; false when there is none.
pub type StandIn = Box<dyn Fn() -> bool>;

thread_local! {
    static STAND_IN: RefCell<Option<StandIn>> = const { RefCell::new(None) };
}

/// Has `stand_in` run the first time that this thread is about to wait; `None` for a thread that may wait.
pub fn set_stand_in(stand_in: Option<StandIn>) {
    STAND_IN.set(stand_in);
}

/// Whether this thread has a stand-in that was not needed.
pub fn has_stand_in() -> bool {
    STAND_IN.with_borrow(Option::is_some)
}

/// To be called before anything that may take long for the sake of one client: a wait, or much work. A thread that serves others
/// too is replaced there, and goes on for this client alone.
pub fn about_to_wait() {
    // Taken out, since the stand-in itself may start a thread, which waits for locks.
    let Some(stand_in) = STAND_IN.take() else { return };
    let is_replaced = stand_in();
    if !is_replaced {
        STAND_IN.set(Some(stand_in));
    }
}

fn builder(name: impl Into<String>) -> thread::Builder {
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[test]
    fn a_stand_in_is_called_until_it_has_taken_over() {
        about_to_wait();
        let calls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&calls);
        set_stand_in(Some(Box::new(move || {
            counted.set(counted.get() + 1);
            // It may itself come to a place where others would wait.
            about_to_wait();
            counted.get() == 2
        })));
        for (calls_then, has_one) in [(1, true), (2, false), (2, false)] {
            about_to_wait();
            assert_eq!((calls.get(), has_stand_in()), (calls_then, has_one));
        }
    }
}
