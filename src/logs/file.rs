//! A file that lines are appended to, and that may be moved away: what rotates logs needs to tell nobody.
//!
//! Before a line is written, at most once in [`LOOK_INTERVAL`], it is looked whether the path still leads to the open file; if
//! not, the path is opened anew, and made if it is not there. No signal says so: whoever moves it
//! need not know the process, and SIGHUP is for settings. Until it is looked again, lines go to the file that was moved.
//!
//! **End.** With what writes to it. A file that cannot be opened anew is written to on.

use std::{
    fs::{self, File},
    io::{self, LineWriter, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::error::Error;

/// How often it is looked, at most, whether the file is still in its place.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    looked_at: Instant,
    look_interval: Duration,
    /// Nothing of a line is written yet.
    is_between_lines: bool,
}

impl LogFile {
    /// The file at `path`, which the setting `key` names, written in whole lines. Fails with [`Error::Settings`].
    pub(super) fn open(key: &str, path: &Path) -> Result<Box<dyn Write + Send>, Error> {
        let file = append_to(path).map_err(|cause| Error::Settings {
            what: format!("`{key}`: cannot write `{}`: {cause}", path.display()),
            hint: "name a file in a folder that exists and may be written to".to_owned(),
        })?;
        Ok(Box::new(LineWriter::new(LogFile::new(path, file, LOOK_INTERVAL))))
    }

    fn new(path: &Path, file: File, look_interval: Duration) -> LogFile {
        // It may be moved when the working directory is another one.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        LogFile { path, file, looked_at: Instant::now(), look_interval, is_between_lines: true }
    }

    fn look(&mut self) {
        self.looked_at = Instant::now();
        let Ok(ours) = self.file.metadata() else { return };
        let there = fs::metadata(&self.path);
        let is_in_place = there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if !is_in_place && let Ok(file) = append_to(&self.path) {
            self.file = file;
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_between_lines && self.look_interval <= self.looked_at.elapsed() {
            self.look();
        }
        let n = self.file.write(bytes)?;
        if let Some(last) = bytes[..n].last() {
            self.is_between_lines = *last == b'\n';
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_dir::TestDir;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_between_two_lines() {
        let folder = TestDir::new();
        let (path, moved) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let mut file = LogFile::new(&path, append_to(&path).unwrap(), Duration::ZERO);
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        file.write_all(b"one\nbegin").unwrap();
        fs::rename(&path, &moved).unwrap();
        file.write_all(b" end\n").unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!((read(&moved), read(&path)), ("one\nbegin end\n".to_owned(), "two\n".to_owned()));
        fs::remove_file(&path).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(read(&path), "three\n");
    }

    #[test]
    fn a_file_in_its_place_and_one_whose_folder_is_gone_are_written_to_on() {
        let folder = TestDir::new();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        let (path, elsewhere) = (below.join("a.log"), folder.path().join("a.log"));
        let mut file = LogFile::new(&path, append_to(&path).unwrap(), Duration::ZERO);
        file.write_all(b"one\n").unwrap();
        file.write_all(b"two\n").unwrap();
        fs::rename(&path, &elsewhere).unwrap();
        fs::remove_dir(&below).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn it_is_not_looked_for_every_line() {
        let folder = TestDir::new();
        let (path, moved) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let mut file = LogFile::new(&path, append_to(&path).unwrap(), Duration::from_secs(3600));
        fs::rename(&path, &moved).unwrap();
        file.write_all(b"one\n").unwrap();
        assert!(!path.exists());
    }
}
