//! What a session costs a request: finding it and its backend, with a signed cookie and with the table, among 10,000
//! sessions. The bar: below 1 µs. `cargo bench --bench sticky`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a benchmark an unwrap is an assertion")]

use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use evenkeel::config::{BackendPlan, PoolPlan, SameSite, StickyMode, StickyPlan, StrategyKind};
use evenkeel::pool::Pool;

fn main() {
    divan::main();
}

const SESSIONS: usize = 10_000;

fn pool(mode: StickyMode) -> Arc<Pool> {
    let backend = |number: u16| BackendPlan::new(format!("b{number}"), ([127, 0, 0, 1], 9000 + number).into_address());
    let mut plan = PoolPlan::new("bench", StrategyKind::RoundRobin, (0..6).map(backend).collect());
    plan.sticky = Some(StickyPlan {
        mode,
        name: "session".into(),
        secret: None,
        idle: Duration::from_secs(1800),
        life: Duration::from_secs(28_800),
        same_site: SameSite::Lax,
        spill: 0,
    });
    Pool::new(Arc::new(plan), evenkeel::clock::now())
}

trait IntoAddress {
    fn into_address(self) -> evenkeel::config::Address;
}

impl IntoAddress for ([u8; 4], u16) {
    fn into_address(self) -> evenkeel::config::Address {
        evenkeel::config::Address::Ip(self.into())
    }
}

#[divan::bench(args = ["cookie", "header"])]
fn find(bencher: Bencher<'_, '_>, mode: &str) {
    let cookie = mode == "cookie";
    let pool = pool(if cookie { StickyMode::Cookie } else { StickyMode::Header });
    let live = pool.live();
    let sticky = live.sticky.as_ref().expect("the plan has sessions");
    let now = 1_800_000_000;
    let texts: Vec<Vec<u8>> = (0..SESSIONS)
        .map(|number| {
            let name = format!("session-{number}").into_bytes();
            let backend = &live.set.members[number % 6];
            let settled = sticky.session(Some(&name), now).settle(backend, false, now);
            match settled.cookie {
                Some(cookie) => {
                    let text = cookie.to_str().expect("a cookie is text");
                    text["session=".len()..].split(';').next().unwrap_or_default().as_bytes().to_vec()
                }
                None => name,
            }
        })
        .collect();
    let (mut next, at) = (0, evenkeel::clock::now());
    bencher.bench_local(|| {
        next = (next + 1) % SESSIONS;
        sticky.session(Some(&texts[next]), now).backend(&live.set, at).map(|backend| backend.slot)
    });
}
