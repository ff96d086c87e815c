//! The names of everything that can run in the simulator.
//!
//! The product's strategies have the contract's names; `rl` takes settings (`rl:discount_factor=0.9:sla=auto`). Peers have
//! short names, and `+` adds to any of them: `+envoy`, `+accrual`, `+tuned` (passive ejection), `+told` (weights in
//! proportion to true capacity), `+first_byte`, `+per_token`, `+body=SHARE` (what streams feed).

use std::time::{Duration, Instant};

use super::contender::{Contender, OfProduct};
use super::peers::{
    C3, Ejecting, EjectionRule, Feeding, LeastConnections, PeakEwma, PowerOfTwo, Prequal, ResponseTimeConnections,
    StreamFeed, WeightedLeastRequest,
};
use super::scenario::Scenario;
use super::server::ServerPlan;
use crate::config::{RlAgent, RlPlan, RlTie, StrategyKind, StrategyPlan};

/// The fourteen peers that the agent is measured by, each with its settings at their best.
pub const TUNED_PEERS: [&str; 14] = [
    "lc+envoy",
    "p2c+envoy",
    "wlr+envoy",
    "pewma+accrual",
    "pewma_full+accrual",
    "lrtc+accrual",
    "c3+accrual",
    "prequal",
    "prequal_5",
    "wlr+tuned",
    "wlr+accrual",
    "lc+accrual",
    "lrtc+tuned",
    "c3_smooth+eject=3/1/0.5/accrual",
];

/// The same without ejection.
pub const PLAIN_PEERS: [&str; 7] = ["lc", "p2c", "wlr", "pewma", "pewma_full", "lrtc", "c3"];

/// What runs when nobody says what: the product's strategies, then the tuned peers.
pub fn everything() -> impl Iterator<Item = &'static str> {
    std::iter::once("rl")
        .chain(StrategyKind::ALL.into_iter().filter(|kind| *kind != StrategyKind::Rl).map(StrategyKind::name))
        .chain(TUNED_PEERS)
}

/// Time constant of Peak EWMA, seconds.
const PEAK_EWMA_TAU: f64 = 10.0;
/// Step of the latency average of `lrtc`.
const LRTC_STEP: f64 = 0.02;
/// Largest weight, given to the server with the highest capacity.
const HIGHEST_WEIGHT: f64 = 1000.0;

/// One line about each peer, for `--help`.
pub const PEERS: [(&str, &str); 10] = [
    ("lc", "least connections, full scan"),
    ("p2c", "the less loaded of two"),
    ("wlr", "weighted least request, told the true capacities"),
    ("pewma", "Peak EWMA, two choices"),
    ("pewma_full", "Peak EWMA, full scan"),
    ("lrtc", "response time x (in flight + 1), full scan"),
    ("c3", "C3, told queue and service time by the servers"),
    ("c3_smooth", "C3 with slower averages and exponent 2"),
    ("prequal", "Prequal, 3 probes a request"),
    ("prequal_5", "Prequal, 5 probes a request, each used once"),
];

/// Makes the contender `name` for one balancer before `scenario`.
///
/// # Errors
/// Names what is not known, and what is.
pub fn contender(name: &str, scenario: &Scenario, seed: u64, start: Instant) -> Result<Box<dyn Contender>, String> {
    let mut parts = name.split('+');
    let base = parts.next().unwrap_or_default();
    let mut told = base == StrategyKind::WeightedRoundRobin.name();
    let mut rule = None;
    let mut feed = None;
    for part in parts {
        if let Some(ejects) = ejection(part)? {
            rule = Some(ejects);
            continue;
        }
        match part {
            "told" => told = true,
            "first_byte" => feed = Some(StreamFeed::FirstByte),
            "per_token" => feed = Some(StreamFeed::PerToken),
            other => match other.strip_prefix("body=") {
                Some(share) => feed = Some(StreamFeed::FirstByteAndBody(number(share)?)),
                None => return Err(format!("{name:?}: +{other} is not known")),
            },
        }
    }
    let mut made = match peer(base, seed) {
        Some(peer) => peer,
        None => {
            let plan = product(base, scenario)?;
            let weights = if told { capacities(&scenario.servers) } else { Vec::new() };
            Box::new(OfProduct::new(&plan, scenario, &weights, seed, start))
        }
    };
    if let Some(feed) = feed {
        made = Box::new(Feeding::new(made, feed));
    }
    if let Some(rule) = rule {
        made = Box::new(Ejecting::new(made, rule));
    }
    Ok(made)
}

fn peer(name: &str, seed: u64) -> Option<Box<dyn Contender>> {
    Some(match name {
        "lc" => Box::new(LeastConnections::default()),
        "p2c" => Box::new(PowerOfTwo::new(seed)),
        "wlr" => Box::new(WeightedLeastRequest::default()),
        "pewma" => Box::new(PeakEwma::new(seed, false, PEAK_EWMA_TAU)),
        "pewma_full" => Box::new(PeakEwma::new(seed, true, PEAK_EWMA_TAU)),
        "lrtc" => Box::new(ResponseTimeConnections::new(LRTC_STEP)),
        "c3" => Box::new(C3::new(0.1, 3.0)),
        "c3_smooth" => Box::new(C3::new(0.02, 2.0)),
        "prequal" => Box::new(Prequal::new(seed, 0.84, 3, 3)),
        "prequal_5" => Box::new(Prequal::new(seed, 0.84, 1, 5)),
        _ => return None,
    })
}

/// A strategy of the product by the contract's name, with settings behind colons.
fn product(text: &str, scenario: &Scenario) -> Result<StrategyPlan, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let tabular = name == "rl_tabular";
    let kind = if tabular { Some(StrategyKind::Rl) } else { StrategyKind::from_name(name) };
    let kind = kind.ok_or_else(|| {
        let known: Vec<_> = StrategyKind::ALL.iter().map(|kind| kind.name()).collect();
        let peers: Vec<_> = PEERS.iter().map(|(name, _)| *name).collect();
        format!("there is no strategy {name:?}; known: {}, rl_tabular; peers: {}", known.join(", "), peers.join(", "))
    })?;
    let mut plan = StrategyPlan::new(kind);
    if tabular {
        plan.rl = RlPlan::for_agent(RlAgent::Tabular);
    } else {
        // The operator knows his objective, so the agent is told it.
        plan.rl.sla = Some(Duration::from_secs_f64(scenario.sla));
    }
    for setting in parts {
        let (key, value) = setting.split_once('=').ok_or_else(|| format!("{setting:?} is not KEY=VALUE"))?;
        set(&mut plan.rl, key, value)?;
    }
    Ok(plan)
}

fn set(plan: &mut RlPlan, key: &str, value: &str) -> Result<(), String> {
    match key {
        "learning_rate" => plan.learning_rate = number(value)?,
        "discount_factor" => plan.discount_factor = number(value)?,
        "initial_epsilon" => plan.initial_epsilon = number(value)?,
        "epsilon_decay" => plan.epsilon_decay = number(value)?,
        "min_epsilon" => plan.min_epsilon = number(value)?,
        "ucb_c" => plan.ucb_c = number(value)?,
        "tolerance" => plan.tolerance = number(value)?,
        "rotation_after" => plan.rotation_after = number(value)? as u32,
        "diversity_threshold" => plan.diversity_threshold = number(value)?,
        "diversity_boost" => plan.diversity_boost = number(value)?,
        "stream_weight" => plan.stream_weight = number(value)?,
        "errors" => plan.reward.errors = number(value)?,
        "stability" => plan.reward.stability = number(value)?,
        "decision_cache" => plan.cache.decision = Duration::from_secs_f64(number(value)?.max(0.0)),
        "sla" if value == "auto" => plan.sla = None,
        "sla" => plan.sla = Some(Duration::from_secs_f64(number(value)?.max(0.0))),
        "tie" if value == "lru" => plan.tie = RlTie::Lru,
        "tie" if value == "random" => plan.tie = RlTie::Random,
        _ => return Err(format!("{key}={value}: no such setting")),
    }
    Ok(())
}

/// The name of a peer without its passive ejection, and how many failures in a row it takes until that acts; a run in
/// which no server failed so often is the same with and without. `None`: not a peer.
pub(super) fn without_ejection(name: &str) -> Option<(String, u32)> {
    peer(name.split('+').next()?, 0)?;
    let mut needed = u32::MAX;
    let mut kept = Vec::new();
    for part in name.split('+') {
        match ejection(part).ok()? {
            Some(rule) => needed = rule.failures,
            None => kept.push(part),
        }
    }
    Some((kept.join("+"), needed))
}

/// The rule that a part of a name stands for; `None`: it stands for something else.
fn ejection(part: &str) -> Result<Option<EjectionRule>, String> {
    Ok(match part {
        "envoy" => Some(EjectionRule::ENVOY),
        "accrual" => Some(EjectionRule::ACCRUAL),
        "tuned" => Some(EjectionRule::TUNED),
        other => other.strip_prefix("eject=").map(spelled_out).transpose()?,
    })
}

fn spelled_out(text: &str) -> Result<EjectionRule, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [failures, base, share, kind] = parts[..] else {
        return Err(format!("{text:?} is not FAILURES/SECONDS/SHARE/accrual|linear"));
    };
    Ok(EjectionRule {
        failures: number(failures)? as u32,
        base: number(base)?,
        share: number(share)?,
        accrual: kind == "accrual",
    })
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| format!("{text:?} is not a number"))
}

/// Weights in proportion to true capacity.
fn capacities(servers: &[ServerPlan]) -> Vec<u32> {
    let highest = servers.iter().map(ServerPlan::capacity).fold(f64::MIN_POSITIVE, f64::max);
    servers.iter().map(|server| (HIGHEST_WEIGHT * server.capacity() / highest).round().max(1.0) as u32).collect()
}
