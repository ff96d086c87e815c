//! How to reach a backend: connections with deadlines, a worker's idle ones, and our own HTTP/1.1 client.
//!
//! The client is ours because proxying is what we are for: it is polled inside the downstream request's own future, with
//! no task, channel or lock between, and it treats every byte of a backend as hostile.

mod connect;
mod error;
mod frames;
pub mod http1;
pub mod http2;
mod idle;
mod open;
mod secure;
mod stream;
mod tcp;

pub use connect::{UNSENT, connect, connect_any};
pub use error::{Fault, UpstreamError, is_shortage};
pub use frames::{FrameWatch, Violation};
pub use idle::IdleConnections;
pub use open::{Counted, count_open, end_all, endings, is_ending};
pub use secure::Secure;
pub use stream::Stream;
pub use tcp::Tcp;
