//! Signals become orders; nothing else knows of them.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::{Board, Order};

/// Turns SIGHUP into reloads, SIGTERM and SIGINT into a shutdown, for ever. When this returns, a signal is an order and
/// no longer the end of the process.
pub(super) fn follow(board: Arc<Board>) {
    let streams = (signal(SignalKind::hangup()), signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)) = streams else {
        tracing::error!("signals cannot be received; reload through the admin API");
        return;
    };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => board.order(Order::Reload(None)),
                _ = terminate.recv() => board.order(Order::Shutdown),
                _ = interrupt.recv() => board.order(Order::Shutdown),
            }
        }
    });
}
