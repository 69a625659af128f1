//! What the client of a session is told on its event streams, kept until it surely has it.
//!
//! A stream outlives the connection that tells it: a client whose connection broke comes back with `Last-Event-ID`, and
//! is told what it missed. Stream 0 is for what belongs to no request; every request that is answered by events opens one
//! of its own. Events are numbered from 1 on each stream, and an event's id is `{stream}-{number}`.
//!
//! **Limit.** What nobody was told yet, answers excepted: `STREAM_QUEUE_BYTES` for a session; what was told and is kept to be told again:
//! [`REPLAY_BYTES_MAX`] for a session and [`ALL_REPLAYS_BYTES_MAX`] for all; the oldest goes first.
//! **End.** With the session.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{api::exchange::push_on_one_line, worker::mailbox::Mailbox};

/// The stream of what belongs to no request.
pub(super) const STANDALONE: u64 = 0;

/// What one session keeps to tell again.
const REPLAY_BYTES_MAX: usize = 1024 * 1024;

/// What all sessions keep to tell again.
const ALL_REPLAYS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Streams of answered requests that are kept to be told again.
const FINISHED_KEPT: usize = 64;

/// What an event counts for beside its text.
pub(super) const EVENT_BYTES: usize = 64;

/// Milliseconds that a client is asked to wait before it comes back to a stream that broke off.
const RETRY_MS: u32 = 1000;

/// Bytes of all sessions that are kept to be told again.
#[derive(Debug, Default)]
pub(super) struct Replays(AtomicUsize);

/// See the module.
#[derive(Debug)]
pub(super) struct Streams {
    state: Mutex<State>,
    untold_bytes_max: usize,
    replays: Arc<Replays>,
}

#[derive(Debug, Default)]
struct State {
    streams: BTreeMap<u64, Stream>,
    last_stream: u64,
    last_reader: u64,
    untold_bytes: usize,
    told_bytes: usize,
    /// How much of `told_bytes` is counted in [`Replays`].
    told_bytes_counted: usize,
}

#[derive(Debug, Default)]
struct Stream {
    /// The events that are kept, the oldest first.
    events: VecDeque<Event>,
    /// The number of the newest event there was.
    last: u64,
    /// Up to which number they were told.
    told: u64,
    /// The number of the newest event that is not kept any more.
    dropped: u64,
    is_finished: bool,
    reader: Option<(u64, Arc<Mailbox>)>,
}

#[derive(Debug)]
struct Event {
    number: u64,
    message: String,
    /// Whether it is the answer to a request, which is not dropped before it was told.
    is_answer: bool,
}

/// A thread that tells a stream. A later one takes its place.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) stream: u64,
    number: u64,
    /// The number of the last event it was handed.
    at: u64,
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// These bytes, if any; more may come.
    Open(Vec<u8>),
    /// These bytes, and then the stream is over.
    Over(Vec<u8>),
    /// Another thread tells the stream now.
    Replaced,
}

impl Streams {
    /// Nothing yet. `untold_bytes_max` is `STREAM_QUEUE_BYTES`.
    pub(super) fn new(untold_bytes_max: usize, replays: Arc<Replays>) -> Streams {
        let mut state = State::default();
        state.streams.insert(STANDALONE, Stream::default());
        Streams { state: Mutex::new(state), untold_bytes_max, replays }
    }

    /// Opens a stream for a request, told by the thread that waits at `mailbox`.
    pub(super) fn open(&self, mailbox: &Arc<Mailbox>) -> Reader {
        let mut state = self.lock();
        state.last_stream += 1;
        let number = state.last_stream;
        state.streams.insert(number, Stream::default());
        state.attach(number, 0, mailbox)
    }

    /// Begins to tell the standalone stream: what nobody was told yet, and then what comes.
    pub(super) fn listen(&self, mailbox: &Arc<Mailbox>) -> Reader {
        let mut state = self.lock();
        let told = state.streams.get(&STANDALONE).map_or(0, |stream| stream.told);
        state.attach(STANDALONE, told, mailbox)
    }

    /// Takes up a stream again behind the event with this id. Fails with a sentence when that cannot be done without a gap.
    pub(super) fn resume(&self, event_id: &str, mailbox: &Arc<Mailbox>) -> Result<Reader, String> {
        let mut state = self.lock();
        let parsed =
            event_id.split_once('-').and_then(|(stream, number)| Some((stream.parse().ok()?, number.parse().ok()?)));
        // In just the form in which it was told: a number may be written in more than one way.
        let is_as_told = |(stream, number): &(u64, u64)| event_id == format!("{stream}-{number}");
        let Some((stream, number)) = parsed.filter(is_as_told) else {
            return Err("`Last-Event-ID` is not an id of an event told here".to_owned());
        };
        let Some(found) = state.streams.get(&stream) else {
            return Err(format!("the stream of event {event_id} is not kept any more, or never was"));
        };
        if found.last < number || number < found.dropped {
            return Err(format!("what came behind event {event_id} is not kept any more, or never was"));
        }
        Ok(state.attach(stream, number, mailbox))
    }

    /// Adds a message to a stream. The oldest that are no answers go when there is no room.
    pub(super) fn push(&self, stream: u64, message: String) {
        let mut state = self.lock();
        state.push(stream, message, false);
        while self.untold_bytes_max < state.untold_bytes && state.drop_oldest_untold() {}
    }

    /// Adds a message to the standalone stream, unless the same one waits there to be told.
    pub(super) fn push_once(&self, message: String) {
        let is_waiting = {
            let state = self.lock();
            state.streams.get(&STANDALONE).is_some_and(|it| it.untold().any(|event| event.message == message))
        };
        if !is_waiting {
            self.push(STANDALONE, message);
        }
    }

    /// Adds the answer to a request, for which there is always room.
    pub(super) fn push_answer(&self, stream: u64, message: String) {
        self.lock().push(stream, message, true);
    }

    /// Says that nothing more comes on a request's stream. What nobody was told of it yet is kept until it is.
    pub(super) fn finish(&self, stream: u64) {
        let mut state = self.lock();
        let State { streams, untold_bytes, .. } = &mut *state;
        if let Some(stream) = streams.get_mut(&stream) {
            *untold_bytes = untold_bytes.saturating_sub(stream.untold_bytes());
            stream.is_finished = true;
            if let Some((_, mailbox)) = &stream.reader {
                mailbox.nudge();
            }
        }
        let finished = state.streams.iter().filter(|(_, stream)| stream.is_finished).map(|(number, _)| *number);
        let finished: Vec<u64> = finished.collect();
        for number in finished.iter().take(finished.len().saturating_sub(FINISHED_KEPT)) {
            state.forget(*number);
        }
        self.bound_replays(&mut state);
    }

    /// What a reader has not been handed yet, framed as events; it counts as told.
    pub(super) fn news(&self, reader: &mut Reader) -> News {
        let mut state = self.lock();
        let State { streams, untold_bytes, told_bytes, .. } = &mut *state;
        let Some(stream) = streams.get_mut(&reader.stream).filter(|stream| stream.is_read_by(reader)) else {
            return News::Replaced;
        };
        let mut bytes = Vec::new();
        for event in stream.behind(reader.at) {
            push_frame(&mut bytes, reader.stream, event.number, &event.message);
        }
        if !stream.is_finished {
            *untold_bytes = untold_bytes.saturating_sub(stream.untold_bytes());
        }
        *told_bytes += stream.untold().map(Event::bytes).sum::<usize>();
        stream.told = stream.last;
        reader.at = stream.last;
        let is_over = stream.is_finished;
        self.bound_replays(&mut state);
        if is_over { News::Over(bytes) } else { News::Open(bytes) }
    }

    /// Says that a reader tells nothing any more.
    pub(super) fn leave(&self, reader: &Reader) {
        let mut state = self.lock();
        if let Some(stream) = state.streams.get_mut(&reader.stream).filter(|stream| stream.is_read_by(reader)) {
            stream.reader = None;
        }
    }

    /// Whether anybody tells a stream now.
    pub(super) fn has_reader(&self, stream: u64) -> bool {
        self.lock().streams.get(&stream).is_some_and(|stream| stream.reader.is_some())
    }

    /// Has every reader look around.
    pub(super) fn nudge_all(&self) {
        let state = self.lock();
        state.streams.values().filter_map(|stream| stream.reader.as_ref()).for_each(|(_, mailbox)| mailbox.nudge());
    }

    /// The event that tells a client of 2025-11-25 or later, before anything has happened, how to come back.
    pub(super) fn priming(reader: &Reader) -> String {
        format!("id: {}-{}\nretry: {RETRY_MS}\ndata: \n\n", reader.stream, reader.at)
    }

    /// Keeps the events that were told within their bounds.
    fn bound_replays(&self, state: &mut State) {
        while REPLAY_BYTES_MAX < state.told_bytes && state.drop_oldest_told() {}
        let others = self.replays.0.load(Ordering::Relaxed).saturating_sub(state.told_bytes_counted);
        while ALL_REPLAYS_BYTES_MAX < others + state.told_bytes && state.drop_oldest_told() {}
        self.replays.0.fetch_sub(state.told_bytes_counted, Ordering::Relaxed);
        self.replays.0.fetch_add(state.told_bytes, Ordering::Relaxed);
        state.told_bytes_counted = state.told_bytes;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.replays.0.fetch_sub(self.lock().told_bytes_counted, Ordering::Relaxed);
    }
}

impl State {
    fn push(&mut self, stream: u64, message: String, is_answer: bool) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        stream.last += 1;
        let event = Event { number: stream.last, message, is_answer };
        self.untold_bytes += event.bounded_bytes();
        stream.events.push_back(event);
        if let Some((_, mailbox)) = &stream.reader {
            mailbox.nudge();
        }
    }

    fn attach(&mut self, number: u64, at: u64, mailbox: &Arc<Mailbox>) -> Reader {
        self.last_reader += 1;
        let reader = (self.last_reader, Arc::clone(mailbox));
        let before = self.streams.get_mut(&number).and_then(|stream| stream.reader.replace(reader));
        if let Some((_, mailbox)) = before {
            mailbox.nudge();
        }
        Reader { stream: number, number: self.last_reader, at }
    }

    /// Drops the oldest event that was told, of the first stream that has one. False when there is none.
    fn drop_oldest_told(&mut self) -> bool {
        let has_one = |stream: &&mut Stream| stream.events.front().is_some_and(|event| event.number <= stream.told);
        let Some(stream) = self.streams.values_mut().find(has_one) else { return false };
        let event = stream.remove(0);
        self.told_bytes = self.told_bytes.saturating_sub(event.map_or(0, |event| event.bytes()));
        true
    }

    /// Drops the oldest event that nobody was told and that is no answer. False when there is none.
    fn drop_oldest_untold(&mut self) -> bool {
        // What belongs to no request goes before what does.
        for stream in self.streams.values_mut().filter(|stream| !stream.is_finished) {
            let index = stream.events.iter().position(|event| stream.told < event.number && !event.is_answer);
            if let Some(event) = index.and_then(|index| stream.remove(index)) {
                self.untold_bytes = self.untold_bytes.saturating_sub(event.bytes());
                return true;
            }
        }
        false
    }

    fn forget(&mut self, number: u64) {
        let Some(stream) = self.streams.remove(&number) else { return };
        // Untold ones of a finished stream are not counted any more.
        let told = stream.events.iter().filter(|event| event.number <= stream.told);
        self.told_bytes = self.told_bytes.saturating_sub(told.map(Event::bytes).sum());
    }
}

impl Stream {
    /// The events behind the one with this number.
    fn behind(&self, number: u64) -> impl Iterator<Item = &Event> {
        let at = self.events.partition_point(|event| event.number <= number);
        self.events.range(at..)
    }

    fn untold(&self) -> impl Iterator<Item = &Event> {
        self.behind(self.told)
    }

    /// What of it counts for the bound of what nobody was told.
    fn untold_bytes(&self) -> usize {
        self.untold().map(Event::bounded_bytes).sum()
    }

    fn remove(&mut self, index: usize) -> Option<Event> {
        let event = self.events.remove(index)?;
        self.dropped = self.dropped.max(event.number);
        Some(event)
    }

    fn is_read_by(&self, reader: &Reader) -> bool {
        self.reader.as_ref().is_some_and(|(number, _)| *number == reader.number)
    }
}

impl Event {
    fn bytes(&self) -> usize {
        self.message.len() + EVENT_BYTES
    }

    /// What it counts for the bound of what nobody was told.
    fn bounded_bytes(&self) -> usize {
        if self.is_answer { 0 } else { self.bytes() }
    }
}

/// Appends one event, whose message is JSON, on one line. A line break would end the field; in JSON it can only stand
/// between tokens, where a blank does as well.
pub(super) fn push_data(bytes: &mut Vec<u8>, message: &str) {
    bytes.extend_from_slice(b"data: ");
    push_on_one_line(bytes, message);
    bytes.extend_from_slice(b"\n\n");
}

fn push_frame(bytes: &mut Vec<u8>, stream: u64, number: u64, message: &str) {
    bytes.extend_from_slice(format!("id: {stream}-{number}\n").as_bytes());
    push_data(bytes, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(untold_bytes_max: usize) -> Streams {
        Streams::new(untold_bytes_max, Arc::default())
    }

    fn text(news: News) -> String {
        match news {
            News::Open(bytes) => String::from_utf8(bytes).unwrap(),
            News::Over(bytes) => String::from_utf8(bytes).unwrap() + "over",
            News::Replaced => "replaced".to_owned(),
        }
    }

    #[test]
    fn a_stream_is_told_once_and_again_behind_the_last_event_that_came() {
        let (streams, mailbox) = (streams(1000), Arc::default());
        let mut first = streams.open(&mailbox);
        streams.push(1, "1".to_owned());
        streams.push(1, "2".to_owned());
        assert_eq!(text(streams.news(&mut first)), "id: 1-1\ndata: 1\n\nid: 1-2\ndata: 2\n\n");
        assert_eq!(text(streams.news(&mut first)), "");
        streams.push(1, "3".to_owned());
        let mut second = streams.resume("1-1", &mailbox).unwrap();
        assert_eq!(text(streams.news(&mut first)), "replaced");
        assert_eq!(text(streams.news(&mut second)), "id: 1-2\ndata: 2\n\nid: 1-3\ndata: 3\n\n");
        streams.finish(1);
        assert_eq!(text(streams.news(&mut second)), "over");
        let mut third = streams.resume("1-2", &mailbox).unwrap();
        assert_eq!(text(streams.news(&mut third)), "id: 1-3\ndata: 3\n\nover");
    }

    #[test]
    fn what_belongs_to_no_request_waits_for_a_reader_and_is_told_to_one_only() {
        let (streams, mailbox) = (streams(1000), Arc::default());
        streams.push(STANDALONE, "1".to_owned());
        streams.push_once("2".to_owned());
        streams.push_once("2".to_owned());
        let mut first = streams.listen(&mailbox);
        assert_eq!(text(streams.news(&mut first)), "id: 0-1\ndata: 1\n\nid: 0-2\ndata: 2\n\n");
        streams.push_once("2".to_owned());
        let mut second = streams.listen(&mailbox);
        assert_eq!(text(streams.news(&mut second)), "id: 0-3\ndata: 2\n\n");
        assert_eq!(text(streams.news(&mut first)), "replaced");
    }

    #[test]
    fn a_gap_is_refused_and_so_is_what_was_never_told() {
        let (streams, mailbox) = (streams(3 * (EVENT_BYTES + 1)), Arc::default());
        let mut reader = streams.open(&mailbox);
        for number in 1..=5 {
            streams.push(1, number.to_string());
        }
        for id in ["", "1", "x-1", "1-x", "1-6", "7-1", "1-1", "-1-1"] {
            assert!(streams.resume(id, &mailbox).is_err(), "{id}");
        }
        assert_eq!(text(streams.news(&mut reader)), "id: 1-3\ndata: 3\n\nid: 1-4\ndata: 4\n\nid: 1-5\ndata: 5\n\n");
        assert!(streams.resume("1-2", &mailbox).is_ok() && streams.resume("1-5", &mailbox).is_ok());
    }

    #[test]
    fn what_is_kept_to_be_told_again_is_bounded_for_each_session_and_for_all() {
        let replays = Arc::new(Replays::default());
        let (streams, mailbox) = (Streams::new(usize::MAX, Arc::clone(&replays)), Arc::default());
        let mut reader = streams.open(&mailbox);
        for _ in 0..5 {
            streams.push(1, "x".repeat(REPLAY_BYTES_MAX / 2));
            streams.news(&mut reader);
        }
        assert!(replays.0.load(Ordering::Relaxed) <= REPLAY_BYTES_MAX);
        assert!(streams.resume("1-4", &mailbox).is_ok() && streams.resume("1-1", &mailbox).is_err());
        replays.0.fetch_add(ALL_REPLAYS_BYTES_MAX, Ordering::Relaxed);
        let mut reader = streams.resume("1-5", &mailbox).unwrap();
        streams.news(&mut reader);
        assert!(streams.resume("1-4", &mailbox).is_err());
        drop(streams);
        assert_eq!(replays.0.load(Ordering::Relaxed), ALL_REPLAYS_BYTES_MAX);
    }

    #[test]
    fn answers_are_kept_until_they_are_told_whatever_comes_behind_them() {
        let (streams, mailbox) = (streams(2 * (EVENT_BYTES + 1)), Arc::default());
        let mut reader = streams.open(&mailbox);
        let answer = "x".repeat(1000);
        streams.push(1, "1".to_owned());
        streams.push_answer(1, answer.clone());
        for number in 3..=5 {
            streams.push(1, number.to_string());
        }
        let expected = format!("id: 1-2\ndata: {answer}\n\nid: 1-4\ndata: 4\n\nid: 1-5\ndata: 5\n\n");
        assert_eq!(text(streams.news(&mut reader)), expected);
        assert!(streams.resume("1-2", &mailbox).is_err() && streams.resume("1-4", &mailbox).is_ok());
        // It takes no room from what comes then.
        streams.push(1, "6".to_owned());
        assert_eq!(text(streams.news(&mut streams.resume("1-5", &mailbox).unwrap())), "id: 1-6\ndata: 6\n\n");
    }

    #[test]
    fn few_answered_requests_are_kept() {
        let (streams, mailbox) = (streams(usize::MAX), Arc::default());
        for number in 1..=FINISHED_KEPT as u64 + 1 {
            streams.open(&mailbox);
            streams.finish(number);
        }
        assert!(streams.resume("1-0", &mailbox).is_err() && streams.resume("2-0", &mailbox).is_ok());
    }
}
