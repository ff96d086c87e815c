//! The first moments of a balancer: nobody who comes early is turned away.

use crate::support::*;

/// Clients that connected when the sockets were there and the workers were not are all served: the first worker to run
/// takes the queue of its socket and hands half of it to workers that have not been told of the listener yet.
#[test]
fn who_comes_before_the_workers_run_is_served() {
    let backend = TestBackend::saying("served");
    let mut early = Vec::new();
    let _proxy = Setup::new(&[&backend]).plan(|plan| plan.server.threads = 4).start_after(|address| {
        early.extend((0..64).map(|_| Raw::connect(address)));
        for client in &mut early {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
    });
    for client in &mut early {
        assert_eq!(client.response().status(), 200);
    }
}
