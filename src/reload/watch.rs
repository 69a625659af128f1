//! The files that are watched, by inotify: which of them has changed, without looking at any while nothing changes.
//!
//! Folders are watched, not files: editors write another file and rename it over the old one, and Kubernetes swaps a link that stands
//! on the way to the file. So of each file the folder of every link on its way is watched for that link's name.
//!
//! **Limit.** [`FOLDERS_MAX`] folders. **End.** With its thread, which [`Poke::stop`] wakes.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

/// Folders that are watched.
pub(super) const FOLDERS_MAX: usize = 4096;

/// Links that are followed on the way to a file, as the system does.
const LINKS_MAX: usize = 40;

/// What of a folder is told: files that were written to and closed, that came, went or were renamed. Not that they were read.
const WANTED: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Wakes the thread that watches.
#[derive(Debug, Clone)]
pub struct Poke(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    eventfd: OwnedFd,
    is_poked: AtomicBool,
    is_stopped: AtomicBool,
}

impl Poke {
    /// Has everything read again.
    pub fn poke(&self) {
        self.0.is_poked.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Has the watch end.
    pub(super) fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // Fails only when it has rung so often that it rings anyway.
        let _ = rustix::io::write(&self.0.eventfd, &1_u64.to_ne_bytes());
    }
}

/// What has happened.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Files that have changed, came or went.
    pub(super) files: HashSet<PathBuf>,
    /// Somebody wants everything to be read again, or too much has happened to be told.
    pub(super) is_poked: bool,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.is_poked
    }

    pub(super) fn add(&mut self, other: News) {
        self.files.extend(other.files);
        self.is_poked |= other.is_poked;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    bell: Arc<Bell>,
    /// By watch descriptor, under every name that leads there.
    folders: HashMap<i32, Vec<PathBuf>>,
    /// Names on the way to files of settings.
    config: HashSet<PathBuf>,
    /// Folders of which everything counts.
    trees: HashSet<PathBuf>,
    /// Files that count beside these.
    files: HashSet<PathBuf>,
    /// What was seen and not told yet.
    untold: News,
    has_complained: bool,
}

/// What is watched for programs.
#[derive(Debug, Default)]
pub(super) struct Trees {
    pub(super) folders: HashSet<PathBuf>,
    pub(super) files: HashSet<PathBuf>,
}

impl Watch {
    /// Nothing is watched yet.
    pub(super) fn new() -> io::Result<(Watch, Poke)> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(Bell { eventfd, is_poked: AtomicBool::new(false), is_stopped: AtomicBool::new(false) });
        let watch = Watch {
            inotify,
            bell: Arc::clone(&bell),
            folders: HashMap::new(),
            config: HashSet::new(),
            trees: HashSet::new(),
            files: HashSet::new(),
            untold: News::default(),
            has_complained: false,
        };
        Ok((watch, Poke(bell)))
    }

    /// Watches these files of settings and these programs from now on, and nothing else. Whether the files of settings, or the ways to
    /// them, are others than before.
    pub(super) fn set(&mut self, config: &[PathBuf], Trees { folders, files }: Trees) -> bool {
        let on_the_way = |file: &PathBuf| names_on_the_way(file);
        let before = std::mem::replace(&mut self.config, config.iter().flat_map(on_the_way).collect());
        self.files = files.iter().flat_map(on_the_way).collect();
        self.trees = folders;
        let parents = self.config.iter().chain(&self.files).filter_map(|name| name.parent()).map(Path::to_owned);
        let wanted: HashSet<PathBuf> = parents.chain(self.trees.iter().cloned()).collect();
        let mut folders: HashMap<i32, Vec<PathBuf>> = HashMap::new();
        for folder in wanted {
            // Also one that is watched: it may be another folder by now.
            match inotify::add_watch(&self.inotify, &folder, WANTED) {
                Ok(wd) => folders.entry(wd).or_default().push(folder),
                // It may come, and then somebody has to say so.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(cause) => {
                    if !std::mem::replace(&mut self.has_complained, true) {
                        let folder = folder.display();
                        log::warn!("cannot watch `{folder}`: {cause}; send SIGHUP when a file there has changed");
                    }
                }
            }
        }
        for wd in self.folders.keys().filter(|wd| !folders.contains_key(wd)) {
            // Fails only when its folder is gone, and the watch with it.
            let _ = inotify::remove_watch(&self.inotify, *wd);
        }
        self.folders = folders;
        before != self.config
    }

    /// Whether a file is one of settings, or stands on the way to one.
    pub(super) fn is_config(&self, file: &Path) -> bool {
        self.config.contains(file)
    }

    /// Waits until something has happened, at most so long. `None`: it is time to end.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> Option<News> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Before it sleeps: what woke us may have been heard elsewhere.
            if self.untold.is_empty() && !self.bell.is_stopped.load(Ordering::SeqCst) {
                self.sleep(left);
            }
            if self.bell.is_stopped.load(Ordering::SeqCst) {
                return None;
            }
            let mut news = std::mem::take(&mut self.untold);
            news.add(self.read());
            let is_over = left.is_some_and(|left| left.is_zero());
            if is_over || !news.is_empty() {
                return Some(news);
            }
        }
    }

    /// Waits for so long, and says whether settings have changed by then, or it is time to end.
    pub(super) fn has_news(&mut self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.sleep(Some(left));
            let news = self.read();
            self.untold.add(news);
            let is_config = self.untold.is_poked || self.untold.files.iter().any(|file| self.is_config(file));
            if is_config || self.bell.is_stopped.load(Ordering::SeqCst) || left.is_zero() {
                return is_config || self.bell.is_stopped.load(Ordering::SeqCst);
            }
        }
    }

    /// Sleeps until there is something to read. False when the time is up.
    fn sleep(&self, timeout: Option<Duration>) -> bool {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.bell.eventfd, PollFlags::IN)];
        // An interruption is looked at like everything else.
        poll(&mut fds, timeout.as_ref()).is_ok_and(|n_ready| 0 < n_ready)
    }

    fn read(&mut self) -> News {
        // Empties it; there may be nothing to empty.
        let _ = rustix::io::read(&self.bell.eventfd, &mut [0; 8]);
        let mut news = News { is_poked: self.bell.is_poked.swap(false, Ordering::SeqCst), ..News::default() };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                news.is_poked = true;
            }
            let is_gone = flags.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF);
            for folder in self.folders.get(&event.wd()).into_iter().flatten() {
                let file = match event.file_name() {
                    Some(name) => folder.join(OsStr::from_bytes(name.to_bytes())),
                    None => folder.clone(),
                };
                let is_way_lost = is_gone && self.config.iter().any(|name| name.parent() == Some(folder));
                let is_known = self.config.contains(&file) || self.files.contains(&file);
                if is_way_lost || is_known || self.trees.contains(folder) {
                    news.files.insert(file);
                }
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
            }
        }
        news
    }
}

/// The file, and every link that is followed on the way to it: whoever replaces one of these changes what is read there.
fn names_on_the_way(file: &Path) -> HashSet<PathBuf> {
    let mut names = HashSet::new();
    let Ok(absolute) = std::path::absolute(file) else { return names };
    let mut path = absolute;
    for _ in 0..LINKS_MAX {
        names.insert(path.clone());
        let Some((link, target)) = first_link(&path) else { break };
        let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        let mut next = link.parent().unwrap_or(Path::new("/")).join(target);
        if !rest.as_os_str().is_empty() {
            next.push(rest);
        }
        names.insert(link);
        path = plain(&next);
    }
    names
}

/// The first part of a path that is a link, and where it leads.
fn first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut prefix = PathBuf::new();
    for part in path.components() {
        prefix.push(part);
        if let Ok(target) = std::fs::read_link(&prefix) {
            return Some((prefix, target));
        }
    }
    None
}

/// Without `.` and `..`, in a path whose parts before them are no links.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::config::test_dir::TestDir;

    const SOON: Option<Duration> = Some(Duration::from_secs(20));
    const NOT_AT_ALL: Option<Duration> = Some(Duration::from_millis(50));

    fn watch(files: &[PathBuf]) -> (Watch, Poke) {
        let (mut watch, poke) = Watch::new().unwrap();
        watch.set(files, Trees::default());
        (watch, poke)
    }

    #[track_caller]
    fn check_seen(watch: &mut Watch, file: &Path) {
        let news = watch.wait(SOON).expect("nobody has stopped it");
        assert!(news.files.contains(file), "{news:?}");
        // What belongs together may come in pieces.
        while !watch.wait(NOT_AT_ALL).expect("nobody has stopped it").is_empty() {}
    }

    #[test]
    fn a_file_is_seen_when_it_is_written_replaced_or_removed_and_its_neighbours_are_not() {
        let dir = TestDir::new();
        let path = dir.write("gateway.conf", "a");
        let (mut watch, _poke) = watch(std::slice::from_ref(&path));
        dir.write("other", "b");
        fs::read(&path).unwrap();
        assert!(watch.wait(NOT_AT_ALL).unwrap().is_empty());
        dir.write("gateway.conf", "b");
        check_seen(&mut watch, &path);
        fs::rename(dir.write("new", "c"), &path).unwrap();
        check_seen(&mut watch, &path);
        fs::remove_file(&path).unwrap();
        check_seen(&mut watch, &path);
        dir.write("gateway.conf", "d");
        check_seen(&mut watch, &path);
    }

    /// `gateway.conf` leads to `..data/gateway.conf`, and `..data` is swapped.
    #[test]
    fn a_link_on_the_way_that_is_swapped_is_seen() {
        let dir = TestDir::new();
        for (folder, text) in [("one", "a"), ("two", "b")] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            dir.write(&format!("{folder}/gateway.conf"), text);
        }
        let (data, file) = (dir.path().join("..data"), dir.path().join("gateway.conf"));
        symlink("one", &data).unwrap();
        symlink("..data/gateway.conf", &file).unwrap();
        let names = names_on_the_way(&file);
        assert!(names.contains(&file) && names.contains(&data), "{names:?}");
        assert!(names.contains(&dir.path().join("one/gateway.conf")), "{names:?}");

        let (mut watch, _poke) = watch(std::slice::from_ref(&file));
        symlink("two", dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), &data).unwrap();
        check_seen(&mut watch, &data);
        watch.set(std::slice::from_ref(&file), Trees::default());
        dir.write("two/gateway.conf", "c");
        check_seen(&mut watch, &dir.path().join("two/gateway.conf"));
    }

    #[test]
    fn a_circle_of_links_has_an_end() {
        let dir = TestDir::new();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(names_on_the_way(&dir.path().join("a")).len(), 2);
    }

    #[test]
    fn whoever_is_poked_looks_at_once_and_whoever_is_stopped_ends() {
        let (mut watch, poke) = watch(&[]);
        poke.poke();
        assert!(watch.wait(SOON).unwrap().is_poked);
        assert!(watch.wait(NOT_AT_ALL).unwrap().is_empty());
        poke.stop();
        assert!(watch.wait(None).is_none());
    }
}
