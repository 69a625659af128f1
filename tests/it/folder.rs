//! Folders for tests: each is its own, and goes away with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic,
};

/// An empty folder, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: atomic::AtomicU32 = atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, atomic::Ordering::Relaxed);
        let path = env::temp_dir().join(format!("mcpgate-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a file in the place of another one in one step, as careful writers do.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        fs::rename(self.file(&format!(".{name}.new"), text), self.0.join(name)).unwrap();
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only of the next start's interest: its name is never used again.
        let _ = fs::remove_dir_all(&self.0);
    }
}
