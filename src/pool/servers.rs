//! All servers behind the gateway, and the names their tools have in front of it.
//!
//! With one server its tools keep their names. With several, a tool is `{server}__{name}` on the surfaces that all share,
//! and keeps its name below `/servers/{server}/`.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    Pool, Watcher,
    catalog::{Catalog, Tool},
    lock,
    supervisor::{Supervisor, Wake},
};
use crate::{
    config::{Config, ServerSpec},
    error::{self, Error},
    mcp::raw,
    worker::mailbox::Mailbox,
};

/// Between a server's name and its tool's or prompt's.
pub const SEPARATOR: &str = "__";

/// See the module.
#[derive(Debug)]
pub struct Servers {
    pools: Arc<Vec<Pool>>,
    queue_max: usize,
    /// Gone once the workers have been told to stop.
    supervisor: Mutex<Option<Supervisor>>,
}

/// Where a call goes.
#[derive(Debug)]
pub struct Target<'a> {
    /// The server's workers.
    pub pool: &'a Pool,
    /// The tool, under the server's own name for it.
    pub tool: Arc<Tool>,
}

impl Servers {
    /// Starts every server's workers at once, and does not wait for them. `watcher` hears what they say outside of any call.
    pub fn start(specs: &[ServerSpec], config: &Arc<Config>, watcher: Arc<dyn Watcher>) -> Result<Servers, Error> {
        let (wake, told) = Wake::new();
        let new_pool = |spec| Pool::new(spec, config, wake.clone(), Arc::clone(&watcher));
        let pools: Arc<Vec<Pool>> = Arc::new(specs.iter().map(new_pool).collect());
        let supervisor = Supervisor::start(Arc::clone(&pools), wake, told, config.health_interval)?;
        Ok(Servers { pools, queue_max: config.queue_max, supervisor: Mutex::new(Some(supervisor)) })
    }

    /// Every server, in the order of the file.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The servers a request speaks of: the one called `scope`, or all.
    pub fn in_scope<'a, 's>(&'a self, scope: Option<&'s str>) -> impl Iterator<Item = &'a Pool> + use<'a, 's> {
        self.pools.iter().filter(move |pool| scope.is_none_or(|scope| &**pool.server() == scope))
    }

    /// The name of a server's tool to those who see `scope`.
    pub fn public_name(&self, scope: Option<&str>, pool: &Pool, tool: &Tool) -> String {
        self.name_in(scope, pool, &tool.name)
    }

    /// The name that something which a server calls `own_name` has to those who see `scope`.
    pub fn name_in(&self, scope: Option<&str>, pool: &Pool, own_name: &str) -> String {
        self.prefix(scope, pool).unwrap_or_default() + own_name
    }

    /// A tool's listing for those who see `scope`: under its public name.
    pub fn listing(&self, scope: Option<&str>, pool: &Pool, tool: &Tool) -> Box<RawValue> {
        match self.prefix(scope, pool) {
            Some(prefix) => raw::with_string(&tool.listing, "name", &(prefix + &tool.name)),
            None => tool.listing.clone(),
        }
    }

    /// Finds the tool called `name` by those who see `scope`. A server that is still starting is waited for, at most
    /// for `patience`, when the tool may be its.
    ///
    /// Fails with [`Error::UnknownTool`], which names the closest tools, or as [`Pool::catalog_by`] does.
    pub fn find<'a>(
        &'a self,
        scope: Option<&str>,
        name: &str,
        patience: Duration,
        client: &Mailbox,
    ) -> Result<Target<'a>, Error> {
        let deadline = Instant::now() + patience;
        let own_name = |pool: &'a Pool| match self.prefix(scope, pool) {
            Some(prefix) => name.strip_prefix(prefix.as_str()),
            None => Some(name),
        };
        let mut candidates: Vec<_> = self.in_scope(scope).filter_map(|pool| Some((pool, own_name(pool)?))).collect();
        // Of servers `a` and `a__b`, the second is meant by `a__b__c`.
        candidates.sort_by_key(|(_, own_name)| own_name.len());
        for (pool, own_name) in candidates {
            let catalog = match pool.catalog() {
                Some(catalog) => catalog,
                None => pool.catalog_by(deadline, client, self.queue_max)?,
            };
            if let Some(tool) = catalog.get(own_name) {
                return Ok(Target { pool, tool: Arc::clone(tool) });
            }
        }
        Err(Error::UnknownTool { name: name.to_owned(), close: self.close_names(scope, name) })
    }

    /// Every tool with its server, from the servers that have told theirs.
    pub fn tools<'a, 's>(
        &'a self,
        scope: Option<&'s str>,
    ) -> impl Iterator<Item = (&'a Pool, Arc<Tool>)> + use<'a, 's> {
        self.in_scope(scope).flat_map(|pool| {
            let catalog: Arc<Catalog> = pool.catalog().unwrap_or_default();
            let tools: Vec<_> = catalog.tools().to_vec();
            tools.into_iter().map(move |tool| (pool, tool))
        })
    }

    /// Has the worker of this name replaced, without failing a call. False when there is none.
    pub fn restart_worker(&self, name: &str) -> bool {
        self.pools.iter().any(|pool| pool.restart_worker(name))
    }

    /// Has every worker of a server replaced, one at a time, without failing a call. `None` when there is no such server,
    /// else the workers' names.
    pub fn restart_server(&self, name: &str) -> Option<Vec<Arc<str>>> {
        self.pools.iter().find(|pool| &**pool.server() == name).map(Pool::restart)
    }

    /// Stops every server's workers, all at once, and waits for them.
    pub fn stop(&self) {
        // First, so that nobody starts another one.
        let supervisor = lock(&self.supervisor).take();
        drop(supervisor);
        self.pools.iter().for_each(Pool::begin_stop);
        self.pools.iter().for_each(Pool::wait_for_end);
    }

    fn prefix(&self, scope: Option<&str>, pool: &Pool) -> Option<String> {
        let is_shared = scope.is_none() && 1 < self.pools.len();
        is_shared.then(|| format!("{}{SEPARATOR}", pool.server()))
    }

    fn close_names(&self, scope: Option<&str>, name: &str) -> Vec<String> {
        error::close_names(name, self.tools(scope).map(|(pool, tool)| self.public_name(scope, pool, &tool)))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}
