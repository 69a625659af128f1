//! What servers are made of, for `--reload`: their programs, the files among their arguments, and the folders of those.
//!
//! Folders of the system, and those that are too wide to mean one program, are left out; of what is in them only the file itself counts.
//! So are folders that hold what others wrote (`node_modules`, `target`) and files that servers and editors leave behind.
//!
//! **Limit.** [`FOLDERS_MAX`] folders.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use super::watch::{FOLDERS_MAX, Trees};
use crate::config::{Command, ServerSpec};

/// Folders of others' work. Hidden ones are left out too.
const LEFT_OUT: [&str; 3] = ["node_modules", "target", "__pycache__"];

/// Folders of which many programs come.
const SYSTEM: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib64", "/usr", "/nix"];

/// Ends of names that nobody writes by hand.
const LEFT_BEHIND: [&str; 14] = [
    "~", ".swp", ".swo", ".swx", ".tmp", ".log", ".pid", ".lock", ".pyc", ".db", ".sqlite", ".sqlite3", "-journal",
    "-wal",
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Programs {
    by_server: BTreeMap<String, Sources>,
    /// The gateway's own, which it changes itself.
    own: Vec<PathBuf>,
    has_complained: bool,
}

/// What one server is made of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sources {
    files: Vec<PathBuf>,
    trees: Vec<PathBuf>,
}

impl Programs {
    /// Notes what these servers are made of, `own` aside. Returns what is to be watched.
    pub(super) fn look<'a>(&mut self, specs: &[ServerSpec], own: impl Iterator<Item = &'a PathBuf>) -> Trees {
        self.own = own.filter_map(|path| std::path::absolute(path).ok()).collect();
        self.by_server = specs.iter().map(|spec| (spec.name.clone(), Sources::of(spec))).collect();
        let mut trees = Trees::default();
        for sources in self.by_server.values() {
            trees.files.extend(sources.files.iter().cloned());
            for tree in &sources.trees {
                let counts = |name: &OsStr| !is_left_out(name);
                let walk = WalkDir::new(tree).into_iter();
                let folders = walk
                    .filter_entry(|entry| {
                        entry.file_type().is_dir() && (entry.depth() == 0 || counts(entry.file_name()))
                    })
                    .filter_map(Result::ok);
                let n_left = FOLDERS_MAX.saturating_sub(trees.folders.len());
                trees.folders.extend(folders.map(|entry| entry.into_path()).take(n_left));
            }
        }
        if FOLDERS_MAX <= trees.folders.len() && !std::mem::replace(&mut self.has_complained, true) {
            log::warn!("`--reload` watches the first {FOLDERS_MAX} folders of the servers' programs only");
        }
        trees
    }

    /// The servers that one of these files belongs to, and which.
    pub(super) fn changed(&self, files: &HashSet<PathBuf>) -> Vec<(String, PathBuf)> {
        let mut files: Vec<&PathBuf> = files.iter().filter(|file| !self.is_own(file)).collect();
        files.sort();
        let of_server = |(server, sources): (&String, &Sources)| {
            let file = files.iter().find(|file| sources.has(file))?;
            Some((server.clone(), (*file).clone()))
        };
        self.by_server.iter().filter_map(of_server).collect()
    }

    fn is_own(&self, file: &Path) -> bool {
        self.own.iter().any(|own| file.starts_with(own))
    }
}

impl Sources {
    fn of(spec: &ServerSpec) -> Sources {
        let mut sources = Sources::default();
        let Command::Program { program, args, cwd, .. } = &spec.command else { return sources };
        let folder = cwd.clone().map_or_else(env::current_dir, Ok).unwrap_or_default();
        if program.contains('/') {
            sources.add(&folder.join(program));
        } else if let Ok(found) = spec.resolve_program() {
            // It comes with its folder to everybody.
            sources.files.push(found);
        }
        args.iter().map(|arg| folder.join(arg)).filter(|file| file.is_file()).for_each(|file| sources.add(&file));
        sources
    }

    fn add(&mut self, file: &Path) {
        let Ok(file) = std::path::absolute(file) else { return };
        if let Some(tree) = file.parent().filter(|tree| !is_too_wide(tree) && !self.trees.iter().any(|it| it == tree)) {
            self.trees.push(tree.to_owned());
        }
        self.files.push(file);
    }

    fn has(&self, file: &Path) -> bool {
        let is_in = |tree: &PathBuf| {
            let Ok(rest) = file.strip_prefix(tree) else { return false };
            let mut folders = rest.parent().into_iter().flat_map(Path::iter);
            !folders.any(is_left_out) && file.file_name().is_some_and(|name| !is_left_behind(name))
        };
        self.files.iter().any(|it| it == file) || self.trees.iter().any(is_in)
    }
}

fn is_left_out(folder: &OsStr) -> bool {
    let name = folder.to_string_lossy();
    name.starts_with('.') || LEFT_OUT.contains(&&*name)
}

/// Files that come and go while programs run and while others are edited. A folder may be called like a file, too.
fn is_left_behind(file: &OsStr) -> bool {
    let name = file.to_string_lossy();
    let is_of_vim = name == "4913";
    let is_of_emacs = name.starts_with(".#") || name.starts_with('#');
    is_of_vim || is_of_emacs || is_left_out(file) && name != ".env" || LEFT_BEHIND.iter().any(|end| name.ends_with(end))
}

fn is_too_wide(folder: &Path) -> bool {
    let home = env::home_dir();
    let is_common = folder.parent().is_none() || Some(folder) == home.as_deref() || folder == env::temp_dir();
    is_common || SYSTEM.iter().any(|system| folder.starts_with(system))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{EraSetting, Isolation, test_dir::TestDir};

    fn spec(program: &str, args: &[&str], cwd: &Path) -> ServerSpec {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let command =
            Command::Program { program: program.to_owned(), args, env: BTreeMap::new(), cwd: Some(cwd.to_owned()) };
        let (isolation, era) = (Isolation::Shared, EraSetting::Auto);
        ServerSpec { name: "s".to_owned(), command, min_workers: 1, max_workers: 1, isolation, era }
    }

    #[test]
    fn a_server_is_its_program_the_files_it_is_given_and_their_folders() {
        let dir = TestDir::new();
        for folder in ["app/lib", "app/.venv/lib", "app/node_modules/x", "data"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let script = dir.write("app/server.py", "");
        let mut programs = Programs::default();
        let own = dir.path().join("app/lib/own.txt");
        let trees =
            programs.look(&[spec("sh", &["-u", "app/server.py", "nothing.py"], dir.path())], [own.clone()].iter());
        let folders = ["app", "app/lib"].map(|it| dir.path().join(it));
        assert_eq!(trees.folders, folders.into_iter().collect());
        assert!(trees.files.contains(&script) && trees.files.iter().any(|file| file.ends_with("sh")));

        let restarted_by = |file: &str| {
            let file = dir.path().join(file);
            programs.changed(&[file.clone()].into()) == [("s".to_owned(), file)]
        };
        for file in ["app/server.py", "app/lib/a.py", "app/new", "app/.env"] {
            assert!(restarted_by(file), "{file}");
        }
        let others = [
            "data/x.py",
            "app/.venv/lib/x.py",
            "app/node_modules/x/y.js",
            "app/.server.py.swp",
            "app/x.db-wal",
            "app/x.log",
            "app/lib/own.txt",
            "app/4913",
        ];
        for file in others {
            assert!(!restarted_by(file), "{file}");
        }
    }

    #[test]
    fn of_a_system_folder_only_the_file_counts() {
        let sources = Sources::of(&spec("/usr/bin/env", &["/"], Path::new("/")));
        assert_eq!(sources, Sources { files: vec!["/usr/bin/env".into()], trees: vec![] });
    }
}
