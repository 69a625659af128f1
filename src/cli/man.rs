//! `mcpgate man`: the manual page, made of the command line's own help, the table of settings, the exit codes and the signals.

use std::io::Write;

use clap::CommandFactory as _;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{cli::Cli, config::settings::SETTINGS, error::Error};

/// What each exit code means.
const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "Success."),
    ("1", "Something failed; it is told on standard error, with a hint."),
    ("2", "The command line or the settings are wrong, or the only server's program does not exist."),
    ("130", "Interrupted; a gateway, twice, and running calls were not waited for."),
];

const SIGNALS: [(&str, &str); 2] = [
    ("SIGINT, SIGTERM", "Stop: running calls may end. A second one stops at once."),
    ("SIGHUP", "Read settings and servers again; stop, when the terminal is gone that the gateway was started from."),
];

const FILES: [(&str, &str); 2] = [
    ("./gateway.conf", "Settings, unless --config names another file."),
    ("/etc/mcpgate/gateway.conf", "Settings, when there is no ./gateway.conf."),
];

/// Writes the page to `out`, as troff for `man`.
pub fn run(out: &mut dyn Write) -> Result<(), Error> {
    // Made in memory, which has no way to fail.
    let mut page = Vec::new();
    let made = write_page(&mut page).and_then(|()| out.write_all(&page)).and_then(|()| out.flush());
    made.map_err(|cause| Error::Failed { what: format!("cannot write the manual page: {cause}"), hint: String::new() })
}

fn write_page(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = Cli::command().after_help("").after_long_help("");
    // Without it arguments do not know yet what they take.
    command.build();
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;

    let mut commands = Roff::new();
    commands.control("SH", ["COMMANDS"]);
    commands.to_writer(page)?;
    for subcommand in command.get_subcommands().filter(|it| it.get_name() != "help") {
        let mut heading = Roff::new();
        heading.control("SS", [subcommand.get_name()]);
        heading.text([roman(subcommand.get_about().map(ToString::to_string).unwrap_or_default())]);
        heading.to_writer(page)?;
        let has_own = |it: &&clap::Arg| !it.is_hide_set() && it.get_id() != "help";
        for argument in subcommand.get_arguments().filter(has_own) {
            let about = argument.get_help().map(ToString::to_string).unwrap_or_default();
            entry(&argument.to_string(), &about).to_writer(page)?;
        }
        for nested in subcommand.get_subcommands().filter(|it| it.get_name() != "help") {
            let about = nested.get_about().map(ToString::to_string).unwrap_or_default();
            entry(&format!("{} {}", subcommand.get_name(), nested.get_name()), &about).to_writer(page)?;
        }
    }

    section("SETTINGS").to_writer(page)?;
    let mut how = Roff::new();
    how.text([roman(
        "Each has one name everywhere: in the environment, and in the file with settings, where the environment counts \
         first. Times are in seconds, sizes in bytes (16k, 4M).",
    )]);
    how.to_writer(page)?;
    for setting in SETTINGS {
        let default = match setting.default {
            "" => String::new(),
            default => format!(" Default: {default}."),
        };
        entry(&format!("{}={}", setting.key, setting.value), &format!("{}{default}", setting.help_text()))
            .to_writer(page)?;
    }
    section("EXIT STATUS").to_writer(page)?;
    for (code, meaning) in EXIT_CODES {
        entry(code, meaning).to_writer(page)?;
    }
    section("SIGNALS").to_writer(page)?;
    for (signal, meaning) in SIGNALS {
        entry(signal, meaning).to_writer(page)?;
    }
    section("FILES").to_writer(page)?;
    for (path, meaning) in FILES {
        entry(path, meaning).to_writer(page)?;
    }
    Ok(())
}

fn section(name: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [name]);
    roff
}

fn entry(name: &str, meaning: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(meaning)]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_and_every_setting() {
        let mut page = Vec::new();
        run(&mut page).expect("memory takes text");
        let page = String::from_utf8(page).expect("a page is text").replace("\\-", "-");
        for command in Cli::command().get_subcommands() {
            assert!(page.contains(&format!(".SS {}", command.get_name())), "{}", command.get_name());
        }
        for setting in SETTINGS {
            assert!(page.contains(&format!("{}={}", setting.key, setting.value)), "{}", setting.key);
        }
        for name in ["NAME", "SYNOPSIS", "COMMANDS", "SETTINGS", "\"EXIT STATUS\"", "SIGNALS", "FILES"] {
            assert!(page.contains(&format!(".SH {name}")), "{name}");
        }
    }
}
