//! Our HTTP/1.1 client, polled inside the downstream request's future.
//!
//! [`request`] writes a head, [`response`] reads one, [`chunked`] decodes a body, [`exchange`] joins them: it sends the
//! request and receives the response at the same time. The parsers are pure functions over bytes: property-tested here,
//! fuzzed in `fuzz/`.

mod buffers;
pub mod chunked;
mod connection;
mod exchange;
pub mod maps;
pub mod request;
pub mod response;
mod response_body;

pub use chunked::{ChunkDecoder, Step};
pub use connection::{Connection, Upgraded};
pub use exchange::{Asks, Exchange, ExchangeTimeouts, Failed};
pub use response_body::ResponseBody;
