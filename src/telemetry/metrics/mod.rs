//! Every metric: its name, help text, type and labels in one table ([`families`]), the writer of the Prometheus text
//! format ([`Exposition`]), and the few process-wide metrics ([`Metrics`]).
//!
//! What belongs to pools and backends is counted in fixed atomics next to what it counts and written at scrape by whoever
//! can walk them (the admin server), with [`Exposition`]. So a removed backend vanishes, nothing is looked up per
//! request, and nothing grows between scrapes. What is rare and process-wide goes through the `metrics` facade into a
//! recorder of this instance: not the global one, because several balancers may live in one test process.

mod exposition;
pub mod families;
#[cfg(test)]
pub(crate) mod lint;
mod process;

pub use exposition::{Exposition, FamilyWriter};
pub use families::{Family, Kind};

use std::fmt;

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Bounds of `admin_request_seconds`: a read is well below a millisecond, a reload or a `wait=true` may take long.
const ADMIN_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// The process-wide metrics of one balancer, as handles that cost an atomic each.
pub struct Metrics {
    handle: PrometheusHandle,
    /// Reloads that were applied.
    pub reloads_applied: Counter,
    /// Reloads that were refused.
    pub reloads_refused: Counter,
    /// Changed certificates that were put in force.
    pub certificates_renewed: Counter,
    /// Changed certificates that could not be used.
    pub certificates_refused: Counter,
    /// Panics caught on connections and tasks.
    pub panics: Counter,
    /// Generation of the configuration in force; 1 at start.
    pub config_generation: Gauge,
    /// 1: the last reload (or the start) was applied; 0: refused.
    pub last_reload_success: Gauge,
    /// Time of admin requests, seconds.
    pub admin_request_seconds: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A recorder with every process-wide metric registered, at generation 1 with a successful start.
    ///
    /// # Errors
    /// The exporter refuses the buckets (none at all), which does not happen with the constant ones.
    pub fn new() -> Result<Self, metrics_exporter_prometheus::BuildError> {
        let admin = Matcher::Full(families::ADMIN_REQUEST_SECONDS.name.to_owned());
        let recorder = PrometheusBuilder::new().set_buckets_for_metric(admin, &ADMIN_BUCKETS)?.build_recorder();
        let handle = recorder.handle();
        let metrics = metrics::with_local_recorder(&recorder, || {
            for family in families::PROCESS_WIDE {
                describe(family);
            }
            let reloads = |result: &'static str| metrics::counter!(families::CONFIG_RELOADS.name, "result" => result);
            let certificates =
                |result: &'static str| metrics::counter!(families::TLS_CERTIFICATE_RELOADS.name, "result" => result);
            Self {
                certificates_renewed: certificates("success"),
                certificates_refused: certificates("failure"),
                reloads_applied: reloads("success"),
                reloads_refused: reloads("failure"),
                panics: metrics::counter!(families::PANICS.name),
                config_generation: metrics::gauge!(families::CONFIG_GENERATION.name),
                last_reload_success: metrics::gauge!(families::CONFIG_LAST_RELOAD_SUCCESS.name),
                admin_request_seconds: metrics::histogram!(families::ADMIN_REQUEST_SECONDS.name),
                handle,
            }
        });
        metrics.config_generation.set(1.0);
        metrics.last_reload_success.set(1.0);
        Ok(metrics)
    }

    /// Writes the process-wide metrics, `process_*` among them.
    pub fn write(&self, out: &mut Exposition) {
        out.family(&families::BUILD_INFO).sample(&[env!("CARGO_PKG_VERSION")], 1_u64);
        out.append(&self.handle.render());
        process::write(out);
    }

    /// Folds recorded durations into their buckets. Call it every few seconds, so that nothing grows while nobody
    /// scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe(family: &Family) {
    match family.kind {
        Kind::Counter => metrics::describe_counter!(family.name, family.help),
        Kind::Gauge => metrics::describe_gauge!(family.name, family.help),
        Kind::Histogram => metrics::describe_histogram!(family.name, family.help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut out = Exposition::default();
        metrics.write(&mut out);
        out.into_text()
    }

    #[test]
    fn the_process_wide_metrics_are_sound_and_complete() {
        let metrics = Metrics::new().unwrap();
        metrics.admin_request_seconds.record(0.003);
        metrics.reloads_refused.increment(1);
        let text = text(&metrics);
        let samples = lint::check(&text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        let value = |line: &str| samples.get(line).copied().unwrap_or_else(|| panic!("no {line} in\n{text}"));
        assert_eq!(value("evenkeel_config_generation"), 1.0);
        assert_eq!(value("evenkeel_config_last_reload_success"), 1.0);
        assert_eq!(value("evenkeel_config_reloads_total{result=\"success\"}"), 0.0);
        assert_eq!(value("evenkeel_config_reloads_total{result=\"failure\"}"), 1.0);
        assert_eq!(value("evenkeel_panics_total"), 0.0);
        assert_eq!(value("evenkeel_admin_request_seconds_bucket{le=\"0.001\"}"), 0.0);
        assert_eq!(value("evenkeel_admin_request_seconds_bucket{le=\"0.005\"}"), 1.0);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") > value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1.7e9);
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    }

    #[test]
    fn two_balancers_in_one_process_count_apart() {
        let (one, two) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.panics.increment(3);
        assert!(text(&one).contains("evenkeel_panics_total 3"));
        assert!(text(&two).contains("evenkeel_panics_total 0"));
    }
}
