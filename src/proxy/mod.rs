//! The request path.

pub mod access_log;
