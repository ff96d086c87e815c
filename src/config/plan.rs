//! What the operator meant: the validated configuration that every other room reads.
//!
//! A [`Plan`] is made once, by [`Plan::load`] from a file, or in code by tests and by
//! `quick` and `demo`. Past this point no default is missing and nothing is checked twice. `PartialEq` on every type is
//! what `control::diff` stands on.

mod health;
mod listener;
mod pool;
mod server;
mod strategy;

use std::sync::Arc;

pub use health::{HealthPlan, OutlierPlan, ProbeKind, PrometheusPlan, ResourcesPlan, ScrapePlan};
pub use listener::{CertificatePlan, Cidr, ClientLimitsPlan, Http2Plan, ListenerPlan, ListenerTlsPlan, TlsVersion};
pub use pool::{
    Address, AdminState, BackendPlan, BackendTlsPlan, HostMatch, PoolPlan, Protocol, QueuePlan, RetryOn, RetryPlan,
    RoutePlan, SameSite, SlowStartPlan, StickyMode, StickyPlan, TimeoutsPlan, WhenUnhealthy,
};
pub use server::{AccessLogFormat, AccessLogPlan, AdminPlan, LogFormat, LogPlan, ServerPlan};
pub use strategy::{
    GuardrailPlan, IpHashPlan, ResourceBasedPlan, RewardPlan, RlAgent, RlCachePlan, RlPlan, RlStorePlan, RlTie,
    StrategyKind, StrategyPlan,
};

/// Everything one configuration file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `[server]`
    pub server: ServerPlan,
    /// `[log]`
    pub log: LogPlan,
    /// `[[listeners]]`, in file order; never empty.
    pub listeners: Vec<ListenerPlan>,
    /// `[admin]`; `None`: no admin server.
    pub admin: Option<AdminPlan>,
    /// `[[routes]]` in file order. Empty: everything goes to the only pool.
    pub routes: Vec<RoutePlan>,
    /// `[pools.NAME]`, sorted by name; never empty.
    pub pools: Vec<Arc<PoolPlan>>,
    /// `[access_log]`
    pub access_log: AccessLogPlan,
}
