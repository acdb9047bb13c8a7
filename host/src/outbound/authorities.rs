//! Certificate authorities of one's own.
//!
//! What a service outside is trusted by is normally Mozilla's list. Behind a company's walls certificates are mostly
//! signed by an authority of the company's own, and then that one is trusted and no other: whoever has such an authority
//! would not want the service to be what anybody else in the world calls so.

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{Error as PemError, PemObject},
    },
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The longest file of certificates. Mozilla's whole list has a quarter of that.
const MAX_LENGTH: u64 = 1 << 20;

/// Certificates, at least one, of the authorities that are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

/// Authorities that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file can't be read.
    #[error("the file `{}` of certificates can't be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is longer than any file of certificates.
    #[error("the file `{}` is longer than {} KiB, which is more than certificates need", .0.display(), MAX_LENGTH >> 10)]
    TooLong(PathBuf),
    /// There is nothing in it that is marked as a certificate.
    #[error(
        "the file `{}` holds no certificate: expected PEM, text with the line `-----BEGIN CERTIFICATE-----`",
        .0.display()
    )]
    Empty(PathBuf),
    /// What is marked as a certificate is none.
    #[error("certificate {number} in the file `{}` is broken: {problem}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Which one; the first is 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
}

// === impl Authorities ===

impl Authorities {
    /// Reads a PEM file.
    ///
    /// # Errors
    ///
    /// When there is no such file, or anything in it that should be a certificate is none, or nothing should be one.
    pub fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let unreadable = |error| AuthoritiesError::Unreadable { path: path.to_owned(), error };
        let mut text = Vec::new();
        File::open(path).map_err(unreadable)?.take(MAX_LENGTH + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_LENGTH {
            return Err(AuthoritiesError::TooLong(path.to_owned()));
        }
        Self::parse(&text, path)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, AuthoritiesError> {
        let (mut certificates, mut roots) = (Vec::new(), RootCertStore::empty());
        for (at, certificate) in CertificateDer::pem_slice_iter(text).enumerate() {
            let broken = |problem| AuthoritiesError::Broken { path: path.to_owned(), number: at + 1, problem };
            let certificate = certificate.map_err(|error| broken(in_words(&error)))?;
            roots.add(certificate.clone()).map_err(|error| broken(error.to_string()))?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            Err(AuthoritiesError::Empty(path.to_owned()))
        } else {
            Ok(Self(certificates.into()))
        }
    }

    /// The certificates, as they are written in DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// What certificates are checked against.
    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        // Each was added to such a store when it was read.
        roots.add_parsable_certificates(self.0.iter().cloned());
        roots
    }
}

fn in_words(error: &PemError) -> String {
    match error {
        PemError::MissingSectionEnd { .. } => "the line `-----END CERTIFICATE-----` is missing".into(),
        PemError::Base64Decode(_) => "it is not written in base64".into(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Authorities::parse(text.as_bytes(), Path::new("ca.pem")).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let nothing =
            "the file `ca.pem` holds no certificate: expected PEM, text with the line `-----BEGIN CERTIFICATE-----`";
        for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(refused(text), nothing, "{text:?}");
        }
        let broken = |inside: &str| refused(&format!("-----BEGIN CERTIFICATE-----\n{inside}"));
        let said = |problem| format!("certificate 1 in the file `ca.pem` is broken: {problem}");
        assert_eq!(broken("AAAA\n"), said("the line `-----END CERTIFICATE-----` is missing"));
        assert_eq!(broken("A*\n-----END CERTIFICATE-----\n"), said("it is not written in base64"));
        assert!(broken("AAAA\n-----END CERTIFICATE-----\n").starts_with(&said("")));
    }

    #[test]
    fn a_file_that_can_not_be_read_is_named() {
        let missing = Authorities::read(Path::new("no/such/ca.pem")).unwrap_err().to_string();
        assert!(
            missing.starts_with("the file `no/such/ca.pem` of certificates can't be read: No such file"),
            "{missing}"
        );
        let path = std::env::temp_dir().join(format!("wharf-ca-{}", std::process::id()));
        std::fs::write(&path, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(matches!(Authorities::read(&path), Err(AuthoritiesError::TooLong(_))));
        std::fs::remove_file(&path).unwrap();
    }
}
