//! A floating-point number that many workers read and write without a lock. Updates are a load and a store: two at the
//! same moment may lose one, which an average does not mind.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// An `f64` in an atomic cell.
#[derive(Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    /// 0.0, for arrays.
    #[allow(clippy::declare_interior_mutable_const, reason = "each use makes a new cell")]
    pub(crate) const ZERO: Self = Self(AtomicU64::new(0));

    pub(crate) fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    #[inline]
    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    #[inline]
    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Adds `delta`; exact only when nobody else writes.
    #[inline]
    pub(crate) fn add(&self, delta: f64) {
        self.set(self.get() + delta);
    }

    /// Moves the value the share `rate` of the way to `target`.
    #[inline]
    pub(crate) fn approach(&self, target: f64, rate: f64) {
        let value = self.get();
        self.set(value + rate * (target - value));
    }

    /// Replaces `seen` by `value` if nobody was faster.
    #[inline]
    pub(crate) fn replace(&self, seen: f64, value: f64) -> bool {
        self.0.compare_exchange(seen.to_bits(), value.to_bits(), Relaxed, Relaxed).is_ok()
    }
}

/// The step by which an average takes up its `seen`th number: a mean at first, `least` from then on.
#[inline]
pub(crate) fn step(least: f64, seen: f64) -> f64 {
    // The division is left out of what is asked for each request of a backend that has had many.
    if seen * least >= 1.0 { least } else { 1.0 / seen }
}

impl std::fmt::Debug for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}
