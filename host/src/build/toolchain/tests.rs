use std::{fs, os::unix::fs::PermissionsExt};

use super::{super::testing::TempDir, *};

/// A folder that stands in for the whole `PATH`, so that only the programs put into it exist.
struct Machine(TempDir);

// === impl Machine ===

impl Machine {
    fn new() -> Self {
        Self(TempDir::new())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn program(self, name: &str, script: &str) -> Self {
        let path = self.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        self
    }

    fn rustc(self) -> Self {
        let root = self.path().display().to_string();
        self.program("rustc", &format!("echo {root}/sysroot\necho tuple\necho {root}/sysroot/target"))
    }

    fn file(self, name: &str) -> Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
        fs::write(path, "").expect("a file");
        self
    }

    fn linkers(self) -> Self {
        let bin = "sysroot/lib/rustlib/tuple/bin";
        self.file(&format!("{bin}/wasm-component-ld")).file(&format!("{bin}/gcc-ld/wasm-ld"))
    }

    /// A toolchain that an earlier run has made.
    fn finished(self) -> Self {
        self.file("cache/debian-wasip2-1/bin/rustc").executable("cache/debian-wasip2-1/bin/rustc")
    }

    fn executable(self, name: &str) -> Self {
        fs::set_permissions(self.path().join(name), fs::Permissions::from_mode(0o755)).expect("permissions");
        self
    }

    fn discover(&self, vars: &[(&str, &str)]) -> (Result<Toolchain, ToolchainError>, Vec<String>) {
        let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment = Environment::scrubbed(vars.chain([("PATH".into(), self.path().into())]));
        let mut lines = Vec::new();
        let cache = self.path().join("cache");
        let mut progress = |line: &str| lines.push(line.to_owned());
        let found = Toolchain::discover_in(environment, self.path(), &cache, &Programs::default(), &mut progress);
        (found, lines)
    }
}

#[test]
fn an_installed_target_is_used_as_it_is() {
    let machine = Machine::new().rustc().file("sysroot/target/libstd.rlib");
    let (found, lines) = machine.discover(&[]);
    let toolchain = found.expect("a toolchain");
    assert_eq!(toolchain.debian_folder(), None);
    assert_eq!(toolchain.environment.get(RUSTC), None);
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn without_rust_the_error_says_to_install_it() {
    let (found, _) = Machine::new().discover(&[]);
    let error = found.expect_err("no rustc").to_string();
    assert!(error.starts_with("`rustc` can't be run: install Rust"), "{error}");
}

#[test]
fn without_target_and_debian_one_error_says_what_to_do() {
    let sh = fs::canonicalize("/bin/sh").expect("a shell");
    let machine = Machine::new().rustc().linkers();
    std::os::unix::fs::symlink(sh, machine.path().join("sh")).expect("a link");
    let (found, lines) = machine.discover(&[]);
    let error = found.expect_err("nothing to build with").to_string();
    assert_eq!(
        error,
        "Rust's target wasm32-wasip2 is missing, and components can't be built without it.\n  \
         To install it: rustup target add wasm32-wasip2\n  \
         Debian's packages can't take its place here: apt-get: not found (is this a Debian machine?)"
    );
    assert_eq!(lines, Vec::<String>::new(), "what is said once is not said twice");
    assert!(!machine.path().join("cache").exists(), "nothing is left behind");
}

#[test]
fn a_rust_without_linker_for_components_is_named() {
    let (found, _) = Machine::new().rustc().discover(&[]);
    let error = found.expect_err("no linker").to_string();
    assert!(error.contains("rustup target add wasm32-wasip2"), "{error}");
    assert!(error.contains("bin/wasm-component-ld is missing"), "{error}");
}

#[test]
fn a_rustc_that_fails_is_quoted() {
    let machine = Machine::new().program("rustc", "echo 'toolchain 1.95.0 is not installed' >&2; exit 1");
    let error = machine.discover(&[]).0.expect_err("a broken rustc").to_string();
    assert!(error.contains("--print target-libdir --target wasm32-wasip2` failed"), "{error}");
    assert!(error.ends_with("toolchain 1.95.0 is not installed"), "{error}");
}

#[test]
fn a_finished_debian_toolchain_is_taken_in_silence() {
    let sh = fs::canonicalize("/bin/sh").expect("a shell");
    let machine = Machine::new().rustc().linkers().finished();
    std::os::unix::fs::symlink(sh, machine.path().join("sh")).expect("a link");
    let (found, lines) = machine.discover(&[(RUSTFLAGS, "-Copt-level=1")]);
    let toolchain = found.expect("a toolchain");
    assert_eq!(lines, Vec::<String>::new());

    let folder = machine.path().join("cache/debian-wasip2-1").canonicalize().expect("the folder");
    assert_eq!(toolchain.debian_folder(), Some(&*folder));
    assert_eq!(toolchain.environment.get(RUSTC), Some(folder.join("bin/rustc").as_os_str()));
    let flags = toolchain.environment.get(RUSTFLAGS).and_then(|flags| flags.to_str()).expect("flags");
    assert!(flags.starts_with("-Copt-level=1 --sysroot "), "the user's own flags stay: {flags}");
}
