//! Downstream: from a socket to requests.
//!
//! [`worker`] is one thread with a `current_thread` runtime, its own `SO_REUSEPORT` sockets and its own [`Proxy`]
//! (idle upstream connections included): nothing is shared on the path but atomics and snapshots. [`accept`] takes
//! connections, [`entrance`] lets them in (PROXY header, limits, TLS), [`connection`] serves one of them with hyper, [`io`] is the socket as hyper sees it.
//!
//! [`Proxy`]: crate::proxy::Proxy

mod accept;
mod connection;
mod entrance;
mod http2;
mod io;
mod last;
pub mod proxy_protocol;
mod shared;
mod socket;
mod worker;

pub use shared::{ListenerShared, Settings};
pub use socket::bind;
pub use worker::{Census, Command, ListenerId, Worker};
