//! What would another strategy have made of yesterday's traffic? A scenario from Evenkeel's own access log.
//!
//! The log says when each request came, where it went, and how long that took; it does not say how long it would have
//! taken elsewhere. So backends are modelled by what was seen of them: their relative speed in windows of five seconds,
//! the share of requests they failed, and how many they served at once (beyond that, requests wait). The answer is an
//! estimate. It is best where the traffic was spread, and says little of a backend that got hardly any.

use serde::Deserialize;

use super::scenario::{Arrival, Change, Event, Scenario};
use super::server::{Fault, ServerPlan, Sharing};

/// Length of the windows in which speed and failures are estimated, seconds.
const WINDOW: f64 = 5.0;
/// Answers that a window needs before it says something of speed.
const ENOUGH: usize = 5;
/// A window's speed within this factor of the usual is the usual: chance moves medians too.
const UNMOVED: f64 = 1.5;
/// Bounds of a backend's relative speed.
const SPEEDS: (f64, f64) = (0.01, 100.0);
/// Requests that may wait at a backend: the log knows no limit.
const QUEUE: usize = 1_000_000;
/// A failure faster than this share of the usual answer came at once.
const FAST: f64 = 0.2;
/// Without an objective: this many median latencies.
const AUTOMATIC_SLA: f64 = 10.0;
/// Longest log, lines.
const MOST_LINES: usize = 5_000_000;

/// The fields of a log line that matter here.
#[derive(Debug, Deserialize)]
struct Line {
    ts: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    pool: String,
    #[serde(default)]
    backend: String,
    #[serde(default)]
    total_ms: Option<f64>,
    #[serde(default)]
    queue_ms: Option<f64>,
    #[serde(default)]
    end: String,
}

/// A request of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Logged {
    at: f64,
    backend: usize,
    took: f64,
    client: u32,
    outcome: Logs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logs {
    Answered,
    Failed,
    /// The client left: how long it would have taken is unknown.
    Left,
}

/// A log, turned into a scenario.
#[derive(Debug)]
pub struct Replay {
    /// The scenario.
    pub scenario: Scenario,
    /// The pool it is of.
    pub pool: String,
    /// Names of the servers.
    pub backends: Vec<String>,
    /// Lines that were no request to a backend of that pool.
    pub skipped: usize,
    /// Mean latency that the log itself shows, seconds, and failures in percent: what a replay of the strategy that was in
    /// force should come near to.
    pub logged: (f64, f64),
}

/// Reads a log. `pool`: which, when it holds several; `sla`: seconds.
///
/// # Errors
/// There is no usable line, or several pools and none was named.
pub fn read(text: &str, pool: Option<&str>, sla: Option<f64>) -> Result<Replay, String> {
    let (lines, mut skipped) = parse(text)?;
    let pool = which_pool(&lines, pool)?;
    let mut backends: Vec<String> = Vec::new();
    let mut requests = Vec::new();
    let usable = |line: &&(f64, Line)| line.1.pool == pool && !line.1.backend.is_empty();
    for (at, line) in lines.iter().filter(usable) {
        let Some(total) = line.total_ms.filter(|ms| ms.is_finite() && *ms >= 0.0) else { continue };
        let known = backends.iter().position(|name| *name == line.backend);
        let backend = known.unwrap_or_else(|| {
            backends.push(line.backend.clone());
            backends.len() - 1
        });
        let failed = line.status >= 500 || line.status == 429 || line.end.starts_with("backend");
        let outcome = match line.end.as_str() {
            "client_gone" => Logs::Left,
            _ if failed => Logs::Failed,
            _ => Logs::Answered,
        };
        let waited = line.queue_ms.unwrap_or(0.0).clamp(0.0, total);
        let client = line.client.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        requests.push(Logged { at: *at, backend, took: (total - waited) / 1e3, client, outcome });
    }
    skipped += lines.len() - requests.len();
    let first = requests.iter().map(|request| request.at).fold(f64::INFINITY, f64::min);
    if requests.is_empty() {
        return Err(format!("no request to a backend of pool {pool:?}"));
    }
    for request in &mut requests {
        request.at -= first;
    }
    requests.sort_by(|a, b| a.at.total_cmp(&b.at));
    let answered = || requests.iter().filter(|request| request.outcome == Logs::Answered);
    let failures = requests.iter().filter(|request| request.outcome == Logs::Failed).count();
    let mean = answered().map(|request| request.took).sum::<f64>() / answered().count().max(1) as f64;
    let logged = (mean, 100.0 * failures as f64 / requests.len() as f64);
    let scenario = scenario(&requests, &backends, sla)?;
    Ok(Replay { scenario, pool, backends, skipped, logged })
}

/// The lines that are ours, with their moments in seconds, and how many were not.
fn parse(text: &str) -> Result<(Vec<(f64, Line)>, usize), String> {
    let (mut lines, mut skipped) = (Vec::new(), 0);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if lines.len() >= MOST_LINES {
            return Err(format!("more than {MOST_LINES} lines"));
        }
        let parsed = serde_json::from_str::<Line>(line).ok();
        match parsed.and_then(|line| Some((seconds(&line.ts)?, line))) {
            Some(line) => lines.push(line),
            None => skipped += 1,
        }
    }
    if lines.is_empty() { Err("no line of a JSON access log".into()) } else { Ok((lines, skipped)) }
}

fn which_pool(lines: &[(f64, Line)], wanted: Option<&str>) -> Result<String, String> {
    let mut pools: Vec<&str> = Vec::new();
    for (_, line) in lines {
        if !line.pool.is_empty() && !pools.contains(&line.pool.as_str()) {
            pools.push(&line.pool);
        }
    }
    match (wanted, pools.as_slice()) {
        (Some(name), _) if pools.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => Err(format!("no pool {name:?} in the log; it has {}", pools.join(", "))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(format!("the log has several pools ({}): say which with --pool", pools.join(", "))),
    }
}

/// Seconds since 1970 of `2026-11-21T18:00:00.123456Z`.
fn seconds(ts: &str) -> Option<f64> {
    let (date, time) = ts.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<f64>().ok()?, time.next()?.parse::<f64>().ok()?);
    let second = time.next()?.parse::<f64>().ok()?;
    if !((1..=12).contains(&month) && (1..=31).contains(&day)) {
        return None;
    }
    // Days of the proleptic Gregorian calendar, counted from a March so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let century = year.div_euclid(400);
    let of_century = year.rem_euclid(400);
    let days = century * 146_097 + of_century * 365 + of_century / 4 - of_century / 100 + (153 * month + 2) / 5 + day;
    let since_1970 = days - 719_469;
    Some(since_1970 as f64 * 86_400.0 + hour * 3600.0 + minute * 60.0 + second)
}

fn scenario(requests: &[Logged], backends: &[String], sla: Option<f64>) -> Result<Scenario, String> {
    let answers = |backend: usize| {
        requests.iter().filter(move |request| request.backend == backend && request.outcome == Logs::Answered)
    };
    let all = median(requests.iter().filter(|r| r.outcome == Logs::Answered).map(|r| r.took));
    let usual = all.filter(|usual| *usual > 0.0).ok_or("no request was answered")?;
    let duration = requests.last().map_or(1.0, |request| request.at).max(1.0) + 1e-6;
    let mut servers = Vec::new();
    let mut speeds = Vec::new();
    for backend in 0..backends.len() {
        let own = median(answers(backend).map(|request| request.took)).unwrap_or(usual);
        let speed = (usual / own.max(1e-6)).clamp(SPEEDS.0, SPEEDS.1);
        let slots = most_at_once(requests.iter().filter(|request| request.backend == backend));
        servers.push(ServerPlan {
            slots,
            speed,
            sharing: Sharing::Slots,
            queue: QUEUE,
            present: true,
            prefill: 1.0,
            decode: 1.0,
        });
        speeds.push(windows(requests, backend, duration, own, speed));
    }
    let mut events = Vec::new();
    for (server, windows) in speeds.iter().enumerate() {
        let mut before = (servers.get(server).map_or(1.0, |plan| plan.speed), Fault::None);
        for (index, (speed, fault)) in windows.iter().enumerate() {
            let at = index as f64 * WINDOW;
            if *speed != before.0 {
                events.push(Event { at, server, change: Change::Speed(*speed) });
            }
            if *fault != before.1 {
                events.push(Event { at, server, change: Change::Fault(*fault) });
            }
            before = (*speed, *fault);
        }
    }
    events.sort_by(|a, b| a.at.total_cmp(&b.at));
    // A coin per request that stays the same for every strategy; a low-discrepancy sequence wastes no luck.
    let coin = |index: usize| (index as f64 * 0.618_033_988_749_895).fract();
    let arrivals = requests.iter().enumerate().map(|(index, request)| {
        let window = (request.at / WINDOW) as usize;
        let speed = speeds.get(request.backend).and_then(|windows| windows.get(window)).map_or(1.0, |window| window.0);
        let work = if request.outcome == Logs::Answered { request.took * speed } else { usual };
        let (client, coin) = (request.client, coin(index));
        Arrival { at: request.at, work: work.max(1e-6), prefill: 0.0, tokens: 0.0, client, coin, balancer: 0 }
    });
    let arrivals: Vec<_> = arrivals.collect();
    let longest = requests.iter().map(|request| request.took).fold(usual, f64::max);
    let mean_work = arrivals.iter().map(|arrival| arrival.work).sum::<f64>() / arrivals.len().max(1) as f64;
    Ok(Scenario {
        name: "replay".to_owned(),
        servers,
        arrivals,
        events,
        balancers: 1,
        timeout: (longest * 4.0).max(1.0),
        sla: sla.unwrap_or(AUTOMATIC_SLA * usual),
        first_byte_sla: 0.0,
        warmup: 10.0_f64.min(duration * 0.15),
        duration,
        disturbed_at: 0.0,
        mean_work,
    })
}

/// Speed and fault of a backend in each window.
fn windows(requests: &[Logged], backend: usize, duration: f64, own: f64, speed: f64) -> Vec<(f64, Fault)> {
    let count = (duration / WINDOW) as usize + 1;
    let mut answered: Vec<Vec<f64>> = vec![Vec::new(); count];
    let mut failed: Vec<Vec<f64>> = vec![Vec::new(); count];
    for request in requests.iter().filter(|request| request.backend == backend) {
        let window = (request.at / WINDOW) as usize;
        let into = match request.outcome {
            Logs::Answered => &mut answered,
            Logs::Failed => &mut failed,
            Logs::Left => continue,
        };
        if let Some(values) = into.get_mut(window) {
            values.push(request.took);
        }
    }
    let judge = |(answered, failed): (Vec<f64>, Vec<f64>)| {
        let all = answered.len() + failed.len();
        let share = failed.len() as f64 / all.max(1) as f64;
        let fast = median(failed.iter().copied()).is_some_and(|took| took < FAST * own);
        let fault = match (share > 0.0, fast) {
            (false, _) => Fault::None,
            (true, true) => Fault::FailFast(share),
            (true, false) => Fault::FailSlow(share),
        };
        let enough = answered.len() >= ENOUGH;
        let here = median(answered.into_iter()).filter(|_| enough).unwrap_or(own).max(1e-6);
        let moved = here > own * UNMOVED || here < own / UNMOVED;
        let present = if moved { (speed * own / here).clamp(SPEEDS.0, SPEEDS.1) } else { speed };
        (present, fault)
    };
    answered.into_iter().zip(failed).map(judge).collect()
}

/// The most requests that overlapped.
fn most_at_once<'a>(requests: impl Iterator<Item = &'a Logged>) -> usize {
    let mut edges: Vec<(f64, i32)> =
        requests.flat_map(|request| [(request.at, 1), (request.at + request.took, -1)]).collect();
    edges.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut now, mut most) = (0, 1);
    for (_, step) in edges {
        now += step;
        most = most.max(now);
    }
    most as usize
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::runner;
    use super::*;

    #[test]
    fn moments_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00.000000Z"), Some(0.0));
        assert_eq!(seconds("2000-03-01T00:00:00Z"), Some(951_868_800.0));
        assert_eq!(seconds("2026-11-21T18:00:00.5Z"), Some(1_795_284_000.5));
        for wrong in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-21 18:00:00"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    /// A log of two backends, the second three times slower, taken in turn at 50 requests a second.
    fn log() -> String {
        let line = |index: usize| {
            let (backend, took) = if index.is_multiple_of(2) { ("fast", 20.0) } else { ("slow", 60.0) };
            let (second, micros) = (index / 50, index % 50 * 20_000);
            let status = if backend == "slow" && (20..25).contains(&second) { 500 } else { 200 };
            format!(
                "{{\"ts\":\"2026-11-21T18:{:02}:{:02}.{micros:06}Z\",\"client\":\"10.0.0.{}\",\"status\":{status},\
                 \"pool\":\"ai\",\"backend\":\"{backend}\",\"total_ms\":{took},\"queue_ms\":0.0,\"end\":\"ok\"}}\n",
                second / 60,
                second % 60,
                index % 7
            )
        };
        (0..4000).map(line).collect::<String>() + "not a line\n"
    }

    #[test]
    fn a_log_becomes_a_scenario_that_gives_back_what_it_showed() {
        let replay = read(&log(), None, None).unwrap();
        assert_eq!(
            (replay.backends.as_slice(), replay.skipped),
            (["fast".to_owned(), "slow".to_owned()].as_slice(), 1)
        );
        let speeds: Vec<_> = replay.scenario.servers.iter().map(|server| server.speed).collect();
        assert!((speeds[0] / speeds[1] - 3.0).abs() < 1e-9, "{speeds:?}");
        assert_eq!(replay.scenario.arrivals.len(), 4000);
        let failing = replay.scenario.events.iter().filter(|event| event.server == 1);
        assert!(failing.clone().any(|event| event.at == 20.0), "it failed from second 20 on");
        let run = |strategy| runner::single(&replay.scenario, strategy, 0, Instant::now()).unwrap();
        let same = run("round_robin");
        assert!((same.mean / replay.logged.0 - 1.0).abs() < 0.05, "{} {}", same.mean, replay.logged.0);
        assert!((same.error_percent - replay.logged.1).abs() < 1.0, "{} {}", same.error_percent, replay.logged.1);
        assert!(run("rl").j < 0.6 * same.j, "the agent sends next to nothing to the slow one");
    }

    #[test]
    fn several_pools_need_a_name_and_nonsense_is_told() {
        let two = log() + &log().replace("\"ai\"", "\"other\"");
        assert!(read(&two, None, None).unwrap_err().contains("ai, other"));
        assert_eq!(read(&two, Some("other"), None).unwrap().pool, "other");
        assert!(read(&two, Some("third"), None).is_err());
        assert!(read("", None, None).is_err() && read("{}\n", None, None).is_err());
    }
}
