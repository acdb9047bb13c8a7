//! Running the programs of a build so that they can be ended with all that they have started.
//!
//! Cargo is the root of a tree: it starts compilers, and a build command of the manifest starts whatever it likes. Whoever
//! ends only the root leaves the others computing for nobody. So each program is the leader of a process group, and the
//! group is ended.

use std::{
    collections::HashSet,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

/// What does not end of itself within this is killed.
const GRACE: Duration = Duration::from_secs(2);

/// The programs of a build that run now. Cloned, they are the same.
#[derive(Clone, Debug, Default)]
pub struct Programs(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    one_less: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ended: bool,
    /// By the process that leads the group. It is not reaped before it is taken out of here, so its number is its own.
    groups: HashSet<Pid>,
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Program {
    programs: Programs,
    pub(super) child: Child,
    leader: Pid,
}

// === impl Programs ===

impl Programs {
    /// Ends all of them, with everything that they have started, and lets none start from now on. Blocks until the
    /// programs themselves are gone: a moment, or a few seconds where one of them does not want to.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        signal(&state, Signal::TERM);
        let running = |state: &mut State| !state.groups.is_empty();
        let waited = self.0.one_less.wait_timeout_while(state, GRACE, running);
        let (state, late) = waited.unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            signal(&state, Signal::KILL);
            // Bounded too: what left its group may still hold a pipe that is read from.
            drop(self.0.one_less.wait_timeout_while(state, GRACE, running));
        }
    }

    /// Whether they were ended.
    #[must_use]
    pub fn are_ended(&self) -> bool {
        self.state().ended
    }

    /// Starts a program.
    ///
    /// # Errors
    /// What the system says, or that the build was ended.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Program> {
        // Held while it starts, so that none slips past `end`.
        let mut state = self.state();
        if state.ended {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the build was ended"));
        }
        let child = command.process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        state.groups.insert(leader);
        Ok(Program { programs: self.clone(), child, leader })
    }

    /// Runs a program to its end, and takes what it writes to standard output and, where `command` pipes it, to standard
    /// error.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub(super) fn output(&self, command: &mut Command) -> io::Result<Output> {
        let mut program = self.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let (stdout, stderr) = (program.child.stdout.take(), program.child.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let stderr = scope.spawn(|| read(stderr));
            (read(stdout), stderr.join().unwrap_or_else(|_| Ok(Vec::new())))
        });
        let status = program.wait()?;
        Ok(Output { status, stdout: stdout?, stderr: stderr? })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal(state: &State, signal: Signal) {
    for leader in &state.groups {
        // A group that has just ended is no error.
        let _ = kill_process_group(*leader, signal);
    }
}

fn read(pipe: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

// === impl Program ===

impl Program {
    /// Waits for its end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn wait(mut self) -> io::Result<ExitStatus> {
        self.settle();
        self.child.wait()
    }

    /// Waits for its end without reaping it, and takes it out of those that run.
    fn settle(&self) {
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.leader), exited), Err(Errno::INTR)) {}
        let mut state = self.programs.state();
        if state.groups.remove(&self.leader) {
            if state.ended {
                // What it has left behind had its warning too.
                let _ = kill_process_group(self.leader, Signal::KILL);
            }
            self.programs.0.one_less.notify_all();
        }
    }
}

impl Drop for Program {
    /// One that was not waited for: whoever started it has failed.
    fn drop(&mut self) {
        if self.programs.state().groups.contains(&self.leader) {
            let _ = kill_process_group(self.leader, Signal::KILL);
            self.settle();
            let _ = self.child.wait();
        }
    }
}
