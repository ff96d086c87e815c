//! The table of keys: every table of the configuration with its keys, their kinds, ranges, defaults and meaning.
//!
//! One list serves three: the reader takes ranges and the known names (for "did you mean") from it, tests hold its defaults
//! equal to `defaults.rs` and `conf/full.toml`, and `docs/configuration.md` is generated from it.

mod markdown;
mod pool;
mod rl;
mod server;

use std::time::Duration;

pub use markdown::reference_markdown;
pub(super) use pool::*;
pub(super) use rl::*;
pub(super) use server::*;

/// One table of the file, `[path]`.
#[derive(Debug)]
pub(super) struct Section {
    /// With `NAME` for a name of the operator's choosing and `[]` for an entry of a list.
    pub(super) path: &'static str,
    /// What the table is for, and whether it is off unless written.
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) written: Written,
    pub(super) about: &'static str,
}

/// What a key takes. Ranges are inclusive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Flag,
    Integer(u64, u64),
    Number(f64, f64),
    Duration(Duration, Duration),
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text; the label says of what form.
    Text(&'static str),
    /// A list; the label says of what.
    List(&'static str),
    /// A table with a section of its own.
    Table,
    /// A list of tables with a section of its own.
    Tables,
    /// A table whose keys the operator chooses; the label says what they map.
    Map(&'static str),
}

/// What holds when nobody writes the key, as TOML.
#[derive(Debug, Clone, Copy)]
pub(super) enum Written {
    Default(&'static str),
    /// Off unless written; this is an example.
    Example(&'static str),
    /// Must be written; this is an example.
    Required(&'static str),
}

impl Section {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Its header as one writes it.
    pub(super) fn header(&self) -> String {
        match self.path.strip_suffix("[]") {
            Some(list) => format!("[[{}]]", list.replace("[]", "")),
            None => format!("[{}]", self.path.replace("[]", "")),
        }
    }
}

impl Written {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Default(text) | Self::Example(text) | Self::Required(text) => text,
        }
    }
}

/// Every section, in the order of the contract.
pub(super) static SECTIONS: [&Section; 32] = [
    &ROOT,
    &SERVER,
    &LOG,
    &LISTENER,
    &HTTP2,
    &LIMITS,
    &LISTENER_TLS,
    &CERTIFICATE,
    &ADMIN,
    &ROUTE,
    &POOL,
    &BACKEND,
    &BACKEND_TLS,
    &HEALTH,
    &OUTLIER,
    &SLOW_START,
    &TIMEOUTS,
    &RETRY,
    &QUEUE,
    &STICKY,
    &RESOURCES,
    &SCRAPE,
    &SCRAPE_NAMES,
    &PROMETHEUS,
    &IP_HASH,
    &RESOURCE_BASED,
    &RL,
    &REWARD,
    &CACHE,
    &STORE,
    &GUARDRAIL,
    &ACCESS_LOG,
];

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, written: Written::Default(default), about }
}

const fn example(name: &'static str, kind: Kind, example: &'static str, about: &'static str) -> Key {
    Key { name, kind, written: Written::Example(example), about }
}

const fn required(name: &'static str, kind: Kind, example: &'static str, about: &'static str) -> Key {
    Key { name, kind, written: Written::Required(example), about }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A span of time that must pass: 1 ms to `most`.
const fn lasting(most: Duration) -> Kind {
    Kind::Duration(MILLISECOND, most)
}

/// A span of time that `0s` turns off.
const fn lasting_or_off(most: Duration) -> Kind {
    Kind::Duration(Duration::ZERO, most)
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
