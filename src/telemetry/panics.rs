//! Panics: each ends one connection or task at most; here they are counted and logged.

use std::sync::Once;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

static COUNT: AtomicU64 = AtomicU64::new(0);
static HOOK: Once = Once::new();

/// Makes every panic of this process a log line and a count. Called more than once it does nothing.
pub fn watch() {
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            COUNT.fetch_add(1, Relaxed);
            tracing::error!("panic: {info}");
        }));
    });
}

/// Panics since the process began to watch.
pub fn count() -> u64 {
    COUNT.load(Relaxed)
}
