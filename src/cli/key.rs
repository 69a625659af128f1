//! `mcpgate key`: makes, lists and revokes the keys in a key file.
//!
//! A key is printed once, alone on standard output, so that a script can take it from there; the file keeps its hash.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    access::keyfile::{self, KeyEntry, KeyFile},
    cli::{KeyCommand, KeyFileArgs},
    config::Config,
    error::Error,
};

/// Longest time until a key expires: a hundred years.
const EXPIRES_AFTER_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Carries `command` out at `now`: data goes to `out`, words for the operator to `notes`.
///
/// `env` is where `API_KEYS_FILE` is looked up when no `--file` is given, such as `std::env::var_os`.
pub fn run(
    command: &KeyCommand,
    env: impl Fn(&str) -> Option<OsString>,
    now: SystemTime,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<(), Error> {
    match command {
        KeyCommand::New { name, tools, rate, concurrent, expires, file } => {
            let path = key_file(file, env)?;
            let expires = expires.as_deref().map(|text| expires_at(text, now)).transpose()?;
            let (name, tools) = (name.clone(), tools.clone());
            // Its hash is put in when there is a key.
            let entry = KeyEntry { name, sha256: [0; 32], tools, rate: *rate, concurrent: *concurrent, expires };
            let (name, key) = (entry.name.clone(), add(&path, entry)?);
            write_out(out, &format!("{key}\n"))?;
            write_out(notes, &format!("added `{name}` to {}; the key above is not shown again\n", path.display()))
        }
        KeyCommand::List { file } => {
            let keys = KeyFile::load(&key_file(file, env)?)?.keys;
            write_out(out, &table(&keys, now))
        }
        KeyCommand::Revoke { name, file } => {
            let path = key_file(file, env)?;
            revoke(&path, name)?;
            write_out(notes, &format!("took `{name}` out of {}\n", path.display()))
        }
    }
}

/// Adds a new key like `entry` to the file at `path`, which need not exist yet, and gives the key.
fn add(path: &Path, entry: KeyEntry) -> Result<String, Error> {
    let KeyEntry { name, tools, .. } = &entry;
    if !keyfile::is_name(name) {
        return Err(usage(
            format!("`{}` cannot name a key", name.escape_debug()),
            "use 1 to 64 ASCII letters, digits, `_`, `-` or `.`; `api_key` and `anybody` are taken",
        ));
    }
    let has_empty_glob = tools.iter().flatten().any(String::is_empty);
    if has_empty_glob {
        return Err(usage("`--tools` has an empty name", "leave `--tools` out to allow every tool"));
    }
    entry.check_limits().map_err(|what| usage(what.replacen('`', "`--", 1), "leave it out to have no such limit"))?;
    let _locked = keyfile::lock_folder(path)?;
    let mut file = KeyFile::load_or_empty(path)?;
    if file.find(name).is_some() {
        return Err(usage(
            format!("there is a key called `{name}` in {}", path.display()),
            "choose another name, or revoke that key first",
        ));
    }
    let key = keyfile::new_key()?;
    file.keys.push(KeyEntry { sha256: keyfile::hash(&key), ..entry });
    file.save(path)?;
    Ok(key)
}

fn revoke(path: &Path, name: &str) -> Result<(), Error> {
    let _locked = keyfile::lock_folder(path)?;
    let mut file = KeyFile::load(path)?;
    let n_before = file.keys.len();
    file.keys.retain(|entry| entry.name != name);
    if file.keys.len() == n_before {
        return Err(usage(
            format!("there is no key called `{}` in {}", name.escape_debug(), path.display()),
            "`mcpgate key list` shows the names",
        ));
    }
    file.save(path)
}

fn key_file(args: &KeyFileArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Error> {
    if let Some(path) = &args.file {
        return Ok(path.clone());
    }
    // Read, not loaded: a first key must be possible while the gateway would still refuse to start without one.
    let (config, _) = Config::read(&args.config.flags(), env)?;
    config.api_keys_file.ok_or_else(|| usage("no file of keys is named", "give `--file FILE`, or set `API_KEYS_FILE`"))
}

fn expires_at(text: &str, now: SystemTime) -> Result<SystemTime, Error> {
    humantime::parse_duration(text)
        .ok()
        .filter(|after| !after.is_zero() && *after <= EXPIRES_AFTER_MAX)
        .and_then(|after| now.checked_add(after))
        .ok_or_else(|| {
            let what = format!("`--expires`: expected a time of at most 100 years, got `{}`", text.escape_debug());
            usage(what, "write 30d, 12h or 90m")
        })
}

/// Name, tools, limits and expiry of each key, in columns.
fn table(keys: &[KeyEntry], now: SystemTime) -> String {
    let header = ["NAME", "TOOLS", "RATE", "CONCURRENT", "EXPIRES", "STATE"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(keys.iter().map(|entry| row(entry, now))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(entry: &KeyEntry, now: SystemTime) -> [String; 6] {
    let tools = match &entry.tools {
        None => "all".to_owned(),
        Some(globs) if globs.is_empty() => "none".to_owned(),
        Some(globs) => globs.join(",").escape_debug().to_string(),
    };
    let rate = entry.rate.map_or("-".to_owned(), |rate| format!("{rate}/s"));
    let concurrent = entry.concurrent.map_or("-".to_owned(), |concurrent| concurrent.to_string());
    let expires = match entry.expires {
        None => "never".to_owned(),
        Some(moment) => keyfile::expires_text(moment).unwrap_or_else(|| "after 9999".to_owned()),
    };
    let state = if entry.is_expired(now) { "expired" } else { "valid" };
    [entry.name.clone(), tools, rate, concurrent, expires, state.to_owned()]
}

fn write_out(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    let written: io::Result<()> = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|cause| Error::Failed { what: format!("cannot write the answer: {cause}"), hint: String::new() })
}

fn usage(what: impl Into<String>, hint: &str) -> Error {
    Error::Settings { what: what.into(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, CommandLine},
        config::test_dir::TestDir,
    };

    /// 2026-01-01T00:00:00Z.
    const NOW_SECONDS: u64 = 1_767_225_600;

    /// Runs `mcpgate key ...` and gives what it wrote: data, notes.
    fn run_line(line: &str, keys_file_in_env: Option<&Path>) -> Result<(String, String), Error> {
        let args = ["mcpgate", "key"].into_iter().chain(line.split(' '));
        let CommandLine::Key(args) = Cli::try_parse_from(args).expect(line).command_line() else { panic!("not `key`") };
        let env = |key: &str| keys_file_in_env.filter(|_| key == "API_KEYS_FILE").map(OsString::from);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS);
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        run(&args.command, env, now, &mut out, &mut notes)?;
        let text = |bytes| String::from_utf8(bytes).expect("answers are text");
        Ok((text(out), text(notes)))
    }

    #[track_caller]
    fn check_refused(line: &str, path: &Path, message: &str) {
        let error = run_line(line, Some(path)).expect_err(line);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_key_is_made_listed_and_revoked() {
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        let line = "new ci --tools search_*,get --rate 0.5 --concurrent 2 --expires 30d";
        let (key, notes) = run_line(line, Some(&path)).expect("it is made");
        assert!(key.starts_with("mcpg_") && key.ends_with('\n') && key.len() == 70, "{key}");
        assert_eq!(notes, format!("added `ci` to {}; the key above is not shown again\n", path.display()));
        run_line("new me", Some(&path)).expect("it is made");

        let file = KeyFile::load(&path).expect("it was saved");
        assert_eq!(file.keys[0].sha256, keyfile::hash(key.trim_end()));
        let (list, _) = run_line("list", Some(&path)).expect("it is listed");
        let expected = "\
NAME  TOOLS         RATE   CONCURRENT  EXPIRES               STATE
ci    search_*,get  0.5/s  2           2026-01-31T00:00:00Z  valid
me    all           -      -           never                 valid
";
        assert_eq!(list, expected);

        run_line("revoke ci", Some(&path)).expect("it is revoked");
        let file = KeyFile::load(&path).expect("it was saved");
        assert_eq!(file.keys.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["me"]);
    }

    #[test]
    fn neither_key_nor_hash_is_in_the_list() {
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        let (key, _) = run_line("new ci", Some(&path)).expect("it is made");
        let (list, _) = run_line("list", Some(&path)).expect("it is listed");
        let stored = std::fs::read_to_string(&path).expect("it was saved");
        assert!(!stored.contains(key.trim_end()));
        assert!(!list.contains("mcpg_") && list.split_whitespace().all(|word| word.len() < 64), "{list}");
    }

    #[test]
    fn an_expired_key_is_marked() {
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let (name, tools) = ("old".to_owned(), Some(vec![]));
        let entry = KeyEntry { name, sha256: [0; 32], tools, rate: None, concurrent: None, expires: Some(expires) };
        let table = table(&[entry], expires);
        assert!(table.ends_with("old   none   -     -           1970-01-01T00:16:40Z  expired\n"), "{table}");
    }

    #[test]
    fn a_file_in_a_flag_wins_over_the_setting() {
        let dir = TestDir::new();
        let (in_env, in_flag) = (dir.path().join("env.json"), dir.path().join("flag.json"));
        run_line(&format!("new ci --file {}", in_flag.display()), Some(&in_env)).expect("it is made");
        assert!(in_flag.exists() && !in_env.exists());
    }

    #[test]
    fn a_first_key_can_be_made_before_the_gateway_may_start() {
        let dir = TestDir::new();
        let keys = dir.path().join("keys.json");
        let conf = dir.write("gateway.conf", &format!("LISTEN=0.0.0.0:80\nAPI_KEYS_FILE={}\n", keys.display()));
        run_line(&format!("new ci --config {}", conf.display()), None).expect("it is made");
        assert!(keys.exists());
    }

    #[test]
    fn names_are_unique_and_plain() {
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        run_line("new ci", Some(&path)).expect("it is made");
        let shown = path.display();
        check_refused("new ci", &path, &format!("there is a key called `ci` in {shown}"));
        check_refused("new c/i", &path, "`c/i` cannot name a key");
        check_refused("revoke cj", &path, &format!("there is no key called `cj` in {shown}"));
    }

    #[test]
    fn times_until_expiry_have_a_unit_and_a_limit() {
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        for (index, text) in ["30d", "12h", "90m"].iter().enumerate() {
            run_line(&format!("new k{index} --expires {text}"), Some(&path)).expect(text);
        }
        for text in ["30", "0d", "-1d", "soon", "101years", "99999999999999999999d"] {
            check_refused(
                &format!("new late --expires={text}"),
                &path,
                &format!("`--expires`: expected a time of at most 100 years, got `{text}`"),
            );
        }
        check_refused("new late --tools a,,b", &path, "`--tools` has an empty name");
        let range = "expected calls a second, from one a day to 1000000";
        check_refused("new late --rate 0", &path, &format!("`--rate`: {range}, got `0`"));
        check_refused("new late --rate inf", &path, &format!("`--rate`: {range}, got `inf`"));
        check_refused("new late --concurrent 0", &path, "`--concurrent`: expected 1 call or more, got `0`");
    }

    #[test]
    fn without_a_file_the_way_to_name_one_is_told() {
        let dir = TestDir::new();
        let conf = dir.write("gateway.conf", "");
        let error = run_line(&format!("list --config {}", conf.display()), None).expect_err("no file");
        assert_eq!(error.to_string(), "no file of keys is named");
        assert_eq!(error.hint().as_deref(), Some("give `--file FILE`, or set `API_KEYS_FILE`"));
    }
}
