//! One pick's numbers as columns, one number per candidate.
//!
//! A strategy that needs several passes reads the candidates' records once, into columns, and then goes over those in
//! straight loops, which the compiler turns into vector instructions. What costs most among hundreds is not arithmetic but
//! waiting: a sum or a maximum in which every step needs the one before it.

use std::cell::RefCell;

/// Sums that go on side by side: an addition takes four cycles, and two of them can begin in each.
pub(super) const LANES: usize = 8;

thread_local! {
    /// Buffers of this worker: a pick allocates nothing once they have grown to the size of its largest pool.
    static COLUMNS: RefCell<[Vec<f64>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// Does `work` with `N` columns of `rows` numbers, up to three; what is in them is left over from other picks.
#[inline]
pub(super) fn with_columns<const N: usize, R>(rows: usize, work: impl FnOnce([&mut [f64]; N]) -> R) -> R {
    const { assert!(N <= 3) };
    COLUMNS.with_borrow_mut(|columns| {
        let mut columns = columns.iter_mut();
        work(std::array::from_fn(|_| {
            let Some(column) = columns.next() else { return Default::default() };
            // Does nothing while picks are among the same number.
            column.resize(rows, 0.0);
            column.as_mut_slice()
        }))
    })
}

/// The sum of a column.
#[inline]
pub(super) fn sum(column: &[f64]) -> f64 {
    let (blocks, rest) = column.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, number) in lanes.iter_mut().zip(block) {
            *lane += number;
        }
    }
    block_sum(&lanes) + rest.iter().sum::<f64>()
}

/// The sum of one block, in three steps and not seven.
#[inline]
pub(super) fn block_sum(lanes: &[f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    // In this order pairs stay pairs, and need no shuffling.
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The largest of a column; of none −∞.
#[inline]
pub(super) fn most(column: &[f64]) -> f64 {
    let (blocks, rest) = column.as_chunks::<LANES>();
    let mut lanes = [f64::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, number) in lanes.iter_mut().zip(block) {
            *lane = if *number > *lane { *number } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f64::NEG_INFINITY, f64::max)
}
