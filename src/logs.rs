//! Where log lines go: stderr, or the file of `LOG_FILE`.
//!
//! One line each: time (UTC), level, message. `TRACE` shows every message of every worker, unredacted.

use std::{fs::File, io};

use simplelog::{Config as LogConfig, ConfigBuilder, LevelFilter, WriteLogger};

use crate::{config::Config, error::Error};

/// Starts the log. Fails when `LOG_FILE` cannot be written. Called once, before anything is logged.
pub fn start(config: &Config) -> Result<(), Error> {
    match &config.log_file {
        None => init(config, io::stderr()),
        Some(path) => {
            let file = File::options().append(true).create(true).open(path).map_err(|cause| Error::Settings {
                what: format!("`LOG_FILE`: cannot write `{}`: {cause}", path.display()),
                hint: "name a file in a folder that exists and may be written to".to_owned(),
            })?;
            init(config, file)
        }
    }
    Ok(())
}

fn init(config: &Config, target: impl io::Write + Send + 'static) {
    // Fails only when a log was started before, and then that one goes on.
    let _ = WriteLogger::init(config.log_level, format(), target);
}

fn format() -> LogConfig {
    let mut format = ConfigBuilder::new();
    format
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off);
    format.build()
}
