//! Which files a component is made of.
//!
//! Cargo writes down beside each component what its crate and the crates of the same project that it depends on were
//! compiled from, files that macros read included. That is known only after a build and says nothing of files that come,
//! so whatever changes in the folders of these crates counts too, and beside the other files. Too much costs a call of
//! cargo that finds nothing to do; too little, that somebody waits for what does not come.

use super::{BuildJob, Crates};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// What decides about every build of a workspace, relative to its folder.
const OF_WORKSPACE: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "rust-toolchain", ".cargo/config.toml", ".cargo/config"];

/// Folders that builds write to.
const MADE: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// The files that the component of one service is made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The service.
    pub service: String,
    /// Of what is below, everything counts that is not made by a build or an editor's.
    folders: BTreeSet<PathBuf>,
    /// What counts wherever it is.
    files: BTreeSet<PathBuf>,
    /// The folders of files that were compiled.
    beside: BTreeSet<PathBuf>,
    /// What the build makes, and what Wharf itself writes.
    made: Vec<PathBuf>,
}

// === impl Sources ===

impl Sources {
    /// The sources of a job, whose component is `component`. In `data` the host writes.
    #[must_use]
    pub fn of(job: &BuildJob, component: &Path, workspaces: &[Crates], data: &Path) -> Self {
        let folder = real(&job.dir);
        let files = compiled_from(component);
        let mut made = vec![real(data), real(component)];
        // `dist/app.wasm`: whatever else is there was made too.
        if let Some(beside) = made[1].parent().filter(|beside| *beside != folder && beside.starts_with(&folder)) {
            made.push(beside.to_owned());
        }
        let beside = files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        made.extend(workspaces.iter().map(|workspace| real(&workspace.target)));
        let mut sources = Self { service: job.service.clone(), folders: BTreeSet::from([folder]), files, beside, made };
        for Crates { root, members, .. } in workspaces {
            let members: Vec<_> = members.iter().map(|folder| real(folder)).collect();
            let owner = |file: &PathBuf| {
                let around = members.iter().filter(|folder| file.starts_with(folder));
                around.max_by_key(|folder| folder.as_os_str().len()).cloned()
            };
            let used: Vec<_> = sources.files.iter().filter_map(owner).collect();
            if !used.is_empty() || sources.folders.iter().any(|folder| members.contains(folder)) {
                sources.folders.extend(used);
                sources.files.extend(OF_WORKSPACE.map(|name| real(root).join(name)));
            }
        }
        sources
    }

    /// With all crates of the workspaces that it is built in: what a build that failed would have used is not known.
    #[must_use]
    pub fn and_all_crates(mut self, workspaces: &[Crates]) -> Self {
        for Crates { root, members, .. } in workspaces {
            if self.files.contains(&real(root).join(OF_WORKSPACE[0])) {
                self.folders.extend(members.iter().map(|folder| real(folder)));
            }
        }
        self
    }

    /// Whether a change of this file may change the component.
    #[must_use]
    pub fn have(&self, path: &Path) -> bool {
        if self.files.contains(path) {
            return true;
        }
        if self.made.iter().any(|made| path.starts_with(made)) {
            return false;
        }
        let below = |folder: &PathBuf| path.strip_prefix(folder).is_ok_and(|path| !path.iter().any(passed_over));
        self.folders.iter().any(below)
            || path.parent().is_some_and(|folder| self.beside.contains(folder))
                && !path.file_name().is_some_and(passed_over)
    }

    /// The folders that have to be watched, without what is below them.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let mut found: BTreeSet<PathBuf> =
            self.files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        found.extend(self.beside.iter().cloned());
        let mut left: Vec<_> = self.folders.iter().cloned().collect();
        while let Some(folder) = left.pop() {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let inner =
                entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir()) && !passed_over(&it.file_name()));
            left.extend(inner.map(|it| it.path()).filter(|path| !self.made.contains(path)));
            found.insert(folder);
        }
        found.retain(|folder| folder.is_dir());
        found
    }
}

/// Whether a file or a folder of this name is no source: what builds make, what is hidden, what editors leave behind.
fn passed_over(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let hidden = name.starts_with('.') && name != ".cargo";
    let of_editor = name.ends_with('~')
        || name == "4913"
        || (name.starts_with('#') && name.ends_with('#'))
        || [".swp", ".swx", ".tmp", ".orig", "___jb_tmp___", "___jb_old___"].iter().any(|end| name.ends_with(end));
    hidden || of_editor || MADE.contains(&&*name)
}

/// The path as the system tells of changes of it.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// What cargo has written down beside a component, in the manner of a makefile.
fn compiled_from(component: &Path) -> BTreeSet<PathBuf> {
    // Where there is none, the build was not cargo's.
    let text = fs::read_to_string(component.with_extension("d")).unwrap_or_default();
    let mut files = BTreeSet::new();
    for line in text.lines() {
        let Some((_, needed)) = line.split_once(": ") else { continue };
        // White space in a name stands behind a backslash.
        let needed = needed.replace("\\ ", "\0");
        files.extend(needed.split(' ').filter(|it| !it.is_empty()).map(|it| real(Path::new(&it.replace('\0', " ")))));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::{super::testing::TempDir, *};

    /// A workspace with two crates, one of which the other uses, and a file of neither.
    fn project() -> (TempDir, Sources) {
        let folder = TempDir::new();
        let at = |name: &str| folder.path().join(name);
        for name in
            ["ws/hello/src/a b.rs", "ws/text/src/lib.rs", "ws/other/src/lib.rs", "wit/hello.wit", "ws/target/hello.d"]
        {
            fs::create_dir_all(at(name).parent().expect("below")).expect("a folder");
            fs::write(at(name), "").expect("a file");
        }
        let spaced = at("ws/hello/src/a b.rs").display().to_string().replace(' ', "\\ ");
        let (text, wit) = (at("ws/text/src/lib.rs"), at("wit/hello.wit"));
        let made = at("ws/target/hello.wasm");
        let depends = format!("{}: {spaced} {} {}\n", made.display(), text.display(), wit.display());
        fs::write(at("ws/target/hello.d"), depends).expect("a file");
        let job = BuildJob { service: "hello".into(), dir: at("ws/hello"), command: None, artifact: None };
        let members = ["ws/hello", "ws/text", "ws/other"].map(at).to_vec();
        let workspaces = [Crates { root: at("ws"), target: at("ws/target"), members }];
        let sources = Sources::of(&job, &made, &workspaces, &at("ws/hello/data"));
        assert!(sources.clone().and_all_crates(&workspaces).have(&real(&at("ws/other/src/lib.rs"))));
        (folder, sources)
    }

    #[test]
    fn what_was_compiled_and_what_comes_beside_it_counts() {
        let (folder, sources) = project();
        let folder = folder.path().canonicalize().expect("it is there");
        for name in [
            "ws/hello/src/a b.rs",
            "ws/hello/src/new/mod.rs",
            "ws/hello/Cargo.toml",
            "ws/text/src/more.rs",
            "ws/Cargo.toml",
            "ws/Cargo.lock",
            "ws/.cargo/config.toml",
            "wit/hello.wit",
            "wit/new.wit",
        ] {
            assert!(sources.have(&folder.join(name)), "{name}");
        }
        for name in [
            "ws/other/src/lib.rs",
            "ws/target/hello.wasm",
            "ws/README.md",
            "ws/hello/target/debug/x.rs",
            "ws/hello/.git/index",
            "ws/hello/src/.lib.rs.swp",
            "ws/hello/src/lib.rs~",
            "ws/hello/src/4913",
            "ws/hello/data/db/hello.sqlite",
            "wit/.hello.wit.swp",
            "wit/deps/other.wit",
        ] {
            assert!(!sources.have(&folder.join(name)), "{name}");
        }
    }

    #[test]
    fn folders_are_watched_but_those_that_builds_make() {
        let (folder, sources) = project();
        let folder = folder.path().canonicalize().expect("it is there");
        for name in ["ws/hello/target/debug", "ws/hello/src/deep/er", "ws/hello/.git", "ws/hello/data"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let watched = sources.folders();
        let mut watched: Vec<_> =
            watched.iter().map(|it| it.strip_prefix(&folder).expect("below").display().to_string()).collect();
        watched.sort();
        let expected = [
            "wit",
            "ws",
            "ws/hello",
            "ws/hello/src",
            "ws/hello/src/deep",
            "ws/hello/src/deep/er",
            "ws/text",
            "ws/text/src",
        ];
        assert_eq!(watched, expected);
    }
}
