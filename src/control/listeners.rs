//! Listeners while we run: which entry of the file is which live one, and what a reload makes of each.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::Control;
use crate::config::ListenerPlan;
use crate::listener::{Command, ListenerId, ListenerShared};
use crate::tls;

/// A listener that workers serve.
pub(super) struct ActiveListener {
    pub(super) id: ListenerId,
    /// As bound: with port 0 it differs from the plan's.
    pub(super) address: SocketAddr,
    pub(super) shared: Arc<ListenerShared>,
}

/// Where a listener of a new plan is served.
pub(super) enum Place {
    /// Where it is.
    Stays(ListenerId),
    /// On these sockets, one for each worker.
    Opens(Vec<TcpListener>),
}

/// What tells listeners of a file apart. Several may leave the choice of their port to the kernel; of those, one with TLS
/// never takes the place of one without, whose clients would meet something else on the port they know.
fn identity(plan: &ListenerPlan) -> (SocketAddr, bool) {
    (plan.address, plan.address.port() == 0 && plan.tls.is_some())
}

/// For each of `wanted`, which of `present` it is: the n-th of an identity is the n-th of it there.
pub(super) fn pair<'a>(
    present: impl IntoIterator<Item = &'a ListenerPlan>,
    wanted: impl IntoIterator<Item = &'a ListenerPlan>,
) -> Vec<Option<usize>> {
    let mut places: HashMap<_, std::collections::VecDeque<usize>> = HashMap::new();
    for (index, plan) in present.into_iter().enumerate() {
        places.entry(identity(plan)).or_default().push_back(index);
    }
    wanted.into_iter().map(|plan| places.get_mut(&identity(plan))?.pop_front()).collect()
}

impl Control {
    /// For each of `wanted`, the live listener that it stands for.
    pub(super) fn present(&self, wanted: &[ListenerPlan]) -> Vec<Option<&ActiveListener>> {
        let plans: Vec<_> = self.listeners.iter().map(|known| Arc::clone(&known.shared.settings().plan)).collect();
        let pairs = pair(plans.iter().map(Arc::as_ref), wanted);
        pairs.into_iter().map(|place| self.listeners.get(place?)).collect()
    }

    /// Hands the sockets of a listener to the workers.
    pub(super) fn open(
        &mut self,
        plan: ListenerPlan,
        sockets: Vec<TcpListener>,
        tls: Option<tls::Server>,
    ) -> std::io::Result<()> {
        let Some(first) = sockets.first() else { return Ok(()) };
        let address = first.local_addr()?;
        let id = self.next_listener;
        self.next_listener += 1;
        let shared = Arc::new(ListenerShared::new(plan, tls));
        for (worker, socket) in self.workers.iter().zip(sockets) {
            worker.tell(Command::Listen { id, socket, shared: Arc::clone(&shared) });
        }
        self.listeners.push(ActiveListener { id, address, shared });
        Ok(())
    }

    /// Gives every listener of a new plan its settings, opens those that are new and closes those that are gone.
    pub(super) fn settle(&mut self, wanted: Vec<(ListenerPlan, Place, Option<tls::Server>)>) {
        let before = std::mem::take(&mut self.listeners);
        for (plan, place, tls) in wanted {
            let id = match place {
                Place::Opens(sockets) => {
                    if let Err(error) = self.open(plan, sockets, tls) {
                        tracing::error!("a new listener cannot be used: {error}");
                    }
                    continue;
                }
                Place::Stays(id) => id,
            };
            if let Some(listener) = before.iter().find(|known| known.id == id) {
                self.put(listener, Arc::new(plan), tls.map(Arc::new));
                let ActiveListener { id, address, ref shared } = *listener;
                self.listeners.push(ActiveListener { id, address, shared: Arc::clone(shared) });
            }
        }
        for gone in before.iter().filter(|known| !self.listeners.iter().any(|stays| stays.id == known.id)) {
            tracing::info!(address = %gone.address, "listener closed; its connections go on");
            for worker in &self.workers {
                worker.tell(Command::Close(gone.id));
            }
        }
    }

    /// Puts a listener's settings in force. Connections that would not be let in, or not be believed, any more are asked
    /// to end.
    pub(super) fn put(&self, listener: &ActiveListener, plan: Arc<ListenerPlan>, tls: Option<Arc<tls::Server>>) {
        let Some(trust) = listener.shared.put(plan, tls) else { return };
        tracing::info!(address = %listener.address, "who is let in or believed has changed: open connections end");
        for worker in &self.workers {
            worker.tell(Command::Outdate { listener: listener.id, trust });
        }
    }

    pub(super) fn show_listeners(&self) {
        let shown = self.listeners.iter().map(|listener| (listener.address, Arc::clone(&listener.shared)));
        self.board.set_listeners(shown.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenerTlsPlan, TlsVersion};

    fn plan(address: &str, secure: bool) -> ListenerPlan {
        let tls = ListenerTlsPlan {
            certificates: Vec::new(),
            client_ca: None,
            subject_header: None,
            min_version: TlsVersion::V12,
        };
        ListenerPlan { tls: secure.then_some(tls), ..ListenerPlan::new(address.parse().unwrap()) }
    }

    #[test]
    fn entries_find_their_listeners() {
        let (any, known) = ("127.0.0.1:0", "127.0.0.1:8443");
        let present = [plan(any, true), plan(any, false), plan(known, true), plan(any, false)];
        let found = |wanted: &[ListenerPlan]| pair(&present, wanted);
        assert_eq!(found(&present), [Some(0), Some(1), Some(2), Some(3)]);
        // One of a kind is gone, another has come, and the order is another.
        assert_eq!(found(&[plan(any, false), plan(known, true)]), [Some(1), Some(2)]);
        assert_eq!(found(&[plan(any, true), plan(any, true), plan(any, false)]), [Some(0), None, Some(1)]);
        // A port that is known stays open, with TLS or without.
        assert_eq!(found(&[plan(known, false), plan("127.0.0.1:1", false)]), [Some(2), None]);
    }
}
