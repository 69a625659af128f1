//! `/admin`: what an operator can have done. Every key that is not restricted to some tools is an operator's.

use super::{Answer, Api};
use crate::{access::Principal, error::Error, json::json};

/// Has one worker replaced by a new process, whose place it keeps until that is ready.
pub(super) fn restart_worker(api: &Api, name: &str, principal: &Principal) -> Result<Answer, Error> {
    check_operator(principal)?;
    if api.servers.restart_worker(name) {
        return Ok(restarting(&[name]));
    }
    Err(Error::Unknown { what: "worker", name: name.to_owned(), hint: "`GET /stats` lists the workers".to_owned() })
}

/// Has all workers of a server replaced, one after the other.
pub(super) fn restart_server(api: &Api, name: &str, principal: &Principal) -> Result<Answer, Error> {
    check_operator(principal)?;
    let hint = || "`GET /` lists the servers".to_owned();
    let unknown = || Error::Unknown { what: "server", name: name.to_owned(), hint: hint() };
    let workers = api.servers.restart_server(name).ok_or_else(unknown)?;
    Ok(restarting(&workers.iter().map(|worker| &**worker).collect::<Vec<_>>()))
}

fn restarting(workers: &[&str]) -> Answer {
    Answer { status: 202, ..Answer::json(&json!({ "status": "restarting", "workers": workers })) }
}

fn check_operator(principal: &Principal) -> Result<(), Error> {
    if principal.may_use_everything() {
        return Ok(());
    }
    Err(Error::Forbidden {
        what: format!("key `{}` is for some tools only, not for administration", principal.name),
        hint: "use a key that was made without `--tools`",
    })
}
