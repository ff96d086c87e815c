//! `/metrics`, parsed.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug)]
pub(crate) struct Samples {
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
    /// The text as it came.
    pub(crate) text: String,
}

impl Samples {
    #[track_caller]
    pub(crate) fn parse(text: String) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect();
        Self { samples, text }
    }

    /// The sum of all samples of that name whose labels include `labels`; 0 when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |seen: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| seen.get(*label).is_some_and(|found| found == value))
        };
        let fitting = self.samples.iter().filter(|(known, seen, _)| known == name && fits(seen));
        fitting.fold(0.0, |sum, (_, _, value)| sum + value)
    }

    /// Whether there is a sample of that name with all of these label names.
    pub(crate) fn has(&self, name: &str, labels: &[&str]) -> bool {
        self.samples
            .iter()
            .any(|(known, seen, _)| known == name && labels.iter().all(|label| seen.contains_key(*label)))
    }
}

/// `name{label="value",…} number`, as our own exporter writes it.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
    let value = match value {
        "+Inf" => f64::INFINITY,
        number => number.parse().unwrap_or_else(|_| panic!("no number in {line:?}")),
    };
    let Some((name, labels)) = series.split_once('{') else { return (series.to_owned(), BTreeMap::new(), value) };
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("open labels in {line:?}"));
    let pair = |text: &str| {
        let (label, quoted) = text.split_once("=\"").unwrap_or_else(|| panic!("no label in {line:?}"));
        (label.to_owned(), quoted.trim_end_matches('"').to_owned())
    };
    (name.to_owned(), labels.split("\",").filter(|text| !text.is_empty()).map(pair).collect(), value)
}
