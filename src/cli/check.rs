//! `mcpgate check`: everything that `serve` would use is looked at and tried, and what was found is said, with what to do about it.
//!
//! Settings, files, port, keys and TLS are looked at with the code that uses them; each server is started, asked and stopped
//! (`server.rs`). Only settings that cannot be read end it early, as there is nothing to go by then.
//!
//! **Limit.** Twice `MCP_REQUEST_TIMEOUT` and a few seconds for each server. **End.** An interrupt stops the server that is being tried, in order.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{Access as Rights, access};

use crate::{
    cli::{CheckArgs, interrupts},
    config::{AccessLog, Command, Config, Live, Loaded, settings::SETTINGS},
    descriptors,
    error::Error,
    http::tls::Certificates,
};

mod holder;
mod keys;
mod port;
mod report;
mod server;

use report::{Form, Report, Section};

/// Looks at everything and prints what was found to `out`, as text or, with `--json`, as one object.
///
/// Fails when something was found that would keep the gateway from serving as it should: with [`Error::Settings`] when that is a setting,
/// else with [`Error::Failed`].
pub fn run(
    args: &CheckArgs,
    env: impl Fn(&str) -> Option<OsString>,
    out: &mut dyn Write,
    is_coloured: bool,
) -> Result<(), Error> {
    let interrupts = interrupts::listen()?;
    let mut report = Report::new(out, if args.json { Form::Json } else { Form::Text { is_coloured } });
    let flags = args.serve.flags();
    let loaded = match Config::load(&flags, &env) {
        Ok(loaded) => loaded,
        // As text it is on standard error already.
        Err(error) if args.json => {
            report.bad(Section::Settings, &error)?;
            return report.end();
        }
        Err(error) => return Err(error),
    };
    about_settings(&loaded, env, &mut report)?;
    let Loaded { mut config, servers, .. } = loaded;
    match descriptors::make_room(&mut config, &servers) {
        Ok(shortage) => shortage.into_iter().try_for_each(|it| report.warn(Section::Settings, it, ""))?,
        Err(error) => report.bad(Section::Settings, &error)?,
    }
    try_files(&config, servers.iter().any(|it| !matches!(it.command, Command::Program { .. })), &mut report)?;
    port::examine(&config, &mut report)?;
    keys::examine(&config, SystemTime::now(), &mut report)?;
    examine_tls(&config, &mut report)?;
    let live = Live::new(config);
    let is_only = servers.len() == 1;
    for spec in &servers {
        server::examine(spec, is_only, &live, &interrupts, &mut report)?;
    }
    report.end()
}

/// Where the settings are from, and what is to be known of them. What is to be known of keys is said with the keys.
fn about_settings(
    loaded: &Loaded,
    env: impl Fn(&str) -> Option<OsString>,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let file =
        loaded.file.as_ref().map_or("no gateway.conf, so defaults".to_owned(), |it| format!("`{}`", it.display()));
    let from_env: Vec<_> = SETTINGS.iter().map(|it| it.key).filter(|key| env(key).is_some()).collect();
    let from_env =
        if from_env.is_empty() { String::new() } else { format!("; from the environment {}", from_env.join(", ")) };
    report.good(Section::Settings, format!("{file}{from_env}"))?;
    let about_keys = loaded.config.warnings();
    let others = loaded.warnings.iter().filter(|warning| !about_keys.contains(warning));
    others.cloned().try_for_each(|warning| report.warn(Section::Settings, warning, ""))
}

/// Tries to write where the gateway and the bundled server do.
fn try_files(config: &Config, has_data: bool, report: &mut Report<'_>) -> Result<(), Error> {
    let access_log = if let AccessLog::File(path) = &config.access_log { Some(path) } else { None };
    for (key, path) in [("LOG_FILE", config.log_file.as_ref()), ("ACCESS_LOG", access_log)] {
        let Some(path) = path else { continue };
        let shown = path.display();
        match try_file(path) {
            Ok(()) => report.good(Section::Files, format!("`{key}`: `{shown}` can be written"))?,
            Err(cause) => report.bad(
                Section::Files,
                &Error::Settings {
                    what: format!("`{key}`: cannot write `{shown}`: {cause}"),
                    hint: "name a file in a folder that exists and may be written to".to_owned(),
                },
            )?,
        }
    }
    if has_data {
        let shown = config.data_dir.display();
        match try_folder(&config.data_dir) {
            Ok(()) => report.good(Section::Files, format!("`DATA_DIR`: `{shown}` can be written to"))?,
            Err(cause) => report.bad(
                Section::Files,
                &Error::Failed {
                    what: format!("`DATA_DIR`: cannot write to `{shown}`: {cause}"),
                    hint: "name a folder that can be made or written to by the user that runs the gateway".to_owned(),
                },
            )?,
        }
    }
    Ok(())
}

/// Opens a file as a log is opened. One that was not there before is not there afterwards.
fn try_file(path: &Path) -> io::Result<()> {
    match File::options().append(true).open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            File::options().append(true).create_new(true).open(path)?;
            std::fs::remove_file(path)
        }
        opened => opened.map(drop),
    }
}

/// Whether files can be made in a folder; when there is none, whether it can be made.
fn try_folder(path: &Path) -> io::Result<()> {
    let there = path.ancestors().find(|it| it.exists()).filter(|it| !it.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(there, Rights::WRITE_OK | Rights::EXEC_OK)?)
}

fn examine_tls(config: &Config, report: &mut Report<'_>) -> Result<(), Error> {
    let found = Certificates::new(config).and_then(|it| it.map(|it| it.findings(SystemTime::now())).transpose());
    let findings = match found {
        Ok(Some(findings)) => findings,
        Ok(None) if config.listen.is_loopback() => {
            return report.good(Section::Tls, "off: this machine calls by `http://`");
        }
        Ok(None) => {
            return report.warn(
                Section::Tls,
                "off, and other machines can reach the gateway: keys and answers can be read on the way",
                "set `TLS_CERT` and `TLS_KEY` (`mcpgate tls self-signed` makes a pair), or put it behind a proxy with TLS",
            );
        }
        Err(error) => return report.bad(Section::Tls, &error),
    };
    let mut warnings = findings.warnings.into_iter();
    let why_invalid = if findings.is_valid { None } else { warnings.next() };
    match why_invalid {
        Some(what) => {
            let hint = "`mcpgate tls self-signed` makes another one, or have your authority sign one".to_owned();
            report.bad(Section::Tls, &Error::Failed { what, hint })?;
        }
        None => {
            let names = if findings.names.is_empty() { "no name".to_owned() } else { findings.names.join(", ") };
            report.good(Section::Tls, format!("{}; it is for {names}", findings.about))?;
        }
    }
    warnings.try_for_each(|warning| report.warn(Section::Tls, warning, ""))?;
    let is_covered = |host: &str| findings.names.iter().any(|name| is_name_for(name, host));
    let is_foreign = |host: &&String| !is_covered(host);
    for host in config.allowed_hosts.iter().filter(is_foreign) {
        report.warn(
            Section::Tls,
            format!("the certificate is not for `{host}`, a name in `ALLOWED_HOSTS`"),
            format!(
                "clients that call it by this name refuse it; `mcpgate tls self-signed {host}` makes one that has it"
            ),
        )?;
    }
    Ok(())
}

/// Whether a name in a certificate stands for this host (RFC 9525, 6.3).
fn is_name_for(name: &str, host: &str) -> bool {
    let is_wild = |rest: &str| host.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(rest));
    name.eq_ignore_ascii_case(host) || name.strip_prefix("*.").is_some_and(is_wild)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_dir::TestDir;

    #[test]
    fn a_file_is_tried_and_left_as_it_was() {
        let dir = TestDir::new();
        let new = dir.path().join("new.log");
        try_file(&new).expect("the folder takes files");
        assert!(!new.exists());
        let old = dir.write("old.log", "a line\n");
        try_file(&old).expect("it can be written");
        assert_eq!(std::fs::read_to_string(old).unwrap(), "a line\n");
        assert!(try_file(&dir.path().join("missing/new.log")).is_err());
        assert!(try_file(dir.path()).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_may_be_made() {
        let dir = TestDir::new();
        try_folder(&dir.path().join("a/b/c")).expect("it can be made");
        assert!(!dir.path().join("a").exists());
        let file = dir.write("file", "");
        assert!(try_folder(&file).is_err() && try_folder(&file.join("below")).is_err());
        try_folder(Path::new("not-there")).expect("it would be made here");
    }

    #[test]
    fn a_certificate_for_all_names_below_another_is_for_each() {
        for (name, host, expected) in [
            ("box.local", "BOX.local", true),
            ("*.local", "box.local", true),
            ("*.local", "a.box.local", false),
            ("*.local", "local", false),
            ("box.local", "other.local", false),
        ] {
            assert_eq!(is_name_for(name, host), expected, "{name} {host}");
        }
    }
}
