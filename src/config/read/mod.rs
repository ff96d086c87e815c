//! From text to [`Plan`]: syntax, then every table by hand, then what tables say of each other.

mod http_names;
mod listener;
mod parts;
mod pool;
mod rl;
mod route;
mod server;
mod sessions;

use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, Error as SyntaxError};

use super::error::{ConfigError, ConfigErrors, Severity};
use super::plan::*;
use super::reference as keys;
use super::source::{Finding, Places, Source};
use super::walk::{Table, Walk};
use super::{features, lint};

/// Longest configuration file; thousands of backends fit.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A configuration that can be used, with what is doubtful about it.
#[derive(Debug)]
pub struct Loaded {
    /// What the file means.
    pub plan: Plan,
    /// What is probably not what was meant, in the order of the file.
    pub warnings: Vec<ConfigError>,
    pub(super) source: Source,
    pub(super) places: Places,
}

impl Loaded {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigErrors> {
        Self::in_part(path)?.sound()
    }

    /// Reads the file at `path` whatever its faults: the plan is of what could be understood, and the faults stand among the
    /// warnings; it may be run when none of them is an error. For those who want every fault at once, of the world too: see
    /// [`survey`](Self::survey).
    ///
    /// # Errors
    /// There is no text to read.
    pub fn in_part(path: &Path) -> Result<Self, ConfigErrors> {
        let base = path.parent().unwrap_or(Path::new(""));
        Ok(Self::draft_of(&text_of(path)?, &path.display().to_string(), base))
    }

    /// Reads `text`; errors name `file`, relative paths start from `base`.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn from_text(text: &str, file: &str, base: &Path) -> Result<Self, ConfigErrors> {
        Self::draft_of(text, file, base).sound()
    }

    fn draft_of(text: &str, file: &str, base: &Path) -> Self {
        let source = Source::new(file, text);
        let (plan, findings, places) = examine(&source, base);
        Self { plan, warnings: findings, source, places }
    }

    /// Whether nothing of the text is an error.
    pub fn is_sound(&self) -> bool {
        self.warnings.iter().all(|finding| finding.severity != Severity::Error)
    }

    fn sound(self) -> Result<Self, ConfigErrors> {
        if self.is_sound() { Ok(self) } else { Err(ConfigErrors(self.warnings)) }
    }
}

/// The text of a configuration file.
fn text_of(path: &Path) -> Result<String, ConfigErrors> {
    let name = path.display().to_string();
    let unreadable = |what: Finding| {
        let mut error = Source::new(&name, "").finding(&(0..0), "file", what, Severity::Error);
        error.excerpt = None;
        ConfigErrors(vec![error])
    };
    let cannot = |error: std::io::Error| unreadable(format!("cannot be read: {error}").into());
    let length = std::fs::metadata(path).map_err(cannot)?.len();
    if length > MAX_BYTES {
        return Err(unreadable(format!("has {length} bytes, {MAX_BYTES} are the most").into()));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|error| {
        // Up to the bad byte all is text, which is enough to show where it stands.
        let sound = error.as_bytes().get(..error.utf8_error().valid_up_to());
        let source = Source::new(&name, sound.and_then(|sound| std::str::from_utf8(sound).ok()).unwrap_or_default());
        let end = source.text().len();
        let what = ("is not UTF-8 text from here", "save the file as UTF-8");
        ConfigErrors(vec![source.finding(&(end..end), "file", what.into(), Severity::Error)])
    })
}

impl Plan {
    /// Reads the configuration file at `path`; the list is of warnings, in the order of the file.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn load(path: &Path) -> Result<(Self, Vec<ConfigError>), ConfigErrors> {
        Loaded::from_file(path).map(|loaded| (loaded.plan, loaded.warnings))
    }

    /// Reads a configuration from `text`; errors name `file`, relative paths start from `base`.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<(Self, Vec<ConfigError>), ConfigErrors> {
        Loaded::from_text(text, file, base).map(|loaded| (loaded.plan, loaded.warnings))
    }
}

/// Everything that can be said of the text: the plan (to be used only when nothing is wrong), the findings in the order of
/// the file, and where keys stand.
pub(super) fn examine(source: &Source, base: &Path) -> (Plan, Vec<ConfigError>, Places) {
    let (document, syntax) = DeTable::parse_recoverable(source.text());
    let document = document.into_inner();
    let walk = Walk::new(source, !syntax.is_empty(), base.to_owned());
    let root = Table::enter(&walk, String::new(), &keys::ROOT, 0..0, &document);
    let plan = read_plan(&root);
    lint::check(&walk, &plan);
    features::check(&walk, &document);
    let (found, places) = walk.finish();
    (plan, arrange(source, found, &syntax), places)
}

fn read_plan(root: &Table<'_>) -> Plan {
    let pools = pool::read_pools(root);
    Plan {
        server: server::read_server(root),
        log: server::read_log(root),
        listeners: listener::read_listeners(root),
        admin: server::read_admin(root),
        routes: route::read_routes(root, &pools),
        pools: pools.into_iter().map(Arc::new).collect(),
        access_log: server::read_access_log(root),
    }
}

/// Syntax errors and findings together, in the order of the file.
fn arrange(source: &Source, found: Vec<ConfigError>, syntax: &[SyntaxError]) -> Vec<ConfigError> {
    let mut broken: Vec<ConfigError> = syntax.iter().map(|error| syntax_error(source, error)).collect();
    broken.sort_by_key(|error| (error.line, error.column));
    // After the first error of a line the parser is often lost until the next.
    broken.dedup_by_key(|error| error.line);
    // Of a list that is not closed it complains on every line that follows.
    let mut listed = false;
    broken.retain(|error| !std::mem::replace(&mut listed, error.message == OPEN_LIST) || error.message != OPEN_LIST);
    // And what follows becomes its elements.
    let open = broken.iter().filter(|error| error.message == OPEN_LIST).map(|error| error.line).min();
    let is_swallowed =
        |finding: &ConfigError| open.is_some_and(|line| finding.line >= line && finding.key.ends_with(']'));
    let found = found.into_iter().filter(|it| !is_astray(source, &broken, it.line) && !is_swallowed(it));
    let found: Vec<ConfigError> = found.collect();
    let astray: Vec<usize> =
        broken.iter().map(|error| error.line).filter(|line| is_astray(source, &broken, *line)).collect();
    broken.retain(|error| !astray.contains(&error.line));
    let sound = found.into_iter().filter(|finding| broken.iter().all(|error| error.line != finding.line));
    let mut all: Vec<ConfigError> = sound.chain(broken.iter().cloned()).collect();
    all.sort_by(|a, b| (a.line, a.column, &a.key).cmp(&(b.line, b.column, &b.key)));
    all.dedup();
    all
}

/// What the parser says of each line below a list without its end.
const OPEN_LIST: &str = "missing comma between array elements";

/// Whether a line belongs to a table whose header is broken: its keys have gone to another table, where they are unknown or
/// there already.
fn is_astray(source: &Source, broken: &[ConfigError], line: usize) -> bool {
    let is_header = |line: usize| line > 0 && source.line(line - 1).trim_start().starts_with('[');
    broken.iter().any(|error| is_header(error.line) && error.line < line && !(error.line + 1..=line).any(is_header))
}

/// An error of the TOML parser; its key is guessed from the text, as there is no tree to take it from.
fn syntax_error(source: &Source, error: &SyntaxError) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let (message, hint) = match error.message().split_once(", expected ") {
        Some((message, "nothing")) => (message, String::new()),
        Some((message, expected)) => (message, format!("expected {expected}")),
        None => (error.message(), String::new()),
    };
    let number = source.line_of(span.start.min(source.text().len()));
    let own = source.line(number);
    let nothing =
        own.split_once('=').is_some_and(|(_, value)| value.split('#').next().unwrap_or_default().trim().is_empty());
    let (message, hint) = if nothing { ("the value is missing", String::new()) } else { (message, hint) };
    let bare = |text: &str| text.trim().trim_start_matches('[').split(']').next().unwrap_or_default().trim().to_owned();
    let key = if own.trim_start().starts_with('[') {
        bare(own)
    } else {
        let headers = (0..number).rev().map(|above| source.line(above).trim());
        let header = headers.into_iter().find(|line| line.starts_with('[') && line.contains(']')).map(bare);
        let key = own.split_once('=').map(|(key, _)| key.trim().to_owned());
        [header, key].into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
    };
    let sane = !key.is_empty() && key.len() <= 200 && key.chars().all(|c| c.is_alphanumeric() || "._-\"".contains(c));
    source.finding(&span, if sane { &key } else { "syntax" }, (message, hint).into(), Severity::Error)
}
