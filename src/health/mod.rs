//! Active checks: we ask every backend whether it is well, before it gets traffic and ever after.
//!
//! [`probe`] asks one backend once; [`checker`] asks all backends of a pool on their schedules and follows changes of the
//! pool. What an answer means is decided by the backend's own state machine ([`crate::backend::Health`]); a changed state
//! is published by the pool.

pub mod checker;
mod grpc;
mod probe;

pub use probe::probe;

#[cfg(test)]
mod tests;
