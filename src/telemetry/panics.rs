//! Panics: each ends one connection or task at most; here they are counted and logged.

use std::sync::Once;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

static COUNT: AtomicU64 = AtomicU64::new(0);
static HOOK: Once = Once::new();

/// Makes every panic of this process a log line and a count. Called more than once it does nothing. Where nobody takes
/// log lines (a test, a library's user without a subscriber) the hook that was there before speaks as ever.
pub fn watch() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            COUNT.fetch_add(1, Relaxed);
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!("panic: {info}");
            } else {
                before(info);
            }
        }));
    });
}

/// Panics since the process began to watch.
pub fn count() -> u64 {
    COUNT.load(Relaxed)
}
