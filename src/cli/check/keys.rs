//! Who could call: how strong the one key is, and which keys of the file count.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, SystemTime},
};

use super::report::{Report, Section};
use crate::{
    access::{
        Access,
        keyfile::{KeyEntry, KeyFile, expires_text},
    },
    config::Config,
    error::Error,
};

/// Fewest letters of a key of one's own. With hex digits these are 64 bits.
const KEY_LETTERS_MIN: usize = 16;

/// Fewest different letters of such a key.
const KEY_LETTERS_DIFFERENT_MIN: usize = 8;

/// Time before its end when a key should be replaced.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 86_400);

const LONGER_KEY: &str = "take the output of `openssl rand -hex 32`, or keys of a file (`mcpgate key new NAME`)";

/// Looks at `API_KEY` and at the file of keys.
pub(super) fn examine(config: &Config, now: SystemTime, report: &mut Report<'_>) -> Result<(), Error> {
    let warnings = config.warnings();
    let has_own_key = !config.api_key.is_empty();
    if warnings.is_empty() && has_own_key {
        match weakness(&config.api_key) {
            Some(weakness) => report.warn(Section::Keys, format!("`API_KEY` {weakness}"), LONGER_KEY)?,
            None => report.good(Section::Keys, "`API_KEY` is long enough")?,
        }
    }
    warnings.into_iter().try_for_each(|warning| report.warn(Section::Keys, warning, ""))?;
    let Some(path) = &config.api_keys_file else { return Ok(()) };
    // As the gateway reads it, which also wants each key once.
    match Access::new(config).and_then(|_| KeyFile::load(path)) {
        Ok(file) => about_file(path, &file.keys, has_own_key, now, report),
        Err(error) => report.bad(Section::Keys, &error),
    }
}

/// What makes a key easy to guess, if anything does.
fn weakness(key: &str) -> Option<String> {
    let n_letters = key.chars().count();
    let n_different = key.chars().collect::<HashSet<_>>().len();
    if n_letters < KEY_LETTERS_MIN {
        Some(format!("has {n_letters} letters, which can be guessed"))
    } else if n_different < KEY_LETTERS_DIFFERENT_MIN {
        Some(format!("has only {n_different} different letters, which can be guessed"))
    } else {
        None
    }
}

fn about_file(
    path: &Path,
    keys: &[KeyEntry],
    has_own_key: bool,
    now: SystemTime,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let shown = path.display();
    let is_expired = |key: &&KeyEntry| key.is_expired(now);
    let (expired, valid): (Vec<_>, Vec<_>) = keys.iter().partition(is_expired);
    if valid.is_empty() && !has_own_key {
        let what = format!("no key of `{shown}` counts and `API_KEY` is empty, so nobody can call");
        report.warn(Section::Keys, what, format!("`mcpgate key new NAME --file {shown}` makes a key"))?;
    } else {
        report.good(Section::Keys, format!("{} of the {} keys in `{shown}` count", valid.len(), keys.len()))?;
    }
    for key in expired {
        let (name, at) = (&key.name, end_of(key));
        report.warn(
            Section::Keys,
            format!("the key `{name}` has expired at {at}"),
            format!("`mcpgate key revoke {name} --file {shown}` takes it out"),
        )?;
    }
    for key in valid.into_iter().filter(|key| key.is_expired(now + RENEW_BEFORE)) {
        report.warn(
            Section::Keys,
            format!("the key `{}` expires at {}", key.name, end_of(key)),
            "make another one for whoever has it: `mcpgate key new NAME --expires TIME`",
        )?;
    }
    Ok(())
}

fn end_of(key: &KeyEntry) -> String {
    key.expires.and_then(expires_text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_guessed_is_weak() {
        for weak in ["a", "hunter2", "password1234567", "aaaaaaaaaaaaaaaaaaaaaaaa", "abcabcabcabcabcabcabc"] {
            assert!(weakness(weak).is_some(), "{weak}");
        }
        assert_eq!(weakness("6d6370675f8d1f2e"), None);
        assert_eq!(weakness("correct horse battery staple"), None);
    }
}
