//! Reading a parsed document by hand, table by table: every value with its place, every fault noted, never stopping.
//!
//! serde stops at the first fault; here a faulty value is noted, stands as its default, and the walk goes on. What comes out
//! is used only when nothing was noted.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Severity};
use super::reference::{Key, Kind, Section};
use super::source::{Finding, Places, Source, Span};
use super::units;
use super::words::{join, mismatch, out_of_range, unknown_key, unknown_word};

/// What all tables of one walk share: the text, what was found, where keys stand.
#[derive(Debug)]
pub(super) struct Walk<'t> {
    pub(super) source: &'t Source,
    /// The parser lost parts of the text, so that what is absent may be there.
    pub(super) damaged: bool,
    /// The folder that relative paths start from.
    pub(super) base: PathBuf,
    pub(super) places: RefCell<Places>,
    findings: RefCell<Vec<ConfigError>>,
}

impl<'t> Walk<'t> {
    pub(super) fn new(source: &'t Source, damaged: bool, base: PathBuf) -> Self {
        Self { source, damaged, base, places: RefCell::default(), findings: RefCell::default() }
    }

    pub(super) fn error_at(&self, span: &Span, path: &str, what: impl Into<Finding>) {
        self.note(self.source.finding(span, path, what.into(), Severity::Error));
    }

    /// An error of the key at `path`, wherever that stands.
    pub(super) fn error(&self, path: &str, what: impl Into<Finding>) {
        let span = self.places.borrow().find(path);
        self.error_at(&span, path, what);
    }

    /// A warning about the keys at `paths`, placed at the first. Silent when one of them is at fault already: its value is
    /// not what was written.
    pub(super) fn warn(&self, paths: &[&str], what: impl Into<Finding>) {
        if paths.iter().any(|path| self.at_fault(path)) {
            return;
        }
        let Some(path) = paths.first() else { return };
        let span = self.places.borrow().find(path);
        self.note(self.source.finding(&span, path, what.into(), Severity::Warning));
    }

    /// Whether an error was noted for that key.
    pub(super) fn at_fault(&self, path: &str) -> bool {
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error && finding.key == path)
    }

    pub(super) fn written(&self, path: &str) -> bool {
        self.places.borrow().written(path)
    }

    pub(super) fn note(&self, finding: ConfigError) {
        self.findings.borrow_mut().push(finding);
    }

    pub(super) fn finish(self) -> (Vec<ConfigError>, Places) {
        (self.findings.into_inner(), self.places.into_inner())
    }
}

/// One table under the walk.
#[derive(Debug)]
pub(super) struct Table<'w> {
    pub(super) walk: &'w Walk<'w>,
    pub(super) path: String,
    section: &'static Section,
    span: Span,
    entries: &'w DeTable<'w>,
}

/// One value of a list or of a table with free keys.
#[derive(Debug)]
pub(super) struct Item<'w> {
    pub(super) walk: &'w Walk<'w>,
    pub(super) path: String,
    pub(super) span: Span,
    pub(super) value: &'w DeValue<'w>,
}

impl<'w> Table<'w> {
    /// Enters a table; its unknown keys are noted at once.
    pub(super) fn enter(
        walk: &'w Walk<'w>,
        path: String,
        section: &'static Section,
        span: Span,
        entries: &'w DeTable<'w>,
    ) -> Self {
        for (key, _) in entries.iter() {
            let name: &str = key.get_ref();
            if section.key(name).is_none() {
                walk.error_at(&key.span(), &join(&path, name), unknown_key(name, section));
            }
        }
        walk.places.borrow_mut().note(&path, span.clone());
        Self { walk, path, section, span, entries }
    }

    /// Path of one of its keys.
    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes an error at a key's value.
    pub(super) fn wrong(&self, key: &str, what: impl Into<Finding>) {
        self.walk.error(&self.at(key), what);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    fn value(&self, key: &str) -> Option<&'w Spanned<DeValue<'w>>> {
        debug_assert!(self.section.key(key).is_some(), "{} has no key {key}", self.section.path);
        let value = self.entries.get(key)?;
        self.walk.places.borrow_mut().note(&self.at(key), value.span());
        Some(value)
    }

    /// The key's value by `convert`, which sees the value and what the reference says of the key. `None` when it is not
    /// written, or faulty (noted).
    fn read<T>(
        &self,
        key: &str,
        convert: impl FnOnce(&'w DeValue<'w>, &'static Key) -> Result<T, Finding>,
    ) -> Option<T> {
        let value = self.value(key)?;
        match convert(value.get_ref(), self.section.key(key)?) {
            Ok(value) => Some(value),
            Err(what) => {
                self.wrong(key, what);
                None
            }
        }
    }

    /// Notes a missing key, unless the parser may have lost it.
    pub(super) fn require(&self, key: &str) -> bool {
        let there = self.has(key);
        if !there && !self.walk.damaged {
            let hint = match self.section.key(key) {
                Some(Key { kind: Kind::Map(_), .. }) => format!("a table for each: `[{}.NAME]`", self.at(key)),
                Some(Key { kind: Kind::Tables, .. }) => format!("a table for each: `[[{}]]`", self.at(key)),
                None => String::new(),
                Some(known) => format!("such as `{key} = {}`", known.written.text()),
            };
            self.walk.error_at(&self.span, &self.at(key), ("is missing", hint));
        }
        there
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        let read = self.read(key, |value, _| match value {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(mismatch("true or false", other, "")),
        });
        read.unwrap_or(default)
    }

    /// A whole number within the reference's range.
    pub(super) fn integer<T: TryFrom<u64>>(&self, key: &str, default: T) -> T {
        let read = self.read(key, |value, known| {
            let Kind::Integer(least, most) = known.kind else { return Err("has no range".into()) };
            let number = whole(value).map_err(|what| Finding { hint: format!("{least} to {most}"), ..what })?;
            let fits = u64::try_from(number).ok().filter(|number| (least..=most).contains(number));
            fits.and_then(|number| T::try_from(number).ok()).ok_or_else(|| out_of_range(number, least, most))
        });
        read.unwrap_or(default)
    }

    /// A fraction or other number within the reference's range; a whole one will do.
    pub(super) fn number(&self, key: &str, default: f64) -> f64 {
        let read = self.read(key, |value, known| {
            let number = match value {
                DeValue::Float(float) => float.as_str().replace('_', "").parse::<f64>().unwrap_or(f64::NAN),
                DeValue::Integer(_) => whole(value)? as f64,
                other => return Err(mismatch("a number", other, "")),
            };
            let Kind::Number(least, most) = known.kind else { return Err("has no range".into()) };
            // NaN lies in no range.
            if !(least..=most).contains(&number) {
                let shown = number.to_string().to_lowercase();
                return Err(out_of_range(shown, least, most));
            }
            Ok(number)
        });
        read.unwrap_or(default)
    }

    /// A duration within the reference's range.
    pub(super) fn duration(&self, key: &str, default: Duration) -> Duration {
        let read = self.read(key, |value, known| {
            let duration = to_duration(value)?;
            let Kind::Duration(least, most) = known.kind else { return Err("has no range".into()) };
            if !(least..=most).contains(&duration) {
                let show = units::show_duration;
                return Err(out_of_range(show(duration), show(least), show(most)));
            }
            Ok(duration)
        });
        read.unwrap_or(default)
    }

    /// A size in bytes within the reference's range.
    pub(super) fn size<T: TryFrom<u64>>(&self, key: &str, default: T) -> T {
        let read = self.read(key, |value, known| {
            let DeValue::String(text) = value else {
                return Err(mismatch("a size", value, "sizes are texts: \"64KiB\", \"1MiB\", \"0\""));
            };
            let bytes = units::parse_size(text)?;
            let Kind::Size(least, most) = known.kind else { return Err("has no range".into()) };
            let fits = Some(bytes).filter(|bytes| (least..=most).contains(bytes));
            fits.and_then(|bytes| T::try_from(bytes).ok())
                .ok_or_else(|| out_of_range(units::show_size(bytes), units::show_size(least), units::show_size(most)))
        });
        read.unwrap_or(default)
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Option<&'w str> {
        self.read(key, |value, _| to_text(value))
    }

    /// A text that `parse` accepts.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl FnOnce(&'w str) -> Result<T, Finding>) -> Option<T> {
        self.read(key, |value, _| to_text(value).and_then(parse))
    }

    /// A text, or a value of another type: `parse` decides.
    pub(super) fn any<T>(&self, key: &str, parse: impl FnOnce(&'w DeValue<'w>) -> Result<T, Finding>) -> Option<T> {
        self.read(key, |value, _| parse(value))
    }

    /// One of the reference's words, by `find`.
    pub(super) fn choice<T>(&self, key: &str, default: T, find: impl FnOnce(&str) -> Option<T>) -> T {
        let read = self.read(key, |value, known| {
            let text = to_text(value)?;
            let Kind::Choice(words) = known.kind else { return Err("has no words".into()) };
            find(text).ok_or_else(|| unknown_word(text, words))
        });
        read.unwrap_or(default)
    }

    /// A file or folder, relative to the configuration file.
    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.parsed(key, |text| match text {
            "" => Err("is empty; a path is expected".into()),
            text => Ok(self.walk.base.join(text)),
        })
    }

    /// A socket to listen on: a literal address with a port.
    pub(super) fn socket(&self, key: &str) -> Option<SocketAddr> {
        self.parsed(key, |text| {
            text.parse().map_err(|_| {
                let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
                let hint = match port {
                    Some(port) if text.starts_with("localhost:") => format!("write \"127.0.0.1:{port}\""),
                    Some(port) if text.starts_with(':') => format!("write \"0.0.0.0:{port}\" for every IPv4 address"),
                    Some(port) if text.starts_with("*:") => format!("write \"0.0.0.0:{port}\" for every IPv4 address"),
                    _ => "an IP address and a port: \"127.0.0.1:8080\", \"0.0.0.0:443\", \"[::1]:8080\"".to_owned(),
                };
                (format!("`{text}` is not an address to listen on"), hint).into()
            })
        })
    }

    /// A sub-table with a section of its own.
    pub(super) fn table(&self, key: &str, section: &'static Section) -> Option<Self> {
        let span = self.value(key)?.span();
        let entries = self.read(key, |value, _| match value {
            DeValue::Table(entries) => Ok(entries),
            other => Err(mismatch("a table", other, "")),
        })?;
        Some(Table::enter(self.walk, self.at(key), section, span, entries))
    }

    /// A list of tables with a section of their own.
    pub(super) fn tables(&self, key: &str, section: &'static Section) -> Vec<Self> {
        let entered = self.items(key).into_iter().filter_map(|item| match item.value {
            DeValue::Table(entries) => Some(Table::enter(self.walk, item.path, section, item.span, entries)),
            other => {
                item.wrong(mismatch("a table", other, ""));
                None
            }
        });
        entered.collect()
    }

    /// The values of a list.
    pub(super) fn items(&self, key: &str) -> Vec<Item<'w>> {
        let list = self.read(key, |value, _| match value {
            DeValue::Array(list) => Ok(list),
            DeValue::Table(_) => Err((
                "a list is expected, not a table",
                format!("each entry has a header of its own: `[[{}]]`", self.at(key)),
            )
                .into()),
            other => Err(mismatch("a list", other, "")),
        });
        let items = list.into_iter().flat_map(|list| list.iter()).enumerate().map(|(index, value)| {
            let path = format!("{}[{index}]", self.at(key));
            self.walk.places.borrow_mut().note(&path, value.span());
            Item { walk: self.walk, path, span: value.span(), value: value.get_ref() }
        });
        items.collect()
    }

    /// The entries of a table whose keys the operator chose: name, place of the name, value.
    pub(super) fn free_table(&self, key: &str) -> Vec<(&'w str, Span, Item<'w>)> {
        let table = self.read(key, |value, _| match value {
            DeValue::Table(entries) => Ok(entries),
            other => Err(mismatch("a table", other, "")),
        });
        let entries = table.into_iter().flat_map(|entries| entries.iter()).map(|(name, value)| {
            let path = join(&self.at(key), name.get_ref());
            self.walk.places.borrow_mut().note(&path, value.span());
            let item = Item { walk: self.walk, path, span: value.span(), value: value.get_ref() };
            (name.get_ref().as_ref(), name.span(), item)
        });
        entries.collect()
    }
}

impl<'w> Item<'w> {
    pub(super) fn wrong(&self, what: impl Into<Finding>) {
        self.walk.error_at(&self.span, &self.path, what);
    }

    /// The text, by `parse`; what is wrong is noted.
    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&'w str) -> Result<T, Finding>) -> Option<T> {
        match to_text(self.value).and_then(parse) {
            Ok(value) => Some(value),
            Err(what) => {
                self.wrong(what);
                None
            }
        }
    }

    /// The table with that section; what is no table is noted.
    pub(super) fn table(self, section: &'static Section) -> Option<Table<'w>> {
        match self.value {
            DeValue::Table(entries) => Some(Table::enter(self.walk, self.path, section, self.span, entries)),
            other => {
                self.wrong(mismatch("a table", other, ""));
                None
            }
        }
    }
}

/// A duration; the range is the caller's.
pub(super) fn to_duration(value: &DeValue<'_>) -> Result<Duration, Finding> {
    match value {
        DeValue::String(text) => Ok(units::parse_duration(text)?),
        DeValue::Integer(number) => {
            let hint = format!("\"{}s\" for seconds, \"{}ms\" for milliseconds", number.as_str(), number.as_str());
            Err(mismatch("a duration", value, &hint))
        }
        other => Err(mismatch("a duration", other, "durations are texts: \"250ms\", \"2s\", \"5m\"")),
    }
}

fn to_text<'w>(value: &'w DeValue<'_>) -> Result<&'w str, Finding> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(mismatch("a text in quotes", other, "")),
    }
}

/// A whole number of any size that makes sense.
fn whole(value: &DeValue<'_>) -> Result<i128, Finding> {
    match value {
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i128::from_str_radix(&digits, number.radix()).map_err(|_| format!("{digits} is out of range").into())
        }
        other => Err(mismatch("a whole number", other, "")),
    }
}
