//! What one client may take: connections at once, requests a second. A client is an address; over IPv6 a network of 64
//! bits, since anybody who has one address there has them all.
//!
//! One table a listener, shared by all workers: shards under short locks, taken only where a limit is configured. Its size
//! is bounded; clients beyond it are let pass rather than turned away for the sake of others.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::ClientLimitsPlan;

/// Parts of the table, so that workers rarely meet.
const SHARDS: usize = 64;
/// Clients known in a shard at once: 131,072 in all, some 8 MiB.
const MOST_PER_SHARD: usize = 2048;
/// Between two looks through a full shard for clients that have gone.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// A client may send so much of its second at once.
const BURST: Duration = Duration::from_secs(1);

/// What clients of a listener have taken.
#[derive(Debug)]
pub struct ClientTable {
    shards: Box<[Mutex<Shard>]>,
    /// Which shard a client falls into: different in every process, so that no crowd of clients can fill one by choice.
    chance: RandomState,
    born: Instant,
    /// Refused (or, in a dry run, counted only): connections, requests.
    limited: [AtomicU64; 2],
    dry: [AtomicU64; 2],
}

/// Which limit it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Connections = 0,
    Requests = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    /// The network part.
    V6(u64),
}

impl Key {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<Key, Taken>,
    /// When it was last looked through, nanoseconds after the table's birth.
    swept: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    connections: usize,
    /// Nanoseconds after the table's birth up to which the client has used its share.
    paid_until: u64,
}

/// One connection in its client's count, until dropped.
#[derive(Debug)]
pub struct ClientConnection(Option<(Arc<ClientTable>, Key)>);

impl Default for ClientTable {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            chance: RandomState::new(),
            born: clock::now(),
            limited: Default::default(),
            dry: Default::default(),
        }
    }
}

impl ClientTable {
    /// Takes a connection from `client` on; `None`: it has too many.
    pub fn connect(self: &Arc<Self>, plan: &ClientLimitsPlan, client: IpAddr) -> Option<ClientConnection> {
        let key = Key::of(client);
        let most = plan.per_client_connections;
        if most == 0 {
            return Some(ClientConnection(None));
        }
        let mut shard = self.shard(key);
        let Some(taken) = self.entry(&mut shard, key) else { return Some(ClientConnection(None)) };
        let allowed = taken.connections < most;
        if allowed || plan.dry_run {
            taken.connections += 1;
        }
        drop(shard);
        if !allowed && self.note(Limit::Connections, plan.dry_run) {
            return None;
        }
        Some(ClientConnection(Some((Arc::clone(self), key))))
    }

    /// Takes a request from `client` on.
    ///
    /// # Errors
    /// After how many seconds it may come again.
    pub fn request(&self, plan: &ClientLimitsPlan, client: IpAddr, now: Instant) -> Result<(), u64> {
        if plan.per_client_rps <= 0.0 {
            return Ok(());
        }
        let key = Key::of(client);
        let price = (1e9 / plan.per_client_rps).min(1e18) as u64;
        let credit = (BURST.as_nanos() as u64).saturating_sub(price);
        let now = now.saturating_duration_since(self.born).as_nanos() as u64;
        let mut shard = self.shard(key);
        let Some(taken) = self.entry(&mut shard, key) else { return Ok(()) };
        let paid = taken.paid_until.max(now);
        let wait = (paid - now).saturating_sub(credit);
        if wait == 0 {
            taken.paid_until = paid.saturating_add(price);
            return Ok(());
        }
        drop(shard);
        if self.note(Limit::Requests, plan.dry_run) { Err(wait.div_ceil(1_000_000_000)) } else { Ok(()) }
    }

    /// Refused connections and requests, and those that only a dry run let pass.
    pub fn counts(&self) -> [[u64; 2]; 2] {
        let read = |counts: &[AtomicU64; 2]| [counts[0].load(Relaxed), counts[1].load(Relaxed)];
        [read(&self.limited), read(&self.dry)]
    }

    /// Counts; whether it is refused.
    fn note(&self, limit: Limit, dry_run: bool) -> bool {
        let counts = if dry_run { &self.dry } else { &self.limited };
        counts[limit as usize].fetch_add(1, Relaxed);
        !dry_run
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        let hash = self.chance.hash_one(key);
        // INVARIANT: there are SHARDS of them. Numbers stay usable whatever happened under the lock.
        self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's entry; `None`: the shard is full of others.
    fn entry<'a>(&self, shard: &'a mut Shard, key: Key) -> Option<&'a mut Taken> {
        let Shard { clients, swept } = shard;
        if clients.len() >= MOST_PER_SHARD && !clients.contains_key(&key) {
            let now = clock::now().saturating_duration_since(self.born).as_nanos() as u64;
            // Not for every newcomer: a crowd of strangers must not cost a look at all others each.
            if now.saturating_sub(*swept) >= SWEEP_PAUSE.as_nanos() as u64 {
                *swept = now;
                clients.retain(|_, taken| taken.connections > 0 || taken.paid_until > now);
            }
            if clients.len() >= MOST_PER_SHARD {
                return None;
            }
        }
        Some(clients.entry(key).or_default())
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        if let Some((table, key)) = self.0.take()
            && let Some(taken) = table.shard(key).clients.get_mut(&key)
        {
            taken.connections = taken.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(connections: usize, rps: f64, dry_run: bool) -> ClientLimitsPlan {
        ClientLimitsPlan { per_client_connections: connections, per_client_rps: rps, dry_run }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_of_one_network_count_together() {
        let table = Arc::new(ClientTable::default());
        let two = plan(2, 0.0, false);
        let near = [address("2001:db8::1"), address("2001:db8::ffff:1"), address("2001:db8::2")];
        let first = table.connect(&two, near[0]).unwrap();
        let _second = table.connect(&two, near[1]).unwrap();
        assert!(table.connect(&two, near[2]).is_none());
        assert!(table.connect(&two, address("2001:db8:0:1::1")).is_some());
        assert!(table.connect(&two, address("192.0.2.1")).is_some());
        drop(first);
        assert!(table.connect(&two, near[2]).is_some());
        assert_eq!(table.counts(), [[1, 0], [0, 0]]);
        // An address mapped into IPv6 is the same client.
        let _one = table.connect(&plan(1, 0.0, false), address("192.0.2.9")).unwrap();
        assert!(table.connect(&plan(1, 0.0, false), address("::ffff:192.0.2.9")).is_none());
    }

    #[test]
    fn requests_come_at_their_rate_after_a_second_at_once() {
        let table = ClientTable::default();
        let (ten, client, start) = (plan(0, 10.0, false), address("192.0.2.1"), clock::now());
        let sent = |from: Duration| (0..100).filter(|_| table.request(&ten, client, start + from).is_ok()).count();
        assert_eq!(sent(Duration::ZERO), 10);
        assert_eq!(table.request(&ten, client, start), Err(1));
        assert_eq!(sent(Duration::from_millis(500)), 5);
        assert_eq!(sent(Duration::from_secs(60)), 10);
        let slow = plan(0, 0.1, false);
        assert_eq!(table.request(&slow, address("192.0.2.2"), start), Ok(()));
        assert_eq!(table.request(&slow, address("192.0.2.2"), start), Err(10));
        assert!(table.request(&slow, address("192.0.2.2"), start + Duration::from_secs(10)).is_ok());
    }

    #[test]
    fn a_dry_run_only_counts() {
        let table = Arc::new(ClientTable::default());
        let dry = plan(1, 1.0, true);
        let _held: Vec<_> = (0..3).map(|_| table.connect(&dry, address("192.0.2.1")).unwrap()).collect();
        assert!((0..3).all(|_| table.request(&dry, address("192.0.2.1"), clock::now()).is_ok()));
        assert_eq!(table.counts(), [[0, 0], [2, 2]]);
    }

    #[test]
    fn the_table_is_bounded() {
        let table = Arc::new(ClientTable::default());
        let one = plan(1, 0.0, false);
        let held: Vec<_> =
            (0..200_000u32).map(|n| table.connect(&one, IpAddr::from(n.to_be_bytes())).unwrap()).collect();
        let known = || table.shards.iter().map(|shard| shard.lock().unwrap().clients.len()).sum::<usize>();
        assert!(known() <= SHARDS * MOST_PER_SHARD);
        drop(held);
        // Who has nothing open makes room for others.
        let _again: Vec<_> = (0..1000u32).map(|n| table.connect(&one, IpAddr::from((n << 8).to_be_bytes()))).collect();
        assert!(known() <= SHARDS * MOST_PER_SHARD);
    }
}
