//! Points in time as one number, so that a pick that compares hundreds of ages converts the present once and subtracts
//! integers: the standard library's subtraction of instants is a call, and was half the price of some picks.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The origin of all moments: the first instant that was ever converted. Only differences of moments mean anything, so it
/// does not matter which one it is.
static ORIGIN: OnceLock<Instant> = OnceLock::new();
/// What the origin itself is as a number: 146 years, so that earlier instants are positive too.
const ORIGIN_NANOS: u64 = 1 << 62;

/// Nanoseconds on a scale of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// That instant.
    #[inline]
    pub fn of(at: Instant) -> Self {
        let origin = *ORIGIN.get_or_init(|| at);
        match at.checked_duration_since(origin) {
            Some(after) => Self(ORIGIN_NANOS.saturating_add(nanos_of(after))),
            None => Self(ORIGIN_NANOS.saturating_sub(nanos_of(origin.saturating_duration_since(at)))),
        }
    }

    /// So long before.
    #[inline]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos_of(span)))
    }

    /// The number; never 0.
    #[inline]
    pub(super) fn nanos(self) -> u64 {
        self.0.max(1)
    }

    /// The instant of a number that came from [`nanos`](Self::nanos).
    pub(super) fn instant(nanos: u64) -> Option<Instant> {
        let origin = *ORIGIN.get()?;
        match nanos.checked_sub(ORIGIN_NANOS) {
            Some(after) => origin.checked_add(Duration::from_nanos(after)),
            None => origin.checked_sub(Duration::from_nanos(ORIGIN_NANOS - nanos)),
        }
    }
}

/// Nanoseconds in 64 bits, 585 years; the standard 128 are dear.
#[inline]
pub(super) fn nanos_of(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_on_both_sides_of_the_origin() {
        let now = Instant::now();
        Moment::of(now);
        for millis in [0, 1, 86_400_000] {
            let span = Duration::from_millis(millis);
            for at in [Some(now + span), now.checked_sub(span)].into_iter().flatten() {
                assert_eq!(Moment::instant(Moment::of(at).nanos()), Some(at));
            }
        }
        assert!(Moment::of(now) < Moment::of(now + Duration::from_nanos(1)));
    }
}
