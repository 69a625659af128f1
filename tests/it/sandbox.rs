//! Least privilege: the systemd unit, and what the gateway itself needs of a system, which is one folder to write to.
//!
//! Tests that need a tool (`systemd-analyze`, `strace`, `unshare` with the right to use it) say so and are skipped without.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::support::{Folder, Gateway, Launch, Server, command, root};

/// Tenths of systemd's measure of exposure, from 0 (none) to 100.
const EXPOSURE_MAX: &str = "20";

/// A system call that changes a file, or opens it in a way that lets it be changed.
const CHANGES: &[&str] = &[
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "truncate",
    "chmod",
    "fchmodat",
    "chown",
    "lchown",
    "fchownat",
    "mknod",
    "mknodat",
    "creat",
    "utimensat",
    "setxattr",
];

/// A user who owns nothing.
const NOBODY: u32 = 65534;

/// Runs what follows as that user, for root.
const SETPRIV: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

/// Whether a command can be had and succeeds; else the test that needs it is skipped, and says so.
fn can(program: &str, arguments: &[&str]) -> bool {
    let status = command(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let can = status.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: `{program} {}` does not work here", arguments.join(" "));
    }
    can
}

fn output(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = command(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A folder below that the user who owns nothing can write to.
fn folder_of_nobody(folder: &Folder) -> PathBuf {
    let path = folder.path().join("own");
    fs::create_dir(&path).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    path
}

/// The unit, starting the gateway of this build.
fn unit(folder: &Folder) -> String {
    let text = fs::read_to_string(root().join("scripts/mcpgate.service")).unwrap();
    let text = text.replace("ExecStart=/usr/bin/mcpgate", &format!("ExecStart={}", env!("CARGO_BIN_EXE_mcpgate")));
    folder.file("mcpgate.service", &text).display().to_string()
}

/// Starts the bundled server with `DATA_DIR` as its one place to write to, has it used in every way that writes, and stops it.
#[track_caller]
fn use_it(launch: Launch) {
    let mut gateway: Gateway = launch.set("EXECUTION_MODE", "subprocess").start();
    let create = r#"{"action":"create","name":"n"}"#;
    gateway.call("journeys_tool", create).expect_status(200);
    gateway.call("journeys_tool", r#"{"action":"list"}"#).expect_status(200);
    gateway.post("/tools/journeys_tool/stream", r#"{"arguments":{"action":"list"}}"#).expect_status(200);
    gateway.post("/admin/workers/journeys-1/restart", "").expect_status(202);
    gateway.get("/stats").expect_status(200);
    assert!(gateway.stop().success());
}

#[test]
fn the_unit_is_sound_and_leaves_little_exposed() {
    if !can("systemd-analyze", &["--version"]) {
        return;
    }
    let folder = Folder::new();
    let unit = unit(&folder);
    assert_eq!(output("systemd-analyze", &["verify", &unit]), (true, String::new()));
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let (is_tight, table) = output("systemd-analyze", &["security", "--offline=true", &threshold, &unit]);
    assert!(is_tight, "{table}");
}

#[test]
fn only_the_data_folder_is_written_to_and_only_with_system_calls_that_the_unit_allows() {
    if !can("strace", &["-f", "-D", "-o", "/dev/null", "true"]) {
        return;
    }
    let folder = Folder::new();
    let own = folder_of_nobody(&folder);
    let (data, trace) = (own.join("data"), own.join("trace"));
    // SQLite gives files away when it is root, which the unit's user is not.
    let demote = if rustix::process::geteuid().is_root() { SETPRIV } else { "" };
    let strace = format!("exec {demote} strace -f -D -qq -s 4096 -o {} \"$0\" \"$@\"", trace.display());
    use_it(Launch::new(Server::Bundled).set("DATA_DIR", data.to_str().unwrap()).shell_prelude(&strace));

    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<(&str, &str)> = trace.lines().filter_map(system_call).collect();
    let is_ours = |path: &str| Path::new(path).starts_with(&data) || path == "/dev/null";
    let elsewhere: Vec<_> =
        calls.iter().filter(|(name, rest)| written(name, rest).is_some_and(|it| !is_ours(it))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    assert!(
        calls.iter().any(|(name, rest)| written(name, rest).is_some_and(|it| it.ends_with(".db"))),
        "it wrote nothing"
    );

    if can("systemd-analyze", &["syscall-filter", "@system-service"]) {
        let allowed = allowed_calls();
        let refused: BTreeSet<&str> =
            calls.iter().map(|(name, _)| *name).filter(|name| !allowed.contains(*name)).collect();
        assert!(refused.is_empty(), "the unit does not allow {refused:?}");
    }
}

/// Name and the rest of a line of `strace -f`, where a call begins.
fn system_call(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(|letter: char| letter.is_ascii_digit()).trim_start();
    let (name, rest) = line.split_once('(')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    is_name.then_some((name, rest))
}

/// The file that a call changes or may change afterwards. What `/proc/self` has is the process itself.
fn written<'t>(name: &str, rest: &'t str) -> Option<&'t str> {
    let opens =
        name.starts_with("open") && ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|it| rest.contains(it));
    let path = rest.split('"').nth(1)?;
    ((opens || CHANGES.contains(&name)) && !path.starts_with("/proc/self/")).then_some(path)
}

/// What `SystemCallFilter=` of the unit comes to.
fn allowed_calls() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("scripts/mcpgate.service")).unwrap();
    // The first exec is that of systemd itself.
    let mut allowed = BTreeSet::from(["execve".to_owned()]);
    for filter in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let is_taken_away = filter.starts_with('~');
        let calls = filter.trim_start_matches('~').split(' ').flat_map(calls_of);
        if is_taken_away {
            let refused: BTreeSet<String> = calls.collect();
            allowed.retain(|call| !refused.contains(call));
        } else {
            allowed.extend(calls);
        }
    }
    allowed
}

/// The calls of a group, or a call.
fn calls_of(word: &str) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let (_, group) = output("systemd-analyze", &["syscall-filter", word]);
    let members = group.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(calls_of).collect()
}

#[test]
fn it_runs_as_a_user_who_owns_nothing_on_a_system_that_cannot_be_written_to() {
    let as_nobody: Vec<&str> = ["--mount"].into_iter().chain(SETPRIV.split(' ')).collect();
    if !can("unshare", &[&as_nobody[..], &[env!("CARGO_BIN_EXE_mcpgate"), "--version"]].concat()) {
        return;
    }
    let folder = Folder::new();
    let data = folder_of_nobody(&folder);
    let shown = data.display();
    let inside = format!(
        "mount --bind {shown} {shown} && mount --bind / / && mount -o remount,ro,bind / && mount --rbind {shown} {shown} && \
         exec {SETPRIV} \"$0\" \"$@\""
    );
    let prelude = format!("exec unshare --mount sh -c '{inside}' \"$0\" \"$@\"");
    use_it(Launch::new(Server::Bundled).set("DATA_DIR", data.to_str().unwrap()).shell_prelude(&prelude));
    let written: Vec<String> =
        fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(written.iter().any(|name| name.ends_with(".db")), "{written:?}");
}
