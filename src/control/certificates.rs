//! Certificates while we run: their files are looked at every second, what has changed is read anew and put in force as
//! a whole; what cannot be used changes nothing, and is told once. Those that end soon are told of every day.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Control;
use crate::clock;
use crate::config::{ListenerPlan, PoolPlan};
use crate::listener::ListenerShared;
use crate::pool::Pool;
use crate::tls::{Clients, Server, Stamps, TlsError, WARNING_DAYS};

/// How often one is reminded of a certificate that ends soon.
const REMINDER: Duration = Duration::from_secs(24 * 3600);

/// What was seen of certificate files. A change is taken up when two looks in a row agree, so that a file is not read
/// while it is being written; and once, so that a bad one is told once.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    seen: HashMap<Owner, Stamps>,
    refused: HashMap<Owner, Stamps>,
    reminded: Option<Instant>,
}

/// Whose files they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Listener(usize),
    Pool(Arc<str>),
}

/// Something that is made from files.
enum Kept {
    Listener(Arc<ListenerShared>, Arc<Server>),
    Pool(Arc<Pool>, Arc<Clients>),
}

impl Control {
    /// Reads what has changed. Reading goes to a thread that may block.
    pub(super) async fn look_at_certificates(&mut self) {
        let listeners = self.listeners.iter().filter_map(|listener| {
            let server = listener.shared.tls.load_full()?;
            Some((Owner::Listener(listener.id), Kept::Listener(Arc::clone(&listener.shared), server)))
        });
        let pools = self.shared.routing.load().pools.clone();
        let pools = pools.into_iter().map(|pool| {
            let clients = pool.clients();
            (Owner::Pool(Arc::clone(&pool.name)), Kept::Pool(pool, clients))
        });
        let all: Vec<_> = listeners.chain(pools).filter(|(_, kept)| !kept.stamps().is_empty()).collect();
        if all.is_empty() {
            return;
        }
        let looked = tokio::task::spawn_blocking(move || {
            let with_stamps = |(owner, kept): (Owner, Kept)| {
                let now = kept.stamps().again();
                (owner, kept, now)
            };
            all.into_iter().map(with_stamps).collect::<Vec<_>>()
        });
        for (owner, kept, now) in looked.await.unwrap_or_default() {
            let before = self.certificates.seen.insert(owner.clone(), now.clone());
            let changed = now != *kept.stamps() && before.as_ref() == Some(&now);
            if changed && self.certificates.refused.get(&owner) != Some(&now) {
                self.renew(owner, kept, now).await;
            }
        }
        self.remind();
    }

    async fn renew(&mut self, owner: Owner, kept: Kept, now: Stamps) {
        let name = kept.name();
        let renewed = tokio::task::spawn_blocking(move || kept.renew()).await;
        match renewed {
            Ok(Ok(())) => {
                self.certificates.refused.remove(&owner);
                self.metrics.certificates_renewed.increment(1);
                tracing::info!(of = name, "certificates read anew, their files had changed");
                self.certificates.reminded = None;
                self.show_certificates();
            }
            Ok(Err(error)) => {
                self.certificates.refused.insert(owner, now);
                self.metrics.certificates_refused.increment(1);
                tracing::error!(of = name, "changed certificates cannot be used, those in force stay: {error}");
            }
            Err(_) => {} // a panic, which has been counted
        }
    }

    /// Puts TLS of a reload in force at the listeners.
    pub(super) fn put_tls(&mut self, listeners: Vec<(SocketAddr, Option<Server>)>) {
        for (configured, server) in listeners {
            if let Some(listener) = self.listeners.iter().find(|known| known.configured == configured) {
                listener.shared.tls.store(server.map(Arc::new));
            }
        }
        self.certificates = Certificates::default();
        self.show_certificates();
    }

    /// TLS for every listener of a plan that has it, made from the files of the moment.
    pub(super) fn server_for(&self, listener: &ListenerPlan) -> Result<Option<Server>, TlsError> {
        let Some(tls) = &listener.tls else { return Ok(None) };
        let present = self.listeners.iter().find(|known| known.configured == listener.address);
        let before = present.and_then(|present| present.shared.tls.load_full());
        Server::build(tls, listener.http2.enabled, before.as_deref()).map(Some)
    }

    /// TLS for the backends of a pool of the file, and those that were added through the API.
    pub(super) fn clients_for(&self, written: &PoolPlan) -> Result<Clients, TlsError> {
        let mut plan = written.clone();
        plan.backends.extend(self.overrides.added(&written.name));
        Clients::build(&plan)
    }

    /// Shows when certificates end.
    pub(super) fn show_certificates(&self) {
        self.board.set_certificates(self.expiries());
    }

    fn expiries(&self) -> Vec<(PathBuf, SystemTime)> {
        let mut all: Vec<_> = self
            .listeners
            .iter()
            .filter_map(|listener| listener.shared.tls.load_full())
            .flat_map(|server| server.expiries().to_vec())
            .collect();
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        all
    }

    fn remind(&mut self) {
        let now = clock::now();
        if self.certificates.reminded.is_some_and(|last| now.saturating_duration_since(last) < REMINDER) {
            return;
        }
        self.certificates.reminded = Some(now);
        let wall = clock::wall_seconds();
        for (file, end) in self.expiries() {
            let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let file = file.display();
            if end <= wall {
                tracing::error!(%file, "this certificate has expired: clients refuse it");
            } else if end - wall < WARNING_DAYS * 24 * 3600 {
                tracing::warn!(%file, days = (end - wall) / (24 * 3600), "this certificate expires soon");
            }
        }
    }
}

impl Kept {
    fn stamps(&self) -> &Stamps {
        match self {
            Self::Listener(_, server) => server.stamps(),
            Self::Pool(_, clients) => clients.stamps(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Listener(shared, _) => format!("listener {}", shared.plan.load().address),
            Self::Pool(pool, _) => format!("pool {}", pool.name),
        }
    }

    fn renew(self) -> Result<(), TlsError> {
        match self {
            Self::Listener(shared, server) => shared.tls.store(Some(Arc::new(server.rebuild()?))),
            Self::Pool(pool, clients) => pool.set_clients(clients.rebuild()?),
        }
        Ok(())
    }
}
