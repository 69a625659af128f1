//! Gathers the settings: flag, environment, file, default, in this order of weight.
//!
//! [`Config::read`] takes single values; [`Config::load`] also checks them against each other and lists the servers.
//! Commands that touch one setting only (`key new`) read, so that they work before the rest is right.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    config::{
        Config, ServerSpec, file, servers,
        settings::{SETTINGS, Setting},
        values::{self, Expected},
    },
    error::Error,
};

/// Where a file is looked for when no flag names one; the first that exists counts.
const FILES: [&str; 2] = ["gateway.conf", "/etc/mcpgate/gateway.conf"];

/// Longest part of a bad value that a message repeats.
const SHOWN_LETTERS_MAX: usize = 80;

/// What the command line says about settings. Each wins over the environment and the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`: the only file that is read. It must exist.
    pub config: Option<PathBuf>,
    /// `--host`: the host in `LISTEN`.
    pub host: Option<String>,
    /// `--port`: the port in `LISTEN`.
    pub port: Option<u16>,
    /// `--servers`: in place of `MCP_SERVERS` and `MCP_COMMAND`.
    pub servers: Option<PathBuf>,
    /// `-- command args...`: in place of `MCP_COMMAND` and `MCP_SERVERS`. Empty: not given.
    pub command: Vec<String>,
    /// `--data-dir`: in place of `DATA_DIR`.
    pub data_dir: Option<PathBuf>,
}

/// Settings and servers, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Every setting.
    pub config: Config,
    /// At least one server, each name once.
    pub servers: Vec<ServerSpec>,
    /// The `gateway.conf` that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What the operator should know, one sentence each.
    pub warnings: Vec<String>,
    /// The values as they are written.
    pub texts: Texts,
}

/// The value of each setting as it is written where it counts: in the environment or in the file; by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(BTreeMap<&'static str, String>);

impl Config {
    /// Settings from flags, `env` (such as `std::env::var_os`) and file, checked against each other, and the servers.
    ///
    /// An error names where the value stands: `gateway.conf line 12`, `environment`, or the flag.
    pub fn load(flags: &Flags, env: impl Fn(&str) -> Option<OsString>) -> Result<Loaded, Error> {
        let (config, file, texts) = Config::read_all(flags, env)?;
        config.check()?;
        let (servers, server_warnings) = servers::list(&config)?;
        let mut warnings = config.warnings();
        warnings.extend(server_warnings);
        Ok(Loaded { config, servers, file, warnings, texts })
    }

    /// As [`Config::load`], but each setting is looked at alone. Also gives the file that was read.
    pub fn read(flags: &Flags, env: impl Fn(&str) -> Option<OsString>) -> Result<(Config, Option<PathBuf>), Error> {
        Config::read_all(flags, env).map(|(config, file, _)| (config, file))
    }

    fn read_all(
        flags: &Flags,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(Config, Option<PathBuf>, Texts), Error> {
        let (mut config, mut texts) = (Config::default(), Texts::default());
        let found = match &flags.config {
            Some(path) => Some((path.clone(), read_named(path)?)),
            None => first_file(&FILES)?,
        };
        if let Some((path, bytes)) = &found {
            config.take_file(bytes, &path.display().to_string(), &mut texts)?;
        }
        config.take_environment(env, &mut texts)?;
        config.take_flags(flags)?;
        // Nothing else counts beside these.
        if flags.servers.is_some() || !flags.command.is_empty() {
            ["MCP_SERVERS", "MCP_COMMAND"].iter().for_each(|key| drop(texts.0.remove(key)));
        }
        Ok((config, found.map(|(path, _)| path), texts))
    }

    fn take_file(&mut self, bytes: &[u8], name: &str, texts: &mut Texts) -> Result<(), Error> {
        for line in file::parse(bytes, name)? {
            let origin = || file::origin(name, line.number);
            (line.setting.set)(self, &line.value)
                .map_err(|expected| refused(origin(), line.setting, expected, &line.value))?;
            texts.0.insert(line.setting.key, line.value);
        }
        Ok(())
    }

    fn take_environment(&mut self, env: impl Fn(&str) -> Option<OsString>, texts: &mut Texts) -> Result<(), Error> {
        let origin = || "environment".to_owned();
        for setting in SETTINGS {
            let Some(raw_value) = env(setting.key) else { continue };
            let Some(value) = raw_value.to_str() else {
                let expected = Expected::new("UTF-8 text", "");
                return Err(refused(origin(), setting, expected, &raw_value.to_string_lossy()));
            };
            (setting.set)(self, value).map_err(|expected| refused(origin(), setting, expected, value))?;
            texts.0.insert(setting.key, value.to_owned());
        }
        Ok(())
    }

    fn take_flags(&mut self, flags: &Flags) -> Result<(), Error> {
        if let Some(host) = &flags.host {
            self.listen.host = values::host(host).map_err(|Expected { what, hint }| Error::Settings {
                what: format!("`--host`: expected {what}, got `{}`", shown(host)),
                hint: hint.to_owned(),
            })?;
        }
        if let Some(port) = flags.port {
            self.listen.port = port;
        }
        if flags.servers.is_some() && !flags.command.is_empty() {
            return Err(Error::Settings {
                what: "`--servers` and a command after `--` are both given".to_owned(),
                hint: "keep one: `--servers` for several servers, the command for one".to_owned(),
            });
        }
        if let Some(path) = &flags.servers {
            self.mcp_servers = Some(path.clone());
            self.mcp_command = Vec::new();
        }
        if !flags.command.is_empty() {
            self.mcp_command = flags.command.clone();
            self.mcp_servers = None;
        }
        if let Some(path) = &flags.data_dir {
            self.data_dir = path.clone();
        }
        Ok(())
    }
}

impl Loaded {
    /// Settings that mean something else than in `before`.
    pub fn changes_since(&self, before: &Texts) -> Vec<&'static Setting> {
        let is_changed = |setting: &&Setting| setting.is_other(before.get(setting), self.texts.get(setting));
        SETTINGS.iter().filter(is_changed).collect()
    }

    /// Gives these settings the values they had `before`, and checks everything together again.
    pub fn hold(&mut self, settings: &[&'static Setting], before: &Texts, flags: &Flags) -> Result<(), Error> {
        for setting in settings {
            // It was accepted before.
            let _ = (setting.set)(&mut self.config, before.get(setting));
        }
        self.config.take_flags(flags)?;
        self.config.check()
    }
}

impl Texts {
    /// How the value of a setting is written; its default when nobody says otherwise.
    pub fn get(&self, setting: &Setting) -> &str {
        self.0.get(setting.key).map_or(setting.default, String::as_str)
    }

    /// The same, with these settings as they were `before`.
    pub fn with(&self, settings: &[&'static Setting], before: &Texts) -> Texts {
        let mut texts = self.clone();
        for setting in settings {
            match before.0.get(setting.key) {
                Some(text) => texts.0.insert(setting.key, text.clone()),
                None => texts.0.remove(setting.key),
            };
        }
        texts
    }
}

impl Flags {
    /// The files that settings may come from, the first that exists counts.
    pub fn files(&self) -> Vec<PathBuf> {
        self.config.clone().map_or_else(|| FILES.iter().map(PathBuf::from).collect(), |path| vec![path])
    }
}

fn refused(origin: String, setting: &Setting, expected: Expected, got: &str) -> Error {
    let Expected { what, hint } = expected;
    let got = if setting.secret { "(not shown)".to_owned() } else { shown(got) };
    let takes_default_away = got.is_empty() && hint.is_empty();
    let hint = if takes_default_away { "remove it to get the default" } else { hint };
    Error::Setting { origin, key: setting.key.to_owned(), expected: what, got, hint: hint.to_owned() }
}

/// A value as a message repeats it: on one line, and not without end.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_LETTERS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_LETTERS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

fn read_named(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|cause| unreadable(path, &cause))
}

fn first_file(paths: &[&str]) -> Result<Option<(PathBuf, Vec<u8>)>, Error> {
    for path in paths.iter().map(PathBuf::from) {
        match fs::read(&path) {
            Ok(bytes) => return Ok(Some((path, bytes))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(unreadable(&path, &cause)),
        }
    }
    Ok(None)
}

fn unreadable(path: &Path, cause: &io::Error) -> Error {
    Error::Settings { what: format!("cannot read the settings in `{}`: {cause}", path.display()), hint: String::new() }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, os::unix::ffi::OsStringExt as _, time::Duration};

    use super::*;
    use crate::config::{Listen, settings, test_dir::TestDir};

    /// Loads with a `gateway.conf` of this text and this environment.
    fn load(conf: &str, env: &[(&str, &str)], flags: Flags) -> Result<Loaded, Error> {
        let dir = TestDir::new();
        let path = dir.write("gateway.conf", conf);
        let env: HashMap<_, _> = env.iter().map(|(key, value)| (*key, OsString::from(value))).collect();
        Config::load(&Flags { config: Some(path), ..flags }, |key| env.get(key).cloned())
    }

    #[track_caller]
    fn check_error(result: Result<Loaded, Error>, end_of_message: &str, hint: &str) {
        let error = result.expect_err(end_of_message);
        assert!(error.to_string().ends_with(end_of_message), "{error}");
        assert_eq!(error.hint().unwrap_or_default(), hint, "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        let loaded = load("", &[], Flags::default()).expect("it loads");
        assert_eq!(loaded.config, Config::default());
        assert_eq!(loaded.servers.len(), 1);
        assert!(loaded.file.is_some_and(|path| path.ends_with("gateway.conf")));
        assert_eq!(loaded.warnings, Config::default().warnings());
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let conf = "MCP_REQUEST_TIMEOUT=5\nMAX_WORKERS=20\n";
        let env = [("MAX_WORKERS", "30"), ("PATH", "/nowhere")];
        let config = load(conf, &env, Flags::default()).expect("it loads").config;
        assert_eq!((config.request_timeout, config.max_workers), (Duration::from_secs(5), 30));
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let env = [("LISTEN", "localhost:9000"), ("DATA_DIR", "here"), ("MCP_COMMAND", "one")];
        let flags = Flags {
            host: Some("[::1]".to_owned()),
            data_dir: Some("there".into()),
            command: vec!["two".to_owned(), "-v".to_owned()],
            ..Flags::default()
        };
        let loaded = load("MCP_SERVERS=mcp.json", &env, flags).expect("it loads");
        assert_eq!(loaded.config.listen, Listen { host: "::1".to_owned(), port: 9000 });
        assert_eq!(loaded.config.data_dir, Path::new("there"));
        assert_eq!(loaded.servers[0].name, "two");

        let flags = Flags { port: Some(0), ..Flags::default() };
        let config = load("", &env, flags).expect("it loads").config;
        assert_eq!(config.listen, Listen { host: "localhost".to_owned(), port: 0 });
    }

    #[test]
    fn a_server_file_in_a_flag_takes_the_place_of_a_command() {
        let dir = TestDir::new();
        let path = dir.write("mcp.json", r#"{"mcpServers": {"one": {"command": "a"}}}"#);
        let flags = Flags { servers: Some(path), ..Flags::default() };
        let loaded = load("MCP_COMMAND=other", &[], flags.clone()).expect("it loads");
        assert_eq!(loaded.servers[0].name, "one");

        let both = Flags { command: vec!["two".to_owned()], ..flags };
        let hint = "keep one: `--servers` for several servers, the command for one";
        check_error(load("", &[], both), "`--servers` and a command after `--` are both given", hint);
    }

    #[test]
    fn a_bad_value_is_named_with_where_it_stands() {
        check_error(
            load("\n# why\nMCP_REQUEST_TIMEOUT=30s", &[], Flags::default()),
            "gateway.conf line 3: `MCP_REQUEST_TIMEOUT`: expected seconds, got `30s`",
            "write 30 or 30.0",
        );
        check_error(
            load("", &[("MCP_REQUEST_TIMEOUT", "30s")], Flags::default()),
            "environment: `MCP_REQUEST_TIMEOUT`: expected seconds, got `30s`",
            "write 30 or 30.0",
        );
        check_error(
            load("", &[], Flags { host: Some("a b".to_owned()), ..Flags::default() }),
            "`--host`: expected a host name or address, got `a b`",
            "write 127.0.0.1, localhost, 0.0.0.0 or ::1",
        );
    }

    #[test]
    fn a_bad_value_in_the_file_counts_even_when_the_environment_has_another() {
        let env = [("MIN_WORKERS", "2")];
        assert!(load("MIN_WORKERS=two", &env, Flags::default()).is_err());
    }

    #[test]
    fn settings_are_checked_against_each_other_after_all_have_been_read() {
        let loaded = load("MIN_WORKERS=9", &[("MAX_WORKERS", "10")], Flags::default());
        assert_eq!(loaded.map(|it| it.config.min_workers), Ok(9));
        check_error(
            load("MIN_WORKERS=9", &[], Flags::default()),
            "`MIN_WORKERS` is 9, more than `MAX_WORKERS`, 8",
            "lower `MIN_WORKERS`, or raise `MAX_WORKERS`",
        );
    }

    #[test]
    fn a_single_setting_can_be_read_while_the_others_do_not_fit() {
        let dir = TestDir::new();
        let path = dir.write("gateway.conf", "LISTEN=0.0.0.0:1\nAPI_KEYS_FILE=keys.json\n");
        let flags = Flags { config: Some(path), ..Flags::default() };
        let (config, _) = Config::read(&flags, |_| None).expect("it reads");
        assert_eq!(config.api_keys_file.as_deref(), Some(Path::new("keys.json")));
    }

    #[test]
    fn an_empty_value_takes_back_what_may_be_absent_and_is_refused_elsewhere() {
        let env = [("API_KEY", ""), ("LOG_FILE", "")];
        let config = load("LOG_FILE=gateway.log", &env, Flags::default()).expect("it loads").config;
        assert_eq!((config.api_key.as_str(), config.log_file), ("", None));
        check_error(
            load("", &[("LOG_LEVEL", "")], Flags::default()),
            "environment: `LOG_LEVEL`: expected ERROR, WARNING, INFO, DEBUG or TRACE, got ``",
            "remove it to get the default",
        );
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused() {
        let dir = TestDir::new();
        let flags = Flags { config: Some(dir.write("gateway.conf", "")), ..Flags::default() };
        let result = Config::load(&flags, |key| (key == "DATA_DIR").then(|| OsString::from_vec(vec![b'a', 0xff])));
        check_error(result, "environment: `DATA_DIR`: expected UTF-8 text, got `a\u{fffd}`", "");
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let error = load("", &[("API_KEY", "hunter2\n")], Flags::default()).expect_err("a line break in a key");
        assert!(error.to_string().ends_with("got `(not shown)`"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn a_long_value_is_cut_and_kept_on_one_line() {
        let error = load("", &[("MIN_WORKERS", &"\n".repeat(1000))], Flags::default()).expect_err("not a number");
        assert!(error.to_string().ends_with("\\n\\n...`") && error.to_string().len() < 300, "{error}");
    }

    #[test]
    fn the_first_file_that_exists_counts() {
        let dir = TestDir::new();
        let one = dir.write("one.conf", "MIN_WORKERS=1");
        let two = dir.write("two.conf", "MIN_WORKERS=2");
        let missing = dir.path().join("missing.conf");
        let paths = [&missing, &one, &two].map(|path| path.to_str().expect("the path is UTF-8"));
        let (path, bytes) = first_file(&paths).expect("it is readable").expect("it exists");
        assert_eq!((path.as_path(), bytes.as_slice()), (one.as_path(), b"MIN_WORKERS=1".as_slice()));
        assert_eq!(first_file(&paths[..1]), Ok(None));
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let flags = Flags { config: Some("/nowhere/gateway.conf".into()), ..Flags::default() };
        check_error(
            Config::load(&flags, |_| None),
            "cannot read the settings in `/nowhere/gateway.conf`: No such file or directory (os error 2)",
            "",
        );
    }

    #[test]
    fn what_has_changed_is_known_by_what_it_means_and_can_be_held() {
        let before =
            load("LISTEN=localhost:9000\nQUEUE_MAX=5\nHEAD_TIMEOUT=1\n", &[], Flags::default()).expect("it loads");
        let flags = Flags { port: Some(1), ..Flags::default() };
        let mut after = load("LISTEN=localhost:9001\nHEAD_TIMEOUT=1.0\n", &[], flags.clone()).expect("it loads");
        let changes = after.changes_since(&before.texts);
        assert_eq!(changes.iter().map(|it| it.key).collect::<Vec<_>>(), ["LISTEN", "QUEUE_MAX"]);
        after.hold(&changes, &before.texts, &flags).expect("they were right");
        assert_eq!((after.config.listen.to_string().as_str(), after.config.queue_max), ("localhost:1", 5));
    }

    #[test]
    fn what_is_held_is_checked_against_what_has_changed() {
        let before = load("LISTEN=0.0.0.0:1\nAPI_KEY=strong\n", &[], Flags::default()).expect("it loads");
        let mut after = load("LISTEN=127.0.0.1:1\n", &[], Flags::default()).expect("it is for this machine only");
        let listen = settings::find("LISTEN").expect("it is there");
        assert!(
            after.hold(&[listen], &before.texts, &Flags::default()).is_err(),
            "the known key would face the network"
        );
    }
}
