//! Scraping: every interval each backend's own metrics are read, all at once, each over a connection of its own that is
//! kept. A backend that does not answer in time costs its own round only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::client::Client;
use super::profile::{Before, Profile, Reading};
use crate::backend::{Backend, BackendId, SampleSource, Signals};
use crate::clock;
use crate::config::{Address, AdminState, Engine, ScrapePlan};
use crate::pool::Pool;

/// The longest that one scrape may take: the next is due, or an operator waits for an answer.
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// What is kept of each backend between rounds.
#[derive(Debug, Default)]
pub(super) struct Sources {
    of: HashMap<BackendId, Source>,
    profile: Option<(Engine, Vec<(String, String)>, Arc<Profile>)>,
}

#[derive(Debug, Default)]
struct Source {
    client: Client,
    before: Before,
    failing: bool,
}

impl Sources {
    /// Scrapes every backend of `pool` once.
    pub(super) async fn round(&mut self, pool: &Arc<Pool>, engine: Engine, plan: &ScrapePlan, expiry: Duration) {
        let profile = self.profile(engine, plan);
        let members = pool.set().members.clone();
        self.of.retain(|id, _| members.iter().any(|member| member.id == *id));
        let patience = plan.interval.min(MOST_PATIENCE);
        let mut round = JoinSet::new();
        for backend in members.iter().filter(|backend| backend.admin_state() != AdminState::Disabled) {
            let mut source = self.of.remove(&backend.id).unwrap_or_default();
            let (pool, backend, profile) = (Arc::clone(pool), Arc::clone(backend), Arc::clone(&profile));
            let (path, port) = (plan.path.clone(), port(engine, plan));
            round.spawn(async move {
                source.scrape(&pool, &backend, &profile, (port, &path), patience, expiry).await;
                (backend.id, source)
            });
        }
        while let Some(ended) = round.join_next().await {
            self.of.extend(ended.ok());
        }
    }

    /// The profile in force, made anew only when engine or names have changed.
    fn profile(&mut self, engine: Engine, plan: &ScrapePlan) -> Arc<Profile> {
        match &self.profile {
            Some((known, names, profile)) if *known == engine && *names == plan.names => Arc::clone(profile),
            Some(_) | None => {
                let profile = Arc::new(Profile::new(engine, &plan.names));
                self.of.clear();
                self.profile = Some((engine, plan.names.clone(), Arc::clone(&profile)));
                profile
            }
        }
    }
}

impl Source {
    async fn scrape(
        &mut self,
        pool: &Pool,
        backend: &Backend,
        profile: &Profile,
        (port, path): (Option<u16>, &str),
        patience: Duration,
        expiry: Duration,
    ) {
        let outcome = tokio::time::timeout(patience, self.fetch(backend, port, path)).await;
        let now = clock::now();
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {patience:?}"))).and_then(|page| {
            let text = String::from_utf8_lossy(&page);
            let reading = profile.read(&text, &mut self.before, now);
            // The first scrape has no rates yet; an answer without any metric we know is told as such.
            if reading.is_empty() && text.is_empty() { Err("the answer is empty".to_owned()) } else { Ok(reading) }
        });
        match outcome {
            Ok(reading) => {
                backend.count_sample(SampleSource::Scrape, true);
                note(backend, &reading, expiry, now);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(pool = %pool.name, backend = %backend.name, "resources are scraped again");
                }
            }
            Err(error) => {
                backend.count_sample(SampleSource::Scrape, false);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(pool = %pool.name, backend = %backend.name, path, "resources cannot be scraped: {error}");
                }
            }
        }
    }

    async fn fetch(&mut self, backend: &Backend, port: Option<u16>, path: &str) -> Result<Bytes, String> {
        let mut address = backend.endpoint().ok_or("its name has no address")?;
        address.set_port(port.unwrap_or(address.port()));
        let host = match (&backend.address, port) {
            (Address::Name { host, .. }, Some(port)) => format!("{host}:{port}"),
            (Address::Ip(_), Some(_)) => address.to_string(),
            (written, None) => written.to_string(),
        };
        self.client.get(address, &host, path).await
    }
}

/// The port of the metrics, where it is not that of the API.
fn port(engine: Engine, plan: &ScrapePlan) -> Option<u16> {
    if plan.port == 0 { engine.profile().metrics_port } else { Some(plan.port) }
}

fn note(backend: &Backend, reading: &Reading, expiry: Duration, now: std::time::Instant) {
    let Reading { cpu, memory, running, waiting, heartbeat, activity } = *reading;
    if cpu.is_some() || memory.is_some() {
        backend.note_resources(cpu, memory, expiry, now);
    }
    backend.set_signals(Signals { running, waiting, heartbeat, activity, sampled: Some(now) });
}
