//! The control plane: the only writer of live state, on a thread and runtime of its own.
//!
//! [`Control`] owns what runs (workers, pools, listeners, checkers) and obeys [`Order`]s, one after the other: reload and
//! drain. [`Board`] is what it shows to the admin server. A reload is read, validated, compared ([`Diff`]), prepared
//! (which may fail, with nothing touched), committed (which cannot) and what is gone is retired.

mod board;
mod certificates;
mod change;
mod diff;
mod drain;
mod effective;
mod leave;
mod limits;
mod listeners;
mod names;
mod notify;
mod overrides;
mod reload;
mod runtime;
mod signals;
mod state;

pub use board::Board;
pub use certificates::Look;
pub use diff::Diff;
pub use drain::Summary;
pub use limits::connection_limit;
pub use runtime::{Control, Parts};

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::admin::{Change, ChangeError, Refused, ReloadDone};
use crate::config::{Address, AdminPlan};

/// All that changes a running balancer.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration file again.
    Reload(Option<oneshot::Sender<Result<ReloadDone, Refused>>>),
    /// Say what a reload would change: of the file, or of this text in its place.
    Preview(Option<String>, oneshot::Sender<Result<ReloadDone, Refused>>),
    /// Change a pool, as the admin API asks.
    Change(Change, oneshot::Sender<Result<(), ChangeError>>),
    /// Drain and end. A second one ends at once.
    Shutdown,
    /// End at once.
    Abort,
    /// Host names were looked up.
    Resolved(HashMap<Address, Vec<SocketAddr>>),
    /// Certificate files were looked at.
    Looked(Vec<Look>),
}

/// The admin token that `plan` names.
///
/// # Errors
/// It cannot be read, or is empty.
pub fn token(plan: &AdminPlan) -> Result<Option<String>, String> {
    let Some(secret) = &plan.token else { return Ok(None) };
    let bytes = secret.read().map_err(|error| format!("admin.token_file ({secret:?}) cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("admin.token_file ({secret:?}) is not text"))?;
    let text = text.trim().to_owned();
    if text.is_empty() { Err(format!("admin.token_file ({secret:?}) is empty")) } else { Ok(Some(text)) }
}
