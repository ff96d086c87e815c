//! Which certificate a client is shown: by the name it asks for (exact before wildcard), else the first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct BySni {
    /// In file order; never empty.
    all: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl BySni {
    /// Certificates with the names that each is for.
    pub(super) fn new(certificates: Vec<(Arc<CertifiedKey>, Vec<String>)>) -> Self {
        let mut this = Self { all: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (certificate, names) in certificates {
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut this.wildcard, suffix.to_owned()),
                    None => (&mut this.exact, name),
                };
                map.entry(name).or_default().push(Arc::clone(&certificate));
            }
            this.all.push(certificate);
        }
        this
    }

    /// The certificates for a name in lower case; those of a name may differ in their kind of key.
    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let found = name.and_then(|name| {
            self.exact.get(name).or_else(|| {
                let (_, suffix) = name.split_once('.')?;
                self.wildcard.get(suffix)
            })
        });
        found.unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case as a rule; a client may send another.
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let candidates = self.candidates(name.as_deref());
        let fits = |known: &&Arc<CertifiedKey>| known.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(fits).or_else(|| candidates.first()).cloned()
    }
}
