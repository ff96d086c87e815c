//! The learned state of strategies on disk: taken over at the start, written every interval and at the end. A damaged
//! file is set aside, never fatal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::balance::store::{Restored, restore, write};
use crate::balance::{self, Strategy};
use crate::clock;
use crate::config::{PoolPlan, RlStorePlan, StrategyPlan};
use crate::pool::{Changes, Pool};
use crate::tls::Clients;

/// The pause when a pool has no store, until a reload may have given it one.
const NO_STORE_PAUSE: Duration = Duration::from_secs(30);

/// Takes over what the pool's file holds.
pub(super) fn load(pool: &Pool) {
    let live = pool.live();
    if let Some(store) = &live.plan.strategy.rl.store {
        take_over(&pool.name, store, &*live.strategy, &live.set.members);
    }
}

/// Puts another plan in force, like [`Pool::apply`]; a learner that comes into force begins with what is known: what the same
/// learner with other settings knew, or what the file holds. One that goes out of force is written down.
pub(super) fn apply(pool: &Pool, plan: Arc<PoolPlan>, clients: Option<Clients>) -> Vec<Arc<Backend>> {
    let changes = pool.plan().strategy != plan.strategy;
    if changes {
        save(pool, &mut false);
    }
    let fresh = (changes && !pool.knows(&plan.strategy)).then(|| successor(pool, &plan.strategy));
    pool.apply_with(plan, Changes { fresh, clients }, clock::now())
}

fn successor(pool: &Pool, plan: &StrategyPlan) -> Arc<dyn Strategy> {
    let (strategy, live): (Arc<dyn Strategy>, _) = (balance::build(plan).into(), pool.live());
    let members = &live.set.members;
    let same = live.plan.strategy.kind == plan.kind;
    let handed = same.then(|| live.strategy.save(members, clock::now())).flatten();
    let taken = handed.is_some_and(|bytes| strategy.load(&bytes, members, clock::now()).is_ok());
    if let (false, Some(_), Some(store)) = (taken, strategy.agent(), &plan.rl.store) {
        take_over(&pool.name, store, &*strategy, members);
    }
    strategy
}

fn take_over(name: &str, store: &RlStorePlan, strategy: &dyn Strategy, members: &[Arc<Backend>]) {
    let path = store.path.display();
    match restore(&store.path, |bytes| strategy.load(bytes, members, clock::now())) {
        Restored::Fresh => {}
        Restored::Loaded => tracing::info!(pool = name, %path, "learned state taken over"),
        Restored::SetAside { why, to } => {
            let moved = to.map(|to| to.display().to_string()).unwrap_or_default();
            tracing::warn!(pool = name, %path, moved, "learned state is not usable, starting fresh: {why}");
        }
        Restored::Unreadable(error) => {
            tracing::warn!(pool = name, %path, "learned state cannot be read, starting fresh: {error}");
        }
    }
}

/// Writes what the pool's strategy has learned, if it learns and has a file. The first failure of a row is told.
pub(super) fn save(pool: &Pool, failing: &mut bool) {
    let live = pool.live();
    let Some(store) = &live.plan.strategy.rl.store else { return };
    let Some(bytes) = live.strategy.save(&live.set.members, clock::now()) else { return };
    match write(Path::new(&store.path), &bytes) {
        Ok(()) => {
            if std::mem::take(failing) {
                tracing::info!(pool = %pool.name, path = %store.path.display(), "learned state is written again");
            }
        }
        Err(error) => {
            if !std::mem::replace(failing, true) {
                let (path, cure) = (store.path.display(), cure(&error));
                tracing::warn!(pool = %pool.name, %path, cure, "learned state cannot be written, trying again: {error}");
            }
        }
    }
}

/// What an operator can do about a failed save; the file before it is as it was.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its disk",
        io::ErrorKind::FileTooLarge => "raise the limit of file sizes (ulimit -f)",
        io::ErrorKind::PermissionDenied => "let the user of this process write in its directory",
        io::ErrorKind::ReadOnlyFilesystem => {
            "its file system is read-only: choose another path, or allow it (ReadWritePaths)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "its directory is none: move what is there",
        _ => "see that its directory can be written, or choose another path (rl.store.path)",
    }
}

/// Saves every interval, for ever. Writing goes to a thread that may block.
pub(super) async fn follow(pool: Arc<Pool>) {
    let mut failing = false;
    loop {
        let interval = pool.plan().strategy.rl.store.as_ref().map_or(NO_STORE_PAUSE, |store| store.interval);
        tokio::time::sleep(interval.max(Duration::from_secs(1))).await;
        let pool = Arc::clone(&pool);
        let saved = tokio::task::spawn_blocking(move || {
            save(&pool, &mut failing);
            failing
        });
        failing = saved.await.unwrap_or(true);
    }
}
