//! The whole life of the program: settings, start, wait for a signal, drain, exit code.

use std::{
    env, io,
    process::{self, ExitCode},
    sync::Arc,
    time::SystemTime,
};

use clap::Parser as _;
use crossbeam_channel::{Receiver, bounded};
use mcpgate::{
    access::Access,
    api::{Api, mcp::Janitor},
    cli::{self, Cli, CommandLine},
    config::{Config, Flags, Loaded},
    descriptors,
    error::Error,
    http::{Bound, Server, tls::Certificates},
    journeys,
    logs::{self, access::AccessLog},
    systemd::ServiceManager,
};

/// Exit code of a program that was interrupted twice and did not wait for running calls.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    match run(Cli::parse().command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command_line: CommandLine) -> Result<(), Error> {
    let env = |key: &str| env::var_os(key);
    let mut out = io::stdout();
    match command_line {
        CommandLine::Serve(args) => serve(&args.flags()),
        CommandLine::Check(args) => cli::check::run(&args.flags(), env, &mut out),
        CommandLine::Call(args) => cli::call::run(&args, env, &mut out),
        CommandLine::Journeys(args) => journeys::serve_stdio(&Config::read(&args.flags(), env)?.0.data_dir),
        CommandLine::Key(args) => cli::key::run(&args.command, env, SystemTime::now(), &mut out, &mut io::stderr()),
        CommandLine::Tls(args) => cli::tls::run(&args.command, SystemTime::now(), &mut out, &mut io::stderr()),
        CommandLine::Completions { shell } => cli::completions::run(shell, &mut out),
        CommandLine::Man => cli::man::run(&mut out),
    }
}

fn serve(flags: &Flags) -> Result<(), Error> {
    let Loaded { mut config, servers, file, warnings } = Config::load(flags, |key| env::var_os(key))?;
    if let [only] = &servers[..] {
        // With several, the others are served and `/health` tells of this one.
        only.resolve_program()?;
    }
    let access = Access::new(&config)?;
    let certificates = Certificates::new(&config)?;
    let bound = Bound::new(&config)?;
    let shortage = descriptors::make_room(&mut config, &servers)?;
    logs::start(&config)?;
    let access_log = AccessLog::open(&config)?;
    log::info!(
        "mcpgate {} with {}",
        env!("CARGO_PKG_VERSION"),
        file.map_or("defaults".into(), |it| it.display().to_string())
    );
    let about_tls = certificates.as_ref().map(|it| it.findings(SystemTime::now())).transpose()?;
    let tls_warnings = about_tls.iter().flat_map(|it| &it.warnings);
    warnings.iter().chain(&shortage).chain(tls_warnings).for_each(|warning| log::warn!("{warning}"));

    let manager = ServiceManager::from_env(|key| env::var_os(key));
    let signals = signals()?;
    let config = Arc::new(config);
    let api = Arc::new(Api::start(Arc::clone(&config), &servers, access)?);
    let janitor = Janitor::start(&api)?;
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let mut server = Server::start(bound, Arc::clone(&api), Arc::clone(&config), certificates, access_log)?;
    log::info!("listening on {scheme}://{}", server.address());

    manager.ready(server.address());
    manager.watch_until(&signals, server.address());
    manager.stopping();
    log::info!("stopping: calls in flight have {} to end", mcpgate::error::Seconds(config.drain_timeout));
    let n_cut_off = server.drain(config.drain_timeout);
    if 0 < n_cut_off {
        log::warn!("{n_cut_off} connections were cut off in mid-request");
    }
    drop(janitor);
    api.stop();
    log::info!("stopped");
    Ok(())
}

/// Where the first SIGINT, SIGTERM or SIGHUP is told; the second ends the process at once.
fn signals() -> Result<Receiver<()>, Error> {
    let (tell, told) = bounded(1);
    let mut is_second = false;
    ctrlc::set_handler(move || {
        if is_second {
            process::exit(EXIT_INTERRUPTED);
        }
        is_second = true;
        // There is room: it is sent once.
        let _ = tell.try_send(());
    })
    .map_err(|cause| Error::Failed { what: format!("cannot handle signals: {cause}"), hint: String::new() })?;
    Ok(told)
}

#[allow(clippy::print_stderr, reason = "this is where errors go when there is no log")]
fn complain(error: &Error) {
    eprintln!("error: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}
