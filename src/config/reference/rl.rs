//! Keys of the learning agent, `[pools.NAME.rl]`.

use super::Kind::{Choice, Integer, Number, Table, Text};
use super::*;

pub(in crate::config) static RL: Section = Section {
    path: "pools.NAME.rl",
    about: "Settings of the strategy `rl`. A key in the file wins over the preset, the preset over the agent's default; the \
            defaults shown are the adaptive agent's.",
    keys: &[
        key(
            "agent",
            Choice(&["adaptive", "tabular"]),
            "\"adaptive\"",
            "Which agent; tabular is the guide's to the letter.",
        ),
        key(
            "preset",
            Choice(&["", "production", "development"]),
            "\"\"",
            "One of the guide's two tuning sets; tabular only.",
        ),
        key("learning_rate", Number(1e-6, 1.0), "0.1", "α."),
        key("discount_factor", Number(0.0, 0.999), "0.75", "γ; tabular: 0.95."),
        key("initial_epsilon", Number(0.0, 1.0), "0.3", "ε, the share of exploration, at the start."),
        key(
            "epsilon_decay",
            Number(0.0, 1.0),
            "0.998",
            "Factor of ε per decision; tabular: per episode of 100 decisions.",
        ),
        key("min_epsilon", Number(0.0, 1.0), "0.01", "Floor of ε; tabular: 0.05."),
        key("ucb_c", Number(0.0, 1000.0), "2.0", "Weight of uncertainty when exploring (UCB)."),
        key(
            "tolerance",
            Number(0.0, 1000.0),
            "0.05",
            "Backends this close to the best count as equal; relative to the best cost, tabular: absolute.",
        ),
        key(
            "rotation_after",
            Integer(0, 1_000_000),
            "3",
            "Picks in a row before another within the tolerance is taken; 0: never.",
        ),
        key("diversity_threshold", Number(0.0, 1.0), "0.6", "Normalised entropy of picks below which ε is raised."),
        key("diversity_boost", Number(0.0, 1.0), "0.3", "By how much."),
        key(
            "sla",
            Text("duration or \"auto\""),
            "\"auto\"",
            "Latency that an error is measured in; auto: 10 × the pool's median level, tabular: 500ms.",
        ),
        key(
            "tie",
            Choice(&["lru", "random"]),
            "\"lru\"",
            "Among equals: least recently used; random suits several proxies.",
        ),
        key(
            "stream_weight",
            Number(0.0, 10.0),
            "0.1",
            "Weight of the time after the first byte in a stream's latency.",
        ),
        example("reward", Table, "{}", "Weights of the reward."),
        example("cache", Table, "{}", "Times to live."),
        example("store", Table, "{}", "Where learned state lives."),
        example("guardrail", Table, "{}", "Falls back when the agent does worse than a plain strategy."),
    ],
};

pub(in crate::config) static REWARD: Section = Section {
    path: "pools.NAME.rl.reward",
    about: "Weights of the reward's five terms.",
    keys: &[
        key("latency", Number(0.0, 1000.0), "0.4", "Latency."),
        key("errors", Number(0.0, 1000.0), "0.4", "Errors."),
        key("throughput", Number(0.0, 1000.0), "0.1", "Throughput."),
        key("balance", Number(0.0, 1000.0), "0.1", "Even load."),
        key("stability", Number(0.0, 1000.0), "0.5", "Consistent decisions."),
    ],
};

pub(in crate::config) static CACHE: Section = Section {
    path: "pools.NAME.rl.cache",
    about: "How long the agent holds what it computed.",
    keys: &[
        key("decision", lasting_or_off(HOUR), "\"0ms\"", "Choices; tabular only, there 100ms."),
        key("metrics", lasting_or_off(HOUR), "\"1s\"", "CPU, memory and the other signals."),
        key("service", lasting_or_off(HOUR), "\"5s\"", "List of backends with their weights."),
        key("state", lasting_or_off(HOUR), "\"5s\"", "Encoded states."),
        key("max_entries", Integer(1, 10_000_000), "1000", "Entries that each may hold."),
    ],
};

pub(in crate::config) static STORE: Section = Section {
    path: "pools.NAME.rl.store",
    about: "Where learned state lives across restarts.",
    keys: &[
        key("path", Text("path"), "\"state/NAME.rl\"", "The file, written whole or not at all; empty: nowhere."),
        key("interval", Kind::Duration(SECOND, DAY), "\"30s\"", "How often it is written."),
    ],
};

pub(in crate::config) static GUARDRAIL: Section = Section {
    path: "pools.NAME.rl.guardrail",
    about: "A share of requests goes by a plain strategy; when the agent does worse, the plain one takes over for a while.",
    keys: &[
        key("control", Number(0.0, 0.5), "0.02", "Share of requests routed by the baseline; 0: no guardrail."),
        key("baseline", Choice(STRATEGIES), "\"power_of_two\"", "The plain strategy; not `rl`."),
        key("window", Kind::Duration(SECOND, DAY), "\"30s\"", "Length of a comparison."),
        key("windows", Integer(1, 1000), "3", "Comparisons in a row that must be lost."),
        key("hold", lasting(DAY), "\"5m\"", "How long the baseline then rules."),
    ],
};
