//! What the operator wrote, and what it means: TOML with spans in, [`Plan`] out, every fault at once.

mod address;
mod defaults;
mod plan;

pub use address::AddressError;
pub use defaults::RlPreset;
pub use plan::*;
