//! Conformance over raw sockets: what a hostile client may do to a backend (nothing), and a hostile backend to a client
//! (nothing either). The tables follow `docs/reliability.md`; each line of them is bytes and what may come of them.

mod requests;
mod responses;
mod targets;
mod upgrades;
