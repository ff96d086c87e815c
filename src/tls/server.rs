//! What one listener shows to clients.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite as suite};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{ServerConfig, SupportedCipherSuite};
use tokio_rustls::TlsAcceptor;

use super::pem::{certified, first_end, roots};
use super::sni::BySni;
use super::x509::Certificate;
use super::{Stamps, TlsError, provider};
use crate::config::{ListenerTlsPlan, Secret, TlsVersion};

/// Versions spoken. 1.0 and 1.1 do not exist in rustls.
const SINCE_12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
const SINCE_13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What is preferred, whatever order clients name: Mozilla's recommendation, the cheapest of the strong ones first. All
/// have forward secrecy and authenticated encryption.
const SUITES: &[SupportedCipherSuite] = &[
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// TLS of one listener, made from its plan and the files of the moment.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    plan: ListenerTlsPlan,
    http2: bool,
    /// The CAs of client certificates: who may resume depends on them.
    client_ca: Vec<CertificateDer<'static>>,
    expiries: Vec<(PathBuf, SystemTime)>,
    stamps: Stamps,
}

impl Server {
    /// Reads all files of `plan`. `http2`: whether `h2` is offered. `before`: what this replaces; its tickets stay good
    /// as long as the same clients are let in.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn build(plan: &ListenerTlsPlan, http2: bool, before: Option<&Self>) -> Result<Self, TlsError> {
        // Taken first: what changes while the files are read is noticed at the next look.
        let stamps = Stamps::of(files(plan));
        let versions = match plan.min_version {
            TlsVersion::V12 => SINCE_12,
            TlsVersion::V13 => SINCE_13,
        };
        let ours = CryptoProvider { cipher_suites: SUITES.to_vec(), ..(*provider()).clone() };
        let builder = ServerConfig::builder_with_provider(Arc::new(ours));
        let builder = builder.with_protocol_versions(versions).map_err(TlsError::Refused)?;
        let mut expiries = Vec::new();
        let (builder, client_ca) = match &plan.client_ca {
            None => (builder.with_no_client_auth(), Vec::new()),
            Some(path) => {
                let (roots, all) = roots(path)?;
                expiries.extend(first_end(&all).map(|end| (path.clone(), end)));
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                let of_file = |error| TlsError::Useless(path.display().to_string(), format!("cannot be used: {error}"));
                (builder.with_client_cert_verifier(verifier.map_err(of_file)?), all)
            }
        };
        let mut shown = Vec::new();
        for certificate in &plan.certificates {
            let key = certified(certificate).map_err(|(_, error)| error)?;
            let of_file = || TlsError::Useless(certificate.cert.display().to_string(), "is no certificate".to_owned());
            let leaf = key.cert.first().and_then(|der| Certificate::parse(der)).ok_or_else(of_file)?;
            expiries.extend(first_end(&key.cert).map(|end| (certificate.cert.clone(), end)));
            shown.push((key, leaf.names));
        }
        let mut config = builder.with_cert_resolver(Arc::new(BySni::new(shown)));
        config.ignore_client_order = true;
        config.alpn_protocols =
            if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        // Sessions are kept by clients, in tickets whose key changes every six hours; nothing is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ticketer(before.filter(|before| before.client_ca == client_ca))?;
        Ok(Self { config: Arc::new(config), plan: plan.clone(), http2, client_ca, expiries, stamps })
    }

    /// The same plan with the files of the moment.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn rebuild(&self) -> Result<Self, TlsError> {
        Self::build(&self.plan, self.http2, Some(self))
    }

    /// Whether `other` lets in the same clients, in the same way, and tells backends of them alike.
    pub fn admits_like(&self, other: &Self) -> bool {
        self.client_ca == other.client_ca
            && self.plan.min_version == other.plan.min_version
            && self.plan.subject_header == other.plan.subject_header
    }

    /// When the first certificate of each file ends.
    pub fn expiries(&self) -> &[(PathBuf, SystemTime)] {
        &self.expiries
    }

    /// How its files looked when they were read.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

/// A resumed session is not asked for its certificate again: tickets must not outlive a change of who is let in, nor be
/// shared with a listener that asks differently.
fn ticketer(before: Option<&Server>) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    match before {
        Some(before) => Ok(Arc::clone(&before.config.ticketer)),
        None => Ticketer::new().map_err(TlsError::Refused),
    }
}

/// Every file that `plan` is made from.
fn files(plan: &ListenerTlsPlan) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = plan.client_ca.iter().cloned().collect();
    for certificate in &plan.certificates {
        files.push(certificate.cert.clone());
        if let Secret::File(key) = &certificate.key {
            files.push(key.clone());
        }
    }
    files
}
