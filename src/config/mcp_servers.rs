//! Reads an `mcpServers` file, the format in which desktop MCP clients name their servers.
//!
//! ```json
//! {"mcpServers": {"search": {"command": "uvx", "args": ["search"], "env": {"TOKEN": "..."}, "max_workers": 4}}}
//! ```
//!
//! Such files are shared with other programs, so what is theirs is passed over: members of an entry that we do not
//! know and entries that are not for stdio give a warning, entries with `"disabled": true` are left out. What is ours
//! is exact: names, types and numbers that do not fit are errors with file, line and column.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    config::{Command, Config, EraSetting, Isolation, ServerSpec, is_plain_name},
    error::Error,
};

const WORKERS: RangeInclusive<usize> = 1..=1024;

/// Members of an entry that other clients write, and that mean nothing to a gateway.
const OF_OTHERS: [&str; 2] = ["description", "type"];

/// The servers in the file at `path`, in its order, and what the operator should know about the rest of it.
///
/// Numbers of workers that an entry does not give come from `config`.
pub fn read(path: &Path, config: &Config) -> Result<(Vec<ServerSpec>, Vec<String>), Error> {
    let name = path.display().to_string();
    let text = fs::read(path).map_err(|cause| Error::Settings {
        what: format!("cannot read the servers in `{name}`: {cause}"),
        hint: "give an existing `mcpServers` file in `MCP_SERVERS` or `--servers`".to_owned(),
    })?;
    parse(&text, &name, path.parent().unwrap_or(Path::new("")), config)
}

/// As [`read`], for the contents of a file called `name` in `folder`.
pub fn parse(text: &[u8], name: &str, folder: &Path, config: &Config) -> Result<(Vec<ServerSpec>, Vec<String>), Error> {
    let file: ServersFile = serde_json::from_slice(text).map_err(|cause| not_servers(name, &cause))?;
    let mut servers = Vec::new();
    let mut warnings = Vec::new();
    let mut names = HashSet::new();
    for (server, entry) in file.servers.0 {
        let origin = format!("{name}: server `{server}`");
        let refused =
            |what: String, hint: &str| Error::Settings { what: format!("{origin}: {what}"), hint: hint.to_owned() };
        if entry.disabled {
            continue;
        }
        let Some(program) = entry.command.filter(|program| !program.is_empty()) else {
            if !entry.is_remote {
                return Err(refused("there is no `command`".to_owned(), "name the program that runs the server"));
            }
            warnings.push(format!("{origin} is left out: it is remote (`url`), and only stdio servers are run"));
            continue;
        };
        if !is_plain_name(&server) {
            let what = "expected a name of 1 to 64 ASCII letters, digits, `_`, `-` or `.`";
            return Err(refused(what.to_owned(), "tools are called by this name, so it must stand in a path"));
        }
        if !names.insert(server.clone()) {
            return Err(refused("there are two with this name".to_owned(), "give one of them another name"));
        }
        if !entry.unknown.is_empty() {
            warnings.push(format!("{origin}: no effect here: {}", in_backticks(&entry.unknown)));
        }
        let word = entry.isolation.as_deref().unwrap_or("shared");
        let Some(isolation) = Isolation::from_word(word) else {
            let what = format!("`isolation`: expected `shared`, `session` or `key`, got `{word}`");
            return Err(refused(what, "leave it out to let every caller share the workers"));
        };
        let word = entry.era.as_deref().unwrap_or("auto");
        let Some(era) = EraSetting::from_word(word) else {
            let what = format!("`era`: expected `auto`, `legacy` or `modern`, got `{word}`");
            return Err(refused(what, "leave it out to have it found out"));
        };
        let (min_workers, max_workers) = workers(entry.min_workers, entry.max_workers, config)
            .map_err(|what| refused(what, "set `min_workers` and `max_workers` in the entry"))?;
        let cwd = entry.cwd.map(|cwd| folder.join(cwd));
        let command = Command::Program { program, args: entry.args, env: entry.env, cwd };
        servers.push(ServerSpec { name: server, command, min_workers, max_workers, isolation, era });
    }
    if servers.is_empty() {
        return Err(Error::Settings {
            what: format!("{name}: there is no server to run"),
            hint: "add an entry with a `command` to `mcpServers`".to_owned(),
        });
    }
    Ok((servers, warnings))
}

/// Both numbers of an entry. One that is absent comes from the settings, the lower one cut to the entry's upper one.
fn workers(min: Option<usize>, max: Option<usize>, config: &Config) -> Result<(usize, usize), String> {
    let (lowest, highest) = (WORKERS.start(), WORKERS.end());
    for (key, number) in [("min_workers", min), ("max_workers", max)] {
        if let Some(number) = number.filter(|number| !WORKERS.contains(number)) {
            return Err(format!("`{key}`: expected a whole number from {lowest} to {highest}, got `{number}`"));
        }
    }
    let max_workers = max.unwrap_or(config.max_workers);
    let min_workers = min.unwrap_or(config.min_workers.min(max_workers));
    if max_workers < min_workers {
        return Err(format!("`min_workers` is {min_workers}, more than `max_workers`, {max_workers}"));
    }
    Ok((min_workers, max_workers))
}

fn not_servers(name: &str, cause: &serde_json::Error) -> Error {
    let (line, column) = (cause.line(), cause.column());
    let text = cause.to_string();
    let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    Error::Settings {
        what: format!("{name} line {line} column {column}: {what}"),
        hint: r#"write {"mcpServers": {"NAME": {"command": "PROGRAM", "args": []}}}, without comments"#.to_owned(),
    }
}

fn in_backticks(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Members beside `mcpServers` belong to other programs.
#[derive(Deserialize)]
struct ServersFile {
    #[serde(rename = "mcpServers")]
    servers: Entries,
}

/// Entries in the order of the file, two with one name included.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of servers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// One server as it stands in the file. `null` counts as absent.
#[derive(Default)]
struct Entry {
    command: Option<String>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    min_workers: Option<usize>,
    max_workers: Option<usize>,
    isolation: Option<String>,
    era: Option<String>,
    disabled: bool,
    is_remote: bool,
    unknown: Vec<String>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

/// Written out because a derived `flatten`, which would collect the unknown members, loses line and column.
struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `command`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut entry = Entry::default();
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "command" => entry.command = map.next_value()?,
                "args" => entry.args = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "env" => entry.env = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "cwd" => entry.cwd = map.next_value()?,
                "min_workers" => entry.min_workers = map.next_value()?,
                "max_workers" => entry.max_workers = map.next_value()?,
                "isolation" => entry.isolation = map.next_value()?,
                "era" => entry.era = map.next_value()?,
                "disabled" => entry.disabled = map.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    entry.is_remote |= matches!(key.as_str(), "url" | "serverUrl" | "httpUrl");
                    let is_of_others = OF_OTHERS.contains(&key.as_str());
                    if !is_of_others {
                        entry.unknown.push(key.clone());
                    }
                }
            }
            if let Some(twice) = keys.replace(key) {
                return Err(de::Error::custom(format!("`{twice}` is there twice")));
            }
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<(Vec<ServerSpec>, Vec<String>), Error> {
        parse(text.as_bytes(), "mcp.json", Path::new("/etc/mcpgate"), &Config::default())
    }

    /// One server called `one` with these members.
    fn parse_entry(members: &str) -> Result<(Vec<ServerSpec>, Vec<String>), Error> {
        parse_text(&format!(r#"{{"mcpServers": {{"one": {{{members}}}}}}}"#))
    }

    #[track_caller]
    fn check_error(result: Result<(Vec<ServerSpec>, Vec<String>), Error>, message: &str) {
        let error = result.expect_err(message);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.exit_code(), 2);
    }

    const GOOD: &str = r#"{
  "globalShortcut": "",
  "mcpServers": {
    "zeta": {"command": "npx", "args": ["-y", "zeta"], "env": {"TOKEN": "t"}, "cwd": "zeta", "isolation": "shared"},
    "alpha.1": {"command": "/opt/alpha", "cwd": "/srv", "min_workers": 3, "max_workers": 4, "type": "stdio"},
    "mid": {"command": "mid", "args": null, "env": null, "cwd": null, "max_workers": 1}
  }
}"#;

    #[test]
    fn servers_keep_the_order_of_the_file_and_take_their_own_settings() {
        let (servers, warnings) = parse_text(GOOD).expect("it parses");
        let shape: Vec<_> = servers.iter().map(|it| (it.name.as_str(), it.min_workers, it.max_workers)).collect();
        assert_eq!(shape, [("zeta", 2, 8), ("alpha.1", 3, 4), ("mid", 1, 1)]);
        assert_eq!(warnings, Vec::<String>::new());

        let Command::Program { program, args, env, cwd } = &servers[0].command else { panic!("not a program") };
        assert_eq!((program.as_str(), args.join(" ").as_str(), env["TOKEN"].as_str()), ("npx", "-y zeta", "t"));
        assert_eq!(cwd.as_deref(), Some(Path::new("/etc/mcpgate/zeta")));
        let Command::Program { cwd, .. } = &servers[1].command else { panic!("not a program") };
        assert_eq!(cwd.as_deref(), Some(Path::new("/srv")));
    }

    #[test]
    fn what_other_clients_write_is_passed_over_with_a_warning() {
        let (servers, warnings) = parse_text(
            r#"{"mcpServers": {
                "one": {"command": "a", "type": "stdio", "autoApprove": [], "timeout": 30},
                "far away": {"type": "http", "url": "https://example.org/mcp", "headers": {}},
                "off": {"command": "b", "disabled": true}
            }}"#,
        )
        .expect("it parses");
        assert_eq!(servers.len(), 1);
        assert_eq!(
            warnings,
            [
                "mcp.json: server `one`: no effect here: `autoApprove`, `timeout`",
                "mcp.json: server `far away` is left out: it is remote (`url`), and only stdio servers are run",
            ]
        );
    }

    #[test]
    fn a_list_without_a_server_to_run_is_refused() {
        for text in [r#"{"mcpServers": {}}"#, r#"{"mcpServers": {"a": {"command": "b", "disabled": true}}}"#] {
            check_error(parse_text(text), "mcp.json: there is no server to run");
        }
    }

    #[test]
    fn names_must_stand_in_a_path_and_be_there_once() {
        let long_name = "a".repeat(65);
        for name in ["", "a b", "a/b", "..", "é", &long_name] {
            check_error(
                parse_text(&format!(r#"{{"mcpServers": {{"{name}": {{"command": "a"}}}}}}"#)),
                &format!(
                    "mcp.json: server `{name}`: expected a name of 1 to 64 ASCII letters, digits, `_`, `-` or `.`"
                ),
            );
        }
        check_error(
            parse_text(r#"{"mcpServers": {"one": {"command": "a"}, "one": {"command": "b"}}}"#),
            "mcp.json: server `one`: there are two with this name",
        );
        check_error(
            parse_entry(r#""command": "a", "command": "b""#),
            "mcp.json line 1 column 55: `command` is there twice",
        );
    }

    #[test]
    fn an_entry_needs_a_command() {
        for members in ["", r#""command": """#, r#""args": ["x"]"#] {
            check_error(parse_entry(members), "mcp.json: server `one`: there is no `command`");
        }
    }

    #[test]
    fn numbers_of_workers_are_checked() {
        check_error(
            parse_entry(r#""command": "a", "min_workers": 9"#),
            "mcp.json: server `one`: `min_workers` is 9, more than `max_workers`, 8",
        );
        check_error(
            parse_entry(r#""command": "a", "max_workers": 0"#),
            "mcp.json: server `one`: `max_workers`: expected a whole number from 1 to 1024, got `0`",
        );
    }

    #[test]
    fn an_entry_says_who_shares_its_workers() {
        let expected = [
            ("", Isolation::Shared),
            (r#", "isolation": null"#, Isolation::Shared),
            (r#", "isolation": "shared""#, Isolation::Shared),
            (r#", "isolation": "session""#, Isolation::Session),
            (r#", "isolation": "key""#, Isolation::Key),
        ];
        for (member, isolation) in expected {
            let (servers, _) = parse_entry(&format!(r#""command": "a"{member}"#)).expect(member);
            assert_eq!(servers[0].isolation, isolation, "{member}");
        }
    }

    #[test]
    fn an_unknown_isolation_is_answered_with_the_known_ones() {
        check_error(
            parse_entry(r#""command": "a", "isolation": "tool""#),
            "mcp.json: server `one`: `isolation`: expected `shared`, `session` or `key`, got `tool`",
        );
    }

    #[test]
    fn an_entry_says_which_eras_its_server_is_spoken_to_in() {
        let expected = [
            ("", EraSetting::Auto),
            (r#", "era": null"#, EraSetting::Auto),
            (r#", "era": "auto""#, EraSetting::Auto),
            (r#", "era": "legacy""#, EraSetting::Legacy),
            (r#", "era": "modern""#, EraSetting::Modern),
        ];
        for (member, era) in expected {
            let (servers, _) = parse_entry(&format!(r#""command": "a"{member}"#)).expect(member);
            assert_eq!(servers[0].era, era, "{member}");
        }
        check_error(
            parse_entry(r#""command": "a", "era": "2026-07-28""#),
            "mcp.json: server `one`: `era`: expected `auto`, `legacy` or `modern`, got `2026-07-28`",
        );
    }

    #[test]
    fn bad_json_is_named_with_line_and_column() {
        check_error(
            parse_text("{\"mcpServers\": {\n  \"one\": {\"command\": \"a\",}\n}}"),
            "mcp.json line 2 column 26: trailing comma",
        );
        check_error(
            parse_text("{\"mcpServers\": {\n  \"one\": {\"command\": 5}\n}}"),
            "mcp.json line 2 column 22: invalid type: integer `5`, expected a string",
        );
        check_error(parse_text("{\"servers\": {}}"), "mcp.json line 1 column 15: missing field `mcpServers`");
    }

    #[test]
    fn no_prefix_of_a_file_and_no_bad_byte_ends_in_a_panic() {
        let parse_bytes = |bytes: &[u8]| parse(bytes, "mcp.json", Path::new(""), &Config::default());
        for end in 0..GOOD.len() {
            assert!(parse_bytes(&GOOD.as_bytes()[..end]).is_err());
        }
        for at in 0..GOOD.len() {
            for byte in [0x00, b'"', b'{', b',', 0xff] {
                let mut bytes = GOOD.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = parse_bytes(&bytes);
            }
        }
    }
}
