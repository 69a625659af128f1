//! Reads settings and servers again when their files change, and has servers restarted when their programs do.
//!
//! A reload is checked first and refused whole when something is wrong: one line says what, and everything goes on as it was. What is right is
//! applied at once, but for the settings that only a restart can change, which are named. Servers are changed one by one
//! ([`Servers::change`](crate::pool::Servers::change)): calls and streams that run end by themselves.
//!
//! Keys are read again by whoever looks for one ([`crate::access`]).
//!
//! **Limit.** One reload at a time; a newer change ends the wait for workers that are not ready yet.
//! **End.** Dropping [`Reloader`].

use std::{
    env,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    api::Api,
    config::{AccessLog, Config, Flags, Loaded, ServerSpec, Texts, settings::Setting},
    descriptors,
    error::Error,
    logs,
    threads::{self, Joined},
};

mod programs;
mod watch;

pub use watch::Poke;

use programs::Programs;
use watch::{News, Watch};

/// How long nothing may change before what has changed is read.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// How long that is waited for.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Reloader {
    poke: Poke,
    // Joined after `drop` has told it to end.
    _thread: Joined,
}

/// Where a gateway comes from, and so what is looked at again.
#[derive(Debug)]
pub struct Origin {
    /// What the command line said.
    pub flags: Flags,
    /// The `gateway.conf` that was read, if there was one.
    pub file: Option<PathBuf>,
    /// The settings as they were written.
    pub texts: Texts,
    /// What the operator was told of them.
    pub warnings: Vec<String>,
    /// Whether servers are restarted when their programs change (`--reload`).
    pub follows_programs: bool,
}

impl Reloader {
    /// Watches from now on, with the settings that `origin` and `config` tell of.
    pub fn start(api: Arc<Api>, origin: Origin, config: Config) -> Result<Reloader, Error> {
        let fail = |what: &str, cause: String| Error::Failed { what: format!("{what}: {cause}"), hint: String::new() };
        let (watch, poke) = Watch::new().map_err(|cause| fail("cannot watch files", cause.to_string()))?;
        let programs = origin.follows_programs.then(Programs::default);
        let seen = origin.texts.clone();
        let mut reload = Reload { api, origin, seen, config, programs, watch, complaint: String::new() };
        // Before the thread, so that nothing that changes from now on is missed.
        reload.watch_again();
        let thread = threads::spawn("reload", move || reload.run())
            .map_err(|cause| fail("cannot start a thread", cause.to_string()))?;
        Ok(Reloader { poke, _thread: thread })
    }

    /// Has everything read again when it is poked.
    pub fn poke(&self) -> Poke {
        self.poke.clone()
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.poke.stop();
    }
}

/// What the thread goes by.
struct Reload {
    api: Arc<Api>,
    /// Its `texts` are those in force.
    origin: Origin,
    /// The settings as they were last read.
    seen: Texts,
    /// The settings in force.
    config: Config,
    programs: Option<Programs>,
    watch: Watch,
    /// What was last complained about.
    complaint: String,
}

/// What a reload has come to.
enum Done {
    Nothing,
    /// Something was changed, in words; and what could not be.
    Applied {
        what: String,
        failed: Vec<String>,
        needs_restart: Vec<&'static str>,
    },
    /// Something has changed meanwhile.
    Again,
}

impl Reload {
    fn run(&mut self) {
        // What has changed between the start and the watch was not seen.
        let mut must_look = true;
        loop {
            let Some(news) = self.next_news(must_look) else { return };
            let is_config = must_look || news.is_poked || news.files.iter().any(|file| self.watch.is_config(file));
            // Before anything is read, so that what changes after that is seen.
            self.watch_again();
            must_look = is_config && self.reload(news.is_poked);
            self.restart_changed(&news);
            must_look |= is_config && self.watch_again();
        }
    }

    /// Waits for something to change, and until it is quiet again. `None`: it is time to end.
    fn next_news(&mut self, is_due: bool) -> Option<News> {
        let mut news = if is_due { self.watch.wait(Some(Duration::ZERO))? } else { self.watch.wait(None)? };
        let deadline = Instant::now() + QUIET_WAIT_MAX;
        while Instant::now() < deadline {
            let more = self.watch.wait(Some(QUIET_TIME))?;
            if more.is_empty() {
                break;
            }
            news.add(more);
        }
        Some(news)
    }

    /// Watches what there is to watch now. Whether files of settings are others than before.
    fn watch_again(&mut self) -> bool {
        let specs: Vec<ServerSpec> = self.api.servers().now().pools().iter().map(|pool| pool.spec()).collect();
        let mut files = self.origin.flags.files();
        files.extend(self.config.mcp_servers.clone());
        let access_log = if let AccessLog::File(path) = &self.config.access_log { Some(path.clone()) } else { None };
        let own = [Some(self.config.data_dir.clone()), self.config.log_file.clone(), access_log];
        let trees = self.programs.as_mut().map(|programs| programs.look(&specs, own.iter().flatten()));
        self.watch.set(&files, trees.unwrap_or_default())
    }

    /// Reads everything again, and applies it. Whether that is to be done once more.
    fn reload(&mut self, is_asked: bool) -> bool {
        match self.try_reload() {
            Ok(Done::Again) => return true,
            Ok(Done::Nothing) => {
                if !self.complaint.is_empty() {
                    log::info!("settings and servers are as before");
                    self.complaint.clear();
                    self.api.reloads.applied(Vec::new(), None);
                } else if is_asked {
                    log::info!("nothing has changed");
                }
            }
            Ok(Done::Applied { what, failed, needs_restart }) => {
                self.complaint.clear();
                log::info!("reloaded: {what}");
                if !needs_restart.is_empty() {
                    log::warn!("takes effect after a restart: {}", needs_restart.join(", "));
                }
                failed.iter().for_each(|failure| log::error!("{failure}"));
                self.api.reloads.applied(needs_restart, (!failed.is_empty()).then(|| failed.join("; ")));
            }
            Err(error) => {
                let hint = error.hint().map_or(String::new(), |hint| format!("; {hint}"));
                let complaint = format!("{error}{hint}");
                // Once, not at every look.
                if is_asked || complaint != self.complaint {
                    log::error!("reload refused, everything stays as it was: {complaint}");
                }
                self.api.reloads.refused(complaint.clone());
                self.complaint = complaint;
            }
        }
        false
    }

    fn try_reload(&mut self) -> Result<Done, Error> {
        let flags = &self.origin.flags;
        let mut loaded = Config::load(flags, |key| env::var_os(key))?;
        self.check_file(&loaded)?;
        let changed = loaded.changes_since(&self.origin.texts);
        let is_new = !loaded.changes_since(&self.seen).is_empty();
        let (live, fixed): (Vec<&Setting>, Vec<&Setting>) = changed.into_iter().partition(|setting| setting.live);
        loaded.hold(&fixed, &self.origin.texts, flags)?;
        if let [only] = &loaded.servers[..] {
            only.resolve_program()?;
        }
        let shortage = descriptors::make_room(&mut loaded.config, &loaded.servers)?;
        let are_servers_same = {
            let now = self.api.servers().now();
            now.pools().iter().map(|pool| pool.spec()).eq(loaded.servers.iter().cloned())
        };
        if !is_new && live.is_empty() && are_servers_same {
            return Ok(Done::Nothing);
        }
        let keys = self.api.prepare_reload(&loaded.config)?;
        // From here on nothing fails.
        let warnings: Vec<String> = loaded.warnings.iter().cloned().chain(shortage).collect();
        let is_new = |warning: &&String| !self.origin.warnings.contains(warning);
        warnings.iter().filter(is_new).for_each(|warning| log::warn!("{warning}"));
        self.origin.warnings = warnings;
        let needs_restart: Vec<_> = fixed.iter().map(|setting| setting.key).collect();
        logs::set_level(&loaded.config);
        self.api.adapt(loaded.config.clone(), keys);
        let mut what: Vec<String> = live.iter().map(|setting| shown(setting, &loaded.texts)).collect();
        self.config = loaded.config;
        self.origin.texts = loaded.texts.with(&fixed, &self.origin.texts);
        self.origin.file = loaded.file;
        self.seen = loaded.texts;
        let watch = &mut self.watch;
        let changes = self.api.servers().change(&loaded.servers, &mut |pause| watch.has_news(pause));
        let summary = changes.summary();
        what.extend((!summary.is_empty()).then(|| format!("servers {summary}")));
        if changes.is_unfinished {
            if !what.is_empty() {
                log::info!("reloaded: {}; the rest is read again", what.join(", "));
            }
            return Ok(Done::Again);
        }
        if what.is_empty() {
            what.push("nothing that counts now".to_owned());
        }
        Ok(Done::Applied { what: what.join(", "), failed: changes.failed, needs_restart })
    }

    /// Fails when the file that was read before is gone: that is an accident rather than a wish for other settings.
    fn check_file(&self, loaded: &Loaded) -> Result<(), Error> {
        let Some(before) = &self.origin.file else { return Ok(()) };
        if loaded.file.as_ref() == Some(before) || before.exists() {
            return Ok(());
        }
        Err(Error::Settings {
            what: format!("the settings in `{}` are gone", before.display()),
            hint: "put the file back, or restart the gateway to go without it".to_owned(),
        })
    }

    /// Has the workers of servers replaced whose programs have changed.
    fn restart_changed(&mut self, news: &News) {
        let Some(programs) = &self.programs else { return };
        for (server, file) in programs.changed(&news.files) {
            let spec = self.api.servers().now().get(&server).map(|pool| pool.spec());
            let Some(spec) = spec else { continue };
            if let Err(error) = spec.resolve_program() {
                log::warn!("server {server}: {} has changed, and {error}; its workers go on", file.display());
                continue;
            }
            log::info!("server {server} is restarted: {} has changed", file.display());
            self.api.servers().restart_server(&server);
        }
    }
}

/// A setting with its value, unless that is secret.
fn shown(setting: &Setting, texts: &Texts) -> String {
    if setting.secret { setting.key.to_owned() } else { format!("{}={}", setting.key, texts.get(setting)) }
}
