//! A session cookie of any bytes: nobody is pinned by one that we did not sign, and one that we signed pins.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use evenkeel::config::{BackendPlan, PoolPlan, ProbeKind, StickyPlan, StrategyKind};
use evenkeel::pool::Pool;
use libfuzzer_sys::fuzz_target;

static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| {
    let backends = ["a", "b"].map(|name| BackendPlan::new(name, "127.0.0.1:1".parse().unwrap()));
    let mut plan = PoolPlan::new("ai", StrategyKind::RoundRobin, backends.into());
    plan.sticky = Some(StickyPlan::default());
    plan.health.kind = ProbeKind::None;
    Pool::new(Arc::new(plan), Instant::now())
});
const NOW: u64 = 1_800_000_000;

fuzz_target!(|input: &[u8]| {
    let (live, now) = (POOL.live(), Instant::now());
    let Some(sticky) = &live.sticky else { panic!("the plan has sessions") };
    assert!(sticky.session(Some(input), NOW).backend(&live.set, now).is_none(), "pinned by a forgery");
    let backend = &live.set.members[input.len() % 2];
    let Some(cookie) = sticky.session(Some(input), NOW).settle(backend, false, NOW).cookie else {
        panic!("a new session has no cookie")
    };
    let text = cookie.to_str().unwrap_or_default();
    let value = text.split(['=', ';']).nth(1).unwrap_or_default().as_bytes();
    let pinned = sticky.session(Some(value), NOW);
    assert!(pinned.backend(&live.set, now).is_some_and(|found| found.id == backend.id));
    // One byte changed, and it is nobody's.
    let mut forged = value.to_vec();
    if let (Some(at), Some(byte)) = (input.first(), input.get(1)) {
        let at = *at as usize % forged.len();
        if !forged[at].eq_ignore_ascii_case(byte) {
            forged[at] = *byte;
            assert!(sticky.session(Some(&forged), NOW).backend(&live.set, now).is_none(), "pinned by a forgery");
        }
    }
});
