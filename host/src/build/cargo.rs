//! The questions that cargo is asked, and the part of its answers that matters here.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// `cargo metadata --no-deps`: a workspace and its members.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) workspace_root: PathBuf,
    pub(super) target_directory: PathBuf,
    packages: Vec<Package>,
}

/// One crate of a workspace.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Package {
    /// Also the name that `cargo build -p` takes, and the only one that is never ambiguous.
    pub(super) id: String,
    pub(super) name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

/// A library or a program of a crate.
#[derive(Clone, Debug, Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// A line of `cargo build --message-format=json-render-diagnostics`.
#[derive(Debug, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub(super) enum Message {
    CompilerArtifact(Artifact),
    #[serde(other)]
    Other,
}

/// Files that cargo made, or found to be up to date.
#[derive(Debug, Deserialize)]
pub(super) struct Artifact {
    pub(super) package_id: String,
    target: Target,
    filenames: Vec<PathBuf>,
}

// === impl Metadata ===

impl Metadata {
    /// The folders of all crates of the workspace.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.packages.iter().filter_map(|package| package.manifest_path.parent())
    }

    /// The crate whose `Cargo.toml` lies in `dir`, which is an absolute path without symbolic links.
    pub(super) fn package_in(&self, dir: &Path) -> Option<&Package> {
        self.packages.iter().find(|package| {
            let parent = package.manifest_path.parent();
            parent.is_some_and(|parent| parent == dir || parent.canonicalize().is_ok_and(|parent| parent == dir))
        })
    }
}

// === impl Package ===

impl Package {
    /// The file name of the component that the crate makes, `None` if it makes none.
    pub(super) fn component_file_name(&self) -> Option<String> {
        let component = self.targets.iter().find(|target| target.is_component())?;
        Some(format!("{}.wasm", component.name.replace('-', "_")))
    }
}

// === impl Target ===

impl Target {
    /// A component is a library for others to call; an ordinary Rust library is not one yet.
    fn is_component(&self) -> bool {
        self.crate_types.iter().any(|kind| kind == "cdylib")
    }
}

// === impl Artifact ===

impl Artifact {
    /// The component among the files.
    pub(super) fn component(&self) -> Option<&Path> {
        let is_wasm = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "wasm");
        if self.target.is_component() { self.filenames.iter().find(is_wasm).map(PathBuf::as_path) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_found_among_the_artifacts() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/order#0.1.0","manifest_path":"/x",
            "target":{"kind":["cdylib","rlib"],"crate_types":["cdylib","rlib"],"name":"order"},
            "filenames":["/t/liborder.rlib","/t/order.wasm"],"executable":null,"fresh":true}"#;
        let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_str(line) else { panic!("no artifact") };
        assert_eq!(artifact.component(), Some(Path::new("/t/order.wasm")));
    }

    #[test]
    fn an_ordinary_library_is_no_component() {
        let line = r#"{"reason":"compiler-artifact","package_id":"x","target":{"crate_types":["lib"],"name":"money"},
            "filenames":["/t/libmoney.rlib"]}"#;
        let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_str(line) else { panic!("no artifact") };
        assert_eq!(artifact.component(), None);
    }

    #[test]
    fn messages_of_no_interest_are_accepted() {
        let message = serde_json::from_str(r#"{"reason":"build-script-executed","linked_libs":[]}"#);
        assert!(matches!(message, Ok(Message::Other)), "{message:?}");
    }
}
