//! The admin server: what an operator sees and changes while we run, over HTTP and JSON, with `/metrics` and a dashboard.
//!
//! [`router`] is the whole as a `tower::Service`, so tests call it without a socket; [`serve`] puts it on one, on the
//! control thread, apart from the workers. Handlers read pools and backends directly (they are atomics and snapshots) and
//! ask for changes through [`ControlRoom`]. Read `api` for the routes, `views` for the shapes, `scrape` for `/metrics`,
//! `auth` for who may.

mod agent;
mod api;
mod auth;
mod changes;
mod dashboard;
mod decisions;
mod desk;
mod error;
mod extract;
mod openapi;
mod room;
mod scrape;
mod serve;
mod views;

pub use api::router;
pub use error::ApiError;
pub use room::{
    Alteration, Change, ChangeError, ControlRoom, LastReload, Listening, Phase, Precondition, Refused, ReloadDone,
    Reply, Snapshot,
};
pub use serve::serve;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::telemetry::metrics::Metrics;

/// What every admin request sees.
#[derive(Debug)]
pub struct AdminState {
    /// Where the state of the balancer is read and changes are asked for.
    room: Arc<dyn ControlRoom>,
    metrics: Arc<Metrics>,
    /// The bearer token; `None`: open, for a loopback address only.
    token: ArcSwapOption<String>,
    /// `/metrics` needs no token.
    public_metrics: bool,
    /// Decisions that were given out and wait for their feedback.
    desk: desk::Desk,
}

impl AdminState {
    /// A server over `room`. `token`: the bearer token that is required; without one the address must be loopback.
    pub fn new(
        room: Arc<dyn ControlRoom>,
        metrics: Arc<Metrics>,
        token: Option<String>,
        public_metrics: bool,
    ) -> Arc<Self> {
        let token = ArcSwapOption::from_pointee(token);
        Arc::new(Self { room, metrics, token, public_metrics, desk: desk::Desk::default() })
    }

    /// Puts another token in force, after a reload has read the file again.
    pub fn set_token(&self, token: Option<String>) {
        self.token.store(token.map(Arc::new));
    }
}

#[cfg(test)]
mod tests;
