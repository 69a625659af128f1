//! One request of a modern client: driven by the thread of its connection, set aside while a legacy server's question is
//! out, and taken up again by the connection that brings the answer.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    Reply, Trouble, message,
    modern::{Said, status_of},
    parked::{Leash, Parked},
    plan::{Party, Route},
    running::{Asked, Ear, End, Running, plain_message},
    streams::push_data,
    traits::{Ability, LogLevel, Traits},
};
use crate::{
    access::CallInUse,
    api::{calls::CANCELLED, exchange::Events},
    mcp::{
        eras::RESULT_TYPE,
        incoming::{self, Failure, INTERNAL_ERROR, METHOD_NOT_FOUND},
        raw,
        revision::Era,
    },
    pool::TakenBack,
    worker::mailbox::{Event, Mailbox, Note, Question, Wake},
};

/// A request that runs.
pub(super) struct Trip<'a> {
    party: Party<'a>,
    traits: Traits,
    log_level: Option<LogLevel>,
    /// Where the thread of the connection waits otherwise.
    client: Arc<Mailbox>,
    /// Closed with `client` until the request is set aside; the same one when that cannot happen.
    mailbox: Arc<Mailbox>,
    leash: Arc<Leash>,
    /// `None` once it has ended or was parked.
    running: Option<Running>,
    /// What a legacy server wants to know.
    questions: Vec<Question>,
    /// Messages before the answer.
    told: Vec<String>,
    answer: Option<Result<Box<RawValue>, Failure>>,
    id: String,
}

impl<'a> Trip<'a> {
    pub(super) fn begin(
        party: Party<'a>,
        asked: Asked<'_>,
        said: &Said,
        route: Route,
        in_use: Option<CallInUse>,
        client: &Arc<Mailbox>,
    ) -> Result<Trip<'a>, Trouble> {
        let leash = Arc::new(Leash::default());
        let may_be_parked = route.workers.era() == Era::Legacy && said.traits.can_be_asked();
        let mailbox = if may_be_parked {
            // It outlives the connection when the client is asked something.
            let mailbox = Leash::mailbox(&leash, party.api.config.now().stream_queue_bytes);
            leash.hold(Some(client));
            client.lead(Some(&mailbox));
            mailbox
        } else {
            Arc::clone(client)
        };
        let Said { traits, log_level } = *said;
        let ear = Ear { mailbox: &mailbox, can_be_asked: traits.can_be_asked(), log_level, hears_logs: false };
        let mut running = Running::begin(&party, asked, route, ear, in_use).inspect_err(|_| client.lead(None))?;
        running.asked_params = asked.params.filter(|_| may_be_parked).map(ToOwned::to_owned);
        Ok(Trip::new(party, said, client, (mailbox, leash), running))
    }

    /// Goes on with a request that was parked, with the answers to what its client was asked.
    pub(super) fn resume(
        party: Party<'a>,
        asked: Asked<'_>,
        said: &Said,
        state: &RawValue,
        inputs: Option<&RawValue>,
        client: &Arc<Mailbox>,
    ) -> Result<Trip<'a>, Trouble> {
        let parked = party.api.parked.take(state, &party.principal.name, &asked)?;
        let Parked { mut running, questions, mailbox, leash, .. } = parked;
        running.take_over(asked);
        leash.hold(Some(client));
        mailbox.set_quiet(false);
        client.lead(Some(&mailbox));
        let mut trip = Trip::new(party, said, client, (mailbox, leash), running);
        trip.look_at_time();
        for (key, question) in questions {
            match inputs.and_then(|inputs| raw::field(inputs, &key)).filter(|input| input.get().starts_with('{')) {
                Some(input) => question.answer(input),
                // It is asked again.
                None => trip.questions.push(question),
            }
        }
        trip.park_if_asked();
        Ok(trip)
    }

    fn new(
        party: Party<'a>,
        said: &Said,
        client: &Arc<Mailbox>,
        (mailbox, leash): (Arc<Mailbox>, Arc<Leash>),
        running: Running,
    ) -> Trip<'a> {
        let Said { traits, log_level } = *said;
        let (client, id) = (Arc::clone(client), running.id.clone());
        let (questions, told, answer) = (Vec::new(), Vec::new(), None);
        Trip { party, traits, log_level, client, mailbox, leash, running: Some(running), questions, told, answer, id }
    }

    /// Takes what has happened, and everything that has happened meanwhile.
    fn take(&mut self, event: Event) {
        self.take_one(event);
        while self.answer.is_none()
            && let Some(event) = self.mailbox.take()
        {
            self.take_one(event);
        }
        self.park_if_asked();
    }

    fn take_one(&mut self, event: Event) {
        let Some(running) = &mut self.running else { return };
        match event {
            Event::Note(tag, note) if tag == running.tag => {
                let message = match note {
                    Note::Progress(params) | Note::Chunk(params) => running.progress(&params),
                    Note::Log(params) => self
                        .log_level
                        .filter(|level| level.admits(&params))
                        .map(|_| incoming::notification("notifications/message", Some(params.get()))),
                    Note::Question(question) => {
                        self.take_question(question);
                        None
                    }
                    Note::Withdrawn { link, id } => {
                        self.questions.retain(|it| it.id.get() != id.get() || !Arc::ptr_eq(&it.link, &link));
                        None
                    }
                    Note::Other { .. } => plain_message(&note),
                };
                self.told.extend(message);
            }
            Event::Ended(ended) if ended.tag == running.tag => {
                let end = running.end(&self.party, ended);
                self.running = None;
                self.answer = Some(match end {
                    End::Result(result) => Ok(result),
                    End::Failure(failure) => Err(failure),
                    // Only legacy clients are told so; this one answers by itself.
                    End::Wants { .. } => Err(Failure::new(INTERNAL_ERROR, "the server asks for input")),
                });
            }
            // Of an earlier request on this connection.
            Event::Note(..) | Event::Ended(_) | Event::TakenBack(_) | Event::Nudge | Event::Relayed { .. } => {}
        }
    }

    fn take_question(&mut self, question: Question) {
        let can = Ability::of(&question.method).is_some_and(|ability| self.traits.can(ability));
        if can {
            return self.questions.push(question);
        }
        question.refuse(METHOD_NOT_FOUND, &format!("the client has not said that it can answer `{}`", question.method));
    }

    /// Asks the client, if there is something to ask, and has the request wait for its return.
    fn park_if_asked(&mut self) {
        if self.questions.is_empty() || self.answer.is_some() {
            return;
        }
        let Some(running) = self.running.take() else { return };
        let questions: Vec<(String, Question)> = std::mem::take(&mut self.questions)
            .into_iter()
            .enumerate()
            .map(|(index, question)| (format!("input-{}", index + 1), question))
            .collect();
        let requests: Vec<String> = questions
            .iter()
            .map(|(key, question)| {
                format!(r#""{key}":{{"method":{},"params":{}}}"#, raw::quoted(&question.method), question.params)
            })
            .collect();
        let api = self.party.api;
        // Its client may go away now.
        self.client.lead(None);
        self.leash.hold(None);
        self.mailbox.set_quiet(true);
        let parked = Parked::new(running, questions, Arc::clone(&self.mailbox), Arc::clone(&self.leash));
        self.answer = Some(match api.parked.put(parked, &self.party.principal.name) {
            Ok(state) => Ok(raw::object(&format!(
                r#""{RESULT_TYPE}":"input_required","inputRequests":{{{}}},"requestState":"{state}""#,
                requests.join(",")
            ))),
            Err(parked) => {
                self.running = Some(parked.running);
                self.take_back(TakenBack::TooLong);
                Err(Failure::new(INTERNAL_ERROR, "too many requests wait for their clients' answers already"))
            }
        });
    }

    /// Gives it up when its time is up.
    fn look_at_time(&mut self) {
        let Some(running) = &mut self.running else { return };
        // What was asked before it was set aside was answered now, which is a sign of life.
        if running.is_ending || Instant::now() < running.give_up_at(false) {
            return;
        }
        if let Some(failure) = running.give_up(&self.party) {
            self.answer = Some(Err(failure));
            self.running = None;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.running.as_ref().filter(|running| !running.is_ending).map(|running| running.give_up_at(false))
    }

    fn take_back(&mut self, why: TakenBack) {
        if let Some(mut running) = self.running.take() {
            running.route.workers.cancel(&running.call, why);
            running.count(&self.party, Some(CANCELLED));
        }
    }

    fn message(&self, answer: &Result<Box<RawValue>, Failure>) -> String {
        match answer {
            Ok(result) => incoming::result(&self.id, result.get()),
            Err(failure) => incoming::error(Some(&self.id), failure),
        }
    }
}

impl Drop for Trip<'_> {
    /// Takes the request back when it was not told to its end.
    fn drop(&mut self) {
        self.client.lead(None);
        self.take_back(TakenBack::ClientGone);
    }
}

/// A request and the connection it came over.
pub(super) struct Post<'a> {
    trip: Trip<'a>,
    /// Longest time without a word of ours.
    quiet_max: Duration,
}

impl<'a> Post<'a> {
    /// Tells of `trip` over its connection.
    pub(super) fn new(trip: Trip<'a>, quiet_max: Duration) -> Post<'a> {
        Post { trip, quiet_max }
    }

    /// Answers with JSON if the answer is the first there is to tell, else with events.
    pub(super) fn answer(mut self) -> Reply<'a> {
        let until = Instant::now() + self.quiet_max;
        loop {
            if !self.trip.told.is_empty() {
                return Reply::Stream(Box::new(self));
            }
            if let Some(answer) = &self.trip.answer {
                let status = answer.as_ref().map_or_else(|failure| status_of(failure.code), |_| 200);
                return Reply::Answer(message(status, self.trip.message(answer)));
            }
            let deadline = self.trip.next_deadline().map_or(until, |deadline| deadline.min(until));
            match self.trip.mailbox.wait(deadline) {
                Wake::Event(event) => self.trip.take(event),
                Wake::Deadline if until <= Instant::now() => return Reply::Stream(Box::new(self)),
                Wake::Deadline => self.trip.look_at_time(),
                Wake::Closed => return Reply::Gone,
            }
        }
    }
}

impl Events for Post<'_> {
    fn run(mut self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
        let mailbox = Arc::clone(&self.trip.mailbox);
        let mut bytes = Vec::new();
        loop {
            self.trip.told.drain(..).for_each(|message| push_data(&mut bytes, &message));
            let answer = self.trip.answer.take();
            if let Some(answer) = &answer {
                push_data(&mut bytes, &self.trip.message(answer));
            }
            if answer.is_some() {
                return Ok(bytes);
            }
            if !bytes.is_empty() {
                write(&bytes)?;
                bytes.clear();
            }
            let quiet_until = Instant::now() + self.quiet_max;
            let deadline = self.trip.next_deadline().map_or(quiet_until, |deadline| deadline.min(quiet_until));
            match mailbox.wait(deadline) {
                Wake::Event(event) => self.trip.take(event),
                Wake::Deadline => {
                    self.trip.look_at_time();
                    if quiet_until <= Instant::now() {
                        bytes.extend_from_slice(b": keep-alive\n\n");
                    }
                }
                Wake::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}
