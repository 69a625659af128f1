//! What there is to see of a pool: how well it serves, and what each of its workers does.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Counts, Pool, ScaleEvent, TotalsSnapshot, breaker,
    dispatch::Dispatch,
    group::{self, Group},
};
use crate::{
    mcp::revision::Era,
    worker::{ServerInfo, Status, usage, usage::Usage},
};

/// How well a pool can serve: the workers that everybody shares.
#[derive(Debug)]
pub struct PoolState {
    /// Workers by state.
    pub counts: Counts,
    /// Fewest and most workers.
    pub workers_min: usize,
    /// See `workers_min`.
    pub workers_max: usize,
    /// Whether any worker ever got ready.
    pub was_ready: bool,
    /// Whether no worker can be expected to come up.
    pub is_hopeless: bool,
    /// Why a worker that is not up went down, fit for everybody's eyes.
    pub reason: Option<String>,
}

/// What `/stats` says of a pool beside its state.
#[derive(Debug)]
pub struct PoolFigures {
    /// Calls that wait for one of the workers that everybody shares, and the most that ever did.
    pub queued: usize,
    /// See `queued`.
    pub queued_peak: usize,
    /// Calls that a worker may have at a time now, also when they take long.
    pub calls_per_worker: usize,
    /// Workers of sessions or keys of their own.
    pub isolated_workers: usize,
    /// The last changes in the number of workers, the newest last.
    pub scale_events: Vec<ScaleEvent>,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Deaths in a row.
    pub breaker_failures: u32,
    /// Why the breaker is not closed.
    pub breaker_reason: Option<String>,
    /// Last lines on stderr of a worker that died; empty while the breaker is closed.
    pub breaker_stderr: Vec<String>,
    /// How long no worker will be started, when the breaker is open.
    pub breaker_retry_after: Option<Duration>,
}

/// A worker as `/stats` shows it.
#[derive(Debug)]
pub struct WorkerSnapshot {
    /// Like `journeys-1`.
    pub name: Arc<str>,
    /// `starting`, `ready`, `busy`, `draining`, `stopping` or `down`.
    pub state: &'static str,
    /// Calls it has now.
    pub in_flight: usize,
    /// Calls it was given since the gateway started, also those of earlier processes under its name.
    pub calls_total: u64,
    /// Those of them that it lost, did not answer in time, or answered with a JSON-RPC error.
    pub errors_total: u64,
    /// Answers that came after their call was given up.
    pub late_answers_total: u64,
    /// How often its process was started again after it died.
    pub restarts: u64,
    /// Time between the last ping and its answer.
    pub last_ping: Option<Duration>,
    /// Why the last process ended that did so by itself.
    pub last_error: Option<String>,
    /// What its server said of itself.
    pub info: Option<Arc<ServerInfo>>,
    /// Its process; the lines on stderr are those of the last one when there is none.
    pub status: Status,
    /// Memory and CPU of its process.
    pub usage: Option<Usage>,
    /// Whose worker it is; `None` for everybody's.
    pub whose: Option<String>,
    /// The era that its process is spoken to in.
    pub era: Era,
}

impl Pool {
    /// Workers by state, of those that everybody shares.
    pub fn counts(&self) -> Counts {
        self.common.look(Dispatch::counts)
    }

    /// How well the pool can serve now.
    pub fn state(&self) -> PoolState {
        self.common.look(|dispatch| PoolState {
            counts: dispatch.counts(),
            workers_min: self.premises.sizes().min_workers,
            workers_max: self.premises.sizes().max_workers,
            was_ready: dispatch.was_ready(),
            is_hopeless: dispatch.refusal(Instant::now()).is_some(),
            reason: dispatch.reason(),
        })
    }

    /// What else there is to say of the pool.
    pub fn figures(&self) -> PoolFigures {
        let isolated_workers = self.premises.budget.used();
        self.common.look(|dispatch| {
            let (queued, queued_peak) = dispatch.queued();
            let state = dispatch.breaker.state();
            let is_closed = state == breaker::State::Closed;
            let last_death = dispatch.last_death.as_ref();
            PoolFigures {
                queued,
                queued_peak,
                calls_per_worker: dispatch.learner.at_once(),
                isolated_workers,
                scale_events: dispatch.scale_events.get(),
                breaker: state.word(),
                breaker_failures: dispatch.breaker.failures(),
                breaker_reason: dispatch.reason().filter(|_| !is_closed),
                breaker_stderr: last_death.filter(|_| !is_closed).map(|end| end.stderr.clone()).unwrap_or_default(),
                breaker_retry_after: match state {
                    breaker::State::Open(until) => Some(until.saturating_duration_since(Instant::now())),
                    breaker::State::Closed | breaker::State::HalfOpen => None,
                },
            }
        })
    }

    /// What was counted for all workers since the gateway started.
    pub fn totals(&self) -> TotalsSnapshot {
        self.premises.totals.snapshot()
    }

    /// Calls at workers, and calls that wait, of everybody's workers and of all others.
    pub fn load(&self) -> (usize, usize) {
        let groups = self.groups();
        let loads = groups.iter().map(|group| group.look(|dispatch| (dispatch.in_flight(), dispatch.queued().0)));
        loads.fold((0, 0), |(in_flight, queued), (more_in_flight, more_queued)| {
            (in_flight + more_in_flight, queued + more_queued)
        })
    }

    /// Each worker, those that everybody shares first.
    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        let mut snapshots = Vec::new();
        for group in self.groups() {
            group.for_each_worker(|view| snapshots.push(WorkerSnapshot::new(view, &group)));
        }
        // The system is asked without a lock.
        for snapshot in &mut snapshots {
            snapshot.usage = snapshot.status.pid.and_then(usage::usage);
        }
        snapshots
    }
}

impl WorkerSnapshot {
    fn new(view: group::SlotView<'_>, group: &Group) -> WorkerSnapshot {
        let group::SlotView { slot, mut status } = view;
        if let Some(end) = slot.last_end.as_ref().filter(|_| status.started_at.is_none()) {
            status.stderr.clone_from(&end.stderr);
        }
        WorkerSnapshot {
            name: Arc::clone(&slot.name),
            state: slot.word(),
            in_flight: slot.calls.len(),
            calls_total: slot.calls_total,
            errors_total: slot.errors_total,
            late_answers_total: slot.late_answers_total + status.late_answers,
            restarts: slot.restarts,
            last_ping: slot.health.last_ping,
            last_error: slot.last_end.as_ref().map(|end| end.reason.clone()),
            info: slot.info.clone(),
            status,
            usage: None,
            whose: group.whose().label(),
            era: group.era(),
        }
    }
}

impl ScaleEvent {
    /// The time as RFC 3339 has it, in UTC.
    pub fn time_text(&self) -> String {
        humantime::format_rfc3339_millis(self.time.max(SystemTime::UNIX_EPOCH)).to_string()
    }
}
