//! The client at the other end of stdin and stdout: what it is told, asked, answers, and has subscribed to.
//!
//! Everything of this process that lives longer than a request is here. Locks are held for moments only, and stdout's
//! is always the last to be taken.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Write},
    process::exit,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

use serde_json::{Map, Value, json};

use crate::request::{Era, Failure, Request, meta};

/// What may happen to a request while it runs.
#[derive(Debug)]
pub(crate) enum Event {
    Cancelled,
    /// The client's result for a question.
    Answered(Value),
    /// The client's error for a question.
    Refused(Value),
}

/// Events that may wait for a request; it has no more than one question open, and one cancellation.
const EVENTS_MAX: usize = 4;

#[derive(Default)]
pub(crate) struct Peer {
    stdout: Mutex<()>,
    /// By id, as JSON: `1` is not `"1"`.
    running: Mutex<HashMap<String, Running>>,
    /// Who waits for the answer, by the id of the question, as JSON.
    questions: Mutex<HashMap<String, SyncSender<Event>>>,
    questions_total: AtomicU64,
    /// Legacy era: the least severe level the client wants, as its place in `LOG_LEVELS`.
    log_level: AtomicUsize,
    /// Legacy era: the uris the client has subscribed to.
    subscribed: Mutex<BTreeSet<String>>,
    /// Modern era: the open `subscriptions/listen`.
    listens: Mutex<Vec<Listen>>,
}

/// A request that is not answered yet.
struct Running {
    events: SyncSender<Event>,
    is_over: Arc<AtomicBool>,
}

/// A `subscriptions/listen`: its id, and what it asked for.
struct Listen {
    id: Value,
    filter: Map<String, Value>,
}

impl Peer {
    /// Takes in a request, of which at most `requests_max` run at a time.
    pub(crate) fn begin(
        &self,
        era: Era,
        id: Value,
        params: Map<String, Value>,
        requests_max: usize,
    ) -> Result<Request<'_>, Failure> {
        let mut running = locked(&self.running);
        if running.contains_key(&id.to_string()) {
            return Err(Failure::invalid_request(format!("a request with the id {id} is still running")));
        }
        if requests_max <= running.len() {
            return Err(Failure::internal(format!("{requests_max} requests are running already")));
        }
        let (sender, events) = sync_channel(EVENTS_MAX);
        let is_over = Arc::new(AtomicBool::new(false));
        running.insert(id.to_string(), Running { events: sender, is_over: Arc::clone(&is_over) });
        Ok(Request { era, id, params, peer: self, events, is_over })
    }

    /// Takes a request that is answered, or never began, from the running ones.
    pub(crate) fn forget(&self, id: &Value) {
        locked(&self.running).remove(&id.to_string());
    }

    /// Ends a running request without an answer.
    pub(crate) fn cancel(&self, id: &Value) {
        let mut running = locked(&self.running);
        let is_first = running.get(&id.to_string()).is_some_and(|it| !it.is_over.swap(true, Ordering::SeqCst));
        if !is_first {
            return;
        }
        if let Some(request) = running.remove(&id.to_string()) {
            // Dropping the sender would be enough, were there no question that has another one.
            let _ = request.events.try_send(Event::Cancelled);
        }
    }

    /// Wakes up all that wait: the client has left.
    pub(crate) fn close(&self) {
        locked(&self.running).clear();
        locked(&self.questions).clear();
    }

    pub(crate) fn write(&self, message: &Value) {
        let _turn = locked(&self.stdout);
        let mut line = message.to_string();
        line.push('\n');
        let mut stdout = io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            // Nobody is left to talk to.
            exit(0);
        }
    }

    pub(crate) fn notify(&self, method: &str, params: Value) {
        self.write(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    pub(crate) fn refuse(&self, id: &Value, failure: Failure) {
        let Failure::Error { code, message, data } = failure else { return };
        let mut error = json!({ "code": code, "message": message });
        if let Some(data) = data {
            error["data"] = data;
        }
        self.write(&json!({ "jsonrpc": "2.0", "id": id, "error": error }));
    }

    /// Puts a question to the client on behalf of a request, and gives its id.
    pub(crate) fn ask(&self, request: &Request<'_>, method: &str, params: Value) -> Result<Value, Failure> {
        let number = self.questions_total.fetch_add(1, Ordering::Relaxed) + 1;
        let id = json!(format!("question-{number}"));
        let events = locked(&self.running).get(&request.id.to_string()).map(|it| it.events.clone());
        let is_over = request.is_over.load(Ordering::SeqCst);
        let Some(events) = events.filter(|_| !is_over) else { return Err(Failure::Cancelled) };
        locked(&self.questions).insert(id.to_string(), events);
        self.write(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        Ok(id)
    }

    /// Hands an answer to the request that asked; one that came too late is dropped.
    pub(crate) fn answered(&self, question: &Value, event: Event) {
        if let Some(events) = locked(&self.questions).remove(&question.to_string()) {
            let _ = events.try_send(event);
        }
    }

    /// Nobody waits for this answer any more; the client is told if it has not given it.
    pub(crate) fn close_question(&self, question: &Value) {
        let was_open = locked(&self.questions).remove(&question.to_string()).is_some();
        if was_open {
            self.notify("notifications/cancelled", json!({ "requestId": question }));
        }
    }

    pub(crate) fn log_level(&self) -> usize {
        self.log_level.load(Ordering::Relaxed)
    }

    pub(crate) fn set_log_level(&self, log_level: usize) {
        self.log_level.store(log_level, Ordering::Relaxed);
    }

    pub(crate) fn subscribe(&self, uri: &str) {
        locked(&self.subscribed).insert(uri.to_owned());
    }

    pub(crate) fn unsubscribe(&self, uri: &str) {
        locked(&self.subscribed).remove(uri);
    }

    /// Acknowledges a `subscriptions/listen`, which from then on is told what it asked for.
    pub(crate) fn listen(&self, id: &Value, filter: Map<String, Value>) {
        // Under the lock, so that nothing comes before the acknowledgement.
        let mut listens = locked(&self.listens);
        let params = json!({ "_meta": { meta::SUBSCRIPTION: id }, "notifications": filter });
        self.notify("notifications/subscriptions/acknowledged", params);
        listens.push(Listen { id: id.clone(), filter });
    }

    pub(crate) fn stop_listening(&self, id: &Value) {
        locked(&self.listens).retain(|it| it.id != *id);
    }

    /// Tells that a list has changed: once in the legacy era, else once for each listen that asked for `filter_key`.
    pub(crate) fn tell_list_changed(&self, era: Era, method: &str, filter_key: &str) {
        match era {
            Era::Legacy => self.notify(method, json!({})),
            Era::Modern => self.tell_listens(method, &Map::new(), |it| it.get(filter_key) == Some(&json!(true))),
        }
    }

    /// Tells that a resource has changed, to those who have subscribed to it.
    pub(crate) fn tell_updated(&self, era: Era, uri: &str) {
        let method = "notifications/resources/updated";
        let params = Map::from_iter([("uri".to_owned(), json!(uri))]);
        match era {
            Era::Legacy => {
                let is_subscribed = locked(&self.subscribed).contains(uri);
                if is_subscribed {
                    self.notify(method, Value::Object(params));
                }
            }
            Era::Modern => self.tell_listens(method, &params, |filter| {
                let uris = filter.get("resourceSubscriptions").and_then(Value::as_array);
                uris.is_some_and(|uris| uris.iter().any(|it| it == uri))
            }),
        }
    }

    fn tell_listens(&self, method: &str, params: &Map<String, Value>, wants: impl Fn(&Map<String, Value>) -> bool) {
        for listen in locked(&self.listens).iter().filter(|it| wants(&it.filter)) {
            let mut params = params.clone();
            params.insert("_meta".to_owned(), json!({ meta::SUBSCRIPTION: listen.id }));
            self.notify(method, Value::Object(params));
        }
    }
}

/// What a thread that panicked has left is as good as before: every change is a single step.
fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}
