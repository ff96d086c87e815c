//! Mock AI instances: real HTTP servers that behave like a model server, as slow, busy or broken as one wishes.
//!
//! `evenkeel mock` runs one, `evenkeel demo` runs six, and tests start them on port 0. Each has its own socket, speaks
//! the OpenAI shapes (plain and streamed) and vLLM's metric names, and can be made slower, stalled, failing or refusing
//! while it runs, by `POST /__mock` or [`Mock::set`]. Read [`MockProfile`] for what can be set, `engine` for the model
//! of slots, queue and speed, and `service` for the paths.

mod body;
mod engine;
mod instance;
mod openai;
mod profile;
mod service;
#[cfg(test)]
mod tests;
mod views;

pub use instance::{Bind, Mock};
pub use profile::{MockProfile, ProfileError};
