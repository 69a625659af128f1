//! `/health`: whether a call would be served now. It never says so when a call would fail.

use serde::Serialize;

use super::Answer;
use crate::{
    json::json,
    pool::{Counts, PoolState, Roster},
};

/// How well a server, or the whole gateway, can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Every server has its minimum of workers.
    Healthy,
    /// Calls are served, by fewer workers or not for every server.
    Degraded,
    /// No worker is ready yet.
    Starting,
    /// No server can take a call.
    Unhealthy,
}

/// The whole picture.
pub(super) fn answer(servers: &Roster) -> Answer {
    let mut total = Counts::default();
    let mut statuses = Vec::new();
    let mut by_name = serde_json::Map::new();
    for pool in servers.pools() {
        let state = pool.state();
        let status = status_of(&state);
        statuses.push(status);
        total.add(state.counts);
        let mut entry = json!({ "status": status, "workers": state.counts });
        if let Some(reason) = state.reason.filter(|_| status != Status::Healthy) {
            entry["reason"] = reason.into();
        }
        by_name.insert(pool.server().to_string(), entry);
    }
    let status = overall(&statuses);
    let answer = Answer::json(&json!({ "status": status, "workers": total, "servers": by_name }));
    Answer { status: status.http_status(), ..answer }
}

/// The status alone.
pub(super) fn ready(servers: &Roster) -> Answer {
    let statuses: Vec<_> = servers.pools().iter().map(|pool| status_of(&pool.state())).collect();
    let status = overall(&statuses);
    Answer { status: status.http_status(), ..Answer::json(&json!({ "status": status })) }
}

/// That the process answers at all.
pub(super) fn live() -> Answer {
    Answer::json(&json!({ "status": "alive" }))
}

/// The status of one server.
pub(super) fn status_of(state: &PoolState) -> Status {
    let usable = state.counts.ready + state.counts.busy;
    if state.workers_min <= usable {
        Status::Healthy
    } else if 0 < usable {
        Status::Degraded
    } else if !state.is_hopeless && !state.was_ready {
        Status::Starting
    } else {
        Status::Unhealthy
    }
}

fn overall(statuses: &[Status]) -> Status {
    let is = |wanted: Status| move |status: &Status| *status == wanted;
    let is_usable = |status: &Status| matches!(status, Status::Healthy | Status::Degraded);
    if statuses.iter().all(is(Status::Healthy)) {
        Status::Healthy
    } else if statuses.iter().any(is_usable) {
        Status::Degraded
    } else if statuses.iter().any(is(Status::Starting)) {
        Status::Starting
    } else {
        Status::Unhealthy
    }
}

impl Status {
    /// Every one.
    pub(super) const ALL: [Status; 4] = [Status::Healthy, Status::Degraded, Status::Starting, Status::Unhealthy];

    /// The word for it, as in `/health`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Starting => "starting",
            Status::Unhealthy => "unhealthy",
        }
    }

    fn http_status(self) -> u16 {
        match self {
            Status::Healthy | Status::Degraded => 200,
            Status::Starting | Status::Unhealthy => 503,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_as_well_as_its_servers_let_it_be() {
        use Status::{Degraded, Healthy, Starting, Unhealthy};
        let cases = [
            (vec![Healthy, Healthy], Healthy, 200),
            (vec![Healthy, Unhealthy], Degraded, 200),
            (vec![Healthy, Starting], Degraded, 200),
            (vec![Degraded], Degraded, 200),
            (vec![Starting, Unhealthy], Starting, 503),
            (vec![Unhealthy, Unhealthy], Unhealthy, 503),
        ];
        for (statuses, expected, http_status) in cases {
            let status = overall(&statuses);
            assert_eq!((status, status.http_status()), (expected, http_status), "{statuses:?}");
        }
    }
}
