//! From the sources of services to components.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use super::{
    TARGET, Toolchain,
    cargo::{Message, Metadata, Package},
};

/// A component to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildJob {
    /// The service that it is for, for messages.
    pub service: String,
    /// The folder of the sources: the crate, or where `command` runs.
    pub dir: PathBuf,
    /// The manifest's build command, run by `sh -c`. Without one, `dir` is a crate for cargo.
    pub command: Option<String>,
    /// The file that the build makes, relative to `dir`. Without it, the file that cargo makes of the crate in `dir`.
    pub artifact: Option<PathBuf>,
}

/// A component that is built and up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltComponent {
    /// The service that it is for.
    pub service: String,
    /// The `.wasm` file.
    pub path: PathBuf,
}

/// Why a component was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The folder of a service's sources can't be read.
    #[error("service `{service}`: the source folder {} can't be read: {source}", dir.display())]
    NoSource {
        /// The service.
        service: String,
        /// The folder that the manifest names.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// There are sources, but nothing says how to build them.
    #[error(
        "service `{service}`: {} holds no Cargo.toml with a [package]; \
         for other languages give `build` and `artifact`",
        dir.display()
    )]
    NotACrate {
        /// The service.
        service: String,
        /// The folder that the manifest names.
        dir: PathBuf,
    },

    /// The crate is an ordinary library or a program.
    #[error(
        "service `{service}`: crate `{package}` makes no component; \
         its Cargo.toml needs a [lib] section with crate-type = [\"cdylib\"]"
    )]
    NoComponent {
        /// The service.
        service: String,
        /// The crate's name.
        package: String,
    },

    /// A program of the build could not be started.
    #[error("{}: `{command}` can't be run: {source}", name(services))]
    Spawn {
        /// The services that were to be built.
        services: Vec<String>,
        /// The command as one would type it.
        command: String,
        /// What the system said.
        source: io::Error,
    },

    /// The build itself failed. What it wrote is on standard error already.
    #[error("{}: `{command}` failed ({status}) in {}; the output above says why", name(services), dir.display())]
    Failed {
        /// The services that have no component now.
        services: Vec<String>,
        /// The command as one would type it.
        command: String,
        /// The folder that it ran in.
        dir: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },

    /// Cargo's answer can't be understood.
    #[error("{}: unexpected output of `{command}`: {detail}", name(services))]
    Answer {
        /// The services that were to be built.
        services: Vec<String>,
        /// The command as one would type it.
        command: String,
        /// What is wrong with the answer.
        detail: String,
    },

    /// The build succeeded and made something else.
    #[error("service `{service}`: `{command}` succeeded, but there is no component at {}", path.display())]
    NoArtifact {
        /// The service.
        service: String,
        /// The command as one would type it.
        command: String,
        /// The file that was expected.
        path: PathBuf,
    },
}

/// Builds what is out of date of `jobs`, and returns the components in the order of the jobs.
///
/// What the builds write goes to standard error as it comes. Blocks the thread; the [`Programs`](super::Programs) that
/// the toolchain was discovered with end it early, as a build that failed.
///
/// # Errors
/// When a build fails. The other crates of the same workspace are built nevertheless; jobs of other workspaces and
/// with commands of their own may not be.
pub fn build_components(toolchain: &Toolchain, jobs: &[BuildJob]) -> Result<Vec<BuiltComponent>, BuildError> {
    let mut plan = Plan::default();
    for (index, job) in jobs.iter().enumerate() {
        plan.add(toolchain, index, job)?;
    }

    let mut paths: BTreeMap<usize, PathBuf> = BTreeMap::new();
    for workspace in plan.workspaces.values() {
        workspace.build(toolchain, jobs, &mut paths)?;
    }
    for (index, artifact) in plan.commands {
        run_command(toolchain, &jobs[index])?;
        paths.insert(index, artifact);
    }
    jobs.iter().enumerate().map(|(index, job)| component(job, paths.remove(&index))).collect()
}

/// The component of a job, where its build says that it is.
fn component(job: &BuildJob, path: Option<PathBuf>) -> Result<BuiltComponent, BuildError> {
    let path = match (&job.artifact, path) {
        (Some(artifact), _) => job.dir.join(artifact),
        (None, path) => path.unwrap_or_default(),
    };
    let service = job.service.clone();
    if path.is_file() {
        return Ok(BuiltComponent { service, path });
    }
    let command = job.command.clone().unwrap_or_else(|| cargo_build(&[]));
    Err(BuildError::NoArtifact { service, command, path })
}

/// Builds again and again, and asks cargo for what it knows only once.
#[derive(Debug)]
pub struct Builder {
    toolchain: Toolchain,
    plan: Plan,
}

/// Where one of cargo's workspaces has what.
#[derive(Clone, Debug)]
pub struct Crates {
    /// Its own folder.
    pub root: PathBuf,
    /// Where cargo writes to.
    pub target: PathBuf,
    /// The folders of its crates.
    pub members: Vec<PathBuf>,
}

/// What came of a build.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The components that are up to date now.
    pub built: Vec<BuiltComponent>,
    /// Why others are not.
    pub errors: Vec<BuildError>,
}

/// What has to be run. Jobs are named by their place in the list of jobs.
#[derive(Debug, Default)]
struct Plan {
    /// By the workspace's folder.
    workspaces: BTreeMap<PathBuf, Workspace>,
    /// Jobs with a command of their own, and where their component is expected.
    commands: Vec<(usize, PathBuf)>,
}

/// Crates that one call of cargo builds.
#[derive(Debug)]
struct Workspace {
    metadata: Metadata,
    jobs: Vec<(usize, Package)>,
}

// === impl Builder ===

impl Builder {
    /// One that builds by this toolchain.
    #[must_use]
    pub fn new(toolchain: Toolchain) -> Self {
        Self { toolchain, plan: Plan::default() }
    }

    /// Builds what is out of date of `jobs` and can be built. Blocks the thread, see [`build_components`].
    pub fn build(&mut self, jobs: &[BuildJob]) -> Outcome {
        let mut outcome = Outcome::default();
        self.plan_for(jobs, &mut outcome.errors);
        let mut paths = BTreeMap::new();
        for workspace in self.plan.workspaces.values() {
            outcome.errors.extend(workspace.build(&self.toolchain, jobs, &mut paths).err());
        }
        for (index, artifact) in std::mem::take(&mut self.plan.commands) {
            match run_command(&self.toolchain, &jobs[index]) {
                Ok(()) => _ = paths.insert(index, artifact),
                Err(error) => outcome.errors.push(error),
            }
        }
        for (index, path) in paths {
            match component(&jobs[index], Some(path)) {
                Ok(built) => outcome.built.push(built),
                Err(error) => outcome.errors.push(error),
            }
        }
        outcome
    }

    /// The workspaces that these jobs are built in.
    pub fn workspaces(&mut self, jobs: &[BuildJob]) -> Vec<Crates> {
        // What is wrong with a job, its build says.
        self.plan_for(jobs, &mut Vec::new());
        let workspaces = self.plan.workspaces.values().map(|Workspace { metadata, .. }| Crates {
            root: metadata.workspace_root.clone(),
            target: metadata.target_directory.clone(),
            members: metadata.folders().map(Path::to_owned).collect(),
        });
        workspaces.collect()
    }

    /// Lets cargo be asked again what crates there are.
    pub fn forget(&mut self) {
        self.plan = Plan::default();
    }

    fn plan_for(&mut self, jobs: &[BuildJob], errors: &mut Vec<BuildError>) {
        self.plan.commands.clear();
        self.plan.workspaces.values_mut().for_each(|workspace| workspace.jobs.clear());
        for (index, job) in jobs.iter().enumerate() {
            errors.extend(self.plan.add(&self.toolchain, index, job).err());
        }
    }
}

// === impl BuildError ===

impl BuildError {
    /// The services that it is about.
    #[must_use]
    pub fn services(&self) -> Vec<&str> {
        match self {
            Self::NoSource { service, .. }
            | Self::NotACrate { service, .. }
            | Self::NoComponent { service, .. }
            | Self::NoArtifact { service, .. } => vec![service],
            Self::Spawn { services, .. } | Self::Failed { services, .. } | Self::Answer { services, .. } => {
                services.iter().map(String::as_str).collect()
            }
        }
    }
}

// === impl Plan ===

impl Plan {
    fn add(&mut self, toolchain: &Toolchain, index: usize, job: &BuildJob) -> Result<(), BuildError> {
        let dir = job.dir.canonicalize().map_err(|source| BuildError::NoSource {
            service: job.service.clone(),
            dir: job.dir.clone(),
            source,
        })?;
        if let (Some(_), Some(artifact)) = (&job.command, &job.artifact) {
            self.commands.push((index, job.dir.join(artifact)));
            return Ok(());
        }

        let known = self.workspaces.values().any(|workspace| workspace.metadata.package_in(&dir).is_some());
        if !known {
            let metadata = ask_metadata(toolchain, job, &dir)?;
            let root = metadata.workspace_root.clone();
            self.workspaces.entry(root).or_insert(Workspace { metadata, jobs: Vec::new() });
        }
        let found = self.workspaces.values_mut().find_map(|workspace| {
            let package = workspace.metadata.package_in(&dir)?.clone();
            Some((workspace, package))
        });
        let Some((workspace, package)) = found else {
            return Err(BuildError::NotACrate { service: job.service.clone(), dir: job.dir.clone() });
        };
        let Some(file_name) = package.component_file_name() else {
            return Err(BuildError::NoComponent { service: job.service.clone(), package: package.name });
        };

        if job.command.is_some() {
            let release = workspace.metadata.target_directory.join(TARGET).join("release");
            self.commands.push((index, release.join(file_name)));
        } else {
            workspace.jobs.push((index, package));
        }
        Ok(())
    }
}

// === impl Workspace ===

impl Workspace {
    /// Builds the crates and adds the component of each job to `paths`, also when others can't be built.
    fn build(
        &self,
        toolchain: &Toolchain,
        jobs: &[BuildJob],
        paths: &mut BTreeMap<usize, PathBuf>,
    ) -> Result<(), BuildError> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.jobs.iter().map(|(_, package)| package.name.as_str()).collect();
        let command = cargo_build(&names);
        let services = || self.jobs.iter().map(|(index, _)| jobs[*index].service.clone()).collect::<Vec<_>>();
        let spawn = |source| BuildError::Spawn { services: services(), command: command.clone(), source };

        let mut cargo = toolchain.command("cargo");
        // --keep-going: then exactly the services that failed have no component at the end, and can be named.
        cargo.args(["build", "--release", "--target", TARGET, "--keep-going"]);
        cargo.arg("--message-format=json-render-diagnostics");
        for (_, package) in &self.jobs {
            cargo.args(["-p", &package.id]);
        }
        cargo.current_dir(&self.metadata.workspace_root).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut program = toolchain.programs().spawn(&mut cargo).map_err(spawn)?;

        if let Some(stdout) = program.child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A line that is no message was printed by a compiler plug-in: not ours to judge.
                let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_str(&line) else { continue };
                let Some(component) = artifact.component() else { continue };
                for (index, _) in self.jobs.iter().filter(|(_, package)| package.id == artifact.package_id) {
                    paths.insert(*index, component.to_owned());
                }
            }
        }
        let status = program.wait().map_err(spawn)?;
        if !status.success() {
            let unbuilt = self.jobs.iter().filter(|(index, _)| !paths.contains_key(index));
            let unbuilt: Vec<_> = unbuilt.map(|(index, _)| jobs[*index].service.clone()).collect();
            return Err(BuildError::Failed {
                services: if unbuilt.is_empty() { services() } else { unbuilt },
                command,
                dir: self.metadata.workspace_root.clone(),
                status,
            });
        }
        Ok(())
    }
}

/// The call as one would type it, for messages.
fn cargo_build(packages: &[&str]) -> String {
    let mut command = format!("cargo build --release --target {TARGET}");
    for package in packages {
        command.push_str(" -p ");
        command.push_str(package);
    }
    command
}

fn ask_metadata(toolchain: &Toolchain, job: &BuildJob, dir: &Path) -> Result<Metadata, BuildError> {
    if !dir.join("Cargo.toml").is_file() {
        return Err(BuildError::NotACrate { service: job.service.clone(), dir: job.dir.clone() });
    }
    let services = || vec![job.service.clone()];
    let command = "cargo metadata --no-deps --format-version 1".to_owned();
    let mut cargo = toolchain.command("cargo");
    cargo.args(command.split(' ').skip(1)).current_dir(dir).stderr(Stdio::inherit());
    match toolchain.programs().output(&mut cargo) {
        Err(source) => Err(BuildError::Spawn { services: services(), command, source }),
        Ok(output) if !output.status.success() => {
            Err(BuildError::Failed { services: services(), command, dir: job.dir.clone(), status: output.status })
        }
        Ok(output) => serde_json::from_slice(&output.stdout).map_err(|error| BuildError::Answer {
            services: services(),
            command,
            detail: error.to_string(),
        }),
    }
}

/// Runs the build command of a job.
fn run_command(toolchain: &Toolchain, job: &BuildJob) -> Result<(), BuildError> {
    let Some(command) = &job.command else { return Ok(()) };
    let services = || vec![job.service.clone()];
    let run = |mut shell: Command| {
        // Standard output belongs to the one who called Wharf.
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        shell.args(["-c", command]).current_dir(&job.dir).stdin(Stdio::null()).stdout(stderr);
        toolchain.programs().spawn(&mut shell)?.wait()
    };
    match run(toolchain.command("sh")) {
        Err(source) => Err(BuildError::Spawn { services: services(), command: command.clone(), source }),
        Ok(status) if !status.success() => {
            Err(BuildError::Failed { services: services(), command: command.clone(), dir: job.dir.clone(), status })
        }
        Ok(_) => Ok(()),
    }
}

/// "service `a`", or "services `a`, `b`".
fn name(services: &[String]) -> String {
    let quoted: Vec<_> = services.iter().map(|service| format!("`{service}`")).collect();
    format!("{} {}", if services.len() == 1 { "service" } else { "services" }, quoted.join(", "))
}

#[cfg(test)]
mod tests;
