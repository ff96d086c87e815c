//! How one pool speaks TLS to its backends.

use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pem::{certified, first_end, roots};
use super::x509::Certificate;
use super::{Stamps, TlsError, provider};
use crate::config::{Address, BackendPlan, BackendTlsPlan, CertificatePlan, PoolPlan, Protocol, Secret};

/// Sessions kept for resumption, per set of credentials: a few for each of many backends.
const SESSIONS: usize = 256;

/// Which version of HTTP is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
    /// `h2`, else `http/1.1`
    Either,
}

impl Alpn {
    /// What a protocol asks for; `None`: it is plain.
    pub fn of(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Http1 | Protocol::H2c => None,
            Protocol::Https => Some(Self::Http1),
            Protocol::H2 => Some(Self::Http2),
            Protocol::Auto => Some(Self::Either),
        }
    }

    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// What backends of one pool may share.
#[derive(Debug, Clone, PartialEq)]
struct Credentials {
    ca: Option<PathBuf>,
    verify: bool,
    client: Option<CertificatePlan>,
}

impl Credentials {
    fn of(tls: Option<&BackendTlsPlan>) -> Self {
        match tls {
            Some(tls) => Self { ca: tls.ca.clone(), verify: tls.verify, client: tls.client.clone() },
            None => Self { ca: None, verify: true, client: None },
        }
    }
}

/// TLS towards the backends of one pool; empty for a plain protocol.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    known: Vec<Known>,
    /// Those of `known` that the plan names; the rest is for attempts that began before it.
    own: usize,
    stamps: Stamps,
}

/// Credentials, and what their files made of them.
#[derive(Debug, Clone)]
struct Known {
    credentials: Credentials,
    config: Arc<ClientConfig>,
    /// Of the CAs and the certificate: tells whether they are still the same.
    content: u64,
    expiries: Vec<(PathBuf, SystemTime)>,
}

/// TLS towards one backend.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Clients {
    /// Reads all files that the backends of `pool` name.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn build(pool: &PoolPlan) -> Result<Self, TlsError> {
        if pool.protocol.is_plain() {
            return Ok(Self::default());
        }
        let mut different: Vec<Credentials> = Vec::new();
        for backend in &pool.backends {
            let credentials = Credentials::of(backend.tls.as_ref());
            if !different.contains(&credentials) {
                different.push(credentials);
            }
        }
        Self::from(different)
    }

    /// The same with the files of the moment.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn rebuild(&self) -> Result<Self, TlsError> {
        Self::from(self.known.iter().take(self.own).map(|known| known.credentials.clone()).collect())
    }

    fn from(different: Vec<Credentials>) -> Result<Self, TlsError> {
        // Taken first: what changes while the files are read is noticed at the next look.
        let stamps = Stamps::of(different.iter().flat_map(files).collect());
        let known = different.into_iter().map(known).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { own: known.len(), known, stamps })
    }

    /// Keeps what `before` was built for, for attempts that still follow the plan of then.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for old in before.known.iter().take(before.own) {
            if !self.known.iter().any(|known| known.credentials == old.credentials) {
                self.known.push(old.clone());
            }
        }
        self
    }

    /// Whether the files that both are made from said the same.
    pub fn agrees_with(&self, before: &Self) -> bool {
        let own = |this: &Self| this.known.iter().take(this.own).cloned().collect::<Vec<_>>();
        let old = own(before);
        own(self).iter().all(|known| {
            let twin = old.iter().find(|old| old.credentials == known.credentials);
            twin.is_none_or(|twin| twin.content == known.content)
        })
    }

    /// How to reach the backend `name` of `pool`; `None`: in the clear.
    ///
    /// # Errors
    /// It is not one that this was built for, or its name cannot be verified.
    pub fn connector(&self, pool: &PoolPlan, name: &str) -> Result<Option<Connector>, TlsError> {
        if pool.protocol.is_plain() {
            return Ok(None);
        }
        let gone = || TlsError::Useless(format!("backend {name}"), "is no longer in the pool".to_owned());
        let backend = pool.backends.iter().find(|backend| backend.name == name).ok_or_else(gone)?;
        self.of_backend(backend).map(Some)
    }

    fn of_backend(&self, backend: &BackendPlan) -> Result<Connector, TlsError> {
        let credentials = Credentials::of(backend.tls.as_ref());
        let known = self.known.iter().find(|known| known.credentials == credentials);
        let what = || format!("backend {}", backend.name);
        let Known { config, .. } = known.ok_or_else(|| TlsError::Useless(what(), "has no TLS settings".to_owned()))?;
        let written = backend.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let host = written.unwrap_or_else(|| match &backend.address {
            Address::Ip(address) => address.ip().to_string(),
            Address::Name { host, .. } => host.clone(),
        });
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host)
                .map_err(|_| TlsError::Useless(what(), "has no name that a certificate could be for".to_owned()))?,
        };
        Ok(Connector { config: Arc::clone(config), name })
    }

    /// When the first certificate of each file ends.
    pub fn expiries(&self) -> impl Iterator<Item = &(PathBuf, SystemTime)> {
        self.known.iter().take(self.own).flat_map(|known| &known.expiries)
    }

    /// How its files looked when they were read.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }
}

impl Connector {
    /// Shakes hands with a backend; the caller watches the time.
    ///
    /// # Errors
    /// What rustls, or the backend, did not agree with.
    pub async fn connect<S>(&self, stream: S, alpn: Alpn) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.with_alpn(alpn.protocols()).connect(self.name.clone(), stream).await
    }
}

/// What the files of `credentials` make.
fn known(credentials: Credentials) -> Result<Known, TlsError> {
    let mut content = std::hash::DefaultHasher::new();
    let mut expiries = Vec::new();
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Refused)?;
    let verifier: Arc<dyn ServerCertVerifier> = if credentials.verify {
        let (roots, known) = match &credentials.ca {
            Some(path) => {
                let (roots, known) = roots(path)?;
                expiries.extend(first_end(&known).map(|end| (path.clone(), end)));
                (roots, known)
            }
            None => (system_roots()?, Vec::new()),
        };
        for root in &roots.roots {
            (root.subject.as_ref(), root.subject_public_key_info.as_ref()).hash(&mut content);
        }
        known.iter().for_each(|known| known.as_ref().hash(&mut content));
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.map_err(|error| TlsError::NoRoots(format!(": {error}")))?;
        Arc::new(KnownOrSigned { known, verifier })
    } else {
        Arc::new(Anybody(provider))
    };
    // Our own choice of verifier is the "dangerous" part; for `verify = true` it is rustls' own.
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &credentials.client {
        None => builder.with_no_client_auth(),
        Some(plan) => {
            let key = certified(plan).map_err(|(_, error)| error)?;
            expiries.extend(first_end(&key.cert).map(|end| (plan.cert.clone(), end)));
            key.cert.iter().for_each(|certificate| certificate.as_ref().hash(&mut content));
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
        }
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Known { credentials, config: Arc::new(config), content: content.finish(), expiries })
}

/// The CAs that this system trusts.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let said: Vec<String> = found.errors.iter().map(|error| format!(": {error}")).collect();
        return Err(TlsError::NoRoots(said.concat()));
    }
    Ok(roots)
}

fn files(credentials: &Credentials) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = credentials.ca.iter().cloned().collect();
    if let Some(client) = &credentials.client {
        files.push(client.cert.clone());
        if let Secret::File(key) = &client.key {
            files.push(key.clone());
        }
    }
    files
}

/// A certificate that a known CA has signed, or one that stands in the file of CAs itself: what `openssl req -x509` makes
/// is its own CA, which webpki refuses to see as a server's.
#[derive(Debug)]
struct KnownOrSigned {
    known: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl KnownOrSigned {
    fn is_known(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let fits = |read: Certificate| {
            (read.not_before..=read.not_after).contains(&now) && read.covers(&name.to_str().to_ascii_lowercase())
        };
        self.known.iter().any(|known| known == leaf) && Certificate::parse(leaf).is_some_and(fits)
    }
}

impl ServerCertVerifier for KnownOrSigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(_) if self.is_known(end_entity, server_name, now) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// `verify = false`: whoever answers is taken for the backend, as long as he holds the key of what he shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
