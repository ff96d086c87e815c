//! `evenkeel mock`: one mock AI instance in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{Failure, args, output};
use crate::mock::{Mock, MockProfile};

const EXAMPLES: &str = "\
Examples:
  evenkeel mock --listen :8001 --name instance-1
  evenkeel mock --listen :8002 --speed 0.4 --slots 4 --error-rate 0.01
  curl localhost:8001/v1/chat/completions -d '{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'

Change it while it runs (a key that is not named stays as it is):
  curl localhost:8001/__mock                           settings, counts, what is in flight
  curl localhost:8001/__mock -d '{\"speed\": 0.2}'       five times slower
  curl localhost:8001/__mock -d '{\"error_rate\": 1}'    every request fails fast
  curl localhost:8001/__mock -d '{\"stall\": true}'      accepts, answers nothing, /health stays 200
  curl localhost:8001/__mock -d '{\"loading\": true}'    503, as while a model is being loaded
  curl localhost:8001/__mock -d '{\"refuse_s\": 10}'     refuses connections for ten seconds";

/// Run one mock AI instance: OpenAI-shaped completions, plain and streamed, /v1/models, /health and /metrics, on a real
/// socket, as slow, busy or broken as you like.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MockArgs {
    /// Where to listen; port 0 lets the system choose.
    #[arg(long, value_name = "ADDR", value_parser = args::listen)]
    listen: SocketAddr,
    /// Name, sent as `x-instance` with every answer.
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// TOML file with the settings; flags win over it.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Requests served at once.
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
    /// Requests that may wait for a slot; beyond: 503.
    #[arg(long, value_name = "N")]
    queue: Option<usize>,
    /// Tokens a second of one stream.
    #[arg(long, value_name = "N")]
    tokens_per_second: Option<f64>,
    /// Milliseconds to the first token.
    #[arg(long, value_name = "MS")]
    first_token_ms: Option<f64>,
    /// Mean length of an answer.
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// Spread of lengths and speeds (sigma of a log-normal factor); 0: all alike.
    #[arg(long, value_name = "SIGMA")]
    variation: Option<f64>,
    /// Slow-down of each stream when all slots are busy.
    #[arg(long, value_name = "SHARE")]
    contention: Option<f64>,
    /// Factor of everything that takes time: 0.2 is five times slower.
    #[arg(long, value_name = "FACTOR")]
    speed: Option<f64>,
    /// Milliseconds that a path outside /v1 takes; 0: answered at once.
    #[arg(long, value_name = "MS")]
    plain_ms: Option<f64>,
    /// Share of requests that fail fast, 0 to 1.
    #[arg(long, value_name = "SHARE")]
    error_rate: Option<f64>,
    /// Status of those.
    #[arg(long, value_name = "STATUS")]
    error_status: Option<u16>,
    /// Seed of the chances.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Accept and never answer.
    #[arg(long)]
    stall: bool,
    /// Start as if the model were still being loaded.
    #[arg(long)]
    loading: bool,
}

impl MockArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let profile = self.profile()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let name = profile.name.clone();
        let mock = Mock::start_on(runtime.handle(), self.listen, profile)
            .map_err(|error| Failure::Usage(format!("cannot listen on {}: {error}", self.listen)))?;
        output::line(&format!("mock {name} listening on http://{}", mock.address()))?;
        runtime.block_on(super::interrupted())
    }

    fn profile(&self) -> Result<MockProfile, Failure> {
        let mut profile = match &self.profile {
            None => MockProfile::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
                MockProfile::from_toml(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?
            }
        };
        fn lay<T: Clone>(over: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *over = value.clone();
            }
        }
        lay(&mut profile.name, &self.name);
        lay(&mut profile.slots, &self.slots);
        lay(&mut profile.queue, &self.queue);
        lay(&mut profile.tokens_per_second, &self.tokens_per_second);
        lay(&mut profile.first_token_ms, &self.first_token_ms);
        lay(&mut profile.tokens, &self.tokens);
        lay(&mut profile.variation, &self.variation);
        lay(&mut profile.contention, &self.contention);
        lay(&mut profile.speed, &self.speed);
        lay(&mut profile.plain_ms, &self.plain_ms);
        lay(&mut profile.error_rate, &self.error_rate);
        lay(&mut profile.error_status, &self.error_status);
        lay(&mut profile.seed, &self.seed);
        profile.stall |= self.stall;
        profile.loading |= self.loading;
        profile.checked().map_err(|error| Failure::Usage(error.to_string()))
    }
}
