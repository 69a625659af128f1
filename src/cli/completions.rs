//! `mcpgate completions`: a script that teaches a shell our commands.

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{cli::Cli, error::Error};

/// Writes the script for `shell` to `out`.
pub fn run(shell: Shell, out: &mut dyn Write) -> Result<(), Error> {
    // Made in memory first, because the generator panics when its output cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mcpgate", &mut script);
    out.write_all(&script).and_then(|()| out.flush()).map_err(|cause| Error::Failed {
        what: format!("cannot write the completion script: {cause}"),
        hint: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_with_our_commands() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            run(*shell, &mut script).expect("memory takes text");
            let script = String::from_utf8(script).expect("a script is text");
            assert!(script.contains("completions") && script.contains("revoke"), "{shell}");
        }
    }
}
