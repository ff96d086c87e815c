//! Backends as a table: what the admin API says of them, how busy each has been, and columns that fit a terminal.
//! Shared by `ctl backends`, `top` and `demo`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

/// A pool, as `GET /api/v1/pools/{pool}` shows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PoolView {
    pub(super) name: String,
    pub(super) strategy: String,
    pub(super) backends: Vec<BackendView>,
}

/// A backend, as the admin API shows it; what it does not say is unknown, not zero.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct BackendView {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) health: String,
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) weight: Option<f64>,
    /// How long it asked to be left alone.
    pub(super) held_s: Option<f64>,
}

/// The pools in an answer of `GET /api/v1/pools`.
pub(super) fn pools(answer: &Value) -> Vec<PoolView> {
    let list = answer.get("pools").unwrap_or(answer);
    serde_json::from_value(list.clone()).unwrap_or_default()
}

/// How text is meant, for terminals that have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
}

impl Tone {
    /// `text` in this tone; colours are the eight that every terminal theme has made readable.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Dim => "2",
        };
        if colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One cell.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }

    pub(super) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// A column: numbers stand right, words left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    right: bool,
    /// Kept free even when nothing needs it, so that a live table does not jump.
    least: usize,
}

pub(super) const fn words(title: &'static str) -> Column {
    Column { title, right: false, least: 0 }
}

pub(super) const fn numbers(title: &'static str) -> Column {
    Column { title, right: true, least: 0 }
}

impl Column {
    /// This column, never narrower than `least`.
    pub(super) const fn at_least(self, least: usize) -> Self {
        Self { least, ..self }
    }
}

/// Columns of words are not cut below this.
const LEAST_WIDTH: usize = 6;

/// Lays out a table in lines without line ends. Where `width` is too small, columns move together, then the widest of
/// words are cut, with an ellipsis; numbers never are.
pub(super) fn lay_out(columns: &[Column], rows: &[Vec<Cell>], width: Option<usize>, colour: bool) -> Vec<String> {
    let needed: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| length(&cell.text));
            cells.chain([length(column.title)]).max().unwrap_or(0)
        })
        .collect();
    let total = |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
    let mut widths: Vec<usize> = needed.iter().zip(columns).map(|(needed, column)| column.least.max(*needed)).collect();
    let mut gap = 2;
    if let Some(width) = width
        && total(&widths, gap) > width
    {
        widths = needed;
        gap = 1;
        while total(&widths, gap) > width {
            let widest = widths.iter_mut().zip(columns).filter(|(_, column)| !column.right).map(|(width, _)| width);
            match widest.max() {
                Some(width) if *width > LEAST_WIDTH => *width -= 1,
                Some(_) | None => break,
            }
        }
    }
    let head = columns.iter().map(|column| Cell::new(column.title).tone(Tone::Dim)).collect();
    [&head].into_iter().chain(rows).map(|row: &Vec<Cell>| lay_out_row(columns, &widths, gap, row, colour)).collect()
}

fn lay_out_row(columns: &[Column], widths: &[usize], gap: usize, row: &[Cell], colour: bool) -> String {
    let mut line = String::new();
    for (at, ((column, width), cell)) in columns.iter().zip(widths).zip(row).enumerate() {
        let text = cut(&cell.text, *width);
        let pad = " ".repeat(width.saturating_sub(length(&text)));
        let text = cell.tone.paint(&text, colour);
        if at > 0 {
            line.push_str(&" ".repeat(gap));
        }
        let (before, after) = if column.right { (pad.as_str(), "") } else { ("", pad.as_str()) };
        line.extend([before, &text, after]);
    }
    line.truncate(line.trim_end().len());
    line
}

/// `text` in at most `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Milliseconds for people: `312ms`, `1.24s`, `95s`.
pub(super) fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) if ms < 10_000.0 => format!("{:.2}s", ms / 1000.0),
        Some(ms) => format!("{:.0}s", ms / 1000.0),
    }
}

/// What a backend is up to: the operator's word if it is not `ready`, else how its health is.
pub(super) fn condition(backend: &BackendView) -> Cell {
    match backend.state.as_str() {
        "ready" | "" => match backend.health.as_str() {
            "up" if backend.held_s.is_some() => {
                Cell::new(format!("held {:.0} s", backend.held_s.unwrap_or_default().ceil())).tone(Tone::Warn)
            }
            "up" => Cell::new("up").tone(Tone::Good),
            "warming" => Cell::new("warming").tone(Tone::Warn),
            "" | "unknown" => Cell::new("unknown").tone(Tone::Dim),
            bad => Cell::new(bad).tone(Tone::Bad),
        },
        state => Cell::new(state).tone(Tone::Warn),
    }
}

/// Request counts over a sliding window, from samples of running totals.
#[derive(Debug)]
pub(super) struct Traffic {
    window: Duration,
    samples: VecDeque<(Instant, HashMap<String, u64>)>,
}

impl Traffic {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, samples: VecDeque::new() }
    }

    /// Takes a sample: totals by name.
    pub(super) fn sample(&mut self, now: Instant, totals: impl Iterator<Item = (String, u64)>) {
        self.samples.push_back((now, totals.collect()));
        // The oldest kept is the last that is a window old, so that the window is full once it can be.
        while let Some((second, _)) = self.samples.get(1)
            && now.duration_since(*second) >= self.window
        {
            self.samples.pop_front();
        }
    }

    /// Requests a second of one name; `None` until there are two samples.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        let seconds = self.seconds()?;
        Some(self.count(name)? as f64 / seconds)
    }

    /// Requests a second of all.
    pub(super) fn total_rate(&self) -> Option<f64> {
        let seconds = self.seconds()?;
        Some(self.total() as f64 / seconds)
    }

    /// Share of one name, 0-1; `None` while there was nothing to share.
    pub(super) fn share(&self, name: &str) -> Option<f64> {
        let total = self.total();
        (total > 0).then_some(())?;
        Some(self.count(name)? as f64 / total as f64)
    }

    fn seconds(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        (seconds > 0.0).then_some(seconds)
    }

    fn count(&self, name: &str) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        // A name that is new, or was reset, counts from nothing.
        let before = first.1.get(name).copied().unwrap_or(0);
        let after = last.1.get(name).copied()?;
        Some(if after >= before { after - before } else { after })
    }

    fn total(&self) -> u64 {
        let names = self.samples.back().map(|(_, totals)| totals.keys()).into_iter().flatten();
        names.filter_map(|name| self.count(name)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_terminals_cut_words_and_never_numbers() {
        let columns = [words("backend"), numbers("p50"), words("note")];
        let rows = vec![
            vec![Cell::new("instance-1"), Cell::new("1234567"), Cell::new("a long remark, longer than the rest")],
            vec![Cell::new("b"), Cell::new("1"), Cell::default()],
        ];
        let wide = lay_out(&columns, &rows, None, false);
        assert_eq!(wide[0], "backend         p50  note");
        assert_eq!(wide[2], "b                 1");
        let narrow = lay_out(&columns, &rows, Some(32), false);
        assert!(narrow.iter().all(|line| length(line) <= 32), "{narrow:#?}");
        assert!(narrow[1].contains("1234567") && narrow[1].ends_with('…'), "{narrow:#?}");
        let hopeless = lay_out(&columns, &rows, Some(3), false);
        assert!(hopeless[1].contains("1234567"));
    }

    #[test]
    fn rates_and_shares_come_from_differences_over_the_window() {
        let mut traffic = Traffic::new(Duration::from_secs(2));
        let start = Instant::now();
        assert_eq!(traffic.rate("a"), None);
        for second in 0..=10u32 {
            let totals = [("a".to_owned(), u64::from(second) * 30), ("b".to_owned(), u64::from(second) * 10)];
            traffic.sample(start + Duration::from_secs(second.into()), totals.into_iter());
        }
        assert_eq!(traffic.rate("a"), Some(30.0));
        assert_eq!(traffic.share("b"), Some(0.25));
        assert_eq!(traffic.total_rate(), Some(40.0));
        assert_eq!(traffic.samples.len(), 3);
        // A restarted balancer counts from nothing again.
        traffic.sample(start + Duration::from_secs(11), [("a".to_owned(), 4)].into_iter());
        assert_eq!(traffic.share("a"), Some(1.0));
    }

    #[test]
    fn both_forms_of_a_pool_list_are_read_and_absent_figures_are_unknown() {
        let pool = serde_json::json!({"name": "ai", "strategy": "rl", "backends": [{"name": "a", "p50_ms": null}]});
        for answer in [serde_json::json!([pool]), serde_json::json!({"pools": [pool]})] {
            let pools = pools(&answer);
            assert_eq!(pools[0].backends[0].name, "a");
            assert_eq!(milliseconds(pools[0].backends[0].p50_ms), "-");
        }
    }
}
