//! The usual `process_*` metrics, read from `/proc` at scrape. What cannot be read is left out, never zero.

use std::path::Path;
use std::sync::OnceLock;

use super::{Exposition, Family, families};

/// Clock ticks a second in `/proc/…/stat`: fixed at 100 in Linux's interface to user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what can be known.
pub(super) fn write(out: &mut Exposition) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    let values: [(&'static Family, Option<f64>); 7] = [
        (&families::PROCESS_CPU_SECONDS, cpu_seconds(&stat)),
        (&families::PROCESS_OPEN_FDS, open),
        (&families::PROCESS_MAX_FDS, open_files_limit(&limits)),
        (&families::PROCESS_VIRTUAL_MEMORY, status_value(&status, "VmSize:").map(|kib| kib * 1024.0)),
        (&families::PROCESS_RESIDENT_MEMORY, status_value(&status, "VmRSS:").map(|kib| kib * 1024.0)),
        (&families::PROCESS_START_TIME, start_time(&stat)),
        (&families::PROCESS_THREADS, status_value(&status, "Threads:")),
    ];
    for (family, value) in values {
        if let Some(value) = value {
            out.family(family).sample(&[], value);
        }
    }
}

/// Field `number` (from 1) of `/proc/self/stat`. The second is the command in parentheses and may hold anything, so
/// fields are counted after its last parenthesis.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

/// When the process started, seconds after the epoch. Read once: the time of boot moves when the wall clock is set.
fn start_time(stat: &str) -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    *START.get_or_init(|| {
        let system = std::fs::read_to_string(Path::new("/proc/stat")).ok()?;
        let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
    })
}

/// The number after `name` in `/proc/self/status`.
fn status_value(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The soft limit; unlimited is left out.
fn open_files_limit(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 4242 1000 20";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(stat_field(stat, 22), Some(4242.0));
        assert_eq!(cpu_seconds("garbage"), None);
    }

    #[test]
    fn values_of_status_and_limits() {
        assert_eq!(status_value("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234.0));
        assert_eq!(open_files_limit("Max open files            1024                 4096      files\n"), Some(1024.0));
        assert_eq!(open_files_limit("Max open files            unlimited            unlimited files\n"), None);
    }
}
