//! What a component says of itself: its name, its version and what produced it.
//!
//! All of it stands in custom sections, which say nothing that the host would rely on. So what is not as it should be is
//! left out, and what is there is bounded: it is kept with every revision and shown on terminals.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wasmparser::{ComponentName, CustomSectionReader, KnownCustom, Name, Parser, Payload};

/// Longer texts are cut.
const LONGEST: usize = 200;
/// More producers are left out.
const MOST_PRODUCERS: usize = 64;

/// What a component carries of itself, where it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Its name; where it has none, that of its first module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its version, from the section that OCI's annotations go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Languages, tools and kits that it was made with: for each field of the `producers` section, the names with their
    /// versions. Those of the modules in it are among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub producers: BTreeMap<String, BTreeMap<String, String>>,
}

// === impl Metadata ===

impl Metadata {
    /// What these bytes carry. Of what is no component there is little to find, and that is no error here.
    pub fn read(wasm: &[u8]) -> Self {
        let mut found = Self::default();
        let mut inner_name = None;
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload {
                Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
                Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
                Ok(Payload::CustomSection(section)) if depth == 0 => {
                    found.take(&section);
                    found.name = found.name.take().or_else(|| name(&section));
                }
                Ok(Payload::CustomSection(section)) => {
                    found.add_producers(&section);
                    inner_name = inner_name.or_else(|| name(&section));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        found.name = found.name.or(inner_name);
        found
    }

    fn take(&mut self, section: &CustomSectionReader<'_>) {
        self.add_producers(section);
        if section.name() == "version" && self.version.is_none() {
            self.version = std::str::from_utf8(section.data()).ok().and_then(plain);
        }
    }

    fn add_producers(&mut self, section: &CustomSectionReader<'_>) {
        let KnownCustom::Producers(fields) = section.as_known() else { return };
        for field in fields.into_iter().flatten() {
            for value in field.values.into_iter().flatten() {
                let known: usize = self.producers.values().map(BTreeMap::len).sum();
                let (Some(field), Some(name)) = (plain(field.name), plain(value.name)) else { continue };
                if known < MOST_PRODUCERS {
                    let version = plain(value.version).unwrap_or_default();
                    self.producers.entry(field).or_default().entry(name).or_insert(version);
                }
            }
        }
    }

    /// Name and version as one text, such as `greeter 1.2.0`.
    pub fn title(&self) -> Option<String> {
        match (&self.name, &self.version) {
            (Some(name), Some(version)) => Some(format!("{name} {version}")),
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => None,
        }
    }
}

/// The name that a section gives to the component or module that it stands in.
fn name(section: &CustomSectionReader<'_>) -> Option<String> {
    match section.as_known() {
        KnownCustom::ComponentName(names) => names.into_iter().flatten().find_map(|name| match name {
            ComponentName::Component { name, .. } => plain(name),
            _ => None,
        }),
        KnownCustom::Name(names) => names.into_iter().flatten().find_map(|name| match name {
            Name::Module { name, .. } => plain(name),
            _ => None,
        }),
        _ => None,
    }
}

/// The text without what a terminal would take for a command, of a bounded length; none where nothing is left.
fn plain(text: &str) -> Option<String> {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Metadata {
        Metadata::read(&wat::parse_str(text).expect("it is WebAssembly"))
    }

    #[test]
    fn a_component_tells_its_name_version_and_producers() {
        let found = read(
            r#"(component $greeter
                (core module $inner
                    (@producers (language "Rust" "") (processed-by "rustc" "1.95.0")))
                (@producers (processed-by "wit-component" "0.254.2"))
                (@custom "version" "1.2.0"))"#,
        );
        assert_eq!(found.title().as_deref(), Some("greeter 1.2.0"));
        let producers = serde_json::to_value(&found.producers).expect("it is JSON");
        let expected = serde_json::json!({
            "language": {"Rust": ""},
            "processed-by": {"rustc": "1.95.0", "wit-component": "0.254.2"},
        });
        assert_eq!(producers, expected);
        let again: Metadata = serde_json::from_value(serde_json::to_value(&found).expect("it is JSON")).expect("it is");
        assert_eq!(again, found);
    }

    #[test]
    fn without_a_name_of_its_own_it_goes_by_its_first_modules() {
        let found = read("(component (core module $main.wasm) (core module $shim))");
        assert_eq!((found.name.as_deref(), found.version), (Some("main.wasm"), None));
        assert_eq!(read("(component)"), Metadata::default());
        assert_eq!(Metadata::read(b"no component"), Metadata::default());
    }

    #[test]
    fn what_it_says_is_bounded_and_harmless() {
        let long = "x".repeat(10_000);
        let found = read(&format!(r#"(component (@custom "version" "\1b[31m{long}"))"#));
        let version = found.version.expect("it has one");
        assert_eq!(version.chars().count(), LONGEST);
        assert!(version.starts_with("[31mx"), "{version}");
        let modules: String = (0..1000).map(|n| format!(r#"(core module (@producers (sdk "kit {n}" "")))"#)).collect();
        let found = read(&format!("(component {modules})"));
        assert_eq!(found.producers["sdk"].len(), MOST_PRODUCERS);
        assert_eq!(read(r#"(component (@custom "producers" "\ff\ff"))"#), Metadata::default());
    }
}
