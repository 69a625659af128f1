//! What the gateway writes about itself: the log, and for those who want it a line for each request ([`access`]).
//!
//! The log goes to stderr, or to the file of `LOG_FILE`: time (UTC), level, message, as simplelog writes them, coloured only
//! where a terminal shows them; or each line as a JSON object (`json.rs`). `TRACE` shows every message of every worker, unredacted.
//! Files may be moved away under it (`file.rs`).

use std::{
    env,
    io::{self, IsTerminal as _, LineWriter, Write},
    time::Duration,
};

use simplelog::{
    ColorChoice, Config as LogConfig, ConfigBuilder, LevelFilter, SharedLogger as _, TermLogger, TerminalMode,
    WriteLogger,
};

use crate::{
    config::{Config, LogFormat},
    error::Error,
};

pub mod access;
mod file;
mod json;

use file::LogFile;
use json::JsonLog;

/// Where lines go. Each is written whole, so that several may share a place.
type Sink = Box<dyn Write + Send>;

/// Starts the log. Fails when `LOG_FILE` cannot be written. Called once, before anything is logged.
pub fn start(config: &Config) -> Result<(), Error> {
    let sink = match &config.log_file {
        Some(path) => Some(LogFile::open("LOG_FILE", path)?),
        None => None,
    };
    // These would not take another level later, so the one in front of them decides.
    let level = LevelFilter::Trace;
    let log: Box<dyn log::Log> = match (config.log_format, sink) {
        (LogFormat::Json, file) => Box::new(JsonLog::new(file.unwrap_or_else(stderr))),
        (LogFormat::Text, Some(file)) => WriteLogger::new(level, format(), file).as_log(),
        (LogFormat::Text, None) if wants_colour(io::stderr().is_terminal()) => {
            TermLogger::new(level, format(), TerminalMode::Stderr, ColorChoice::Always).as_log()
        }
        (LogFormat::Text, None) => WriteLogger::new(level, format(), stderr()).as_log(),
    };
    // Fails only when a log was started before, and then that one goes on.
    if log::set_boxed_logger(log).is_ok() {
        set_level(config);
    }
    Ok(())
}

/// Logs as much as `config` says from now on.
pub fn set_level(config: &Config) {
    log::set_max_level(config.log_level);
}

/// A duration in milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a request stay far below 2^53")]
    let micros = duration.as_micros() as f64;
    micros / 1000.0
}

fn stderr() -> Sink {
    Box::new(LineWriter::new(io::stderr()))
}

/// Whether what is written may be coloured: a terminal shows it, and whoever sits there has not asked for no colours (no-color.org).
pub fn wants_colour(is_terminal: bool) -> bool {
    let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !is_unwanted && !is_dumb
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
