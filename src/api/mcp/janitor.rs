//! The thread that ends what its clients have forgotten: idle sessions, and requests that wait for answers.
//!
//! **End.** When it is dropped.

use std::{sync::Arc, time::Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::legacy;
use crate::{
    api::Api,
    error::Error,
    threads::{self, Joined},
};

/// See the module.
#[derive(Debug)]
pub struct Janitor {
    // Joined after the channel below is closed; see `drop`.
    thread: Option<Joined>,
    stop: Option<Sender<()>>,
}

impl Janitor {
    /// Starts the thread.
    pub fn start(api: &Arc<Api>) -> Result<Janitor, Error> {
        let (stop, stopped) = bounded(1);
        let api = Arc::clone(api);
        let thread = threads::spawn("sessions", move || run(&api, &stopped))
            .map_err(|cause| Error::Failed { what: format!("cannot start a thread: {cause}"), hint: String::new() })?;
        Ok(Janitor { thread: Some(thread), stop: Some(stop) })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.stop = None;
        self.thread = None;
    }
}

fn run(api: &Api, stopped: &Receiver<()>) {
    loop {
        let now = Instant::now();
        let (idle, mut look_again_at) = api.sessions.take_idle(now);
        for session in idle {
            log::debug!("a session was idle and is ended");
            legacy::end(api, &session);
        }
        if let Some(at) = api.parked.give_up(now) {
            look_again_at = look_again_at.min(at);
        }
        crossbeam_channel::select! {
            recv(stopped) -> _ => break,
            recv(api.pokes) -> _ => {}
            recv(crossbeam_channel::at(look_again_at)) -> _ => {}
        }
    }
    api.sessions.take_all().iter().for_each(|session| legacy::end(api, session));
}
