//! What a component is in a registry: a manifest, a config, and the component itself.

use super::{LARGEST_COMPONENT, digest::Digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wasmparser::{Parser, Payload};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// What a file of it is called, for tools that make one.
const TITLE: &str = "org.opencontainers.image.title";
const COMPONENT: &str = "application/wasm";
/// What tools called it before there was one name.
const OLD_COMPONENT: &str = "application/vnd.wasm.content.layer.v1+wasm";

/// An image manifest. Of what there is besides, nothing matters here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What one thing tells of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// Why what a registry has is no component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// It is no image manifest.
    #[error("what is there has no image manifest: {0}")]
    Manifest(String),
    /// It is a list of manifests.
    #[error("it is an index of several images; name one of them by its digest")]
    Index,
    /// It holds something else, such as a container image.
    #[error("it is no component: of what it holds ({0}) exactly one must be `{COMPONENT}`")]
    NoComponent(String),
    /// It is too large.
    #[error("the component has {0} bytes, and {LARGEST_COMPONENT} are the most that are taken")]
    TooLarge(u64),
}

/// Why a file is nothing to push.
#[derive(Debug, thiserror::Error)]
pub enum NoComponent {
    /// It can't be read as WebAssembly.
    #[error("it is no component: {0}")]
    Broken(#[from] wasmparser::BinaryReaderError),
    /// It is WebAssembly of another kind.
    #[error("it is a core module and no component: build it for wasm32-wasip2")]
    Module,
    /// It is too large.
    #[error("it has {0} bytes, and {LARGEST_COMPONENT} are the most that Wharf takes")]
    TooLarge(u64),
}

/// What is pushed of a component, besides itself.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [Digest; 1],
    component: Interfaces<'a>,
}

#[derive(Default, Serialize)]
struct Interfaces<'a> {
    exports: Vec<&'a str>,
    imports: Vec<&'a str>,
    target: Option<&'a str>,
}

// === impl Manifest ===

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArtifactError> {
        #[derive(Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Option<Vec<serde_json::Value>>,
        }
        match serde_json::from_slice(bytes) {
            Ok(manifest) => Ok(manifest),
            Err(_) if serde_json::from_slice(bytes).is_ok_and(|index: Index| index.manifests.is_some()) => {
                Err(ArtifactError::Index)
            }
            Err(error) => Err(ArtifactError::Manifest(error.to_string())),
        }
    }

    /// The layer that is the component.
    pub(super) fn component(&self) -> Result<&Descriptor, ArtifactError> {
        let kinds = || {
            let kinds: Vec<_> =
                self.layers.iter().take(8).map(|layer| layer.media_type.escape_debug().to_string()).collect();
            if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") }
        };
        let mut components =
            self.layers.iter().filter(|layer| [COMPONENT, OLD_COMPONENT].contains(&&*layer.media_type));
        let (Some(component), None) = (components.next(), components.next()) else {
            return Err(ArtifactError::NoComponent(kinds()));
        };
        if component.size > LARGEST_COMPONENT { Err(ArtifactError::TooLarge(component.size)) } else { Ok(component) }
    }
}

// === impl Descriptor ===

impl Descriptor {
    pub(super) fn of(media_type: &str, content: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(content),
            size: content.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

// === impl Artifact ===

impl Artifact {
    /// What belongs to this component, in a repository of this name. The same component always has the same manifest
    /// there, so that it is pushed only once and its digest says that it is the same.
    pub(super) fn of(wasm: &[u8], repository: &str) -> Result<Self, NoComponent> {
        if wasm.len() as u64 > LARGEST_COMPONENT {
            return Err(NoComponent::TooLarge(wasm.len() as u64));
        }
        let component = Interfaces::of(wasm)?;
        let mut layer = Descriptor::of(COMPONENT, wasm);
        let title = repository.rsplit('/').next().unwrap_or(repository);
        layer.annotations.insert(TITLE.to_owned(), format!("{title}.wasm"));
        let config = Config {
            // A time is wanted; that of the push would make each push another artifact.
            created: "1970-01-01T00:00:00Z",
            architecture: "wasm",
            os: "wasip2",
            layer_digests: [layer.digest],
            component,
        };
        let config = json(&config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config: Descriptor::of(CONFIG, &config),
            layers: vec![layer],
        };
        Ok(Self { config, manifest: json(&manifest) })
    }
}

// === impl Interfaces ===

impl<'a> Interfaces<'a> {
    fn of(wasm: &'a [u8]) -> Result<Self, NoComponent> {
        let (mut found, mut depth) = (Self::default(), 0_usize);
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::Version { encoding: wasmparser::Encoding::Module, .. } if depth == 0 => {
                    return Err(NoComponent::Module);
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        found.imports.push(import?.name.name);
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        found.exports.push(export?.name.name);
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Nothing in these can't be written as JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_says_what_its_component_imports_and_exports() {
        let wasm = wat::parse_str(
            r#"(component
                (import "wasi:clocks/wall-clock@0.2.0" (instance))
                (core module (func (export "inner")))
                (component (import "not:mine/inner" (instance)))
                (instance $empty)
                (export "shop:users/users" (instance $empty)))"#,
        )
        .expect("it is well-formed");
        let artifact = Artifact::of(&wasm, "shop/users").expect("a component");
        let config: serde_json::Value = serde_json::from_slice(&artifact.config).expect("JSON");
        assert_eq!(
            config,
            serde_json::json!({
                "created": "1970-01-01T00:00:00Z",
                "architecture": "wasm",
                "os": "wasip2",
                "layerDigests": [Digest::of(&wasm)],
                "component": {
                    "exports": ["shop:users/users"],
                    "imports": ["wasi:clocks/wall-clock@0.2.0"],
                    "target": null,
                },
            })
        );
        let manifest: serde_json::Value = serde_json::from_slice(&artifact.manifest).expect("JSON");
        let descriptor = |kind: &str, content: &[u8]| serde_json::json!({"mediaType": kind, "digest": Digest::of(content), "size": content.len()});
        let mut layer = descriptor("application/wasm", &wasm);
        layer["annotations"] = serde_json::json!({"org.opencontainers.image.title": "users.wasm"});
        assert_eq!(
            manifest,
            serde_json::json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": descriptor("application/vnd.wasm.config.v0+json", &artifact.config),
                "layers": [layer],
            })
        );
        let read = Manifest::parse(&artifact.manifest).expect("a manifest");
        assert_eq!(read.component().map(|layer| layer.digest), Ok(Digest::of(&wasm)));
        assert_eq!(Artifact::of(&wasm, "shop/users").expect("a component").manifest, artifact.manifest);
    }

    #[test]
    fn what_is_no_component_is_not_pushed() {
        assert!(matches!(Artifact::of(b"\0asm\x01\0\0\0", "a"), Err(NoComponent::Module)));
        assert!(matches!(Artifact::of(b"#!/bin/sh", "a"), Err(NoComponent::Broken(_))));
    }

    #[test]
    fn what_is_no_component_is_not_pulled() {
        let of = |text: &str| Manifest::parse(text.as_bytes()).and_then(|it| it.component().cloned());
        let layer = |kind: &str, size: u64| {
            format!(r#"{{"mediaType": "{kind}", "digest": "sha256:{}", "size": {size}}}"#, "0".repeat(64))
        };
        let image = |layers: &[String]| {
            format!(r#"{{"schemaVersion": 2, "config": {}, "layers": [{}]}}"#, layer("c", 1), layers.join(","))
        };
        assert!(matches!(of("nonsense"), Err(ArtifactError::Manifest(_))));
        assert!(matches!(of(r#"{"schemaVersion": 2, "config": {}}"#), Err(ArtifactError::Manifest(_))));
        assert_eq!(of(r#"{"schemaVersion": 2, "manifests": []}"#), Err(ArtifactError::Index));
        assert_eq!(of(&image(&[])), Err(ArtifactError::NoComponent("nothing".into())));
        assert_eq!(of(&image(&[layer("tar", 1)])), Err(ArtifactError::NoComponent("tar".into())));
        let two = [layer(COMPONENT, 1), layer(COMPONENT, 1)];
        assert!(matches!(of(&image(&two)), Err(ArtifactError::NoComponent(_))));
        assert_eq!(of(&image(&[layer(COMPONENT, 1 << 40)])), Err(ArtifactError::TooLarge(1 << 40)));
        for kind in [COMPONENT, OLD_COMPONENT] {
            assert_eq!(of(&image(&[layer("text/plain", 1), layer(kind, 7)])).map(|layer| layer.size), Ok(7));
        }
    }
}
