//! PromQL: a Prometheus server is asked for each backend's CPU and memory.
//!
//! In a query `{instance}` and `{address}` stand for the backend's `host:port`, which is what Prometheus calls the
//! instance of what it scrapes there; `{host}` for the host alone, and `{name}` for the backend's name.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::net::lookup_host;

use super::client::Client;
use crate::backend::{Backend, SampleResult, SampleSource};
use crate::clock;
use crate::config::{Address, PrometheusPlan};
use crate::pool::Pool;

/// How long one query may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Different complaints that are told before it answers well again: a text may differ for each of hundreds of backends.
const MOST_COMPLAINTS: usize = 16;

/// Characters of a server's own error text that are told.
const MOST_TEXT: usize = 300;

/// The connection to the server, and how it goes.
#[derive(Debug, Default)]
pub(super) struct Server {
    client: Client,
    /// What is asked; another plan begins anew.
    plan: Option<PrometheusPlan>,
    /// Failures told since the last good round.
    failures: HashSet<String>,
    /// Odd answers told: for good, since they come and go with the traffic.
    oddities: HashSet<String>,
}

/// Why a query has no answer.
#[derive(Debug, PartialEq)]
enum Trouble {
    /// The server cannot be asked: it would fail every other query too, and each would cost its patience.
    Server(String),
    /// It refuses this query.
    Query(String),
}

/// A good answer.
#[derive(Debug, PartialEq)]
enum Answer {
    /// A number.
    Value(f64),
    /// None: why.
    Nothing(&'static str),
}

impl Server {
    /// Asks for every backend of `pool` once.
    pub(super) async fn round(&mut self, pool: &Pool, plan: &PrometheusPlan, expiry: Duration) {
        if self.plan.as_ref() != Some(plan) {
            *self = Self { plan: Some(plan.clone()), ..Self::default() };
        }
        let mut good = true;
        let members = pool.set().members.clone();
        for (index, backend) in members.iter().enumerate() {
            match self.ask_both(pool, plan, backend, expiry).await {
                Ok(result) => {
                    backend.count_sample(SampleSource::Prometheus, result);
                    good &= result != SampleResult::Failed;
                }
                Err(error) => {
                    for backend in &members[index..] {
                        backend.count_sample(SampleSource::Prometheus, SampleResult::Failed);
                    }
                    if first(&mut self.failures, &error) {
                        tracing::warn!(pool = %pool.name, url = plan.url, "Prometheus cannot be asked: {error}");
                    }
                    return;
                }
            }
        }
        if good && !std::mem::take(&mut self.failures).is_empty() {
            tracing::info!(pool = %pool.name, url = plan.url, "Prometheus answers again");
        }
    }

    /// Both queries for one backend; what one of them says counts although the other is refused. An error is the server's.
    async fn ask_both(
        &mut self,
        pool: &Pool,
        plan: &PrometheusPlan,
        backend: &Backend,
        expiry: Duration,
    ) -> Result<SampleResult, String> {
        let mut result = SampleResult::Ok;
        let mut values = [None, None];
        let queries = [("cpu", &plan.cpu), ("memory", &plan.memory)];
        for ((key, query), value) in queries.into_iter().zip(&mut values) {
            let Some(query) = query else { continue };
            match self.ask(plan, query, backend).await {
                Ok(Answer::Value(found)) => {
                    if !(0.0..=1.0).contains(&found) && first(&mut self.oddities, &format!("{key} range")) {
                        tracing::warn!(pool = %pool.name, backend = %backend.name, query = key,
                            "Prometheus says {found}, which is no fraction of 1 and taken for the nearest: is it a percentage?");
                    }
                    *value = Some(found.clamp(0.0, 1.0));
                }
                Ok(Answer::Nothing(why)) => {
                    if result == SampleResult::Ok {
                        result = SampleResult::Empty;
                    }
                    if first(&mut self.oddities, &format!("{key} {why}")) {
                        tracing::warn!(pool = %pool.name, backend = %backend.name, query = key,
                            "Prometheus {why} (counted as \"empty\" wherever that is so): {}", filled_in(query, backend));
                    }
                }
                Err(Trouble::Query(error)) => {
                    result = SampleResult::Failed;
                    if first(&mut self.failures, &format!("{key}: {error}")) {
                        tracing::warn!(pool = %pool.name, backend = %backend.name, query = key,
                            "Prometheus refuses a query: {error}");
                    }
                }
                Err(Trouble::Server(error)) => return Err(error),
            }
        }
        let [cpu, memory] = values;
        if cpu.is_some() || memory.is_some() {
            backend.note_resources(cpu, memory, expiry, clock::now());
        }
        Ok(result)
    }

    async fn ask(&mut self, plan: &PrometheusPlan, query: &str, backend: &Backend) -> Result<Answer, Trouble> {
        let asking = async {
            let (address, host, prefix) = server(&plan.url).await?;
            let target = format!("{prefix}/api/v1/query?query={}", percent_encoded(&filled_in(query, backend)));
            self.client.answer(address, &host, &target, None).await
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        let (status, bytes) = answer.map_err(Trouble::Server)?;
        value_of(status, &bytes).map_err(Trouble::Query)
    }
}

/// Whether this was not told before; then it is now.
fn first(told: &mut HashSet<String>, what: &str) -> bool {
    told.len() < MOST_COMPLAINTS && told.insert(what.to_owned())
}

/// Address, host and path prefix of the server.
async fn server(url: &str) -> Result<(SocketAddr, String, String), String> {
    let uri: http::Uri = url.parse().map_err(|_| "its URL makes no sense".to_owned())?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is spoken to Prometheus in this version".to_owned());
    }
    let authority = uri.authority().ok_or("its URL has no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let mut found = lookup_host((host, authority.port_u16().unwrap_or(80))).await.map_err(|error| error.to_string())?;
    let address = found.next().ok_or("its name has no address")?;
    Ok((address, authority.to_string(), uri.path().trim_end_matches('/').to_owned()))
}

fn filled_in(query: &str, backend: &Backend) -> String {
    let address = backend.address.to_string();
    let host = match &backend.address {
        Address::Ip(address) => address.ip().to_string(),
        Address::Name { host, .. } => host.clone(),
    };
    query
        .replace("{instance}", &address)
        .replace("{address}", &address)
        .replace("{host}", &host)
        .replace("{name}", &backend.name)
}

/// Everything but letters, digits and `-._~` as `%HH`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The value of an instant query's answer: of a scalar, or of the greatest of a vector's series.
fn value_of(status: StatusCode, bytes: &[u8]) -> Result<Answer, String> {
    let Ok(answer) = serde_json::from_slice::<Value>(bytes) else {
        return Err(match status {
            StatusCode::OK => "its answer is not JSON".to_owned(),
            other => format!("status {}", other.as_u16()),
        });
    };
    if status != StatusCode::OK || answer["status"] != "success" {
        let text = |key: &str| answer[key].as_str().map(told);
        let words: Vec<_> = [text("errorType"), text("error")].into_iter().flatten().collect();
        let words = if words.is_empty() { "no reason given".to_owned() } else { words.join(": ") };
        return Err(format!("status {}: {words}", status.as_u16()));
    }
    let data = &answer["data"];
    let number = |pair: &Value| pair[1].as_str().and_then(|text| text.parse::<f64>().ok());
    let values: Vec<f64> = match (data["resultType"].as_str(), data["result"].as_array()) {
        (Some("scalar"), _) => number(&data["result"]).into_iter().collect(),
        (Some("vector"), Some(series)) => series.iter().filter_map(|one| number(&one["value"])).collect(),
        _ => return Err("the query gives neither a vector nor a scalar".to_owned()),
    };
    let greatest = values.iter().copied().filter(|value| value.is_finite()).reduce(f64::max);
    Ok(match greatest {
        Some(value) => Answer::Value(value),
        None if values.is_empty() => Answer::Nothing("knows no series that the query matches"),
        None => Answer::Nothing("gives no number"),
    })
}

/// A server's own words, for one line of the log.
fn told(text: &str) -> String {
    text.chars().take(MOST_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let vector = |values: &[&str]| {
            let series: Vec<Value> =
                values.iter().map(|v| serde_json::json!({ "metric": {}, "value": [1.5, v] })).collect();
            let answer =
                serde_json::json!({ "status": "success", "data": { "resultType": "vector", "result": series } });
            value_of(StatusCode::OK, answer.to_string().as_bytes()).unwrap()
        };
        assert_eq!(vector(&["0.25"]), Answer::Value(0.25));
        assert_eq!(vector(&["0.25", "0.75", "NaN"]), Answer::Value(0.75));
        assert_eq!(vector(&["3"]), Answer::Value(3.0));
        assert!(matches!(vector(&[]), Answer::Nothing(why) if why.contains("no series")));
        assert!(matches!(vector(&["NaN"]), Answer::Nothing(why) if why.contains("no number")));
        let scalar = br#"{"status":"success","data":{"resultType":"scalar","result":[1,"0.5"]}}"#;
        assert_eq!(value_of(StatusCode::OK, scalar), Ok(Answer::Value(0.5)));
        let refused = br#"{"status":"error","errorType":"bad_data","error":"parse error:\nhere"}"#;
        let said = value_of(StatusCode::BAD_REQUEST, refused);
        assert_eq!(said, Err("status 400: bad_data: parse error: here".to_owned()));
        assert_eq!(value_of(StatusCode::BAD_GATEWAY, b"<html>"), Err("status 502".to_owned()));
        let matrix = br#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert!(value_of(StatusCode::OK, matrix).is_err() && value_of(StatusCode::OK, b"<html>").is_err());
    }

    #[test]
    fn each_complaint_is_told_once_and_not_without_end() {
        let mut told = HashSet::new();
        assert!(first(&mut told, "a") && !first(&mut told, "a") && first(&mut told, "b"));
        let more = (0..100).filter(|n| first(&mut told, &n.to_string())).count();
        assert_eq!(more, MOST_COMPLAINTS - 2);
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(percent_encoded("up{a=\"b\"} + 1"), "up%7Ba%3D%22b%22%7D%20%2B%201");
    }
}
