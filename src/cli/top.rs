//! `evenkeel top`: the backends of a running balancer, live.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::http::{AdminArgs, Client};
use super::screen::Screen;
use super::table::{Cell, Column, PoolView, Tone, Traffic, condition, lay_out, milliseconds, numbers, pools, words};
use super::{Failure, args};

/// How long the server may take before it is shown as silent.
const PATIENCE: Duration = Duration::from_secs(3);
/// Rates are means over this long: steady enough to read, short enough to see a change.
const WINDOW: Duration = Duration::from_secs(5);

const COLUMNS: [Column; 9] = [
    words("backend"),
    words("health"),
    numbers("in flight"),
    numbers("share"),
    numbers("rate"),
    numbers("p50"),
    numbers("p99"),
    numbers("failures"),
    numbers("weight"),
];

const EXAMPLES: &str = "\
Examples:
  evenkeel top
  evenkeel top --admin http://10.0.0.5:9901 --token-file admin.token
  evenkeel top --once";

/// Watch a running balancer: backends, health, load and response times, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = args::duration)]
    interval: Duration,
    /// Show one frame, after one interval, and end.
    #[arg(long)]
    once: bool,
}

impl TopArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.admin.client()?;
        super::block_on(async {
            // A server that is not there at all is an error; one that goes away later is something to show.
            let mut seen = Seen::take(&client).await?;
            let mut screen = Screen::new()?;
            let mut traffic = Traffic::new(WINDOW);
            if self.once {
                // Rates are differences: they take two looks.
                traffic.sample(Instant::now(), seen.totals());
                tokio::time::sleep(self.pause()).await;
                seen = Seen::take(&client).await?;
            }
            loop {
                traffic.sample(Instant::now(), seen.totals());
                screen.draw(&seen.frame(&client, &traffic, &screen))?;
                if self.once {
                    return Ok(());
                }
                tokio::select! {
                    done = super::interrupted() => return done,
                    () = tokio::time::sleep(self.pause()) => {}
                }
                match Seen::take(&client).await {
                    Ok(now) => seen = now,
                    Err(failure) => seen.trouble = Some(failure.to_string()),
                }
            }
        })
    }

    /// The interval, or as short a one as does no harm.
    fn pause(&self) -> Duration {
        self.interval.max(Duration::from_millis(100))
    }
}

/// What one look shows.
struct Seen {
    status: Value,
    pools: Vec<PoolView>,
    trouble: Option<String>,
}

impl Seen {
    async fn take(client: &Client) -> Result<Self, Failure> {
        let pools = pools(&client.get("/api/v1/pools", PATIENCE).await?);
        let status = client.get("/api/v1/status", PATIENCE).await?;
        Ok(Self { status, pools, trouble: None })
    }

    fn totals(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.pools.iter().flat_map(|pool| {
            pool.backends.iter().map(|backend| (format!("{}/{}", pool.name, backend.name), backend.requests))
        })
    }

    fn frame(&self, client: &Client, traffic: &Traffic, screen: &Screen) -> Vec<String> {
        let version = self.status.get("version").and_then(Value::as_str).unwrap_or("?");
        let uptime = self.status.get("uptime_s").and_then(Value::as_f64).map_or_else(|| "?".into(), long_time);
        let rate = traffic.total_rate().map_or_else(|| "-".into(), |rate| format!("{rate:.1}/s"));
        let mut lines = vec![format!("evenkeel {version} at {}, up {uptime}, {rate}", client.url())];
        if let Some(trouble) = &self.trouble {
            lines.push(Tone::Bad.paint(trouble, screen.colour()));
        }
        for pool in &self.pools {
            lines.push(String::new());
            lines.push(format!("{} ({})", pool.name, pool.strategy));
            lines.extend(lay_out(&COLUMNS, &rows(pool, traffic), screen.width(), screen.colour()));
        }
        lines
    }
}

fn rows(pool: &PoolView, traffic: &Traffic) -> Vec<Vec<Cell>> {
    let total: f64 = pool.backends.iter().filter_map(|one| traffic.rate(&format!("{}/{}", pool.name, one.name))).sum();
    pool.backends
        .iter()
        .map(|backend| {
            let rate = traffic.rate(&format!("{}/{}", pool.name, backend.name));
            let share = rate.filter(|_| total > 0.0).map(|rate| rate / total);
            vec![
                Cell::new(&backend.name),
                condition(backend),
                Cell::new(backend.in_flight.to_string()),
                Cell::new(share.map_or_else(|| "-".into(), |share| format!("{:.1}%", share * 100.0))),
                Cell::new(rate.map_or_else(|| "-".into(), |rate| format!("{rate:.1}/s"))),
                Cell::new(milliseconds(backend.p50_ms)),
                Cell::new(milliseconds(backend.p99_ms)),
                Cell::new(backend.failures.to_string()),
                Cell::new(backend.weight.map_or_else(|| "-".into(), |weight| weight.to_string())),
            ]
        })
        .collect()
}

/// Seconds as `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
fn long_time(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        86_400.. => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
        3600.. => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        60.. => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        for (seconds, text) in [(5.9, "5s"), (65.0, "1m 5s"), (3700.0, "1h 1m"), (90_000.0, "1d 1h")] {
            assert_eq!(long_time(seconds), text);
        }
    }
}
