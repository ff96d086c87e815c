//! Host names of backends: looked up at the start and every `resolve`, by the system's resolver, which knows
//! `/etc/hosts`, search domains and the container runtime's names. A failed lookup keeps the last address.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;

use crate::backend::Backend;
use crate::config::Address;
use crate::pool::Pool;

/// The shortest pause between two lookups, whatever the configuration says.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Looks every name of `pool` up once.
pub(super) async fn resolve(pool: &Pool) {
    for backend in &pool.set().members {
        if let Address::Name { host, port } = &backend.address {
            look_up(pool, backend, host, *port).await;
        }
    }
}

/// Looks the names of `pool` up for ever.
pub(super) async fn follow(pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(pool.plan().resolve.max(LEAST_PAUSE)).await;
        resolve(&pool).await;
    }
}

async fn look_up(pool: &Pool, backend: &Arc<Backend>, host: &str, port: u16) {
    let before = backend.endpoint();
    match lookup_host((host, port)).await {
        Ok(found) => {
            let found: Vec<_> = found.collect();
            // An address still offered is kept: the order of answers rotates and means nothing.
            let keep = before.filter(|address| found.contains(address));
            if let Some(address) = keep.or_else(|| found.first().copied())
                && before != Some(address)
            {
                backend.set_endpoint(address);
                tracing::info!(pool = %pool.name, backend = %backend.name, host, %address, "backend name resolved");
            }
        }
        Err(error) if before.is_none() => {
            tracing::warn!(pool = %pool.name, backend = %backend.name, host, "backend name has no address: {error}");
        }
        Err(error) => {
            tracing::debug!(pool = %pool.name, backend = %backend.name, host, "lookup failed, address kept: {error}");
        }
    }
}

/// Looks up, in the background, the names of `pool` that have no address yet.
pub(super) fn resolve_new(pool: &Arc<Pool>) {
    let unresolved = pool.set().members.iter().any(|backend| backend.endpoint().is_none());
    if unresolved {
        let pool = Arc::clone(pool);
        tokio::spawn(async move { resolve(&pool).await });
    }
}
