//! The load: chat completions at random moments, whole and streamed, through the balancer's own socket. Open loop: a
//! request comes when its time has come, whether or not others have been answered, as clients do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::tally::Ended;
use crate::cli::http::connect;

/// Requests outstanding at most: far above what the pool holds, so only a balancer that hangs gets there.
const MAX_OUTSTANDING: usize = 1000;
/// How long a client waits for a whole answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Share of requests that are streamed.
const STREAMED: f64 = 0.5;
/// Longest prompt, bytes; the shortest is a greeting. Costs prefill time, as on real instances.
const PROMPT_BYTES: std::ops::Range<usize> = 16..4096;

/// What the generator tells.
#[derive(Debug)]
pub(super) enum Heard {
    Sent,
    Ended(Ended),
}

/// Sends `rate` requests a second to `address` until dropped.
pub(super) async fn generate(address: SocketAddr, rate: f64, tell: mpsc::UnboundedSender<Heard>) {
    let client = Arc::new(LoadClient { address, idle: Mutex::default() });
    let mut rng = SmallRng::seed_from_u64(7);
    let mut requests = tokio::task::JoinSet::new();
    let mut due = Instant::now();
    loop {
        // Exponential gaps: independent clients (Poisson).
        let gap = -(1.0 - rng.random::<f64>()).ln() / rate;
        due += Duration::from_secs_f64(gap.min(10.0));
        loop {
            tokio::select! {
                () = sleep_until(due) => break,
                Some(_) = requests.join_next() => {}
            }
        }
        let (client, tell_end) = (Arc::clone(&client), tell.clone());
        let streamed = rng.random::<f64>() < STREAMED;
        let prompt = rng.random_range(PROMPT_BYTES);
        let room = requests.len() < MAX_OUTSTANDING;
        // The receiver is gone when the demo ends; so is this task, then.
        let _ = tell.send(Heard::Sent);
        if !room {
            let result = Err("not sent: too many outstanding".to_owned());
            let _ = tell.send(Heard::Ended(Ended { took: Duration::ZERO, result }));
            continue;
        }
        requests.spawn(async move {
            let start = Instant::now();
            let result = match timeout(PATIENCE, client.ask(prompt, streamed)).await {
                Ok(result) => result,
                Err(_) => Err("no whole answer in time".into()),
            };
            let _ = tell_end.send(Heard::Ended(Ended { took: start.elapsed(), result }));
        });
    }
}

struct LoadClient {
    address: SocketAddr,
    /// Connections to use again, the last used first; held only to push and pop.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl LoadClient {
    /// Asks once; who answered, or what went wrong.
    async fn ask(&self, prompt: usize, streamed: bool) -> Result<String, String> {
        let message = "even keel ".repeat(prompt / 10 + 1);
        let body = json!({"model": "demo", "stream": streamed, "messages": [{"role": "user", "content": message}]});
        let request = Request::post("/v1/chat/completions")
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| error.to_string())?;
        let mut sender = self.connection().await?;
        let answer = sender.send_request(request).await.map_err(|_| "connection broken".to_owned())?;
        let status = answer.status();
        let instance = answer
            .headers()
            .get("x-instance")
            .and_then(|name| name.to_str().ok())
            .map_or_else(|| "unknown".to_owned(), str::to_owned);
        let mut body = answer.into_body();
        let mut end = Bytes::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| "answer broken midway".to_owned())?;
            if let Ok(data) = frame.into_data() {
                end = data;
            }
        }
        if sender.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        if !status.is_success() {
            return Err(format!("status {}", status.as_u16()));
        }
        if streamed && !end.ends_with(b"data: [DONE]\n\n") {
            return Err("stream without its end".into());
        }
        Ok(instance)
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(sender) if sender.is_ready() => return Ok(sender),
                Some(_) => {}
                None => break,
            }
        }
        let host = self.address.ip().to_string();
        connect(&host, self.address.port()).await.map_err(|_| "no connection".to_owned())
    }
}
