//! One record to one line, by hand: a generic serializer would cost more than all else the log does to a request.
//!
//! JSON strings are escaped in runs; bytes that are not UTF-8 become U+FFFD, so every line is valid JSON whatever a
//! client sent. The combined format escapes as nginx does (`\xHH`). The text of the present second is kept, so a
//! timestamp is six digits of work.

use std::io::Write;
use std::time::{Duration, SystemTime};

use super::Record;
use crate::config::AccessLogFormat;
use crate::upstream::http1::request::write_decimal;

/// Room for a usual line, so that the first one does not grow the buffer step by step.
const USUAL_LINE: usize = 1024;

/// A longer line than this is rare (a URI may have 16 KiB); its memory is given back.
const LONG_LINE: usize = 64 * 1024;

/// Makes lines; kept per thread for its buffer and its text of the present second.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    line: Vec<u8>,
    clock: Clock,
}

impl Encoder {
    /// The line of `record`, newline included. Empty when the format is off.
    pub(super) fn line(&mut self, format: AccessLogFormat, record: &Record<'_>) -> &[u8] {
        if self.line.capacity() > LONG_LINE {
            self.line = Vec::new();
        }
        self.line.clear();
        self.line.reserve(USUAL_LINE);
        match format {
            AccessLogFormat::Json => self.json(record),
            AccessLogFormat::Combined => self.combined(record),
            AccessLogFormat::Off => {}
        }
        &self.line
    }

    /// The fields in the contract's order.
    fn json(&mut self, r: &Record<'_>) {
        let out = &mut self.line;
        out.extend_from_slice(b"{\"ts\":\"");
        self.clock.rfc3339(out, r.arrived);
        out.push(b'"');
        text(out, "request_id", Some(r.request_id));
        key(out, "client");
        out.push(b'"');
        address(out, r.client);
        out.push(b'"');
        text(out, "method", Some(r.method));
        bytes(out, "host", r.host);
        bytes(out, "path", r.path);
        text(out, "protocol", Some(r.protocol));
        number(out, "status", u64::from(r.status));
        number(out, "bytes_in", r.bytes_in);
        number(out, "bytes_out", r.bytes_out);
        text(out, "pool", r.pool);
        text(out, "backend", r.backend);
        text(out, "strategy", r.strategy);
        fraction(out, "propensity", r.propensity);
        text(out, "kind", r.kind);
        number(out, "candidates", r.candidates as u64);
        number(out, "attempts", u64::from(r.attempts));
        millis(out, "queue_ms", Some(r.queue));
        millis(out, "connect_ms", r.connect);
        millis(out, "first_byte_ms", r.first_byte);
        millis(out, "total_ms", Some(r.total));
        text(out, "end", Some(r.end.name()));
        text(out, "retry", r.retry);
        text(out, "sticky", Some(r.sticky.name()));
        if let Some(subject) = r.subject {
            text(out, "subject", Some(subject));
        }
        out.extend_from_slice(b"}\n");
    }

    /// `client - - [time] "request" status bytes "referer" "agent"`. A request that got no status is 499, nginx's
    /// number for it, because readers of this format insist on three digits.
    fn combined(&mut self, r: &Record<'_>) {
        let out = &mut self.line;
        address(out, r.client);
        out.extend_from_slice(b" - - [");
        self.clock.common_log(out, r.arrived);
        out.extend_from_slice(b"] \"");
        hex_escaped(out, r.method.as_bytes());
        out.push(b' ');
        hex_escaped(out, r.path);
        out.push(b' ');
        hex_escaped(out, r.protocol.as_bytes());
        out.extend_from_slice(b"\" ");
        write_decimal(out, u64::from(if r.status == 0 { 499 } else { r.status }));
        out.push(b' ');
        write_decimal(out, r.bytes_out);
        for field in [r.referer, r.user_agent] {
            out.extend_from_slice(b" \"");
            hex_escaped(out, field.unwrap_or(b"-"));
            out.push(b'"');
        }
        out.push(b'\n');
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    key(out, name);
    match value {
        Some(value) => {
            out.push(b'"');
            escaped(out, value);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn bytes(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        escaped(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    write_decimal(out, value);
}

fn fraction(out: &mut Vec<u8>, name: &str, value: Option<f32>) {
    key(out, name);
    match value {
        Some(1.0) => out.extend_from_slice(b"1.0"),
        Some(value) if value.is_finite() => drop(write!(out, "{value}")),
        Some(_) | None => out.extend_from_slice(b"null"),
    }
}

/// Milliseconds with up to three decimals.
fn millis(out: &mut Vec<u8>, name: &str, value: Option<Duration>) {
    key(out, name);
    let Some(value) = value else { return out.extend_from_slice(b"null") };
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    write_decimal(out, micros / 1000);
    out.push(b'.');
    let rest = (micros % 1000) as u32;
    out.push(digit(rest / 100));
    if !rest.is_multiple_of(100) {
        out.push(digit(rest / 10));
        if !rest.is_multiple_of(10) {
            out.push(digit(rest));
        }
    }
}

/// The content of a JSON string.
fn escaped(out: &mut Vec<u8>, value: &str) {
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\') {
        let (run, tail) = rest.split_at(at);
        out.extend_from_slice(run);
        let Some((special, tail)) = tail.split_first() else { return };
        match special {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                hex(out, *control);
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// As nginx writes variables into its log: quotes, backslashes and all that is not printable ASCII as `\xHH`.
fn hex_escaped(out: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                out.extend_from_slice(b"\\x");
                hex(out, *byte);
            }
            plain => out.push(*plain),
        }
    }
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    let half = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
    out.push(half(byte >> 4));
    out.push(half(byte & 15));
}

fn address(out: &mut Vec<u8>, address: std::net::IpAddr) {
    match address {
        std::net::IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index != 0 {
                    out.push(b'.');
                }
                write_decimal(out, u64::from(octet));
            }
        }
        std::net::IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

fn digit(value: u32) -> u8 {
    b'0' + (value % 10) as u8
}

fn two_digits(out: &mut Vec<u8>, value: u32) {
    out.push(digit(value / 10));
    out.push(digit(value));
}

/// Writes moments; remembers the text of the last second of each form.
#[derive(Debug, Default)]
struct Clock {
    rfc3339: (Option<u64>, Vec<u8>),
    common_log: (Option<u64>, Vec<u8>),
}

impl Clock {
    /// `2026-11-21T18:00:00.123456Z`
    fn rfc3339(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (known, kept) = &mut self.rfc3339;
        if *known != Some(since.as_secs()) {
            *known = Some(since.as_secs());
            kept.clear();
            let date = Date::of(since.as_secs());
            two_digits(kept, date.year / 100);
            for (before, part) in
                [(None, date.year), (Some(b'-'), date.month), (Some(b'-'), date.day), (Some(b'T'), date.hour)]
            {
                kept.extend(before);
                two_digits(kept, part % 100);
            }
            kept.push(b':');
            two_digits(kept, date.minute);
            kept.push(b':');
            two_digits(kept, date.second);
            kept.push(b'.');
        }
        out.extend_from_slice(kept);
        let micros = since.subsec_micros();
        two_digits(out, micros / 10_000);
        two_digits(out, micros / 100 % 100);
        two_digits(out, micros % 100);
        out.push(b'Z');
    }

    /// `21/Nov/2026:18:00:00 +0000`
    fn common_log(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (known, kept) = &mut self.common_log;
        if *known != Some(since.as_secs()) {
            *known = Some(since.as_secs());
            kept.clear();
            let date = Date::of(since.as_secs());
            let month = MONTHS.get(date.month as usize - 1).unwrap_or(&"???");
            let _ = write!(
                kept,
                "{:02}/{month}/{:04}:{:02}:{:02}:{:02} +0000",
                date.day, date.year, date.hour, date.minute, date.second
            );
        }
        out.extend_from_slice(kept);
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in UTC.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Date {
    year: u32,
    /// 1..=12
    month: u32,
    /// 1..=31
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Date {
    /// The date `seconds` after the epoch. Days are counted from 1 March of year 0, so that the leap day comes last and
    /// a month's length follows from its place: the usual reckoning of the Gregorian calendar in eras of 400 years.
    pub(super) fn of(seconds: u64) -> Self {
        const DAYS_TO_EPOCH: u64 = 719_468; // from 0000-03-01 to 1970-01-01
        const DAYS_PER_ERA: u64 = 146_097;
        let days = seconds / 86_400 + DAYS_TO_EPOCH;
        let era = days / DAYS_PER_ERA;
        let day_of_era = days % DAYS_PER_ERA;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153; // 0: March
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Self {
            year: (era * 400 + year_of_era + u64::from(month <= 2)) as u32,
            month: month as u32,
            day: (day_of_year - (153 * shifted + 2) / 5 + 1) as u32,
            hour: (seconds % 86_400 / 3600) as u32,
            minute: (seconds % 3600 / 60) as u32,
            second: (seconds % 60) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_moments() {
        // Checked with `date -u -d @N`.
        for (seconds, expected) in [
            (0, (1970, 1, 1, 0, 0, 0)),
            (951_782_399, (2000, 2, 28, 23, 59, 59)),
            (951_782_400, (2000, 2, 29, 0, 0, 0)),
            (951_868_800, (2000, 3, 1, 0, 0, 0)),
            (1_735_689_599, (2024, 12, 31, 23, 59, 59)),
            (1_795_284_000, (2026, 11, 21, 18, 0, 0)),
            (4_107_542_400, (2100, 3, 1, 0, 0, 0)),
        ] {
            let (year, month, day, hour, minute, second) = expected;
            assert_eq!(Date::of(seconds), Date { year, month, day, hour, minute, second }, "{seconds}");
        }
    }

    #[test]
    fn milliseconds_keep_three_decimals() {
        for (micros, expected) in
            [(0, "0.0"), (1, "0.001"), (10, "0.01"), (41_200, "41.2"), (910_705, "910.705"), (3_000_000, "3000.0")]
        {
            let mut out = Vec::new();
            millis(&mut out, "x", Some(Duration::from_micros(micros)));
            assert_eq!(String::from_utf8(out).unwrap(), format!(",\"x\":{expected}"));
        }
    }

    #[test]
    fn decimals_of_every_length() {
        for value in [0, 7, 10, 99, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
