//! The servers behind the gateway: the bundled one, a command, or an `mcpServers` file.

use std::{collections::BTreeMap, path::PathBuf};

/// One server and how its workers are started.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSpec {
    /// Key in the `mcpServers` file, or the file stem of the program, or `journeys`.
    pub name: String,
    /// What a worker runs.
    pub command: Command,
    /// Workers to keep; never more than `max_workers`.
    pub min_workers: usize,
    /// Most workers.
    pub max_workers: usize,
    /// Who shares a worker.
    pub isolation: Isolation,
}

/// What a worker runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The journeys server of this binary, as a subprocess.
    Bundled,
    /// The journeys server of this binary, on a thread of the gateway.
    Direct,
    /// A program found through `PATH` or by its path, without a shell in between.
    #[allow(missing_docs)]
    Program { program: String, args: Vec<String>, env: BTreeMap<String, String>, cwd: Option<PathBuf> },
}

/// Who shares a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Every caller (default).
    Shared,
}
