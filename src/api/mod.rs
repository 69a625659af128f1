//! What the gateway answers over HTTP, one file for each surface.
//!
//! [`routes`] is the map. A request is screened by its head alone (path, method, Host and Origin, key) before its body is
//! read, and answered when the body is there. The API knows nothing of sockets: [`exchange`] is what it takes and
//! gives.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, bounded};
use tiny_http::Method;

use crate::{
    access::{Access, CallInUse, NewKeys, Principal, Visitor},
    config::{Config, Live, ServerSpec},
    error::Error,
    http::head::Head,
    pool::{NoResult, Servers, Watcher},
};

mod admin;
mod calls;
mod counters;
pub mod exchange;
mod extras;
mod health;
mod history;
mod info;
mod json;
mod later;
pub mod mcp;
mod metrics;
mod openapi;
mod prompts;
mod reading;
mod reloads;
mod resources;
pub mod routes;
mod stats;
mod stream;
mod tools;
mod ui;
mod ws;

pub use calls::Caller;
pub use counters::{Counters, Traffic};
pub use exchange::{Answer, Events, Outlet, RawOutlet, Reply, Request};
pub use extras::Headers;
pub use history::Way;
pub use later::Later;
pub use reloads::Reloads;
#[cfg(any(test, benching))]
pub(crate) use stream::benching as stream_benching;
#[cfg(any(test, fuzzing))]
pub(crate) use ws::fuzzing as socket_fuzzing;
pub use ws::{Conversation, Pause, Socket};

use calls::CallBody;
use history::History;
use mcp::{ParkedCalls, Sessions};
use openapi::Chapters;
use reading::Reading;
use routes::{Found, Surface};
use tools::Form;

/// The API with all it answers from.
#[derive(Debug)]
pub struct Api {
    config: Live,
    servers: Servers,
    access: Access,
    /// Sessions and subscriptions of clients of `/mcp`.
    sessions: Arc<Sessions>,
    /// Their requests that wait for answers.
    parked: ParkedCalls,
    /// What `/openapi.json` says of the tools.
    chapters: Chapters,
    /// Told when one is new.
    pokes: Receiver<()>,
    started_at: Instant,
    /// The same by the clock on the wall, as it was then.
    started_at_time: SystemTime,
    /// Event streams and WebSockets so far.
    streams_total: AtomicU64,
    /// The last minutes, for people.
    history: History,
    /// What became of reloads.
    pub reloads: Reloads,
    /// What the connections count.
    pub counters: Counters,
}

/// A request that may be answered.
#[derive(Debug)]
pub struct Ticket {
    found: Found,
    principal: Arc<Principal>,
}

impl Api {
    /// Starts the servers, and an API in front of them.
    pub fn start(config: Live, specs: &[ServerSpec], access: Access) -> Result<Api, Error> {
        let sessions = Sessions::new(config.clone());
        let servers = Servers::start(specs, &config, Arc::clone(&sessions) as Arc<dyn Watcher>)?;
        let (poke, pokes) = bounded(1);
        Ok(Api {
            servers,
            access,
            sessions,
            parked: ParkedCalls::new(config.clone(), poke)?,
            chapters: Chapters::default(),
            pokes,
            started_at: Instant::now(),
            started_at_time: SystemTime::now(),
            streams_total: AtomicU64::new(0),
            history: History::new(),
            reloads: Reloads::default(),
            counters: Counters::default(),
            config,
        })
    }

    /// Counts a connection from `ip`. Fails with [`Error::Overloaded`] when there are too many.
    pub fn visit(&self, ip: IpAddr) -> Result<Visitor, Error> {
        self.access.visit(ip)
    }

    /// Decides by its head whether a request of `visitor` may be answered.
    pub fn screen(&self, head: &Head, head_bytes: &[u8], visitor: &mut Visitor) -> Result<Ticket, Error> {
        let path = head.path(head_bytes);
        let header = |name: &str| head.header(head_bytes, name);
        let found = routes::find(path);
        if !found.as_ref().is_ok_and(|found| found.endpoint.is_health()) {
            visitor.address().take_request()?;
        }
        let found = found?;
        if !found.endpoint.is_health() {
            // A link on another page may lead to what is open to everybody.
            let fetch_site = header("Sec-Fetch-Site").filter(|_| !found.endpoint.is_open);
            self.access.browsers().check(header("Host"), header("Origin"), fetch_site)?;
        }
        found.endpoint.check_method(&head.method, path)?;
        let needs_no_key = found.endpoint.is_open || head.method == Method::Options;
        let principal = if needs_no_key {
            self.access.anybody()
        } else {
            let (api_key, authorization) = (header("X-API-Key"), header("Authorization"));
            self.access.check_key(visitor, api_key, authorization, head.query(head_bytes))?
        };
        let is_known = found.scope.is_none() || self.servers.now().in_scope(found.scope.as_deref()).next().is_some();
        if !is_known {
            return Err(Error::NotFound { path: path.to_owned() });
        }
        Ok(Ticket { found, principal })
    }

    /// Answers a request.
    pub fn answer<'a>(self: &'a Arc<Api>, ticket: &'a Ticket, request: &Request<'_>) -> Reply<'a> {
        let Found { endpoint, scope, name } = &ticket.found;
        if *request.method() == Method::Options {
            return Reply::Answer(extras::options(&self.access.browsers(), endpoint, |name| {
                request.header(name).map(str::to_owned)
            }));
        }
        let scope = scope.as_deref();
        let principal = &ticket.principal;
        let called = name.as_deref().unwrap_or_default();
        let refused = |error: Error| Reply::Answer(Answer::error(&error, request.id));
        let session = match endpoint.surface {
            Surface::Tool
            | Surface::Call
            | Surface::Stream
            | Surface::Socket
            | Surface::Resources
            | Surface::ResourceTemplates
            | Surface::ReadResource
            | Surface::Prompts
            | Surface::Prompt => request.session(),
            _ => Ok(None),
        };
        let session = match &session {
            Ok(session) => session.as_deref(),
            Err(error) => return refused(error.clone()),
        };
        let way = if endpoint.surface == Surface::Stream { Way::Sse } else { Way::Http };
        let Request { client, id: request_id, trace, .. } = *request;
        let caller = Caller { scope, principal, session, client, way, request_id, trace };
        Reply::Answer(match endpoint.surface {
            Surface::Info => info::answer(self, request),
            Surface::Page => ui::page(request),
            Surface::PageAsset => ui::asset(called, request).unwrap_or_else(|error| Answer::error(&error, request.id)),
            Surface::Health => health::answer(&self.servers.now()),
            Surface::HealthLive => health::live(),
            Surface::HealthReady => health::ready(&self.servers.now()),
            Surface::Tools => tools::list(self, scope, principal),
            Surface::Tool if *request.method() == Method::Post => {
                return self.call_now_or_later(called, CallBody::of(request), &caller, Form::Full, request);
            }
            Surface::Call => {
                return self.call_now_or_later(called, CallBody::plain(request.body), &caller, Form::Plain, request);
            }
            Surface::OpenApi => openapi::answer(self, scope, principal, request),
            Surface::Docs => openapi::docs(),
            Surface::Tool => tools::show(self, scope, called, principal, request),
            Surface::Stream => {
                let stream = self.begin_stream(called, &caller, request);
                return stream.map_or_else(refused, |stream| Reply::Stream(Box::new(stream)));
            }
            Surface::Socket => {
                return self
                    .open_socket(&ticket.found, principal, session, request)
                    .map_or_else(refused, |socket| Reply::Socket(Box::new(socket)));
            }
            Surface::Resources
            | Surface::ResourceTemplates
            | Surface::ReadResource
            | Surface::Prompts
            | Surface::Prompt => {
                return match self.read(endpoint.surface, called, caller, request) {
                    Ok(answer) => Reply::Answer(answer),
                    Err(NoResult::Failed(error)) => refused(error),
                    Err(NoResult::ClientGone) => Reply::Gone,
                };
            }
            Surface::Mcp => return self.answer_mcp(scope, principal, request),
            Surface::OldStream => return mcp::open_stream(self, scope, principal, request),
            Surface::OldMessages => mcp::post_message(self, scope, principal, request),
            Surface::Stats => stats::answer(self, principal),
            Surface::Metrics => metrics::answer(self, principal, request.header("Accept")),
            Surface::History => Answer::json(&self.history.snapshot()),
            Surface::RestartWorker => {
                admin::restart_worker(self, called, principal).unwrap_or_else(|error| Answer::error(&error, request.id))
            }
            Surface::RestartServer => {
                admin::restart_server(self, called, principal).unwrap_or_else(|error| Answer::error(&error, request.id))
            }
        })
    }

    /// Resources and prompts.
    fn read(
        &self,
        surface: Surface,
        name: &str,
        caller: Caller<'_>,
        request: &Request<'_>,
    ) -> Result<Answer, NoResult> {
        let is_post = *request.method() == Method::Post;
        let body = if is_post { CallBody::of(request)? } else { CallBody::default() };
        let limits = self.limits(&body)?;
        let roster = self.servers.now();
        let reading = Reading::new(self, &roster, caller, limits)?;
        match surface {
            Surface::Resources => resources::list(&reading, resources::RESOURCES),
            Surface::ResourceTemplates => resources::list(&reading, resources::TEMPLATES),
            Surface::ReadResource => {
                let missing = || Error::BadRequest { what: "`uri` is missing in the query".to_owned() };
                let uri = request.query("uri").filter(|uri| !uri.is_empty());
                resources::read(&reading, &uri.ok_or_else(missing)?)
            }
            Surface::Prompt if is_post => prompts::get(&reading, name, &body),
            Surface::Prompt => prompts::show(&reading, name),
            _ => prompts::list(&reading),
        }
    }

    /// How long the next stream may be quiet before it gives a sign of life: `SSE_KEEP_ALIVE`, or up to a half less. Streams
    /// that were opened together, after a restart for example, would otherwise all wake up together for ever.
    fn next_quiet_max(&self) -> Duration {
        /// Multiples of the golden ratio, whole numbers taken off, spread evenly however many there are.
        const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
        let n = self.streams_total.fetch_add(1, Ordering::Relaxed);
        let share =
            f64::from(u32::try_from(n.wrapping_mul(GOLDEN_RATIO) >> 32).unwrap_or_default()) / f64::from(u32::MAX);
        self.config.now().sse_keep_alive.mul_f64(1.0 - share / 2.0)
    }

    /// A call of this key that may begin, counted; fails with [`Error::RateLimited`] when it has too many, and with
    /// [`Error::Unauthorized`] when the key has been taken away since it was let in.
    ///
    /// `goes_on`: see [`Principal::begin_call`].
    pub(crate) fn begin_call(&self, principal: &Principal, goes_on: bool) -> Result<CallInUse, Error> {
        Counters::add(&self.counters.calls_total);
        let begun = self.check_still(principal).and_then(|()| principal.begin_call(goes_on));
        begun.inspect_err(|_| Counters::add(&self.counters.errors_total))
    }

    /// Fails with [`Error::Unauthorized`] when a key that was let in has been taken away or changed since, or has expired.
    pub(crate) fn check_still(&self, principal: &Principal) -> Result<(), Error> {
        self.access.check_still(principal)
    }

    /// What a reload that is about to be made can fail with: the keys of other settings, when they are others than now.
    pub fn prepare_reload(&self, config: &Config) -> Result<Option<NewKeys>, Error> {
        self.access.prepare(config)
    }

    /// Goes by other settings from now on, and by what [`Api::prepare_reload`] made of them.
    pub fn adapt(&self, config: Config, keys: Option<NewKeys>) {
        self.access.adapt(&config, keys);
        self.config.set(config);
    }

    /// The servers.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Stops all workers and waits for them.
    pub fn stop(&self) {
        self.servers.stop();
    }
}

impl Ticket {
    /// Whose it is.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Whether it is answered within microseconds, or begun so and answered by others.
    pub fn is_brief(&self) -> bool {
        let surface = self.found.endpoint.surface;
        self.is_health() || matches!(surface, Surface::Tool | Surface::Call)
    }

    /// Whether a crowded gateway still answers it.
    pub fn is_health(&self) -> bool {
        self.found.endpoint.is_health()
    }
}
