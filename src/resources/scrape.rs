//! Scraping: every interval each backend's own metrics are read, one after the other over the interval and each over a
//! connection of its own that is kept. A backend that does not answer in time costs its own turn only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{Id, JoinSet};

use super::client::Client;
use super::profile::{Before, Profile, Reading};
use crate::backend::{Backend, BackendId, SampleSource, Signals};
use crate::clock;
use crate::config::{Address, AdminState, Engine, ScrapePlan};
use crate::pool::Pool;

/// The longest that one scrape may take: the next is due, or an operator waits for an answer.
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// Share of the interval over which a round begins its scrapes: hundreds at one moment would be a burst for us and for
/// whatever the backends share.
const SPREAD: f64 = 0.8;

/// What is kept of each backend between rounds.
#[derive(Debug, Default)]
pub(super) struct Sources {
    of: HashMap<BackendId, Source>,
    /// Scrapes on their way, with their sources. One that takes long leaves out its next turn and delays nobody.
    away: JoinSet<(BackendId, Source)>,
    whose: HashMap<Id, BackendId>,
    profile: Option<(Engine, ScrapePlan, Arc<Profile>)>,
}

#[derive(Debug, Default)]
struct Source {
    client: Client,
    before: Before,
    failing: bool,
}

impl Sources {
    /// Begins a scrape of every backend of `pool` that is not being scraped still.
    pub(super) fn round(&mut self, pool: &Arc<Pool>, engine: Engine, plan: &ScrapePlan, expiry: Duration) {
        let profile = self.profile(engine, plan);
        while let Some(ended) = self.away.try_join_next_with_id() {
            match ended {
                Ok((task, (id, source))) => {
                    self.whose.remove(&task);
                    self.of.insert(id, source);
                }
                Err(error) => drop(self.whose.remove(&error.id())),
            }
        }
        let members = pool.set().members.clone();
        self.of.retain(|id, _| members.iter().any(|member| member.id == *id));
        let (patience, port) = (plan.interval.min(MOST_PATIENCE), port(engine, plan));
        let step = plan.interval.mul_f64(SPREAD) / u32::try_from(members.len()).unwrap_or(u32::MAX).max(1);
        let mut delay = Duration::ZERO;
        for backend in members.iter().filter(|backend| backend.admin_state() != AdminState::Disabled) {
            if self.whose.values().any(|id| *id == backend.id) {
                continue;
            }
            let mut source = self.of.remove(&backend.id).unwrap_or_default();
            let (pool, backend, profile) = (Arc::clone(pool), Arc::clone(backend), Arc::clone(&profile));
            let (path, id) = (plan.path.clone(), backend.id);
            let task = self.away.spawn(async move {
                tokio::time::sleep(delay).await;
                source.scrape(&pool, &backend, &profile, (port, &path), patience, expiry).await;
                (id, source)
            });
            self.whose.insert(task.id(), id);
            delay += step;
        }
    }

    /// The profile in force; what was learned by another is forgotten.
    fn profile(&mut self, engine: Engine, plan: &ScrapePlan) -> Arc<Profile> {
        match &self.profile {
            Some((known, written, profile)) if *known == engine && written == plan => Arc::clone(profile),
            Some(_) | None => {
                let profile = Arc::new(Profile::new(engine, &plan.names));
                *self = Self { profile: Some((engine, plan.clone(), Arc::clone(&profile))), ..Self::default() };
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
        let outcome = tokio::time::timeout(patience, self.fetch(pool, backend, port, path)).await;
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

    async fn fetch(&mut self, pool: &Pool, backend: &Backend, port: Option<u16>, path: &str) -> Result<Bytes, String> {
        let mut address = backend.endpoint().ok_or("its name has no address")?;
        address.set_port(port.unwrap_or(address.port()));
        let host = match (&backend.address, port) {
            (Address::Name { host, .. }, Some(port)) => format!("{host}:{port}"),
            (Address::Ip(_), Some(_)) => address.to_string(),
            (written, None) => written.to_string(),
        };
        // The API's own port speaks what requests speak; a port for metrics alone is plain.
        let connector = match port {
            None => pool.clients().connector(&pool.plan(), &backend.name).map_err(|error| error.to_string())?,
            Some(_) => None,
        };
        self.client.get(address, &host, path, connector.as_ref()).await
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
