//! What is wrong with a configuration, shown so that the operator can go to the place and mend it.

use std::fmt;

use serde::Serialize;
use unicode_width::UnicodeWidthChar as _;

use super::conceal::conceal;

/// Display columns of a source line that are shown; a longer line is cut around the caret.
const SHOWN_COLUMNS: usize = 160;

/// Whether a finding stops the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but it is probably not what was meant.
    Warning,
}

/// One finding.
///
/// Shown as `FILE:LINE:COL: KEY.PATH: what is wrong`, the source line, a caret under the value, and a hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1; 0 when the configuration was made in code and has no text.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the key, such as `pools.ai.backends[0].weight`; `file` or `syntax` where no key is at fault.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty: nothing to add.
    pub hint: String,
    /// Whether it stops us.
    pub severity: Severity,
    #[serde(skip)]
    pub(super) excerpt: Option<Excerpt>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, key, message, hint, severity, excerpt } = self;
        if *line > 0 {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        let severity = match severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        write!(f, "{key}: {severity}{message}")?;
        if let Some(excerpt) = excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if !hint.is_empty() {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// Place, key, what is wrong and what to do about it, as one line of a log.
    pub fn in_one_line(&self) -> String {
        let Self { file, line, column, key, message, hint, .. } = self;
        let place = if *line > 0 { format!("{file}:{line}:{column}: ") } else { String::new() };
        let hint = if hint.is_empty() { String::new() } else { format!(" (hint: {hint})") };
        format!("{place}{key}: {message}{hint}")
    }
}

impl std::error::Error for ConfigError {}

/// Everything found in a configuration that cannot be used: at least one error, and the warnings too, in the order of the
/// file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// Every finding, errors and warnings, in the order of the file.
    pub fn all(&self) -> &[ConfigError] {
        &self.0
    }

    /// Every finding, by value.
    pub fn into_vec(self) -> Vec<ConfigError> {
        self.0
    }

    /// Only what stops us.
    pub fn errors(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter().filter(|finding| finding.severity == Severity::Error)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&findings_as_text(&self.0))
    }
}

impl std::error::Error for ConfigErrors {}

/// The findings for people, an empty line between them.
pub fn findings_as_text(findings: &[ConfigError]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// The findings as the contract's JSON list.
pub fn findings_as_json(findings: &[ConfigError]) -> String {
    // Strings and numbers only: serialising cannot fail.
    serde_json::to_string_pretty(findings).unwrap_or_else(|_| "[]".to_owned())
}

/// A line of the file with the stretch of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    before: String,
    marked: String,
    after: String,
}

impl Excerpt {
    /// `line`, of which the bytes `start..end` are meant (both on character boundaries, or nothing is marked). Secrets in it
    /// are not kept.
    pub(super) fn new(line: &str, start: usize, end: usize) -> Self {
        let line = &conceal(line);
        let end = end.clamp(start, line.len());
        let part = |from: usize, to: usize| printable(line.get(from..to).unwrap_or_default());
        let mut excerpt = Self { before: part(0, start), marked: part(start, end), after: part(end, line.len()) };
        excerpt.shorten();
        excerpt
    }

    /// Cuts an overlong line, on both sides of the caret.
    fn shorten(&mut self) {
        if width(&self.before) > SHOWN_COLUMNS / 2 {
            let kept = last_columns(&self.before, SHOWN_COLUMNS / 4);
            self.before = format!("…{kept}");
        }
        if let Some(cut) = first_columns(&self.marked, SHOWN_COLUMNS / 2) {
            self.marked = cut;
            self.after = "…".to_owned();
        } else if let Some(cut) = first_columns(&self.after, SHOWN_COLUMNS / 2) {
            self.after = format!("{cut}…");
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, marked, after } = self;
        // A tab stays a tab, so that the caret stands right whatever the terminal's tab stops are.
        let indent: String = before
            .chars()
            .flat_map(|c| {
                std::iter::repeat_n(if c == '\t' { '\t' } else { ' ' }, if c == '\t' { 1 } else { columns(c) })
            })
            .collect();
        write!(f, "{before}{marked}{after}\n{indent}{}", "^".repeat(width(marked).max(1)))
    }
}

/// Control characters would act on the terminal instead of being seen.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn columns(c: char) -> usize {
    c.width().unwrap_or(1)
}

fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The beginning of `text` that fits; `None` when all of it does.
fn first_columns(text: &str, limit: usize) -> Option<String> {
    let mut used = 0;
    let cut = text.char_indices().find(|(_, c)| {
        used += columns(*c);
        used > limit
    });
    cut.and_then(|(at, _)| text.get(..at)).map(str::to_owned)
}

/// The end of `text` that fits.
fn last_columns(text: &str, limit: usize) -> &str {
    let mut used = 0;
    let cut = text.char_indices().rev().find(|(_, c)| {
        used += columns(*c);
        used > limit
    });
    cut.and_then(|(at, c)| text.get(at + c.len_utf8()..)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The excerpt of `line` with the text between the guillemets meant.
    fn shown(line: &str) -> String {
        let start = line.find('«').unwrap();
        let end = line.find('»').unwrap() - '«'.len_utf8();
        Excerpt::new(&line.replace(['«', '»'], ""), start, end).to_string()
    }

    #[test]
    fn the_caret_stands_under_the_value() {
        for (line, expected) in [
            ("weight = «0»", "weight = 0\n         ^"),
            ("weight = «1001» # no", "weight = 1001 # no\n         ^^^^"),
            ("\tname = «\"x\"»", "\tname = \"x\"\n\t       ^^^"),
            ("\"模型\" = «\"中»\"", "\"模型\" = \"中\"\n         ^^^"),
            ("\"e\u{301}\" = «1»", "\"e\u{301}\" = 1\n      ^"),
            ("a = «»", "a = \n    ^"),
            ("a\u{1b}[2J = «1»", "a\u{fffd}[2J = 1\n        ^"),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn overlong_lines_are_cut_around_the_caret() {
        let line = format!("x = [{}«\"bad\"»{}]", "\"a\", ".repeat(1000), ", \"b\"".repeat(1000));
        let text = shown(&line);
        let (source, caret) = text.split_once('\n').unwrap();
        assert!(width(source) <= SHOWN_COLUMNS + 10, "{source}");
        let at = caret.find('^').unwrap();
        assert_eq!(source.chars().skip(at).take(5).collect::<String>(), "\"bad\"");
        let long_value = format!("x = «{}»", "a".repeat(1000));
        assert!(shown(&long_value).lines().all(|line| width(line) <= SHOWN_COLUMNS));
    }

    #[test]
    fn text_and_json_forms() {
        let finding = ConfigError {
            file: "a.toml".to_owned(),
            line: 3,
            column: 10,
            key: "pools.ai.backends[0].weight".to_owned(),
            message: "0 is out of range".to_owned(),
            hint: "1 to 1000".to_owned(),
            severity: Severity::Error,
            excerpt: Some(Excerpt::new("weight = 0", 9, 10)),
        };
        assert_eq!(
            finding.to_string(),
            "a.toml:3:10: pools.ai.backends[0].weight: 0 is out of range\nweight = 0\n         ^\nhint: 1 to 1000"
        );
        let warning = ConfigError { severity: Severity::Warning, hint: String::new(), excerpt: None, ..finding };
        assert_eq!(warning.to_string(), "a.toml:3:10: pools.ai.backends[0].weight: warning: 0 is out of range");
        let json: serde_json::Value = serde_json::from_str(&findings_as_json(&[warning])).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "file": "a.toml", "line": 3, "column": 10, "key": "pools.ai.backends[0].weight",
                "message": "0 is out of range", "hint": "", "severity": "warning"
            }])
        );
    }
}
