//! The servers that are in service together, and the names their tools have in front of the gateway.
//!
//! With one server its tools keep their names. With several, a tool is `{server}__{name}` on the surfaces that all share,
//! and keeps its name below `/servers/{server}/`. A roster does not change: when servers come or go there is another one, so whoever
//! goes by one roster sees names and servers that belong together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    Pool,
    catalog::{Catalog, Tool},
};
use crate::{
    error::{self, Error},
    mcp::raw,
    worker::mailbox::Mailbox,
};

/// Between a server's name and its tool's or prompt's.
pub const SEPARATOR: &str = "__";

/// See the module.
#[derive(Debug)]
pub struct Roster {
    pools: Vec<Arc<Pool>>,
}

/// Where a call goes.
#[derive(Debug)]
pub struct Target {
    /// The server's workers.
    pub pool: Arc<Pool>,
    /// The tool, under the server's own name for it.
    pub tool: Arc<Tool>,
}

impl Roster {
    pub(super) fn new(pools: Vec<Arc<Pool>>) -> Roster {
        Roster { pools }
    }

    /// Every server, in the order of the file.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The server of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| &**pool.server() == name)
    }

    /// The servers a request speaks of: the one called `scope`, or all.
    pub fn in_scope<'a, 's>(&'a self, scope: Option<&'s str>) -> impl Iterator<Item = &'a Arc<Pool>> + use<'a, 's> {
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
    /// for `patience`, when the tool may be its, unless `waiting_max` wait for it already.
    ///
    /// Fails with [`Error::UnknownTool`], which names the closest tools, or as [`Pool::catalog_by`] does.
    pub fn find(
        &self,
        scope: Option<&str>,
        name: &str,
        patience: Duration,
        waiting_max: usize,
        client: &Mailbox,
    ) -> Result<Target, Error> {
        let deadline = Instant::now() + patience;
        let own_name = |pool: &Pool| match self.prefix(scope, pool) {
            Some(prefix) => name.strip_prefix(prefix.as_str()),
            None => Some(name),
        };
        let mut candidates: Vec<_> = self.in_scope(scope).filter_map(|pool| Some((pool, own_name(pool)?))).collect();
        // Of servers `a` and `a__b`, the second is meant by `a__b__c`.
        candidates.sort_by_key(|(_, own_name)| own_name.len());
        for (pool, own_name) in candidates {
            let catalog = match pool.catalog() {
                Some(catalog) => catalog,
                None => pool.catalog_by(deadline, client, waiting_max)?,
            };
            if let Some(tool) = catalog.get(own_name) {
                return Ok(Target { pool: Arc::clone(pool), tool: Arc::clone(tool) });
            }
        }
        Err(Error::UnknownTool { name: name.to_owned(), close: self.close_names(scope, name) })
    }

    /// Every tool with its server, from the servers that have told theirs.
    pub fn tools<'a, 's>(
        &'a self,
        scope: Option<&'s str>,
    ) -> impl Iterator<Item = (&'a Arc<Pool>, Arc<Tool>)> + use<'a, 's> {
        self.in_scope(scope).flat_map(|pool| {
            let catalog: Arc<Catalog> = pool.catalog().unwrap_or_default();
            let tools: Vec<_> = catalog.tools().to_vec();
            tools.into_iter().map(move |tool| (pool, tool))
        })
    }

    fn prefix(&self, scope: Option<&str>, pool: &Pool) -> Option<String> {
        let is_shared = scope.is_none() && 1 < self.pools.len();
        is_shared.then(|| format!("{}{SEPARATOR}", pool.server()))
    }

    fn close_names(&self, scope: Option<&str>, name: &str) -> Vec<String> {
        error::close_names(name, self.tools(scope).map(|(pool, tool)| self.public_name(scope, pool, &tool)))
    }
}
