//! PromQL: a Prometheus server is asked for each backend's CPU and memory.
//!
//! In a query `{instance}` and `{address}` stand for the backend's `host:port`, which is what Prometheus calls the
//! instance of what it scrapes there; `{host}` for the host alone, and `{name}` for the backend's name.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::lookup_host;

use super::client::Client;
use crate::backend::{Backend, SampleSource};
use crate::clock;
use crate::config::{Address, PrometheusPlan};
use crate::pool::Pool;

/// How long one query may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connection to the server, and how it goes.
#[derive(Debug, Default)]
pub(super) struct Server {
    client: Client,
    failing: bool,
}

impl Server {
    /// Asks for every backend of `pool` once. The first failure ends the round: the server would fail the others too,
    /// and each would cost its patience.
    pub(super) async fn round(&mut self, pool: &Pool, plan: &PrometheusPlan, expiry: Duration) {
        for backend in &pool.set().members {
            let asked = async {
                let cpu = self.ask(plan, plan.cpu.as_deref(), backend).await?;
                let memory = self.ask(plan, plan.memory.as_deref(), backend).await?;
                Ok::<_, String>((cpu, memory))
            };
            match asked.await {
                Ok((cpu, memory)) => {
                    backend.count_sample(SampleSource::Prometheus, true);
                    if cpu.is_some() || memory.is_some() {
                        backend.note_resources(cpu, memory, expiry, clock::now());
                    }
                }
                Err(error) => {
                    backend.count_sample(SampleSource::Prometheus, false);
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(pool = %pool.name, url = plan.url, "Prometheus cannot be asked: {error}");
                    }
                    return;
                }
            }
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!(pool = %pool.name, url = plan.url, "Prometheus answers again");
        }
    }

    async fn ask(
        &mut self,
        plan: &PrometheusPlan,
        query: Option<&str>,
        backend: &Backend,
    ) -> Result<Option<f64>, String> {
        let Some(query) = query else { return Ok(None) };
        let asking = async {
            let (address, host, prefix) = server(&plan.url).await?;
            let target = format!("{prefix}/api/v1/query?query={}", percent_encoded(&filled_in(query, backend)));
            self.client.get(address, &host, &target, None).await
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        let bytes = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))?;
        value_of(&bytes)
    }
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

/// The value of an instant query's answer: of a scalar, or of the greatest of a vector's series, brought into 0-1.
/// `None`: no series, or not a number.
fn value_of(bytes: &[u8]) -> Result<Option<f64>, String> {
    let answer: Value = serde_json::from_slice(bytes).map_err(|_| "its answer is not JSON".to_owned())?;
    if answer["status"] != "success" {
        return Err(format!("it says {}", answer["error"].as_str().unwrap_or("no")));
    }
    let data = &answer["data"];
    let number =
        |pair: &Value| pair[1].as_str().and_then(|text| text.parse::<f64>().ok()).filter(|value| value.is_finite());
    let value = match (data["resultType"].as_str(), data["result"].as_array()) {
        (Some("scalar"), _) => number(&data["result"]),
        (Some("vector"), Some(series)) => series.iter().filter_map(|one| number(&one["value"])).reduce(f64::max),
        _ => return Err("the query gives neither a vector nor a scalar".to_owned()),
    };
    Ok(value.map(|value| value.clamp(0.0, 1.0)))
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
            value_of(answer.to_string().as_bytes()).unwrap()
        };
        assert_eq!(vector(&["0.25"]), Some(0.25));
        assert_eq!(vector(&["0.25", "0.75", "NaN"]), Some(0.75));
        assert_eq!(vector(&["3"]), Some(1.0));
        assert_eq!(vector(&[]), None);
        assert_eq!(vector(&["NaN"]), None);
        let scalar = br#"{"status":"success","data":{"resultType":"scalar","result":[1,"0.5"]}}"#;
        assert_eq!(value_of(scalar), Ok(Some(0.5)));
        let refused = br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(value_of(refused), Err("it says parse error".to_owned()));
        let matrix = br#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert!(value_of(matrix).is_err() && value_of(b"<html>").is_err());
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(percent_encoded("up{a=\"b\"} + 1"), "up%7Ba%3D%22b%22%7D%20%2B%201");
    }
}
