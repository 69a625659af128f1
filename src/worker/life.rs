//! The life of a worker's thread: start the process, shake hands, serve, and see to its end.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::RecvTimeoutError;
use rustix::event::PollFlags;
use serde_json::value::RawValue;

use super::{
    Board, Call, End, Event, Events, Link, Owner, Plan, ServerInfo, Waiter, handshake, lock,
    mailbox::Ended,
    own,
    pipe::{Pipe, Readers},
    process,
    reader::Reader,
    stderr,
};
use crate::{
    error::{Error, Seconds},
    mcp::{message, revision::Era},
};

/// How long a process whose stdout ended may take to exit by itself, so that its own exit status is told.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// How long the last lines of a dead process on stderr are waited for.
const STDERR_WAIT: Duration = Duration::from_millis(100);

/// Pause before a list of tools that could not be had is asked for again.
const LIST_PAUSE: Duration = Duration::from_secs(1);

/// How long a full pipe is waited on before the inbox is looked at again.
const FULL_PIPE_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Life {
    slot: usize,
    name: Arc<str>,
    plan: Plan,
    owner: Arc<dyn Owner>,
    inbox: crossbeam_channel::Sender<Event>,
    events: Events,
    board: Arc<Board>,
    own_calls: u64,
    /// The newest answer to a request of our own.
    heard: Option<Ended>,
    tools_changed: Arc<AtomicBool>,
}

/// Why a process is to end, or has ended.
enum Ending {
    /// The owner said so.
    Stop,
    /// The process went away by itself.
    Gone,
    /// It cannot be used, and why.
    Unusable(String),
    /// It does not take `initialize`, and why that looks like a server of the modern era.
    ModernOnly(String),
}

/// A running process with the threads that read it.
struct Running {
    process: process::Process,
    link: Arc<Link>,
    readers: Readers,
    stderr_ended: crossbeam_channel::Receiver<()>,
}

impl Life {
    pub(super) fn new(
        slot: usize,
        name: Arc<str>,
        plan: Plan,
        owner: Arc<dyn Owner>,
        inbox: crossbeam_channel::Sender<Event>,
        events: Events,
        board: Arc<Board>,
    ) -> Life {
        Life { slot, name, plan, owner, inbox, events, board, own_calls: 0, heard: None, tools_changed: Arc::default() }
    }

    /// Runs until the process has ended, or the owner says stop.
    pub(super) fn run(mut self) {
        let started_at = Instant::now();
        let end = match self.start() {
            Err(error) => {
                self.owner.closing(self.slot);
                End { reason: error.to_string(), ..End::default() }
            }
            Ok(running) => {
                let ending = self.shake_hands(&running.link).and_then(|()| {
                    let ms = started_at.elapsed().as_millis();
                    log::info!(worker = &*self.name; "worker {} is ready after {ms} ms", self.name);
                    self.serve(&running.link)
                });
                // Both ways to come here are endings.
                self.end(running, ending.err().unwrap_or(Ending::Gone))
            }
        };
        let lived_ms = started_at.elapsed().as_millis();
        if end.was_wanted || end.speaks_modern_only {
            log::info!(worker = &*self.name; "worker {} was stopped after {lived_ms} ms: {}", self.name, end.reason);
        } else {
            log::warn!(worker = &*self.name; "worker {} ended after {lived_ms} ms: {}", self.name, end.reason);
        }
        self.owner.ended(self.slot, end);
    }

    fn start(&mut self) -> Result<Running, Error> {
        let process::Started { process, stdin, stdout, stderr } =
            process::start(&self.name, &self.plan.command, &self.plan.config.now().data_dir)?;
        let last_lines = Arc::new(stderr::LastLines::default());
        {
            let mut status = lock(&self.board.status);
            status.pid = process.pid();
            status.started_at = Some(Instant::now());
            *lock(&self.board.stderr) = Arc::clone(&last_lines);
        }
        self.tools_changed.store(false, Ordering::SeqCst);
        match self.attach(&process, stdin, stdout, stderr, last_lines) {
            Ok((link, readers, stderr_ended)) => Ok(Running { process, link, readers, stderr_ended }),
            Err(cause) => {
                // Closes its stdin, without which the bundled server on a thread would not end.
                if let Some(link) = lock(&self.board.link).take() {
                    link.close();
                }
                process.kill();
                Err(Error::Failed { what: format!("cannot be attached to: {cause}"), hint: String::new() })
            }
        }
    }

    /// Opens the link to a process and starts the threads that read it.
    fn attach(
        &self,
        process: &process::Process,
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        last_lines: Arc<stderr::LastLines>,
    ) -> io::Result<(Arc<Link>, Readers, crossbeam_channel::Receiver<()>)> {
        let link = Link::new(Arc::clone(&self.name), self.plan.era, stdin, self.inbox.clone())?;
        *lock(&self.board.link) = Some(Arc::clone(&link));
        let mut readers = Readers::default();

        let reader = Reader {
            slot: self.slot,
            link: Arc::clone(&link),
            owner: Arc::clone(&self.owner),
            inbox: self.inbox.clone(),
            tools_changed: Arc::clone(&self.tools_changed),
            config: self.plan.config.clone(),
        };
        readers.start(format!("{}-out", self.name), Pipe::new(stdout), move |pipe| reader.run(pipe))?;

        // Nothing is ever sent here: it is disconnected when the reader of stderr is done.
        let (stderr_open, stderr_ended) = crossbeam_channel::bounded(1);
        if let Some(stderr) = stderr {
            let inbox = self.inbox.clone();
            let exit = process.exit()?;
            // The inbox has room; see `INBOX_EVENTS_MAX`.
            let tell = move || drop(inbox.try_send(Event::Exited));
            let name = Arc::clone(&self.name);
            readers.start(format!("{name}-err"), Pipe::watching(stderr, exit, tell), move |pipe| {
                stderr::read(&name, pipe, &last_lines);
                drop(stderr_open);
            })?;
        }
        Ok((link, readers, stderr_ended))
    }

    /// What must be known of a server before it takes calls, and the first list of its tools.
    fn shake_hands(&mut self, link: &Arc<Link>) -> Result<(), Ending> {
        let info = match self.plan.era {
            Era::Legacy => self.initialize(link)?,
            Era::Modern => self.discover(link)?,
        };
        // Before the list is asked for, so that no change of it goes by unheard.
        link.meet(&info);
        let tools = if info.offers("tools") { self.list_tools(link)? } else { Vec::new() };
        self.owner.ready(self.slot, link, Arc::new(info), tools);
        Ok(())
    }

    fn initialize(&mut self, link: &Arc<Link>) -> Result<ServerInfo, Ending> {
        let params = handshake::initialize_params(self.plan.hello.as_deref());
        let result = self.try_ask(link, "initialize", Some(&params))?.map_err(|refusal| {
            let ending = if handshake::wants_modern(&refusal) { Ending::ModernOnly } else { Ending::Unusable };
            ending(cannot_be_used("initialize", &refusal))
        })?;
        let info = handshake::read_initialize(&result).map_err(Ending::Unusable)?;
        link.send_line(|out| message::push_notification(out, "notifications/initialized"));
        Ok(info)
    }

    fn discover(&mut self, link: &Arc<Link>) -> Result<ServerInfo, Ending> {
        let discovered = self
            .ask(link, "server/discover", None)
            .and_then(|result| handshake::read_discover(&result).map_err(Ending::Unusable));
        discovered.map_err(|ending| match (ending, &self.plan.refusal) {
            (Ending::Unusable(reason), Some(refusal)) => {
                Ending::Unusable(format!("{reason}; in the legacy era it {refusal}"))
            }
            (ending, _) => ending,
        })
    }

    /// Waits for something to happen, until the process is to end or has ended. Never comes back with `Ok`.
    fn serve(&mut self, link: &Arc<Link>) -> Result<(), Ending> {
        loop {
            if self.tools_changed.swap(false, Ordering::SeqCst) {
                match self.list_tools(link) {
                    Ok(tools) => self.owner.tools_changed(self.slot, tools),
                    // The old list goes on being served, since calls still work, and the new one is asked for again.
                    Err(Ending::Unusable(reason)) => {
                        log::warn!("worker {}: {reason}", self.name);
                        self.tools_changed.store(true, Ordering::SeqCst);
                        self.take_events_for(link, LIST_PAUSE)?;
                    }
                    Err(ending) => return Err(ending),
                }
            } else if let Ok(event) = self.events.recv() {
                self.take(link, event)?;
            }
        }
    }

    fn take_events_for(&mut self, link: &Arc<Link>, pause: Duration) -> Result<(), Ending> {
        let deadline = Instant::now() + pause;
        while let Ok(event) = self.events.recv_deadline(deadline) {
            self.take(link, event)?;
        }
        Ok(())
    }

    fn list_tools(&mut self, link: &Arc<Link>) -> Result<Vec<Box<RawValue>>, Ending> {
        let mut tools = Vec::new();
        let mut params = None;
        for _ in 0..handshake::PAGES_MAX {
            let page = self.ask(link, "tools/list", params.as_deref())?;
            let (mut more, cursor) = handshake::read_page(&page).map_err(Ending::Unusable)?;
            tools.append(&mut more);
            params = handshake::page_params(cursor.as_deref());
            if params.is_none() {
                return Ok(tools);
            }
        }
        Err(Ending::Unusable(format!("its `tools/list` has more than {} pages", handshake::PAGES_MAX)))
    }

    /// As [`Life::try_ask`], of a server that cannot be used when it fails.
    fn ask(&mut self, link: &Arc<Link>, method: &str, params: Option<&str>) -> Result<Box<RawValue>, Ending> {
        self.try_ask(link, method, params)?.map_err(|error| Ending::Unusable(cannot_be_used(method, &error)))
    }

    /// Asks the server something for the gateway itself, and waits at most `MCP_REQUEST_TIMEOUT`.
    fn try_ask(
        &mut self,
        link: &Arc<Link>,
        method: &str,
        params: Option<&str>,
    ) -> Result<Result<Box<RawValue>, Error>, Ending> {
        let timeout = self.plan.config.now().request_timeout;
        let deadline = Instant::now() + timeout;
        self.own_calls += 1;
        let tag = self.own_calls;
        let request = own::request(self.plan.era, method, params);
        let call = Call::new(request, None, Waiter::Worker(self.inbox.clone()), tag);
        link.send(&call);
        loop {
            if let Some(Ended { outcome, .. }) = self.heard.take().filter(|ended| ended.tag == tag) {
                return Ok(outcome);
            }
            match self.events.recv_deadline(deadline) {
                Ok(event) => self.take(link, event)?,
                Err(RecvTimeoutError::Timeout) => {
                    // MCP forbids to cancel `initialize`; its process is ended instead.
                    if method != "initialize" {
                        link.cancel(&call, "no answer in time");
                    }
                    return Err(Ending::Unusable(format!("did not answer `{method}` within {}", Seconds(timeout))));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Ending::Stop),
            }
        }
    }

    fn take(&mut self, link: &Arc<Link>, event: Event) -> Result<(), Ending> {
        match event {
            Event::Outbox => self.write(link),
            // The flag beside it says the same; the event is there to wake us.
            Event::ToolsChanged => Ok(()),
            // The answer that is waited for, heard while something else was done; or to a request that was given up.
            Event::Own(ended) => {
                self.heard = Some(ended);
                Ok(())
            }
            Event::StdoutEnded => Err(Ending::Gone),
            Event::Exited => {
                self.wait_for_last_answers();
                Err(Ending::Gone)
            }
            Event::Stop => Err(Ending::Stop),
            Event::Kill(reason) => Err(Ending::Unusable(reason)),
        }
    }

    /// Gives the reader of a dead process's stdout a moment to come to its end; a grandchild may keep it open for ever.
    fn wait_for_last_answers(&self) {
        let deadline = Instant::now() + EXIT_WAIT;
        while let Ok(event) = self.events.recv_deadline(deadline) {
            match event {
                Event::StdoutEnded => return,
                // Asked again, so that it is not lost.
                Event::Stop => return drop(self.inbox.try_send(Event::Stop)),
                _ => {}
            }
        }
    }

    /// Writes what is left to us. A child that does not read is waited for, while events are still taken.
    fn write(&mut self, link: &Arc<Link>) -> Result<(), Ending> {
        while !link.resume() {
            let Some(stdin) = link.stdin() else { break };
            let has_room = process::is_ready(&*stdin, PollFlags::OUT, FULL_PIPE_LOOK_INTERVAL);
            if !has_room {
                log::debug!("worker {} does not read", self.name);
            }
            if let Ok(event) = self.events.try_recv() {
                self.take(link, event)?;
            }
        }
        Ok(())
    }

    /// Ends the process and its calls.
    fn end(&mut self, running: Running, ending: Ending) -> End {
        let Running { process, link, readers, stderr_ended } = running;
        let (was_wanted, speaks_modern_only) =
            (matches!(ending, Ending::Stop), matches!(ending, Ending::ModernOnly(_)));
        self.owner.closing(self.slot);
        // Looked at before its stdin is closed, which would make many a server exit.
        let exits_by_itself = matches!(ending, Ending::Gone) && process.ends_within(EXIT_WAIT);
        let calls = link.close();
        let reason = match ending {
            Ending::Stop => process.stop(self.plan.config.now().stop_grace),
            Ending::Gone => {
                let ending = process.kill();
                if exits_by_itself { ending } else { "closed its stdout".to_owned() }
            }
            Ending::Unusable(reason) | Ending::ModernOnly(reason) => {
                process.kill();
                reason
            }
        };
        // Ends with `Disconnected` when the reader is done.
        let _ = stderr_ended.recv_timeout(STDERR_WAIT);
        let stderr = lock(&self.board.stderr).get();
        let calls_lost = self.end_calls(&calls, &reason, &stderr);
        drop(readers);
        {
            let mut status = lock(&self.board.status);
            status.pid = None;
            status.started_at = None;
            *lock(&self.board.link) = None;
        }
        End { reason, was_wanted, speaks_modern_only, stderr, calls_lost, late_answers: link.late_answers() }
    }

    /// Ends the calls that were in flight, or has them sent to another worker. Returns how many are lost.
    fn end_calls(&self, calls: &[Arc<Call>], reason: &str, stderr: &[String]) -> u64 {
        let mut n_lost = 0;
        for call in calls.iter().filter(|call| call.as_ping().is_none()) {
            if self.plan.config.now().retry_read_only && call.take_second_chance() {
                self.owner.repeat(call);
                continue;
            }
            n_lost += u64::from(call.has_place());
            let worker = self.name.to_string();
            let error = Error::WorkerCrashed { worker, cause: reason.to_owned(), stderr: stderr.to_vec() };
            call.end(Some(Arc::clone(&self.name)), Err(error));
        }
        n_lost
    }
}

fn cannot_be_used(method: &str, error: &Error) -> String {
    format!("cannot be used: `{method}` failed: {error}")
}
