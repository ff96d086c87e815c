//! The OpenAI shapes: what a request asks, and how answers, stream events and errors look.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::Job;

/// What an answer is made of after its first words; it only has to look like text.
const WORDS: [&str; 24] = [
    " the", " scales", " of", " a", " balance", " rest", " when", " both", " pans", " carry", " their", " share",
    " and", " no", " hand", " presses", " on", " either", " side", " so", " each", " may", " be", " weighed",
];

/// Which of the two completion endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// The parts of a request that matter to a mock; all else is ignored, as model servers do.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    model: Option<String>,
    messages: Option<Vec<Value>>,
    prompt: Option<Value>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Ask {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Says what is missing, for a 400.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<Self, String> {
        let ask: Self = serde_json::from_slice(body).map_err(|error| format!("the body is not understood: {error}"))?;
        match kind {
            Kind::Chat if ask.messages.as_ref().is_none_or(Vec::is_empty) => Err("messages must not be empty".into()),
            Kind::Text if ask.prompt.is_none() => Err("prompt is missing".into()),
            Kind::Chat | Kind::Text => Ok(ask),
        }
    }

    pub(super) fn most(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }
}

/// Writes the pieces of one answer.
#[derive(Debug)]
pub(super) struct Frames {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    name: String,
    include_usage: bool,
}

impl Frames {
    pub(super) fn new(kind: Kind, ask: &Ask, name: &str, own_model: &str, number: u64) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        Self {
            kind,
            id: format!("{prefix}-{name}-{number}"),
            created: unix_now(),
            model: ask.model.clone().unwrap_or_else(|| own_model.to_owned()),
            name: name.to_owned(),
            include_usage: ask.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false),
        }
    }

    /// The event that opens a chat stream; text completions have none.
    pub(super) fn role(&self) -> Option<Bytes> {
        (self.kind == Kind::Chat).then(|| {
            self.event(
                json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}]),
                Value::Null,
            )
        })
    }

    pub(super) fn tokens(&self, first: u32, count: u32) -> Bytes {
        let text = self.text(first, count);
        let choice = match self.kind {
            Kind::Chat => {
                json!([{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}])
            }
            Kind::Text => json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": null}]),
        };
        self.event(choice, Value::Null)
    }

    pub(super) fn finish(&self, job: &Job) -> Bytes {
        let reason = finish_reason(job);
        let choice = match self.kind {
            Kind::Chat => json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason}]),
            Kind::Text => json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": reason}]),
        };
        self.event(choice, Value::Null)
    }

    /// The last event when the client asked for usage: no choices, only counts.
    pub(super) fn usage(&self, job: &Job) -> Option<Bytes> {
        self.include_usage.then(|| self.event(json!([]), usage(job)))
    }

    /// A whole answer, not streamed.
    pub(super) fn whole(&self, job: &Job) -> Value {
        let text = self.text(0, job.tokens);
        let reason = finish_reason(job);
        let (object, choice) = match self.kind {
            Kind::Chat => (
                "chat.completion",
                json!({"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                       "logprobs": null, "finish_reason": reason}),
            ),
            Kind::Text => {
                ("text_completion", json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason}))
            }
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
               "choices": [choice], "usage": usage(job)})
    }

    fn event(&self, choices: Value, usage: Value) -> Bytes {
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        };
        let mut event = json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
                               "choices": choices});
        // Servers write the key in every event of a stream that ends with usage, and in no other.
        if self.include_usage
            && let Some(event) = event.as_object_mut()
        {
            event.insert("usage".into(), usage);
        }
        Bytes::from(format!("data: {event}\n\n"))
    }

    /// Tokens `first..first + count`: the instance's name first, so that a reader sees who answered.
    fn text(&self, first: u32, count: u32) -> String {
        let mut text = String::new();
        for index in first..first.saturating_add(count) {
            match index.checked_sub(1) {
                None => text.push_str(&format!("{} says:", self.name)),
                Some(index) => text.push_str(WORDS.get(index as usize % WORDS.len()).copied().unwrap_or_default()),
            }
        }
        text
    }
}

/// `GET /v1/models`
pub(super) fn models(model: &str) -> Value {
    json!({"object": "list", "data": [{"id": model, "object": "model", "created": unix_now(), "owned_by": "evenkeel-mock"}]})
}

/// An error in OpenAI's shape.
pub(super) fn error(message: &str, kind: &str, code: u16) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

fn usage(job: &Job) -> Value {
    json!({"prompt_tokens": job.prompt, "completion_tokens": job.tokens,
           "total_tokens": job.prompt + u64::from(job.tokens)})
}

fn finish_reason(job: &Job) -> &'static str {
    if job.cut_short { "length" } else { "stop" }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
