//! Integration tests: real sockets, driven through `App` or through the real binary.
//!
//! One binary, so that it links once. `support` holds the scripted backend, the raw client and the proxy under test; the
//! other modules follow the paragraphs of what the balancer promises. `raw` (in `tests/raw`) is the conformance of framing
//! on both sides. No test sleeps to hide a race: what takes time is polled with a generous deadline, what must be slow is
//! held at a gate.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests an unwrap is an assertion, helpers included")]

mod support;

mod agent;
mod changes;
mod departures;
mod draining;
mod events;
mod faults;
mod forwarding;
mod grpc;
mod health;
mod http2;
mod names;
mod observing;
mod operators;
mod queueing;
#[path = "../raw/mod.rs"]
mod raw;
mod refusals;
mod reload;
mod resources;
mod retries;
mod routes;
mod starting;
mod sticky;
mod strategies;
mod streaming;
mod streams;
mod tls;
mod tools;
mod trust;
mod websocket;
