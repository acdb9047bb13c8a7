//! The compiler: a process of its own, which gives way to calls and takes nobody with it.
//!
//! Compiling takes all cores for seconds, and calls that run meanwhile must not feel it. A low priority for its threads is
//! not enough: they share locks with the threads that serve (those of the allocator, and the kernel's on the address space,
//! which every page fault takes), and who is put aside while it holds one lets all others wait. A process shares none. And
//! what makes the compiler run out of memory or die is the end of that process, and of one deploy.
//!
//! The program is this one: [`compile_with`] tells what to run, and [`serve_compiler`] is what runs there. A program that
//! only uses this library need not have it, and compiles where it is.

use super::configuration;
use std::{
    ffi::OsString,
    io::{self, Read, Write},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// How much memory compiling one component may take. Generous: 20 MB of JavaScript take a tenth of it.
const MAX_MEMORY: u64 = 8 << 30;

/// How nice a process can be to others.
const NICEST: i32 = 19;

/// The program, and its arguments.
static PROGRAM: OnceLock<(OsString, Vec<OsString>)> = OnceLock::new();

/// Components are compiled by this program with these arguments from now on, which comes to calling [`serve_compiler`]. What was
/// said first holds.
///
/// The program has to be of this very build: what it writes is run.
pub fn compile_with(program: impl Into<OsString>, args: impl IntoIterator<Item = OsString>) {
    let _ = PROGRAM.set((program.into(), args.into_iter().collect()));
}

/// Is the compiler: reads a component from standard input to its end, and writes its code to standard output.
///
/// # Errors
///
/// When that can't be read or written, or the bytes are none that the engine takes; the text is for people.
pub fn serve_compiler() -> Result<(), String> {
    let give_way = || -> io::Result<()> {
        rustix::process::setpriority_process(None, NICEST)?;
        let limit = rustix::process::Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
        Ok(rustix::process::setrlimit(rustix::process::Resource::Data, limit)?)
    };
    give_way().map_err(|error| format!("the compiler can't give way: {error}"))?;
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm).map_err(|error| format!("the component can't be read: {error}"))?;
    let code = wasmtime::Engine::new(&configuration())
        .and_then(|engine| engine.precompile_component(&wasm))
        // `{:#}` gives the causes too: the outermost alone says only "failed to parse".
        .map_err(|error| format!("{error:#}"))?;
    let mut out = io::stdout().lock();
    out.write_all(&code).and_then(|()| out.flush()).map_err(|error| format!("the code can't be written: {error}"))
}

/// The code of a component, for an engine of this [`configuration`].
pub(super) fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Vec<u8>, String> {
    match PROGRAM.get() {
        Some((program, args)) => compile_aside(program, args, wasm),
        None => engine.precompile_component(wasm).map_err(|error| format!("{error:#}")),
    }
}

fn compile_aside(program: &OsString, args: &[OsString], wasm: &[u8]) -> Result<Vec<u8>, String> {
    let wrong = |error: io::Error| format!("the compiler, {}, can't be run: {error}", program.display());
    let mut command = Command::new(program);
    command.args(args).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(wrong)?;
    // It reads all before it writes any, so neither waits for the other. One that ends before it has read all says why.
    let sent = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(wasm));
    let output = child.wait_with_output().map_err(wrong)?;
    if output.status.success() {
        return sent.map(|()| output.stdout).map_err(wrong);
    }
    match String::from_utf8_lossy(&output.stderr).trim() {
        "" => Err(format!("the compiler ended without a word ({}); was there too little memory?", output.status)),
        words => Err(words.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(script: &str, wasm: &[u8]) -> Result<Vec<u8>, String> {
        compile_aside(&"/bin/sh".into(), &["-c".into(), script.into()], wasm)
    }

    #[test]
    fn what_the_compiler_writes_is_the_code() {
        assert_eq!(by("cat", b"code"), Ok(b"code".to_vec()));
    }

    #[test]
    fn a_compiler_that_fails_says_why() {
        assert_eq!(by("echo no component >&2; exit 1", b""), Err("no component".into()));
        // One that does not even read the component.
        assert_eq!(by("echo no memory >&2; exit 1", &vec![0; 1 << 20]), Err("no memory".into()));
    }

    #[test]
    fn a_compiler_that_is_killed_is_an_error_and_no_code() {
        let error = by("echo half; kill -9 $$", b"").expect_err("it was killed");
        assert!(error.contains("SIGKILL"), "{error}");
        let error = compile_aside(&"/no/such/compiler".into(), &[], b"").expect_err("there is none");
        assert!(error.contains("/no/such/compiler"), "{error}");
    }
}
