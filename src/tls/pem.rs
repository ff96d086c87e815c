//! Certificates, keys and CAs from PEM files, with words for what is wrong with them.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use super::TlsError;
use super::provider;
use super::x509::Certificate;
use crate::config::{CertificatePlan, Secret, open_regular};

/// Longest file that is read: a bundle of all public CAs has a quarter of a MiB.
const LONGEST: u64 = 8 * 1024 * 1024;

/// Which of two files is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Certificate,
    Key,
}

/// A certificate chain with its key.
pub(super) fn certified(plan: &CertificatePlan) -> Result<Arc<CertifiedKey>, (Half, TlsError)> {
    let (cert_name, key_name) = (shown(&plan.cert), secret_name(&plan.key));
    let chain = chain(&plan.cert).map_err(|error| (Half::Certificate, error))?;
    let of_key = |error| (Half::Key, error);
    let pem = plan.key.read().map_err(|error| of_key(TlsError::Unreadable(key_name.clone(), error)))?;
    // PKCS #8 says so in its label, the older forms in a line of their own.
    if holds(&pem, "-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(&pem, "Proc-Type: 4,ENCRYPTED") {
        return Err(of_key(TlsError::Encrypted(key_name)));
    }
    let no_key = |_| match holds(&pem, "-----BEGIN CERTIFICATE-----") {
        true => of_key(TlsError::Swapped(key_name.clone(), "a certificate, and no private key")),
        false => of_key(useless(&key_name, "holds no private key in PEM")),
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(no_key)?;
    match CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let is_own = |other: &CertificateDer<'static>| {
                CertifiedKey::from_der(vec![other.clone()], key.clone_key(), &provider()).is_ok()
            };
            match chain.iter().position(is_own) {
                Some(place) => Err((Half::Certificate, TlsError::Behind(cert_name, place + 1))),
                None => Err(of_key(TlsError::OtherKey(key_name, cert_name))),
            }
        }
        Err(rustls::Error::InvalidCertificate(error)) => {
            Err((Half::Certificate, TlsError::Useless(cert_name, format!("is no usable certificate: {error}"))))
        }
        Err(error) => Err(of_key(TlsError::Useless(key_name, format!("is no usable key: {error}")))),
    }
}

/// The certificates of a file, at least one.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(chain) if chain.is_empty() && holds(&bytes, "PRIVATE KEY-----") => {
            Err(TlsError::Swapped(shown(path), "a private key, and no certificate"))
        }
        Ok(chain) if chain.is_empty() => Err(useless(&shown(path), "holds no certificate in PEM")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(TlsError::Useless(shown(path), format!("is no PEM: {error}"))),
    }
}

/// The CAs of a file: to verify with, and as they stand there.
pub(super) fn roots(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let mut roots = RootCertStore::empty();
    let all = chain(path)?;
    for certificate in &all {
        let refused = |error| TlsError::Useless(shown(path), format!("holds a CA that cannot be used: {error}"));
        roots.add(certificate.clone()).map_err(refused)?;
    }
    Ok((roots, all))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let file = open_regular(path)?;
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LONGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 8 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| TlsError::Unreadable(shown(path), error))
}

fn holds(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|window| window == text.as_bytes())
}

/// When the first of these certificates ends, seconds after the epoch; `None`: none can be read.
pub(super) fn first_end<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> Option<SystemTime> {
    let ends = certificates.into_iter().filter_map(|der| Some(Certificate::parse(der)?.not_after));
    let end = Duration::from_secs(u64::try_from(ends.min()?).unwrap_or(0));
    Some(SystemTime::UNIX_EPOCH + end)
}

fn useless(what: &str, why: &str) -> TlsError {
    TlsError::Useless(what.to_owned(), why.to_owned())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What a secret is called; never what it is.
fn secret_name(secret: &Secret) -> String {
    match secret {
        Secret::File(path) => shown(path),
        Secret::Env(name) => format!("env:{name}"),
    }
}
