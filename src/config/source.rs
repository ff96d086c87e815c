//! The text of a configuration file and where in it each key stands.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::{ConfigError, Excerpt, Severity};

/// Bytes of the text, from..to.
pub(super) type Span = Range<usize>;

/// The text of one file.
#[derive(Debug)]
pub(super) struct Source {
    file: String,
    text: String,
    /// Byte offset of the first character of each line.
    line_starts: Vec<usize>,
}

impl Source {
    pub(super) fn new(file: &str, text: &str) -> Self {
        // Editors show a byte order mark as nothing, so it may not count as a column.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.to_owned(), text: text.to_owned(), line_starts }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The line, from 0, that holds the byte `at`.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The line of that number, from 0, without its end.
    pub(super) fn line(&self, number: usize) -> &str {
        let start = self.line_starts.get(number).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(number + 1).copied().unwrap_or(self.text.len());
        self.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r'])
    }

    /// A finding at `span`, with its line, column and excerpt.
    pub(super) fn finding(&self, span: &Span, key: &str, what: Finding, severity: Severity) -> ConfigError {
        let at = self.boundary(span.start);
        let number = self.line_of(at);
        let line = self.line(number);
        let line_start = self.line_starts.get(number).copied().unwrap_or_default();
        // Spans of the end of a line, or of its CR, stand right after the last character.
        let start = (at - line_start).min(line.len());
        let end = self.boundary(span.end.max(at)).saturating_sub(line_start).clamp(start, line.len());
        ConfigError {
            file: self.file.clone(),
            line: number + 1,
            column: line.get(..start).unwrap_or_default().chars().count() + 1,
            key: shortened(key),
            message: shortened(&what.message),
            hint: shortened(&what.hint),
            severity,
            excerpt: Some(Excerpt::new(line, start, end)),
        }
    }

    /// `at`, or the nearest character boundary before it.
    fn boundary(&self, at: usize) -> usize {
        self.text.floor_char_boundary(at.min(self.text.len()))
    }
}

/// A text that a person would read; what is quoted from a file may be of any length.
fn shortened(text: &str) -> String {
    const MOST: usize = 400;
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What is wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) message: String,
    pub(super) hint: String,
}

impl From<&str> for Finding {
    fn from(message: &str) -> Self {
        Self { message: message.to_owned(), hint: String::new() }
    }
}

impl From<String> for Finding {
    fn from(message: String) -> Self {
        Self { message, hint: String::new() }
    }
}

impl<M: Into<String>, H: Into<String>> From<(M, H)> for Finding {
    fn from((message, hint): (M, H)) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl From<super::units::UnitError> for Finding {
    fn from(error: super::units::UnitError) -> Self {
        Self { message: error.message, hint: error.hint }
    }
}

impl From<super::address::AddressError> for Finding {
    fn from(error: super::address::AddressError) -> Self {
        error.to_string().into()
    }
}

/// Where each key that was read stands, by its path.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Span>);

impl Places {
    pub(super) fn note(&mut self, path: &str, span: Span) {
        self.0.insert(path.to_owned(), span);
    }

    /// Whether the file has that key.
    pub(super) fn written(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Where the key stands, or else the nearest table around where it would; the start of the file at worst.
    pub(super) fn find(&self, path: &str) -> Span {
        let mut path = path;
        loop {
            if let Some(span) = self.0.get(path) {
                return span.clone();
            }
            path = match (path.rfind('.'), path.rfind('[')) {
                (None, None) => return 0..0,
                (dot, bracket) => path.get(..dot.max(bracket).unwrap_or_default()).unwrap_or_default(),
            };
        }
    }

    /// Every key with its place.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Span)> {
        self.0.iter().map(|(path, span)| (path.as_str(), span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, span: Span) -> (usize, usize) {
        let finding = Source::new("f", text).finding(&span, "k", "m".into(), Severity::Error);
        (finding.line, finding.column)
    }

    #[test]
    fn lines_and_columns() {
        assert_eq!(at("", 0..0), (1, 1));
        assert_eq!(at("", 9..9), (1, 1));
        assert_eq!(at("a = 1\r\nb = 2\r\n", 11..12), (2, 5));
        assert_eq!(at("a = 1\r\n", 5..6), (1, 6), "the end of a line stands after its last character");
        assert_eq!(at("a = 1\n", 6..6), (2, 1));
        assert_eq!(at("é = 'ü' # x\n", 5..8), (1, 5));
        assert_eq!(at("é = 1", 1..1), (1, 1), "inside a character: its start");
        assert_eq!(at("\u{feff}a = 1", 0..1), (1, 1));
        assert_eq!(at("a = [\n1,\n2]", 4..11), (1, 5));
    }

    #[test]
    fn what_is_quoted_is_cut() {
        let long = "é".repeat(100_000);
        let text = format!("{long} = 1");
        let finding = Source::new("f", &text).finding(&(0..200_000), &long, long.clone().into(), Severity::Error);
        assert!(finding.to_string().len() < 2500, "{}", finding.to_string().len());
    }

    #[test]
    fn the_nearest_table_stands_for_what_is_not_written() {
        let mut places = Places::default();
        places.note("pools.ai", 5..9);
        places.note("pools.ai.backends[0]", 10..20);
        assert_eq!(places.find("pools.ai.backends[0].weight"), 10..20);
        assert_eq!(places.find("pools.ai.backends[1].weight"), 5..9);
        assert_eq!(places.find("pools.ai.health.path"), 5..9);
        assert_eq!(places.find("server.threads"), 0..0);
        assert!(places.written("pools.ai") && !places.written("pools"));
    }
}
