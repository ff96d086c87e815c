//! Evenkeel: a reverse-proxy load balancer for a handful of AI instances, that learns where to send each request.
//!
//! The rooms, in the order a request meets them: `listener` (sockets to requests), `proxy` (every step of a request),
//! `pool` (many backends and the choice among them), `balance` (the strategies) and `rl` (the learning agent),
//! `upstream` (how to reach a backend), [`tls`] (both sides of it), [`backend`] (what we know of it). Around them: [`config`] (what the operator
//! meant), `control` (the only writer of live state), `health` and `resources` (what we ask backends), `admin` and
//! [`telemetry`] (what we show). ARCHITECTURE.md tells the routes and invariants.

pub mod admin;
pub mod app;
pub mod backend;
pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod health;
pub mod listener;
pub mod mock;
pub mod pool;
pub mod proxy;
pub mod resources;
pub mod rl;
pub mod sim;
pub mod telemetry;
pub mod tls;
pub mod upstream;
