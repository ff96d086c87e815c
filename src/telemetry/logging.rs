//! Log lines: `tracing` events as text or JSON on stderr, never on stdout (which belongs to the access log and to the
//! `listening …` lines).
//!
//! The filter can be replaced while we run; the format cannot. A bare level such as `debug` means our own code; libraries
//! then speak at `info` at most, because hyper at `debug` writes several lines per request. Anything else is a
//! `tracing` filter taken as written. A stderr that is closed or full of errors never ends the process.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The levels a bare word may name.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a filter.
    #[error(
        "`{0}` is neither a level (off, error, warn, info, debug, trace) nor a filter like `evenkeel::health=debug`"
    )]
    Filter(String),
    /// Some other code has installed a subscriber.
    #[error("a log subscriber is already installed in this process")]
    Installed,
    /// The subscriber is gone.
    #[error("the log subscriber is gone")]
    Gone,
}

/// The installed log, to change its level by.
#[derive(Debug, Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Logging {
    /// Puts another level or filter in force.
    ///
    /// # Errors
    /// [`LogError::Filter`] for a level that makes no sense (the present one stays in force).
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse_filter(level)?;
        self.filter.reload(filter).map_err(|_| LogError::Gone)
    }
}

/// Installs the process' log on stderr. Once per process: it is the command's business, not an `App`'s.
///
/// # Errors
/// [`LogError::Filter`] for a level that makes no sense, [`LogError::Installed`] the second time.
pub fn init(level: &str, format: Format) -> Result<Logging, LogError> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (subscriber, logging) = subscriber(level, format, colour, std::io::stderr)?;
    subscriber.try_init().map_err(|_| LogError::Installed)?;
    Ok(logging)
}

/// The filter that `level` means.
///
/// # Errors
/// [`LogError::Filter`]: `tracing` would take an unknown word for a target's name and log nothing of use, so bare words
/// must be levels.
pub fn parse_filter(level: &str) -> Result<EnvFilter, LogError> {
    let refused = || LogError::Filter(level.to_owned());
    let word = level.trim().to_ascii_lowercase();
    if LEVELS.contains(&word.as_str()) {
        let libraries = if word == "debug" || word == "trace" { "info" } else { word.as_str() };
        return EnvFilter::try_new(format!("{libraries},evenkeel={word}")).map_err(|_| refused());
    }
    let parts = level.split(',').map(str::trim);
    let sound = |part: &str| part.contains('=') || LEVELS.contains(&part.to_ascii_lowercase().as_str());
    if !parts.into_iter().all(sound) {
        return Err(refused());
    }
    EnvFilter::try_new(level).map_err(|_| refused())
}

/// The subscriber that [`init`] installs, over any writer.
fn subscriber<W>(
    level: &str,
    format: Format,
    colour: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + 'static, Logging), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse_filter(level)?);
    let subscriber = Registry::default().with(filter).with(lines(format, colour, writer));
    Ok((subscriber, Logging { filter: handle }))
}

/// The layer that makes lines. Errors of the writer are not reported: the report would go to the same closed stderr
/// and panic there.
fn lines<S, W>(format: Format, colour: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(level: &str, format: Format, events: impl FnOnce(&Logging)) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let (subscriber, logging) = subscriber(level, format, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || events(&logging));
        sink.text()
    }

    #[test]
    fn levels_and_filters_are_told_from_nonsense() {
        for good in
            ["info", "WARN", " debug ", "off", "evenkeel::health=debug", "warn,evenkeel=trace", "hyper=off,info"]
        {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "verbose", "evenkeel=loud", "warn,bogus"] {
            assert!(matches!(parse_filter(bad), Err(LogError::Filter(_))), "{bad}");
        }
    }

    #[test]
    fn a_json_line_is_one_object_with_its_fields() {
        let text = logged("info", Format::Json, |_| {
            tracing::info!(backend = "a\"b\n", weight = 3, "weight changed");
            tracing::debug!("not this one");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "weight changed");
        assert_eq!(line["backend"], "a\"b\n");
        assert_eq!(line["weight"], 3);
        assert_eq!(line["level"], "INFO");
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn a_text_line_has_no_colours_and_no_raw_newline_of_a_value() {
        let text = logged("info", Format::Text, |_| tracing::warn!(name = "x\ny\u{1b}[31m", "seen"));
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.contains("WARN") && text.contains("seen"));
    }

    #[test]
    fn a_bare_level_keeps_libraries_at_info() {
        let text = logged("debug", Format::Text, |_| {
            tracing::debug!("ours");
            tracing::debug!(target: "hyper::proto", "theirs");
            tracing::info!(target: "hyper::proto", "theirs at info");
        });
        assert!(text.contains("ours") && text.contains("theirs at info"));
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn the_level_changes_live_and_a_faulty_one_changes_nothing() {
        let text = logged("warn", Format::Text, |logging| {
            tracing::info!("before");
            assert!(logging.set_level("loud").is_err());
            tracing::info!("after the faulty one");
            logging.set_level("info").unwrap();
            tracing::info!("after");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("after"));
    }
}
