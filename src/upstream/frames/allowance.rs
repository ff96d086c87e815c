//! How many frames without a request or a byte of a body a client may send: each costs a little, most want an answer, and
//! the `h2` crate takes any number.

use super::Violation;
use crate::clock;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;

/// Such frames at once. Clients that ping to measure the path send one for each round trip of a download.
const MOST: u64 = 10_000;

/// What is left of [`MOST`]; one more for each millisecond.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    /// When it was so, on the coarse clock.
    at: u64,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self { left: MOST, at: clock::coarse_millis() }
    }

    /// A frame of this kind has come, no part of a head. The `h2` crate has limits of its own for resets, heads and DATA;
    /// what widens a window comes as often as bytes are taken.
    ///
    /// # Errors
    /// There were too many of them.
    #[inline]
    pub(super) fn take(&mut self, kind: u8, flags: u8) -> Result<(), Violation> {
        match kind {
            DATA | RST_STREAM | WINDOW_UPDATE => Ok(()),
            SETTINGS | PING if flags & ACK != 0 => Ok(()),
            _ => self.spend(),
        }
    }

    fn spend(&mut self) -> Result<(), Violation> {
        let now = clock::coarse_millis();
        let earned = now.saturating_sub(std::mem::replace(&mut self.at, now));
        self.left = self.left.saturating_add(earned).min(MOST).checked_sub(1).ok_or(Violation::Flood)?;
        Ok(())
    }
}
