//! Every target with every seed, each part of it, and a few thousand mutations of it: the same in every run.

use std::{fs, path::PathBuf};

use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    sample::Index,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::*;

/// Mutated inputs for each target. `MCPGATE_FUZZ_CASES` says otherwise.
const CASES: u32 = 2000;

/// What hides between other bytes.
const SPICES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\t",
    " ",
    ":",
    ",",
    ";",
    "\"",
    "\\",
    "'",
    "{",
    "}",
    "[",
    "]",
    "0",
    "-1",
    "1e3",
    "0x5",
    "+",
    "\u{7f}",
    "\u{feff}",
    "\\u0069",
    "null",
    "id",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "18446744073709551616",
];

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    Spice(Index, Index),
    Cut(Index, Index),
    Repeat(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    proptest::prop_oneof![
        any::<(Index, u8)>().prop_map(|(at, byte)| Change::Byte(at, byte)),
        any::<(Index, Index)>().prop_map(|(at, which)| Change::Spice(at, which)),
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Cut(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Repeat(from, to)),
    ]
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        let n = bytes.len() + 1;
        let span = |from: &Index, to: &Index| {
            let (from, to) = (from.index(n), to.index(n));
            from.min(to)..from.max(to)
        };
        match self {
            Change::Byte(at, byte) => {
                let at = at.index(n);
                if at < bytes.len() { bytes[at] = *byte } else { bytes.push(*byte) }
            }
            Change::Spice(at, which) => {
                let at = at.index(n);
                bytes.splice(at..at, which.get(SPICES).bytes());
            }
            Change::Cut(from, to) => drop(bytes.drain(span(from, to))),
            Change::Repeat(from, to) => {
                let part = bytes[span(from, to)].to_vec();
                bytes.extend(part);
            }
        }
    }
}

/// The seeds of a target, in the order of their names.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|cause| panic!("{}: {cause}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn check(name: &str) {
    let (_, target) = TARGETS.iter().find(|(it, _)| *it == name).unwrap();
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "fuzz/seeds/{name} is empty");
    for seed in &seeds {
        (0..=seed.len()).for_each(|end| target(&seed[..end]));
    }
    let cases = std::env::var("MCPGATE_FUZZ_CASES").map_or(CASES, |text| text.parse().expect("a number of cases"));
    // What fails is printed, and found again by the next run.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let input = (any::<Index>(), vec(change(), 0..8)).prop_map(|(seed, changes)| {
        let mut bytes = seed.get(&seeds).clone();
        changes.iter().for_each(|change| change.make(&mut bytes));
        Shown(bytes)
    });
    let checked = runner.run(&input, |Shown(bytes)| {
        target(&bytes);
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{name}: {failure}"));
}

/// Bytes that a failure shows as text.
struct Shown(Vec<u8>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[test]
fn every_target_has_seeds_and_is_run_by_a_program_of_its_own() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| {
        let entries = fs::read_dir(fuzz.join(folder)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| stem(entry.unwrap().path())).collect();
        names.sort();
        names
    };
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(names("seeds"), targets);
    assert_eq!(names("targets"), targets);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    assert!(targets.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
}

#[test]
fn request_heads() {
    check("request_head");
}

#[test]
fn chunked_bodies() {
    check("chunked_body");
}

#[test]
fn frames_on_a_websocket() {
    check("websocket_frames");
}

#[test]
fn messages_on_a_websocket() {
    check("websocket_message");
}

#[test]
fn lines_of_workers() {
    check("worker_lines");
}

#[test]
fn messages_of_workers() {
    check("worker_message");
}

#[test]
fn ids_in_long_lines() {
    check("id_scanner");
}

#[test]
fn messages_of_mcp_clients() {
    check("client_message");
}

#[test]
fn ids_of_events() {
    check("event_id");
}

#[test]
fn settings_files() {
    check("gateway_conf");
}

#[test]
fn files_of_servers() {
    check("servers_file");
}

#[test]
fn files_of_keys() {
    check("key_file");
}
