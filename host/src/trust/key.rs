//! Ed25519 keys, as people handle them.
//!
//! A public key is a short text that fits into a manifest. A private key is a PEM file, PKCS #8, which `openssl` and
//! `wasmsign2` read and write too.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    hmac::{self, HMAC_SHA256},
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What a public key begins with, as text.
const PREFIX: &str = "ed25519:";
/// PKCS #8 of an Ed25519 key, up to its 32 bytes (RFC 8410).
const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
/// How long an id is.
pub(super) const ID: usize = 12;
/// The longest key file.
const LONGEST_FILE: u64 = 16 << 10;

/// Points that a key can't be, without the bit of the sign: with one of these as the key, signatures that anybody can
/// make up are valid. The first is what a placeholder of zeros would be.
pub(super) const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    with_ends(0x01, 0x00, 0x00),
    with_ends(0xec, 0xff, 0x7f),
    // The same two points, written as numbers beyond the field's.
    with_ends(0xed, 0xff, 0x7f),
    with_ends(0xee, 0xff, 0x7f),
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
];

const fn with_ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// A key that says whether a signature is genuine. Everybody may know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A key that signs. Nothing shows it.
pub struct PrivateKey {
    pair: Ed25519KeyPair,
    /// The file that it is kept in.
    pem: String,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// What should be a public key is none.
    #[error("expected a public key as `wharf keygen` prints it: \"ed25519:\" and 44 characters of base64")]
    NotPublic,
    /// It is a key by which anybody could sign.
    #[error("with this as the key everybody could sign; `wharf keygen` makes one that is good")]
    Worthless,
    /// The file can't be read.
    #[error("the key file {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is in the file is no key that signs.
    #[error(
        "{} holds no private Ed25519 key: expected PEM as `wharf keygen` or `openssl genpkey -algorithm ed25519` write it",
        .0.display()
    )]
    NotPrivate(PathBuf),
    /// The file can't be written.
    #[error("the key file {} can't be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is a file already.
    #[error("there is a file {} already, and a key in it would be lost: name another, or remove it", .0.display())]
    Taken(PathBuf),
    /// The operating system gives no randomness.
    #[error("the operating system gives no random numbers")]
    Random,
}

// === impl PublicKey ===

impl PublicKey {
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What signatures of this key name it by: the proposal's own tool makes the same of a key.
    pub(super) fn id(&self) -> [u8; ID] {
        let whole = hmac::sign(&hmac::Key::new(HMAC_SHA256, &self.0), b"key_id");
        let mut id = [0; ID];
        id.copy_from_slice(&whole.as_ref()[..ID]);
        id
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = text.strip_prefix(PREFIX).and_then(|text| BASE64_STANDARD.decode(text).ok());
        let key: [u8; 32] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::NotPublic)?;
        let mut unsigned = key;
        unsigned[31] &= 0x7f;
        if SMALL_ORDER.contains(&unsigned) { Err(KeyError::Worthless) } else { Ok(Self(key)) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

// === impl PrivateKey ===

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
        Self::of_seed(&seed).ok_or(KeyError::Random)
    }

    pub(super) fn of_seed(seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let encoded = BASE64_STANDARD.encode([&PKCS8[..], seed].concat());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n");
        Some(Self { pair, pem })
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let mut text = Vec::new();
        File::open(path).map_err(unreadable)?.take(LONGEST_FILE).read_to_end(&mut text).map_err(unreadable)?;
        Self::parse(&text).ok_or_else(|| KeyError::NotPrivate(path.to_owned()))
    }

    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        // A file may hold the private key without its public half, which follows from it.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
        Some(Self { pair, pem: String::from_utf8(pem.to_vec()).ok()? })
    }

    /// Writes the key into a new file that only this user can read.
    ///
    /// # Errors
    ///
    /// [`KeyError::Taken`] where there is a file already, [`KeyError::Unwritable`] where there can't be one.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(self.pem.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Taken(path.to_owned()),
            _ => KeyError::Unwritable { path: path.to_owned(), source },
        })
    }

    /// The key that its signatures are checked by.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}
