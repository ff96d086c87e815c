//! What is wrong with the certificates that a plan names, at the key of each: for `check`, the start and a reload.

use std::collections::BTreeSet;
use std::path::Path;

use super::pem::{Half, certified, chain, roots};
use super::x509::Certificate;
use super::{Clients, TlsError, WARNING_DAYS};
use crate::clock;
use crate::config::{BackendTlsPlan, CertificatePlan, HostMatch, ListenerTlsPlan, Plan, Severity, show_duration};

/// Something wrong with a certificate, key or CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key that names it.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
    /// Whether it stops us. What time alone changes does not: a restart must not turn it into an outage.
    pub severity: Severity,
}

/// Everything that is wrong now.
pub fn examine(plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, listener) in plan.listeners.iter().enumerate() {
        if let Some(tls) = &listener.tls {
            let found = examine_listener(tls, &format!("listeners[{index}].tls"), &mut faults);
            if let Some(certificates) = found {
                routes(plan, listener.address, &certificates, &mut faults);
            }
        }
    }
    for pool in plan.pools.iter().filter(|pool| !pool.protocol.is_plain()) {
        let before = faults.len();
        for (index, backend) in pool.backends.iter().enumerate() {
            if let Some(tls) = &backend.tls {
                examine_backend(tls, &format!("pools.{}.backends[{index}].tls", pool.name), &mut faults);
            }
        }
        // What no file shows: the system's roots.
        if faults.len() == before
            && let Err(error @ TlsError::NoRoots(_)) = Clients::build(pool)
        {
            let hint = "install the package ca-certificates, or set `ca`";
            faults.push(Fault {
                key: format!("pools.{}.protocol", pool.name),
                message: error.to_string(),
                hint,
                severity: Severity::Error,
            });
        }
    }
    faults
}

/// The certificates, when all could be read.
fn examine_listener(tls: &ListenerTlsPlan, path: &str, faults: &mut Vec<Fault>) -> Option<Vec<Certificate>> {
    let read = tls.certificates.iter().enumerate().map(|(entry, certificate)| {
        let at = format!("{path}.certificates[{entry}]");
        pair(certificate, &format!("{at}.cert"), &format!("{at}.key"), faults)
    });
    let read: Vec<Option<Certificate>> = read.collect();
    if let Some(ca) = &tls.client_ca {
        authority(ca, format!("{path}.client_ca"), faults);
    }
    read.into_iter().collect()
}

fn examine_backend(tls: &BackendTlsPlan, path: &str, faults: &mut Vec<Fault>) {
    if let Some(ca) = &tls.ca {
        authority(ca, format!("{path}.ca"), faults);
    }
    if let Some(client) = &tls.client {
        pair(client, &format!("{path}.client_cert"), &format!("{path}.client_key"), faults);
    }
}

/// A certificate with its key.
fn pair(plan: &CertificatePlan, cert_at: &str, key_at: &str, faults: &mut Vec<Fault>) -> Option<Certificate> {
    match certified(plan) {
        Ok(_) => {}
        Err((Half::Certificate, error)) => {
            faults.push(stop(cert_at.to_owned(), &error));
            return None;
        }
        Err((Half::Key, error)) => faults.push(stop(key_at.to_owned(), &error)),
    }
    validity(&plan.cert, cert_at, faults)
}

fn authority(ca: &Path, at: String, faults: &mut Vec<Fault>) {
    match roots(ca) {
        Ok(_) => drop(validity(ca, &at, faults)),
        Err(error) => faults.push(stop(at, &error)),
    }
}

/// The first certificate of a file; tells when it is not of this time.
fn validity(file: &Path, at: &str, faults: &mut Vec<Fault>) -> Option<Certificate> {
    let leaf = chain(file).ok()?.first().and_then(|der| Certificate::parse(der))?;
    if let Some((message, hint)) = of_this_time(&leaf, clock::wall_seconds()) {
        let message = format!("{} {message}", file.display());
        faults.push(Fault { key: at.to_owned(), message, hint, severity: Severity::Warning });
    }
    Some(leaf)
}

/// What the date makes of a certificate: what it is, and what to do; `None`: nothing.
pub(super) fn of_this_time(certificate: &Certificate, now: u64) -> Option<(String, &'static str)> {
    const DAY: i64 = 24 * 3600;
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let whole_days = |seconds: i64| std::time::Duration::from_secs((seconds / DAY * DAY).max(0) as u64);
    let (since, left) = (now - certificate.not_after, certificate.not_after - now);
    if since >= 0 {
        let ago = if since < DAY { "today".to_owned() } else { format!("{} ago", show_duration(whole_days(since))) };
        Some((format!("has expired {ago}"), "clients refuse it: renew it"))
    } else if certificate.not_before > now {
        Some(("is not valid yet".to_owned(), "clients refuse it until then; is the clock right?"))
    } else if left < WARNING_DAYS as i64 * DAY {
        let days = left / DAY;
        Some((format!("expires in {days} day{}", if days == 1 { "" } else { "s" }), "renew it"))
    } else {
        None
    }
}

/// Routes for hosts that no certificate of this listener is for.
fn routes(plan: &Plan, address: std::net::SocketAddr, certificates: &[Certificate], faults: &mut Vec<Fault>) {
    let mut told = BTreeSet::new();
    for (index, route) in plan.routes.iter().enumerate() {
        let (host, sample) = match &route.host {
            None => continue,
            Some(HostMatch::Exact(host)) => (host.clone(), host.clone()),
            Some(HostMatch::Suffix(suffix)) => (format!("*{suffix}"), format!("any{suffix}")),
        };
        if told.insert(host.clone()) && !certificates.iter().any(|certificate| certificate.covers(&sample)) {
            faults.push(Fault {
                key: format!("routes[{index}].host"),
                message: format!("no certificate of the listener {address} is for {host}"),
                hint: "add one that is, or leave the route to a listener without TLS",
                severity: Severity::Warning,
            });
        }
    }
}

fn stop(key: String, error: &TlsError) -> Fault {
    let hint = match error {
        TlsError::OtherKey(..) => "set the key that the certificate was made with",
        TlsError::Useless(..) => "PEM: text that begins with -----BEGIN",
        TlsError::Unreadable(..) => "the user that runs us must be able to read it",
        TlsError::NoRoots(_) | TlsError::Refused(_) => "",
    };
    Fault { key, message: error.to_string(), hint, severity: Severity::Error }
}
