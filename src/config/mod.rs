//! What the operator wrote, and what it means: TOML with spans in, [`Plan`] out, every fault at once.

mod plan;

pub use plan::*;
