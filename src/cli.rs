//! The command line: which commands there are, and what each takes.
//!
//! This file only parses. [`key`], [`completions`] and [`man`] carry out their commands; the others belong to `main.rs`.
//! Nothing is accepted that has no effect. A usage error ends the process with exit code 2, as clap has it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Flags, settings};

pub mod call;
pub mod check;
mod client;
pub mod completions;
mod interrupts;
pub mod key;
pub mod man;
mod terminal;
#[cfg(feature = "tls")]
pub mod tls;
pub mod top;
#[cfg(feature = "tls")]
mod trust;
#[cfg(not(feature = "tls"))]
#[path = "left_out/trust.rs"]
mod trust;

/// Puts stdio MCP servers on the network: a pool of warm subprocesses behind one port.
#[derive(Debug, Parser)]
#[command(name = "mcpgate", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "`mcpgate --help` also lists the settings", after_long_help = settings::help_table())]
pub struct Cli {
    #[command(subcommand)]
    command_line: Option<CommandLine>,
    #[command(flatten)]
    serve: RunArgs,
}

impl Cli {
    /// The command; `serve` when none is named.
    pub fn command_line(self) -> CommandLine {
        self.command_line.unwrap_or(CommandLine::Serve(self.serve))
    }
}

/// What to do, and with what.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum CommandLine {
    /// Run the gateway (also without a command).
    Serve(RunArgs),
    /// Look at everything that `serve` would use, settings, files, port, keys, certificates and servers, say what is wrong and what to do, and stop.
    Check(CheckArgs),
    /// Call one tool and print its answer as one line of JSON; on a terminal show its progress meanwhile.
    Call(CallArgs),
    /// Show workers, queues and calls of a running gateway live in the terminal.
    Top(TopArgs),
    /// Run the bundled MCP server on standard input and output.
    Journeys(JourneysArgs),
    /// Make, list and revoke keys.
    Key(KeyArgs),
    /// Make certificates.
    #[cfg(feature = "tls")]
    Tls(TlsArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell it is for.
        shell: Shell,
    },
    /// Print the manual page, to be read with `man -l -`.
    Man,
}

/// What a gateway that is to run can be told.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// Restart the workers of a server when its program, or a file in its folder, changes.
    #[arg(long)]
    pub reload: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub serve: ServeArgs,
}

/// What `check` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// Print what was found as one JSON object, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub serve: ServeArgs,
}

/// What a gateway can be told on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ServeArgs {
    /// Host name or address to listen on, in place of the one in LISTEN.
    #[arg(long)]
    pub host: Option<String>,
    /// Port to listen on, in place of the one in LISTEN; 0 lets the system choose.
    #[arg(long)]
    pub port: Option<u16>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub config: ConfigArg,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub servers: ServersArgs,
}

/// Which file holds the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ConfigArg {
    /// File with settings, in place of ./gateway.conf and /etc/mcpgate/gateway.conf.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which servers to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ServersArgs {
    /// JSON file with MCP servers (`mcpServers`), in place of MCP_SERVERS.
    #[arg(long, value_name = "FILE", conflicts_with = "server_command")]
    pub servers: Option<PathBuf>,
    /// Command that runs the MCP server, in place of MCP_COMMAND.
    #[arg(last = true, value_name = "COMMAND")]
    pub server_command: Vec<String>,
}

/// What `call` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CallArgs {
    /// Name of the tool.
    pub tool: String,
    /// Its arguments, one JSON object.
    #[arg(value_name = "JSON", default_value = "{}", hide_default_value = true)]
    pub arguments: String,
    /// Run the server for this one call, without a gateway.
    #[arg(long, conflicts_with_all = ["url", "cacert", "cert"])]
    pub direct: bool,
    /// Address of the gateway, in place of the one in LISTEN, as in http://127.0.0.1:8000 or https://NAME.
    #[arg(long)]
    pub url: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub trust: TrustArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub config: ConfigArg,
}

/// What `top` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TopArgs {
    /// Address of the gateway, in place of the one in LISTEN, as in http://127.0.0.1:8000 or https://NAME.
    pub url: Option<String>,
    /// Print how things are now and stop, as it does where the output is no terminal.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub trust: TrustArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub config: ConfigArg,
}

/// How `call` and `top` speak TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TrustArgs {
    /// PEM file with authorities to trust, in place of the system's; the certificate in TLS_CERT is trusted anyway.
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// PEM file with a certificate to show, for a gateway that asks for one.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate, when it is not in the same file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,
}

/// What `journeys` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct JourneysArgs {
    /// Folder of its data, in place of DATA_DIR.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// What `key` takes.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct KeyArgs {
    /// What to do with keys.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it; only its hash is kept, so it is shown this once.
    New {
        /// Who gets the key.
        name: String,
        /// Tools it may call, with `*` and `?` for any letters, separated by commas; every tool when absent.
        #[arg(long, value_name = "GLOB,...", value_delimiter = ',')]
        tools: Option<Vec<String>>,
        /// Calls a second; as RATE_LIMIT says when absent.
        #[arg(long, value_name = "N")]
        rate: Option<f64>,
        /// Calls at a time; as many as come when absent.
        #[arg(long, value_name = "N")]
        concurrent: Option<u32>,
        /// Time until it is refused, such as 30d, 12h or 90m; never when absent.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "a comment here would end up in the help")]
        file: KeyFileArgs,
    },
    /// List the keys: name, tools, limits, and when they expire.
    List {
        #[command(flatten)]
        #[allow(missing_docs, reason = "a comment here would end up in the help")]
        file: KeyFileArgs,
    },
    /// Take a key away.
    Revoke {
        /// Who had the key.
        name: String,
        #[command(flatten)]
        #[allow(missing_docs, reason = "a comment here would end up in the help")]
        file: KeyFileArgs,
    },
}

/// What `tls` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TlsArgs {
    /// What to make.
    #[command(subcommand)]
    pub command: TlsCommand,
}

/// What to make for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TlsCommand {
    /// Make a certificate that no authority stands for, and its key: cert.pem and key.pem.
    SelfSigned {
        /// Folder they are written to, in place of the current one.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Names and addresses it is for; localhost, 127.0.0.1, ::1 and this machine's name when absent.
        #[arg(value_name = "HOST")]
        hosts: Vec<String>,
    },
}

/// Which file holds the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct KeyFileArgs {
    /// File of keys, in place of API_KEYS_FILE.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would end up in the help")]
    pub config: ConfigArg,
}

impl ServeArgs {
    /// As the loader of settings takes them.
    pub fn flags(&self) -> Flags {
        Flags {
            config: self.config.config.clone(),
            host: self.host.clone(),
            port: self.port,
            servers: self.servers.servers.clone(),
            command: self.servers.server_command.clone(),
            data_dir: None,
        }
    }
}

impl ConfigArg {
    /// As the loader of settings takes them.
    pub fn flags(&self) -> Flags {
        Flags { config: self.config.clone(), ..Flags::default() }
    }
}

impl JourneysArgs {
    /// As the loader of settings takes them.
    pub fn flags(&self) -> Flags {
        Flags { data_dir: self.data_dir.clone(), ..Flags::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::settings::SETTINGS;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(Cli::command_line)
    }

    #[track_caller]
    fn check_flags(line: &str, flags: Flags) {
        let parsed = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let CommandLine::Serve(serve) = parsed else { panic!("{line} is not `serve`") };
        assert_eq!(serve.serve.flags(), flags, "{line}");
    }

    #[track_caller]
    fn check_refused(line: &str) {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        check_flags("mcpgate", Flags::default());
        check_flags("mcpgate serve", Flags::default());
        let flags =
            Flags { config: Some("a.conf".into()), host: Some("::1".to_owned()), port: Some(9000), ..Flags::default() };
        check_flags("mcpgate --host ::1 --port 9000 --config a.conf", flags.clone());
        check_flags("mcpgate serve --host ::1 --port 9000 --config a.conf", flags);
    }

    #[test]
    fn reload_is_for_a_gateway_that_runs() {
        for line in ["mcpgate --reload", "mcpgate serve --reload -- uvx x"] {
            let Ok(CommandLine::Serve(run)) = parse(line) else { panic!("{line}") };
            assert!(run.reload, "{line}");
        }
        let Ok(CommandLine::Serve(run)) = parse("mcpgate -- x --reload") else { panic!("it is the server's") };
        assert!(!run.reload);
    }

    #[test]
    fn what_follows_two_dashes_is_the_server() {
        let command: Vec<_> = ["npx", "-y", "some-server", "--port", "1"].map(str::to_owned).to_vec();
        let flags = Flags { command, ..Flags::default() };
        check_flags("mcpgate -- npx -y some-server --port 1", flags.clone());
        check_flags("mcpgate serve -- npx -y some-server --port 1", flags.clone());
        check_flags("mcpgate --port 2 -- npx -y some-server --port 1", Flags { port: Some(2), ..flags });
        check_flags("mcpgate -- check", Flags { command: vec!["check".to_owned()], ..Flags::default() });
    }

    #[test]
    fn check_takes_what_serve_takes() {
        let parsed = parse("mcpgate check --servers mcp.json").expect("it parses");
        let CommandLine::Check(check) = parsed else { panic!("not `check`") };
        assert!(!check.json);
        assert_eq!(check.serve.flags(), Flags { servers: Some("mcp.json".into()), ..Flags::default() });
    }

    #[test]
    fn call_takes_a_tool_and_its_arguments() {
        let parsed = parse("mcpgate call echo {\"a\":1} --url http://box:8000").expect("it parses");
        let CommandLine::Call(call) = parsed else { panic!("not `call`") };
        assert_eq!((call.tool.as_str(), call.arguments.as_str(), call.direct), ("echo", "{\"a\":1}", false));
        assert_eq!(call.url.as_deref(), Some("http://box:8000"));

        let Ok(CommandLine::Call(call)) = parse("mcpgate call echo --direct") else { panic!("not `call`") };
        assert_eq!((call.arguments.as_str(), call.direct), ("{}", true));
    }

    #[test]
    fn top_takes_an_address() {
        let Ok(CommandLine::Top(top)) = parse("mcpgate top https://box --once --cacert ca.pem") else {
            panic!("not `top`")
        };
        assert_eq!(
            (top.url.as_deref(), top.once, top.trust.cacert),
            (Some("https://box"), true, Some("ca.pem".into()))
        );
    }

    #[test]
    fn key_takes_a_command_and_a_file() {
        let parsed = parse("mcpgate key new ci --tools a_*,b --expires 30d --file keys.json").expect("it parses");
        let CommandLine::Key(KeyArgs { command: KeyCommand::New { name, tools, expires, file, .. } }) = parsed else {
            panic!("not `key new`")
        };
        assert_eq!((name.as_str(), expires.as_deref()), ("ci", Some("30d")));
        assert_eq!(tools, Some(vec!["a_*".to_owned(), "b".to_owned()]));
        assert_eq!(file.file, Some("keys.json".into()));
        assert!(matches!(parse("mcpgate key list"), Ok(CommandLine::Key(_))));
        assert!(matches!(parse("mcpgate key revoke ci --file keys.json"), Ok(CommandLine::Key(_))));
    }

    #[test]
    fn a_certificate_is_made_for_names() {
        let parsed = parse("mcpgate tls self-signed --out etc box.local 10.0.0.7").expect("it parses");
        let CommandLine::Tls(TlsArgs { command: TlsCommand::SelfSigned { out, hosts } }) = parsed else {
            panic!("not `tls self-signed`")
        };
        assert_eq!((out, hosts), (Some("etc".into()), vec!["box.local".to_owned(), "10.0.0.7".to_owned()]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "mcpgate check --reload",
            "mcpgate npx",
            "mcpgate --port 65536",
            "mcpgate --port http",
            "mcpgate --servers mcp.json -- npx",
            "mcpgate --port 1 check",
            "mcpgate call",
            "mcpgate call echo {} --direct --url http://box",
            "mcpgate call echo {} --cert-key key.pem",
            "mcpgate key",
            "mcpgate key new",
            "mcpgate key list --file keys.json --config a.conf",
            "mcpgate tls",
            "mcpgate completions dos",
            "mcpgate top http://a http://b",
            "mcpgate call echo {} --direct --cacert ca.pem",
        ] {
            check_refused(line);
        }
    }

    #[test]
    fn the_commands_for_those_who_come_from_elsewhere_are_understood() {
        let guide = include_str!("../docs/coming-from.md");
        let is_setting = |word: &String| {
            word.split_once('=').is_some_and(|(key, _)| SETTINGS.iter().any(|setting| setting.key == key))
        };
        let mut n_commands = 0;
        for line in guide.lines() {
            let words = shlex::split(line).unwrap_or_default();
            let command = words.iter().skip_while(|word| is_setting(word));
            if command.clone().next().is_some_and(|program| program == "mcpgate") {
                assert!(Cli::try_parse_from(command).is_ok(), "{line}");
                n_commands += 1;
            }
        }
        assert_eq!(n_commands, 4);
    }

    #[test]
    fn every_setting_named_to_those_who_come_from_elsewhere_exists() {
        let guide = include_str!("../docs/coming-from.md");
        let is_key = |word: &&str| 2 < word.len() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let named: Vec<&str> = guide.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').collect();
        let settings = named.into_iter().filter(is_key).filter(|word| word.contains('_') || *word == "LISTEN");
        for key in settings {
            assert!(SETTINGS.iter().any(|setting| setting.key == key), "{key}");
        }
    }

    #[test]
    fn the_help_ends_with_every_setting() {
        let help = Cli::command().render_long_help().to_string();
        for setting in SETTINGS {
            let row = format!("{}={}", setting.key, setting.value);
            assert!(help.contains(&row) && help.contains(&setting.help_text()), "{}", setting.key);
        }
        let last = SETTINGS.last().expect("there are settings");
        assert!(help.trim_end().ends_with(&last.help_text()), "{help}");
    }
}
