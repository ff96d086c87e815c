//! Results as people read them: means over seeds, ratios to the best with paired confidence intervals, tables, CSV.

use std::fmt::Write;

use super::metrics::Metrics;
use super::runner::Run;

/// 97.5 % quantiles of Student's t for 1, 2, … 30 degrees of freedom; beyond, the normal one.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The normal distribution's.
const NORMAL: f64 = 1.960;

/// A mean ratio and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Geometric mean.
    pub mean: f64,
    /// Lower end; NaN for a single seed.
    pub low: f64,
    /// Upper end; NaN for a single seed.
    pub high: f64,
}

/// Geometric mean; NaN for nothing.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (count, sum) = values.into_iter().fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value.ln()));
    if count > 0.0 { (sum / count).exp() } else { f64::NAN }
}

/// The ratio of paired values, by a t-interval on their logarithms.
pub fn paired_ratio(pairs: &[(f64, f64)]) -> Ratio {
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a.max(1e-12) / b.max(1e-12)).ln()).collect();
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let quantile = logs.len().checked_sub(2).map_or(f64::NAN, |index| STUDENT.get(index).copied().unwrap_or(NORMAL));
    let half = quantile * (variance / count).sqrt();
    Ratio { mean: mean.exp(), low: (mean - half).exp(), high: (mean + half).exp() }
}

/// All runs, and questions about them.
#[derive(Debug)]
pub struct Results<'a> {
    runs: &'a [Run],
}

impl<'a> Results<'a> {
    /// Of these runs.
    pub fn new(runs: &'a [Run]) -> Self {
        Self { runs }
    }

    /// Scenarios in order of appearance.
    pub fn scenarios(&self) -> Vec<&'a str> {
        unique(self.runs.iter().map(|run| run.scenario.as_str()))
    }

    /// Strategies in order of appearance.
    pub fn strategies(&self) -> Vec<&'a str> {
        unique(self.runs.iter().map(|run| run.strategy.as_str()))
    }

    /// The runs of one strategy in one scenario, by seed.
    pub fn of(&self, scenario: &'a str, strategy: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.scenario == scenario && run.strategy == strategy)
    }

    /// Mean over seeds; NaN when there are no runs.
    pub fn mean(&self, scenario: &'a str, strategy: &'a str, measure: impl Fn(&Metrics) -> f64) -> f64 {
        let (count, sum) = self
            .of(scenario, strategy)
            .fold((0.0, 0.0), |(count, sum), run| (count + 1.0, sum + measure(&run.metrics)));
        sum / count
    }

    /// The strategy among `among` with the lowest mean, and that mean.
    pub fn best<'b>(
        &self,
        scenario: &'a str,
        among: &[&'b str],
        measure: impl Fn(&Metrics) -> f64 + Copy,
    ) -> Option<(&'b str, f64)>
    where
        'b: 'a,
    {
        among
            .iter()
            .map(|strategy| (*strategy, self.mean(scenario, strategy, measure)))
            .filter(|(_, mean)| mean.is_finite())
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The ratio of two strategies in one scenario, seed by seed.
    pub fn ratio(
        &self,
        scenario: &'a str,
        strategy: &'a str,
        to: &'a str,
        measure: impl Fn(&Metrics) -> f64 + Copy,
    ) -> Ratio {
        let others: Vec<_> = self.of(scenario, to).collect();
        let pairs: Vec<_> = self
            .of(scenario, strategy)
            .filter_map(|run| {
                let other = others.iter().find(|other| other.seed == run.seed)?;
                Some((measure(&run.metrics), measure(&other.metrics)))
            })
            .collect();
        paired_ratio(&pairs)
    }

    /// One table per scenario, and one over all.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        for scenario in self.scenarios() {
            self.table(scenario, &mut text);
        }
        if self.scenarios().len() > 1 {
            self.summary(&mut text);
        }
        text
    }

    fn table(&self, scenario: &'a str, text: &mut String) {
        let strategies = self.strategies();
        let best = self.best(scenario, &strategies, |m| m.j).map_or("", |(name, _)| name);
        let best_p99 = self.best(scenario, &strategies, |m| m.p99_all).map_or("", |(name, _)| name);
        let mut order: Vec<_> = strategies.iter().map(|name| (self.mean(scenario, name, |m| m.j), *name)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let _ = writeln!(text, "\n{scenario}");
        let _ = writeln!(
            text,
            "  {:<32} {:>9} {:>7} {:>17} {:>9} {:>7} {:>9} {:>9} {:>8} {:>8}",
            "strategy", "J ms", "/ best", "95 %", "p99* ms", "/ best", "mean ms", "p50 ms", "errors %", "in SLA %"
        );
        for (j, name) in order.into_iter().filter(|(j, _)| j.is_finite()) {
            let ratio = self.ratio(scenario, name, best, |m| m.j);
            let p99 = self.ratio(scenario, name, best_p99, |m| m.p99_all);
            let mean = |measure: fn(&Metrics) -> f64| self.mean(scenario, name, measure);
            let interval = if ratio.low.is_finite() && name != best {
                format!("[{:.3}, {:.3}]", ratio.low, ratio.high)
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "  {name:<32} {:>9.2} {:>7.3} {interval:>17} {:>9.2} {:>7.3} {:>9.2} {:>9.2} {:>8.3} {:>8.2}",
                j * 1e3,
                ratio.mean,
                mean(|m| m.p99_all) * 1e3,
                p99.mean,
                mean(|m| m.mean) * 1e3,
                mean(|m| m.p50) * 1e3,
                mean(|m| m.error_percent),
                mean(|m| m.good_percent),
            );
        }
    }

    fn summary(&self, text: &mut String) {
        let (scenarios, strategies) = (self.scenarios(), self.strategies());
        let _ = writeln!(text, "\nall {} scenarios: ratio to the best strategy of each", scenarios.len());
        let _ = writeln!(
            text,
            "  {:<32} {:>9} {:>9} {:>9} {:>9} {:>10}",
            "strategy", "J", "worst", "p99*", "worst", "errors %"
        );
        let mut rows: Vec<_> = strategies
            .iter()
            .map(|name| {
                let ratios = |measure: fn(&Metrics) -> f64| -> Vec<f64> {
                    let ratio = |scenario: &&'a str| {
                        let (_, best) = self.best(scenario, &strategies, measure)?;
                        Some(self.mean(scenario, name, measure) / best.max(1e-12))
                    };
                    scenarios.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
                };
                let errors = scenarios.iter().map(|scenario| self.mean(scenario, name, |m| m.error_percent));
                let errors = errors.sum::<f64>() / scenarios.len() as f64;
                (*name, ratios(|m| m.j), ratios(|m| m.p99_all), errors)
            })
            .collect();
        rows.sort_by(|a, b| geometric_mean(a.1.iter().copied()).total_cmp(&geometric_mean(b.1.iter().copied())));
        for (name, j, p99, errors) in rows {
            let worst = |ratios: &[f64]| ratios.iter().copied().fold(f64::NAN, f64::max);
            let _ = writeln!(
                text,
                "  {name:<32} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {errors:>10.3}",
                geometric_mean(j.iter().copied()),
                worst(&j),
                geometric_mean(p99.iter().copied()),
                worst(&p99),
            );
        }
    }

    /// One line a run, with a heading.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "scenario,strategy,seed,requests,j,p99_all,mean,p50,p95,p99,p999,error_percent,good_percent,jain,cold_j,\
             aftermath_percent,recovery,first_byte,first_byte_p99,both_percent\n",
        );
        for run in self.runs {
            let m = &run.metrics;
            let _ = write!(text, "{},{},{},{}", run.scenario, run.strategy, run.seed, m.requests);
            for value in [
                m.j,
                m.p99_all,
                m.mean,
                m.p50,
                m.p95,
                m.p99,
                m.p999,
                m.error_percent,
                m.good_percent,
                m.jain,
                m.cold_j,
                m.aftermath_percent,
                m.recovery,
                m.first_byte,
                m.first_byte_p99,
                m.both_percent,
            ] {
                let _ = write!(text, ",{value:.6}");
            }
            text.push('\n');
        }
        text
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paired_ratio_knows_its_uncertainty() {
        let ratio = paired_ratio(&[(2.0, 1.0), (2.0, 1.0), (2.0, 1.0)]);
        assert!((ratio.mean - 2.0).abs() < 1e-12 && (ratio.low - 2.0).abs() < 1e-9);
        let ratio = paired_ratio(&[(2.0, 1.0), (1.0, 2.0)]);
        assert!((ratio.mean - 1.0).abs() < 1e-12 && ratio.low < 0.01 && ratio.high > 100.0);
        assert!(paired_ratio(&[(2.0, 1.0)]).low.is_nan());
        assert!((geometric_mean([1.0, 4.0]) - 2.0).abs() < 1e-12);
    }
}
