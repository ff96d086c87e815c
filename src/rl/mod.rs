//! The learning agent: pure numbers, no HTTP, no clock, no logging, no chance of its own.

pub mod store;
