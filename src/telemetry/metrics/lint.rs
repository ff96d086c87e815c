//! A strict reader of the Prometheus text format, for tests: what `promtool check metrics` would refuse, and then some.

use std::collections::{HashMap, HashSet};

/// Reads `text`; every sample by its full text before the value, or the first fault.
pub(crate) fn check(text: &str) -> Result<HashMap<String, f64>, String> {
    let mut samples = HashMap::new();
    let mut kinds: HashMap<String, String> = HashMap::new();
    let mut helped = HashSet::new();
    let mut finished = HashSet::new();
    let mut present = String::new();
    if !text.ends_with('\n') {
        return Err("no newline at the end".to_owned());
    }
    for line in text.lines().filter(|line| !line.is_empty()) {
        let fault = |what: &str| Err(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or(format!("no help text: {line}"))?;
            if !helped.insert(name.to_owned()) || help.is_empty() {
                return fault("second or empty HELP");
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or(format!("no type: {line}"))?;
            if !["counter", "gauge", "histogram"].contains(&kind) || !helped.contains(name) {
                return fault("unknown type, or no HELP before it");
            }
            if kind == "counter" && !name.ends_with("_total") {
                return fault("a counter without _total");
            }
            if kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                return fault("second TYPE");
            }
            finished.insert(std::mem::replace(&mut present, name.to_owned()));
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or(format!("no value: {line}"))?;
        let value: f64 = value.parse().map_err(|_| format!("no number: {line}"))?;
        let name = series.split('{').next().unwrap_or_default();
        let kind = kinds.get(&present).map_or("", String::as_str);
        let belongs = match kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|s| name == format!("{present}{s}")),
            _ => name == present,
        };
        if !belongs || finished.contains(name) {
            return fault("a sample outside its family");
        }
        labels(series.strip_prefix(name).unwrap_or_default()).map_err(|what| format!("{what}: {line}"))?;
        if kind == "counter" && (value < 0.0 || !value.is_finite()) {
            return fault("a counter's value");
        }
        if samples.insert(series.to_owned(), value).is_some() {
            return fault("the same series twice");
        }
    }
    histograms(&samples, &kinds)?;
    Ok(samples)
}

/// `{name="value",…}` or nothing, with escapes as they should be.
fn labels(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Ok(());
    }
    let mut rest = text.strip_prefix('{').ok_or("labels do not begin with a brace")?;
    let mut seen = HashSet::new();
    loop {
        let (name, tail) = rest.split_once("=\"").ok_or("no label value")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return Err("a label's name");
        }
        if !seen.insert(name) {
            return Err("the same label twice");
        }
        let mut escaped = false;
        let end = tail.char_indices().find(|(_, character)| {
            let ends = !escaped && *character == '"';
            escaped = !escaped && *character == '\\';
            ends
        });
        let (end, _) = end.ok_or("a label value without end")?;
        match &tail[end + 1..] {
            "}" => return Ok(()),
            more => rest = more.strip_prefix(',').ok_or("no comma between labels")?,
        }
    }
}

/// Buckets are cumulative and end in `+Inf`, which equals the count.
fn histograms(samples: &HashMap<String, f64>, kinds: &HashMap<String, String>) -> Result<(), String> {
    for name in kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
        let mut rows: HashMap<String, Vec<(f64, f64)>> = HashMap::new();
        for (series, count) in samples {
            let Some(rest) = series.strip_prefix(&format!("{name}_bucket{{")) else { continue };
            let (others, bound) = rest.split_once("le=\"").ok_or(format!("no le: {series}"))?;
            let bound = bound.trim_end_matches("\"}").parse().map_err(|_| format!("le: {series}"))?;
            rows.entry(others.trim_end_matches(',').to_owned()).or_default().push((bound, *count));
        }
        for (others, mut buckets) in rows {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let braced = if others.is_empty() { String::new() } else { format!("{{{others}}}") };
            let count = samples.get(&format!("{name}_count{braced}"));
            let cumulative = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let whole = buckets.last().is_some_and(|last| last.0.is_infinite() && Some(&last.1) == count);
            if !cumulative || !whole || !samples.contains_key(&format!("{name}_sum{braced}")) {
                return Err(format!("histogram {name}{braced}"));
            }
        }
    }
    Ok(())
}

#[test]
fn faults_are_found() {
    for faulty in [
        "a 1",
        "a 1\n",
        "# HELP a_total x\n# TYPE a_total counter\na_total -1\n",
        "# HELP a x\n# TYPE a counter\na 1\n",
        "# HELP a x\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a x\n# TYPE a gauge\na{b=\"c} 1\n",
        "# HELP a x\n# TYPE a gauge\na{b=\"c\"d\"} 1\n",
        "# HELP a x\n# TYPE a gauge\na 1\n# HELP b x\n# TYPE b gauge\nb 1\na{x=\"y\"} 1\n",
        "# HELP a x\n# TYPE a gauge\na 1\n# TYPE a gauge\n",
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
    ] {
        assert!(check(faulty).is_err(), "{faulty}");
    }
}
