//! What we show of ourselves: log lines on stderr and the names of every metric.
//!
//! Nothing here knows pools or backends: [`logging`] takes strings, [`metrics`] holds the table of metric families, the
//! writer of the Prometheus text format and the few process-wide metrics. Who owns the numbers walks them at scrape.

pub mod logging;
pub mod metrics;
pub mod panics;
