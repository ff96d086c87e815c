//! A reader of the Prometheus text format that takes what it can: a line it does not understand is skipped, because one
//! strange metric must not hide the others.

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    /// What stands between the braces.
    labels: &'a str,
    pub(super) value: f64,
}

/// Values beyond this say "not supported" (DCGM writes 9.22e18 for it) and not how much.
const LARGEST: f64 = 1e18;

impl<'a> Sample<'a> {
    /// The samples of `text` that are numbers and whose name is `wanted`. An engine's page has a thousand lines of which a
    /// handful matter, so the name decides before anything else is looked at.
    pub(super) fn all(text: &'a str, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = Self> {
        text.lines().filter_map(move |line| Self::of(line, &wanted))
    }

    fn of(line: &'a str, wanted: impl Fn(&str) -> bool) -> Option<Self> {
        let line = line.trim_ascii_start();
        let end = line.bytes().position(|byte| matches!(byte, b'{' | b' ' | b'\t' | b'#'))?;
        let (name, rest) = line.split_at(end);
        if !wanted(name) {
            return None;
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inside) => inside.split_at_checked(closing_brace(inside)?)?,
            None => ("", rest),
        };
        let value = rest.trim_start_matches('}').split_ascii_whitespace().next()?;
        let value: f64 = value.parse().ok()?;
        (value.is_finite() && value.abs() < LARGEST).then_some(Self { name, labels, value })
    }

    /// Whether the label `name` has this value. Escapes are not undone: the values asked for have none.
    pub(super) fn has(&self, name: &str, value: &str) -> bool {
        self.labels.split(',').any(|label| {
            let (key, quoted) = label.split_once('=').unwrap_or((label, ""));
            key.trim() == name && quoted.trim().trim_matches('"') == value
        })
    }
}

/// Where the brace stands that ends the labels; braces within quotes are part of a value.
fn closing_brace(labels: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let text = "# HELP a x\n# TYPE a gauge\na 1\n  b{x=\"y\"} 2.5 1700000000000\nc{m=\"}\\\"{\",mode=\"idle\"} +Inf\n\
                    d{mode=\"idle\", cpu=\"0\"} 3e2\nbroken{ 1\nnan NaN\nnotanumber x\n\nlonely\nbig 9.223372036854775807e18\n";
        let all: Vec<_> =
            Sample::all(text, |name| !name.is_empty()).map(|sample| (sample.name, sample.value)).collect();
        assert_eq!(all, [("a", 1.0), ("b", 2.5), ("d", 300.0)]);
        let d = Sample::all(text, |name| name == "d").last().unwrap();
        assert!(d.has("mode", "idle") && d.has("cpu", "0") && !d.has("mode", "user") && !d.has("idle", "mode"));
        let strange = Sample::of("c{m=\"}\\\"{\",mode=\"idle\"} 4", |_| true).unwrap();
        assert!(strange.value == 4.0 && strange.has("mode", "idle"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "[a-z_:{}=\"\\\\, 0-9.\n#]*|\\PC*") {
            for sample in Sample::all(&text, |_| true) {
                let _ = sample.has("a", "b");
            }
        }
    }
}
