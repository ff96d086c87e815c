//! Whether the world is as the plan says: files are there and can be read, secrets are set, names resolve.
//!
//! `check` and `run` ask after a plan was read; nothing is opened for longer than a look, nothing is written. Whether
//! addresses can be bound is not asked here: only binding tells.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::error::{ConfigError, Severity};
use super::plan::*;
use super::read::Loaded;
use super::secret::{Secret, open_regular};
use super::source::Finding;
use super::words::join;

/// Looking up all host names may take this long in all; a resolver's own limit is longer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// The least length of a secret, bytes: 128 bits, if they are random.
const LEAST_SECRET: usize = 16;

/// Host names that are looked up at once, and at most.
const MOST_NAMES: usize = 256;

/// What is wrong with the files and secrets that `plan` names. The findings have no place in a file; for that, see
/// [`Loaded::preflight`].
pub fn preflight(plan: &Plan) -> Vec<ConfigError> {
    let placeless = |(key, what, severity): Check| ConfigError {
        file: String::new(),
        line: 0,
        column: 0,
        key,
        message: what.message,
        hint: what.hint,
        severity,
        excerpt: None,
    };
    files_and_secrets(plan).into_iter().map(placeless).collect()
}

impl Loaded {
    /// What is wrong with the files and secrets that the configuration names, each at its key.
    pub fn preflight(&self) -> Vec<ConfigError> {
        self.placed(files_and_secrets(&self.plan))
    }

    /// A warning for each backend whose host name cannot be looked up now. Blocks for up to five seconds.
    pub fn preflight_names(&self) -> Vec<ConfigError> {
        self.placed(unresolvable(&self.plan))
    }

    /// Everything there is to say: what the text is at fault, then its files and secrets, then `more` that others found
    /// (key, what, hint, severity), in the order of the file. What the reader could not make out is not judged by what it
    /// put there instead, and no key is told of twice.
    pub fn survey<'a>(&self, more: impl IntoIterator<Item = (String, String, &'a str, Severity)>) -> Vec<ConfigError> {
        let mut all = self.warnings.clone();
        let checks = self.preflight();
        let more = more.into_iter().map(|(key, message, hint, severity)| self.finding(&key, message, hint, severity));
        for later in [checks, more.collect()] {
            let news: Vec<_> = later.into_iter().filter(|finding| self.is_news(finding, &all)).collect();
            all.extend(news);
        }
        all.sort_by_key(|finding| (finding.line, finding.column));
        all
    }

    /// Whether a finding about the world adds something to those before it.
    pub fn is_news(&self, finding: &ConfigError, before: &[ConfigError]) -> bool {
        let errors = || before.iter().filter(|told| told.severity == Severity::Error);
        if self.is_sound() {
            return !errors().any(|told| told.key == finding.key);
        }
        // Entries behind a faulty one have moved up: which is which cannot be told any more.
        let of_text = || self.warnings.iter().filter(|told| told.severity == Severity::Error);
        let list = ["certificates[", "backends["].iter().find_map(|list| Some(finding.key.find(list)? + list.len()));
        let list = list.and_then(|end| finding.key.get(..end)).unwrap_or(&finding.key);
        self.places.written(&finding.key)
            && !errors().any(|told| told.key == finding.key)
            && !of_text().any(|told| told.key.starts_with(list))
    }

    /// A finding at the place where the key of this path stands.
    pub fn finding(&self, key: &str, message: String, hint: &str, severity: Severity) -> ConfigError {
        self.source.finding(&self.places.find(key), key, (message, hint).into(), severity)
    }

    fn placed(&self, checks: Vec<Check>) -> Vec<ConfigError> {
        let placed = checks.into_iter().map(|(key, what, severity)| {
            let span = self.places.find(&key);
            self.source.finding(&span, &key, what, severity)
        });
        placed.collect()
    }
}

/// Key, what is wrong, whether it stops us.
type Check = (String, Finding, Severity);

fn files_and_secrets(plan: &Plan) -> Vec<Check> {
    let mut checks = Vec::new();
    for (index, listener) in plan.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let at = |key: &str| format!("listeners[{index}].tls.{key}");
        for (entry, certificate) in tls.certificates.iter().enumerate() {
            check_certificate(
                certificate,
                &at(&format!("certificates[{entry}].cert")),
                &at(&format!("certificates[{entry}].key")),
                &mut checks,
            );
        }
        check_file(tls.client_ca.as_deref(), at("client_ca"), &mut checks);
    }
    if let Some(admin) = &plan.admin {
        check_secret(admin.token.as_ref(), "admin.token_file".to_owned(), &mut checks);
        // Only a warning: a short one protects nothing well, but it may be all that is wanted on a test machine.
        let hint = "a long one: head -c 32 /dev/urandom | base64";
        check_length(admin.token.as_ref(), "admin.token_file", hint, Severity::Warning, &mut checks);
    }
    for pool in &plan.pools {
        check_pool(pool, &join("pools", &pool.name), &mut checks);
    }
    check_log_file(plan.access_log.path.as_deref(), "access_log.path", &mut checks);
    checks
}

fn check_pool(pool: &PoolPlan, path: &str, checks: &mut Vec<Check>) {
    for (index, backend) in pool.backends.iter().enumerate() {
        let Some(tls) = &backend.tls else { continue };
        let at = |key: &str| format!("{path}.backends[{index}].tls.{key}");
        check_file(tls.ca.as_deref(), at("ca"), checks);
        if let Some(client) = &tls.client {
            check_certificate(client, &at("client_cert"), &at("client_key"), checks);
        }
    }
    if let Some(sticky) = &pool.sticky {
        let key = format!("{path}.sticky.secret_file");
        check_secret(sticky.secret.as_ref(), key.clone(), checks);
        if sticky.mode == StickyMode::Cookie {
            let hint = "such as: head -c 32 /dev/urandom | base64";
            check_length(sticky.secret.as_ref(), &key, hint, Severity::Error, checks);
        }
    }
}

fn check_certificate(certificate: &CertificatePlan, cert_at: &str, key_at: &str, checks: &mut Vec<Check>) {
    check_file(Some(&certificate.cert), cert_at.to_owned(), checks);
    check_secret(Some(&certificate.key), key_at.to_owned(), checks);
}

fn check_secret(secret: Option<&Secret>, key: String, checks: &mut Vec<Check>) {
    let Some(secret) = secret else { return };
    if let Err(error) = secret.read() {
        let what: Finding = match secret {
            Secret::File(path) => unreadable(path, &error),
            Secret::Env(name) => (format!("{name}: {error}"), format!("start us with {name} set")).into(),
        };
        checks.push((key, what, Severity::Error));
        return;
    }
    if let Secret::File(path) = secret
        && is_open_to_all(path)
    {
        let what = (format!("{} can be read by every user of this machine", path.display()), "chmod 600");
        checks.push((key, what.into(), Severity::Warning));
    }
}

fn check_length(secret: Option<&Secret>, key: &str, hint: &str, severity: Severity, checks: &mut Vec<Check>) {
    let length = secret.and_then(|secret| secret.read().ok()).map_or(LEAST_SECRET, |secret| secret.len());
    if length < LEAST_SECRET {
        let what = format!("has {length} bytes, which can be guessed: {LEAST_SECRET} are the least");
        checks.push((key.to_owned(), (what, hint).into(), severity));
    }
}

#[cfg(unix)]
fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_path: &Path) -> bool {
    false
}

fn check_file(path: Option<&Path>, key: String, checks: &mut Vec<Check>) {
    let Some(path) = path else { return };
    let look = open_regular(path).and_then(|file| match file.metadata()? {
        metadata if metadata.len() == 0 => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        _ => Ok(()),
    });
    if let Err(error) = look {
        checks.push((key, unreadable(path, &error), Severity::Error));
    }
}

/// The file of the access log may not be there yet, its folder must.
fn check_log_file(path: Option<&Path>, key: &str, checks: &mut Vec<Check>) {
    let Some(path) = path else { return };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let what: Finding = if path.is_dir() {
        format!("{} is a folder", path.display()).into()
    } else if !folder.is_dir() {
        (format!("there is no folder {}", folder.display()), "make it, or set another `path`").into()
    } else {
        return;
    };
    checks.push((key.to_owned(), what, Severity::Error));
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "relative paths start from the folder of the configuration file",
        io::ErrorKind::PermissionDenied => "the user that runs us must be able to read it",
        _ => "",
    };
    (format!("{} cannot be used: {error}", path.display()), hint).into()
}

/// Backends whose names cannot be looked up now. Each name has a thread, as the system's resolver blocks.
fn unresolvable(plan: &Plan) -> Vec<Check> {
    let mut keys_of: BTreeMap<(String, u16), Vec<String>> = BTreeMap::new();
    for pool in &plan.pools {
        for (index, backend) in pool.backends.iter().enumerate() {
            if let Address::Name { host, port } = &backend.address {
                let key = format!("{}.backends[{index}].address", join("pools", &pool.name));
                keys_of.entry((host.clone(), *port)).or_default().push(key);
            }
        }
    }
    let (sender, answers) = mpsc::channel();
    let mut waiting = 0;
    for (host, port) in keys_of.keys().take(MOST_NAMES).cloned() {
        let sender = sender.clone();
        // A look-up that hangs ends with the process; it holds nothing.
        let spawned = std::thread::Builder::new().name("lookup".to_owned()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            let _ = sender.send(Some(((host, port), found)));
        });
        waiting += usize::from(spawned.is_ok());
    }
    let alarm = move || {
        std::thread::sleep(LOOKUP_LIMIT);
        let _ = sender.send(None);
    };
    if waiting == 0 || std::thread::Builder::new().name("lookup-limit".to_owned()).spawn(alarm).is_err() {
        return Vec::new();
    }
    let mut failed = Vec::new();
    let mut known: BTreeMap<(String, u16), Vec<SocketAddr>> = BTreeMap::new();
    while waiting > 0 {
        let Ok(Some((name, found))) = answers.recv() else { break };
        waiting -= 1;
        let keys = keys_of.remove(&name).unwrap_or_default();
        let why = match found {
            Ok(addresses) if addresses.is_empty() => "it has no address".to_owned(),
            Ok(addresses) => {
                known.insert(name, addresses);
                continue;
            }
            Err(error) => error.to_string(),
        };
        failed.extend(keys.into_iter().map(|key| unresolved(key, &name.0, &why)));
    }
    if waiting > 0 {
        let silent = keys_of.into_iter().take(MOST_NAMES);
        failed.extend(silent.flat_map(|((host, _), keys)| {
            keys.into_iter().map(move |key| unresolved(key, &host, "no answer within 5 s"))
        }));
    }
    failed.extend(plan.pools.iter().flat_map(|pool| twice(pool, &known)));
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    failed
}

/// Backends of one pool that are the same server under several names, or under its name and its address. The same text
/// twice was told of before names were looked up.
fn twice(pool: &PoolPlan, known: &BTreeMap<(String, u16), Vec<SocketAddr>>) -> Vec<Check> {
    let mut first_at: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let mut checks = Vec::new();
    for (index, backend) in pool.backends.iter().enumerate() {
        let addresses = match &backend.address {
            Address::Ip(address) => vec![*address],
            Address::Name { host, port } => known.get(&(host.clone(), *port)).cloned().unwrap_or_default(),
        };
        let other = addresses.iter().find_map(|address| Some((address, *first_at.get(address)?)));
        if let Some((address, first)) = other
            && let Some(before) = pool.backends.get(first).filter(|before| before.address != backend.address)
        {
            let what = format!("{} is {address} now, the address of \"{}\" too", backend.address, before.name);
            let key = format!("{}.backends[{index}].address", join("pools", &pool.name));
            checks.push((key, (what, "one server counted twice gets twice its share").into(), Severity::Warning));
        }
        for address in addresses {
            first_at.entry(address).or_insert(index);
        }
    }
    checks
}

fn unresolved(key: String, host: &str, why: &str) -> Check {
    let what = (format!("{host} cannot be looked up here: {why}"), "it is tried again while we run");
    (key, what.into(), Severity::Warning)
}
