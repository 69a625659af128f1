//! The file of keys: who may call, which tools, and until when.
//!
//! ```json
//! {"keys": [{"name": "ci", "sha256": "64 hex digits", "tools": ["search_*"], "rate": 5, "concurrent": 2,
//!            "expires": "2027-01-01T00:00:00Z"}]}
//! ```
//!
//! The file holds hashes only. A key is 32 random bytes, so a plain SHA-256 cannot be searched backwards, and needs no
//! salt and no slow hash. Reading is exact: an unknown member is an error, because a misspelt `expires` that was passed
//! over would give access for ever.
//!
//! **Saving** writes a new file beside the old one and renames it, so that a reader sees one or the other. Commands that change
//! the file hold a [lock](lock_folder) meanwhile, else one that adds a key could bring back another that was just revoked.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use sha2::{Digest as _, Sha256};

use super::{
    limiter::{RATE_MAX, RATE_MIN},
    principal::{ANYBODY, OWN},
};
use crate::{config::is_plain_name, error::Error};

/// Random bytes in a key.
const KEY_BYTES: usize = 32;

/// What every key of ours starts with, so that scanners for leaked secrets can know it.
const KEY_PREFIX: &str = "mcpg_";

/// All keys of a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// In the order of the file, each name once.
    pub keys: Vec<KeyEntry>,
}

/// One key: its hash and what it allows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Who has the key; as in [`is_name`].
    pub name: String,
    /// Hash of the whole key, prefix included.
    #[serde(with = "hex_digits")]
    pub sha256: [u8; 32],
    /// Globs of the tools it may call. Absent: every tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Calls a second. Absent: as `RATE_LIMIT` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Calls at a time. Absent: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// From when on it is refused. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339")]
    pub expires: Option<SystemTime>,
}

impl KeyFile {
    /// Reads the file at `path`. A file that is missing, unreadable or not exactly in this format is
    /// [`Error::Settings`], with line and column where they help.
    pub fn load(path: &Path) -> Result<KeyFile, Error> {
        let name = path.display();
        let text = fs::read(path).map_err(|cause| Error::Settings {
            what: format!("cannot read the keys in `{name}`: {cause}"),
            hint: format!("`mcpgate key new NAME --file {name}` makes the file with a first key"),
        })?;
        KeyFile::parse(&text, &name.to_string())
    }

    /// As [`KeyFile::load`], for the contents of a file called `name`.
    pub fn parse(text: &[u8], name: &str) -> Result<KeyFile, Error> {
        let file: KeyFile = serde_json::from_slice(text).map_err(|cause| Error::Settings {
            what: format!("{name}: {cause}"),
            hint: "`mcpgate key new` and `key revoke` write the file; keep to what they wrote".to_owned(),
        })?;
        file.check().map_err(|what| Error::Settings { what: format!("{name}: {what}"), hint: String::new() })?;
        Ok(file)
    }

    /// As [`KeyFile::load`], but a missing file holds no keys.
    pub fn load_or_empty(path: &Path) -> Result<KeyFile, Error> {
        let is_missing = fs::metadata(path).is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound);
        if is_missing { Ok(KeyFile::default()) } else { KeyFile::load(path) }
    }

    /// Puts the keys at `path` in place of what is there, readable by its owner only. The owner stays who it was.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        self.replace(path).map_err(|cause| Error::Failed {
            what: format!("cannot write the keys to `{}`: {cause}", path.display()),
            hint: String::new(),
        })
    }

    /// The key called `name`.
    pub fn find(&self, name: &str) -> Option<&KeyEntry> {
        self.keys.iter().find(|entry| entry.name == name)
    }

    fn check(&self) -> Result<(), String> {
        let (mut names, mut holders) = (HashSet::new(), HashMap::new());
        for entry in &self.keys {
            let name = &entry.name;
            if !is_name(name) {
                return Err(format!("`{}` cannot name a key", name.escape_debug()));
            }
            if !names.insert(name) {
                return Err(format!("there are two keys called `{name}`"));
            }
            if let Some(other) = holders.insert(&entry.sha256, name) {
                return Err(format!("`{other}` and `{name}` are the same key"));
            }
            entry.check_limits().map_err(|what| format!("key `{name}`: {what}"))?;
        }
        Ok(())
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        // A rename would put the file in the place of a link instead of behind it.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let temporary = temporary_beside(&target)?;
        let result = self.write_new(&temporary, &target).and_then(|()| fs::rename(&temporary, &target));
        if result.is_err() {
            // The reason that is told is the first one.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn write_new(&self, temporary: &Path, target: &Path) -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(temporary)?;
        if let Ok(old) = fs::metadata(target) {
            keep_owner(&file, &old)?;
        }
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()
    }
}

impl KeyEntry {
    /// Fails with what is wrong with `rate` or `concurrent`.
    pub fn check_limits(&self) -> Result<(), String> {
        if let Some(rate) = self.rate.filter(|rate| !(RATE_MIN..=RATE_MAX).contains(rate)) {
            return Err(format!("`rate`: expected calls a second, from one a day to {RATE_MAX}, got `{rate}`"));
        }
        if self.concurrent == Some(0) {
            return Err("`concurrent`: expected 1 call or more, got `0`".to_owned());
        }
        Ok(())
    }

    /// Whether the key is refused at `now`.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Keeps other commands of ours from changing files in the folder of `path`, until what is returned is dropped. Waits for them.
pub fn lock_folder(path: &Path) -> Result<File, Error> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let locked = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    locked.map_err(|cause| Error::Failed {
        what: format!("cannot lock the folder `{}`: {cause}", folder.display()),
        hint: String::new(),
    })
}

/// Whether a key may be called `name`: as in [`is_plain_name`], and not as those are that are in no file.
pub fn is_name(name: &str) -> bool {
    is_plain_name(name) && ![OWN, ANYBODY].contains(&name)
}

/// A new key, `mcpg_` and 64 hex digits. Fails when the system gives no random bytes.
pub fn new_key() -> Result<String, Error> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|cause| Error::Failed {
        what: format!("the system gives no random bytes: {cause}"),
        hint: String::new(),
    })?;
    Ok(format!("{KEY_PREFIX}{}", hex(&bytes)))
}

/// What the file holds of a key.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Else the gateway could no longer read the file after root has changed it.
fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    let has_same_owner = (new.uid(), new.gid()) == (old.uid(), old.gid());
    if has_same_owner {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
}

fn temporary_beside(target: &Path) -> io::Result<PathBuf> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|cause| io::Error::other(cause.to_string()))?;
    let name = target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    Ok(target.with_file_name(format!(".{}.{}", name.to_string_lossy(), hex(&bytes))))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash as 64 hex digits.
mod hex_digits {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        // A message does not repeat the text: it may be the key itself, put in the wrong place.
        parse(&text).ok_or_else(|| de::Error::custom("`sha256`: expected 64 hex digits"))
    }

    fn parse(text: &str) -> Option<[u8; 32]> {
        let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(bytes)
    }
}

/// A moment as RFC 3339 in UTC, to the second.
mod rfc3339 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(expires: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match expires {
            Some(moment) => serializer.serialize_str(&text(*moment).map_err(ser::Error::custom)?),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let moment = humantime::parse_rfc3339(&text).map_err(|_| {
            de::Error::custom(format!("`expires`: expected a time such as 2027-01-31T00:00:00Z, got `{text}`"))
        })?;
        Ok(Some(moment))
    }

    fn text(moment: SystemTime) -> Result<String, &'static str> {
        expires_text(moment).ok_or("a time after the year 9999 cannot be written")
    }
}

/// A moment as it stands in the file; nothing after the year 9999, for which the format has no room.
pub fn expires_text(moment: SystemTime) -> Option<String> {
    use std::fmt::Write as _;
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_seconds(moment)).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;
    use crate::config::test_dir::TestDir;

    fn entry(name: &str) -> KeyEntry {
        KeyEntry { name: name.to_owned(), sha256: hash(name), tools: None, rate: None, concurrent: None, expires: None }
    }

    fn load_text(text: &str) -> Result<KeyFile, Error> {
        let dir = TestDir::new();
        KeyFile::load(&dir.write("keys.json", text))
    }

    #[track_caller]
    fn check_error(text: &str, end_of_message: &str) {
        let error = load_text(text).expect_err(end_of_message);
        assert!(error.to_string().ends_with(end_of_message), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let dir = TestDir::new();
        let path = dir.path().join("keys.json");
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let tools = Some(vec!["search_*".to_owned(), "get".to_owned()]);
        let two = KeyEntry { tools, rate: Some(0.5), concurrent: Some(3), expires: Some(expires), ..entry("two") };
        let file = KeyFile { keys: vec![entry("one"), two] };

        file.save(&path).expect("the folder takes files");
        assert_eq!(KeyFile::load(&path), Ok(file.clone()));
        let mode = fs::metadata(&path).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        KeyFile::default().save(&path).expect("a file can be replaced");
        assert_eq!(KeyFile::load(&path), Ok(KeyFile::default()));
        assert_eq!(fs::read_dir(dir.path()).expect("the folder is there").count(), 1, "no temporary file is left");
    }

    #[test]
    fn saving_behind_a_link_keeps_the_link() {
        let dir = TestDir::new();
        let real = dir.write("real.json", "{\"keys\": []}");
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&real, &link).expect("the folder takes links");
        KeyFile { keys: vec![entry("one")] }.save(&link).expect("the folder takes files");
        assert!(link.is_symlink());
        assert_eq!(KeyFile::load(&real).map(|file| file.keys.len()), Ok(1));
    }

    #[test]
    fn a_file_that_cannot_be_saved_leaves_nothing_behind() {
        let error = KeyFile::default().save(Path::new("/nowhere/keys.json")).expect_err("there is no such folder");
        assert!(error.to_string().starts_with("cannot write the keys to `/nowhere/keys.json`: "), "{error}");
        let dir = TestDir::new();
        assert!(KeyFile::default().save(dir.path()).is_err(), "a folder is no file");
        assert!(KeyFile::default().save(Path::new("")).is_err());
    }

    #[test]
    fn a_missing_file_is_an_error_unless_it_may_be_new() {
        let path = Path::new("/nowhere/keys.json");
        let error = KeyFile::load(path).expect_err("there is no such file");
        assert!(error.hint().is_some_and(|hint| hint.contains("mcpgate key new NAME --file /nowhere/keys.json")));
        assert_eq!(KeyFile::load_or_empty(path), Ok(KeyFile::default()));
    }

    #[test]
    fn only_exactly_this_format_is_read() {
        let sha256 = hex(&hash("one"));
        let one = format!(r#"{{"name": "one", "sha256": "{sha256}"}}"#);
        assert_eq!(load_text(&format!(r#"{{"keys": [{one}]}}"#)), Ok(KeyFile { keys: vec![entry("one")] }));
        check_error("{}", "keys.json: missing field `keys` at line 1 column 2");
        check_error(&format!(r#"{{"keys": [{one}, {one}]}}"#), "keys.json: there are two keys called `one`");
        let same = one.replace("one", "two");
        check_error(&format!(r#"{{"keys": [{one}, {same}]}}"#), "keys.json: `one` and `two` are the same key");
        check_error(&format!(r#"{{"keys": [{}]}}"#, one.replace("one", "api_key")), "`api_key` cannot name a key");
        check_error(
            &format!(r#"{{"keys": [{{"name": "", "sha256": "{sha256}"}}]}}"#),
            "keys.json: `` cannot name a key",
        );
        check_error(
            &format!(r#"{{"keys": [{{"name": "one", "sha256": "{sha256}", "expire": "2020-01-01T00:00:00Z"}}]}}"#),
            "unknown field `expire`, expected one of `name`, `sha256`, `tools`, `rate`, `concurrent`, `expires` at line 1 column 112",
        );
        check_error(
            &format!(r#"{{"keys": [{{"name": "one", "sha256": "{sha256}", "expires": "tomorrow"}}]}}"#),
            "`expires`: expected a time such as 2027-01-31T00:00:00Z, got `tomorrow` at line 1 column 126",
        );
        for (limit, message) in [
            (
                r#""rate": 0"#,
                "keys.json: key `one`: `rate`: expected calls a second, from one a day to 1000000, got `0`",
            ),
            (r#""rate": -1"#, "`rate`: expected calls a second, from one a day to 1000000, got `-1`"),
            (r#""concurrent": 0"#, "keys.json: key `one`: `concurrent`: expected 1 call or more, got `0`"),
        ] {
            check_error(&format!(r#"{{"keys": [{{"name": "one", "sha256": "{sha256}", {limit}}}]}}"#), message);
        }
        for bad in ["", "mcpg_1", &"g".repeat(64), &"é".repeat(32)] {
            check_error(
                &format!(r#"{{"keys": [{{"name": "one", "sha256": "{bad}"}}]}}"#),
                &format!("`sha256`: expected 64 hex digits at line 1 column {}", 39 + bad.len()),
            );
        }
    }

    #[test]
    fn a_new_key_is_long_and_never_the_same() {
        let (one, two) = (new_key().expect("there is a random source"), new_key().expect("there is a random source"));
        assert!(one.starts_with("mcpg_") && one.len() == 5 + 64, "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn a_hash_is_plain_sha256() {
        assert_eq!(hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_key_expires_at_its_moment() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let expiring = KeyEntry { expires: Some(now), ..entry("one") };
        assert!(!expiring.is_expired(now - Duration::from_secs(1)));
        assert!(expiring.is_expired(now));
        assert!(!entry("one").is_expired(now));
    }
}
