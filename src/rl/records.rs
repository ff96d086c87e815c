//! One record per backend, found by its slot without a lock. The table only grows, in chunks that double, so a record
//! never moves; a slot that a new backend took over is noticed by its id and starts afresh.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// Records of the first chunk; chunk k has twice those of chunk k − 1.
const FIRST: usize = 16;

/// 16 · (2^12 − 1) = 65,520 slots: far beyond any pool.
const CHUNKS: usize = 12;

/// What a table of records needs of a record.
pub(crate) trait Record: Default {
    /// Who it belongs to: the backend's id + 1; 0: nobody yet.
    fn owner(&self) -> &AtomicU64;

    /// Forgets everything but the owner.
    fn reset(&self);
}

/// The records of all backends.
pub(crate) struct Records<R> {
    chunks: [OnceLock<Box<[R]>>; CHUNKS],
}

impl<R: Record> Records<R> {
    pub(crate) fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS] }
    }

    /// The chunk that `slot` is in, and the slot it begins with. Allocates the first time a chunk is needed.
    #[inline]
    fn chunk(&self, slot: usize) -> Option<(&[R], usize)> {
        let chunk = (slot.checked_add(FIRST)? / FIRST).ilog2() as usize;
        let size = FIRST << chunk.min(CHUNKS);
        let records = self.chunks.get(chunk)?.get_or_init(|| (0..size).map(|_| R::default()).collect());
        Some((records, size - FIRST))
    }

    /// For many look-ups one after the other: those of neighbouring slots are quicker.
    #[inline]
    pub(crate) fn cursor(&self) -> Cursor<'_, R> {
        Cursor { records: self, chunk: &[], first: 0 }
    }

    /// The record of the backend `id` in `slot`; `None` when a younger backend has the slot.
    #[inline]
    pub(crate) fn of(&self, slot: usize, id: u64) -> Option<&R> {
        let (chunk, first) = self.chunk(slot)?;
        Cursor { records: self, chunk, first }.of(slot, id)
    }

    /// Takes a record over from nobody or from an older backend.
    #[cold]
    fn claim(record: &R, me: u64) -> Option<&R> {
        loop {
            let owner = record.owner().load(Acquire);
            if owner == me {
                return Some(record);
            }
            if owner > me {
                return None;
            }
            if record.owner().compare_exchange(owner, me, AcqRel, Acquire).is_ok() {
                record.reset();
                return Some(record);
            }
        }
    }

    /// Every record that belongs to somebody.
    pub(crate) fn owned(&self) -> impl Iterator<Item = &R> {
        self.chunks.iter().filter_map(OnceLock::get).flatten().filter(|r| r.owner().load(Acquire) != 0)
    }
}

/// Finds record after record, and remembers the chunk that the last was in.
pub(crate) struct Cursor<'a, R> {
    records: &'a Records<R>,
    chunk: &'a [R],
    /// The slot that the chunk begins with.
    first: usize,
}

impl<'a, R: Record> Cursor<'a, R> {
    /// The record of the backend `id` in `slot`; `None` when a younger backend has the slot.
    #[inline]
    pub(crate) fn of(&mut self, slot: usize, id: u64) -> Option<&'a R> {
        let record = match self.chunk.get(slot.wrapping_sub(self.first)) {
            Some(record) => record,
            None => self.moved(slot)?,
        };
        let me = id.wrapping_add(1);
        if record.owner().load(Acquire) == me { Some(record) } else { Records::claim(record, me) }
    }

    /// The record in `slot`, after going to its chunk.
    #[inline(never)]
    fn moved(&mut self, slot: usize) -> Option<&'a R> {
        (self.chunk, self.first) = self.records.chunk(slot)?;
        self.chunk.get(slot - self.first)
    }
}

impl<R> std::fmt::Debug for Records<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[derive(Default)]
    struct Count {
        owner: AtomicU64,
        count: AtomicU64,
    }

    impl Record for Count {
        fn owner(&self) -> &AtomicU64 {
            &self.owner
        }

        fn reset(&self) {
            self.count.store(0, Relaxed);
        }
    }

    #[test]
    fn every_slot_has_its_own_record() {
        let table = Records::<Count>::new();
        for slot in 0..1000 {
            let record = table.of(slot, slot as u64).unwrap();
            assert_eq!(record.count.fetch_add(1, Relaxed), 0, "slot {slot}");
        }
        assert_eq!(table.owned().count(), 1000);
        let mut cursor = table.cursor();
        for slot in [0, 3, 15, 16, 999, 15, 100] {
            assert!(std::ptr::eq(cursor.of(slot, slot as u64).unwrap(), table.of(slot, slot as u64).unwrap()));
        }
        assert!(table.of(65_519, 1).is_some());
        assert!(table.of(65_520, 1).is_none());
        assert!(table.of(usize::MAX, 1).is_none());
    }

    #[test]
    fn a_new_backend_in_an_old_slot_starts_afresh_and_the_old_one_is_ignored() {
        let table = Records::<Count>::new();
        table.of(3, 7).unwrap().count.store(5, Relaxed);
        assert_eq!(table.of(3, 7).unwrap().count.load(Relaxed), 5);
        assert_eq!(table.of(3, 9).unwrap().count.load(Relaxed), 0);
        assert!(table.of(3, 7).is_none());
    }
}
