//! Settings of strategies: `[pools.NAME.ip_hash]`, `resource_based` and `rl`.

use std::time::Duration;

use toml::de::DeValue;

use crate::config::RlPreset;
use crate::config::plan::*;
use crate::config::reference as keys;
use crate::config::source::Finding;
use crate::config::walk::{Table, to_duration};
use crate::config::words::out_of_range;

pub(super) fn read_strategy(kind: StrategyKind, pool_name: &str, pool: &Table<'_>) -> StrategyPlan {
    StrategyPlan {
        kind,
        ip_hash: read_ip_hash(pool),
        resource_based: read_resource_based(pool),
        rl: read_rl(pool_name, pool),
    }
}

fn read_ip_hash(pool: &Table<'_>) -> IpHashPlan {
    let default = IpHashPlan::default();
    let Some(table) = pool.table("ip_hash", &keys::IP_HASH) else { return default };
    let bounded_load = table.number("bounded_load", default.bounded_load);
    if bounded_load > 0.0 && bounded_load < 1.0 {
        let what = format!("{bounded_load} is below the mean, which some backend must exceed");
        table.wrong("bounded_load", (what, "0 for no bound, or 1.0 and more; 1.25 is usual"));
    }
    IpHashPlan { bounded_load }
}

fn read_resource_based(pool: &Table<'_>) -> ResourceBasedPlan {
    let default = ResourceBasedPlan::default();
    let Some(table) = pool.table("resource_based", &keys::RESOURCE_BASED) else { return default };
    let plan = ResourceBasedPlan {
        cpu: table.number("cpu", default.cpu),
        memory: table.number("memory", default.memory),
        in_flight: table.number("in_flight", default.in_flight),
        ..default
    };
    if plan.cpu + plan.memory + plan.in_flight == 0.0 {
        table.wrong("cpu", ("all shares are 0: every backend would cost the same", "at least one must be above 0"));
    }
    plan
}

/// A key in the file wins over the preset, the preset over the agent's default.
fn read_rl(pool_name: &str, pool: &Table<'_>) -> RlPlan {
    let Some(table) = pool.table("rl", &keys::RL) else {
        let default = RlPlan::default();
        return RlPlan { store: Some(default_store(pool_name, pool)), ..default };
    };
    let agent = table.choice("agent", RlAgent::Adaptive, |word| match word {
        "adaptive" => Some(RlAgent::Adaptive),
        "tabular" => Some(RlAgent::Tabular),
        _ => None,
    });
    let preset = table.choice("preset", None, |word| match word {
        "" => Some(None),
        "production" => Some(Some(RlPreset::Production)),
        "development" => Some(Some(RlPreset::Development)),
        _ => None,
    });
    let default = match (preset, agent) {
        (Some(preset), RlAgent::Tabular) => RlPlan::preset(preset),
        (Some(_), RlAgent::Adaptive) => {
            if !table.walk.at_fault(&table.at("agent")) {
                let hint = "add `agent = \"tabular\"`, or leave the preset out";
                table.wrong("preset", ("presets are the tabular agent's", hint));
            }
            RlPlan::default()
        }
        (None, agent) => RlPlan::for_agent(agent),
    };
    RlPlan {
        agent,
        learning_rate: table.number("learning_rate", default.learning_rate),
        discount_factor: table.number("discount_factor", default.discount_factor),
        initial_epsilon: table.number("initial_epsilon", default.initial_epsilon),
        epsilon_decay: table.number("epsilon_decay", default.epsilon_decay),
        min_epsilon: table.number("min_epsilon", default.min_epsilon),
        ucb_c: table.number("ucb_c", default.ucb_c),
        tolerance: table.number("tolerance", default.tolerance),
        rotation_after: table.integer("rotation_after", default.rotation_after),
        diversity_threshold: table.number("diversity_threshold", default.diversity_threshold),
        diversity_boost: table.number("diversity_boost", default.diversity_boost),
        sla: table.any("sla", |value| sla(value, default.sla)).unwrap_or(default.sla),
        tie: table.choice("tie", default.tie, |word| match word {
            "lru" => Some(RlTie::Lru),
            "random" => Some(RlTie::Random),
            _ => None,
        }),
        reward: read_reward(&table, agent),
        cache: read_cache(&table, default.cache),
        store: read_store(pool_name, &table),
        stream_weight: table.number("stream_weight", default.stream_weight),
        guardrail: read_guardrail(&table, default.guardrail),
    }
}

/// A duration, or `auto`: what the agent does by itself.
fn sla(value: &DeValue<'_>, auto: Option<Duration>) -> Result<Option<Duration>, Finding> {
    const MOST: Duration = Duration::from_secs(24 * 3600);
    if value.as_str() == Some("auto") {
        return Ok(auto);
    }
    let duration = to_duration(value).map_err(|mut what| {
        what.hint = format!("{}, or \"auto\"", what.hint);
        what
    })?;
    if duration.is_zero() || duration > MOST {
        return Err(out_of_range(crate::config::units::show_duration(duration), "1ns", "24h, or \"auto\""));
    }
    Ok(Some(duration))
}

fn read_reward(rl: &Table<'_>, agent: RlAgent) -> RewardPlan {
    let default = RewardPlan::default();
    let Some(table) = rl.table("reward", &keys::REWARD) else { return default };
    let plan = RewardPlan {
        latency: table.number("latency", default.latency),
        errors: table.number("errors", default.errors),
        throughput: table.number("throughput", default.throughput),
        balance: table.number("balance", default.balance),
        stability: table.number("stability", default.stability),
    };
    // The adaptive agent's price of an error is the error's weight over the latency's.
    if agent == RlAgent::Adaptive && plan.latency == 0.0 && !table.walk.at_fault(&table.at("latency")) {
        table.wrong("latency", ("0 leaves errors without a price: it is measured in latency", "above 0, such as 0.4"));
    }
    plan
}

fn read_cache(rl: &Table<'_>, default: RlCachePlan) -> RlCachePlan {
    let Some(table) = rl.table("cache", &keys::CACHE) else { return default };
    RlCachePlan {
        decision: table.duration("decision", default.decision),
        metrics: table.duration("metrics", default.metrics),
        service: table.duration("service", default.service),
        state: table.duration("state", default.state),
        max_entries: table.integer("max_entries", default.max_entries),
    }
}

fn default_store(pool_name: &str, table: &Table<'_>) -> RlStorePlan {
    let path = table.walk.base.join("state").join(format!("{pool_name}.rl"));
    RlStorePlan { path, interval: Duration::from_secs(30) }
}

fn read_store(pool_name: &str, rl: &Table<'_>) -> Option<RlStorePlan> {
    let default = default_store(pool_name, rl);
    let Some(table) = rl.table("store", &keys::STORE) else { return Some(default) };
    let path = table.parsed("path", |text| Ok((!text.is_empty()).then(|| table.walk.base.join(text))));
    let interval = table.duration("interval", default.interval);
    match path {
        Some(Some(path)) => Some(RlStorePlan { path, interval }),
        Some(None) => None,
        None => Some(RlStorePlan { interval, ..default }),
    }
}

fn read_guardrail(rl: &Table<'_>, default: Option<GuardrailPlan>) -> Option<GuardrailPlan> {
    let Some(table) = rl.table("guardrail", &keys::GUARDRAIL) else { return default };
    let default = GuardrailPlan::default();
    let plan = GuardrailPlan {
        control: table.number("control", default.control),
        baseline: table.choice("baseline", default.baseline, StrategyKind::from_name),
        window: table.duration("window", default.window),
        windows: table.integer("windows", default.windows),
        hold: table.duration("hold", default.hold),
    };
    if plan.baseline == StrategyKind::Rl {
        table.wrong("baseline", ("the agent cannot guard itself", "a plain strategy, such as \"power_of_two\""));
    }
    (plan.control > 0.0).then_some(plan)
}
