//! One listener as all workers share it; the control plane replaces its parts.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::config::ListenerPlan;
use crate::proxy::ClientTable;
use crate::tls;

/// A listener's settings and counts.
#[derive(Debug)]
pub struct ListenerShared {
    /// Its limits, replaced on reload.
    pub plan: ArcSwap<ListenerPlan>,
    /// Its certificates, replaced on reload and when their files change; `None`: plain.
    pub tls: ArcSwapOption<tls::Server>,
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
            plan: ArcSwap::from_pointee(plan),
            tls: ArcSwapOption::from_pointee(tls),
            connections: AtomicUsize::new(0),
            handshakes: tls::Counts::default(),
            clients: Arc::default(),
        }
    }
}
