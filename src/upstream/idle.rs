//! The idle connections of one worker: no lock, no channel, nothing shared with other workers.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use super::http1::Connection;
use crate::clock::coarse_millis;

/// Idle connections kept per backend and worker. A worker with more busy requests than this at one backend opens new
/// ones; 512 is what nginx's documentation suggests for its largest examples and costs 512 descriptors at most.
const MOST_PER_BACKEND: usize = 512;

/// Idle upstream connections by backend.
#[derive(Debug, Default)]
pub struct IdleConnections {
    lists: RefCell<HashMap<u64, List, BuildHasherDefault<IdHasher>>>,
}

#[derive(Debug, Default)]
struct List {
    connections: VecDeque<Idle>,
    limit_ms: u64,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    /// Coarse milliseconds.
    since: u64,
}

impl IdleConnections {
    /// The most recently used idle connection to `backend` that is still open.
    #[inline]
    pub fn take(&self, backend: u64) -> Option<Box<Connection>> {
        let mut lists = self.lists.borrow_mut();
        let list = lists.get_mut(&backend)?;
        let now = coarse_millis();
        while let Some(idle) = list.connections.pop_back() {
            let mut connection = idle.connection;
            if now.saturating_sub(idle.since) < list.limit_ms && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps `connection` for at most `limit`.
    #[inline]
    pub fn put(&self, backend: u64, connection: Box<Connection>, limit: Duration) {
        let mut lists = self.lists.borrow_mut();
        let list = lists.entry(backend).or_default();
        list.limit_ms = limit.as_millis() as u64;
        if list.connections.len() < MOST_PER_BACKEND && list.limit_ms != 0 {
            list.connections.push_back(Idle { connection, since: coarse_millis() });
        }
    }

    /// Closes what is too old, what its backend closed or spoke on, and all of backends that `wanted` refuses.
    pub fn sweep(&self, wanted: impl Fn(u64) -> bool) {
        let now = coarse_millis();
        self.lists.borrow_mut().retain(|backend, list| {
            if !wanted(*backend) {
                return false;
            }
            let limit = list.limit_ms;
            list.connections.retain_mut(|idle| now.saturating_sub(idle.since) < limit && idle.connection.is_quiet());
            !list.connections.is_empty()
        });
    }

    /// How many are idle, per backend.
    pub fn counts(&self) -> Vec<(u64, usize)> {
        self.lists.borrow().iter().map(|(backend, list)| (*backend, list.connections.len())).collect()
    }
}

/// Backend ids are small and unique: they are their own hash, spread by one multiplication.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing: 2^64 ÷ the golden ratio.
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
