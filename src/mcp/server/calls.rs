//! The calls of one connection: a bounded queue, the threads that run them, and the table to cancel them by.

use std::{
    any::Any,
    collections::{HashMap, hash_map::Entry},
    io,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Map, Value};

use crate::{
    mcp::incoming::{INTERNAL_ERROR, INVALID_REQUEST},
    threads::{self, Joined},
};

use super::{
    Server,
    context::Context,
    message::{RpcError, response},
    outbox::Outbox,
    session::Era,
    tool::Arguments,
};

/// How many calls run at a time.
const CALL_THREADS: usize = 4;

/// How many calls wait for a thread.
pub(super) const CALLS_QUEUED_MAX: usize = 1024;

/// One `tools/call`.
pub(super) struct Call {
    pub(super) id: Value,
    pub(super) era: Era,
    /// Which of the server's tools.
    pub(super) tool_index: usize,
    pub(super) arguments: Arguments,
    pub(super) progress_token: Option<Value>,
}

/// The calls of one connection. Dropping it runs what is queued, then joins the threads.
pub(super) struct Calls {
    // Fields drop from top to bottom: a closed queue ends the threads, which are then joined.
    queue: Sender<Running>,
    in_flight: Arc<InFlight>,
    _threads: Vec<Joined>,
}

impl Calls {
    /// Starts the threads. Fails when the system has no room for them.
    pub(super) fn start(server: &Arc<Server>, outbox: &Arc<Outbox>) -> io::Result<Calls> {
        let (queue, queued) = bounded(CALLS_QUEUED_MAX);
        let in_flight = Arc::new(InFlight::default());
        let mut threads = Vec::new();
        for n in 1..=CALL_THREADS {
            let runner = Runner {
                server: Arc::clone(server),
                outbox: Arc::clone(outbox),
                in_flight: Arc::clone(&in_flight),
                queued: queued.clone(),
            };
            threads.push(threads::spawn(format!("mcp-call-{n}"), move || runner.run())?);
        }
        Ok(Calls { queue, in_flight, _threads: threads })
    }

    /// Queues `call`, which answers its request when it ends. Fails when its id is in use or the queue is full.
    pub(super) fn submit(&self, call: Call) -> Result<(), RpcError> {
        let is_cancelled = self.in_flight.add(&call.id)?;
        let running = Running { call, is_cancelled };
        self.queue.try_send(running).map_err(|refused| {
            self.in_flight.finish(&refused.into_inner().call.id);
            let message = format!("{CALLS_QUEUED_MAX} calls are waiting already; try again when some have ended");
            RpcError::new(INTERNAL_ERROR, message)
        })
    }

    /// Marks call `id` as cancelled, if there is one: it will not be answered.
    pub(super) fn cancel(&self, id: &Value) {
        if let Some(is_cancelled) = self.in_flight.lock().get(&key(id)) {
            is_cancelled.store(true, Ordering::Relaxed);
        }
    }
}

struct Running {
    call: Call,
    is_cancelled: Arc<AtomicBool>,
}

/// What one thread works with.
struct Runner {
    server: Arc<Server>,
    outbox: Arc<Outbox>,
    in_flight: Arc<InFlight>,
    queued: Receiver<Running>,
}

impl Runner {
    fn run(self) {
        for Running { call, is_cancelled } in &self.queued {
            let id = call.id.clone();
            let answer = if is_cancelled.load(Ordering::Relaxed) || self.outbox.has_failed() {
                None
            } else {
                Some(self.answer(call, is_cancelled))
            };
            // From here on a cancellation comes too late, and the client may use the id again.
            let was_cancelled = self.in_flight.finish(&id);
            if let Some(answer) = answer.filter(|_| !was_cancelled) {
                self.outbox.send(&answer);
            }
        }
    }

    fn answer(&self, call: Call, is_cancelled: Arc<AtomicBool>) -> Value {
        let Call { id, era, tool_index, arguments, progress_token } = call;
        let registered = &self.server.tools[tool_index];
        let context = Context::new(Arc::clone(&self.outbox), progress_token, is_cancelled);
        // A tool shares nothing with us but the context, which ends with the call.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (registered.handler)(&context, arguments)));
        let result: Map<String, Value> = match outcome {
            Ok(Ok(value)) => registered.to_result(value),
            Ok(Err(error)) => error.into_result(),
            Err(payload) => {
                let message = format!("tool `{}` panicked: {}", registered.tool.name, panic_text(&*payload));
                return RpcError::new(INTERNAL_ERROR, message).to_message(Some(&id));
            }
        };
        response(&id, era.complete(result, &self.server.info))
    }
}

/// The calls that are queued or running, by id, each with its mark of cancellation.
#[derive(Default)]
struct InFlight(Mutex<HashMap<String, Arc<AtomicBool>>>);

impl InFlight {
    fn add(&self, id: &Value) -> Result<Arc<AtomicBool>, RpcError> {
        match self.lock().entry(key(id)) {
            Entry::Occupied(_) => {
                let message = format!("request id {id} belongs to a call that has not ended");
                Err(RpcError::new(INVALID_REQUEST, message))
            }
            Entry::Vacant(entry) => Ok(Arc::clone(entry.insert(Arc::default()))),
        }
    }

    /// Forgets call `id`, and says whether it was cancelled.
    fn finish(&self, id: &Value) -> bool {
        self.lock().remove(&key(id)).is_some_and(|it| it.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id as JSON text, in which `1` and `"1"` differ.
fn key(id: &Value) -> String {
    id.to_string()
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
