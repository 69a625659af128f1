//! What resources and prompts have in common: asking servers for lists and for one thing, without a tool in between.
//!
//! Lists are had from the servers each time, all pages of them: there is nothing that could be out of date. Such requests only
//! read, so one whose worker dies is sent to another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{Answer, Api, calls::Caller};
use crate::{
    error::Error,
    mcp::{raw, revision::Era},
    pool::{Answered, Asker, Errand, Limits, NoResult, Pool, Roster},
    worker::{Hello, ServerInfo},
};

/// Pages of a list that are read before its server is taken to be turning in circles.
const PAGES_MAX: usize = 1000;

/// When a caller may ask again whose server could not be asked.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A kind of thing that servers list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// `resources/list`.
    pub(super) method: &'static str,
    /// Where the list stands in the result, and in our answer: `resources`.
    pub(super) field: &'static str,
    /// Whether a server has such things at all.
    pub(super) is_offered: fn(&ServerInfo) -> bool,
}

/// One thing of a list, as its server gave it.
pub(super) struct Entry<'a> {
    pub(super) pool: &'a Pool,
    pub(super) raw: Box<RawValue>,
}

/// What the servers in scope list, in the order of the servers.
pub(super) struct Entries<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    /// Servers that could not be asked, when there are others.
    pub(super) unavailable: Vec<&'a str>,
}

/// One request on behalf of a client.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) api: &'a Api,
    /// The servers as they were when it came.
    pub(super) roster: &'a Roster,
    pub(super) caller: Caller<'a>,
    pub(super) limits: Limits,
    pub(super) started_at: Instant,
    /// The era that the client speaks, which decides where a server speaks both.
    era: Era,
    /// What a client of `/mcp` said of itself.
    hello: Option<&'a Arc<Hello>>,
}

impl<'a> Reading<'a> {
    /// Requests of a client of `/mcp`.
    pub(super) fn of_client(
        api: &'a Api,
        roster: &'a Roster,
        caller: Caller<'a>,
        limits: Limits,
        era: Era,
        hello: Option<&'a Arc<Hello>>,
    ) -> Reading<'a> {
        Reading { api, roster, caller, limits, started_at: Instant::now(), era, hello }
    }

    /// Fails with [`Error::Forbidden`] when the key is for some tools only.
    pub(super) fn new(
        api: &'a Api,
        roster: &'a Roster,
        caller: Caller<'a>,
        limits: Limits,
    ) -> Result<Reading<'a>, Error> {
        if caller.principal.may_use_everything() {
            return Ok(Reading::of_client(api, roster, caller, limits, Era::Legacy, None));
        }
        Err(Error::Forbidden {
            what: format!("key `{}` is for some tools only, not for resources and prompts", caller.principal.name),
            hint: "use a key that was made without `--tools`",
        })
    }

    /// The servers in scope that have such things. One that is still starting is waited for, if it is the only one.
    ///
    /// Fails like a call when the only one has no worker. With several, those are left out and named.
    pub(super) fn servers(&self, kind: Kind) -> Result<(Vec<&'a Pool>, Vec<&'a str>), Error> {
        let in_scope: Vec<&Pool> = self.roster.in_scope(self.caller.scope).map(|pool| &**pool).collect();
        if let [only] = in_scope[..] {
            let waiting_max = self.api.config.now().queue_max;
            only.catalog_by(self.started_at + self.limits.silence_max, self.caller.client, waiting_max)?;
        }
        let (mut offering, mut unavailable) = (Vec::new(), Vec::new());
        for pool in in_scope {
            match pool.info() {
                Some(info) if (kind.is_offered)(&info) => offering.push(pool),
                Some(_) => {}
                None => unavailable.push(&**pool.server()),
            }
        }
        Ok((offering, unavailable))
    }

    /// Everything of a kind.
    pub(super) fn list(&self, kind: Kind) -> Result<Entries<'a>, NoResult> {
        let (servers, mut unavailable) = self.servers(kind)?;
        let has_others = 1 < servers.len() + unavailable.len();
        let mut entries = Vec::new();
        for pool in servers {
            match self.list_of(pool, kind) {
                Ok(raws) => entries.extend(raws.into_iter().map(|raw| Entry { pool, raw })),
                Err(NoResult::Failed(error)) if has_others => {
                    log::warn!("{} of server {} are left out: {error}", kind.field, pool.server());
                    unavailable.push(pool.server());
                }
                Err(no_result) => return Err(no_result),
            }
        }
        Ok(Entries { entries, unavailable })
    }

    /// All pages of one server's list.
    pub(super) fn list_of(&self, pool: &Pool, kind: Kind) -> Result<Vec<Box<RawValue>>, NoResult> {
        let mut entries = Vec::new();
        let mut params = "{}".to_owned();
        for _ in 0..PAGES_MAX {
            let answered = self.ask(pool, kind.method, &params)?;
            let page = raw::field(&answered.raw, kind.field).and_then(|list| {
                let more: Vec<Box<RawValue>> = serde_json::from_str(list.get()).ok()?;
                Some((more, raw::field(&answered.raw, "nextCursor")))
            });
            let Some((mut more, cursor)) = page else {
                let what = format!("the result of `{}` has no list `{}`", kind.method, kind.field);
                return Err(Error::WorkerAnswer { worker: answered.worker.to_string(), what }.into());
            };
            entries.append(&mut more);
            match cursor.filter(|cursor| cursor.get() != "null") {
                Some(cursor) => params = format!(r#"{{"cursor":{cursor}}}"#),
                None => return Ok(entries),
            }
        }
        let what = format!("`{}` has more than {PAGES_MAX} pages", kind.method);
        Err(Error::WorkerAnswer { worker: pool.server().to_string(), what }.into())
    }

    /// One request to a server, and its result. `params` is a JSON object.
    pub(super) fn ask(&self, pool: &Pool, method: &str, params: &str) -> Result<Answered, NoResult> {
        let Caller { principal, session, client, trace, .. } = self.caller;
        let workers = pool.lease(Asker { key: &principal.name, session, era: self.era, hello: self.hello })?;
        let errand = Errand::read(workers.era(), method, params, trace.map(|trace| &**trace));
        workers.call(errand, method, self.limits, self.started_at, client)
    }
}

impl Entries<'_> {
    /// The answer that lists them.
    pub(super) fn answer(&self, field: &'static str) -> Answer {
        let listed: Vec<_> =
            self.entries.iter().map(|entry| raw::with_string(&entry.raw, "server", entry.pool.server())).collect();
        let mut object = serde_json::Map::new();
        object.insert("count".to_owned(), listed.len().into());
        if !self.unavailable.is_empty() {
            object.insert("unavailable".to_owned(), self.unavailable.clone().into());
        }
        let rest = serde_json::to_string(&object).unwrap_or_default();
        // Raw entries stay as they are, so the object is put together by hand.
        let list = serde_json::to_string(&listed).unwrap_or_default();
        Answer { body: format!(r#"{{"{field}":{list},{}"#, &rest[1..]).into_bytes(), ..Answer::empty(200) }
    }
}

/// What to say of something that nobody has, or that a server may have which cannot be asked.
pub(super) fn missing(unknown: Error, may_have_it: Option<&str>) -> Error {
    let Some(server) = may_have_it else { return unknown };
    Error::NoWorker {
        server: server.to_owned(),
        reason: format!("{unknown} elsewhere, and this server cannot be asked"),
        retry_after: RETRY_AFTER,
    }
}
