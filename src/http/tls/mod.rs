//! The certificates that TLS is spoken with, read at start and again when their files change.
//!
//! A connection that is accepted takes what is in use at that moment and keeps it, so a change cuts nobody off. There is
//! no thread that watches: whoever shakes hands looks at the files, at most once a second. How TLS is spoken
//! on a connection is `session.rs`'s business.
//!
//! **Limit.** Tickets to resume a session are valid for 12 hours, and only while these files are in use.
//! **End.** Files that cannot be used stop the start; later they leave what is in use as it is, with one warning.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    RootCertStore, SupportedCipherSuite,
    crypto::{CryptoProvider, ring},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{config::Config, error::Error};

mod findings;
pub(crate) mod pem;
mod session;
mod validity;

pub use findings::Findings;
pub(super) use rustls::ServerConfig;
pub(super) use session::Session;

use findings::findings;
use pem::{certificates, private_key};

/// Shortest time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two warnings of the same.
const REMIND_INTERVAL: Duration = Duration::from_secs(86_400);

/// What is spoken besides TLS: without it, a client that also knows HTTP/2 could take us for it.
const ALPN: &[u8] = b"http/1.1";

/// The cryptography behind TLS.
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(provider(has_fast_aes())));

/// Which files there are.
#[derive(Debug, Clone)]
struct Files {
    /// `TLS_CERT`: the gateway's own certificate, then those that lead to its authority.
    cert: PathBuf,
    /// `TLS_KEY`: its private key.
    key: PathBuf,
    /// `TLS_CLIENT_CA`: the authorities of clients, when these need a certificate too.
    client_ca: Option<PathBuf>,
}

/// See the module.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_use: Arc<ServerConfig>,
    /// What the files were when `in_use` was read from them.
    stamps: Vec<Stamp>,
    looked_at: Instant,
    /// What was said about files that cannot be used.
    warned: Option<String>,
    /// When the operator was last told what else there is to know. The first time is at the start.
    reminded_at: Instant,
}

/// Tells one state of a file from another; `None` when there is no such file.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl Certificates {
    /// Reads the files of the settings; `None` when they name none.
    ///
    /// Fails with [`Error::Settings`], which names the file, when one cannot be read, or they do not fit together.
    pub fn new(config: &Config) -> Result<Option<Arc<Certificates>>, Error> {
        let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
        let files = Files { cert: cert.clone(), key: key.clone(), client_ca: config.tls_client_ca.clone() };
        // Before the files are read: what changes meanwhile is seen at the next look.
        let stamps = files.stamps();
        let in_use = files.read()?;
        let now = Instant::now();
        let state = Mutex::new(State { in_use, stamps, looked_at: now, warned: None, reminded_at: now });
        Ok(Some(Arc::new(Certificates { files, state })))
    }

    /// What a new connection is to use. Looks at the files when that was not done for [`LOOK_INTERVAL`].
    pub(in crate::http) fn current(&self) -> Arc<ServerConfig> {
        let now = Instant::now();
        let mut state = self.lock();
        let is_due = state.looked_at + LOOK_INTERVAL <= now;
        if is_due {
            state.looked_at = now;
            state.look(&self.files);
        }
        let in_use = Arc::clone(&state.in_use);
        drop(state);
        if is_due {
            self.reminders(now, SystemTime::now()).iter().for_each(|reminder| log::warn!("{reminder}"));
        }
        in_use
    }

    /// What the operator should be told at this moment and date. Once in [`REMIND_INTERVAL`], and not at the start, which
    /// tells it anyway.
    pub(crate) fn reminders(&self, now: Instant, date: SystemTime) -> Vec<String> {
        let mut state = self.lock();
        if now < state.reminded_at + REMIND_INTERVAL {
            return Vec::new();
        }
        state.reminded_at = now;
        drop(state);
        // Files that cannot be used are told of when that is noticed.
        self.findings(date).map(|it| it.warnings).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files hold, at `now`.
    ///
    /// Fails with [`Error::Settings`] when the certificate has no validity that could be read.
    pub fn findings(&self, now: SystemTime) -> Result<Findings, Error> {
        findings(&self.files, now)
    }
}

impl State {
    fn look(&mut self, files: &Files) {
        let stamps = files.stamps();
        if stamps == self.stamps {
            // Also when broken files were put back as they were.
            self.warned = None;
            return;
        }
        match files.read() {
            Ok(in_use) => {
                self.in_use = in_use;
                self.stamps = stamps;
                self.warned = None;
                log::info!("new connections use the certificate that is now in `{}`", files.cert.display());
            }
            // Tried again at the next look: one of the files may not have been there yet.
            Err(error) => {
                let what = error.to_string();
                if self.warned.as_ref() != Some(&what) {
                    log::warn!("the certificate in use is kept, because the changed files cannot be used: {what}");
                    self.warned = Some(what);
                }
            }
        }
    }
}

impl Files {
    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let it = fs::metadata(path).ok()?;
            Some((it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()))
        };
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().map(stamp).collect()
    }

    /// Reads all files and puts them together.
    fn read(&self) -> Result<Arc<ServerConfig>, Error> {
        let chain = certificates("TLS_CERT", &self.cert)?;
        let key = private_key("TLS_KEY", &self.key)?;
        let (cert_shown, key_shown) = (self.cert.display(), self.key.display());
        let certified = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|cause| match cause {
            rustls::Error::InconsistentKeys(_) => settings(
                format!("the key in `{key_shown}` (`TLS_KEY`) does not belong to the certificate in `{cert_shown}` (`TLS_CERT`)"),
                "name the two files of one pair; in a file with several certificates, the gateway's own stands first",
            ),
            rustls::Error::InvalidCertificate(cause) => {
                settings(format!("`TLS_CERT`: the certificate in `{cert_shown}` cannot be used: {cause}"), "")
            }
            cause => settings(
                format!("`TLS_KEY`: the key in `{key_shown}` cannot be used: {cause}"),
                "RSA with 2048 to 8192 bits, ECDSA with P-256 or P-384, and Ed25519 are known",
            ),
        })?;
        let no_tls = |cause: rustls::Error| settings(format!("TLS cannot be set up: {cause}"), "");
        let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()
            .map_err(no_tls)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let unusable = |cause: &dyn std::fmt::Display| {
                    settings(format!("`TLS_CLIENT_CA`: `{}` cannot be used: {cause}", path.display()), "")
                };
                let mut roots = RootCertStore::empty();
                for authority in certificates("TLS_CLIENT_CA", path)? {
                    roots.add(authority).map_err(|cause| unusable(&cause))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER));
                builder.with_client_cert_verifier(verifier.build().map_err(|cause| unusable(&cause))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = true;
        // Clients keep what a session needs to be resumed, however many they are. The key of the tickets goes with this value,
        // so that a certificate or an authority that was replaced is not remembered for anybody.
        config.ticketer = ring::Ticketer::new().map_err(no_tls)?;
        Ok(Arc::new(config))
    }
}

/// What *ring* has, in the order in which this machine likes it.
fn provider(has_fast_aes: bool) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !has_fast_aes {
        let is_chacha = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("CHACHA20");
        let (mut suites, others): (Vec<_>, Vec<_>) = provider.cipher_suites.into_iter().partition(is_chacha);
        suites.extend(others);
        provider.cipher_suites = suites;
    }
    provider
}

/// Whether the processor itself knows AES. Small boards often do not, and then ChaCha20 is several times as fast.
fn has_fast_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code, reason = "it is reached on other processors")]
    false
}

fn settings(what: String, hint: &str) -> Error {
    Error::Settings { what, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn the_cipher_that_is_fast_here_comes_first() {
        let first = |has_fast_aes| provider(has_fast_aes).cipher_suites[0].suite();
        assert_eq!(first(true), CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(first(false), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let second_half = |provider: CryptoProvider| {
            let tls12 = provider.cipher_suites.into_iter().find(|suite| suite.tls13().is_none());
            tls12.expect("suites of TLS 1.2").suite()
        };
        assert_eq!(second_half(provider(true)), CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
        assert_eq!(second_half(provider(false)), CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
    }
}
