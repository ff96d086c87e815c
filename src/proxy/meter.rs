//! Telemetry of one streamed response: its pieces and events as they pass, and when the first one with content came. It
//! looks at the bytes and never holds them up. Responses that are no stream have no meter.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::Value;

use crate::backend::Backend;
use crate::clock;

/// Longest event that is kept to see whether it has content; one that is longer surely has.
const LONGEST_HELD: usize = 64 * 1024;

/// Follows one stream from its head to its end.
#[derive(Debug)]
pub(super) struct Meter {
    backend: Arc<Backend>,
    /// When the backend was picked.
    picked: Instant,
    last: Option<Instant>,
    /// The backend has to speak next.
    waits: bool,
    scanner: Scanner,
}

impl Meter {
    /// A stream with this head began; its backend was picked at `picked`.
    pub(super) fn begin(backend: &Arc<Backend>, headers: &HeaderMap, picked: Instant) -> Box<Self> {
        backend.streams.opened();
        let kind = headers.get(CONTENT_TYPE).map_or(b"".as_slice(), |value| value.as_bytes());
        let format = if headers.contains_key(CONTENT_ENCODING) {
            Format::Opaque
        } else if kind.len() >= 4 && kind[..4].eq_ignore_ascii_case(b"text") {
            Format::Events
        } else {
            Format::Lines
        };
        let scanner = Scanner::new(format);
        Box::new(Self { backend: Arc::clone(backend), picked, last: None, waits: false, scanner })
    }

    /// Nothing has come yet: the backend is waited for.
    pub(super) fn waiting(&mut self) {
        if !std::mem::replace(&mut self.waits, true) {
            self.backend.streams.waits(true);
        }
    }

    /// A piece came.
    pub(super) fn piece(&mut self, data: &[u8]) {
        let now = clock::now();
        self.spoke();
        let seen = self.scanner.feed(data);
        let gap = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        self.backend.streams.piece(data.len(), seen.events, gap);
        if seen.first_content {
            self.backend.streams.first_token.record(now.saturating_duration_since(self.picked));
        }
    }

    /// Whether an SSE event may follow what has passed: the stream is of events, and none of them is half sent.
    pub(super) fn is_between_events(&self) -> bool {
        self.scanner.format == Format::Events && !self.scanner.open && self.scanner.line.is_empty()
    }

    fn spoke(&mut self) {
        if std::mem::replace(&mut self.waits, false) {
            self.backend.streams.waits(false);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.spoke();
        self.backend.streams.closed();
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `text/event-stream`: fields, and an empty line behind each event.
    Events,
    /// `application/x-ndjson`: one event a line.
    Lines,
    /// Compressed: its events cannot be seen.
    Opaque,
}

/// What a piece held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Events that ended in it.
    events: u64,
    /// The first of all events with content was among them.
    first_content: bool,
}

/// Finds the ends of events, however the bytes are cut into pieces.
#[derive(Debug)]
struct Scanner {
    format: Format,
    line: Line,
    /// An event has begun: a line that is neither empty nor a comment.
    open: bool,
    /// The present event so far, until one with content was found.
    held: Option<Vec<u8>>,
}

/// The line that is being read, as far as it matters.
#[derive(Debug, Default)]
struct Line {
    first: Option<u8>,
}

impl Line {
    /// Takes in a part of the line without its newline.
    fn take(&mut self, part: &[u8]) {
        // A lone carriage return belongs to the line's end.
        self.first = self.first.or_else(|| part.iter().copied().find(|byte| *byte != b'\r'));
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl Scanner {
    fn new(format: Format) -> Self {
        let held = (format != Format::Opaque).then(Vec::new);
        Self { format, line: Line::default(), open: false, held }
    }

    fn feed(&mut self, mut data: &[u8]) -> Seen {
        let mut seen = Seen::default();
        if self.format == Format::Opaque {
            return seen;
        }
        while !data.is_empty() {
            let newline = data.iter().position(|byte| *byte == b'\n');
            let (part, rest) = data.split_at(newline.map_or(data.len(), |at| at + 1));
            data = rest;
            let text = newline.map_or(part, |at| &part[..at]);
            self.line.take(text);
            self.hold(part, &mut seen);
            if newline.is_some() && self.line_ends() {
                seen.events += 1;
                self.event_ends(&mut seen);
            }
        }
        seen
    }

    /// A line is complete; whether an event is, too.
    fn line_ends(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        match (self.format, line.first) {
            (Format::Events, None) => {
                let ended = std::mem::replace(&mut self.open, false);
                if !ended && let Some(held) = &mut self.held {
                    held.clear();
                }
                ended
            }
            (Format::Events, Some(b':')) => false,
            (Format::Events, Some(_)) => {
                self.open = true;
                false
            }
            (Format::Lines | Format::Opaque, first) => first.is_some(),
        }
    }

    fn hold(&mut self, part: &[u8], seen: &mut Seen) {
        let Some(held) = &mut self.held else { return };
        held.extend_from_slice(part);
        if held.len() > LONGEST_HELD {
            self.held = None;
            seen.first_content = true;
        }
    }

    fn event_ends(&mut self, seen: &mut Seen) {
        let Some(held) = &mut self.held else { return };
        let content = match self.format {
            Format::Events => has_content(&data_of(held)),
            Format::Lines | Format::Opaque => has_content(held),
        };
        held.clear();
        if content {
            self.held = None;
            seen.first_content = true;
        }
    }
}

/// The data of an SSE event: its `data` lines, joined.
fn data_of(event: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(event.len());
    for line in event.split(|byte| *byte == b'\n') {
        if let Some(rest) = line.strip_prefix(b"data:") {
            if !data.is_empty() {
                data.push(b'\n');
            }
            data.extend_from_slice(rest.trim_ascii());
        }
    }
    data
}

/// Whether an event carries output, as against a role frame, a note of usage or a ping, in the shapes of OpenAI (chat,
/// completions, responses), Anthropic, Ollama, TGI and llama.cpp. Of an unknown shape every event counts.
fn has_content(data: &[u8]) -> bool {
    let data = data.trim_ascii();
    if data.is_empty() || data == b"[DONE]" {
        return false;
    }
    let Ok(Value::Object(event)) = serde_json::from_slice(data) else { return true };
    if event.contains_key("error") {
        return false;
    }
    if let Some(choices) = event.get("choices") {
        return choices
            .as_array()
            .is_some_and(|choices| choices.iter().any(|choice| says(&choice["text"]) || part_says(&choice["delta"])));
    }
    if let Some(kind) = event.get("type").and_then(Value::as_str) {
        let known = kind.starts_with("response.") || kind.starts_with("message") || kind.starts_with("content_block");
        return kind.ends_with("delta") && kind != "message_delta" || !known && kind != "ping";
    }
    if let Some(message) = event.get("message") {
        return part_says(message);
    }
    match event.get("response").or_else(|| event.get("content")) {
        Some(text) => says(text),
        None => true,
    }
}

/// Whether a delta or message says something.
fn part_says(part: &Value) -> bool {
    let texts = ["content", "reasoning_content", "reasoning", "thinking", "refusal"];
    texts.iter().any(|name| says(&part[name]))
        || ["tool_calls", "function_call", "audio"].iter().any(|name| says(&part[name]))
}

fn says(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events counted, and the index of the first with content.
    fn scanned(format: Format, text: &str, cut: usize) -> (u64, Option<u64>) {
        let mut scanner = Scanner::new(format);
        let (mut events, mut first) = (0, None);
        for piece in text.as_bytes().chunks(cut) {
            let seen = scanner.feed(piece);
            if seen.first_content {
                assert!(first.is_none(), "the first is told once");
                first = Some(events);
            }
            events += seen.events;
        }
        (events, first)
    }

    #[test]
    fn events_are_counted_and_the_first_with_content_is_found_however_the_bytes_are_cut() {
        let chat = ": ping\n\n\
            data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\r\n\r\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"!\"}}]}\n\n\
            data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n";
        let lines = "{\"message\":{\"role\":\"assistant\",\"content\":\"\"}}\n\n{\"message\":{\"content\":\"a\"}}\n{\"done\":true}\n";
        for cut in 1..chat.len() {
            assert_eq!(scanned(Format::Events, chat, cut).0, 5, "cut {cut}");
        }
        assert_eq!(scanned(Format::Events, chat, 1), (5, Some(1)));
        assert_eq!(scanned(Format::Lines, lines, 1), (3, Some(1)));
        assert_eq!(scanned(Format::Opaque, chat, 7), (0, None));
    }

    #[test]
    fn what_is_content() {
        for (data, expected) in [
            (r#"{"choices":[{"delta":{"role":"assistant"}}]}"#, false),
            (r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#, false),
            (r#"{"choices":[{"delta":{"content":"x"}}]}"#, true),
            (r#"{"choices":[{"delta":{"reasoning_content":"x"}}]}"#, true),
            (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, true),
            (r#"{"choices":[{"text":"x"}]}"#, true),
            (r#"{"choices":[{"text":""}]}"#, false),
            (r#"{"choices":[],"usage":{"total_tokens":3}}"#, false),
            (r#"{"type":"response.created","response":{}}"#, false),
            (r#"{"type":"response.output_text.delta","delta":"x"}"#, true),
            (r#"{"type":"message_start","message":{}}"#, false),
            (r#"{"type":"ping"}"#, false),
            (r#"{"type":"content_block_start"}"#, false),
            (r#"{"type":"content_block_delta","delta":{"text":"x"}}"#, true),
            (r#"{"type":"message_delta"}"#, false),
            (r#"{"model":"m","response":"x","done":false}"#, true),
            (r#"{"model":"m","response":"","done":true}"#, false),
            (r#"{"message":{"role":"assistant","content":"x"}}"#, true),
            (r#"{"token":{"id":1,"text":"x"}}"#, true),
            (r#"{"content":"x","stop":false}"#, true),
            (r#"{"error":{"message":"x"}}"#, false),
            ("plain text", true),
            ("[DONE]", false),
            ("", false),
        ] {
            assert_eq!(has_content(data.as_bytes()), expected, "{data}");
        }
    }

    #[test]
    fn an_endless_event_is_content_and_costs_no_more_memory() {
        let mut scanner = Scanner::new(Format::Events);
        let mut found = 0;
        for _ in 0..100 {
            found += u32::from(scanner.feed(&[b'x'; 1024]).first_content);
        }
        assert_eq!(found, 1);
        assert!(scanner.held.is_none());
    }
}
