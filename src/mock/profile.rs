//! How a mock instance behaves: every setting, as written in a profile file or sent to `POST /__mock`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How one mock instance behaves. Every field has a default and may be changed while the instance runs; a change acts
/// on requests and streams already in progress, except for lengths and variations, which are drawn when one starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MockProfile {
    /// Name: in the `x-instance` header, in answers and in logs.
    pub name: String,
    /// Model id that `/v1/models` and answers give.
    pub model: String,
    /// Requests served at once; more wait. 1 or more.
    pub slots: usize,
    /// Requests that may wait for a slot; beyond: 503 with `Retry-After`.
    pub queue: usize,
    /// Tokens a second of one stream at speed 1, alone on the instance.
    pub tokens_per_second: f64,
    /// Milliseconds from getting a slot to the first token, at speed 1.
    pub first_token_ms: f64,
    /// Prompt tokens read a second at speed 1, added to the time to first token; 0: prompts cost nothing.
    pub prefill_tokens_per_second: f64,
    /// Mean tokens of an answer, before the request's own `max_tokens`.
    pub tokens: u32,
    /// Spread of lengths and speeds: the sigma of the log-normal factor each request draws; 0: all alike.
    pub variation: f64,
    /// Slow-down by company: with all slots busy, each stream runs at 1 / (1 + contention) of its speed alone.
    pub contention: f64,
    /// Factor of everything that takes time: 2 is twice as fast, 0.2 five times slower. Above 0.
    pub speed: f64,
    /// Milliseconds that a path outside `/v1` takes, on a slot; 0: answered at once, without one.
    pub plain_ms: f64,
    /// Share of requests, 0-1, that fail at once with `error_status`.
    pub error_rate: f64,
    /// The status of those: 500, 503, 429, …
    pub error_status: u16,
    /// Accepts and never answers; streams hang. `/health` and `/metrics` go on as if nothing were wrong.
    pub stall: bool,
    /// The model is still being loaded: 503 on `/health` and on work.
    pub loading: bool,
    /// Refuses connections and closes those it has, for this many seconds from when it is set.
    pub refuse_s: f64,
    /// Seed of the chances; used at the start only.
    pub seed: u64,
}

impl Default for MockProfile {
    /// A middling instance: an answer of 64 tokens takes about 1.4 s alone. Lengths and speeds are of the size that
    /// public chat traces show, scaled down so that a person can watch.
    fn default() -> Self {
        Self {
            name: "mock".into(),
            model: "mock-model".into(),
            slots: 8,
            queue: 64,
            tokens_per_second: 50.0,
            first_token_ms: 80.0,
            prefill_tokens_per_second: 8000.0,
            tokens: 64,
            variation: 0.3,
            contention: 0.5,
            speed: 1.0,
            plain_ms: 0.0,
            error_rate: 0.0,
            error_status: 500,
            stall: false,
            loading: false,
            refuse_s: 0.0,
            seed: 1,
        }
    }
}

/// What is wrong with a profile or a change of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProfileError(pub String);

impl MockProfile {
    /// A default profile of that name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Reads a profile file (TOML, the field names as keys).
    ///
    /// # Errors
    /// When it is not TOML, a key is unknown or a value out of range.
    pub fn from_toml(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
        profile.checked()
    }

    /// This profile with the keys of a JSON object laid over it.
    ///
    /// # Errors
    /// When `change` is not an object, a key is unknown or a value out of range; nothing is changed then.
    pub fn with(&self, change: &Value) -> Result<Self, ProfileError> {
        let Some(change) = change.as_object() else {
            return Err(ProfileError("the change must be a JSON object, such as {\"speed\": 0.2}".into()));
        };
        let mut whole = serde_json::to_value(self).map_err(|error| ProfileError(error.to_string()))?;
        if let Some(whole) = whole.as_object_mut() {
            // What is not mentioned stays, but for a refusal: that is an order, not a state.
            whole.insert("refuse_s".into(), Value::from(0.0));
            whole.extend(change.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        let profile: Self = serde_json::from_value(whole).map_err(|error| ProfileError(error.to_string()))?;
        profile.checked()
    }

    /// The profile, if all its values are in range.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn checked(self) -> Result<Self, ProfileError> {
        let not_negative = |name: &str, value: f64| {
            (value.is_finite() && value >= 0.0)
                .then_some(())
                .ok_or_else(|| ProfileError(format!("{name} must be 0 or more, not {value}")))
        };
        let above_zero = |name: &str, value: f64| {
            (value.is_finite() && value > 0.0)
                .then_some(())
                .ok_or_else(|| ProfileError(format!("{name} must be above 0, not {value}")))
        };
        above_zero("tokens_per_second", self.tokens_per_second)?;
        above_zero("speed", self.speed)?;
        not_negative("first_token_ms", self.first_token_ms)?;
        not_negative("prefill_tokens_per_second", self.prefill_tokens_per_second)?;
        not_negative("variation", self.variation)?;
        not_negative("contention", self.contention)?;
        not_negative("plain_ms", self.plain_ms)?;
        not_negative("refuse_s", self.refuse_s)?;
        if !(0.0..=1.0).contains(&self.error_rate) {
            return Err(ProfileError(format!("error_rate must be 0 to 1, not {}", self.error_rate)));
        }
        if !(400..=599).contains(&self.error_status) {
            return Err(ProfileError(format!("error_status must be 400 to 599, not {}", self.error_status)));
        }
        if self.slots == 0 || self.tokens == 0 {
            return Err(ProfileError("slots and tokens must be 1 or more".into()));
        }
        if self.name.is_empty() || !self.name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ProfileError("name must be one word of visible ASCII".into()));
        }
        Ok(self)
    }
}
