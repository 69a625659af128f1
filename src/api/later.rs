//! A call whose answer is written by the thread that has its result, so that the connection's own need not wake up for it.
//!
//! The connection's thread begins the call, leaves a [`Relay`] in its mailbox, and goes on to wait for the next request. Whatever is
//! out of the ordinary comes back to it: a call that fails, a long result, a client that is slow to take it, the end of its time.
//!
//! **Limit.** Answers of at most [`RESULT_BYTES_MAX`], so that nobody holds up the results of others by long ones.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{
    Answer, Api, Headers, Outlet, Reply, Request,
    calls::{CallBody, Caller, Prepared},
    tools::Form,
};
use crate::{
    error::Error,
    pool::{Answered, Limits, NoResult, TakenBack},
    worker::{
        Call, Waiter,
        mailbox::{Ended, Leftover, Mailbox, Relay, Taken},
    },
};

/// Longest result that is dealt with on the thread that reads it.
const RESULT_BYTES_MAX: usize = 16 * 1024;

/// Longest body of a call that may be answered so: its arguments are kept until the connection's thread looks again.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Later {
    call: Arc<Call>,
    limits: Limits,
    started_at: Instant,
    shared: Arc<Shared>,
}

/// What the thread needs that deals with the end of the call.
#[derive(Debug)]
struct Shared {
    api: Arc<Api>,
    outlet: Arc<dyn Outlet>,
    /// Taken by whoever deals with the end.
    prepared: Mutex<Option<Prepared>>,
    form: Form,
    request_id: String,
    extras: Headers,
}

impl Api {
    /// Calls a tool. Its answer is written through the request's outlet, if there is one, or given back.
    pub(super) fn call_now_or_later<'a>(
        self: &Arc<Api>,
        name: &str,
        body: Result<CallBody<'_>, Error>,
        caller: &Caller<'_>,
        form: Form,
        request: &Request<'_>,
    ) -> Reply<'a> {
        let outlet = request.outlet.filter(|_| request.body.len() <= BODY_BYTES_MAX);
        let Some(outlet) = outlet else {
            return self.answer_call(name, body, caller, form).map_or(Reply::Gone, Reply::Answer);
        };
        let begun = body.and_then(|body| self.prepare(name, &body, caller)).map(|prepared| {
            let extras = self.extras(request.head, request.head_bytes, request.address, Some(caller.principal));
            self.begin_later(prepared, extras, caller, form, outlet)
        });
        match begun {
            Ok(reply) => reply,
            Err(error) => Reply::Answer(Answer::error(&error, caller.request_id)),
        }
    }

    fn begin_later<'a>(
        self: &Arc<Api>,
        prepared: Prepared,
        extras: Headers,
        caller: &Caller<'_>,
        form: Form,
        outlet: &Arc<dyn Outlet>,
    ) -> Reply<'a> {
        let (limits, started_at, tag) = (prepared.limits, prepared.started_at, caller.client.next_tag());
        let ready = prepared.workers.ready(prepared.errand(), Waiter::Result(Arc::clone(caller.client)), tag);
        let shared = Arc::new(Shared {
            api: Arc::clone(self),
            outlet: Arc::clone(outlet),
            prepared: Mutex::new(Some(prepared)),
            form,
            request_id: caller.request_id.to_owned(),
            extras,
        });
        caller.client.delegate(tag, Arc::clone(&shared) as Arc<dyn Relay>);
        match ready.begin() {
            Ok(call) => Reply::Later(Later { call, limits, started_at, shared }),
            Err(error) => {
                caller.client.recall();
                // It was not begun, so nobody else has taken it.
                let answer = shared.take().and_then(|prepared| shared.conclude(&prepared, Err(error.into())));
                answer.map_or(Reply::Gone, Reply::Answer)
            }
        }
    }
}

impl Later {
    /// Which call of its client it is.
    pub fn tag(&self) -> u64 {
        self.call.tag()
    }

    /// When it is to be given up, as things stand now.
    pub fn deadline(&self) -> Instant {
        self.limits.deadline(&self.call, self.started_at)
    }

    /// What the end of the call is answered with that came back; `None`: there is nobody to be answered.
    pub fn answer(&self, ended: Ended) -> Option<Answer> {
        let prepared = self.shared.take()?;
        let answered = prepared.workers.answered(ended).map_err(NoResult::from);
        self.shared.conclude(&prepared, answered)
    }

    /// Gives up on a call that `client` was told to have back by [`Mailbox::recall`].
    pub fn give_up(&self, why: TakenBack, client: &Mailbox) -> Option<Answer> {
        let prepared = self.shared.take()?;
        let name = &prepared.target.tool.name;
        let answered = prepared.workers.give_up(&self.call, why, name, self.limits, self.started_at, client);
        self.shared.conclude(&prepared, answered)
    }

    /// Id of its request.
    pub fn request_id(&self) -> &str {
        &self.shared.request_id
    }
}

impl Shared {
    fn take(&self) -> Option<Prepared> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn conclude(&self, prepared: &Prepared, answered: Result<Answered, NoResult>) -> Option<Answer> {
        let mut answer = match self.api.conclude(prepared, answered, &self.request_id, self.form) {
            Ok(answer) => answer,
            Err(NoResult::Failed(error)) => Answer::error(&error, &self.request_id),
            Err(NoResult::ClientGone) => return None,
        };
        answer.headers.extend(self.extras.iter().cloned());
        Some(answer)
    }
}

impl Relay for Shared {
    fn take(&self, ended: Ended) -> Taken {
        let is_short = ended.outcome.as_ref().is_ok_and(|raw| raw.get().len() <= RESULT_BYTES_MAX);
        if !is_short {
            return Taken::Not(ended);
        }
        let Some(prepared) = Shared::take(self) else { return Taken::Not(ended) };
        let concluded = catch_unwind(AssertUnwindSafe(|| {
            let answered = prepared.workers.answered(ended).map_err(NoResult::from);
            self.conclude(&prepared, answered)
        }));
        // Its place is free before its client can know.
        drop(prepared);
        Taken::Done(match concluded {
            Ok(Some(answer)) => self.outlet.write(&answer, &self.request_id),
            Ok(None) => Leftover::Gone,
            Err(_) => {
                let what = format!("the gateway failed while it served request {}", self.request_id);
                log::error!("{what}; the panic stands above");
                self.outlet.write(&Answer::error(&Error::Internal { what }, &self.request_id), &self.request_id)
            }
        })
    }
}
