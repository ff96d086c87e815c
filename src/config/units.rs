//! Durations and sizes as text: `250ms`, `1m30s`, `64KiB`. Exact integers throughout, so that what is written is what is
//! meant, and shown again the way it was written.

use std::fmt;
use std::time::Duration;

/// The longest duration anything may have: a year. Adding it to the clock can never overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Nanoseconds of each unit, longest first. `us` is also written `µs`.
const TIME_UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Bytes of each unit, largest first.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Why a text is not a duration or a size, and what would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UnitError {}

fn error<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, UnitError> {
    Err(UnitError { message: message.into(), hint: hint.into() })
}

/// The duration that `text` says: numbers with units from longest to shortest (`2s`, `1m30s`, `1.5s`), or `0`. At most
/// [`MAX_DURATION`].
///
/// # Errors
/// [`UnitError`] when the text is no duration, or one beyond a year.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    const HINT: &str = "a number with ms, s, m or h: \"250ms\", \"2s\", \"5m\", \"1h\"";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return error("a duration is expected, not an empty text", HINT);
    }
    if text.starts_with('-') {
        return error(format!("`{text}` is negative"), "durations are 0 or more");
    }
    let mut rest = text;
    let mut total: u128 = 0;
    let mut longest_allowed = u128::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.').len();
        let (unit, tail) = tail.split_at(letters);
        rest = tail;
        if number.is_empty() {
            return error(format!("`{text}` is not a duration"), HINT);
        }
        let Some(scale) = time_unit(unit) else { return unknown_time_unit(text, number, unit) };
        if scale >= longest_allowed {
            return error(
                format!("`{text}` is not a duration"),
                "units go from longest to shortest, each once: \"1m30s\"",
            );
        }
        longest_allowed = scale;
        match scaled(number, scale) {
            Some(nanos) => total = total.saturating_add(nanos),
            None => return error(format!("`{text}` is not a duration"), HINT),
        }
    }
    if total > MAX_DURATION.as_nanos() {
        return error(format!("`{text}` is too long"), "a year (\"365d\") is the most");
    }
    Ok(Duration::from_nanos(u64::try_from(total).unwrap_or(u64::MAX)))
}

fn time_unit(unit: &str) -> Option<u128> {
    let unit = if unit == "µs" || unit == "μs" { "us" } else { unit };
    TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

fn unknown_time_unit(text: &str, number: &str, unit: &str) -> Result<Duration, UnitError> {
    let meant = match unit.trim().to_ascii_lowercase().as_str() {
        "" => {
            return error(
                format!("`{text}` has no unit"),
                format!("\"{number}s\" for seconds, \"{number}ms\" for milliseconds"),
            );
        }
        "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" | "m" => "m",
        "hr" | "hrs" | "hour" | "hours" | "h" => "h",
        "msec" | "millis" | "milliseconds" | "ms" => "ms",
        "day" | "days" | "d" => "d",
        _ => return error(format!("`{unit}` is not a unit of time"), "the units are ms, s, m, h (and us, d)"),
    };
    error(format!("`{unit}` is not a unit of time"), format!("did you mean \"{number}{meant}\"?"))
}

/// `number` (digits, at most one point between them) times `scale`, exactly; `None` when it is no number or finer than one.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // 18 digits are 31 million years of nanoseconds: enough to be told it is too long, too few to overflow.
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let whole = if whole.len() > 18 { u128::from(u64::MAX) } else { whole.parse().ok()? };
    let parts = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = fraction.parse().ok()?;
    if !(fraction * scale).is_multiple_of(parts) {
        return None;
    }
    Some(whole.saturating_mul(scale).saturating_add(fraction * scale / parts))
}

/// The bytes that `text` says: a whole number with B, KiB, MiB, GiB or TiB, or without a unit.
///
/// # Errors
/// [`UnitError`] when the text is no size or does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    const HINT: &str = "a number with KiB, MiB or GiB: \"64KiB\", \"1MiB\"; bytes have no unit";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        let message = match text {
            "" => "a size is expected, not an empty text".to_owned(),
            _ => format!("`{text}` is not a size"),
        };
        return error(message, HINT);
    }
    let scale = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, scale)) => *scale,
        None if unit.is_empty() => 1,
        None => {
            let meant = match unit.trim().to_ascii_lowercase().as_str() {
                "k" | "kb" | "ki" | "kib" => "KiB",
                "m" | "mb" | "mi" | "mib" => "MiB",
                "g" | "gb" | "gi" | "gib" => "GiB",
                "t" | "tb" | "ti" | "tib" => "TiB",
                "b" | "byte" | "bytes" => "B",
                _ if unit.starts_with('.') => return error(format!("`{text}` is not a whole number"), HINT),
                _ => return error(format!("`{unit}` is not a unit of size"), HINT),
            };
            return error(format!("`{unit}` is not a unit of size"), format!("did you mean \"{number}{meant}\"?"));
        }
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)) {
        Some(bytes) => Ok(bytes),
        None => error(format!("`{text}` is too large"), "sizes fit 64 bits"),
    }
}

/// `duration` as one writes it: the longest unit that divides it, `0s` for zero.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let fits = TIME_UNITS.iter().find(|(name, scale)| *name != "d" && nanos.is_multiple_of(*scale));
    fits.map_or_else(|| format!("{nanos}ns"), |(name, scale)| format!("{}{name}", nanos / scale))
}

/// `bytes` as one writes it: the largest unit that divides it, `0` for zero.
pub fn show_size(bytes: u64) -> String {
    let fits = SIZE_UNITS.iter().find(|(name, scale)| *name != "B" && bytes != 0 && bytes.is_multiple_of(*scale));
    fits.map_or_else(|| bytes.to_string(), |(name, scale)| format!("{}{name}", bytes / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_that_are() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250_000_000),
            ("2s", 2_000_000_000),
            ("5m", 300_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0m1ms", 3_600_001_000_000),
            ("1.5s", 1_500_000_000),
            ("0.25ms", 250_000),
            ("20us", 20_000),
            ("20µs", 20_000),
            ("7ns", 7),
            ("365d", MAX_DURATION.as_nanos() as u64),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn durations_that_are_not() {
        for (text, message, hint) in [
            ("", "a duration is expected, not an empty text", "a number with ms, s, m or h"),
            ("2", "`2` has no unit", "\"2s\" for seconds, \"2ms\" for milliseconds"),
            ("-2s", "`-2s` is negative", "durations are 0 or more"),
            ("s", "`s` is not a duration", "a number with"),
            ("2 s", "` s` is not a unit of time", "did you mean \"2s\"?"),
            ("2sec", "`sec` is not a unit of time", "did you mean \"2s\"?"),
            ("2S", "`S` is not a unit of time", "did you mean \"2s\"?"),
            ("2fortnights", "`fortnights` is not a unit of time", "the units are"),
            ("1.2.3s", "`1.2.3s` is not a duration", "a number with"),
            (".5s", "`.5s` is not a duration", "a number with"),
            ("0.5ns", "`0.5ns` is not a duration", "a number with"),
            ("30s1m", "`30s1m` is not a duration", "units go from longest to shortest"),
            ("1s1s", "`1s1s` is not a duration", "units go from longest to shortest"),
            ("366d", "`366d` is too long", "a year"),
            ("99999999999999999999999h", "`99999999999999999999999h` is too long", "a year"),
            ("1e3s", "`e` is not a unit of time", "the units are"),
        ] {
            let found = parse_duration(text).unwrap_err();
            assert_eq!(found.message, message, "{text}");
            assert!(found.hint.starts_with(hint), "{text}: {}", found.hint);
        }
    }

    #[test]
    fn sizes_that_are() {
        for (text, bytes) in
            [("0", 0), ("1", 1), ("7B", 7), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), ("1TiB", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_not() {
        for (text, message, hint) in [
            ("", "a size is expected, not an empty text", "a number with"),
            ("KiB", "`KiB` is not a size", "a number with"),
            ("-1", "`-1` is not a size", "a number with"),
            ("64k", "`k` is not a unit of size", "did you mean \"64KiB\"?"),
            ("64KB", "`KB` is not a unit of size", "did you mean \"64KiB\"?"),
            ("64 KiB", "` KiB` is not a unit of size", "did you mean \"64KiB\"?"),
            ("1.5MiB", "`1.5MiB` is not a whole number", "a number with"),
            ("3apples", "`apples` is not a unit of size", "a number with"),
            ("99999999TiB", "`99999999TiB` is too large", "sizes fit 64 bits"),
            ("99999999999999999999", "`99999999999999999999` is too large", "sizes fit 64 bits"),
        ] {
            let found = parse_size(text).unwrap_err();
            assert_eq!(found.message, message, "{text}");
            assert!(found.hint.starts_with(hint), "{text}: {}", found.hint);
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["0s", "1ns", "250ms", "90s", "2m", "1h", "8h", "1001ms", "75s"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0", "1", "64KiB", "1MiB", "1025", "3GiB"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_duration_survives_the_round_trip(nanos in 0_u64..31_536_000_000_000_000) {
            let duration = Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn every_size_survives_the_round_trip(bytes: u64) {
            proptest::prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_gets_an_answer(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
