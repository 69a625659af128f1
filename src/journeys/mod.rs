//! The bundled MCP server: journeys, kept in one SQLite file that all its processes and threads share.
//!
//! It shows what the gateway does (streamed items, progress, typed errors, output schema, both protocol eras) and is of
//! some use by itself: a list of things to do, each with steps. Read in this order: `journey` holds the rules,
//! `store` the file, `arguments` what a call may say, `tool` the one tool. Streams, threads and the protocol belong
//! to [`crate::mcp::server`].
//!
//! **Limit.** Texts, steps and the length of a list are bounded in `journey` and `arguments`, so that the longest answer
//! fits on a line that the gateway reads.
//!
//! **End.** Nothing to end: every change is committed before it is answered.

mod arguments;
mod journey;
mod store;
mod tool;

use std::{io, path::Path, sync::Arc};

use crate::{
    error::Error,
    mcp::server::{self, Server},
};

use store::Store;

/// The server, with its data in `data_dir`, which is created if it is missing.
///
/// Fails when the folder or the file cannot be used.
pub fn server(data_dir: &Path) -> Result<Server, Error> {
    let store = Store::open(data_dir)?;
    let instructions = "Keeps journeys: things to do, each with steps. All actions are in `journeys_tool`.";
    let server = Server::new("journeys", "Journeys", env!("CARGO_PKG_VERSION"), instructions);
    Ok(server.tool(tool::description(), move |context, arguments| tool::call(&store, context, arguments)))
}

/// Serves one client over a pair of pipes until `input` ends: a worker on a thread of the gateway.
///
/// Fails like [`server()`], and when `output` is closed early.
pub fn serve(data_dir: &Path, input: impl io::BufRead, output: impl io::Write + Send + 'static) -> Result<(), Error> {
    let server = Arc::new(server(data_dir)?);
    server::serve(server, input, output).map_err(|cause| Error::Failed {
        what: format!("the journeys server lost its client: {cause}"),
        hint: String::new(),
    })
}

/// Serves one client on stdin and stdout until stdin ends: `mcpgate journeys`.
///
/// Fails like [`serve`].
pub fn serve_stdio(data_dir: &Path) -> Result<(), Error> {
    serve(data_dir, io::stdin().lock(), io::stdout())
}
