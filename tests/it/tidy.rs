//! House rules: what is written in two places agrees, and every file says what it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mcpgate::config::settings::SETTINGS;

use crate::support::root;

/// Longer files say in their module doc why.
const FILE_LINES_MAX: usize = 500;

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"))
}

/// The cells of every table row of a Markdown text, without the code marks around a whole cell.
fn table_rows(markdown: &str) -> Vec<Vec<String>> {
    const ESCAPED_BAR: &str = "\u{0}";
    let rows = markdown.lines().filter(|line| line.starts_with('|'));
    let cell = |text: &str| {
        let text = text.trim().replace(ESCAPED_BAR, "|");
        let inner = text.strip_prefix('`').and_then(|it| it.strip_suffix('`')).filter(|it| !it.contains('`'));
        inner.map_or(text.clone(), |it| it.to_owned())
    };
    let cells = |row: &str| row.trim_matches('|').replace("\\|", ESCAPED_BAR).split('|').map(cell).collect();
    rows.map(cells).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let own = files.into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs"));
    own.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

#[test]
fn the_readme_lists_every_setting_with_its_default_and_its_sentence() {
    let rows = table_rows(&read("README.md"));
    let listed: Vec<&Vec<String>> = rows.iter().filter(|row| SETTINGS.iter().any(|it| it.key == row[0])).collect();
    let expected: Vec<Vec<String>> =
        SETTINGS.iter().map(|it| vec![it.key.to_owned(), it.default.to_owned(), it.help.to_owned()]).collect();

    for row in &expected {
        assert!(listed.contains(&row), "README.md lacks this row:\n| `{}` | `{}` | {} |", row[0], row[1], row[2]);
    }
    assert_eq!(listed.len(), expected.len(), "README.md lists a setting twice");
}

#[test]
fn gateway_conf_names_every_setting_with_its_default() {
    let conf = read("gateway.conf");
    for setting in SETTINGS {
        let line = format!("{}={}", setting.key, setting.default);
        let is_there = conf.lines().any(|it| it.trim_start_matches(['#', ' ']) == line);
        assert!(is_there, "gateway.conf lacks `{line}` (or `#{line}`)");
    }
}

#[test]
fn what_takes_effect_after_a_restart_is_named_where_people_look() {
    let fixed: Vec<String> = SETTINGS.iter().filter(|it| !it.live).map(|it| format!("`{}`", it.key)).collect();
    let readme = read("README.md").replace('\n', " ");
    let sentence = format!("says when it takes effect after a restart only: {}.", fixed.join(", "));
    assert!(readme.contains(&sentence), "README.md lacks: {sentence}");
    let conf = read("gateway.conf");
    for setting in SETTINGS {
        let comment = format!("# {}", setting.help_text());
        assert!(conf.lines().any(|line| line == comment), "gateway.conf lacks `{comment}`");
    }
}

#[test]
fn the_changelog_has_the_current_version() {
    let version = env!("CARGO_PKG_VERSION");
    let has_version = read("CHANGELOG.md").lines().any(|line| line.starts_with("## ") && line.contains(version));
    assert!(has_version, "CHANGELOG.md has no `## {version}`");
}

#[test]
fn every_file_begins_with_what_it_is() {
    for folder in ["src", "tests"] {
        for path in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//! "), "{} has no module doc", path.display());
        }
    }
}

#[test]
fn a_long_file_says_why_it_is_long() {
    for folder in ["src", "tests"] {
        for path in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            let is_short = text.lines().count() <= FILE_LINES_MAX;
            let mut doc = text.lines().take_while(|line| line.starts_with("//!"));
            let says_why = doc.any(|line| line.contains("One file"));
            assert!(is_short || says_why, "{} is long; say in its module doc why it is `One file`", path.display());
        }
    }
}
