//! The writer of the Prometheus text format (version 0.0.4): `# HELP` and `# TYPE` once per family, labels escaped,
//! buckets cumulative.

use std::fmt::{Display, Write};

use super::{Family, Kind};

/// A growing `/metrics` answer. Families are written one after the other; each at most once.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its heading appears with its first sample.
    pub fn family(&mut self, family: &'static Family) -> FamilyWriter<'_> {
        FamilyWriter { out: &mut self.text, family, begun: false }
    }

    /// Adds text that is in the format already.
    pub fn append(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The whole.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// The samples of one family.
#[derive(Debug)]
pub struct FamilyWriter<'a> {
    out: &'a mut String,
    family: &'static Family,
    begun: bool,
}

impl FamilyWriter<'_> {
    /// One sample. `labels` are the values of the family's labels, in its order.
    pub fn sample(&mut self, labels: &[&str], value: impl Display) {
        debug_assert_ne!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        self.line("", labels, None, value);
    }

    /// One histogram: `counts` per bucket, not cumulative, one more than `bounds`.
    pub fn histogram(&mut self, labels: &[&str], bounds: impl IntoIterator<Item = f64>, counts: &[u64], sum: f64) {
        debug_assert_eq!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        let mut total = 0;
        let mut counts = counts.iter();
        for bound in bounds {
            total += counts.next().copied().unwrap_or_default();
            self.line("_bucket", labels, Some(&bound), total);
        }
        total += counts.sum::<u64>();
        self.line("_bucket", labels, Some(&"+Inf"), total);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, total);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], bound: Option<&dyn Display>, value: impl Display) {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        self.begin();
        let out = &mut *self.out;
        out.push_str(self.family.name);
        out.push_str(suffix);
        let mut before = '{';
        for (name, value) in self.family.labels.iter().zip(labels) {
            out.push(before);
            out.push_str(name);
            out.push_str("=\"");
            escape(out, value);
            out.push('"');
            before = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(out, "{before}le=\"{bound}\"");
            before = ',';
        }
        if before == ',' {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Family { name, help, kind, .. } = self.family;
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
    }
}

/// A label value: backslash, quote and newline are escaped, all else stands as it is.
fn escape(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{families, lint};
    use super::*;

    #[test]
    fn labels_are_escaped_and_buckets_cumulative() {
        let mut out = Exposition::default();
        out.family(&families::IN_FLIGHT).sample(&["a\"b", "c\\d\ne"], 3_u64);
        out.family(&families::QUEUE_LENGTH);
        let mut family = out.family(&families::FIRST_BYTE);
        family.histogram(&["p", "x"], [0.001, 0.5], &[1, 2, 4], 3.5);
        family.histogram(&["p", "y"], [0.001, 0.5], &[0, 0, 0], 0.0);
        let expected = concat!(
            "# HELP evenkeel_in_flight Requests at a backend, from the pick to the last byte.\n",
            "# TYPE evenkeel_in_flight gauge\n",
            "evenkeel_in_flight{pool=\"a\\\"b\",backend=\"c\\\\d\\ne\"} 3\n",
            "# HELP evenkeel_first_byte_seconds Time from the pick of a backend to the first byte of its response.\n",
            "# TYPE evenkeel_first_byte_seconds histogram\n",
            "evenkeel_first_byte_seconds_bucket{pool=\"p\",backend=\"x\",le=\"0.001\"} 1\n",
            "evenkeel_first_byte_seconds_bucket{pool=\"p\",backend=\"x\",le=\"0.5\"} 3\n",
            "evenkeel_first_byte_seconds_bucket{pool=\"p\",backend=\"x\",le=\"+Inf\"} 7\n",
            "evenkeel_first_byte_seconds_sum{pool=\"p\",backend=\"x\"} 3.5\n",
            "evenkeel_first_byte_seconds_count{pool=\"p\",backend=\"x\"} 7\n",
            "evenkeel_first_byte_seconds_bucket{pool=\"p\",backend=\"y\",le=\"0.001\"} 0\n",
            "evenkeel_first_byte_seconds_bucket{pool=\"p\",backend=\"y\",le=\"0.5\"} 0\n",
            "evenkeel_first_byte_seconds_bucket{pool=\"p\",backend=\"y\",le=\"+Inf\"} 0\n",
            "evenkeel_first_byte_seconds_sum{pool=\"p\",backend=\"y\"} 0\n",
            "evenkeel_first_byte_seconds_count{pool=\"p\",backend=\"y\"} 0\n",
        );
        let text = out.into_text();
        assert_eq!(text, expected);
        lint::check(&text).unwrap();
    }
}
