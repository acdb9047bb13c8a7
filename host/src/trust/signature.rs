//! What a `signature` section holds, how it comes there, and what it is worth.
//!
//! ```text
//! section    =  version 01, content 01, hash 01 (SHA-256), number of sets, sets, each with its length before it
//! set        =  number of hashes, hashes, number of signatures, signatures, each with its length before it
//! signature  =  key id with its length before it, algorithm 01 (Ed25519), signature with its length before it
//! ```
//!
//! A signature is one of `wasmsig`, the first three bytes of the section, and the hashes of its set. Only a set with a
//! single hash, that of everything after the section, speaks of the whole component.
//!
//! An id is made of its key, and leaves it open which one that is. So that a signature by a key that nobody knows here can
//! be told from one that is false, Wharf adds the key itself, as if it were a signature by an algorithm 00. Other tools
//! skip algorithms that they don't know.

use super::{
    key::{ID, PrivateKey, PublicKey},
    section::{NotSigned, Parts, Reader, put_number, put_slice},
};
use sha2::{Digest, Sha256};

/// Version, content and hash function.
const KIND: [u8; 3] = [1, 1, 1];
/// What every signed message begins with, so that it can be taken for nothing else.
const DOMAIN: &[u8] = b"wasmsig";
const ED25519: u8 = 1;
/// What is no signature, but the public key of its key id.
const KEY: u8 = 0;
const HASH: usize = 32;

/// Who has signed a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    /// Those who have signed it as it is.
    pub valid: Vec<PublicKey>,
    /// Those who have signed something else, of which this may be a changed copy, or a part of it.
    pub changed: Vec<PublicKey>,
    /// Signatures by keys that neither the file nor the caller tells: nobody can say whether they are false.
    pub unknown: usize,
}

/// Why a component can't be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It is no component, or has signatures of another kind.
    #[error("it can't be signed: {0}")]
    NoComponent(NotSigned),
    /// The very same key has signed it already.
    #[error("it is signed by {0} already")]
    Signed(PublicKey),
}

/// Signatures that are of the same hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set<'a> {
    hashes: &'a [u8],
    /// Key id, algorithm and signature of each.
    signatures: Vec<(&'a [u8], u8, &'a [u8])>,
}

/// Who has signed a component, by the keys that are `known` and those that it tells.
///
/// # Errors
///
/// When it is no component, has no signature, or what should be signatures is something else: one that is false spoils
/// all of them.
pub fn signers(wasm: &[u8], known: &[PublicKey]) -> Result<Signers, NotSigned> {
    let parts = Parts::of(wasm)?;
    let section = parts.signatures.ok_or(NotSigned::Component)?;
    let whole = Sha256::digest(parts.content);
    let mut signers = Signers::default();
    for set in read(section)? {
        let message = message(set.hashes);
        let keys = set.keys(known)?;
        for (id, algorithm, signature) in set.signatures {
            match algorithm {
                KEY => continue,
                ED25519 => {}
                _ => return Err(NotSigned::Unreadable("one of them is by an algorithm that is not known here")),
            }
            // One without an id may be anybody's.
            let mut candidates = keys.iter().filter(|(of, _)| id.is_empty() || of == id).peekable();
            let may_be_strange = id.is_empty() || candidates.peek().is_none();
            match candidates.find(|(_, key)| key.verifies(&message, signature)) {
                Some((_, key)) => {
                    let list = if *set.hashes == *whole { &mut signers.valid } else { &mut signers.changed };
                    if !list.contains(key) {
                        list.push(*key);
                    }
                }
                None if may_be_strange => signers.unknown += 1,
                None => return Err(NotSigned::Unreadable("one of them is false")),
            }
        }
    }
    Ok(signers)
}

/// The component with a signature of this key. Those that it has already are kept, unless they are of something else.
///
/// # Errors
///
/// When it is no component, or is signed by the key already.
pub fn sign(wasm: &[u8], key: &PrivateKey) -> Result<Vec<u8>, SignError> {
    let parts = Parts::of(wasm).map_err(SignError::NoComponent)?;
    let public = key.public();
    let sets = parts.signatures.map(read).transpose().map_err(SignError::NoComponent)?;
    match signers(wasm, &[public]) {
        Ok(signers) if signers.valid.contains(&public) => return Err(SignError::Signed(public)),
        Ok(_) | Err(NotSigned::Component) => {}
        Err(error) => return Err(SignError::NoComponent(error)),
    }
    let whole = Sha256::digest(parts.content);
    let id = public.id();
    let signature = key.sign(&message(&whole));
    let kept = sets.into_iter().flatten().filter(|set| *set.hashes == *whole).flat_map(|set| set.signatures);
    let kept = kept.filter(|(of, algorithm, _)| (*of, *algorithm) != (&id[..], KEY));
    let own = [(&id[..], KEY, &public.as_bytes()[..]), (&id[..], ED25519, &signature[..])];
    Ok(parts.with(&written(&Set { hashes: &whole, signatures: kept.chain(own).collect() })))
}

fn message(hashes: &[u8]) -> Vec<u8> {
    [DOMAIN, &KIND, hashes].concat()
}

// === impl Set ===

impl Set<'_> {
    /// The keys that are known or told, with their ids.
    fn keys(&self, known: &[PublicKey]) -> Result<Vec<([u8; ID], PublicKey)>, NotSigned> {
        let mut keys: Vec<_> = known.iter().map(|key| (key.id(), *key)).collect();
        for (id, _, key) in self.signatures.iter().filter(|(_, algorithm, _)| *algorithm == KEY) {
            let key = PublicKey::new((*key).try_into().map_err(|_| NotSigned::Unreadable("a key of theirs is none"))?);
            if key.id() != *id {
                return Err(NotSigned::Unreadable("a key of theirs has another's id"));
            }
            if !keys.contains(&(key.id(), key)) {
                keys.push((key.id(), key));
            }
        }
        Ok(keys)
    }
}

fn read(section: &[u8]) -> Result<Vec<Set<'_>>, NotSigned> {
    let Some(sets) = section.strip_prefix(&KIND) else {
        return Err(NotSigned::Unreadable("they are of a version, or by a hash function, that is not known here"));
    };
    read_all(&mut Reader(sets), read_set).ok_or(NotSigned::Unreadable("they are broken"))
}

fn read_set<'a>(set: &mut Reader<'a>) -> Option<Set<'a>> {
    let hashes = set.number()?.checked_mul(HASH)?;
    let hashes = set.take(hashes)?;
    let signatures = read_all(set, |signature| Some((signature.slice()?, signature.byte()?, signature.slice()?)))?;
    Some(Set { hashes, signatures })
}

/// Reads a number of things, each with its length before it, to the end of what there is.
fn read_all<'a, T>(from: &mut Reader<'a>, read: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let count = from.number()?;
    // Not made for as many as are told: that is only told.
    let mut all = Vec::new();
    for _ in 0..count {
        let mut one = Reader(from.slice()?);
        all.push(read(&mut one)?);
        if !one.0.is_empty() {
            return None;
        }
    }
    from.0.is_empty().then_some(all)
}

fn written(set: &Set<'_>) -> Vec<u8> {
    let mut inner = Vec::new();
    put_number(&mut inner, set.hashes.len() / HASH);
    inner.extend_from_slice(set.hashes);
    put_number(&mut inner, set.signatures.len());
    for (id, algorithm, signature) in &set.signatures {
        let mut one = Vec::new();
        put_slice(&mut one, id);
        one.push(*algorithm);
        put_slice(&mut one, signature);
        put_slice(&mut inner, &one);
    }
    let mut section = KIND.to_vec();
    put_number(&mut section, 1);
    put_slice(&mut section, &inner);
    section
}

/// A section with one signature of these hashes, whatever they are of.
#[cfg(test)]
pub(super) fn section_of(hashes: &[u8], key: &PrivateKey) -> Vec<u8> {
    let signature = key.sign(&message(hashes));
    written(&Set { hashes, signatures: vec![(&key.public().id()[..], ED25519, &signature[..])] })
}

/// What a signature of this content is, bare.
#[cfg(test)]
pub(super) fn bare(content: &[u8], key: &PrivateKey) -> [u8; 64] {
    key.sign(&message(&Sha256::digest(content)))
}
