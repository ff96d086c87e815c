//! Requests: drawn from a scenario's distributions, or read from a trace. Drawn requests depend on the scenario and the
//! seed only, so every strategy meets the same ones.

use super::chance::Chance;
use super::file::{ScenarioFile, StreamTable, Work};
use super::scenario::Arrival;

/// Different clients; what an IP hash sees.
pub(super) const CLIENTS: usize = 500;
/// Longest trace that is read, requests.
const LONGEST_TRACE: usize = 5_000_000;

/// Seeds of plain and of stream scenarios: (factor of the seed, start of the hash of the name).
const PLAIN: (u64, u64) = (7919, 7);
const STREAM: (u64, u64) = (6007, 3);

fn chance_of(name: &str, seed: u64, (factor, start): (u64, u64)) -> Chance {
    let hash = name.bytes().fold(start, |hash, byte| hash.wrapping_mul(131).wrapping_add(u64::from(byte)));
    Chance::new((seed * factor).wrapping_add(hash))
}

/// Draws the requests of `duration` seconds; returns them with that duration.
pub(super) fn draw(file: &ScenarioFile, rate: Option<f64>, duration: f64, seed: u64) -> (Vec<Arrival>, f64) {
    let arrivals = match (&file.stream, file.work) {
        (Some(stream), _) => draw_streams(file, stream, rate.unwrap_or_default(), duration, seed),
        (None, Some(work)) => draw_plain(file, work, rate, duration, seed),
        (None, None) => Vec::new(),
    };
    (arrivals, duration)
}

/// A Poisson stream at the highest rate, thinned to the present one. Every draw is made for the thinned requests too, so
/// the requests stay the same when only the rate changes.
fn draw_plain(file: &ScenarioFile, work: Work, rate: Option<f64>, duration: f64, seed: u64) -> Vec<Arrival> {
    let mut chance = chance_of(&file.name, seed, PLAIN);
    let table = &file.arrivals;
    let points = table.rates.clone().unwrap_or_else(|| vec![(0.0, rate.unwrap_or_default())]);
    let peak = points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let peak = peak * table.burst.map_or(1.0, |burst| burst.high);
    let (mut arrivals, mut at) = (Vec::new(), 0.0);
    let (mut bursting, mut switch) = (false, 0.0);
    loop {
        at += chance.exponential() / peak;
        if at >= duration {
            return arrivals;
        }
        let mut present = rate_at(&points, at);
        if let Some(burst) = &table.burst {
            while at > switch {
                bursting = !bursting;
                switch += chance.exponential() * if bursting { burst.high_for } else { burst.low_for };
            }
            present *= if bursting { burst.high } else { burst.low };
        }
        let accepted = chance.unit() < present / peak;
        let arrival = Arrival {
            at,
            work: work.draw(&mut chance),
            prefill: 0.0,
            tokens: 0.0,
            coin: chance.unit(),
            client: chance.below(CLIENTS) as u32,
            balancer: chance.below(file.balancers),
        };
        if accepted {
            arrivals.push(arrival);
        }
    }
}

/// The line through `points` at `at`, continuous from the right; before the first and after the last it is level.
fn rate_at(points: &[(f64, f64)], at: f64) -> f64 {
    let after = points.partition_point(|(second, _)| *second <= at);
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (Some((t0, r0)), Some((t1, r1))) => r0 + (r1 - r0) * (at - t0) / (t1 - t0),
        (Some((_, rate)), None) | (None, Some((_, rate))) => *rate,
        (None, None) => 0.0,
    }
}

fn draw_streams(file: &ScenarioFile, stream: &StreamTable, rate: f64, duration: f64, seed: u64) -> Vec<Arrival> {
    let mut chance = chance_of(&file.name, seed, STREAM);
    let (mut arrivals, mut at) = (Vec::new(), 0.0);
    loop {
        at += chance.exponential() / rate;
        if at >= duration {
            return arrivals;
        }
        let mut prompt = chance.log_normal(stream.prompt, stream.prompt_spread).max(1.0);
        let output = chance.log_normal(stream.output, stream.output_spread).max(1.0).ceil();
        if stream.long_share > 0.0 && chance.unit() < stream.long_share {
            prompt *= stream.long_factor;
        }
        let (client, coin) = (chance.below(CLIENTS) as u32, chance.unit());
        let balancer = chance.below(file.balancers);
        arrivals.push(streamed(stream, at, (prompt, output), (client, coin, balancer)));
    }
}

fn streamed(
    stream: &StreamTable,
    at: f64,
    (prompt, output): (f64, f64),
    (client, coin, balancer): (u32, f64, usize),
) -> Arrival {
    let prefill = prompt / stream.prefill_rate + stream.overhead;
    let work = prefill + output / stream.decode_rate;
    Arrival { at, work, prefill, tokens: output, client, coin, balancer }
}

/// Requests from a CSV of arrival time in seconds, input tokens, output tokens. A first line that is no number is a
/// heading; `#` begins a comment. Returns them in order of arrival, from second 0, with the time of the last.
pub(super) fn from_trace(file: &ScenarioFile, text: &str, seed: u64) -> Result<(Vec<Arrival>, f64), String> {
    let stream = file.stream.as_ref().ok_or("a trace needs a [stream] table for its rates")?;
    let mut chance = chance_of(&file.name, seed, STREAM);
    let mut arrivals = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<Option<f64>> = line.split(',').take(3).map(|field| field.trim().parse().ok()).collect();
        let [Some(at), Some(input), Some(output)] = fields[..] else {
            if arrivals.is_empty() {
                continue;
            }
            return Err(format!("trace line {}: three numbers expected, got {line:?}", index + 1));
        };
        if !(at.is_finite() && input >= 0.0 && output >= 0.0 && (input + output).is_finite()) {
            return Err(format!("trace line {}: numbers out of range: {line:?}", index + 1));
        }
        if arrivals.len() >= LONGEST_TRACE {
            return Err(format!("trace: more than {LONGEST_TRACE} requests"));
        }
        let who = (chance.below(CLIENTS) as u32, chance.unit(), chance.below(file.balancers));
        arrivals.push(streamed(stream, at, (input, output.max(1.0)), who));
    }
    arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
    let first = arrivals.first().ok_or("the trace holds no request")?.at;
    for arrival in &mut arrivals {
        arrival.at -= first;
    }
    let last = arrivals.last().map_or(0.0, |arrival| arrival.at);
    if file.duration.is_some_and(|duration| duration < last) {
        arrivals.retain(|arrival| file.duration.is_some_and(|duration| arrival.at < duration));
    }
    Ok((arrivals, file.duration.unwrap_or(last.max(1.0) + 1e-9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_line_jumps_where_a_second_is_given_twice() {
        let points = [(0.0, 10.0), (30.0, 10.0), (31.0, 20.0), (50.0, 20.0), (50.0, 10.0)];
        for (at, rate) in [(0.0, 10.0), (30.5, 15.0), (40.0, 20.0), (49.999, 20.0), (50.0, 10.0), (99.0, 10.0)] {
            assert!((rate_at(&points, at) - rate).abs() < 1e-9, "at {at}");
        }
    }
}
