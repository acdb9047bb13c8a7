//! Trust: whose signature a component must carry before anything of it is looked at.
//!
//! What is signed is the component itself, and the signature is part of the file, so that it goes wherever the file goes:
//! a build server signs, a registry keeps, a host checks, and none of them has to know of a second file. The manifest of
//! the host has the public keys, `signed-by`, and the check is the first thing that happens to the bytes of a component:
//! whatever is not trusted never reaches the compiler.
//!
//! The format is that of the [WebAssembly module signatures](https://github.com/wasm-signatures/design) proposal: a custom
//! section `signature`, the first of the file, with Ed25519 signatures of the SHA-256 of all that follows. Components
//! have the same sections as modules, so what Wharf signs is verified by `wasmsign2`, the proposal's own tool, and the
//! other way round. Of the proposal this is the part that protects: one or more signatures, each of the whole component.
//! Signatures of single parts of a file, which leave it open what else is in it, count for nothing here, and neither does
//! a signature that is kept beside the file.
//!
//! The tool is also a library, and is not used as one: it would bring a second implementation of Ed25519 beside the one
//! that TLS brings (`ring`), it accepts a file when any of several signed hashes fits, and it reads numbers that are
//! written longer than they need to be, so that some bits of a file could change and nobody would notice. What is left
//! are two hundred lines. The public key of whoever signed is in the file too, so that an error can say who that was.
//! Whether it is trusted, only the keys in the manifest say.

mod key;
mod section;
mod signature;

pub use key::{KeyError, PrivateKey, PublicKey};
pub use section::NotSigned;
pub use signature::{SignError, Signers, sign, signers};

/// Whose signature the component of one service must carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    service: String,
    /// One of these has to have signed it; none: everybody is trusted.
    keys: Vec<PublicKey>,
    /// The key of the manifest that names them.
    given_by: String,
}

/// Why a component is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service `{}`: {}", .trust.service, in_words(.trust, .found))]
pub struct Distrust {
    trust: Trust,
    found: Found,
}

/// What there is in place of a signature that would do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Nothing(NotSigned),
    Changed(Vec<PublicKey>),
    Others(Vec<PublicKey>),
    Unknown,
}

fn in_words(trust: &Trust, found: &Found) -> String {
    let (given_by, keys) = (&trust.given_by, listed(&trust.keys, "or"));
    let sign = "`wharf sign FILE --key KEYFILE`";
    let as_well = format!(
        "`{given_by}` wants {keys}; sign it with such a key as well ({sign}), or name the one that signed it, if it is to \
         be trusted"
    );
    match found {
        Found::Nothing(NotSigned::Component) => {
            format!("the component has no signature, and `{given_by}` wants one by {keys}; sign it with {sign}")
        }
        Found::Nothing(other) => format!("`{given_by}` wants a component signed by {keys}, and {other}"),
        Found::Changed(by) => format!(
            "the component was changed after {} signed it, and `{given_by}` wants it as {keys} signed it; take the one \
             that was signed, or sign this one with {sign}",
            listed(by, "and")
        ),
        Found::Others(by) => format!("the component is signed by {}, and {as_well}", listed(by, "and")),
        Found::Unknown => {
            format!("the component is signed by keys that it does not tell, and {as_well}")
        }
    }
}

fn listed(keys: &[PublicKey], last: &str) -> String {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    match keys.split_last() {
        Some((end, begin)) if !begin.is_empty() => format!("{} {last} {end}", begin.join(", ")),
        _ => keys.concat(),
    }
}

// === impl Trust ===

impl Trust {
    /// For `service` only components signed by one of these keys, which `given_by` in the manifest names, are trusted; all
    /// of them if there are no keys.
    pub fn new(service: impl Into<String>, keys: Vec<PublicKey>, given_by: impl Into<String>) -> Self {
        Self { service: service.into(), keys, given_by: given_by.into() }
    }

    /// Every component is trusted.
    pub fn everybody() -> Self {
        Self::default()
    }

    /// Whether every component is trusted.
    pub fn is_for_everybody(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether this component may be used at all. Reads all of it once: not for async threads.
    ///
    /// # Errors
    ///
    /// [`Distrust`] with what is wrong, and what would do.
    pub fn check(&self, wasm: &[u8]) -> Result<(), Distrust> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let found = match signers(wasm, &self.keys) {
            Err(nothing) => Found::Nothing(nothing),
            Ok(Signers { valid, .. }) if valid.iter().any(|key| self.keys.contains(key)) => return Ok(()),
            Ok(Signers { valid, .. }) if !valid.is_empty() => Found::Others(valid),
            Ok(Signers { changed, .. }) if !changed.is_empty() => Found::Changed(changed),
            Ok(_) => Found::Unknown,
        };
        Err(Distrust { trust: self.clone(), found })
    }
}

// === impl Distrust ===

impl Distrust {
    /// The service that the component was for.
    pub fn service(&self) -> &str {
        &self.trust.service
    }
}

#[cfg(test)]
mod tests;
