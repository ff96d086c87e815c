//! Plots as SVG, made by hand so that they can be read in a report: cost by strategy, share of each server over time,
//! cost over time (the learning curve).

use std::fmt::Write;

use super::report::Results;
use super::runner::Run;

/// Colours that stay apart for colour-blind eyes and in print (Okabe and Ito), darkest last.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000"];

/// Strategies drawn as lines at most, and servers.
const MOST_LINES: usize = 8;

/// Seconds that a point of a learning curve averages, at least; a curve has at most sixty points.
const CURVE_POINTS: usize = 60;

/// A plot and the name of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// File name.
    pub name: String,
    /// Its content.
    pub svg: String,
}

/// Every plot of these runs. Shares and learning curves need runs that kept their timelines.
pub fn all(runs: &[Run], disturbed: &[(String, f64)]) -> Vec<Plot> {
    let results = Results::new(runs);
    let mut plots = Vec::new();
    for scenario in results.scenarios() {
        plots.push(Plot { name: format!("cost-{scenario}.svg"), svg: costs(&results, scenario) });
        let event = disturbed.iter().find(|(name, _)| name == scenario).map_or(0.0, |(_, at)| *at);
        let lines = strategies_to_draw(&results, scenario);
        plots.push(Plot { name: format!("curve-{scenario}.svg"), svg: curves(&results, scenario, &lines, event) });
        if event > 0.0 {
            for strategy in lines.iter().take(3) {
                let name = format!("share-{scenario}-{}.svg", file_name(strategy));
                plots.push(Plot { name, svg: shares(&results, scenario, strategy, event) });
            }
        }
    }
    plots
}

fn file_name(strategy: &str) -> String {
    strategy.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

/// The agent, then the best others.
fn strategies_to_draw<'a>(results: &Results<'a>, scenario: &'a str) -> Vec<&'a str> {
    let mut names = results.strategies();
    let cost = |name: &str| {
        let own = if name.starts_with("rl") { 0.0 } else { 1e9 };
        own + results.mean(scenario, names_find(results, name), |metrics| metrics.j)
    };
    names.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    names.truncate(MOST_LINES);
    names
}

fn names_find<'a>(results: &Results<'a>, name: &str) -> &'a str {
    results.strategies().into_iter().find(|known| *known == name).unwrap_or_default()
}

/// A drawing with a frame for data.
struct Canvas {
    svg: String,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Canvas {
    fn new(title: &str, total: (f64, f64), margins: (f64, f64, f64, f64)) -> Self {
        let (left, top, right, bottom) = margins;
        let mut svg = String::new();
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>\n\
             <text x=\"{left}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
            escaped(title),
            w = total.0,
            h = total.1,
        );
        Self { svg, left, top, width: total.0 - left - right, height: total.1 - top - bottom }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let _ = writeln!(
            self.svg,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn text(&mut self, at: (f64, f64), style: &str, text: &str) {
        let _ = writeln!(self.svg, "<text x=\"{:.1}\" y=\"{:.1}\" {style}>{}</text>", at.0, at.1, escaped(text));
    }

    fn bar(&mut self, at: (f64, f64), size: (f64, f64), fill: &str) {
        let _ = writeln!(
            self.svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
            at.0, at.1, size.0, size.1
        );
    }

    fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let mut data = String::new();
        for (x, y) in points {
            let _ = write!(data, "{}{x:.1},{y:.1}", if data.is_empty() { "M" } else { " L" });
        }
        let _ = writeln!(
            self.svg,
            "<path d=\"{data}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"/>"
        );
    }

    /// Vertical axis with a grid.
    fn vertical(&mut self, ticks: &[f64], place: impl Fn(f64) -> f64, label: impl Fn(f64) -> String) {
        for tick in ticks {
            let y = place(*tick);
            self.line((self.left, y), (self.left + self.width, y), "stroke=\"#e4e4e4\"");
            self.text((self.left - 6.0, y + 4.0), "text-anchor=\"end\"", &label(*tick));
        }
    }

    /// Horizontal axis of seconds.
    fn seconds(&mut self, seconds: f64) {
        let base = self.top + self.height;
        for tick in linear_ticks(seconds) {
            let x = self.left + self.width * tick / seconds;
            self.line((x, base), (x, base + 4.0), "stroke=\"#888\"");
            self.text((x, base + 18.0), "text-anchor=\"middle\"", &format!("{tick:.0}"));
        }
        self.line((self.left, base), (self.left + self.width, base), "stroke=\"#888\"");
        self.text((self.left + self.width, base + 34.0), "text-anchor=\"end\" fill=\"#666\"", "seconds");
    }

    fn event(&mut self, at: f64, seconds: f64) {
        let x = self.left + self.width * at / seconds;
        let style = "stroke=\"#999\" stroke-dasharray=\"4 3\"";
        self.line((x, self.top), (x, self.top + self.height), style);
        self.text((x + 4.0, self.top + 12.0), "fill=\"#666\"", "it happens");
    }

    /// Names on the right, in the colour of their lines.
    fn legend(&mut self, names: &[String]) {
        let x = self.left + self.width + 14.0;
        for (row, (name, colour)) in names.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let y = self.top + 8.0 + 18.0 * row as f64;
            self.line((x, y), (x + 16.0, y), &format!("stroke=\"{colour}\" stroke-width=\"2.5\""));
            self.text((x + 22.0, y + 4.0), "", name);
        }
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// About five round numbers from 0 to `most`.
fn linear_ticks(most: f64) -> Vec<f64> {
    if !(most > 0.0 && most.is_finite()) {
        return vec![0.0];
    }
    let raw = most / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|unit| unit * power).find(|step| *step >= raw).unwrap_or(raw);
    (0..=(most / step + 1e-9) as usize).map(|index| index as f64 * step).collect()
}

/// 1, 2, 5 of every decade between `least` and `most`; the decades alone when that is too many.
fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let units: &[f64] = if to - from > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let ticks = (from..=to).flat_map(|power| units.iter().map(move |unit| unit * 10_f64.powi(power)));
    ticks.filter(|tick| *tick >= least * 0.999 && *tick <= most * 1.001).collect()
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms >= 1000.0 { format!("{:.3} s", ms / 1e3).replace(".000", "") } else { format!("{ms} ms") }
}

/// Cost (bar) and p99* (tick) of each strategy, best first, on a logarithmic axis.
fn costs<'a>(results: &Results<'a>, scenario: &'a str) -> String {
    let mut rows: Vec<_> = results
        .strategies()
        .into_iter()
        .map(|name| {
            let mean = |measure: fn(&super::Metrics) -> f64| results.mean(scenario, name, measure);
            (name, mean(|metrics| metrics.j), mean(|metrics| metrics.p99_all))
        })
        .filter(|(_, j, _)| j.is_finite() && *j > 0.0)
        .collect();
    rows.sort_by(|a, b| a.1.total_cmp(&b.1));
    let least = rows.iter().map(|row| row.1).fold(f64::INFINITY, f64::min) * 0.8;
    let most = rows.iter().map(|row| row.1.max(row.2)).fold(least * 2.0, f64::max) * 1.1;
    let height = 76.0 + 20.0 * rows.len() as f64;
    let title = format!("{scenario}: cost J (bar) and p99* (tick); left is better");
    let mut canvas = Canvas::new(&title, (860.0, height), (230.0, 40.0, 70.0, 36.0));
    let (left, width, top, bottom) = (canvas.left, canvas.width, canvas.top, canvas.top + canvas.height);
    let place = |value: f64| left + width * (value / least).ln() / (most / least).ln();
    for tick in log_ticks(least, most) {
        canvas.line((place(tick), top), (place(tick), bottom), "stroke=\"#e4e4e4\"");
        canvas.text((place(tick), bottom + 16.0), "text-anchor=\"middle\"", &milliseconds(tick));
    }
    for (row, (name, j, p99)) in rows.iter().enumerate() {
        let y = top + 20.0 * row as f64;
        let colour = if name.starts_with("rl") { COLOURS[1] } else { COLOURS[0] };
        canvas.bar((left, y + 3.0), (place(*j) - left, 14.0), colour);
        let style = format!("stroke=\"{}\" stroke-width=\"2\"", COLOURS[7]);
        canvas.line((place(*p99), y + 2.0), (place(*p99), y + 18.0), &style);
        canvas.text((left - 8.0, y + 14.0), "text-anchor=\"end\"", name);
        canvas.text((left + width + 8.0, y + 14.0), "fill=\"#666\"", &format!("{:.1}", j * 1e3));
    }
    canvas.finish()
}

/// Share of each server, second by second, averaged over seeds.
fn shares<'a>(results: &Results<'a>, scenario: &'a str, strategy: &'a str, event: f64) -> String {
    let runs: Vec<_> = results.of(scenario, strategy).collect();
    let seconds = runs.iter().map(|run| run.metrics.sent.len()).max().unwrap_or(0).saturating_sub(2).max(1);
    let servers = runs.first().and_then(|run| run.metrics.sent.first()).map_or(0, Vec::len);
    let drawn = servers.min(MOST_LINES);
    let mut lines = vec![Vec::with_capacity(seconds); drawn];
    let mut most: f64 = 0.05;
    for second in 0..seconds {
        let sent = |server: usize| -> u32 {
            let counts = runs.iter().filter_map(|run| run.metrics.sent.get(second)?.get(server));
            counts.sum()
        };
        let all: u32 = (0..servers).map(sent).sum();
        for (server, line) in lines.iter_mut().enumerate() {
            let share = f64::from(sent(server)) / f64::from(all.max(1));
            most = most.max(share);
            line.push(share);
        }
    }
    let title = format!("{scenario}, {strategy}: share of the requests of each server");
    let mut canvas = Canvas::new(&title, (860.0, 360.0), (60.0, 40.0, 120.0, 44.0));
    let (left, width, top, height) = (canvas.left, canvas.width, canvas.top, canvas.height);
    let place = |share: f64| top + height * (1.0 - share / (most * 1.05));
    canvas.vertical(&linear_ticks(most * 1.05), place, |tick| format!("{:.0} %", tick * 100.0));
    canvas.seconds(seconds as f64);
    canvas.event(event, seconds as f64);
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<_> = line
            .iter()
            .enumerate()
            .map(|(second, share)| (left + width * (second as f64 + 0.5) / seconds as f64, place(*share)))
            .collect();
        canvas.path(&points, colour);
    }
    canvas.legend(&(0..drawn).map(|server| format!("server {server}")).collect::<Vec<_>>());
    canvas.finish()
}

/// Cost over time of several strategies, averaged over seeds, on a logarithmic axis.
fn curves<'a>(results: &Results<'a>, scenario: &'a str, strategies: &[&'a str], event: f64) -> String {
    let line = |strategy: &'a str| -> Vec<f64> {
        let runs: Vec<_> = results.of(scenario, strategy).collect();
        let seconds = runs.iter().map(|run| run.metrics.seconds.len()).max().unwrap_or(0).saturating_sub(2);
        let step = seconds.div_ceil(CURVE_POINTS).max(1);
        let bucket = |from: usize| {
            let parts = runs.iter().flat_map(|run| run.metrics.seconds.iter().skip(from).take(step));
            let (count, sum) = parts.fold((0, 0.0), |(count, sum), part| (count + part.0, sum + part.1));
            sum / f64::from(count.max(1))
        };
        (0..seconds).step_by(step).map(bucket).collect()
    };
    let lines: Vec<_> = strategies.iter().map(|strategy| line(strategy)).collect();
    let values = || lines.iter().flatten().copied().filter(|value| *value > 0.0);
    let least = values().fold(f64::INFINITY, f64::min).min(1e3) * 0.9;
    let most = values().fold(least * 2.0, f64::max) * 1.1;
    let mut runs = strategies.iter().flat_map(|strategy| results.of(scenario, strategy));
    let seconds = runs.next().map_or(1, |run| run.metrics.seconds.len().saturating_sub(2)).max(1) as f64;
    let title = format!("{scenario}: cost J over time");
    let mut canvas = Canvas::new(&title, (920.0, 360.0), (70.0, 40.0, 230.0, 44.0));
    let (left, width, top, height) = (canvas.left, canvas.width, canvas.top, canvas.height);
    let place = |value: f64| top + height * (1.0 - (value.max(least) / least).ln() / (most / least).ln());
    canvas.vertical(&log_ticks(least, most), place, milliseconds);
    canvas.seconds(seconds);
    if event > 0.0 {
        canvas.event(event, seconds);
    }
    // The first is drawn last, on top.
    let coloured: Vec<_> = lines.iter().zip(COLOURS.iter().cycle()).collect();
    for (line, colour) in coloured.into_iter().rev() {
        let count = line.len().max(1) as f64;
        let points: Vec<_> = line
            .iter()
            .enumerate()
            .filter(|(_, value)| **value > 0.0)
            .map(|(index, value)| (left + width * (index as f64 + 0.5) / count, place(*value)))
            .collect();
        canvas.path(&points, colour);
    }
    canvas.legend(&strategies.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(linear_ticks(120.0), [0.0, 50.0, 100.0]);
        assert_eq!(linear_ticks(1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(linear_ticks(0.0), [0.0]);
        assert_eq!(log_ticks(0.03, 0.6), [0.05, 0.1, 0.2, 0.5]);
        assert!(log_ticks(1e-3, 1e4).len() <= 8);
        assert_eq!((milliseconds(0.05), milliseconds(2.0)), ("50 ms".to_owned(), "2 s".to_owned()));
    }

    #[test]
    fn a_plot_is_well_formed() {
        let mut canvas = Canvas::new("a < b & c", (100.0, 50.0), (10.0, 10.0, 10.0, 10.0));
        canvas.path(&[(1.0, 2.0), (3.0, 4.0)], "#000");
        let svg = canvas.finish();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("d=\"M1.0,2.0 L3.0,4.0\""));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
