//! The paths of a mock, and what each answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use serde_json::{Value, json};

use super::body::{MockBody, TokenStream};
use super::engine::{Engine, Fate, Visit};
use super::openai::{self, Ask, Frames, Kind};
use super::views;

/// Largest body that is read into memory: far above any chat, and a mock must not be a way to exhaust a test machine.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Who answered, on every response.
const INSTANCE: HeaderName = HeaderName::from_static("x-instance");

/// Answers one request. `control` is set when it is one to `/__mock`, so that a refusal ordered by it does not cut the
/// very connection that has to carry the answer.
pub(super) async fn handle(engine: Arc<Engine>, control: Arc<AtomicBool>, request: Request<Incoming>) -> Answer {
    let mut answer = match request.uri().path() {
        "/__mock" => {
            control.store(true, Relaxed);
            mock_control(&engine, request).await
        }
        "/health" => {
            engine.counts.probes.fetch_add(1, Relaxed);
            match engine.loading() {
                true => busy_answer("the model is being loaded", 1),
                false => json_answer(StatusCode::OK, &json!({"status": "ok"})),
            }
        }
        "/metrics" => {
            let mut answer = Response::new(MockBody::full(views::metrics(&engine)));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        _ => work(&engine, request).await,
    };
    if let Ok(name) = HeaderValue::try_from(engine.name()) {
        answer.headers_mut().insert(INSTANCE, name);
    }
    answer
}

type Answer = Response<MockBody>;

async fn mock_control(engine: &Arc<Engine>, request: Request<Incoming>) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => json_answer(StatusCode::OK, &views::state(engine)),
        Method::POST | Method::PUT | Method::PATCH => {
            let change: Value = match read(request.into_body()).await.map(|body| serde_json::from_slice(&body)) {
                Ok(Ok(change)) => change,
                Ok(Err(error)) => return bad_request(&format!("not JSON: {error}")),
                Err(answer) => return *answer,
            };
            match engine.set(&change) {
                Ok(()) => {
                    let mut answer = json_answer(StatusCode::OK, &views::state(engine));
                    if change.get("refuse_s").is_some() {
                        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    answer
                }
                Err(error) => bad_request(&error.to_string()),
            }
        }
        _ => method_not_allowed(),
    }
}

/// Everything that counts as a request of a client.
async fn work(engine: &Arc<Engine>, request: Request<Incoming>) -> Answer {
    let visit = engine.visit();
    match engine.fate().await {
        Fate::Serve => {}
        Fate::Loading => {
            visit.refused();
            return busy_answer("the model is being loaded", 1);
        }
        Fate::Fail(status) => {
            visit.failed();
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = openai::error("this mock was told to fail", "server_error", status.as_u16());
            return json_answer(status, &body);
        }
    }
    let path = request.uri().path();
    match path {
        "/v1/chat/completions" => completion(engine, visit, Kind::Chat, request).await,
        "/v1/completions" => completion(engine, visit, Kind::Text, request).await,
        "/v1/models" => plain(engine, visit, openai::models(&engine.snapshot().profile.model)).await,
        "/echo" => echo(engine, visit, request).await,
        "/headers" => {
            let headers: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
                .collect();
            plain(engine, visit, json!({"instance": engine.name(), "headers": headers})).await
        }
        _ => match path.strip_prefix("/b/").map(str::parse::<u64>) {
            Some(Ok(length)) => filler(engine, visit, length).await,
            Some(Err(_)) => {
                visit.refused();
                bad_request("/b/N wants a number of bytes")
            }
            None => {
                let text = json!({"instance": engine.name(), "method": request.method().as_str(), "path": path});
                if let Err(answer) = read(request.into_body()).await {
                    visit.refused();
                    return *answer;
                }
                plain(engine, visit, text).await
            }
        },
    }
}

async fn completion(engine: &Arc<Engine>, visit: Visit, kind: Kind, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        visit.refused();
        return method_not_allowed();
    }
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err(answer) => {
            visit.refused();
            return *answer;
        }
    };
    let ask = match Ask::parse(kind, &body) {
        Ok(ask) => ask,
        Err(message) => {
            visit.refused();
            return bad_request(&message);
        }
    };
    let Some(slot) = engine.slot().await else {
        visit.refused();
        return busy_answer("the queue is full", engine.retry_after_s());
    };
    // About four bytes a token, as tokenisers come out on English text.
    let mut job = engine.job(slot, body.len() as u64 / 4 + 1, ask.most());
    let profile = engine.snapshot().profile;
    let number = engine.counts.started.fetch_add(1, Relaxed) + 1;
    let frames = Frames::new(kind, &ask, &profile.name, &profile.model, number);
    if ask.streams() {
        let mut answer = Response::new(MockBody::Stream(Box::new(TokenStream::new(frames, job, visit))));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        return answer;
    }
    job.finish().await;
    let answer = json_answer(StatusCode::OK, &frames.whole(&job));
    drop(job);
    visit.answered();
    answer
}

/// A small answer; on a slot when `plain_ms` says that it is work.
async fn plain(engine: &Arc<Engine>, visit: Visit, body: Value) -> Answer {
    match pass(engine).await {
        Ok(()) => {
            visit.answered();
            json_answer(StatusCode::OK, &body)
        }
        Err(answer) => {
            visit.refused();
            *answer
        }
    }
}

async fn echo(engine: &Arc<Engine>, visit: Visit, request: Request<Incoming>) -> Answer {
    if let Err(answer) = pass(engine).await {
        visit.refused();
        return *answer;
    }
    visit.answered();
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let mut answer = Response::new(MockBody::Echo(request.into_body()));
    if let Some(kind) = kind {
        answer.headers_mut().insert(CONTENT_TYPE, kind);
    }
    answer
}

async fn filler(engine: &Arc<Engine>, visit: Visit, length: u64) -> Answer {
    if let Err(answer) = pass(engine).await {
        visit.refused();
        return *answer;
    }
    visit.answered();
    let mut answer = Response::new(MockBody::Filler(length));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

/// What a path outside the completions has to pass: a stall, and `plain_ms` of work on a slot.
async fn pass(engine: &Arc<Engine>) -> Result<(), Box<Answer>> {
    engine.unstalled().await;
    if let Some(work) = engine.plain_work() {
        let Some(_slot) = engine.slot().await else {
            return Err(Box::new(busy_answer("the queue is full", engine.retry_after_s())));
        };
        tokio::time::sleep(work).await;
        engine.unstalled().await;
    }
    Ok(())
}

async fn read(body: Incoming) -> Result<Bytes, Box<Answer>> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => {
            let body = openai::error(&error.to_string(), "invalid_request_error", 413);
            Err(Box::new(json_answer(StatusCode::PAYLOAD_TOO_LARGE, &body)))
        }
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(MockBody::full(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn bad_request(message: &str) -> Answer {
    json_answer(StatusCode::BAD_REQUEST, &openai::error(message, "invalid_request_error", 400))
}

fn method_not_allowed() -> Answer {
    let body = openai::error("method not allowed", "invalid_request_error", 405);
    json_answer(StatusCode::METHOD_NOT_ALLOWED, &body)
}

fn busy_answer(message: &str, retry_after_s: u64) -> Answer {
    let mut answer = json_answer(StatusCode::SERVICE_UNAVAILABLE, &openai::error(message, "overloaded_error", 503));
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    answer
}
