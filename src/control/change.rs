//! Changes asked for through the API: each becomes an override, and the plan in force follows from file and overrides.

use std::sync::Arc;

use serde_json::json;

use super::effective::effective;
use super::overrides::{Changed, Overrides};
use super::{Control, leave, state};
use crate::admin::{Alteration, Change, ChangeError};
use crate::config::{AdminState, ConfigErrors, PoolPlan, backend_from_json};
use crate::tls::Clients;

impl Control {
    /// Makes one change, or says why not; then nothing has changed.
    pub(super) fn change(&mut self, change: Change) -> Result<(), ChangeError> {
        let pool = self.shared.routing.load().pool(&change.pool).cloned().ok_or(ChangeError::NoPool)?;
        let written = self.plan.pools.iter().find(|file| *file.name == *pool.name).ok_or(ChangeError::NoPool)?;
        let file = effective(written, &self.resolved);
        if change.only_if.as_ref().is_some_and(|holds| !holds(&pool)) {
            return Err(ChangeError::TagMismatch);
        }
        let mut next = self.overrides.clone();
        self.alter(&mut next, &file, &change.what)?;
        let plan = next.effective(file);
        let adds = matches!(change.what, Alteration::Add(_));
        let clients = adds.then(|| Clients::build(&plan)).transpose();
        let clients = clients.map_err(|error| ChangeError::Invalid(error.to_string(), Vec::new()))?;
        let left = state::apply(&pool, Arc::new(plan), clients);
        self.overrides = next;
        self.board.set_overrides(self.overrides.list());
        let usual = self.plan.server.drain_timeout;
        let (drained, patience) = match &change.what {
            Alteration::Remove { drain_timeout, .. } => (None, drain_timeout.unwrap_or(usual)),
            Alteration::Drain { backend, timeout } => (Some(backend.as_str()), timeout.unwrap_or(usual)),
            Alteration::Add(_) | Alteration::Patch { .. } | Alteration::Undrain { .. } | Alteration::Strategy(_) => {
                (None, usual)
            }
        };
        leave::follow(&pool, left, drained, patience);
        if pool.set().members.is_empty() {
            tracing::warn!(pool = %pool.name, "the pool has no backend left: every request is answered with 503");
        }
        self.apply_names();
        if pool.set().members.iter().any(|backend| backend.endpoint().is_none()) {
            self.look_names_up();
        }
        Ok(())
    }

    fn alter(&self, next: &mut Overrides, file: &PoolPlan, what: &Alteration) -> Result<(), ChangeError> {
        let state = |state| Changed { state: Some(state), ..Changed::default() };
        match what {
            Alteration::Add(keys) => {
                let base = self.source.as_ref().and_then(|source| source.parent()).unwrap_or(std::path::Path::new(""));
                let backend = backend_from_json(keys, file.protocol, base).map_err(|errors| invalid(&errors))?;
                if backend.expand {
                    let message = "`expand` is for the configuration file; add each address by itself";
                    return Err(ChangeError::Invalid(message.to_owned(), Vec::new()));
                }
                next.add(file, backend)
            }
            Alteration::Patch { backend, weight, max_in_flight, state } => {
                let changed = Changed { weight: *weight, max_in_flight: *max_in_flight, state: *state };
                next.change(file, backend, changed)
            }
            Alteration::Remove { backend, .. } => next.remove(file, backend),
            Alteration::Drain { backend, .. } => next.change(file, backend, state(AdminState::Drain)),
            Alteration::Undrain { backend } => next.change(file, backend, state(AdminState::Ready)),
            Alteration::Strategy(kind) => {
                next.set_strategy(file, *kind);
                Ok(())
            }
        }
    }
}

/// The faults of a backend's keys, without the file that they do not have.
fn invalid(errors: &ConfigErrors) -> ChangeError {
    let of =
        |error: &crate::config::ConfigError| json!({ "key": error.key, "message": error.message, "hint": error.hint });
    let lines: Vec<String> = errors.errors().map(|error| format!("{}: {}", error.key, error.message)).collect();
    ChangeError::Invalid(lines.join("; "), errors.errors().map(of).collect())
}
