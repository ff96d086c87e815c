//! A load: keep-alive connections that ask without a pause until they are stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use super::Raw;

/// Connections that ask.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Done>>,
}

/// What became of it.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Requests sent.
    pub(crate) requests: usize,
    /// Connections made.
    pub(crate) connections: usize,
    /// One line for each that was not answered with 200 and a whole body.
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// `clients` connections to `address` that send `method` requests.
    pub(crate) fn start(address: SocketAddr, clients: usize, method: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || ask(address, method, &stop))
            })
            .collect();
        Self { stop, clients }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Done {
        self.stop.store(true, SeqCst);
        self.clients.into_iter().fold(Done::default(), |mut sum, client| {
            let done = client.join().expect("a client of the load");
            sum.requests += done.requests;
            sum.connections += done.connections;
            sum.failures.extend(done.failures);
            sum
        })
    }
}

fn ask(address: SocketAddr, method: &str, stop: &AtomicBool) -> Done {
    let mut done = Done { connections: 1, ..Done::default() };
    let mut client = Raw::connect(address);
    while !stop.load(SeqCst) {
        done.requests += 1;
        let request = match method {
            "POST" => "POST /load HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
            other => format!("{other} /load HTTP/1.1\r\nHost: a\r\n\r\n"),
        };
        let fault = match client.try_send(request) {
            Err(error) => Some(format!("send: {error}")),
            Ok(()) => match client.try_head() {
                Ok(Some(mut answer)) => {
                    client.body(&mut answer);
                    let good = answer.status() == 200 && answer.whole;
                    (!good).then(|| format!("{} {}", answer.start, answer.text()))
                }
                Ok(None) => Some("closed".to_owned()),
                Err(error) => Some(error.to_string()),
            },
        };
        if let Some(fault) = fault {
            done.failures.push(fault);
            done.connections += 1;
            client = Raw::connect(address);
        }
    }
    done
}
