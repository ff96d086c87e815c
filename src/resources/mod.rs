//! How busy a backend says it is: CPU, memory (or KV cache), running and waiting requests, from wherever that can be
//! learned, with its age.
//!
//! [`scrape`] reads each backend's own `/metrics` by the names of its engine ([`profile`]), [`promql`] asks a Prometheus
//! server; the proxy reads response headers (ORCA), the admin API takes pushes. All of them write into the backend's one record;
//! what nobody says is unknown, never zero. A source that fails costs a counter and one log line, never a request.

mod client;
pub mod profile;
mod promql;
mod scrape;
mod text;

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::ResourcesPlan;
use crate::pool::Pool;

/// How often a pool without sources is looked at, for a reload may have given it one.
const NO_SOURCE_PAUSE: Duration = Duration::from_secs(1);

/// The shortest interval, whatever the configuration says: a source is asked over the network.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps the resources of `pool`'s backends up to date, for ever.
pub async fn run(pool: Arc<Pool>) {
    tokio::join!(scraping(&pool), asking(&pool));
}

async fn scraping(pool: &Arc<Pool>) {
    let mut sources = scrape::Sources::default();
    loop {
        let start = clock::now();
        let plan = pool.plan();
        let scrape = plan.resources.as_ref().and_then(|resources| resources.scrape.as_ref());
        let pause = match (&plan.resources, scrape) {
            (Some(resources), Some(scrape)) => {
                sources.round(pool, plan.engine, scrape, resources.expiry);
                scrape.interval.max(LEAST_INTERVAL)
            }
            (None, _) | (_, None) => {
                sources = scrape::Sources::default();
                NO_SOURCE_PAUSE
            }
        };
        tokio::time::sleep_until((start + pause).into()).await;
    }
}

async fn asking(pool: &Arc<Pool>) {
    let mut server = promql::Server::default();
    loop {
        let start = clock::now();
        let plan = pool.plan();
        let pause = match &plan.resources {
            Some(ResourcesPlan { prometheus: Some(prometheus), expiry, .. }) => {
                server.round(pool, prometheus, *expiry).await;
                prometheus.interval.max(LEAST_INTERVAL)
            }
            Some(_) | None => NO_SOURCE_PAUSE,
        };
        tokio::time::sleep_until((start + pause).into()).await;
    }
}
