//! Downstream: from a socket to requests.
//!
//! [`worker`] is one thread with a `current_thread` runtime, its own `SO_REUSEPORT` sockets and its own [`Proxy`]
//! (idle upstream connections included): nothing is shared on the path but atomics and snapshots. [`accept`] takes
//! connections, [`entrance`] lets them in (PROXY header, limits, TLS), [`connection`] tells [`http1`]
//! from `http2` by the first bytes, and holds what rests between requests.
//!
//! [`Proxy`]: crate::proxy::Proxy

mod accept;
mod connection;
mod date;
mod entrance;
pub mod http1;
mod http2;
mod last;
pub mod proxy_protocol;
mod shared;
mod socket;
mod worker;

pub use shared::{ListenerShared, Settings};
pub use socket::bind;
pub use worker::{Census, Command, ListenerId, Worker};
