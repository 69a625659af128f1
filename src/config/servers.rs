//! The servers behind the gateway: the bundled one, a command, or an `mcpServers` file.
//!
//! The list is made from checked settings and never empty. Starting a server is the worker's part; this file only says
//! which program that will be.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use crate::{
    config::{Config, ExecutionMode, is_plain_name, mcp_servers},
    error::Error,
};

/// Name of the bundled server.
const BUNDLED_NAME: &str = "journeys";

/// Where programs are looked up when there is no `PATH` at all, as the C library does.
const PATH_WHEN_UNSET: &str = "/bin:/usr/bin";

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
    /// The eras of MCP in which it is spoken to.
    pub era: EraSetting,
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
    /// The calls of one session of one key; calls without a session share the common workers.
    Session,
    /// The calls of one key.
    Key,
}

impl Isolation {
    /// From the word that stands for it in an `mcpServers` file.
    pub fn from_word(word: &str) -> Option<Isolation> {
        match word {
            "shared" => Some(Isolation::Shared),
            "session" => Some(Isolation::Session),
            "key" => Some(Isolation::Key),
            _ => None,
        }
    }
}

/// The eras of MCP in which a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraSetting {
    /// What it speaks is found out (default).
    Auto,
    /// Revisions up to 2025-11-25 only.
    Legacy,
    /// 2026-07-28 only.
    Modern,
}

impl EraSetting {
    /// From the word that stands for it in an `mcpServers` file.
    pub fn from_word(word: &str) -> Option<EraSetting> {
        match word {
            "auto" => Some(EraSetting::Auto),
            "legacy" => Some(EraSetting::Legacy),
            "modern" => Some(EraSetting::Modern),
            _ => None,
        }
    }
}

/// The servers that `config` asks for, at least one, and what the operator should know about them.
///
/// Reads the `mcpServers` file if there is one.
pub fn list(config: &Config) -> Result<(Vec<ServerSpec>, Vec<String>), Error> {
    if let Some(path) = &config.mcp_servers {
        return mcp_servers::read(path, config);
    }
    let (name, command) = match config.mcp_command.split_first() {
        Some((program, args)) => (name_of_program(program), program_command(program, args)),
        None if config.execution_mode == ExecutionMode::Direct => (BUNDLED_NAME.to_owned(), Command::Direct),
        None => (BUNDLED_NAME.to_owned(), Command::Bundled),
    };
    let (min_workers, max_workers) = (config.min_workers, config.max_workers);
    let (isolation, era) = (Isolation::Shared, EraSetting::Auto);
    Ok((vec![ServerSpec { name, command, min_workers, max_workers, isolation, era }], Vec::new()))
}

impl ServerSpec {
    /// The file that a worker of this server executes.
    ///
    /// A name without a slash is looked up in the `PATH` of the server's own environment, else in ours; a relative path
    /// counts from the server's `cwd`, else from the folder the gateway was started in. Returns [`Error::WorkerStart`]
    /// when there is no such program, and [`Error::Settings`] when its `cwd` is not a folder.
    pub fn resolve_program(&self) -> Result<PathBuf, Error> {
        let failed = |program: &str, cause: String| Error::WorkerStart { program: program.to_owned(), cause };
        let Command::Program { program, env, cwd, .. } = &self.command else {
            return env::current_exe().map_err(|cause| failed("mcpgate", cause.to_string()));
        };
        if let Some(cwd) = cwd.as_deref().filter(|cwd| !cwd.is_dir()) {
            return Err(Error::Settings {
                what: format!("`cwd` of server `{}` is not a folder: `{}`", self.name, cwd.display()),
                hint: "make the folder, or correct `cwd`".to_owned(),
            });
        }
        let folder = match cwd {
            Some(cwd) => cwd.clone(),
            None => env::current_dir().map_err(|cause| failed(program, cause.to_string()))?,
        };
        let is_path = program.contains('/');
        if is_path {
            let file = folder.join(program);
            return executable(&file).map(|()| file).map_err(|cause| failed(program, cause.to_string()));
        }
        let search_path = env.get("PATH").map(OsString::from).or_else(|| env::var_os("PATH"));
        let search_path = search_path.unwrap_or_else(|| PATH_WHEN_UNSET.into());
        // As in `execvp`: a file that may not be executed does not end the search, but is its cause of failure.
        let mut cause = io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
        for dir in env::split_paths(&search_path) {
            let file = folder.join(dir).join(program);
            match executable(&file) {
                Ok(()) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => cause = error,
                Err(_) => {}
            }
        }
        Err(failed(program, cause.to_string()))
    }
}

fn executable(file: &Path) -> io::Result<()> {
    let is_file = file.metadata()?.is_file();
    if !is_file {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error()));
    }
    Ok(access(file, Access::EXEC_OK)?)
}

fn program_command(program: &str, args: &[String]) -> Command {
    Command::Program { program: program.to_owned(), args: args.to_vec(), env: BTreeMap::new(), cwd: None }
}

/// The file stem of a program, with `-` for what no name may have.
fn name_of_program(program: &str) -> String {
    let stem = Path::new(program).file_stem().unwrap_or_default().to_string_lossy();
    let is_allowed = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let name: String = stem.chars().take(64).map(|letter| if is_allowed(&letter) { letter } else { '-' }).collect();
    if is_plain_name(&name) { name } else { "server".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::config::test_dir::TestDir;

    fn server(program: &str, env: &[(&str, &str)], cwd: Option<&Path>) -> ServerSpec {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ServerSpec {
            name: "helper".to_owned(),
            command: Command::Program { program: program.to_owned(), args: vec![], env, cwd: cwd.map(Path::to_owned) },
            min_workers: 1,
            max_workers: 1,
            isolation: Isolation::Shared,
            era: EraSetting::Auto,
        }
    }

    fn write_program(dir: &TestDir, name: &str, mode: u32) -> PathBuf {
        let path = dir.write(name, "#!/bin/sh\n");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a test may change its own file");
        path
    }

    #[track_caller]
    fn check_not_found(server: &ServerSpec, message: &str) {
        assert_eq!(server.resolve_program().expect_err(message).to_string(), message);
    }

    fn only(config: &Config) -> ServerSpec {
        let (mut servers, warnings) = list(config).expect("the settings are right");
        assert_eq!((servers.len(), warnings.len()), (1, 0));
        servers.remove(0)
    }

    #[test]
    fn the_bundled_server_runs_when_none_is_named() {
        let server = only(&Config::default());
        assert_eq!((server.name.as_str(), &server.command), ("journeys", &Command::Bundled));
        assert_eq!((server.min_workers, server.max_workers), (2, 8));
        assert!(server.resolve_program().is_ok_and(|path| path.is_absolute()));

        let direct = Config { execution_mode: ExecutionMode::Direct, ..Config::default() };
        assert_eq!(only(&direct).command, Command::Direct);
    }

    #[test]
    fn a_server_is_named_by_the_file_stem_of_its_program() {
        let expected = [
            ("npx", "npx"),
            ("/opt/search/server.py", "server"),
            ("./my server", "my-server"),
            ("/", "server"),
            ("...", "server"),
            ("é", "-"),
        ];
        for (program, name) in expected {
            let mcp_command = vec![program.to_owned(), "-y".to_owned()];
            assert_eq!(only(&Config { mcp_command, ..Config::default() }).name, name, "{program}");
        }
    }

    #[test]
    fn a_program_is_found_in_the_servers_own_path_or_ours() {
        let dir = TestDir::new();
        let helper = write_program(&dir, "helper", 0o755);
        let search_path = format!("/nowhere:{}", dir.path().display());
        let in_own_path = server("helper", &[("PATH", &search_path)], None);
        assert_eq!(in_own_path.resolve_program(), Ok(helper));
        assert!(server("sh", &[], None).resolve_program().is_ok_and(|path| path.is_absolute()));
        check_not_found(
            &server("sh", &[("PATH", "/nowhere")], None),
            "cannot start worker `sh`: No such file or directory (os error 2)",
        );
    }

    #[test]
    fn a_relative_path_counts_from_cwd() {
        let dir = TestDir::new();
        write_program(&dir, "helper", 0o755);
        let found = server("./helper", &[], Some(dir.path())).resolve_program();
        assert_eq!(found, Ok(dir.path().join("./helper")));
        check_not_found(
            &server("./serch", &[], Some(dir.path())),
            "cannot start worker `./serch`: No such file or directory (os error 2)",
        );
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_no_program() {
        let dir = TestDir::new();
        write_program(&dir, "notes", 0o644);
        let message = "cannot start worker `notes`: Permission denied (os error 13)";
        check_not_found(&server("notes", &[("PATH", &dir.path().display().to_string())], None), message);
        let message = "cannot start worker `./`: Permission denied (os error 13)";
        check_not_found(&server("./", &[], Some(dir.path())), message);
    }

    #[test]
    fn a_cwd_that_is_missing_is_not_taken_for_a_missing_program() {
        check_not_found(
            &server("sh", &[], Some(Path::new("/nowhere"))),
            "`cwd` of server `helper` is not a folder: `/nowhere`",
        );
    }
}
