//! Response bodies of a mock: whole, streamed token by token, echoed, or so many bytes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::engine::{Job, STREAM_GRAIN, Visit};
use super::openai::Frames;

/// Filler of `GET /b/N`.
static FILLER: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// A mock's response body.
pub(super) enum MockBody {
    /// All there.
    Full(Full<Bytes>),
    /// Server-sent events, as the tokens are made.
    Stream(Box<TokenStream>),
    /// The request's own body, trailers and all.
    Echo(Incoming),
    /// So many bytes still to come.
    Filler(u64),
}

impl MockBody {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Full(full) => {
                let frame = ready!(Pin::new(full).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Stream(stream) => stream.poll_event(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Echo(body) => Pin::new(body).poll_frame(cx),
            Self::Filler(0) => Poll::Ready(None),
            Self::Filler(left) => {
                let piece = (FILLER.len() as u64).min(*left);
                *left -= piece;
                let bytes = FILLER.get(..piece as usize).unwrap_or(&FILLER);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Stream(stream) => stream.stage == Stage::Over,
            Self::Echo(body) => body.is_end_stream(),
            Self::Filler(left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Stream(_) => SizeHint::default(),
            Self::Echo(body) => body.size_hint(),
            Self::Filler(left) => SizeHint::with_exact(*left),
        }
    }
}

/// A streamed answer: role, tokens, finish reason, usage when asked for, `[DONE]`.
pub(super) struct TokenStream {
    frames: Frames,
    job: Option<Job>,
    visit: Option<Visit>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Role,
    Tokens,
    Usage,
    Done,
    Over,
}

impl TokenStream {
    pub(super) fn new(frames: Frames, job: Job, visit: Visit) -> Self {
        Self { frames, job: Some(job), visit: Some(visit), stage: Stage::Role }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(job) = self.job.as_mut() else { return Poll::Ready(None) };
        let event = match self.stage {
            Stage::Role => {
                self.stage = Stage::Tokens;
                match self.frames.role() {
                    Some(event) => event,
                    None => return self.poll_event(cx),
                }
            }
            Stage::Tokens => {
                let first = job.made;
                match ready!(job.poll_tokens(cx, STREAM_GRAIN)) {
                    0 => {
                        self.stage = Stage::Usage;
                        self.frames.finish(job)
                    }
                    piece => self.frames.tokens(first, piece),
                }
            }
            Stage::Usage => {
                self.stage = Stage::Done;
                match self.frames.usage(job) {
                    Some(event) => event,
                    None => return self.poll_event(cx),
                }
            }
            Stage::Done => {
                self.stage = Stage::Over;
                self.job = None;
                if let Some(visit) = self.visit.take() {
                    visit.answered();
                }
                Bytes::from_static(b"data: [DONE]\n\n")
            }
            Stage::Over => return Poll::Ready(None),
        };
        Poll::Ready(Some(event))
    }
}
