//! Requests of one session of the legacy era that one thread drives: begun, told about, answered, given up.
//!
//! It knows neither connections nor streams: its messages are taken by whoever tells them.

use std::{collections::HashMap, sync::Arc, time::Instant};

use serde_json::value::RawValue;

use super::{
    Api, Trouble, arguments,
    legacy::{agree, end},
    party,
    plan::{Party, Plan, Route},
    round::Round,
    running::{Asked, Ear, End, Running, plain_message},
    session::{RunningRef, SUBSCRIPTIONS_MAX, Session},
    streams::STANDALONE,
    traits::LogLevel,
};
use crate::{
    access::Principal,
    api::calls::CANCELLED,
    mcp::{
        incoming::{self, Failure, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND},
        raw,
        revision::Era,
        trace::Trace,
    },
    pool::{Pool, TakenBack},
    worker::{
        Link,
        mailbox::{Ended, Event, Mailbox, Note},
    },
};

/// Something to tell the client.
enum Told {
    /// The answer to a request.
    Answer(String),
    /// Anything else.
    Other(String),
}

/// Requests of one session that one thread drives.
pub(super) struct Exchange<'a> {
    party: Party<'a>,
    pub(super) session: Arc<Session>,
    pub(super) mailbox: Arc<Mailbox>,
    running: Vec<Running>,
    /// Answers that servers of the modern era want first, by tag.
    rounds: HashMap<u64, (Arc<Round>, Option<Box<RawValue>>)>,
    /// In the order they are to be told.
    told: Vec<Told>,
    /// The stream of the session that it is told on, once there is one.
    stream: Option<u64>,
    /// Whether the connection that the requests came over hears what is told.
    pub(super) is_attached: bool,
}

impl<'a> Exchange<'a> {
    /// Nothing yet. What happens is heard of at `mailbox`.
    pub(super) fn new(
        api: &'a Api,
        scope: Option<&'a str>,
        principal: &'a Principal,
        session: &Arc<Session>,
        mailbox: &Arc<Mailbox>,
    ) -> Exchange<'a> {
        let mut party = party(api, scope, principal, Era::Legacy, mailbox);
        party.session = Some(Arc::clone(&session.id));
        party.hello = session.agreed().map(|agreed| Arc::clone(&agreed.hello));
        Exchange {
            party,
            session: Arc::clone(session),
            mailbox: Arc::clone(mailbox),
            running: Vec::new(),
            rounds: HashMap::new(),
            told: Vec::new(),
            stream: None,
            is_attached: true,
        }
    }

    /// Has its requests belong to this trace, unless they say themselves which one it is.
    pub(super) fn set_trace(&mut self, trace: Option<&Arc<Trace>>) {
        self.party.trace = trace.map(Arc::clone);
    }

    /// Begins a request, or answers it.
    pub(super) fn begin(&mut self, asked: Asked<'_>) {
        match self.try_begin(asked) {
            Ok(Some(result)) => self.told.push(Told::Answer(incoming::result(asked.id, result.get()))),
            Ok(None) => {}
            Err(trouble) => self.told.push(Told::Answer(incoming::error(Some(asked.id), &trouble.failure()))),
        }
        if self.session.is_over() {
            // It has ended meanwhile, and workers may have been started for it since.
            end(self.party.api, &self.session);
        }
    }

    fn try_begin(&mut self, asked: Asked<'_>) -> Result<Option<Box<RawValue>>, Trouble> {
        match asked.method {
            "ping" => return Ok(Some(raw::object(""))),
            "logging/setLevel" => return self.set_log_level(asked.params).map(Some),
            "initialize" => return self.agree(asked.params).map(Some),
            _ if self.session.agreed().is_none() => {
                return Err(Failure::new(INVALID_REQUEST, "a session begins with `initialize`").into());
            }
            "resources/subscribe" if !self.session.may_subscribe() => {
                let what = format!("the session is subscribed to {SUBSCRIPTIONS_MAX} resources already");
                return Err(Failure::new(INVALID_REQUEST, what).into());
            }
            // These are of the other era, whose requests say so.
            "server/discover" | "subscriptions/listen" => {
                let what = format!("there is no `{}` in the revision of this session", asked.method);
                return Err(Failure::new(METHOD_NOT_FOUND, what).into());
            }
            _ => {}
        }
        let in_use = self.party.let_in(asked.method, false)?;
        let route = match self.party.plan(asked.method, asked.params)? {
            Plan::Answer(result) => return Ok(Some(result)),
            Plan::Pass(route) => route,
        };
        self.keep_own(&route)?;
        if self.is_known_to_workers(asked.method, &route) {
            self.note_subscription(asked.method, &route, None);
            return Ok(Some(raw::object("")));
        }
        if let Some(refused) = arguments::refuse(&self.party, &route, asked.params) {
            return Ok(Some(refused));
        }
        let running = Running::begin(&self.party, asked, route, self.ear(), in_use)?;
        self.add(running);
        Ok(None)
    }

    /// Keeps workers that belong to the session alone for as long as it lives, also of a server that could not be asked
    /// when it began.
    fn keep_own(&self, route: &Route) -> Result<(), Trouble> {
        if route.workers.is_own()
            && !self.session.has_own(&route.server)
            && let Some(pool) = self.party.pool(&route.server)
        {
            self.session.add_own(&route.server, self.party.lease(&pool)?);
        }
        Ok(())
    }

    fn add(&mut self, running: Running) {
        let known = RunningRef {
            id: running.id.clone(),
            tag: running.tag,
            mailbox: Arc::clone(&self.mailbox),
            workers: Arc::clone(&running.route.workers),
            call: Arc::clone(&running.call),
        };
        let is_known = self.session.add_running(known);
        if !is_known && running.route.workers.cancel(&running.call, TakenBack::ByClient) {
            return;
        }
        self.running.push(running);
    }

    fn ear(&self) -> Ear<'_> {
        let can_be_asked = self.session.traits().can_be_asked();
        Ear { mailbox: &self.mailbox, can_be_asked, log_level: self.session.log_level(), hears_logs: true }
    }

    fn agree(&mut self, params: Option<&RawValue>) -> Result<Box<RawValue>, Trouble> {
        if self.session.agreed().is_some() {
            return Err(Failure::new(INVALID_REQUEST, "the session has begun already").into());
        }
        let session_id = Arc::clone(&self.session.id);
        let (agreed, own, result) = agree(&mut self.party, &session_id, params)?;
        self.session.agree(agreed);
        own.into_iter().for_each(|(server, workers)| self.session.add_own(&server, workers));
        Ok(result)
    }

    fn set_log_level(&self, params: Option<&RawValue>) -> Result<Box<RawValue>, Trouble> {
        let level = params.and_then(|params| raw::text(params, "level"));
        let Some(level) = level.as_deref().and_then(LogLevel::from_name) else {
            let what = format!("`level`: expected one of {}", LogLevel::NAMES.join(", "));
            return Err(Failure::new(INVALID_PARAMS, what).into());
        };
        let logs = |pool: &Arc<Pool>| pool.info().is_some_and(|info| info.offers("logging"));
        if !self.party.pools().iter().any(logs) {
            return Err(Failure::new(METHOD_NOT_FOUND, "no server here has log lines for its clients").into());
        }
        self.session.set_log_level(level);
        Ok(raw::object(""))
    }

    /// Takes what has happened.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Note(tag, note) => self.take_note(tag, note),
            Event::Ended(ended) => self.take_end(ended),
            Event::TakenBack(tag) => {
                if let Some(mut running) = self.remove(tag) {
                    // It may have been sent again since.
                    running.route.workers.cancel(&running.call, TakenBack::ByClient);
                    running.count(&self.party, Some(CANCELLED));
                }
            }
            Event::Nudge => self.look_at_rounds(),
            // Nothing is delegated here.
            Event::Relayed { .. } => {}
        }
    }

    fn take_note(&mut self, tag: u64, note: Note) {
        let Some(running) = self.running.iter_mut().find(|running| running.tag == tag) else {
            // Its request has ended meanwhile.
            if let Note::Question(question) = note {
                self.session
                    .ask(None, question)
                    .into_iter()
                    .for_each(|message| self.session.streams.push(STANDALONE, message));
            }
            return;
        };
        let message = match note {
            Note::Progress(params) | Note::Chunk(params) => running.progress(&params),
            Note::Log(params) => self.session.log_message(&params),
            Note::Question(question) => self.session.ask(Some(tag), question),
            Note::Withdrawn { link, id } => self.session.withdraw(&link, &id),
            Note::Other { .. } => plain_message(&note),
        };
        self.told.extend(message.map(Told::Other));
    }

    fn take_end(&mut self, ended: Ended) {
        let tag = ended.tag;
        let Some(index) = self.running.iter().position(|running| running.tag == tag) else { return };
        let end = self.running[index].end(&self.party, ended);
        let answer = match end {
            End::Result(result) => {
                let Running { id, method, route, call, .. } = &self.running[index];
                self.note_subscription(method, route, call.link().as_ref());
                incoming::result(id, result.get())
            }
            End::Failure(failure) => incoming::error(Some(&self.running[index].id), &failure),
            End::Wants { wanted, state } => {
                let Err(failure) = self.begin_round(tag, wanted, state) else { return };
                self.running[index].count(&self.party, Some("worker_error"));
                incoming::error(Some(&self.running[index].id), &failure)
            }
        };
        self.remove(tag);
        self.told.push(Told::Answer(answer));
    }

    fn remove(&mut self, tag: u64) -> Option<Running> {
        self.session.remove_running(&self.mailbox, tag);
        self.rounds.remove(&tag);
        let index = self.running.iter().position(|running| running.tag == tag)?;
        Some(self.running.remove(index))
    }

    /// Asks the client what a modern server wants to know before it gives a result.
    fn begin_round(
        &mut self,
        tag: u64,
        wanted: Vec<(String, Box<RawValue>)>,
        state: Option<Box<RawValue>>,
    ) -> Result<(), Failure> {
        let running = self.running.iter_mut().find(|running| running.tag == tag);
        if running.is_some_and(|running| !running.may_go_on()) {
            return Err(Failure::new(INTERNAL_ERROR, "the server has asked for input too often"));
        }
        let round = Round::new(wanted.len(), &self.mailbox);
        for (key, request) in &wanted {
            let message = self.session.ask_for(tag, key, request, &round);
            self.told.push(Told::Other(message.map_err(|what| Failure::new(INTERNAL_ERROR, what))?));
        }
        self.rounds.insert(tag, (round, state));
        if wanted.is_empty() {
            // It only wants to be asked again.
            self.mailbox.nudge();
        }
        Ok(())
    }

    /// Sends requests again whose servers have all the answers they wanted.
    fn look_at_rounds(&mut self) {
        let complete = |(tag, (round, _)): (&u64, &(Arc<Round>, _))| Some((*tag, round.answers()?));
        let complete: Vec<_> = self.rounds.iter().filter_map(complete).collect();
        for (tag, answers) in complete {
            let Some((_, state)) = self.rounds.remove(&tag) else { continue };
            let went_on = answers
                .into_iter()
                .map(|(key, answer)| answer.map(|result| format!("{}:{result}", raw::quoted(&key))))
                .collect::<Result<Vec<String>, String>>()
                .map_err(|error| Failure::new(INTERNAL_ERROR, format!("the client refused to answer: {error}")).into())
                .and_then(|answers| self.go_on(tag, &format!("{{{}}}", answers.join(",")), state.as_deref()));
            if let Err(trouble) = went_on
                && let Some(mut running) = self.remove(tag)
            {
                running.count(&self.party, Some("worker_error"));
                self.told.push(Told::Answer(incoming::error(Some(&running.id), &trouble.failure())));
            }
        }
    }

    fn go_on(&mut self, tag: u64, answers: &str, state: Option<&RawValue>) -> Result<(), Trouble> {
        let ear = Ear {
            mailbox: &self.mailbox,
            can_be_asked: self.session.traits().can_be_asked(),
            log_level: self.session.log_level(),
            hears_logs: true,
        };
        let Some(index) = self.running.iter().position(|running| running.tag == tag) else { return Ok(()) };
        self.running[index].go_on(&self.party, ear, answers, state)?;
        // What can be cancelled is another call now.
        self.session.remove_running(&self.mailbox, tag);
        let running = self.running.remove(index);
        self.add(running);
        Ok(())
    }

    /// Whether a subscription, or the end of one, need not be told to a server: one of the modern era knows no such request
    /// and is listened to instead, and one that others are subscribed at must not hear that this client is not any more.
    fn is_known_to_workers(&self, method: &str, route: &Route) -> bool {
        let uri = || route.params.as_deref().and_then(|params| raw::text(params, "uri")).unwrap_or_default();
        match method {
            "resources/subscribe" => route.workers.era() == Era::Modern,
            "resources/unsubscribe" if route.workers.era() == Era::Modern => true,
            "resources/unsubscribe" => {
                let own = usize::from(self.session.is_subscribed(&route.server, &uri()));
                own < route.workers.subscribers(&uri())
            }
            _ => false,
        }
    }

    /// Notes a subscription, or the end of one, that a server has agreed to over `link`.
    fn note_subscription(&self, method: &str, route: &Route, link: Option<&Arc<Link>>) {
        let is_one = matches!(method, "resources/subscribe" | "resources/unsubscribe");
        let uri = route.params.as_deref().filter(|_| is_one).and_then(|params| raw::text(params, "uri"));
        let Some(uri) = uri else { return };
        if method == "resources/unsubscribe" {
            return self.session.unsubscribe(&route.server, &uri, link);
        }
        if let Some(Ok(workers)) = self.party.pool(&route.server).map(|pool| self.party.lease(&pool)) {
            self.session.subscribe(&route.server, &uri, workers, link);
        }
    }

    /// Gives up requests whose time is up.
    pub(super) fn look_at_time(&mut self) {
        let now = Instant::now();
        let is_heard = self.is_heard();
        let session = &self.session;
        let late = |running: &&mut Running| {
            !running.is_ending && running.give_up_at(is_heard && session.is_asked_in(running.tag)) <= now
        };
        let mut given_up = Vec::new();
        for running in self.running.iter_mut().filter(late) {
            if let Some(failure) = running.give_up(&self.party) {
                given_up.push((running.tag, incoming::error(Some(&running.id), &failure)));
            }
        }
        for (tag, answer) in given_up {
            self.remove(tag);
            self.told.push(Told::Answer(answer));
        }
    }

    /// Whether the client hears what it is told now, over whichever connection.
    fn is_heard(&self) -> bool {
        self.is_attached || self.stream.is_some_and(|stream| self.session.streams.has_reader(stream))
    }

    /// When to look at the time again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.running.iter().filter(|running| !running.is_ending);
        let is_heard = self.is_heard();
        waiting.map(|running| running.give_up_at(is_heard && self.session.is_asked_in(running.tag))).min()
    }

    /// Whether nothing runs any more.
    pub(super) fn is_over(&self) -> bool {
        self.running.is_empty()
    }

    /// Takes everything back; nobody is told.
    pub(super) fn take_all_back(&mut self) {
        // The newest first: the place of one that runs must not go to one that waits and is to be taken back as well.
        for mut running in std::mem::take(&mut self.running).into_iter().rev() {
            self.session.remove_running(&self.mailbox, running.tag);
            running.route.workers.cancel(&running.call, TakenBack::ClientGone);
            running.count(&self.party, Some(CANCELLED));
        }
    }

    /// The answers that are to be told, which are then forgotten here.
    pub(super) fn answers(&mut self) -> Vec<String> {
        let answer = |told: Told| match told {
            Told::Answer(text) => Some(text),
            Told::Other(_) => None,
        };
        std::mem::take(&mut self.told).into_iter().filter_map(answer).collect()
    }

    /// Puts what is to be told on a stream of the session.
    pub(super) fn tell_on(&mut self, stream: u64) {
        self.stream = Some(stream);
        for told in std::mem::take(&mut self.told) {
            match told {
                Told::Answer(text) => self.session.streams.push_answer(stream, text),
                Told::Other(text) => self.session.streams.push(stream, text),
            }
        }
    }

    /// Gives up whatever still runs, because its client does not listen.
    pub(super) fn give_all_up(&mut self, why: &str) {
        for mut running in std::mem::take(&mut self.running).into_iter().rev() {
            self.session.remove_running(&self.mailbox, running.tag);
            running.route.workers.cancel(&running.call, TakenBack::ClientGone);
            running.count(&self.party, Some(CANCELLED));
            let failure = Failure::new(INTERNAL_ERROR, why);
            self.told.push(Told::Answer(incoming::error(Some(&running.id), &failure)));
        }
    }

    /// Whether there is something to tell that is no answer.
    pub(super) fn has_more_than_answers(&self) -> bool {
        self.told.iter().any(|told| matches!(told, Told::Other(_)))
    }
}

impl Drop for Exchange<'_> {
    /// Nothing is left, unless its thread panicked.
    fn drop(&mut self) {
        self.take_all_back();
    }
}
