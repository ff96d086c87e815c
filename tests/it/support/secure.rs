//! TLS for tests: an authority with certificates of every kind, and a client that shows and demands what it is told.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evenkeel::config::{CertificatePlan, ListenerTlsPlan, Secret, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::PATIENCE;

/// A certificate authority of the test's own, and the folder that its files are in.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Signs a certificate for these names and puts it in `FILE.pem` and `FILE.key`.
    pub(crate) fn sign(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificatePlan {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        write(&key_file, &key.serialize_pem());
        write(&cert_file, &certificate.pem());
        CertificatePlan { cert: cert_file, key: Secret::File(key_file) }
    }

    pub(crate) fn listener(&self, certificates: Vec<CertificatePlan>) -> ListenerTlsPlan {
        ListenerTlsPlan { certificates, client_ca: None, subject_header: None, min_version: TlsVersion::V12 }
    }

    /// A client that trusts this authority.
    pub(crate) fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Client { roots, versions: rustls::ALL_VERSIONS, alpn: &["http/1.1"], certificate: None }
    }
}

/// In one piece, as one replaces certificates.
pub(crate) fn write(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, path).unwrap();
}

/// What a client brings.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) roots: RootCertStore,
    pub(crate) versions: &'static [&'static rustls::SupportedProtocolVersion],
    pub(crate) alpn: &'static [&'static str],
    pub(crate) certificate: Option<CertificatePlan>,
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    pub(crate) fn config(&self) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap();
        let builder = builder.with_root_certificates(self.roots.clone());
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(plan) => {
                let key = PrivateKeyDer::from_pem_slice(&plan.key.read().unwrap()).unwrap();
                let chain = CertificateDer::pem_file_iter(&plan.cert).unwrap().collect::<Result<_, _>>().unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    pub(crate) fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<Stream> {
        self.connect_with(&Arc::new(self.config()), address, name)
    }

    pub(crate) fn connect_with(
        &self,
        config: &Arc<ClientConfig>,
        address: SocketAddr,
        name: &str,
    ) -> std::io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }
}

/// `GET path`, `Connection: close`; all that comes back, which must end with close_notify.
pub(crate) fn get(stream: &mut Stream, host: &str, path: &str) -> std::io::Result<String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Client-Subject: CN=forged\r\nX_Client-Subject: CN=forged\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(crate) fn leaf_name(stream: &Stream) -> String {
    let leaf = stream.conn.peer_certificates().unwrap()[0].to_vec();
    evenkeel::tls::x509::Certificate::parse(&leaf).unwrap().subject
}
