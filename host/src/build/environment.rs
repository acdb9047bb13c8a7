//! The environment of the programs that a build runs.
//!
//! `cargo run -- up` and `cargo test` put their own state into the environment: which toolchain rustup chose, which
//! package is running. A nested cargo would take it for its user's wish, and build with the toolchain of the wrong
//! folder. So programs of a build get an environment of their own, cleaned of what an outer cargo has left.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    process::Command,
};

/// Set by cargo for the program that it runs.
const CARGO_RUN: [&str; 9] = [
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MAKEFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_RUSTC_CURRENT_DIR",
    "CARGO_TARGET_TMPDIR",
];

/// The same, for names that go on.
const CARGO_RUN_PREFIXES: [&str; 2] = ["CARGO_PKG_", "CARGO_BIN_EXE_"];

/// Set by rustup for the cargo that it starts: the toolchain of the folder where *that* cargo was started.
const RUSTUP_RUN: [&str; 3] = ["RUSTUP_TOOLCHAIN", "RUSTUP_TOOLCHAIN_SOURCE", "RUST_RECURSION_COUNT"];

/// Meant for code of this machine, and read by cargo for every target: a linker flag in them breaks a component.
const HOST_FLAGS: [&str; 2] = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"];

/// The variables that a program of the build sees, and no others.
#[derive(Clone, Debug)]
pub(super) struct Environment(BTreeMap<OsString, OsString>);

// === impl Environment ===

impl Environment {
    /// This process's environment without what an outer cargo has left in it.
    pub(super) fn of_process() -> Self {
        Self::scrubbed(std::env::vars_os())
    }

    pub(super) fn scrubbed(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut vars: BTreeMap<OsString, OsString> = vars.into_iter().collect();
        // Without an outer cargo, RUSTUP_TOOLCHAIN is what the user wants.
        let under_cargo = vars.contains_key(OsStr::new("CARGO"));
        vars.retain(|name, _| {
            let Some(name) = name.to_str() else { return true };
            let left_behind = CARGO_RUN.contains(&name)
                || CARGO_RUN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || (under_cargo && RUSTUP_RUN.contains(&name));
            !left_behind && !HOST_FLAGS.contains(&name)
        });
        Self(vars)
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    /// A command that sees these variables only. The program is looked up in their `PATH`.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.0);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(vars: &[(&str, &str)]) -> Vec<String> {
        let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let names = Environment::scrubbed(vars).0.into_keys();
        names.map(|name| name.into_string().expect("ASCII names")).collect()
    }

    #[test]
    fn what_cargo_run_leaves_behind_is_removed() {
        let left = scrubbed(&[
            ("CARGO", "/toolchain/bin/cargo"),
            ("CARGO_MANIFEST_DIR", "/elsewhere"),
            ("CARGO_PKG_NAME", "wharf"),
            ("CARGO_BIN_EXE_wharf", "/elsewhere/wharf"),
            ("RUSTUP_TOOLCHAIN", "nightly"),
            ("RUST_RECURSION_COUNT", "1"),
        ]);
        assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn what_the_user_decided_stays() {
        let kept = [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
            "HOME",
            "PATH",
            "RUSTUP_AUTO_INSTALL",
            "RUSTUP_HOME",
        ];
        let vars: Vec<_> = kept.iter().map(|name| (*name, "x")).chain([("CARGO", "cargo")]).collect();
        assert_eq!(scrubbed(&vars), kept);
    }

    #[test]
    fn a_toolchain_chosen_by_the_user_is_kept_and_one_chosen_by_an_outer_cargo_is_not() {
        assert_eq!(scrubbed(&[("RUSTUP_TOOLCHAIN", "beta")]), ["RUSTUP_TOOLCHAIN"]);
        assert!(scrubbed(&[("RUSTUP_TOOLCHAIN", "beta"), ("CARGO", "cargo")]).is_empty());
    }

    #[test]
    fn flags_for_the_machines_own_code_do_not_reach_components() {
        assert!(scrubbed(&[("RUSTFLAGS", "-Clink-arg=-fuse-ld=mold"), ("CARGO_ENCODED_RUSTFLAGS", "-g")]).is_empty());
    }
}
