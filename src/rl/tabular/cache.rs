//! A cache with a time to live and a limit: the guide's four. It never makes a decision wait: when another worker holds
//! it, a look-up is a miss and a store is left out.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// How a cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct CacheStats {
    /// Look-ups that found a fresh entry.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// Look-ups that found an entry too old.
    pub expired: u64,
    /// Entries that made room for others.
    pub evicted: u64,
}

/// Values by key, each with the moment it was stored. Ordered, so that what makes room is the same in every run.
#[derive(Debug)]
pub struct Cache<K, V> {
    entries: Mutex<BTreeMap<K, (f64, V)>>,
    ttl: f64,
    limit: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    expired: AtomicU64,
    evicted: AtomicU64,
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    /// Keeps at most `limit` entries for `ttl` seconds; 0 of either: keeps nothing.
    pub fn new(ttl: f64, limit: usize) -> Self {
        Self {
            entries: Mutex::new(BTreeMap::new()),
            ttl: if limit == 0 { 0.0 } else { ttl },
            limit,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// The value of `key`, if it is fresh.
    pub fn get(&self, key: &K, now: f64) -> Option<V> {
        if self.ttl <= 0.0 {
            return None;
        }
        let Ok(mut entries) = self.entries.try_lock() else {
            self.misses.fetch_add(1, Relaxed);
            return None;
        };
        let counter = match entries.get(key) {
            Some((stored, value)) if now - stored < self.ttl => {
                self.hits.fetch_add(1, Relaxed);
                return Some(value.clone());
            }
            Some(_) => {
                entries.remove(key);
                &self.expired
            }
            None => &self.misses,
        };
        counter.fetch_add(1, Relaxed);
        None
    }

    /// Stores a value; the oldest makes room when the cache is full.
    pub fn put(&self, key: K, value: V, now: f64) {
        if self.ttl <= 0.0 {
            return;
        }
        let Ok(mut entries) = self.entries.try_lock() else { return };
        if entries.len() >= self.limit && !entries.contains_key(&key) {
            let oldest = entries.iter().min_by(|a, b| a.1.0.total_cmp(&b.1.0)).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                entries.remove(&oldest);
                self.evicted.fetch_add(1, Relaxed);
            }
        }
        entries.insert(key, (now, value));
    }

    /// How it did so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            expired: self.expired.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_fresh_for_their_time_and_the_oldest_makes_room() {
        let cache = Cache::new(1.0, 2);
        cache.put('a', 1, 0.0);
        assert_eq!(cache.get(&'a', 0.9), Some(1));
        assert_eq!(cache.get(&'a', 1.0), None);
        cache.put('a', 1, 2.0);
        cache.put('b', 2, 2.1);
        cache.put('c', 3, 2.2);
        assert_eq!((cache.get(&'a', 2.3), cache.get(&'b', 2.3), cache.get(&'c', 2.3)), (None, Some(2), Some(3)));
        assert_eq!(cache.stats(), CacheStats { hits: 3, misses: 1, expired: 1, evicted: 1 });
    }

    #[test]
    fn without_time_or_room_nothing_is_kept() {
        for cache in [Cache::new(0.0, 5), Cache::new(5.0, 0)] {
            cache.put('a', 1, 0.0);
            assert_eq!(cache.get(&'a', 0.0), None);
        }
    }
}
