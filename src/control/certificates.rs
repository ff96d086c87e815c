//! Certificates while we run: their files are looked at every second, what has changed is read anew and put in force as
//! a whole; what cannot be used changes nothing, and is told once. Those that end soon are told of every day.
//!
//! Files are touched in threads that may block, and their answer comes as an order: a disk that hangs stops neither a
//! reload nor the end of the process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::listeners::ActiveListener;
use super::{Control, Order};
use crate::clock;
use crate::config::PoolPlan;
use crate::listener::ListenerId;
use crate::pool::Pool;
use crate::tls::{Clients, Server, Stamps, TlsError, WARNING_DAYS};

/// How often one is reminded of a certificate that ends soon.
const REMINDER: Duration = Duration::from_secs(24 * 3600);
/// How long a look at files may take before it is told: a disk that answers at all does so sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was seen of certificate files. A change is taken up when two looks in a row agree, so that a file is not read
/// while it is being written; and once, so that a bad one is told once.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    seen: HashMap<Owner, Stamps>,
    refused: HashMap<Owner, Refusal>,
    reminded: Option<Instant>,
    /// Since when a look is under way.
    looking: Option<Instant>,
    told: bool,
}

/// Files as they were when they could not be used.
#[derive(Debug, Clone)]
struct Refusal {
    stamps: Stamps,
    why: String,
    /// They could not be read, which may end without a trace on the files.
    again: bool,
}

/// Whose files they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Listener(ListenerId),
    Pool(Arc<str>),
}

/// Something that is made from files.
#[derive(Debug, Clone)]
enum Kept {
    Server(Arc<Server>),
    Clients(Arc<Clients>),
}

/// What a look at the files of one owner has found.
#[derive(Debug)]
pub struct Look {
    owner: Owner,
    /// What is in force, as far as the look knew.
    kept: Kept,
    now: Stamps,
    /// What the changed files make.
    renewed: Option<Result<Kept, TlsError>>,
}

impl Certificates {
    /// Everything was read anew.
    pub(super) fn forget(&mut self) {
        *self = Self { looking: self.looking, told: self.told, ..Self::default() };
    }
}

impl Control {
    /// Looks at all files, and reads what has changed, in a task of its own.
    pub(super) fn look_at_certificates(&mut self) {
        let now = clock::now();
        if let Some(since) = self.certificates.looking {
            if !self.certificates.told && now.saturating_duration_since(since) >= PATIENCE {
                self.certificates.told = true;
                tracing::error!("certificate files cannot be looked at: their disk does not answer");
            }
            return;
        }
        let listeners = self.listeners.iter().filter_map(|listener| {
            let server = listener.shared.settings().tls.clone()?;
            Some((Owner::Listener(listener.id), Kept::Server(server)))
        });
        let pools = self.shared.routing.load().pools.clone();
        let pools = pools.into_iter().map(|pool| (Owner::Pool(Arc::clone(&pool.name)), Kept::Clients(pool.clients())));
        let all: Vec<_> = listeners
            .chain(pools)
            .filter(|(_, kept)| !kept.stamps().is_empty())
            .map(|(owner, kept)| {
                let seen = self.certificates.seen.get(&owner).cloned();
                let refused = self.certificates.refused.get(&owner).filter(|refusal| !refusal.again);
                let refused = refused.map(|refusal| refusal.stamps.clone());
                (owner, kept, seen, refused)
            })
            .collect();
        if all.is_empty() {
            return;
        }
        self.certificates.looking = Some(now);
        let board = Arc::clone(&self.board);
        tokio::spawn(async move {
            let looked = tokio::task::spawn_blocking(move || {
                let look = |(owner, kept, seen, refused): (Owner, Kept, Option<Stamps>, Option<Stamps>)| {
                    let now = kept.stamps().again();
                    let changed = now != *kept.stamps() && seen.as_ref() == Some(&now);
                    let renewed = (changed && refused.as_ref() != Some(&now)).then(|| kept.renew());
                    Look { owner, kept, now, renewed }
                };
                all.into_iter().map(look).collect::<Vec<_>>()
            });
            // A panic has been counted.
            board.order(Order::Looked(looked.await.unwrap_or_default()));
        });
    }

    /// Puts in force what a look has found.
    pub(super) fn take_certificates(&mut self, looks: Vec<Look>) {
        if std::mem::take(&mut self.certificates.told) {
            tracing::info!("certificate files can be looked at again");
        }
        self.certificates.looking = None;
        for Look { owner, kept, now, renewed } in looks {
            let Some(holder) = self.holder(&owner).filter(|holder| holder.holds(&kept)) else { continue };
            let name = holder.name();
            match renewed {
                None => {}
                Some(Ok(renewed)) => {
                    match (holder, renewed) {
                        (Holder::Listener(listener), Kept::Server(server)) => {
                            let plan = Arc::clone(&listener.shared.settings().plan);
                            self.put(listener, plan, Some(server));
                        }
                        (Holder::Pool(pool), Kept::Clients(clients)) => pool.set_clients(&clients),
                        (Holder::Listener(_), Kept::Clients(_)) | (Holder::Pool(_), Kept::Server(_)) => {}
                    }
                    self.metrics.certificates_renewed.increment(1);
                    tracing::info!(of = name, "certificates read anew, their files had changed");
                    self.certificates.refused.remove(&owner);
                    self.certificates.reminded = None;
                    self.show_certificates();
                }
                Some(Err(error)) => {
                    let (why, again) = (error.to_string(), matches!(error, TlsError::Unreadable(..)));
                    if !self.certificates.refused.get(&owner).is_some_and(|last| last.why == why && last.stamps == now)
                    {
                        self.metrics.certificates_refused.increment(1);
                        tracing::error!(of = name, "changed certificates cannot be used, those in force stay: {why}");
                    }
                    let refusal = Refusal { stamps: now.clone(), why, again };
                    self.certificates.refused.insert(owner.clone(), refusal);
                }
            }
            self.certificates.seen.insert(owner, now);
        }
        self.remind();
    }

    fn holder(&self, owner: &Owner) -> Option<Holder<'_>> {
        match owner {
            Owner::Listener(id) => self.listeners.iter().find(|listener| listener.id == *id).map(Holder::Listener),
            Owner::Pool(name) => self.shared.routing.load().pool(name).cloned().map(Holder::Pool),
        }
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
            .filter_map(|listener| listener.shared.settings().tls.clone())
            .flat_map(|server| server.expiries().to_vec())
            .collect();
        for pool in &self.shared.routing.load().pools {
            all.extend(pool.clients().expiries().cloned());
        }
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
                tracing::error!(%file, "a certificate of this file has expired: who is shown it refuses it");
            } else if end - wall < WARNING_DAYS * 24 * 3600 {
                tracing::warn!(%file, days = (end - wall) / (24 * 3600), "a certificate of this file expires soon");
            }
        }
    }
}

impl Kept {
    fn stamps(&self) -> &Stamps {
        match self {
            Self::Server(server) => server.stamps(),
            Self::Clients(clients) => clients.stamps(),
        }
    }

    fn renew(&self) -> Result<Self, TlsError> {
        Ok(match self {
            Self::Server(server) => Self::Server(Arc::new(server.rebuild()?)),
            Self::Clients(clients) => Self::Clients(Arc::new(clients.rebuild()?)),
        })
    }
}

/// Who has something that is made from files.
enum Holder<'a> {
    Listener(&'a ActiveListener),
    Pool(Arc<Pool>),
}

impl Holder<'_> {
    /// Whether it is still this: a reload may have replaced it during the look.
    fn holds(&self, kept: &Kept) -> bool {
        match (self, kept) {
            (Self::Listener(listener), Kept::Server(server)) => {
                listener.shared.settings().tls.as_ref().is_some_and(|present| Arc::ptr_eq(present, server))
            }
            (Self::Pool(pool), Kept::Clients(clients)) => Arc::ptr_eq(&pool.clients(), clients),
            (Self::Listener(_), Kept::Clients(_)) | (Self::Pool(_), Kept::Server(_)) => false,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Listener(listener) => format!("listener {}", listener.shared.settings().plan.address),
            Self::Pool(pool) => format!("pool {}", pool.name),
        }
    }
}
