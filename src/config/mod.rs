//! What the operator wrote, and what it means: TOML with spans in, [`Plan`] out, every fault at once.
//!
//! `read` walks the parsed file by hand (`walk`) with the table of keys (`reference`) at its side; `features` refuses what
//! is not built, `lint` warns of what cannot be meant, `preflight` looks at the world the plan names.

mod address;
mod conceal;
mod defaults;
mod engine;
mod error;
mod features;
mod lint;
mod one_backend;
mod plan;
mod preflight;
mod read;
mod reference;
mod secret;
mod source;
mod units;
mod walk;
mod words;

#[cfg(test)]
mod tests;

pub use address::AddressError;
pub use defaults::RlPreset;
pub use engine::{ANY_SIGNALS, Engine, EngineProfile, Rule, Signal};
pub use error::{ConfigError, ConfigErrors, Severity, findings_as_json, findings_as_text};
pub use one_backend::backend_from_json;
pub use plan::*;
pub use preflight::preflight;
pub use read::Loaded;
pub use reference::reference_markdown;
pub use secret::{Secret, open_regular};
pub use units::{MAX_DURATION, UnitError, parse_duration, parse_size, show_duration, show_size};
pub use words::join as join_key;
