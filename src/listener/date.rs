//! The date, for answers without one; written anew when this worker's coarse clock has gone on.

use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

use crate::clock;

/// Calls `then` with the present date.
pub(super) fn with<T>(then: impl FnOnce(&HeaderValue) -> T) -> T {
    thread_local! {
        static DATE: RefCell<(u64, Option<HeaderValue>)> = const { RefCell::new((0, None)) };
    }
    let now = clock::coarse_millis();
    DATE.with_borrow_mut(|(written, value)| {
        if std::mem::replace(written, now) != now {
            *value = None;
        }
        let wall = || UNIX_EPOCH + Duration::from_secs(clock::wall_seconds());
        let write = || HeaderValue::try_from(httpdate::fmt_http_date(wall())).ok();
        then(value.get_or_insert_with(|| write().unwrap_or(HeaderValue::from_static(""))))
    })
}
