//! What is wrong with the certificates that a plan names, at the key of each: for `check`, the start and a reload.

use std::collections::BTreeSet;
use std::path::Path;

use super::pem::{Half, certified, chain, roots};
use super::x509::Certificate;
use super::{Clients, TlsError, WARNING_DAYS};
use crate::clock;
use crate::config::{BackendTlsPlan, CertificatePlan, HostMatch, ListenerTlsPlan, Plan, Severity, join_key};

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
                examine_backend(tls, &format!("{}.backends[{index}].tls", join_key("pools", &pool.name)), &mut faults);
            }
        }
        // What no file shows: the system's roots.
        if faults.len() == before
            && let Err(error @ TlsError::NoRoots(_)) = Clients::build(pool)
        {
            let hint = "install the package ca-certificates, or set `ca`";
            faults.push(Fault {
                key: join_key(&join_key("pools", &pool.name), "protocol"),
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

/// The first certificate of a file; tells of the first that is not of this time.
fn validity(file: &Path, at: &str, faults: &mut Vec<Fault>) -> Option<Certificate> {
    let all: Vec<Certificate> = chain(file).ok()?.iter().map_while(|der| Certificate::parse(der)).collect();
    let now = clock::wall_seconds();
    let found = all.iter().enumerate().find_map(|(place, certificate)| Some((place, of_this_time(certificate, now)?)));
    if let Some((place, (message, hint))) = found {
        let of_chain = if place == 0 { String::new() } else { format!(": its certificate {}", place + 1) };
        let message = format!("{}{of_chain} {message}", file.display());
        faults.push(Fault { key: at.to_owned(), message, hint, severity: Severity::Warning });
    }
    all.into_iter().next()
}

/// What the date makes of a certificate: what it is, and what to do; `None`: nothing.
pub(super) fn of_this_time(certificate: &Certificate, now: u64) -> Option<(String, &'static str)> {
    const DAY: i64 = 24 * 3600;
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let (since, left) = (now - certificate.not_after, certificate.not_after - now);
    if since >= 0 {
        let ago = if since < DAY { "today".to_owned() } else { format!("{}d ago", since / DAY) };
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
                hint: "add one with this name to `certificates`; clients that ask for it refuse what they are shown",
                severity: Severity::Warning,
            });
        }
    }
}

fn stop(key: String, error: &TlsError) -> Fault {
    let hint = match error {
        TlsError::OtherKey(..) => "set the key that the certificate was made with",
        TlsError::Encrypted(_) => "write it without: openssl pkey -in KEY -out NEW-KEY",
        TlsError::Swapped(..) => "are certificate and key swapped?",
        TlsError::Behind(..) => "put it first, and those of its CAs behind it",
        TlsError::Useless(..) => "PEM: text that begins with -----BEGIN",
        TlsError::Unreadable(..) => "the user that runs us must be able to read it",
        TlsError::NoRoots(_) | TlsError::Refused(_) => "",
    };
    Fault { key, message: error.to_string(), hint, severity: Severity::Error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendPlan, ListenerPlan, RoutePlan, Secret, StrategyKind, TlsVersion};
    use rcgen::{CertificateParams, KeyPair};

    const DAY: u64 = 24 * 3600;

    fn read(before: i64, after: i64) -> Certificate {
        let subject = String::new();
        Certificate { not_before: before, not_after: after, names: Vec::new(), addresses: Vec::new(), subject }
    }

    #[test]
    fn what_the_date_makes_of_a_certificate() {
        let now = 100 * DAY;
        let told = |before: u64, after: u64| of_this_time(&read(before as i64, after as i64), now).map(|told| told.0);
        assert_eq!(told(0, 200 * DAY), None);
        assert_eq!(told(0, now + 14 * DAY), None);
        assert_eq!(told(0, now + 14 * DAY - 1).as_deref(), Some("expires in 13 days"));
        assert_eq!(told(0, now + DAY).as_deref(), Some("expires in 1 day"));
        assert_eq!(told(0, now - 1).as_deref(), Some("has expired today"));
        assert_eq!(told(0, now - 3 * DAY - 1).as_deref(), Some("has expired 3d ago"));
        assert_eq!(told(now + 1, 200 * DAY).as_deref(), Some("is not valid yet"));
    }

    #[test]
    fn every_fault_is_at_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            std::fs::write(folder.path().join(file), text).unwrap();
            folder.path().join(file)
        };
        let certificate = |file: &str, change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let signed = params.self_signed(&key).unwrap();
            let cert = write(&format!("{file}.pem"), &signed.pem());
            CertificatePlan { cert, key: Secret::File(write(&format!("{file}.key"), key.serialize_pem().trim_end())) }
        };
        let good = certificate("good", &|_| {});
        let late = certificate("late", &|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
        let early = certificate("early", &|params| params.not_before = rcgen::date_time_ymd(2900, 1, 1));
        let other = CertificatePlan { cert: good.cert.clone(), key: late.key.clone() };
        let junk = CertificatePlan { cert: write("junk.pem", "junk"), key: good.key.clone() };
        let swapped = match &good.key {
            Secret::File(key) => CertificatePlan { cert: key.clone(), key: Secret::File(good.cert.clone()) },
            Secret::Env(_) => unreachable!(),
        };
        let of_key = CertificatePlan { cert: good.cert.clone(), key: Secret::File(good.cert.clone()) };
        let locked =
            write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----");
        let locked = CertificatePlan { cert: good.cert.clone(), key: Secret::File(locked) };
        let text = |plan: &CertificatePlan| std::fs::read_to_string(&plan.cert).unwrap();
        let behind = write("behind.pem", &format!("{}\n{}", text(&late), text(&good)));
        let behind = CertificatePlan { cert: behind, key: good.key.clone() };
        let old_ca = write("chain.pem", &format!("{}\n{}", text(&good), text(&late)));
        let old_ca = CertificatePlan { cert: old_ca, key: good.key.clone() };
        let keyless = CertificatePlan { cert: good.cert.clone(), key: Secret::File(write("junk.key", "junk")) };
        let gone = CertificatePlan { cert: folder.path().join("gone.pem"), key: good.key.clone() };

        let backend = BackendPlan::new("b", "127.0.0.1:1".parse().unwrap());
        let mut plan = Plan::minimal(([127, 0, 0, 1], 0).into(), StrategyKind::Random, vec![backend]);
        let tls = |certificates, client_ca| ListenerTlsPlan {
            certificates,
            client_ca,
            subject_header: None,
            min_version: TlsVersion::V12,
        };
        let mut second = ListenerPlan::new(([127, 0, 0, 1], 0).into());
        plan.listeners[0].tls = Some(tls(vec![good.clone(), late, early], Some(folder.path().join("gone-ca.pem"))));
        second.tls = Some(tls(vec![other, junk, keyless, gone, swapped, of_key, locked, behind, old_ca], None));
        plan.listeners.push(second);
        let route = |host| RoutePlan {
            host: Some(HostMatch::Exact(host)),
            path_prefix: None,
            headers: Vec::new(),
            model: None,
            max_model_peek: 1,
            pool: 0,
        };
        plan.routes = vec![route("a.test".to_owned()), route("b.test".to_owned())];
        let found: Vec<_> = examine(&plan)
            .into_iter()
            .map(|fault| (fault.key, fault.message, fault.severity == Severity::Error))
            .collect();
        let expected = [
            ("listeners[0].tls.certificates[1].cert", "has expired", false),
            ("listeners[0].tls.certificates[2].cert", "is not valid yet", false),
            ("listeners[0].tls.client_ca", "cannot be read", true),
            ("routes[1].host", "is for b.test", false),
            ("listeners[1].tls.certificates[0].key", "is not the key of", true),
            ("listeners[1].tls.certificates[1].cert", "no certificate in PEM", true),
            ("listeners[1].tls.certificates[2].key", "no private key in PEM", true),
            ("listeners[1].tls.certificates[3].cert", "cannot be read", true),
            ("listeners[1].tls.certificates[4].cert", "holds a private key, and no certificate", true),
            ("listeners[1].tls.certificates[5].key", "holds a certificate, and no private key", true),
            ("listeners[1].tls.certificates[6].key", "is encrypted", true),
            ("listeners[1].tls.certificates[7].cert", "its number 2", true),
            ("listeners[1].tls.certificates[8].cert", "its certificate 2 has expired", false),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((key, message, stops), (at, says, must)) in found.iter().zip(expected) {
            assert!(key == at && message.contains(says) && *stops == must, "{key}: {message}");
        }
    }
}
