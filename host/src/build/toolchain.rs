//! Finding, or making, what compiles a component.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{TARGET, environment::Environment, programs::Programs};

/// Makes a toolchain from Debian's packages; says how in its own head.
const DEBIAN_SYSROOT: &str = include_str!("debian-sysroot.sh");

/// The variables that make a plain `cargo build --target wasm32-wasip2` use the toolchain made from Debian's packages.
const RUSTC: &str = "RUSTC";
const LINKER: &str = "CARGO_TARGET_WASM32_WASIP2_LINKER";
const RUSTFLAGS: &str = "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS";

/// A Rust toolchain that can build components.
#[derive(Clone, Debug)]
pub struct Toolchain {
    environment: Environment,
    programs: Programs,
    origin: Origin,
}

/// Where a toolchain's standard library for `wasm32-wasip2` comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// Beside the machine's own rustc, as rustup installs it.
    Installed,
    /// Built from Debian's packages, in this folder of the cache.
    Debian(PathBuf),
}

/// Why no component can be built on this machine.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// There is no Rust at all.
    #[error("`{program}` can't be run: install Rust (https://rustup.rs), or give ready components in the manifest")]
    NoRust {
        /// The program that was tried.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// rustc does not answer the questions that every rustc answers.
    #[error("`{command}` failed:\n{output}")]
    Rustc {
        /// The question.
        command: String,
        /// What it wrote to standard error.
        output: String,
    },

    /// Neither rustup's target nor Debian's packages can be had.
    #[error(
        "Rust's target {TARGET} is missing, and components can't be built without it.\n  \
         To install it: rustup target add {TARGET}\n  \
         Debian's packages can't take its place here: {cause}"
    )]
    NoTarget {
        /// Why the packages could not take the target's place.
        cause: String,
    },

    /// No folder is known to keep what is shared between projects.
    #[error("neither XDG_CACHE_HOME nor HOME is set to an absolute path, so there is no folder for Wharf's cache")]
    NoCacheFolder,
}

/// The folder for what all projects of a user share: `$XDG_CACHE_HOME/wharf`, by default `~/.cache/wharf`.
///
/// # Errors
/// [`ToolchainError::NoCacheFolder`] when the environment names neither of the two.
pub fn user_cache_dir() -> Result<PathBuf, ToolchainError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("wharf"))
        .ok_or(ToolchainError::NoCacheFolder)
}

// === impl Toolchain ===

impl Toolchain {
    /// Finds the toolchain for components in and below `project` (rustup chooses by folder), and makes one from
    /// Debian's packages in `cache` when the target is missing. That takes minutes the first time, and `progress` is
    /// told line by line what is being done; it is told nothing when there is nothing to do.
    ///
    /// Blocks the thread. What it runs, and later the builds by this toolchain, are among `programs`.
    ///
    /// # Errors
    /// When there is no Rust, or no way to the target; the error says what to do.
    pub fn discover(
        project: &Path,
        cache: &Path,
        programs: &Programs,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, ToolchainError> {
        Self::discover_in(Environment::of_process(), project, cache, programs, progress)
    }

    fn discover_in(
        environment: Environment,
        project: &Path,
        cache: &Path,
        programs: &Programs,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, ToolchainError> {
        let rustc = Rustc::ask(&environment, project, programs)?;
        if rustc.target_libdir.is_dir() {
            return Ok(Self { environment, programs: programs.clone(), origin: Origin::Installed });
        }
        Self::from_debian(environment, &rustc, cache, programs, progress)
            .map_err(|cause| ToolchainError::NoTarget { cause })
    }

    fn from_debian(
        mut environment: Environment,
        rustc: &Rustc,
        cache: &Path,
        programs: &Programs,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, String> {
        let linkers = rustc.sysroot.join("lib/rustlib").join(&rustc.host).join("bin");
        let linker = linkers.join("wasm-component-ld");
        let wasm_ld = linkers.join("gcc-ld/wasm-ld");
        for path in [&linker, &wasm_ld] {
            if !path.is_file() {
                return Err(format!("{} is missing (rustup's toolchains have it)", path.display()));
            }
        }
        // NB: cargo splits the flags at white space, and there is no way to quote it.
        for path in [cache, &wasm_ld] {
            if path.to_str().is_none_or(|path| path.contains(char::is_whitespace)) {
                return Err(format!("{}: the path must be UTF-8 without white space", path.display()));
            }
        }

        // By its path: rustup's `cargo` would choose a toolchain for the folder that the script builds in.
        let cargo = rustc.sysroot.join("bin/cargo");
        let cargo = if cargo.is_file() { cargo } else { PathBuf::from("cargo") };
        let folder = run_debian_script(&environment, cache, &cargo, programs, progress)?;
        let flags = format!("--sysroot {}/root/usr -Clink-arg=--wasm-ld-path={}", folder.display(), wasm_ld.display());
        let flags = match environment.get(RUSTFLAGS) {
            Some(users) => [users, flags.as_ref()].join(" ".as_ref()),
            None => OsString::from(flags),
        };
        environment.set(RUSTC, folder.join("bin/rustc"));
        environment.set(LINKER, linker);
        environment.set(RUSTFLAGS, flags);
        Ok(Self { environment, programs: programs.clone(), origin: Origin::Debian(folder) })
    }

    /// A toolchain of whatever programs the environment offers.
    #[cfg(test)]
    pub(super) fn installed(environment: Environment) -> Self {
        Self { environment, programs: Programs::default(), origin: Origin::Installed }
    }

    /// What runs by this toolchain.
    pub(super) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The folder of the toolchain made from Debian's packages, `None` where Rust's own target is used.
    #[must_use]
    pub fn debian_folder(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Installed => None,
            Origin::Debian(folder) => Some(folder),
        }
    }

    /// A command that sees the toolchain: a plain `cargo build --target wasm32-wasip2` in it works.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.environment.command(program)
    }
}

/// What the machine's rustc says of itself.
#[derive(Debug)]
struct Rustc {
    sysroot: PathBuf,
    host: String,
    target_libdir: PathBuf,
}

// === impl Rustc ===

impl Rustc {
    const QUESTIONS: [&str; 8] =
        ["--print", "sysroot", "--print", "host-tuple", "--print", "target-libdir", "--target", TARGET];

    fn ask(environment: &Environment, project: &Path, programs: &Programs) -> Result<Self, ToolchainError> {
        let program = environment.get(RUSTC).unwrap_or("rustc".as_ref()).to_owned();
        let mut rustc = environment.command(&program);
        rustc.args(Self::QUESTIONS).current_dir(project).stderr(Stdio::piped());
        let output = programs
            .output(&mut rustc)
            .map_err(|source| ToolchainError::NoRust { program: program.to_string_lossy().into_owned(), source })?;
        let answers = String::from_utf8_lossy(&output.stdout);
        match answers.lines().collect::<Vec<_>>()[..] {
            [sysroot, host, target_libdir] if output.status.success() => {
                Ok(Self { sysroot: sysroot.into(), host: host.to_owned(), target_libdir: target_libdir.into() })
            }
            _ => Err(ToolchainError::Rustc {
                command: format!("{} {}", program.to_string_lossy(), Self::QUESTIONS.join(" ")),
                output: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
            }),
        }
    }
}

/// Runs the script and returns the toolchain's folder, or the script's last word of what went wrong.
fn run_debian_script(
    environment: &Environment,
    cache: &Path,
    cargo: &Path,
    programs: &Programs,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, String> {
    let mut shell = environment.command("sh");
    shell.args(["-c", DEBIAN_SYSROOT, "debian-sysroot"]).args([cache, cargo]);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = programs.spawn(&mut shell).map_err(|error| format!("`sh` can't be run: {error}"))?;

    // One after the other is safe: the script writes a single line to standard output.
    let mut cause = None;
    if let Some(stderr) = program.child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            match line.strip_prefix("error: ") {
                Some(error) => cause = Some(error.to_owned()),
                None => progress(&line),
            }
        }
    }
    let mut folder = String::new();
    if let Some(mut stdout) = program.child.stdout.take() {
        stdout.read_to_string(&mut folder).map_err(|error| format!("no answer from the script: {error}"))?;
    }
    let status = program.wait().map_err(|error| format!("the script was lost: {error}"))?;
    match folder.trim_end() {
        folder if status.success() && !folder.is_empty() => Ok(PathBuf::from(folder)),
        _ => Err(cause.unwrap_or_else(|| format!("the script that unpacks them ended with {status}"))),
    }
}

#[cfg(test)]
mod tests;
