//! `mcpgate tls self-signed`: a certificate to begin with, and its key.
//!
//! Clients trust it when they are given `cert.pem`; there is no authority behind it. What goes to standard output are the two
//! settings that make the gateway use it, so that they can be appended to `gateway.conf`.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use data_encoding::HEXUPPER;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use sha2::{Digest as _, Sha256};

use crate::{cli::TlsCommand, config::values, error::Error};

/// How long it is valid from now on.
const VALID_FOR: Duration = Duration::from_secs(824 * 86_400);

/// How long it has been valid already, for clients whose clock is behind. Together that is less than 825 days: Apple's
/// systems take no certificate for longer, not even one that was installed by hand.
const VALID_SINCE: Duration = Duration::from_secs(86_400 - 1);

/// Names it is for when none is given, beside this machine's own.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";

/// Carries `command` out at `now`: settings go to `out`, words for the operator to `notes`.
///
/// Fails when one of the two files exists already: somebody may be using it.
pub fn run(command: &TlsCommand, now: SystemTime, out: &mut dyn Write, notes: &mut dyn Write) -> Result<(), Error> {
    let TlsCommand::SelfSigned { out: folder, hosts } = command;
    let hosts = if hosts.is_empty() { local_hosts() } else { hosts.clone() };
    let until = now + VALID_FOR;
    let made = make(&hosts, now, until)?;
    let folder = folder.clone().unwrap_or_else(|| PathBuf::from("."));
    fs::create_dir_all(&folder).map_err(|cause| not_written(&folder, &cause))?;
    let folder = folder.canonicalize().map_err(|cause| not_written(&folder, &cause))?;
    let (cert, key) = (folder.join(CERT_FILE), folder.join(KEY_FILE));
    write_new(&key, &made.key, 0o600)?;
    write_new(&cert, &made.cert, 0o644).inspect_err(|_| {
        // Of no use without its certificate. If it cannot be removed, the next try says that it is there.
        let _ = fs::remove_file(&key);
    })?;
    let says = |to: &mut dyn Write, text: String| {
        to.write_all(text.as_bytes())
            .and_then(|()| to.flush())
            .map_err(|cause| Error::Failed { what: format!("cannot write the answer: {cause}"), hint: String::new() })
    };
    says(out, format!("TLS_CERT={}\nTLS_KEY={}\n", shell_word(&cert), shell_word(&key)))?;
    let (hosts, until) = (hosts.join(", "), humantime::format_rfc3339_seconds(until));
    says(notes, format!("a certificate for {hosts}, valid until {until}\nSHA-256 {}\n", made.fingerprint))
}

struct Made {
    cert: String,
    key: String,
    fingerprint: String,
}

fn make(hosts: &[String], now: SystemTime, until: SystemTime) -> Result<Made, Error> {
    let failed = |cause: rcgen::Error| Error::Failed {
        what: format!("cannot make a certificate: {cause}"),
        hint: "name hosts or addresses, such as gateway.local or 192.168.1.10".to_owned(),
    };
    let is_host = |host: &&String| {
        let is_name = !host.contains([':', '[']) && values::host(host.strip_prefix("*.").unwrap_or(host)).is_ok();
        is_name || host.parse::<IpAddr>().is_ok()
    };
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return Err(Error::Settings {
            what: format!("`{}` is neither the name of a host nor an address", host.escape_debug()),
            hint: "write names without scheme or port, such as gateway.local or 192.168.1.10".to_owned(),
        });
    }
    // ECDSA with P-256, which every client knows.
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(failed)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "mcpgate, self-signed");
    params.distinguished_name = name;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (params.not_before, params.not_after) = ((now - VALID_SINCE).into(), until.into());
    let certificate = params.self_signed(&key).map_err(failed)?;
    let digest = HEXUPPER.encode(&Sha256::digest(certificate.der()));
    let pairs: Vec<&str> = digest.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok()).collect();
    Ok(Made { cert: certificate.pem(), key: key.serialize_pem(), fingerprint: pairs.join(":") })
}

fn local_hosts() -> Vec<String> {
    let mut hosts = LOCAL_HOSTS.map(str::to_owned).to_vec();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_ascii_lowercase();
    let is_name = !own.is_empty() && own.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if is_name && !hosts.contains(&own) {
        hosts.push(own);
    }
    hosts
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let written = File::options().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists => Error::Settings {
            what: format!("`{}` exists already", path.display()),
            hint: "it may be in use; move it away, or name another folder with `--out`".to_owned(),
        },
        _ => not_written(path, &cause),
    })
}

fn not_written(path: &Path, cause: &io::Error) -> Error {
    Error::Failed { what: format!("cannot write `{}`: {cause}", path.display()), hint: String::new() }
}

/// A path as a value of `gateway.conf`.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    match shlex::try_quote(&text) {
        Ok(quoted) => quoted.into_owned(),
        // Only a zero byte cannot be written, and no path has one.
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        config::{Config, test_dir::TestDir},
        http::tls::Certificates,
    };

    fn self_signed(folder: &Path, hosts: &[&str], now: SystemTime) -> Result<(String, String), Error> {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        run(&TlsCommand::SelfSigned { out: Some(folder.to_owned()), hosts }, now, &mut out, &mut notes)?;
        let text = |bytes| String::from_utf8(bytes).expect("answers are text");
        Ok((text(out), text(notes)))
    }

    fn settings_for(folder: &Path) -> Config {
        let (tls_cert, tls_key) = (Some(folder.join(CERT_FILE)), Some(folder.join(KEY_FILE)));
        Config { tls_cert, tls_key, ..Config::default() }
    }

    #[test]
    fn what_is_made_can_be_used_and_its_key_is_private() {
        let dir = TestDir::new();
        let folder = dir.path().join("new/folder");
        let (out, notes) = self_signed(&folder, &["box.local", "10.0.0.7", "::1"], SystemTime::now()).unwrap();
        let shown = folder.canonicalize().unwrap().display().to_string();
        assert_eq!(out, format!("TLS_CERT={shown}/cert.pem\nTLS_KEY={shown}/key.pem\n"));
        assert!(notes.starts_with("a certificate for box.local, 10.0.0.7, ::1, valid until 2"), "{notes}");
        let mode = fs::metadata(folder.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let certificates = Certificates::new(&settings_for(&folder)).unwrap().unwrap();
        assert_eq!(certificates.findings(SystemTime::now()).unwrap().warnings, Vec::<String>::new());
    }

    #[test]
    fn the_end_of_a_certificate_is_told_in_time() {
        let dir = TestDir::new();
        let now = SystemTime::now();
        self_signed(dir.path(), &["box.local"], now).unwrap();
        let certificates = Certificates::new(&settings_for(dir.path())).unwrap().unwrap();
        let day = Duration::from_secs(86_400);
        let warnings = |now| certificates.findings(now).unwrap().warnings.join("\n");
        let is_valid = |now| certificates.findings(now).unwrap().is_valid;
        assert_eq!([now, now + 825 * day, now - 2 * day].map(is_valid), [true, false, false]);
        for (at, expected) in [
            (now + 793 * day, ""),
            (now + 795 * day, "expires in 28 days, at 2"),
            (now + 825 * day, "has expired at 2"),
            (now - 2 * day, "is not valid before 2"),
        ] {
            assert!(
                warnings(at).contains(expected) && warnings(at).is_empty() == expected.is_empty(),
                "{}",
                warnings(at)
            );
        }
    }

    #[test]
    fn a_gateway_that_runs_for_long_warns_once_a_day() {
        let dir = TestDir::new();
        let day = Duration::from_secs(86_400);
        self_signed(dir.path(), &["box.local"], SystemTime::now() - 800 * day).unwrap();
        let certificates = Certificates::new(&settings_for(dir.path())).unwrap().unwrap();
        let started_at = std::time::Instant::now();
        let n_warnings = |after: Duration| certificates.reminders(started_at + after, SystemTime::now()).len();
        assert_eq!(n_warnings(day / 2), 0, "the start has said it");
        assert_eq!([n_warnings(day + day / 24), n_warnings(2 * day), n_warnings(3 * day)], [1, 0, 1]);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = TestDir::new();
        let now = SystemTime::now();
        self_signed(dir.path(), &[], now).unwrap();
        let before = fs::read(dir.path().join(KEY_FILE)).unwrap();
        let error = self_signed(dir.path(), &[], now).unwrap_err();
        assert!(error.to_string().ends_with("key.pem` exists already"), "{error}");
        assert_eq!(fs::read(dir.path().join(KEY_FILE)).unwrap(), before);

        fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        let error = self_signed(dir.path(), &[], now).unwrap_err();
        assert!(error.to_string().ends_with("cert.pem` exists already"), "{error}");
        assert!(!dir.path().join(KEY_FILE).exists());
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let dir = TestDir::new();
        for host in ["https://box", "a b", "", "a/b", "[::1]", "box:443"] {
            let error = self_signed(dir.path(), &[host], SystemTime::now()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{host}");
        }
    }
}
