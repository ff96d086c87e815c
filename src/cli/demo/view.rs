//! What the demo shows: the live frame, the plain lines for pipes, the summary.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::tally::Tally;
use crate::cli::http::DEFAULT_ADMIN;
use crate::cli::table::{
    BackendView, Cell, Column, PoolView, Tone, Traffic, condition, lay_out, milliseconds, numbers, words,
};

/// Events on the screen; with the table and the head they fit a terminal of 24 lines.
const EVENTS: usize = 4;
/// Shares and rates are means over this long.
const WINDOW: Duration = Duration::from_secs(5);

/// With two blanks between them, exactly 80 columns for what the demo usually shows.
const COLUMNS: [Column; 9] = [
    words("backend").at_least(10),
    words("schedule").at_least(11),
    words("health").at_least(7),
    numbers("active").at_least(6),
    numbers("share").at_least(6),
    numbers("rate").at_least(6),
    numbers("p50").at_least(6),
    numbers("p99").at_least(6),
    numbers("errors").at_least(6),
];

/// Everything there is to show.
pub(super) struct Stage {
    pub(super) tally: Tally,
    /// Requests a second the generator is set to.
    pub(super) rate: f64,
    started: Instant,
    traffic: Traffic,
    /// As the admin API last showed it.
    pool: PoolView,
    /// What the schedule does to each instance now.
    done_to: Vec<&'static str>,
    events: VecDeque<String>,
    /// Events not yet written by [`Stage::plain`].
    fresh: Vec<String>,
}

impl Stage {
    pub(super) fn new(instances: usize, rate: f64, strategy: &str, now: Instant) -> Self {
        Self {
            tally: Tally::default(),
            rate,
            started: now,
            traffic: Traffic::new(WINDOW),
            pool: PoolView { strategy: strategy.to_owned(), ..PoolView::default() },
            done_to: vec![""; instances],
            events: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    /// The schedule has done something.
    pub(super) fn turned(&mut self, instance: usize, done: &'static str, event: &str, now: Instant) {
        if let Some(done_to) = self.done_to.get_mut(instance) {
            *done_to = done;
        }
        self.event(now, "schedule", &format!("instance-{} {event}", instance + 1));
    }

    /// The balancer has been asked; what changed since the last time is an event.
    pub(super) fn seen(&mut self, pool: PoolView, now: Instant) {
        self.traffic.sample(now, pool.backends.iter().map(|backend| (backend.name.clone(), backend.requests)));
        let mut changes = Vec::new();
        for backend in &pool.backends {
            let before = self.pool.backends.iter().find(|before| before.name == backend.name);
            let (was, is) = (before.map(state_word), state_word(backend));
            if let Some(was) = was
                && was != is
                && was != "unknown"
            {
                changes.push(format!("{} was {was}, is {is}", backend.name));
            }
        }
        if self.pool.strategy != pool.strategy {
            changes.push(format!("the strategy is {} now", pool.strategy));
        }
        self.pool = pool;
        for change in changes {
            self.event(now, "balancer", &change);
        }
    }

    /// Something to remark on.
    pub(super) fn event(&mut self, now: Instant, who: &str, what: &str) {
        let at = now.duration_since(self.started).as_secs_f64();
        let line = format!("{at:6.1}s  {who:<8}  {what}");
        self.fresh.push(line.clone());
        self.events.push_back(line);
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// The frame of a live screen.
    pub(super) fn frame(&mut self, width: Option<usize>, colour: bool, now: Instant) -> Vec<String> {
        let elapsed = now.duration_since(self.started).as_secs();
        let rate = self.traffic.total_rate().unwrap_or(0.0);
        let failed = self.tally.failed();
        let tone = if failed > 0 { Tone::Warn } else { Tone::Good };
        let mut lines = vec![
            format!(
                "strategy {}   {rate:.0} requests/s   {}:{:02}   Ctrl-C ends",
                self.pool.strategy,
                elapsed / 60,
                elapsed % 60
            ),
            format!(
                "clients: p50 {}, p99 {} (last 10 s), {} of {}",
                milliseconds(self.tally.recent(0.5, now)),
                milliseconds(self.tally.recent(0.99, now)),
                tone.paint(&errors(failed), colour),
                self.tally.answered + failed
            ),
            String::new(),
        ];
        lines.extend(lay_out(&COLUMNS, &self.rows(), width, colour));
        lines.push(String::new());
        lines.extend((0..EVENTS).map(|at| self.events.get(at).cloned().unwrap_or_default()));
        lines
    }

    fn rows(&self) -> Vec<Vec<Cell>> {
        let row = |(at, backend): (usize, &BackendView)| {
            let share =
                self.traffic.share(&backend.name).map_or_else(|| "-".into(), |it| format!("{:.1}%", it * 100.0));
            let rate = self.traffic.rate(&backend.name).map_or_else(|| "-".into(), |it| format!("{it:.1}/s"));
            let errors = Cell::new(backend.failures.to_string());
            vec![
                Cell::new(&backend.name),
                Cell::new(self.done_to.get(at).copied().unwrap_or_default()).tone(Tone::Warn),
                condition(backend),
                Cell::new(backend.in_flight.to_string()),
                Cell::new(share),
                Cell::new(rate),
                Cell::new(milliseconds(backend.p50_ms)),
                Cell::new(milliseconds(backend.p99_ms)),
                if backend.failures > 0 { errors.tone(Tone::Warn) } else { errors },
            ]
        };
        self.pool.backends.iter().enumerate().map(row).collect()
    }

    /// Events since the last call, as plain lines.
    pub(super) fn fresh_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// One line on how things stand, for a pipe.
    pub(super) fn plain(&mut self, now: Instant) -> String {
        let at = now.duration_since(self.started).as_secs_f64();
        let shares: Vec<_> = self
            .pool
            .backends
            .iter()
            .map(|backend| {
                let share = self.traffic.share(&backend.name).unwrap_or(0.0) * 100.0;
                let state = state_word(backend);
                let remark = if state == "up" { String::new() } else { format!(" {state}") };
                format!("{share:.0}%{remark}")
            })
            .collect();
        format!(
            "{at:6.1}s  {:.0}/s  p50 {}  p99 {}  errors {}  shares {}",
            self.traffic.total_rate().unwrap_or(0.0),
            milliseconds(self.tally.recent(0.5, now)),
            milliseconds(self.tally.recent(0.99, now)),
            self.tally.failed(),
            shares.join(" "),
        )
    }

    /// The end: what clients saw, all told.
    pub(super) fn summary(&self, now: Instant) -> String {
        let seconds = now.duration_since(self.started).as_secs_f64();
        let (answered, failed) = (self.tally.answered, self.tally.failed());
        let kinds = if failed > 0 { format!(" ({})", self.tally.error_kinds()) } else { String::new() };
        let mut text = format!(
            "{seconds:.0} s with {}: {} requests, {}{kinds}, p50 {}, p99 {}\nanswered by ",
            self.pool.strategy,
            answered + failed,
            errors(failed),
            milliseconds(self.tally.overall(0.5)),
            milliseconds(self.tally.overall(0.99)),
        );
        let shares: Vec<_> = self
            .tally
            .by_instance
            .iter()
            .map(|(name, count)| format!("{name} {:.1}%", *count as f64 * 100.0 / answered.max(1) as f64))
            .collect();
        // Two a line fit a narrow terminal.
        let lines: Vec<_> = shares.chunks(2).map(|line| line.join(", ")).collect();
        text.push_str(&lines.join(",\n            "));
        text.push('\n');
        text
    }
}

fn errors(count: u64) -> String {
    if count == 1 { "1 error".into() } else { format!("{count} errors") }
}

fn state_word(backend: &BackendView) -> &str {
    match backend.state.as_str() {
        "ready" | "" => &backend.health,
        state => state,
    }
}

/// What to try while it runs; printed once, whole, so that it can be copied.
pub(super) fn preface(listener: SocketAddr, admin: SocketAddr) -> String {
    let url = format!("http://{admin}");
    let ctl = if url == DEFAULT_ADMIN { String::new() } else { format!("--admin {url} ") };
    format!(
        "Six mock AI instances of unequal speed behind http://{listener}.\n\
         Every {} s one turns slow and one breaks; the balancer is told nothing. Try:\n\
         \x20 curl -N http://{listener}/v1/chat/completions \\\n\
         \x20   -d '{{\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}'\n\
         \x20 evenkeel ctl {ctl}strategy round_robin\n\
         \x20 dashboard {url}/   metrics {url}/metrics\n",
        super::cast::ROUND.as_secs(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::tally::Ended;

    fn pool(health: [&str; 6], requests: u64) -> PoolView {
        let backends = (1..).zip(health).map(|(number, health)| BackendView {
            name: format!("instance-{number}"),
            state: "ready".into(),
            health: health.into(),
            in_flight: 12,
            requests: requests * number,
            failures: 123,
            p50_ms: Some(1234.0),
            p99_ms: Some(12_345.0),
            ..BackendView::default()
        });
        PoolView { name: "ai".into(), strategy: "weighted_round_robin".into(), backends: backends.collect() }
    }

    #[test]
    fn the_frame_fits_eighty_columns_and_hides_nothing() {
        let start = Instant::now();
        let mut stage = Stage::new(6, 40.0, "rl", start);
        for second in 0..5 {
            let now = start + Duration::from_secs(second);
            stage.seen(pool(["up", "up", "warming", "ejected", "unknown", "down"], second * 10), now);
        }
        let now = start + Duration::from_secs(5);
        stage.turned(3, "answers 500", "answers 500, and fast", now);
        stage.tally.ended(Ended { took: Duration::from_secs(2), result: Ok("instance-1".into()) }, now);
        stage.tally.ended(Ended { took: Duration::ZERO, result: Err("status 500".into()) }, now);
        let frame = stage.frame(Some(80), false, now);
        let text = frame.join("\n");
        assert!(frame.iter().all(|line| line.chars().count() <= 80), "{text}");
        for word in ["instance-6", "answers 500", "ejected", "warming", "28.6%", "1.23s", "12s", "123", "1 error "] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        assert!(!text.contains('…'), "{text}");
        let preface = preface(([127, 0, 0, 1], 65535).into(), ([127, 0, 0, 1], 65535).into());
        assert!(preface.lines().all(|line| line.chars().count() <= 80), "{preface}");
        // An empty line between them, and the cursor below.
        assert!(frame.len() + preface.lines().count() + 2 <= 24, "{text}");
    }

    #[test]
    fn changes_of_state_and_strategy_are_events_and_first_sight_is_not() {
        let start = Instant::now();
        let mut stage = Stage::new(6, 40.0, "weighted_round_robin", start);
        stage.seen(pool(["unknown"; 6], 0), start);
        stage.seen(pool(["up"; 6], 0), start);
        assert_eq!(stage.fresh_events(), Vec::<String>::new());
        let mut changed = pool(["up", "up", "up", "ejected", "up", "up"], 0);
        changed.strategy = "rl".into();
        stage.seen(changed, start + Duration::from_millis(1500));
        let events = stage.fresh_events();
        assert_eq!(
            events,
            ["   1.5s  balancer  instance-4 was up, is ejected", "   1.5s  balancer  the strategy is rl now"]
        );
    }

    #[test]
    fn the_summary_counts_what_clients_saw() {
        let start = Instant::now();
        let mut stage = Stage::new(6, 40.0, "rl", start);
        for instance in ["instance-1", "instance-1", "instance-1", "instance-2"] {
            let result = Ok(instance.to_owned());
            stage.tally.ended(Ended { took: Duration::from_millis(100), result }, start);
        }
        stage.tally.ended(Ended { took: Duration::ZERO, result: Err("status 500".into()) }, start);
        let summary = stage.summary(start + Duration::from_secs(3));
        assert!(summary.contains("5 requests, 1 error (1 status 500)"), "{summary}");
        assert!(summary.contains("instance-1 75.0%, instance-2 25.0%"), "{summary}");
    }
}
