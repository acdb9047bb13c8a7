use std::{fs, os::unix::fs::PermissionsExt};

use super::{
    super::{environment::Environment, testing::TempDir},
    *,
};

/// Sources in a temporary folder, and a cargo that notes its calls.
///
/// `metadata` is answered by the real cargo, which needs neither network nor target for it; `build` by a script that
/// says what cargo says and makes the files that cargo would make, or fails for crates with a file `broken`.
struct Sources {
    root: TempDir,
    toolchain: Toolchain,
}

const CARGO: &str = r#"#!/bin/sh
if [ "$1" = metadata ]; then exec "$REAL_CARGO" "$@"; fi
echo "$PWD: $*" >>"$ROOT/calls"
status=0
previous=
for argument; do
    if [ "$previous" = -p ]; then
        dir=${argument#path+file://}
        dir=${dir%%#*}
        if [ -e "$dir/broken" ]; then status=101; previous=; continue; fi
        : >"$dir/made.wasm"
        echo "{\"reason\":\"compiler-artifact\",\"package_id\":\"$argument\",\"target\":{\"name\":\"x\",\"crate_types\":[\"cdylib\"]},\"filenames\":[\"$dir/made.wasm\"]}"
    fi
    previous=$argument
done
exit $status
"#;

// === impl Sources ===

impl Sources {
    fn new() -> Self {
        let root = TempDir::new();
        let bin = root.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        fs::write(bin.join("cargo"), CARGO).expect("a script");
        fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).expect("permissions");

        let mut environment = Environment::of_process();
        let mut path = bin.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        environment.set("PATH", path);
        environment.set("ROOT", root.path());
        environment.set("REAL_CARGO", env!("CARGO"));
        Self { toolchain: Toolchain::installed(environment), root }
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
        fs::write(path, text).expect("a file");
        self
    }

    fn workspace(self, dir: &str, members: &[&str]) -> Self {
        let list = format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n");
        let sources = self.file(&format!("{dir}/Cargo.toml"), &list);
        members.iter().fold(sources, |sources, member| sources.member(&format!("{dir}/{member}"), "cdylib"))
    }

    fn member(self, dir: &str, kind: &str) -> Self {
        let name = dir.rsplit('/').next().unwrap_or(dir);
        let text = format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"{kind}\"]\n");
        self.file(&format!("{dir}/Cargo.toml"), &text).file(&format!("{dir}/src/lib.rs"), "")
    }

    fn job(&self, dir: &str) -> BuildJob {
        let service = dir.rsplit('/').next().unwrap_or(dir).to_owned();
        BuildJob { service, dir: self.root.path().join(dir), command: None, artifact: None }
    }

    fn build(&self, jobs: &[BuildJob]) -> Result<Vec<BuiltComponent>, BuildError> {
        build_components(&self.toolchain, jobs)
    }

    fn error(&self, job: BuildJob) -> String {
        self.build(&[job]).expect_err("the job can't be built").to_string()
    }

    /// The calls of `cargo build`: the folder and the packages.
    fn calls(&self) -> Vec<(String, Vec<String>)> {
        let root = self.root.path().canonicalize().expect("the root");
        let log = fs::read_to_string(root.join("calls")).unwrap_or_default();
        let call = |line: &str| {
            let (dir, arguments) = line.split_once(": ").expect("a folder");
            let dir = Path::new(dir).strip_prefix(&root).expect("below the root").display().to_string();
            assert!(arguments.starts_with("build --release --target wasm32-wasip2 "), "{arguments}");
            let packages = arguments.split(" -p ").skip(1);
            (dir, packages.map(|id| id.rsplit(['/', '#']).nth(1).unwrap_or_default().to_owned()).collect())
        };
        log.lines().map(call).collect()
    }
}

#[test]
fn crates_of_one_workspace_are_built_by_one_call() {
    let sources = Sources::new().workspace("shop", &["user", "order"]).workspace("odd", &["trap"]);
    let jobs = [sources.job("shop/user"), sources.job("odd/trap"), sources.job("shop/order")];
    let built = sources.build(&jobs).expect("components");

    let services: Vec<_> = built.iter().map(|component| component.service.as_str()).collect();
    assert_eq!(services, ["user", "trap", "order"], "in the order of the jobs");
    for component in &built {
        let dir = component.path.parent().and_then(Path::file_name).expect("a crate's folder");
        assert_eq!(dir, component.service.as_str());
    }
    let (odd, shop) = (("odd".into(), vec!["trap".into()]), ("shop".into(), vec!["user".into(), "order".into()]));
    assert_eq!(sources.calls(), [odd, shop]);
}

#[test]
fn two_services_may_be_made_of_one_crate() {
    let sources = Sources::new().workspace("shop", &["user"]);
    let other = BuildJob { service: "customer".into(), ..sources.job("shop/user") };
    let built = sources.build(&[sources.job("shop/user"), other]).expect("components");
    assert_eq!(built[0].path, built[1].path);
    assert_eq!((built[0].service.as_str(), built[1].service.as_str()), ("user", "customer"));
}

#[test]
fn a_failed_build_names_the_service_that_failed() {
    let sources = Sources::new().workspace("shop", &["user", "order"]).file("shop/order/broken", "");
    let error = sources.build(&[sources.job("shop/user"), sources.job("shop/order")]).expect_err("a failure");
    let BuildError::Failed { services, status, .. } = &error else { panic!("{error}") };
    assert_eq!((services.as_slice(), status.code()), (&["order".to_owned()][..], Some(101)));
    assert!(error.to_string().starts_with(
        "service `order`: `cargo build --release --target wasm32-wasip2 -p user -p order` failed (exit status: 101) in "
    ));
}

#[test]
fn a_build_command_runs_in_its_folder_and_its_artifact_is_taken() {
    let sources = Sources::new().file("js/app.js", "x");
    let command = Some("mkdir -p out && cp app.js out/app.wasm".to_owned());
    let job = BuildJob { command, artifact: Some("out/app.wasm".into()), ..sources.job("js") };
    let built = sources.build(&[job]).expect("a component");
    assert_eq!(built[0].path, sources.root.path().join("js/out/app.wasm"));
    assert_eq!(sources.calls(), []);
}

#[test]
fn a_build_command_without_artifact_makes_what_cargo_would_make() {
    let sources = Sources::new().workspace("shop", &["my-user"]);
    let made = sources.root.path().join("shop/target/wasm32-wasip2/release/my_user.wasm");
    let command = Some(format!("mkdir -p {0} && : >{0}/my_user.wasm", made.parent().expect("a folder").display()));
    let job = BuildJob { command, ..sources.job("shop/my-user") };
    let built = sources.build(&[job]).expect("a component");
    assert_eq!(built[0].path.canonicalize().ok(), made.canonicalize().ok());
}

#[test]
fn a_missing_artifact_is_named() {
    let sources = Sources::new().file("js/app.js", "x");
    let job = BuildJob { command: Some("true".into()), artifact: Some("app.wasm".into()), ..sources.job("js") };
    let expected = sources.root.path().join("js/app.wasm");
    let error = format!("service `js`: `true` succeeded, but there is no component at {}", expected.display());
    assert_eq!(sources.error(job), error);
}

#[test]
fn a_failed_command_is_named_with_its_status() {
    let sources = Sources::new().file("js/app.js", "x");
    let job = BuildJob { command: Some("exit 3".into()), artifact: Some("app.wasm".into()), ..sources.job("js") };
    let dir = sources.root.path().join("js");
    let error =
        format!("service `js`: `exit 3` failed (exit status: 3) in {}; the output above says why", dir.display());
    assert_eq!(sources.error(job), error);
}

#[test]
fn sources_that_are_no_crate_are_refused_with_advice() {
    let sources = Sources::new().file("js/app.js", "x").member("money", "lib");
    let error = sources.error(sources.job("js"));
    assert!(error.ends_with("holds no Cargo.toml with a [package]; for other languages give `build` and `artifact`"));
    let error = sources.error(sources.job("money"));
    assert!(error.contains("crate `money` makes no component") && error.contains("crate-type = [\"cdylib\"]"));
    let error = sources.error(sources.job("nowhere"));
    assert!(error.starts_with("service `nowhere`: the source folder ") && error.contains("No such file"), "{error}");
}

/// Asks again and again until there is an answer.
fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    for _ in 0..4000 {
        if let Some(answer) = answer() {
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("did not come about: {what}")
}

/// The processes that a script has written into a file, once there are `count`.
fn pids(path: &Path, count: usize) -> Vec<u32> {
    eventually("the build has started", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let pids: Vec<_> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == count && text.ends_with('\n')).then_some(pids)
    })
}

/// Whether a process runs; one that has ended and that nobody has reaped does not.
fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn a_build_that_is_ended_leaves_nothing_running() {
    // The second one does not go when it is asked to, and neither does what it has started.
    for ignore in ["", "trap '' TERM;"] {
        let sources = Sources::new().file("js/app.js", "x");
        let started = sources.root.path().join("started");
        let command = format!("{ignore} sleep 1000 & echo $$ >>{0}; echo $! >>{0}; wait", started.display());
        let job = BuildJob { command: Some(command), artifact: Some("app.wasm".into()), ..sources.job("js") };
        let error = std::thread::scope(|scope| {
            let build = scope.spawn(|| sources.error(job));
            let pids = pids(&started, 2);
            assert!(pids.iter().all(|pid| runs(*pid)));
            sources.toolchain.programs().end();
            // They are signalled; when the kernel gets to it is its own affair.
            eventually("nothing runs", || (!pids.iter().any(|pid| runs(*pid))).then_some(()));
            build.join().expect("the build has ended")
        });
        assert!(error.contains("failed (signal: "), "{error}");
        // And nothing more is begun.
        let job = BuildJob { command: Some("true".into()), artifact: Some("app.js".into()), ..sources.job("js") };
        assert!(sources.error(job).contains("the build was ended"));
    }
}

#[test]
fn who_builds_again_and_again_gets_what_can_be_built_and_why_the_rest_can_not() {
    let sources = Sources::new().workspace("shop", &["order", "user"]).workspace("other", &["mail"]);
    let sources = sources.file("shop/order/broken", "").file("js/app.js", "x");
    let fails = BuildJob { command: Some("false".into()), artifact: Some("app.js".into()), ..sources.job("js") };
    let jobs =
        [sources.job("shop/order"), sources.job("shop/user"), fails, sources.job("other/mail"), sources.job("nowhere")];
    let mut builder = Builder::new(sources.toolchain.clone());
    for _ in 0..2 {
        let outcome = builder.build(&jobs);
        let mut built: Vec<_> = outcome.built.iter().map(|built| built.service.as_str()).collect();
        let mut failed: Vec<_> = outcome.errors.iter().flat_map(BuildError::services).collect();
        built.sort_unstable();
        failed.sort_unstable();
        assert_eq!((built, failed), (vec!["mail", "user"], vec!["js", "nowhere", "order"]));
    }
    // What is not among the jobs any more is not built.
    let calls = sources.calls().len();
    assert_eq!(builder.build(&jobs[3..4]).built.len(), 1);
    assert_eq!(sources.calls().len(), calls + 1);
}
