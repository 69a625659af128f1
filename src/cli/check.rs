//! `mcpgate check`: settings and servers tried as `serve` would use them, and what was found, line by line.

use std::{
    ffi::OsString,
    io::Write,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    access::Access,
    config::{Config, Flags, Live, Loaded, ServerSpec},
    error::Error,
    http::{Bound, tls::Certificates},
    pool::{Nobody, Servers},
    worker::mailbox::Mailbox,
};

/// Tries everything and prints one line for each finding to `out`. Fails with the number of findings that would keep the
/// gateway from serving; a setting that cannot be read is an error of its own.
pub fn run(flags: &Flags, env: impl Fn(&str) -> Option<OsString>, out: &mut dyn Write) -> Result<(), Error> {
    let Loaded { config, servers, file, warnings, .. } = Config::load(flags, env)?;
    let mut report = Report { out, n_bad: 0 };
    let origin = file.map_or("no gateway.conf, so defaults".to_owned(), |file| file.display().to_string());
    report.good(&format!("settings: {origin}"))?;
    for warning in warnings {
        report.line("warn", &warning, None)?;
    }
    match Access::new(&config) {
        Ok(_) => report.good("keys")?,
        Err(error) => report.bad("keys", &error)?,
    }
    match Certificates::new(&config).and_then(|it| it.map(|it| it.findings(SystemTime::now())).transpose()) {
        Ok(None) => {}
        Ok(Some(findings)) => {
            report.good(&format!("TLS: {}", findings.about))?;
            for warning in findings.warnings {
                report.line("warn", &warning, None)?;
            }
        }
        Err(error) => report.bad("TLS", &error)?,
    }
    match Bound::new(&config) {
        Ok(_) => report.good(&format!("address: {} is free", config.listen))?,
        Err(error) => report.bad("address", &error)?,
    }
    let config = Live::new(config);
    for spec in servers {
        try_server(&spec, &config, &mut report)?;
    }
    match report.n_bad {
        0 => Ok(()),
        n_bad => Err(Error::Failed { what: format!("{n_bad} found that must be mended"), hint: String::new() }),
    }
}

/// Starts one worker of a server and asks it for its tools.
fn try_server(spec: &ServerSpec, config: &Live, report: &mut Report<'_>) -> Result<(), Error> {
    let what = format!("server `{}`", spec.name);
    if let Err(error) = spec.resolve_program() {
        return report.bad(&what, &error);
    }
    let started_at = Instant::now();
    let one = ServerSpec { min_workers: 1, ..spec.clone() };
    let servers = Servers::start(&[one], config, Arc::new(Nobody))?;
    let deadline = started_at + config.now().request_timeout + Duration::from_secs(1);
    let nobody = Mailbox::default();
    for pool in servers.now().pools() {
        match pool.catalog_by(deadline, &nobody, usize::MAX) {
            Ok(catalog) => {
                let info = pool.workers().into_iter().find_map(|worker| worker.info);
                let about = info
                    .map_or(String::new(), |info| format!(", {} {}, MCP {}", info.name, info.version, info.revision));
                let ms = started_at.elapsed().as_millis();
                report.good(&format!("{what}: ready after {ms} ms, {} tools{about}", catalog.tools().len()))?;
            }
            Err(error) => report.bad(&what, &error)?,
        }
    }
    Ok(())
}

struct Report<'a> {
    out: &'a mut dyn Write,
    n_bad: usize,
}

impl Report<'_> {
    fn good(&mut self, what: &str) -> Result<(), Error> {
        self.line("ok", what, None)
    }

    fn bad(&mut self, what: &str, error: &Error) -> Result<(), Error> {
        self.n_bad += 1;
        self.line("bad", &format!("{what}: {error}"), error.hint())
    }

    fn line(&mut self, verdict: &str, what: &str, hint: Option<String>) -> Result<(), Error> {
        let hint = hint.map_or(String::new(), |hint| format!("\n      hint: {hint}"));
        writeln!(self.out, "{verdict:<5} {what}{hint}")
            .map_err(|cause| Error::Failed { what: format!("cannot print the report: {cause}"), hint: String::new() })
    }
}
