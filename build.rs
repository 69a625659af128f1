//! Links releases so that the program gets smaller.
//!
//! Addresses that are only known at start are written down in a tenth of the room (`DT_RELR`), which glibc reads since 2.36. So that a
//! program runs where it was built, that is done only where such a glibc is.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|it| it == value);
    let is_native = env::var("HOST").ok() == env::var("TARGET").ok();
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ENV", "gnu") && is_native && reads_relr() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether the glibc of this machine is 2.36 or later.
#[expect(clippy::disallowed_methods, reason = "no worker is started here")]
fn reads_relr() -> bool {
    let Ok(said) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.trim().strip_prefix("glibc ").and_then(|it| it.split_once('.'));
    let version = version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.is_some_and(|version: (u32, u32)| (2, 36) <= version)
}
