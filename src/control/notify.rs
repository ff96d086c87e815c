//! What systemd is told (`Type=notify`): that we are ready, reload, stop, and, while a watchdog is set, that we live.
//!
//! The protocol is one datagram a message to the socket that `NOTIFY_SOCKET` names (sd_notify(3)); without that variable
//! nothing happens.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// How often it is asked whether systemd wants to hear that we live.
const LOOK: Duration = Duration::from_secs(1);
/// Or more often where the watchdog is short; workers tell that they go on every tenth of a second.
const LEAST_LOOK: Duration = Duration::from_millis(200);

/// Where messages go.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// Half of what the watchdog allows; `None`: there is none.
    pulse: Option<Duration>,
    beaten: Option<Instant>,
    /// What each worker's count was when we last said that we live.
    beats: Vec<u64>,
}

impl Notifier {
    /// As the environment says.
    pub(super) fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let name = name.as_bytes();
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        };
        let connected = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Self { socket: Some(socket), pulse: pulse(), ..Self::default() },
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET cannot be reached, systemd will not hear of us: {error}");
                Self::default()
            }
        }
    }

    /// Connections are served.
    pub(super) fn ready(&self) {
        self.say("READY=1\nSTATUS=serving");
    }

    /// The configuration is being read again; [`ready`](Self::ready) ends it.
    pub(super) fn reloading(&self) {
        self.say("RELOADING=1\nSTATUS=reloading");
    }

    /// No new connections are taken.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    /// How often [`live`](Self::live) is to be called: twice for each time that it speaks, so that a look that comes a moment
    /// too early costs no whole pulse; a second at most.
    pub(super) fn look(&self) -> Duration {
        self.pulse.map_or(LOOK, |pulse| (pulse / 2).clamp(LEAST_LOOK, LOOK))
    }

    /// Says that we live, if it is time and every worker has gone on since it was last said; `beats` only grow.
    pub(super) fn live(&mut self, beats: &[u64], now: Instant) {
        let Some(pulse) = self.pulse else { return };
        // Three quarters: looks are not quite regular.
        if self.beaten.is_some_and(|last| now.saturating_duration_since(last) < pulse - pulse / 4) {
            return;
        }
        let all_moved = self.beats.len() != beats.len() || self.beats.iter().zip(beats).all(|(old, new)| old != new);
        if all_moved {
            self.beaten = Some(now);
            self.beats = beats.to_vec();
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, message: &str) {
        // Nobody to hear it is no reason to stop.
        let _ = self.socket.as_ref().map(|socket| socket.send(message.as_bytes()));
    }
}

/// Half of `WATCHDOG_USEC`, should it be meant for us.
fn pulse() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if std::env::var_os("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").map(|micros| Duration::from_micros(micros / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_only_while_every_worker_does() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let heard = || {
            let mut text = [0; 64];
            theirs.recv(&mut text).map(|count| String::from_utf8_lossy(&text[..count]).into_owned()).ok()
        };
        let second = Duration::from_secs(1);
        let mut notifier = Notifier { socket: Some(ours), pulse: Some(second), ..Notifier::default() };
        notifier.ready();
        assert_eq!(heard().as_deref(), Some("READY=1\nSTATUS=serving"));
        let start = crate::clock::now();
        notifier.live(&[1, 1], start);
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
        assert_eq!(notifier.look(), second / 2);
        notifier.live(&[2, 2], start + second / 2);
        assert_eq!(heard(), None);
        notifier.live(&[2, 1], start + second);
        assert_eq!(heard(), None, "the second worker stands still");
        notifier.live(&[2, 2], start + second);
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
    }
}
