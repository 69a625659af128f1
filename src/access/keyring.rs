//! The keys that count now: that of the settings, and those of the file, which is read again when it has changed.
//!
//! **Looking a key up.** What is looked up is the hash of a number of this process and of the hash of the key. Nobody outside can
//! know or steer that, so it does not matter what the time of a look-up tells of it: all keys, right, nearly right and wrong, are
//! the same kind of 32 random bytes here. That a hash was found is all that counts; the key itself is compared to nothing.
//!
//! **When the file changes.** A key that is checked has the file looked at, at most once in [`LOOK_INTERVAL`], by whoever comes
//! first; others go on with what is known meanwhile. A key that is not known has it looked at in any case, since it may have been made a
//! moment ago. Nothing looks while nobody asks.
//!
//! **A file that is wrong** gives nothing and changes nothing, but it takes away: keys whose hash does not stand in its text any
//! more are refused, so that no revoked key lives on because somebody made a mistake elsewhere in the file. The others stay as they were
//! until it is right again. In a file that is gone stands no hash. One that cannot be read says nothing, and one that was written
//! to within the last [`LOOK_INTERVAL`] may be half written, so it has until the next look to become right.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use data_encoding::HEXLOWER_PERMISSIVE;
use sha2::{Digest as _, Sha256};

use super::{
    keyfile::{self, KeyEntry, KeyFile},
    limiter::Rate,
    principal::{OWN, Principal},
};
use crate::{config::Config, error::Error};

/// Shortest time between two looks at the file.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Keyring {
    /// Known to this process only.
    blind: [u8; 32],
    own: Option<Key>,
    file: Option<WatchedFile>,
    keys: RwLock<Arc<Keys>>,
    /// Of keys without one of their own.
    rate: Mutex<Option<Rate>>,
}

#[derive(Debug, Clone)]
struct Key {
    entry: KeyEntry,
    principal: Arc<Principal>,
}

/// All keys, that of the settings first, and where each stands, by its blinded hash.
#[derive(Debug, Default)]
struct Keys {
    all: Vec<Key>,
    by_hash: HashMap<[u8; 32], usize>,
}

#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    began_at: Instant,
    /// Milliseconds since `began_at`.
    look_again_at: AtomicU64,
    seen: Mutex<Seen>,
}

/// What was last seen of the file.
#[derive(Debug, Default)]
struct Seen {
    /// `None` while it may still change without looking different.
    stamp: Option<Stamp>,
    complaint: String,
}

/// Tells one state of a file from another without reading it.
type Stamp = (u64, u64, u64, [i64; 4]);

impl Keyring {
    /// Reads the file for the first time. Fails as [`KeyFile::load`].
    pub(super) fn new(config: &Config, rate: Option<Rate>) -> Result<Keyring, Error> {
        let mut blind = [0; 32];
        getrandom::fill(&mut blind).map_err(|cause| Error::Failed {
            what: format!("the system gives no random bytes: {cause}"),
            hint: String::new(),
        })?;
        let own = (!config.api_key.is_empty()).then(|| Key {
            entry: KeyEntry {
                name: OWN.to_owned(),
                sha256: keyfile::hash(&config.api_key),
                tools: None,
                rate: None,
                concurrent: None,
                expires: None,
            },
            principal: Principal::unbound(OWN, rate),
        });
        let file = config.api_keys_file.clone().map(WatchedFile::new);
        let keyring = Keyring { blind, own, file, keys: RwLock::default(), rate: Mutex::new(rate) };
        let entries = keyring.file.as_ref().map(|file| KeyFile::load(&file.path)).transpose()?.unwrap_or_default();
        keyring.take(entries.keys);
        Ok(keyring)
    }

    /// Whether these are the key and the file of `config`.
    pub(super) fn is_of(&self, config: &Config) -> bool {
        let own = (!config.api_key.is_empty()).then(|| keyfile::hash(&config.api_key));
        let (has, file) = (self.own.as_ref().map(|key| key.entry.sha256), self.file.as_ref().map(|file| &file.path));
        has == own && file == config.api_keys_file.as_ref()
    }

    /// Goes by another rate of keys without one of their own.
    pub(super) fn retune(&self, rate: Option<Rate>) {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
        self.keys().all.iter().for_each(|key| key.principal.retune(rate));
    }

    /// Takes the place of `old`. A key that is what it was keeps its holder; one that is not here is taken away.
    pub(super) fn inherit(&mut self, old: &Keyring) {
        let before = old.keys();
        let is_kept =
            |key: &Key| before.all.iter().find(|it| it.entry == key.entry).map(|it| Arc::clone(&it.principal));
        let keep = |key: &mut Key| {
            if let Some(principal) = is_kept(key) {
                key.principal = principal;
            }
        };
        self.own.iter_mut().for_each(keep);
        let keys = self.keys.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut all = keys.all.clone();
        all.iter_mut().for_each(keep);
        let is_gone = |key: &&Key| !all.iter().any(|it| Arc::ptr_eq(&it.principal, &key.principal));
        before.all.iter().filter(is_gone).for_each(|key| key.principal.make_stale());
        *keys = Arc::new(Keys { all, by_hash: keys.by_hash.clone() });
    }

    /// The holder of a key.
    pub(super) fn find(&self, key: &str) -> Option<Arc<Principal>> {
        self.look();
        let hash = self.blinded(&keyfile::hash(key));
        self.find_hash(&hash).or_else(|| {
            // It may have been made a moment ago.
            let file = self.file.as_ref()?;
            self.look_at(file, file.seen.lock().unwrap_or_else(PoisonError::into_inner));
            self.find_hash(&hash)
        })
    }

    fn find_hash(&self, hash: &[u8; 32]) -> Option<Arc<Principal>> {
        let keys = self.keys();
        keys.all.get(*keys.by_hash.get(hash)?).map(|key| Arc::clone(&key.principal))
    }

    /// Everybody with a key.
    pub(super) fn principals(&self) -> Vec<Arc<Principal>> {
        self.keys().all.iter().map(|key| Arc::clone(&key.principal)).collect()
    }

    fn blinded(&self, sha256: &[u8; 32]) -> [u8; 32] {
        Sha256::new().chain_update(self.blind).chain_update(sha256).finalize().into()
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again if it has changed, and if it is time to look.
    pub(super) fn look(&self) {
        let Some(file) = self.file.as_ref().filter(|file| file.is_time()) else { return };
        // Never waited for: whoever is in there is about to know.
        if let Ok(seen) = file.seen.try_lock() {
            self.look_at(file, seen);
        }
    }

    /// Reads the file again if it has changed.
    fn look_at(&self, file: &WatchedFile, mut seen: MutexGuard<'_, Seen>) {
        // Before it is read: what is written meanwhile is then read again.
        let metadata = fs::metadata(&file.path).ok();
        let stamp = metadata.as_ref().map(stamp);
        if stamp.is_some() && seen.stamp == stamp {
            return;
        }
        let is_settled = metadata.is_none_or(|metadata| !is_young(&metadata));
        seen.stamp = stamp.filter(|_| is_settled);
        let complaint = self.read_again(&file.path, is_settled).err().unwrap_or_default();
        // Once, not at every look.
        if !complaint.is_empty() && complaint != seen.complaint {
            log::error!("{complaint}");
        }
        seen.complaint = complaint;
    }

    /// Fails with what the operator must know.
    fn read_again(&self, path: &Path, is_settled: bool) -> Result<(), String> {
        let name = path.display();
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                self.take(Vec::new());
                return Err(format!("the file of keys `{name}` is gone: its keys are refused"));
            }
            Err(cause) => return Err(format!("cannot read the keys in `{name}`: {cause}; they stay as they were")),
        };
        match KeyFile::parse(&text, &name.to_string()) {
            Ok(file) => {
                let n_keys = file.keys.len();
                if self.take(file.keys) {
                    log::info!("`{name}` has changed: {n_keys} keys");
                }
                Ok(())
            }
            // Whoever writes it may not be done.
            Err(_) if !is_settled => Ok(()),
            Err(error) => {
                let n_taken = self.strike_out(&text);
                Err(format!(
                    "{error}; until that is mended, keys are as they were before, but for {n_taken} that do not stand \
                     in it any more"
                ))
            }
        }
    }

    /// Takes away keys whose hash does not stand in `text`. Returns how many.
    fn strike_out(&self, text: &[u8]) -> usize {
        let runs = text.split(|byte| !byte.is_ascii_hexdigit()).filter(|run| run.len() == 64);
        let standing: HashSet<Vec<u8>> = runs.filter_map(|run| HEXLOWER_PERMISSIVE.decode(run).ok()).collect();
        let entries =
            self.keys().all.iter().map(|key| key.entry.clone()).skip(usize::from(self.own.is_some())).collect();
        let (kept, gone): (Vec<_>, Vec<_>) =
            Vec::into_iter(entries).partition(|entry: &KeyEntry| standing.contains(&entry.sha256[..]));
        self.take(kept);
        gone.len()
    }

    /// Puts these keys of the file in place of the others. One that is what it was keeps its holder, with their limits as they
    /// stand. Returns whether anything is different.
    fn take(&self, entries: Vec<KeyEntry>) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let n_own = usize::from(self.own.is_some());
        let rate = *self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let mut old: HashMap<&str, &Key> = keys.all.iter().skip(n_own).map(|key| (&*key.entry.name, key)).collect();
        let mut is_changed = old.len() != entries.len();
        let new = entries.into_iter().map(|entry| match old.remove(&*entry.name) {
            Some(same) if same.entry == entry => same.clone(),
            changed => {
                is_changed = true;
                changed.inspect(|changed| changed.principal.make_stale());
                let tally = changed.map(|changed| Arc::clone(changed.principal.tally())).unwrap_or_default();
                Key { principal: Principal::of(&entry, rate, tally), entry }
            }
        });
        let all: Vec<Key> = self.own.iter().cloned().chain(new).collect();
        old.into_values().for_each(|gone| gone.principal.make_stale());
        // The first counts: the key of the settings goes before the same one in the file.
        let by_hash =
            all.iter().enumerate().rev().map(|(index, key)| (self.blinded(&key.entry.sha256), index)).collect();
        *keys = Arc::new(Keys { all, by_hash });
        is_changed
    }
}

impl WatchedFile {
    fn new(path: PathBuf) -> WatchedFile {
        WatchedFile { path, began_at: Instant::now(), look_again_at: AtomicU64::new(0), seen: Mutex::default() }
    }

    /// Whether this caller is the one to look at the file now.
    fn is_time(&self) -> bool {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = milliseconds(self.began_at.elapsed());
        let due = self.look_again_at.load(Ordering::Relaxed);
        let next = now.saturating_add(milliseconds(LOOK_INTERVAL));
        due <= now && self.look_again_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn stamp(file: &fs::Metadata) -> Stamp {
    (file.dev(), file.ino(), file.size(), [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
}

/// Whether a file was written to just now, so that it may be half written, or be written to again within the grain of its clock.
fn is_young(file: &fs::Metadata) -> bool {
    let age = file.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age < LOOK_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_dir::TestDir;

    fn entry(name: &str) -> KeyEntry {
        let sha256 = keyfile::hash(name);
        KeyEntry { name: name.to_owned(), sha256, tools: None, rate: None, concurrent: None, expires: None }
    }

    fn keyring(dir: &TestDir, keys: Vec<KeyEntry>) -> (Keyring, PathBuf) {
        let path = dir.path().join("keys.json");
        KeyFile { keys }.save(&path).unwrap();
        let config = Config { api_key: "own".to_owned(), api_keys_file: Some(path.clone()), ..Config::default() };
        (Keyring::new(&config, None).unwrap(), path)
    }

    /// Has the file looked at now, although it may not be time.
    fn find(keyring: &Keyring, key: &str) -> Option<Arc<Principal>> {
        keyring.file.as_ref().unwrap().look_again_at.store(0, Ordering::Relaxed);
        keyring.find(key)
    }

    #[track_caller]
    fn check_known(keyring: &Keyring, expected: &[&str]) {
        let known = |key: &&str| find(keyring, key).is_some();
        assert_eq!(["own", "a", "b", "c"].into_iter().filter(known).collect::<Vec<_>>(), expected);
    }

    /// Writes in place, as an editor may, this long ago.
    fn write(path: &Path, text: &str, age: Duration) {
        fs::write(path, text).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn a_changed_file_counts_and_keys_that_stayed_keep_their_holders() {
        let dir = TestDir::new();
        let (keyring, path) = keyring(&dir, vec![entry("a"), entry("b"), entry("c")]);
        let [a, b, c] = ["a", "b", "c"].map(|key| find(&keyring, key).unwrap());
        drop(b.begin_call(false));

        let changed = KeyEntry { tools: Some(vec!["x".to_owned()]), ..entry("b") };
        KeyFile { keys: vec![entry("a"), changed, entry("d")] }.save(&path).unwrap();
        assert!(find(&keyring, "d").is_some() && find(&keyring, "c").is_none() && find(&keyring, "own").is_some());
        assert!(Arc::ptr_eq(&a, &find(&keyring, "a").unwrap()));
        let new_b = find(&keyring, "b").unwrap();
        assert!(!new_b.may_use_everything());
        assert_eq!(new_b.usage().calls, 1, "counts go by the name");
        assert_eq!([&a, &b, &c].map(|it| it.check_valid(SystemTime::now).is_ok()), [true, false, false]);
        let names: Vec<_> = keyring.principals().iter().map(|it| it.name.to_string()).collect();
        assert_eq!(names, ["api_key", "a", "b", "d"]);
    }

    #[test]
    fn a_new_key_counts_at_once() {
        let dir = TestDir::new();
        let (keyring, path) = keyring(&dir, vec![entry("a")]);
        assert!(find(&keyring, "a").is_some() && keyring.find("b").is_none());
        // No time passes between looks here: the next one is due in a second.
        for keys in [vec![entry("a"), entry("b")], vec![entry("a"), entry("b"), entry("c")]] {
            let newest = keys.last().unwrap().name.clone();
            KeyFile { keys }.save(&path).unwrap();
            keyring.file.as_ref().unwrap().look_again_at.store(u64::MAX, Ordering::Relaxed);
            assert!(keyring.find(&newest).is_some(), "{newest}");
        }
    }

    #[test]
    fn a_file_that_is_wrong_gives_nothing_and_takes_away_what_does_not_stand_in_it() {
        let dir = TestDir::new();
        let (keyring, path) = keyring(&dir, vec![entry("a"), entry("b")]);
        let hex = |key: &str| data_encoding::HEXUPPER.encode(&keyfile::hash(key));
        let b = find(&keyring, "b").unwrap();
        // `b` was revoked, `c` is new, and somebody forgot a comma.
        let text =
            format!(r#"{{"keys":[{{"name":"a" "sha256":"{}"}},{{"name":"c","sha256":"{}"}}]}}"#, hex("a"), hex("c"));
        write(&path, &text, Duration::from_secs(10));
        check_known(&keyring, &["own", "a"]);
        assert!(b.check_valid(SystemTime::now).is_err());
        // The same where only an entry is wrong.
        let text = format!(r#"{{"keys":[{{"name":"a","sha256":"{}","rate":-1}}]}}"#, hex("a"));
        write(&path, &text, Duration::from_secs(10));
        check_known(&keyring, &["own", "a"]);
        write(&path, "{", Duration::from_secs(10));
        check_known(&keyring, &["own"]);
        KeyFile { keys: vec![entry("b")] }.save(&path).unwrap();
        check_known(&keyring, &["own", "b"]);
    }

    #[test]
    fn a_file_that_may_be_half_written_has_a_second() {
        let dir = TestDir::new();
        let (keyring, path) = keyring(&dir, vec![entry("a")]);
        fs::write(&path, "").unwrap();
        check_known(&keyring, &["own", "a"]);
        write(&path, "", LOOK_INTERVAL);
        check_known(&keyring, &["own"]);
    }

    #[test]
    fn a_file_that_is_gone_has_no_keys_and_one_that_cannot_be_read_says_nothing() {
        let dir = TestDir::new();
        let (keyring, path) = keyring(&dir, vec![entry("a")]);
        fs::remove_file(&path).unwrap();
        // Whoever runs this may read any file, but no folder.
        fs::create_dir(&path).unwrap();
        check_known(&keyring, &["own", "a"]);
        fs::remove_dir(&path).unwrap();
        check_known(&keyring, &["own"]);
    }

    #[test]
    fn other_keys_take_the_place_and_those_that_stayed_keep_their_holders() {
        let dir = TestDir::new();
        let (old, path) = keyring(&dir, vec![entry("a"), entry("b")]);
        let [own, a, b] = ["own", "a", "b"].map(|key| old.find(key).unwrap());
        let other = dir.path().join("other.json");
        KeyFile { keys: vec![entry("a"), entry("c")] }.save(&other).unwrap();
        let config = |api_key: &str, path: &Path| Config {
            api_key: api_key.to_owned(),
            api_keys_file: Some(path.to_owned()),
            ..Config::default()
        };
        assert!(old.is_of(&config("own", &path)));
        assert!(!old.is_of(&config("other", &path)) && !old.is_of(&config("own", &other)));
        let mut new = Keyring::new(&config("own", &other), None).unwrap();
        new.inherit(&old);
        assert!(Arc::ptr_eq(&own, &new.find("own").unwrap()) && Arc::ptr_eq(&a, &new.find("a").unwrap()));
        assert!(new.find("b").is_none() && new.find("c").is_some());
        assert_eq!([&own, &a, &b].map(|it| it.check_valid(SystemTime::now).is_ok()), [true, true, false]);
        new.retune(Rate::new(0.01, None));
        assert!(a.begin_call(false).is_ok() && a.begin_call(false).is_err(), "it is limited now");
        new.retune(None);
        assert!(a.begin_call(false).is_ok());
    }

    #[test]
    fn the_file_is_looked_at_once_in_a_while() {
        let file = WatchedFile::new("keys.json".into());
        assert!(file.is_time());
        assert!(!file.is_time());
        file.look_again_at.store(0, Ordering::Relaxed);
        assert!(file.is_time());
    }

    /// A look-up is one, whatever is asked for, of 32 bytes that nobody outside can know: they differ between two processes, and
    /// keys that are nearly the same have nothing in common there.
    #[test]
    fn what_a_look_up_compares_has_nothing_to_do_with_the_key() {
        let dir = TestDir::new();
        let (one, _) = keyring(&dir, Vec::new());
        let (other, _) = keyring(&dir, Vec::new());
        assert_ne!(one.blinded(&keyfile::hash("own")), other.blinded(&keyfile::hash("own")));
        let right = one.blinded(&keyfile::hash("own"));
        assert_eq!(one.keys().by_hash.keys().collect::<Vec<_>>(), [&right]);
        for near in ["owm", "own ", "ow", "Own", ""] {
            let blinded = one.blinded(&keyfile::hash(near));
            let n_same = blinded.iter().zip(right).filter(|(one, other)| **one == *other).count();
            assert!(n_same < 8, "{near:?}: {n_same} bytes of 32");
            assert!(one.find(near).is_none(), "{near:?}");
        }
    }
}
