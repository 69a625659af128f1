//! The whole life of the program: settings, start, wait for a signal, drain, exit code.

use std::{
    env,
    io::{self, IsTerminal as _},
    process::{self, ExitCode},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use clap::Parser as _;
use crossbeam_channel::{Receiver, bounded};
use mcpgate::{
    access::Access,
    api::{Api, mcp::Janitor},
    cli::{self, Cli, CommandLine},
    config::{Config, Flags, Live, Loaded},
    descriptors,
    error::Error,
    http::{Bound, Server, tls::Certificates},
    journeys,
    logs::{self, access::AccessLog},
    reload::{Origin, Poke, Reloader},
    systemd::ServiceManager,
    threads,
};
use signal_hook::{
    consts::{SIGHUP, SIGTERM},
    iterator::Signals,
};

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
    let out_is_terminal = out.is_terminal();
    match command_line {
        CommandLine::Serve(args) => serve(args.serve.flags(), args.reload),
        CommandLine::Check(args) => cli::check::run(&args, env, &mut out, logs::wants_colour(out_is_terminal)),
        CommandLine::Call(args) => cli::call::run(&args, env, &mut out),
        CommandLine::Top(args) => cli::top::run(&args, env, &mut out),
        CommandLine::Journeys(args) => journeys::serve_stdio(&Config::read(&args.flags(), env)?.0.data_dir),
        CommandLine::Key(args) => cli::key::run(&args.command, env, SystemTime::now(), &mut out, &mut io::stderr()),
        #[cfg(feature = "tls")]
        CommandLine::Tls(args) => cli::tls::run(&args.command, SystemTime::now(), &mut out, &mut io::stderr()),
        CommandLine::Completions { shell } => cli::completions::run(shell, &mut out),
        CommandLine::Man => cli::man::run(&mut out),
    }
}

fn serve(flags: Flags, follows_programs: bool) -> Result<(), Error> {
    let Loaded { mut config, servers, file, warnings, texts } = Config::load(&flags, |key| env::var_os(key))?;
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
        file.as_ref().map_or("defaults".into(), |it| it.display().to_string())
    );
    let warnings: Vec<String> = warnings.into_iter().chain(shortage).collect();
    let about_tls = certificates.as_ref().map(|it| it.findings(SystemTime::now())).transpose()?;
    let tls_warnings = about_tls.iter().flat_map(|it| &it.warnings);
    warnings.iter().chain(tls_warnings).for_each(|warning| log::warn!("{warning}"));

    let manager = ServiceManager::from_env(|key| env::var_os(key));
    let reload: Arc<OnceLock<Poke>> = Arc::default();
    let signals = signals(&reload)?;
    let live = Live::new(config.clone());
    let api = Arc::new(Api::start(live.clone(), &servers, access)?);
    let janitor = Janitor::start(&api)?;
    let reloader =
        Reloader::start(Arc::clone(&api), Origin { flags, file, texts, warnings, follows_programs }, config)?;
    // The only one that sets it.
    let _ = reload.set(reloader.poke());
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let mut server = Server::start(bound, Arc::clone(&api), live.clone(), certificates, access_log)?;
    log::info!("listening on {scheme}://{}", server.address());

    manager.ready(server.address());
    manager.watch_until(&signals, server.address());
    manager.stopping();
    drop(reloader);
    let drain_timeout = live.now().drain_timeout;
    log::info!("stopping: calls in flight have {} to end", mcpgate::error::Seconds(drain_timeout));
    let n_cut_off = server.drain(drain_timeout);
    if 0 < n_cut_off {
        log::warn!("{n_cut_off} connections were cut off in mid-request");
    }
    drop(janitor);
    api.stop();
    log::info!("stopped");
    Ok(())
}

/// Where the first SIGINT or SIGTERM is told; the second ends the process at once. SIGHUP has everything read again, unless it says
/// that the terminal is gone from which the gateway was started.
fn signals(reload: &Arc<OnceLock<Poke>>) -> Result<Receiver<()>, Error> {
    let fail = |cause: String| Error::Failed { what: format!("cannot handle signals: {cause}"), hint: String::new() };
    let (tell, told) = bounded(1);
    let tell = Mutex::new(Some(tell));
    let stop = Arc::new(move || match tell.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // There is room: it is sent once.
        Some(tell) => drop(tell.try_send(())),
        // Running calls are not waited for.
        None => process::exit(Error::Interrupted.exit_code().into()),
    });
    let interrupted = Arc::clone(&stop);
    ctrlc::set_handler(move || interrupted()).map_err(|cause| fail(cause.to_string()))?;
    let mut signals = Signals::new([SIGTERM, SIGHUP]).map_err(|cause| fail(cause.to_string()))?;
    let has_terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
    let reload = Arc::clone(reload);
    let body = move || {
        for signal in signals.forever() {
            if signal == SIGHUP && !has_terminal {
                reload.get().into_iter().for_each(Poke::poke);
            } else {
                stop();
            }
        }
    };
    threads::spawn_detached("signals", body).map_err(|cause| fail(cause.to_string()))?;
    Ok(told)
}

#[allow(clippy::print_stderr, reason = "this is where errors go when there is no log")]
fn complain(error: &Error) {
    eprintln!("error: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}
