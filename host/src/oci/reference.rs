//! Where a component is: `oci://registry/name:tag`.

use super::digest::Digest;
use http::uri::Authority;
use std::{fmt, net::IpAddr, str::FromStr};

/// What every reference begins with in a manifest.
pub(crate) const SCHEME: &str = "oci://";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
/// Docker's own registry, which answers under another name than people call it.
const DOCKER: &str = "docker.io";

/// A component in a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry: a host, and perhaps a port.
    pub registry: String,
    /// The repository there.
    pub name: String,
    /// Which one of those that are in the repository.
    pub version: Version,
}

/// Which of the components that a repository has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The one that is called so now; tomorrow it may be another.
    Tag(String),
    /// The one whose manifest has this digest, for ever.
    Digest(Digest),
}

/// What is no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected \"oci://registry/name:tag\" or \"oci://registry/name@sha256:…\"")]
pub struct ReferenceError(&'static str);

// === impl Reference ===

impl Reference {
    /// Whether a text is meant to be a reference.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The same repository, with the component of this digest.
    pub fn at(&self, digest: Digest) -> Self {
        Self { version: Version::Digest(digest), ..self.clone() }
    }

    /// Where the registry's API is. Only one on this machine is spoken to without TLS, and only if there is no `certificate`
    /// that it should show.
    pub(super) fn api(&self, certificate: bool) -> String {
        let host = if self.registry == DOCKER { "registry-1.docker.io" } else { &self.registry };
        let scheme = if is_loopback(host) && !certificate { "http" } else { "https" };
        format!("{scheme}://{host}/v2/{}", self.name)
    }

    /// What stands for the component in requests.
    pub(super) fn version(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        }
    }
}

/// Whether a host, perhaps with a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |what| Err(ReferenceError(what));
        let Some(rest) = text.strip_prefix(SCHEME) else { return wrong("it does not begin with `oci://`") };
        let Some((registry, rest)) = rest.split_once('/') else { return wrong("there is no name after the registry") };
        if !is_registry(registry) {
            return wrong("the registry is not a host with perhaps a port");
        }
        let (name, version) = match (rest.split_once('@'), rest.split_once(':')) {
            (Some((name, _)), _) if name.contains(':') => {
                return wrong("it has a tag and a digest, of which one says all");
            }
            (Some((name, digest)), _) => match digest.parse() {
                Ok(digest) => (name, Version::Digest(digest)),
                Err(_) => return wrong("what is behind the `@` is no digest, `sha256:` and 64 hexadecimal digits"),
            },
            (None, Some((name, tag))) if is_tag(tag) => (name, Version::Tag(tag.to_owned())),
            (None, Some(_)) => {
                return wrong(
                    "the tag is not 1 to 128 letters, digits, dots, hyphens and underscores, none of the first \
                              two in front",
                );
            }
            (None, None) => return wrong("it has neither a tag nor a digest"),
        };
        if !is_name(name) {
            return wrong(
                "the name is not lower-case letters and digits, with single dots, underscores, hyphens or \
                          slashes between them",
            );
        }
        // As Docker does it: what has no owner is its own.
        let name = if registry == DOCKER && !name.contains('/') { format!("library/{name}") } else { name.to_owned() };
        Ok(Self { registry: registry.to_owned(), name, version })
    }
}

fn is_registry(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    // A port that is none makes it no authority.
    let port = text.rsplit_once(':').is_none_or(|(_, port)| port.ends_with(']') || port.parse::<u16>().is_ok());
    text.bytes().all(good) && port && text.parse::<Authority>().is_ok_and(|authority| !authority.host().is_empty())
}

fn is_name(text: &str) -> bool {
    let separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let part = |part: &str| {
        let edges = [part.bytes().next(), part.bytes().next_back()];
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        edges.iter().all(|edge| edge.is_some_and(alphanumeric))
            && part
                .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                .filter(|it| !it.is_empty())
                .all(separator)
    };
    text.len() <= LONGEST_NAME && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=LONGEST_TAG).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.name)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_shown_as_they_are_read() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for text in [
            "oci://ghcr.io/shop/order:1.2.0".to_owned(),
            "oci://127.0.0.1:5000/order:latest".to_owned(),
            "oci://[::1]:5000/a/b/c:v1_2-3.4".to_owned(),
            format!("oci://registry.example.com/a__b/c.d-e--f@{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().map(|it| it.to_string()), Ok(text));
        }
        let docker: Reference = "oci://docker.io/order:1".parse().expect("a reference");
        assert_eq!(docker.to_string(), "oci://docker.io/library/order:1");
        assert_eq!(docker.api(false), "https://registry-1.docker.io/v2/library/order");
    }

    #[test]
    fn what_is_none_is_told() {
        for (text, said) in [
            ("ghcr.io/shop/order:1", "begin with `oci://`"),
            ("oci://ghcr.io", "no name after"),
            ("oci:///order:1", "the registry"),
            ("oci://ada:secret@ghcr.io/order:1", "the registry"),
            ("oci://ghcr.io:port/order:1", "the registry"),
            ("oci://ghcr.io/order", "neither a tag nor a digest"),
            ("oci://ghcr.io/order:", "the tag"),
            ("oci://ghcr.io/order:-1", "the tag"),
            ("oci://ghcr.io/order:a:b", "the tag"),
            ("oci://ghcr.io/Order:1", "the name"),
            ("oci://ghcr.io/a..b:1", "the name"),
            ("oci://ghcr.io/../b:1", "the name"),
            ("oci://ghcr.io//b:1", "the name"),
            ("oci://ghcr.io/:1", "the name"),
            ("oci://ghcr.io/a%2fb:1", "the name"),
            ("oci://ghcr.io/order@sha512:00", "no digest"),
            ("oci://ghcr.io/order:1@sha256:00", "a tag and a digest"),
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(said) && error.contains("expected \"oci://"), "{text}: {error}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (registry, scheme) in [
            ("localhost:5000", "http"),
            ("127.8.8.8", "http"),
            ("[::1]:5000", "http"),
            ("localhost.example.com", "https"),
            ("10.0.0.1:5000", "https"),
            ("127.0.0.1.nip.io", "https"),
        ] {
            let reference: Reference = format!("oci://{registry}/a:1").parse().expect("a reference");
            assert_eq!(reference.api(false), format!("{scheme}://{registry}/v2/a"));
            assert_eq!(reference.api(true), format!("https://{registry}/v2/a"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*", end in "[a-z0-9:/@.\\[\\]-]*") {
            let _ = text.parse::<Reference>();
            if let Ok(reference) = format!("oci://{end}").parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert!(reference.api(false).parse::<http::Uri>().is_ok());
            }
        }
    }
}
