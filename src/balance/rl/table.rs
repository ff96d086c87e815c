//! What an agent learned as plain data, with names instead of slots: for the disk, for `GET …/rl/table`, for a successor.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Agent, Rl};
use crate::backend::Backend;
use crate::balance::StateError;
use crate::rl::{adaptive, store, tabular};

/// What an agent learned, to save, show and move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Of this form.
    pub version: u32,
    /// What was learned.
    #[serde(flatten)]
    pub learned: Learned,
}

/// By which agent, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "agent", rename_all = "snake_case")]
pub enum Learned {
    /// By the adaptive agent.
    Adaptive {
        /// Beyond single backends.
        state: adaptive::SavedAgent,
        /// Per backend.
        backends: Vec<Row<adaptive::SavedBackend>>,
    },
    /// By the tabular agent.
    Tabular {
        /// Beyond single backends.
        state: tabular::SavedAgent,
        /// Per backend.
        backends: Vec<Row<tabular::SavedBackend>>,
    },
}

/// What was learned of one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row<T> {
    /// The backend's name …
    pub name: String,
    /// … and address: both must match for the row to be taken over.
    pub address: String,
    /// The numbers.
    pub learned: T,
}

impl Rl {
    /// What was learned, as data of a version of its own, with names instead of slots.
    pub fn export(&self, backends: &[Arc<Backend>], now: Instant) -> Table {
        let seconds = self.seconds(now);
        let learned = match &self.agent {
            Agent::Adaptive(agent) => Learned::Adaptive {
                state: agent.save(),
                backends: rows(backends, |backend| agent.save_backend(backend.slot, backend.id.0, seconds)),
            },
            Agent::Tabular(agent) => Learned::Tabular {
                state: agent.save(),
                backends: rows(backends, |backend| agent.save_backend(backend.slot, backend.id.0)),
            },
        };
        Table { version: store::VERSION, learned }
    }

    /// Takes over a table; rows of other backends are left out. On an error nothing was changed.
    ///
    /// # Errors
    /// The table is of another version or of the other agent, or holds numbers that no agent can have learned.
    pub fn import(&self, table: &Table, backends: &[Arc<Backend>], now: Instant) -> Result<(), StateError> {
        if table.version != store::VERSION {
            return Err(StateError::Version { found: table.version });
        }
        let seconds = self.seconds(now);
        match (&self.agent, &table.learned) {
            (Agent::Adaptive(agent), Learned::Adaptive { state, backends: rows }) => {
                sound(rows, adaptive::SavedBackend::is_sound)?;
                agent.resume(state);
                for (backend, row) in matching(rows, backends) {
                    agent.resume_backend(backend.slot, backend.id.0, row, seconds);
                }
                Ok(())
            }
            (Agent::Tabular(agent), Learned::Tabular { state, backends: rows }) => {
                sound(rows, tabular::SavedBackend::is_sound)?;
                agent.resume(state);
                for (backend, row) in matching(rows, backends) {
                    agent.resume_backend(backend.slot, backend.id.0, row);
                }
                Ok(())
            }
            (Agent::Adaptive(_), Learned::Tabular { .. }) | (Agent::Tabular(_), Learned::Adaptive { .. }) => {
                Err(StateError::Content("it was learned by the other agent".to_owned()))
            }
        }
    }
}

fn rows<T>(backends: &[Arc<Backend>], save: impl Fn(&Backend) -> Option<T>) -> Vec<Row<T>> {
    let row = |backend: &Arc<Backend>| {
        let learned = save(backend)?;
        Some(Row { name: backend.name.to_string(), address: backend.address.to_string(), learned })
    };
    backends.iter().filter_map(row).collect()
}

fn sound<T>(rows: &[Row<T>], is_sound: impl Fn(&T) -> bool) -> Result<(), StateError> {
    match rows.iter().find(|row| !is_sound(&row.learned)) {
        Some(row) => Err(StateError::Content(format!("the numbers of backend {:?} make no sense", row.name))),
        None => Ok(()),
    }
}

fn matching<'a, T>(rows: &'a [Row<T>], backends: &'a [Arc<Backend>]) -> impl Iterator<Item = (&'a Backend, &'a T)> {
    rows.iter().filter_map(|row| {
        let same = |backend: &&Arc<Backend>| *backend.name == *row.name && backend.address.to_string() == row.address;
        backends.iter().find(same).map(|backend| (&**backend, &row.learned))
    })
}
