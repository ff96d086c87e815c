//! Random scenarios: set and index say which, a seed draws its requests. They are what the agent is judged by, since the
//! fixed suite was looked at while it was designed. Everything is drawn from one stream in a fixed order, so a set is
//! the same for everybody.

use super::chance::Chance;
use super::scenario::{Arrival, Change, Event, Scenario};
use super::server::{Fault, ServerPlan, Sharing};

/// Distributions of work with mean 1.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Exponential,
    LogNormal(f64),
    /// Share of long requests, and how many times longer they are.
    Bimodal(f64, f64),
    /// Exponent; truncated at a thousand times the least.
    Pareto(f64),
}

/// Truncation of the Pareto distribution.
const PARETO_SPAN: f64 = 1000.0;

impl Unit {
    fn draw(self, chance: &mut Chance) -> f64 {
        match self {
            Self::Exponential => chance.exponential(),
            Self::LogNormal(spread) => chance.log_normal(1.0, spread),
            Self::Bimodal(share, ratio) => {
                let short = 1.0 / (1.0 - share + share * ratio);
                let (mean, spread) = if chance.unit() < share { (short * ratio, 0.6) } else { (short, 0.4) };
                chance.log_normal(mean, spread)
            }
            Self::Pareto(alpha) => {
                let kept = 1.0 - PARETO_SPAN.powf(-alpha);
                let mean = alpha / (alpha - 1.0) * (1.0 - PARETO_SPAN.powf(1.0 - alpha)) / kept;
                (1.0 - chance.unit() * kept).powf(-1.0 / alpha) / mean
            }
        }
    }
}

/// How requests arrive.
#[derive(Debug, Clone, Copy)]
enum Arriving {
    Poisson,
    /// Multiple of the rate in a burst; mean length of a burst in time units (between bursts twice that).
    Bursts(f64, f64),
    /// Amplitude; two periods a run.
    Sine(f64),
}

impl Arriving {
    fn peak(self) -> f64 {
        match self {
            Self::Poisson => 1.0,
            Self::Bursts(high, _) => high,
            Self::Sine(amplitude) => 1.0 + amplitude,
        }
    }
}

/// A stretch of time during which something holds for a server.
#[derive(Debug, Clone, Copy)]
struct Stretch<T> {
    server: usize,
    from: f64,
    to: f64,
    what: T,
}

impl<T> Stretch<T> {
    /// The same stretch of something else.
    fn with<U>(&self, what: U) -> Stretch<U> {
        Stretch { server: self.server, from: self.from, to: self.to, what }
    }

    fn covers(&self, server: usize, at: f64) -> bool {
        self.server == server && self.from <= at && at < self.to
    }
}

/// Everything that happens to the servers.
#[derive(Debug, Default)]
struct Trouble {
    speeds: Vec<Stretch<f64>>,
    faults: Vec<Stretch<Fault>>,
    kills: Vec<(f64, usize)>,
    /// (when, who, joins)
    members: Vec<(f64, usize, bool)>,
    first: f64,
    names: Vec<&'static str>,
    /// A timeout of clients that replaces the usual, in mean works.
    impatience: Option<f64>,
}

/// What the drawing of events needs to know.
#[derive(Debug, Clone, Copy)]
struct Frame {
    servers: usize,
    duration: f64,
    /// The time unit of events, seconds.
    unit: f64,
}

/// Factor below which a server counts as standing still.
const STILL: f64 = 1e-7;

/// Scenario `index` of set `set`, with the requests of `seed`.
pub fn scenario(set: u64, index: u64, seed: u64) -> Scenario {
    let base = set.wrapping_mul(1_000_003).wrapping_add(index);
    let chance = &mut Chance::new(base);
    let (servers, mut mean_work) = draw_servers(chance);
    let work = draw_work(chance);
    let mut load = chance.between(0.2, 0.95);
    let kind = chance.unit();
    let (high, dwell) = (chance.between(1.3, 1.8), chance.log_between(0.3, 3.0));
    let amplitude = chance.between(0.2, 0.5);
    let arriving = if kind < 0.5 {
        Arriving::Poisson
    } else if kind < 0.8 {
        Arriving::Bursts(high, dwell)
    } else {
        Arriving::Sine(amplitude)
    };
    load = load.min(1.1 / arriving.peak());
    let balancers = [1, 1, 1, 2, 3, 4][chance.below(6)];
    let capacity: f64 = servers.iter().map(ServerPlan::capacity).sum();
    // At most 150,000 requests in the shortest run.
    if load * capacity / mean_work * 40.0 > 150e3 {
        mean_work = load * capacity * 40.0 / 150e3;
    }
    let duration = (50e3 * mean_work / (load * capacity)).clamp(40.0, 900.0);
    let sla = (chance.between(5.0, 15.0) * mean_work).max(0.02);
    let timeout = (chance.between(30.0, 100.0) * mean_work).clamp(2.0, 120.0);
    let frame = Frame { servers: servers.len(), duration, unit: (5.0 * mean_work).max(1.0) };
    let trouble = draw_trouble(chance, frame);
    let timeout = trouble.impatience.map_or(timeout, |patience| (patience * mean_work).max(0.01));
    let (events, worst) = operations(&trouble, &servers);
    if chance.unit() < 0.8 {
        load = load.min(0.97 * worst / capacity).max(0.1);
    }
    let rate = load * capacity / mean_work;
    let requests = Chance::new(base.wrapping_add(7_777_777 * (seed + 1)));
    let arrivals = draw_arrivals(requests, (rate, arriving), (mean_work, work), frame, balancers);
    let mut plans = servers;
    for (at, server, _) in &trouble.members {
        if *at == 0.0
            && let Some(plan) = plans.get_mut(*server)
        {
            plan.present = false;
        }
    }
    Scenario {
        name: name(index, &plans, (load, mean_work, balancers), &trouble),
        servers: plans,
        arrivals,
        events,
        balancers,
        timeout,
        sla,
        first_byte_sla: 0.0,
        warmup: 10.0_f64.min(duration * 0.15),
        duration,
        disturbed_at: if trouble.first.is_finite() { trouble.first.max(1.0) } else { 0.0 },
        mean_work,
    }
}

/// Whether a random scenario contains events of these kinds, by its name.
pub fn has(name: &str, kinds: &[&str]) -> bool {
    let events = name.rsplit('_').next().unwrap_or_default();
    events.split('+').any(|event| kinds.contains(&event))
}

fn name(index: u64, servers: &[ServerPlan], numbers: (f64, f64, usize), trouble: &Trouble) -> String {
    let (load, mean_work, balancers) = numbers;
    let kind = match servers.first().map(|server| server.sharing) {
        Some(Sharing::Cores(_)) => "cores",
        Some(Sharing::Batch(_)) => "batch",
        Some(Sharing::Slots) | None => "slots",
    };
    let events = if trouble.names.is_empty() { "calm".to_owned() } else { trouble.names.join("+") };
    format!("g{index:03}_{}{kind}_{:.0}ms_{:.0}pc_{balancers}lb_{events}", servers.len(), mean_work * 1e3, load * 100.0)
}

fn draw_servers(chance: &mut Chance) -> (Vec<ServerPlan>, f64) {
    let count = if chance.unit() < 0.5 { 6 } else { chance.log_between(2.0, 20.99) as usize };
    let kind = chance.unit();
    let batching = kind >= 0.75;
    let mean_work = if batching { chance.log_between(0.1, 5.0) } else { chance.log_between(0.002, 5.0) };
    let size = if kind < 0.5 {
        chance.log_between(1.0, 16.99).floor()
    } else if !batching {
        chance.log_between(1.0, 8.99).floor()
    } else {
        chance.log_between(4.0, 32.99).floor()
    };
    let slowdown = chance.between(0.02, 0.15);
    let queue = chance.log_between(20.0, 400.0) as usize;
    let unequal = chance.unit();
    let mut draw = || {
        let (mut speed, mut size) = (1.0, size);
        if (0.3..0.6).contains(&unequal) {
            speed = chance.between(0.8, 1.25);
        } else if (0.6..0.85).contains(&unequal) {
            speed = chance.log_between(0.3, 3.0);
        } else if unequal >= 0.85 {
            speed = chance.between(0.8, 1.25);
            size = (size * [0.5, 1.0, 2.0][chance.below(3)]).max(1.0);
        }
        let plan = ServerPlan {
            slots: size as usize,
            speed,
            sharing: Sharing::Slots,
            queue,
            present: true,
            prefill: 1.0,
            decode: 1.0,
        };
        if kind < 0.5 {
            plan
        } else if !batching {
            ServerPlan { slots: 400, sharing: Sharing::Cores(size), queue: 0, ..plan }
        } else {
            ServerPlan { sharing: Sharing::Batch(slowdown), ..plan }
        }
    };
    ((0..count).map(|_| draw()).collect(), mean_work)
}

fn draw_work(chance: &mut Chance) -> Unit {
    let kind = chance.unit();
    if kind < 0.3 {
        Unit::Exponential
    } else if kind < 0.65 {
        Unit::LogNormal(chance.between(0.3, 1.5))
    } else if kind < 0.8 {
        let share = chance.between(0.05, 0.2);
        Unit::Bimodal(share, chance.between(10.0, 40.0))
    } else {
        Unit::Pareto(chance.between(1.5, 2.5))
    }
}

fn draw_trouble(chance: &mut Chance, frame: Frame) -> Trouble {
    let count = match chance.unit() {
        share if share < 0.25 => 0,
        share if share < 0.6 => 1,
        share if share < 0.85 => 2,
        _ => 3,
    };
    let mut trouble = Trouble { first: f64::INFINITY, ..Trouble::default() };
    for _ in 0..count {
        let kind = chance.below(10);
        let from = chance.between(0.3, 0.6) * frame.duration;
        let lasting = chance.between(0.1, 0.3) * frame.duration;
        let lasting = lasting.max(4.0 * frame.unit).min(frame.duration * 0.9 - from);
        trouble.first = trouble.first.min(from);
        let server = chance.below(frame.servers);
        let span = Stretch { server, from, to: from + lasting, what: () };
        draw_event(kind, chance, frame, span, &mut trouble);
    }
    trouble
}

/// Draws one event of that kind.
fn draw_event(kind: usize, chance: &mut Chance, frame: Frame, span: Stretch<()>, trouble: &mut Trouble) {
    let name = match kind {
        0 => ramp(chance, span, trouble),
        1 => periodic(chance, frame, trouble),
        2 => freezes(chance, frame, trouble),
        3 => crash(chance, frame, span, trouble),
        4 => fast_errors(chance, frame, span, trouble),
        5 => {
            let share = chance.between(0.05, 1.0);
            trouble.faults.push(span.with(Fault::FailSlow(share)));
            "slowerr"
        }
        6 => flapping(chance, frame, span, trouble),
        7 => correlated(chance, frame, span, trouble),
        8 => scaling(frame, span, trouble),
        _ => {
            trouble.impatience = Some(chance.between(6.0, 15.0));
            "ctimeout"
        }
    };
    trouble.names.push(name);
}

/// The speed falls in twenty steps, then recovers at once.
fn ramp(chance: &mut Chance, span: Stretch<()>, trouble: &mut Trouble) -> &'static str {
    let low = chance.between(0.1, 0.5);
    let lasting = span.to - span.from;
    for step in 0..20 {
        let (step, next) = (f64::from(step), f64::from(step + 1));
        let factor = 1.0 - (1.0 - low) * next / 20.0;
        let (from, to) = (span.from + lasting * step / 20.0, span.from + lasting * next / 20.0);
        trouble.speeds.push(Stretch { server: span.server, from, to, what: factor });
    }
    "ramp"
}

/// All, or half, of the servers are slow in turn for the whole run.
fn periodic(chance: &mut Chance, frame: Frame, trouble: &mut Trouble) -> &'static str {
    let factor = chance.between(0.1, 0.4);
    let (period, lasting) = (chance.between(8.0, 20.0) * frame.unit, chance.between(0.5, 3.0) * frame.unit);
    let count = if chance.unit() < 0.5 { frame.servers } else { (frame.servers / 2).max(1) };
    for server in 0..count {
        let mut from = 2.0 + period * server as f64 / count as f64;
        while from < frame.duration {
            trouble.speeds.push(Stretch { server, from, to: from + lasting, what: factor });
            from += period;
        }
    }
    trouble.first = trouble.first.min(2.0);
    "periodic"
}

/// Every server stands still now and then.
fn freezes(chance: &mut Chance, frame: Frame, trouble: &mut Trouble) -> &'static str {
    let lasting = chance.log_between(0.1, 1.0) * frame.unit;
    let gap = chance.between(5.0, 15.0) * frame.unit;
    for server in 0..frame.servers {
        let mut from = chance.exponential() * gap;
        while from < frame.duration {
            trouble.speeds.push(Stretch { server, from, to: from + lasting, what: STILL });
            from += lasting + 0.3 * frame.unit + chance.exponential() * gap;
        }
    }
    "freeze"
}

/// A server dies, refuses, and comes back slow.
fn crash(chance: &mut Chance, frame: Frame, span: Stretch<()>, trouble: &mut Trouble) -> &'static str {
    let cold = chance.between(3.0, 10.0) * frame.unit;
    trouble.faults.push(span.with(Fault::Refuse));
    trouble.kills.push((span.from, span.server));
    trouble.speeds.push(Stretch { server: span.server, from: span.to, to: span.to + cold, what: 0.3 });
    "crash"
}

/// A server, sometimes two, fails a share of its requests at once.
fn fast_errors(chance: &mut Chance, frame: Frame, span: Stretch<()>, trouble: &mut Trouble) -> &'static str {
    let shares = [chance.between(0.05, 0.3), chance.between(0.3, 1.0), 1.0];
    let fault = Fault::FailFast(shares[chance.below(3)]);
    trouble.faults.push(span.with(fault));
    if frame.servers >= 5 && chance.unit() < 0.3 {
        trouble.faults.push(Stretch { server: (span.server + 1) % frame.servers, ..span.with(fault) });
    }
    "fasterr"
}

/// A server is bad and good in turn.
fn flapping(chance: &mut Chance, frame: Frame, span: Stretch<()>, trouble: &mut Trouble) -> &'static str {
    let half = chance.between(1.0, 10.0) * frame.unit;
    let kind = chance.below(3);
    let (share, factor) = (chance.between(0.5, 1.0), chance.between(0.1, 0.3));
    let end = span.from + chance.between(0.3, 0.5) * frame.duration;
    let mut from = span.from;
    while from < end {
        let bad = Stretch { server: span.server, from, to: from + half, what: () };
        match kind {
            0 => trouble.faults.push(bad.with(Fault::FailFast(share))),
            1 => trouble.speeds.push(bad.with(factor)),
            _ => trouble.faults.push(bad.with(Fault::Refuse)),
        }
        from += 2.0 * half;
    }
    "flap"
}

/// Several servers slow down together.
fn correlated(chance: &mut Chance, frame: Frame, span: Stretch<()>, trouble: &mut Trouble) -> &'static str {
    let (factor, share) = (chance.between(0.3, 0.7), chance.between(0.3, 0.6));
    for server in 0..frame.servers {
        if chance.unit() < share {
            trouble.speeds.push(Stretch { server, ..span.with(factor) });
        }
    }
    "corr"
}

/// A third of the servers joins cold; later as many others leave.
fn scaling(frame: Frame, span: Stretch<()>, trouble: &mut Trouble) -> &'static str {
    let count = (frame.servers / 3).max(1);
    for server in 0..count.min(frame.servers - 1) {
        trouble.members.push((0.0, server, false));
        trouble.members.push((span.from, server, true));
        let to = span.from + 6.0 * frame.unit;
        trouble.speeds.push(Stretch { server, from: span.from, to, what: 0.4 });
    }
    if frame.servers >= 4 {
        for server in 0..count {
            trouble.members.push((span.to, frame.servers - 1 - server, false));
        }
    }
    "scale"
}

/// Turns stretches into changes, and finds the capacity left at the worst moment (down, refusing or failing more than
/// half counts as lost; standing still does not).
fn operations(trouble: &Trouble, servers: &[ServerPlan]) -> (Vec<Event>, f64) {
    let mut moments = vec![0.0];
    moments.extend(trouble.speeds.iter().flat_map(|stretch| [stretch.from, stretch.to]));
    moments.extend(trouble.faults.iter().flat_map(|stretch| [stretch.from, stretch.to]));
    moments.extend(trouble.members.iter().map(|(at, ..)| *at));
    moments.sort_by(f64::total_cmp);
    moments.dedup();
    let mut present: Vec<_> = servers.iter().map(|server| (server.speed, Fault::None, true)).collect();
    let mut worst: f64 = servers.iter().map(ServerPlan::capacity).sum();
    let mut events = Vec::new();
    for at in moments {
        let mut left = 0.0;
        for (server, (plan, before)) in servers.iter().zip(&mut present).enumerate() {
            let factors = || trouble.speeds.iter().filter(|stretch| stretch.covers(server, at)).map(|s| s.what);
            let frozen = factors().any(|factor| factor < 1e-3);
            let factor: f64 = factors().filter(|factor| *factor >= 1e-3).product();
            let speed = plan.speed * if frozen { STILL } else { factor };
            // Of several faults the latest to start counts.
            let faults = trouble.faults.iter().filter(|stretch| stretch.covers(server, at));
            let fault = faults.max_by(|a, b| a.from.total_cmp(&b.from)).map_or(Fault::None, |stretch| stretch.what);
            let mut joined = trouble.members.iter().filter(|(when, who, _)| *who == server && *when <= at);
            let member = joined.next_back().is_none_or(|(_, _, joins)| *joins);
            let mut push = |change| events.push(Event { at, server, change });
            if speed != before.0 {
                push(Change::Speed(speed));
            }
            if fault != before.1 {
                push(Change::Fault(fault));
            }
            if member != before.2 {
                push(if member { Change::Join } else { Change::Leave });
            }
            *before = (speed, fault, member);
            let lost = !member
                || match fault {
                    Fault::Refuse => true,
                    Fault::FailFast(share) | Fault::FailSlow(share) => share > 0.5,
                    Fault::None => false,
                };
            if !lost {
                left += plan.capacity() * factor;
            }
        }
        worst = worst.min(left);
    }
    events.extend(trouble.kills.iter().map(|(at, server)| Event { at: *at, server: *server, change: Change::Kill }));
    events.sort_by(|a, b| a.at.total_cmp(&b.at));
    (events, worst)
}

fn draw_arrivals(
    mut chance: Chance,
    (rate, arriving): (f64, Arriving),
    (mean_work, work): (f64, Unit),
    frame: Frame,
    balancers: usize,
) -> Vec<Arrival> {
    let peak = rate * arriving.peak();
    let (mut arrivals, mut at) = (Vec::new(), 0.0);
    let (mut bursting, mut switch) = (false, 0.0);
    loop {
        at += chance.exponential() / peak;
        if at >= frame.duration {
            return arrivals;
        }
        let multiple = match arriving {
            Arriving::Poisson => 1.0,
            Arriving::Bursts(high, dwell) => {
                while at > switch {
                    bursting = !bursting;
                    switch += chance.exponential() * dwell * frame.unit * if bursting { 1.0 } else { 2.0 };
                }
                if bursting { high } else { (3.0 - high) / 2.0 }
            }
            Arriving::Sine(amplitude) => 1.0 + amplitude * (4.0 * std::f64::consts::PI * at / frame.duration).sin(),
        };
        let accepted = chance.unit() < rate * multiple / peak;
        let (work, coin) = (mean_work * work.draw(&mut chance), chance.unit());
        let client = chance.below(super::arrivals::CLIENTS) as u32;
        let balancer = chance.below(balancers);
        if accepted {
            arrivals.push(Arrival { at, work, prefill: 0.0, tokens: 0.0, client, coin, balancer });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_the_same_for_everybody() {
        assert_eq!(scenario(1, 7, 0), scenario(1, 7, 0));
        let (a, b) = (scenario(1, 7, 0), scenario(1, 7, 1));
        assert_eq!((&a.servers, &a.events, a.sla), (&b.servers, &b.events, b.sla), "a seed draws requests only");
        assert_ne!(a.arrivals, b.arrivals);
    }

    #[test]
    fn scenarios_stay_within_their_bounds() {
        for index in 0..60 {
            let scenario = scenario(1, index, 0);
            let name = &scenario.name;
            assert!((2..=20).contains(&scenario.servers.len()), "{name}");
            assert!((500..200_000).contains(&scenario.arrivals.len()), "{name}: {}", scenario.arrivals.len());
            assert!((40.0..=900.0).contains(&scenario.duration), "{name}");
            assert!(scenario.events.windows(2).all(|pair| pair[0].at <= pair[1].at), "{name}");
            assert!(scenario.servers.iter().any(|server| server.present), "{name}");
            assert!(scenario.arrivals.iter().all(|arrival| arrival.work > 0.0 && arrival.work.is_finite()), "{name}");
        }
    }

    #[test]
    fn names_tell_the_kinds_of_events() {
        assert!(has("g003_6slots_40ms_70pc_1lb_ramp+flap", &["flap"]));
        assert!(!has("g003_6slots_40ms_70pc_1lb_ramp", &["flap", "crash"]));
    }
}
