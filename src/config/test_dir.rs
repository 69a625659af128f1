//! A folder of its own for a test, gone when the test is over.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

pub(crate) struct TestDir(PathBuf);

impl TestDir {
    pub(crate) fn new() -> TestDir {
        static N_DIRS: AtomicUsize = AtomicUsize::new(0);
        let n = N_DIRS.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("mcpgate-test-{}-{n}", process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes one");
        TestDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a test may write into its folder");
        path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // What cannot be removed stays in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
