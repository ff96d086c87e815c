//! ORCA load reports in response headers: `endpoint-load-metrics: TEXT cpu_utilization=0.3, …`, `JSON {…}` or
//! `BIN <base64 protobuf>`; older servers send `endpoint-load-metrics-bin`.
//!
//! A report is a backend's word like any other: it is bounded, and what is no number in 0-1 is unknown. A pool with
//! `orca = true` asks for reports, keeps them to itself and never passes them on.

use std::time::Instant;

use http::HeaderMap;
use serde_json::Value;

use crate::backend::{Backend, SampleSource, Signals};
use crate::config::ResourcesPlan;

/// The header of a report.
const HEADER: &str = "endpoint-load-metrics";
/// Its older binary form.
const HEADER_BIN: &str = "endpoint-load-metrics-bin";
/// The request header that asks for reports.
pub(super) const FORMAT_HEADER: &str = "endpoint-load-metrics-format";

/// Longest report that is read.
const MOST_BYTES: usize = 16 * 1024;

/// Reads the report of a response of `backend`, and takes it out of the head: it is for us.
pub(super) fn take(headers: &mut HeaderMap, backend: &Backend, plan: &ResourcesPlan, now: Instant) {
    let report = match (headers.remove(HEADER), headers.remove(HEADER_BIN)) {
        (Some(value), _) => Report::parse(value.as_bytes()),
        (None, Some(value)) => Report::parse_bin(value.as_bytes()),
        // Not every answer has one: vLLM's streams have none.
        (None, None) => return,
    };
    backend.count_sample(SampleSource::Orca, report.is_some());
    let Some(report) = report else { return };
    if report.cpu.is_some() || report.memory.is_some() {
        backend.note_resources(report.cpu, report.memory, plan.expiry, now);
    }
    // A scrape knows more, its counter of work above all.
    if report.waiting.is_some() && plan.scrape.is_none() {
        backend.set_signals(Signals { waiting: report.waiting, sampled: Some(now), ..Signals::default() });
    }
}

/// What a report said; `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Report {
    /// CPU in use, 0-1; else what the application calls its utilization.
    pub cpu: Option<f64>,
    /// Memory in use, 0-1; else a KV cache's.
    pub memory: Option<f64>,
    /// Requests waiting there.
    pub waiting: Option<f64>,
    /// Utilization by the application's own measure, 0-1: what `cpu` falls back to.
    application: Option<f64>,
    /// KV cache in use, 0-1: what `memory` falls back to.
    kv_cache: Option<f64>,
}

impl Report {
    /// The report in the value of [`HEADER`]; `None`: it makes no sense.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value.get(..value.len().min(MOST_BYTES + 1))?).ok()?.trim();
        if text.len() > MOST_BYTES {
            return None;
        }
        let (kind, rest) = text.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or(("", text));
        match kind.to_ascii_uppercase().as_str() {
            "TEXT" => Some(Self::of_text(rest)),
            "JSON" => Self::of_json(rest),
            "BIN" => Self::of_base64(rest.as_bytes()),
            // Older servers leave the kind out.
            _ if text.starts_with('{') => Self::of_json(text),
            _ if text.contains('=') => Some(Self::of_text(text)),
            _ => None,
        }
    }

    /// The report in the value of [`HEADER_BIN`].
    pub fn parse_bin(value: &[u8]) -> Option<Self> {
        if value.len() > MOST_BYTES { None } else { Self::of_base64(value) }
    }

    fn of_text(text: &str) -> Self {
        let mut report = Self::default();
        for (key, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
            if let Ok(value) = value.trim().parse() {
                report.note(key.trim(), value);
            }
        }
        report.completed()
    }

    fn of_json(text: &str) -> Option<Self> {
        let Value::Object(members) = serde_json::from_str(text).ok()? else { return None };
        let mut report = Self::default();
        for (key, value) in &members {
            match value {
                Value::Object(inner) => {
                    for (name, value) in inner {
                        report.note(&format!("{key}.{name}"), value.as_f64().unwrap_or(f64::NAN));
                    }
                }
                other => report.note(key, other.as_f64().unwrap_or(f64::NAN)),
            }
        }
        Some(report.completed())
    }

    fn of_base64(value: &[u8]) -> Option<Self> {
        let bytes = base64(value)?;
        let mut report = Self::default();
        let mut rest = bytes.as_slice();
        while let Some((field, wire)) = next_field(&mut rest)? {
            match (field, wire) {
                (1, Wire::Fixed64(bits)) => report.note("cpu_utilization", f64::from_bits(bits)),
                (2, Wire::Fixed64(bits)) => report.note("mem_utilization", f64::from_bits(bits)),
                (9, Wire::Fixed64(bits)) => report.note("application_utilization", f64::from_bits(bits)),
                (8, Wire::Bytes(entry)) => {
                    let (name, value) = map_entry(entry)?;
                    report.note(&format!("named_metrics.{name}"), value);
                }
                _ => {}
            }
        }
        Some(report.completed())
    }

    fn note(&mut self, key: &str, value: f64) {
        // A utilization above 1 is a machine beyond its capacity (the ORCA proto says that it may be): as full as can be.
        let share = (value.is_finite() && value >= 0.0).then_some(value.min(1.0));
        match key {
            "cpu_utilization" | "cpu" => self.cpu = share,
            "mem_utilization" | "memory" => self.memory = share,
            "application_utilization" => self.application = share,
            "named_metrics.kv_cache_usage_perc" => self.kv_cache = share,
            "named_metrics.num_requests_waiting" => {
                self.waiting = (value.is_finite() && value >= 0.0).then_some(value);
            }
            _ => {}
        }
    }

    fn completed(mut self) -> Self {
        self.cpu = self.cpu.or(self.application);
        self.memory = self.memory.or(self.kv_cache);
        self
    }
}

/// A protobuf value, as far as reports need it.
enum Wire<'a> {
    Fixed64(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The next field; `Some(None)` at the end, `None` where it is not protobuf.
#[expect(clippy::option_option, reason = "the end is not an error")]
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<Option<(u64, Wire<'a>)>> {
    if rest.is_empty() {
        return Some(None);
    }
    let key = varint(rest)?;
    let wire = match key & 7 {
        0 => {
            varint(rest)?;
            Wire::Other
        }
        1 => {
            let (bits, tail) = rest.split_first_chunk::<8>()?;
            *rest = tail;
            Wire::Fixed64(u64::from_le_bytes(*bits))
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (bytes, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Wire::Bytes(bytes)
        }
        5 => {
            *rest = rest.get(4..)?;
            Wire::Other
        }
        _ => return None,
    };
    Some(Some((key >> 3, wire)))
}

/// An entry of `map<string, double>`.
fn map_entry(mut entry: &[u8]) -> Option<(String, f64)> {
    let (mut name, mut value) = (String::new(), 0.0);
    while let Some((field, wire)) = next_field(&mut entry)? {
        match (field, wire) {
            (1, Wire::Bytes(bytes)) => name = std::str::from_utf8(bytes).ok()?.to_owned(),
            (2, Wire::Fixed64(bits)) => value = f64::from_bits(bits),
            _ => {}
        }
    }
    Some((name, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Standard or URL-safe base64, padded or not.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_ascii().iter().take_while(|byte| **byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Option<[Option<f64>; 3]> {
        Report::parse(value.as_bytes()).map(|report| [report.cpu, report.memory, report.waiting])
    }

    /// cpu 0.5, mem 0.25 and the named metric kv_cache_usage_perc 0.75, as the protobuf encoding has them.
    const BIN: &str = "CQAAAAAAAOA/EQAAAAAAANA/Qh4KE2t2X2NhY2hlX3VzYWdlX3BlcmMRAAAAAAAA6D8=";

    #[test]
    fn the_three_forms() {
        for (value, expected) in [
            (
                "TEXT cpu_utilization=0.3, mem_utilization=0.8, rps_fractional=10.0, eps=1",
                Some([Some(0.3), Some(0.8), None]),
            ),
            ("text cpu_utilization=0.3", Some([Some(0.3), None, None])),
            ("cpu_utilization=0.3,mem_utilization=0.8", Some([Some(0.3), Some(0.8), None])),
            (
                "TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=7",
                Some([None, Some(0.4), Some(7.0)]),
            ),
            ("TEXT application_utilization=0.6, mem_utilization=1.5", Some([Some(0.6), Some(1.0), None])),
            ("TEXT cpu_utilization=2.5, mem_utilization=inf", Some([Some(1.0), None, None])),
            (
                r#"JSON {"cpu_utilization":0.3,"named_metrics":{"kv_cache_usage_perc":0.5,"num_requests_waiting":2}}"#,
                Some([Some(0.3), Some(0.5), Some(2.0)]),
            ),
            (r#"{"mem_utilization":0.1}"#, Some([None, Some(0.1), None])),
            (&format!("BIN {BIN}"), Some([Some(0.5), Some(0.25), None])),
            ("TEXT cpu_utilization=NaN, mem_utilization=-1", Some([None, None, None])),
            ("JSON [1]", None),
            ("JSON {", None),
            ("BIN *", None),
            ("BIN /w==", None),
            ("hello", None),
            ("", None),
        ] {
            assert_eq!(shown(value), expected, "{value}");
        }
        assert_eq!(Report::parse_bin(BIN.as_bytes()).unwrap().cpu, Some(0.5));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(kind in "TEXT |JSON |BIN |", bytes: Vec<u8>, text in "[A-Za-z0-9+/={}:\",._]*") {
            let _ = Report::parse(&bytes);
            let _ = Report::parse_bin(&bytes);
            if let Some(report) = Report::parse(format!("{kind}{text}").as_bytes()) {
                for share in [report.cpu, report.memory].into_iter().flatten() {
                    proptest::prop_assert!((0.0..=1.0).contains(&share));
                }
            }
        }
    }
}
