//! Which server a request goes to, under which name, or what the gateway answers itself because several are asked.
//!
//! With one server in scope every request goes to it as it came. With several, lists are gathered from all, tools and
//! prompts carry their server's name, and a resource belongs to the first server that lists it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{Trouble, offers, running::CALL};
use crate::{
    access::{CallInUse, Principal},
    api::{
        Api, Caller, Way,
        prompts::PROMPTS,
        reading::{Kind, Reading},
        resources::{RESOURCES, TEMPLATES},
    },
    error::{self, Error},
    mcp::{
        eras,
        incoming::{Failure, INVALID_PARAMS, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND},
        raw,
        revision::Era,
        trace::Trace,
    },
    pool::{Asker, Lease, Limits, NoResult, Pool, Roster, SEPARATOR, catalog::Tool},
    worker::{Hello, ServerInfo, mailbox::Mailbox},
};

/// What `tools/list` lists.
const TOOLS: Kind = Kind { method: "tools/list", field: "tools", is_offered: |info| info.offers("tools") };

/// Longest wait for what each of several servers lists.
const LIST_WAIT: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Party<'a> {
    pub(super) api: &'a Api,
    /// The server whose own endpoint it is; `None` for all.
    pub(super) scope: Option<&'a str>,
    pub(super) principal: &'a Principal,
    /// The session its calls belong to.
    pub(super) session: Option<Arc<str>>,
    pub(super) era: Era,
    /// What a client of the legacy era said of itself.
    pub(super) hello: Option<Arc<Hello>>,
    /// Where its thread waits.
    pub(super) mailbox: Arc<Mailbox>,
    /// The trace that the client's HTTP request belongs to.
    pub(super) trace: Option<Arc<Trace>>,
}

/// What is to be done for a request.
#[derive(Debug)]
pub(super) enum Plan {
    /// Its result, in the words of the client's era.
    Answer(Box<RawValue>),
    /// A server is to be asked.
    Pass(Route),
}

/// A server that is to be asked, by which of its workers, and for what.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) server: Arc<str>,
    pub(super) workers: Arc<Lease>,
    /// What their server says of itself.
    pub(super) info: Arc<ServerInfo>,
    /// The parameters under the server's own names.
    pub(super) params: Option<Box<RawValue>>,
    /// The tool that is called, if it is known.
    pub(super) tool: Option<Arc<Tool>>,
}

impl<'a> Party<'a> {
    /// How long its requests may take.
    pub(super) fn limits(&self) -> Limits {
        let config = self.api.config.now();
        Limits { silence_max: config.request_timeout, time_max: config.call_time_max }
    }

    /// The server of this name, if it speaks to it.
    pub(super) fn pool(&self, server: &str) -> Option<Arc<Pool>> {
        self.api.servers.now().in_scope(self.scope).find(|pool| &**pool.server() == server).map(Arc::clone)
    }

    /// The servers it speaks to now.
    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        self.api.servers.now().in_scope(self.scope).map(Arc::clone).collect()
    }

    /// The workers of a server that its requests go to. A server is asked first whether it speaks the client's era.
    pub(super) fn lease(&self, pool: &Pool) -> Result<Lease, Error> {
        if self.era == Era::Modern {
            pool.speaks_modern(Instant::now() + self.limits().silence_max, &self.mailbox);
        }
        let Party { principal, session, era, hello, .. } = self;
        let (session, hello) = (session.as_deref(), hello.as_ref());
        pool.lease(Asker { key: &principal.name, session, era: *era, hello })
    }

    /// Counts a request for the client's key if it is a call; fails when the key has too many. `goes_on`: with one that waits for
    /// it, as far as can be told.
    pub(super) fn let_in(&self, method: &str, goes_on: bool) -> Result<Option<CallInUse>, Error> {
        (method == CALL).then(|| self.api.begin_call(self.principal, goes_on)).transpose()
    }

    /// Plans a request.
    pub(super) fn plan(&self, method: &str, params: Option<&RawValue>) -> Result<Plan, Trouble> {
        self.check_may_use(method)?;
        let roster = &*self.api.servers.now();
        let pools: Vec<_> = roster.in_scope(self.scope).collect();
        if let [only] = pools[..] {
            return self.route(roster, only, method, params.map(ToOwned::to_owned)).map(Plan::Pass);
        }
        let kind = [TOOLS, PROMPTS, RESOURCES, TEMPLATES].into_iter().find(|kind| kind.method == method);
        if let Some(kind) = kind {
            return self.gather(roster, kind, params).map(Plan::Answer);
        }
        let missing = |what: &str| Failure::new(INVALID_PARAMS, format!("`{what}` is missing"));
        let text = |name: &str| params.and_then(|params| raw::text(params, name)).ok_or_else(|| missing(name));
        match method {
            "tools/call" => self.route_by_name(roster, method, "tool", params, &text("name")?).map(Plan::Pass),
            "prompts/get" => self.route_by_name(roster, method, "prompt", params, &text("name")?).map(Plan::Pass),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                self.route_by_uri(roster, method, params, &text("uri")?).map(Plan::Pass)
            }
            "completion/complete" => self.route_completion(roster, method, params).map(Plan::Pass),
            _ => Err(Failure::new(
                METHOD_NOT_FOUND,
                format!("`{method}` is for one server alone: use `/servers/NAME/mcp`"),
            )
            .into()),
        }
    }

    /// A key for some tools has those and nothing else.
    fn check_may_use(&self, method: &str) -> Result<(), Failure> {
        if self.principal.may_use_everything() || matches!(method, "tools/list" | "tools/call") {
            return Ok(());
        }
        Err(self.forbidden(&format!("is for some tools only, not for `{method}`")))
    }

    /// What is wrong with the key, in words behind its name.
    fn forbidden(&self, what: &str) -> Failure {
        let message = format!("key `{}` {what}", self.principal.name);
        Failure { code: INVALID_PARAMS, message, data: Some(r#"{"code":"forbidden"}"#.to_owned()) }
    }

    fn route(
        &self,
        roster: &Roster,
        pool: &Pool,
        method: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<Route, Trouble> {
        let workers = self.lease(pool)?;
        // Only then it is settled in which words they are spoken to.
        let info = workers.info_by(Instant::now() + self.limits().silence_max, &self.mailbox)?;
        let is_for_own_process = method.starts_with("tasks/") && !workers.is_own();
        if is_for_own_process {
            // Those of one client would be seen by others.
            return Err(
                Failure::new(METHOD_NOT_FOUND, format!("`{method}` needs a server with isolation `session`")).into()
            );
        }
        let mut tool = None;
        if method == "tools/call" {
            let name = params.as_deref().and_then(|params| raw::text(params, "name")).unwrap_or_default();
            if !self.api.may_use(self.principal, pool, &name) {
                let public_name = roster.name_in(None, pool, &name);
                return Err(self.forbidden(&format!("is not allowed to use `{public_name}`")).into());
            }
            tool = workers.tool(&name);
        }
        Ok(Route { server: Arc::clone(pool.server()), workers: Arc::new(workers), info, params, tool })
    }

    /// The server whose tool or prompt `name` is.
    fn route_by_name(
        &self,
        roster: &Roster,
        method: &str,
        what: &str,
        params: Option<&RawValue>,
        name: &str,
    ) -> Result<Route, Trouble> {
        let own_name = |pool: &Pool| name.strip_prefix(&format!("{}{SEPARATOR}", pool.server())).map(str::to_owned);
        let candidates = roster.in_scope(self.scope).filter_map(|pool| Some((&**pool, own_name(pool)?)));
        let mut candidates: Vec<(&Pool, String)> = candidates.collect();
        // Of servers `a` and `a__b`, the second is meant by `a__b__c`, unless only the first has such a tool.
        candidates.sort_by_key(|(_, own_name)| own_name.len());
        let has_it = |(pool, own_name): &(&Pool, String)| {
            method == "tools/call" && self.lease(pool).is_ok_and(|workers| workers.tool(own_name).is_some())
        };
        let found = candidates.iter().find(|it| 1 < candidates.len() && has_it(it)).or(candidates.first());
        let Some((pool, own_name)) = found else {
            let close = error::close_names(name, self.known_names(roster, what));
            let hint = if close.is_empty() {
                String::new()
            } else {
                format!("; did you mean {}", error::in_backticks(&close))
            };
            return Err(Failure::new(INVALID_PARAMS, format!("unknown {what}: `{name}`{hint}")).into());
        };
        self.route(roster, pool, method, params.map(|params| raw::with_string(params, "name", own_name)))
    }

    fn known_names(&self, roster: &Roster, what: &str) -> Vec<String> {
        let tools = roster.tools(self.scope).filter(|_| what == "tool");
        tools.map(|(pool, tool)| roster.public_name(self.scope, pool, &tool)).collect()
    }

    /// The first server that lists the resource, else the first that reads it.
    fn route_by_uri(
        &self,
        roster: &Roster,
        method: &str,
        params: Option<&RawValue>,
        uri: &str,
    ) -> Result<Route, Trouble> {
        let side = self.side();
        let reading = self.reading(roster, &side);
        let (pools, _) = reading.servers(RESOURCES)?;
        let mut owner = None;
        for pool in &pools {
            // One that cannot be asked lists nothing.
            let listed = reading.list_of(pool, RESOURCES).or_else(|no_result| match no_result {
                NoResult::ClientGone => Err(Trouble::Gone),
                NoResult::Failed(_) => Ok(Vec::new()),
            })?;
            if listed.iter().any(|entry| raw::text(entry, "uri").as_deref() == Some(uri)) {
                owner = Some(*pool);
                break;
            }
        }
        if owner.is_none() {
            owner = self.owner_by_template(&reading, uri)?;
        }
        for pool in &pools {
            if owner.is_some() {
                break;
            }
            let read = reading.ask(pool, "resources/read", &format!(r#"{{"uri":{}}}"#, raw::quoted(uri)));
            owner = read.is_ok().then_some(*pool);
        }
        let Some(owner) = owner else {
            let data = Some(format!(r#"{{"uri":{}}}"#, raw::quoted(uri)));
            let code = if self.era == Era::Modern { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
            return Err(Failure { code, message: format!("there is no resource `{uri}`"), data }.into());
        };
        self.route(roster, owner, method, params.map(ToOwned::to_owned))
    }

    /// The server with the template that has most in common with a resource.
    fn owner_by_template<'r>(&self, reading: &Reading<'r>, uri: &str) -> Result<Option<&'r Pool>, Trouble> {
        let list = reading.list(TEMPLATES)?;
        let in_common = |entry: &RawValue| {
            let template = raw::text(entry, "uriTemplate")?;
            // What stands before the first expression (RFC 6570) is the same in every resource.
            let literal = template.split('{').next().unwrap_or_default();
            (!literal.is_empty() && uri.starts_with(literal)).then_some(literal.len())
        };
        let fitting = list.entries.iter().filter_map(|entry| Some((in_common(&entry.raw)?, entry.pool)));
        Ok(fitting.rev().max_by_key(|(letters, _)| *letters).map(|(_, pool)| pool))
    }

    /// The server whose prompt or resource template the argument belongs to.
    fn route_completion(&self, roster: &Roster, method: &str, params: Option<&RawValue>) -> Result<Route, Trouble> {
        let wrong = || Failure::new(INVALID_PARAMS, "`ref` names neither a prompt nor a resource template");
        let params = params.ok_or_else(wrong)?;
        let reference = raw::field(params, "ref").ok_or_else(wrong)?;
        if let Some(name) = raw::text(reference, "name") {
            let route = self.route_by_name(roster, method, "prompt", None, &name)?;
            let own_name = name.split_at(route.server.len() + SEPARATOR.len()).1;
            let reference = raw::with_string(reference, "name", own_name);
            return Ok(Route { params: Some(raw::with(params, "ref", reference.get())), ..route });
        }
        let uri = raw::text(reference, "uri").ok_or_else(wrong)?;
        let side = self.side();
        let reading = self.reading(roster, &side);
        for kind in [TEMPLATES, RESOURCES] {
            let list = reading.list(kind)?;
            let is_it = |entry: &RawValue| {
                ["uriTemplate", "uri"].iter().any(|field| raw::text(entry, field).as_deref() == Some(&*uri))
            };
            if let Some(entry) = list.entries.iter().find(|entry| is_it(&entry.raw)) {
                return self.route(roster, entry.pool, method, Some(params.to_owned()));
            }
        }
        Err(Failure::new(INVALID_PARAMS, format!("there is no resource template `{uri}`")).into())
    }

    /// One list of what all servers have.
    fn gather(&self, roster: &Roster, kind: Kind, params: Option<&RawValue>) -> Result<Box<RawValue>, Trouble> {
        let cursor = params.and_then(|params| raw::field(params, "cursor"));
        if cursor.is_some() {
            // The list has one page, so no cursor of ours exists.
            return Err(Failure::new(INVALID_PARAMS, "`cursor`: there is no such page").into());
        }
        if kind.field == TOOLS.field {
            return Ok(self.gathered(kind, &self.gather_tools(roster)));
        }
        let side = self.side();
        let mut list = self.reading(roster, &side).list(kind)?;
        let mut seen = HashSet::new();
        list.entries.retain_mut(|entry| {
            if kind.field == "resources" {
                let uri = raw::text(&entry.raw, "uri").unwrap_or_default();
                let is_first = seen.insert(uri.clone());
                if !is_first {
                    log::warn!(
                        "resource {uri:?} of server {} is hidden by one of a server before it",
                        entry.pool.server()
                    );
                }
                return is_first;
            }
            let is_prompt = kind.field == PROMPTS.field;
            if let (true, Some(name)) = (is_prompt, raw::text(&entry.raw, "name")) {
                let name = roster.name_in(self.scope, entry.pool, &name);
                entry.raw = raw::with_string(&entry.raw, "name", &name);
            }
            true
        });
        let entries: Vec<Box<RawValue>> = list.entries.into_iter().map(|entry| entry.raw).collect();
        Ok(self.gathered(kind, &entries))
    }

    /// The tools of all servers that have told theirs, as far as the key may use them.
    fn gather_tools(&self, roster: &Roster) -> Vec<Box<RawValue>> {
        let mut tools = Vec::new();
        for pool in roster.in_scope(self.scope) {
            let listed = self.lease(pool).and_then(|workers| {
                let deadline = Instant::now() + self.limits().silence_max.min(LIST_WAIT);
                workers.info_by(deadline, &self.mailbox).map(|_| workers.tools())
            });
            match listed {
                Ok(listed) => tools.extend(listed.iter().filter_map(|tool| {
                    let name = roster.name_in(self.scope, pool, &tool.name);
                    let entry = raw::without(&tool.listing, "server");
                    self.api.may_use(self.principal, pool, &tool.name).then(|| raw::with_string(&entry, "name", &name))
                })),
                Err(error) => log::warn!("tools of server {} are left out: {error}", pool.server()),
            }
        }
        tools
    }

    fn gathered(&self, kind: Kind, entries: &[Box<RawValue>]) -> Box<RawValue> {
        let result = raw::object(&format!("\"{}\":{}", kind.field, raw::array(entries)));
        match self.era {
            Era::Modern => eras::to_modern(kind.method, &result, Some(&offers::gateway_info())),
            Era::Legacy => eras::to_legacy(kind.method, &result),
        }
    }

    /// A mailbox for requests that the thread waits for, so that what other requests of its client have to tell is not lost
    /// meanwhile. It is closed with the thread's own.
    fn side(&self) -> Arc<Mailbox> {
        let side = Arc::default();
        self.mailbox.lead(Some(&side));
        side
    }

    /// Requests that the thread waits for, at `side`.
    fn reading<'s>(&'s self, roster: &'s Roster, side: &'s Arc<Mailbox>) -> Reading<'s> {
        let Party { scope, principal, session, trace, .. } = self;
        let caller = Caller {
            scope: *scope,
            principal,
            session: session.as_deref(),
            client: side,
            way: Way::Mcp,
            request_id: "-",
            trace: trace.as_ref(),
        };
        let Limits { silence_max, time_max } = self.limits();
        // One busy server is not to hold up what the others have to say.
        let limits = Limits { silence_max: silence_max.min(LIST_WAIT), time_max };
        Reading::of_client(self.api, roster, caller, limits, self.era, self.hello.as_ref())
    }
}
