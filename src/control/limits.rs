//! How many connections this process can carry: descriptors are raised to the hard limit, and the configured cap is
//! lowered to what they allow.

/// Share of descriptors for client connections; the rest is for health checks, logs and what comes up
/// (reliability.md §1: cap = min(config, 80 % of RLIMIT_NOFILE ÷ 2), each request needing two).
const SHARE: f64 = 0.8;

/// Raises the soft limit of open files to the hard one and returns the cap on client connections.
pub fn connection_limit(configured: usize) -> usize {
    let Some(files) = raise_nofile() else { return configured };
    let carried = ((files as f64) * SHARE / 2.0) as usize;
    if carried < configured {
        tracing::warn!(
            configured,
            carried,
            files,
            "server.max_connections is lowered to what the limit of open files carries; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    configured.min(carried.max(1))
}

/// The limit of open files, after raising it as far as we may.
#[expect(unsafe_code, reason = "std has no call for resource limits; two calls on a local struct")]
fn raise_nofile() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that lives through both calls, which only read and write it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return None;
        }
        if limit.rlim_cur < limit.rlim_max {
            let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) == 0 {
                limit = raised;
            }
        }
    }
    Some(limit.rlim_cur)
}
