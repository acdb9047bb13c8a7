//! The binary and the components that the tests run: built once, by whoever comes first.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// The `wharf` binary.
///
/// `cargo test --workspace` has built it already. `cargo test -p wharf-tests` has not, so cargo is asked for it here, in
/// the way in which it is built there: with the features that the host's own tests need, or everything below it would be
/// compiled a second time. `WHARF_BIN` names another binary to test.
///
/// # Panics
///
/// When it can't be built.
pub fn wharf() -> &'static Path {
    static WHARF: OnceLock<PathBuf> = OnceLock::new();
    WHARF.get_or_init(|| {
        if let Some(path) = env::var_os("WHARF_BIN") {
            return PathBuf::from(path);
        }
        let folder = profile_folder();
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "test",
            Some(other) => other,
            None => panic!("{} is no folder of cargo's", folder.display()),
        };
        once("wharf", || {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["test", "--no-run", "--quiet", "--package", "wharf", "--test", "*", "--profile", profile]);
            cargo.current_dir(root());
            run(clean(&mut cargo));
        });
        let binary = folder.join("wharf");
        assert!(binary.is_file(), "cargo built no {}", binary.display());
        binary
    })
}

/// The component of a service of the shop (`user`) or of an odd guest (`hello-p2`).
///
/// # Panics
///
/// When there is none of this name, or it can't be built.
pub fn component(name: &str) -> &'static Path {
    static COMPONENTS: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let components = COMPONENTS.get_or_init(|| {
        let mut components = BTreeMap::new();
        for folder in [root().to_path_buf(), root().join("tests/guests")] {
            build_in(&folder);
            components.extend(built_in(&folder));
        }
        components
    });
    match components.get(name) {
        Some(path) => path,
        None => panic!("there is no component `{name}`, only {:?}", components.keys()),
    }
}

/// `name`'s component with a text in it replaced by another of the same length: a different build of the same guest.
///
/// # Panics
///
/// When the text is not there exactly once.
pub fn patched(name: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the component's layout must stay as it is");
    let mut wasm = fs::read(component(name)).expect("the component was built just now");
    let found: Vec<_> = (0..wasm.len()).filter(|at| wasm[*at..].starts_with(from.as_bytes())).collect();
    let [at] = found[..] else { panic!("{from:?} is in {name} {} times", found.len()) };
    wasm[at..at + to.len()].copy_from_slice(to.as_bytes());
    wasm
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the repository")
}

/// Where cargo put this test: `…/target/debug`.
fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("the system knows which program this is");
    test.ancestors().nth(2).expect("tests lie in `deps`").to_path_buf()
}

fn build_in(folder: &Path) {
    let wharf = wharf();
    once(&folder.display().to_string().replace('/', "-"), || {
        run(clean(Command::new(wharf).arg("build").current_dir(folder)));
    });
}

/// The components that `wharf build` has made of the manifest in `folder`.
fn built_in(folder: &Path) -> BTreeMap<String, PathBuf> {
    let text = fs::read_to_string(folder.join("wharf.toml")).expect("the manifest is in the repository");
    let sources = text.lines().filter_map(|line| line.strip_prefix("source = \"")?.split('"').next());
    sources
        .map(|source| {
            let name = source.rsplit('/').next().unwrap_or(source);
            let workspace = folder.join(source).parent().map(Path::to_path_buf).unwrap_or_default();
            let file = format!("{}.wasm", name.replace('-', "_"));
            (name.to_owned(), workspace.join("target/wasm32-wasip2/release").join(file))
        })
        .collect()
}

/// Does `work` once for all test binaries of one `cargo test`; without its stamp, cargo would be asked by each of them.
fn once(what: &str, work: impl FnOnce()) {
    let folder = profile_folder().join("wharf-tests");
    fs::create_dir_all(&folder).expect("cargo's folder can be written to");
    let lock = File::create(folder.join(format!("{what}.lock"))).expect("cargo's folder can be written to");
    lock.lock().expect("files can be locked");
    let stamp = folder.join(format!("{what}.stamp"));
    let run = this_run();
    if run.is_some() && fs::read_to_string(&stamp).ok() == run {
        return;
    }
    work();
    if let Some(run) = run {
        fs::write(stamp, run).expect("cargo's folder can be written to");
    }
}

/// What tells one `cargo test` from another: the process that started this one, and when it began.
fn this_run() -> Option<String> {
    let parent = std::os::unix::process::parent_id();
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from its end; the 22nd is the start time.
    let (_, fields) = stat.rsplit_once(')')?;
    let is_cargo = fs::read_to_string(format!("/proc/{parent}/comm")).is_ok_and(|name| name.trim() == "cargo");
    is_cargo.then(|| format!("{parent} {}", fields.split_whitespace().nth(19).unwrap_or_default()))
}

/// Without what cargo told this test about itself: it would make the next cargo believe that things have changed.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_BIN_") {
            command.env_remove(&*name);
        }
    }
    command.env_remove("CARGO_TARGET_TMPDIR").stdin(Stdio::null())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}):\n{said}", output.status);
}
