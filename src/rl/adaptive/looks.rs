//! What a decision goes by, as columns: one number per candidate, gone over in straight loops that the compiler turns into
//! vector instructions. Written in one pass and compared in others: a comparison within the first would have every
//! candidate wait for the one before it.

/// Minima that go on side by side: one takes four cycles, and two can begin in each.
const LANES: usize = 8;

/// Rows below which going over them twice, for the least and for where it is, is not worth its beginning.
const FEW: usize = 4 * LANES;

/// What a decision saw of each candidate, in their order.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// C ÷ weight, never not a number.
    pub(super) cost: Vec<f64>,
    /// When the backend was last used; negative: never.
    pub(super) used: Vec<f64>,
}

impl Looks {
    pub(super) const fn new() -> Self {
        Self { cost: Vec::new(), used: Vec::new() }
    }

    /// Makes room for `rows`. What is in them is left over from other decisions.
    #[inline]
    pub(super) fn resize(&mut self, rows: usize) {
        // Does nothing while decisions are among the same number.
        self.cost.resize(rows, 0.0);
        self.used.resize(rows, 0.0);
    }

    /// The first of least cost; 0 when there are none.
    #[inline]
    pub(super) fn best(&self) -> usize {
        if self.cost.len() < FEW {
            let better =
                |best: (usize, f64), (row, cost): (usize, &f64)| if *cost < best.1 { (row, *cost) } else { best };
            return self.cost.iter().enumerate().fold((0, f64::INFINITY), better).0;
        }
        let least = least(&self.cost, &self.cost, |cost, _| cost);
        first(&self.cost, &self.cost, |cost, _| cost == least).unwrap_or(0)
    }

    /// The first least recently used of those that cost at most `limit`; `None` when there are none.
    #[inline]
    pub(super) fn least_recent(&self, limit: f64) -> Option<usize> {
        if self.cost.len() < FEW {
            let mut found = (None, f64::INFINITY);
            for (row, (cost, used)) in self.cost.iter().zip(&self.used).enumerate() {
                // One rare branch, where two of which one is a coin toss would cost a pipeline each time.
                if (*cost <= limit) & (*used < found.1) {
                    found = (Some(row), *used);
                }
            }
            return found.0;
        }
        let of_cheap = |cost: f64, used: f64| if cost <= limit { used } else { f64::INFINITY };
        let least = least(&self.cost, &self.used, of_cheap);
        first(&self.cost, &self.used, |cost, used| (cost <= limit) & (used == least))
    }
}

/// The least number that `make` makes of a row.
#[inline]
fn least(left: &[f64], right: &[f64], make: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [f64::INFINITY; LANES];
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    let lesser = |a: f64, b: f64| if a < b { a } else { b };
    for (left, right) in left.iter().zip(right) {
        for (lane, (left, right)) in lanes.iter_mut().zip(left.iter().zip(right)) {
            *lane = lesser(make(*left, *right), *lane);
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(left, right)| make(*left, *right));
    rest.chain(lanes).fold(f64::INFINITY, |least, number| lesser(number, least))
}

/// The first row that `is` is true of.
#[inline]
fn first(left: &[f64], right: &[f64], is: impl Fn(f64, f64) -> bool) -> Option<usize> {
    // A block at a time, with one branch.
    let blocks = left.as_chunks::<LANES>().0.iter().zip(right.as_chunks::<LANES>().0);
    let has_it = |(left, right): (&[f64; LANES], &[f64; LANES])| {
        left.iter().zip(right).fold(false, |found, (left, right)| found | is(*left, *right))
    };
    let begin = LANES * blocks.take_while(|block| !has_it(*block)).count();
    let mut rows = left.iter().zip(right).enumerate().skip(begin);
    rows.find(|(_, (left, right))| is(**left, **right)).map(|(row, _)| row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_say_what_a_plain_loop_says() {
        // Few values, so that there are many equals, in numbers around the length of a block.
        for rows in [1, 2, 9, FEW - 1, FEW, FEW + 1, 500] {
            for seed in 0..50_usize {
                let number = |row: usize, step: usize| ((row * step + seed * 31) % 13) as f64;
                let cost: Vec<f64> = (0..rows).map(|row| number(row, 7)).collect();
                let used: Vec<f64> = (0..rows).map(|row| number(row, 5) - 1.0).collect();
                let looks = Looks { cost: cost.clone(), used: used.clone() };
                let best = (0..rows).fold(0, |best, row| if cost[row] < cost[best] { row } else { best });
                assert_eq!(looks.best(), best);
                for limit in [-1.0, cost[best], 5.0, 20.0] {
                    let among = (0..rows).filter(|row| cost[*row] <= limit);
                    let recent = among.reduce(|least, row| if used[row] < used[least] { row } else { least });
                    assert_eq!(looks.least_recent(limit), recent, "{rows} rows, limit {limit}");
                }
            }
        }
        assert_eq!((Looks::new().best(), Looks::new().least_recent(1.0)), (0, None));
    }
}
