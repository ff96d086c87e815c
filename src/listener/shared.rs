//! One listener as all workers share it; the control plane replaces its settings.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::{ArcSwap, Guard};

use crate::config::ListenerPlan;
use crate::proxy::ClientTable;
use crate::tls;

/// What a new connection meets: one snapshot, so that none sees the plan of today with the certificates of yesterday.
#[derive(Debug)]
pub struct Settings {
    /// Its limits, and whom it trusts.
    pub plan: Arc<ListenerPlan>,
    /// Its certificates; `None`: plain.
    pub tls: Option<Arc<tls::Server>>,
    /// Grows whenever who is let in, or believed, has changed.
    pub trust: u64,
}

/// A listener's settings and counts.
#[derive(Debug)]
pub struct ListenerShared {
    settings: ArcSwap<Settings>,
    /// Connections open on it, over all workers.
    pub connections: AtomicUsize,
    /// TLS handshakes by how they ended.
    pub handshakes: tls::Counts,
    /// What each client has taken, where there are limits.
    pub clients: Arc<ClientTable>,
}

impl ListenerShared {
    /// A listener nobody has connected to.
    pub fn new(plan: ListenerPlan, tls: Option<tls::Server>) -> Self {
        Self {
            settings: ArcSwap::from_pointee(Settings { plan: Arc::new(plan), tls: tls.map(Arc::new), trust: 0 }),
            connections: AtomicUsize::new(0),
            handshakes: tls::Counts::default(),
            clients: Arc::default(),
        }
    }

    /// What is in force, to look at for a moment.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Puts settings in force for connections to come. Only the control plane calls this. `Some`: connections that began
    /// with less `trust` than this were let in, or are believed, by rules that no longer hold.
    pub fn put(&self, plan: Arc<ListenerPlan>, tls: Option<Arc<tls::Server>>) -> Option<u64> {
        let present = self.settings.load();
        let same = trusts_alike(&present, &plan, tls.as_deref());
        let trust = present.trust + u64::from(!same);
        self.settings.store(Arc::new(Settings { plan, tls, trust }));
        (!same).then_some(trust)
    }
}

fn trusts_alike(before: &Settings, plan: &ListenerPlan, tls: Option<&tls::Server>) -> bool {
    let alike = match (before.tls.as_deref(), tls) {
        (None, None) => true,
        (Some(before), Some(tls)) => before.admits_like(tls),
        (Some(_), None) | (None, Some(_)) => false,
    };
    let old = &before.plan;
    alike
        && old.trusted_proxies == plan.trusted_proxies
        && old.proxy_protocol == plan.proxy_protocol
        && old.guarded_headers == plan.guarded_headers
}
