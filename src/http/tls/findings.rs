//! What an operator should know of the certificate in use: until when it is valid, and who can read its key.
//!
//! It looks at the files as they are now, whatever is in use, and starts nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use super::{Files, pem::certificates, validity};
use crate::error::Error;

/// Time before its end when a certificate should be replaced.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// What the files hold, as an operator would ask.
#[derive(Debug)]
pub struct Findings {
    /// What is there: `cert.pem is valid until 2027-01-01T00:00:00Z`.
    pub about: String,
    /// Hosts and addresses that it is for.
    pub names: Vec<String>,
    /// Whether it may be used now. What speaks against it stands first among the warnings.
    pub is_valid: bool,
    /// What the operator should know, one sentence each.
    pub warnings: Vec<String>,
}

/// What the files hold, at `now`.
pub(super) fn findings(files: &Files, now: SystemTime) -> Result<Findings, Error> {
    let Files { cert, key, client_ca } = files;
    let shown = cert.display();
    let chain = certificates("TLS_CERT", cert)?;
    let mut warnings = Vec::new();
    let ends = chain.iter().map(|certificate| validity::of(certificate)).collect::<Option<Vec<_>>>();
    let ends = ends.ok_or_else(|| Error::Settings {
        what: format!("`TLS_CERT`: `{shown}` does not say how long it is valid"),
        hint: String::new(),
    })?;
    let begin = ends.iter().map(|it| it.not_before).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let end = ends.iter().map(|it| it.not_after).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let until = humantime::format_rfc3339_seconds(end);
    if now < begin {
        let from = humantime::format_rfc3339_seconds(begin);
        warnings.push(format!("the certificate in `{shown}` is not valid before {from}; look at the clock"));
    }
    if end <= now {
        warnings.push(format!("the certificate in `{shown}` has expired at {until}; clients will refuse it"));
    } else if end <= now + RENEW_BEFORE {
        let days = end.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        warnings.push(format!("the certificate in `{shown}` expires in {days} days, at {until}; renew it"));
    }
    let is_open_to_others = fs::metadata(key).is_ok_and(|it| it.mode() & 0o007 != 0);
    if is_open_to_others {
        let key = key.display();
        warnings.push(format!("every user of this machine can read the key in `{key}`; `chmod 600 {key}`"));
    }
    let clients = match client_ca {
        Some(path) => format!("; clients need a certificate of `{}`", path.display()),
        None => String::new(),
    };
    let about = format!("`{shown}` is valid until {until}, and its key fits{clients}");
    let names = chain.first().map(|own| validity::names(own)).unwrap_or_default();
    Ok(Findings { about, names, is_valid: begin <= now && now < end, warnings })
}
