//! What backends and others say of CPU, memory and queues: scraped, asked of a real Prometheus, read from response headers,
//! pushed; and what is unknown is shown as unknown.
//!
//! The test against Prometheus is skipped with a line where there is none; `EVENKEEL_REQUIRE_TOOLS=1` makes that a failure.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use evenkeel::config::{Engine, PrometheusPlan, ResourcesPlan, ScrapePlan, StrategyKind, StrategyPlan};
use evenkeel::mock::{Mock, MockProfile};
use serde_json::Value;

use crate::support::*;

const OFTEN: Duration = Duration::from_millis(100);

/// What the API shows of a backend's resources.
#[track_caller]
fn shown(proxy: &TestProxy, name: &str) -> Value {
    let answer = proxy.admin(&format!("/api/v1/pools/ai/backends/{name}"));
    let view: Value = serde_json::from_str(&answer.text()).unwrap();
    view["resources"].clone()
}

const VLLM: &str = "vllm:kv_cache_usage_perc{engine=\"0\"} 0.42\nvllm:num_requests_running{engine=\"0\"} 3\n\
    vllm:num_requests_waiting{engine=\"0\"} 1\nvllm:num_requests_waiting{engine=\"1\"} 4\n";

/// A scrape, a response header and a push make one record; a source that fails is counted, what it said expires, and no
/// request notices any of it.
#[test]
fn scrape_header_and_push_make_one_record_and_silence_makes_it_unknown() {
    let broken = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let backend = TestBackend::new(move |turn| {
        if turn.request.target() == "/metrics" {
            let (status, text) = if fails.load(SeqCst) { (500, "") } else { (200, VLLM) };
            return turn.answer(status, text);
        }
        let asked = turn.request.field("endpoint-load-metrics-format").unwrap_or("nothing").to_owned();
        turn.send(format!(
            "HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.25, eps=1\r\nContent-Length: {}\r\n\r\n{asked}",
            asked.len()
        ));
    });
    let proxy = Setup::new(&[&backend])
        .pool(|pool| {
            pool.engine = Engine::Vllm;
            let scrape = ScrapePlan { interval: OFTEN, ..ScrapePlan::default() };
            let expiry = Duration::from_secs(1);
            pool.resources =
                Some(ResourcesPlan { scrape: Some(scrape), orca: true, expiry, ..ResourcesPlan::default() });
        })
        .start();
    until("memory is scraped", || shown(&proxy, "b0")["memory"] == 0.42);
    let view = shown(&proxy, "b0");
    assert_eq!((&view["cpu"], &view["running"], &view["waiting"]), (&Value::Null, &3.0.into(), &5.0.into()));
    let answer = proxy.get("/");
    assert_eq!(answer.text(), "text", "the backend was asked for reports");
    assert_eq!(answer.field("endpoint-load-metrics"), None, "a report is for us");
    // The scrapes go on, and do not wipe out what they do not know.
    let view = shown(&proxy, "b0");
    assert_eq!((&view["cpu"], &view["memory"]), (&0.25.into(), &0.42.into()));
    let pushed = proxy.change("PUT /api/v1/pools/ai/backends/b0/resources", r#"{"cpu":0.75}"#);
    assert_eq!(pushed.status(), 200);
    assert_eq!(shown(&proxy, "b0")["cpu"], 0.75);
    let metric = |resource| proxy.metric("evenkeel_resource_use_ratio", &[("backend", "b0"), ("resource", resource)]);
    assert_eq!(metric("memory"), 0.42);

    broken.store(true, SeqCst);
    until("all of it is unknown", || {
        let view = shown(&proxy, "b0");
        view["cpu"].is_null() && view["memory"].is_null() && view["running"].is_null()
    });
    assert!(shown(&proxy, "b0")["age_s"].as_f64().unwrap() >= 1.0);
    let metrics = proxy.metrics();
    assert!(!metrics.has("evenkeel_resource_use_ratio", &["backend"]), "unknown is no zero");
    let failed = [("source", "scrape"), ("result", "failed")];
    assert!(metrics.sum("evenkeel_resource_samples_total", &failed) >= 1.0);
    assert_eq!(metrics.sum("evenkeel_resource_samples_total", &[("source", "orca"), ("result", "ok")]), 1.0);
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(shown(&proxy, "b0")["cpu"], 0.25, "the header still tells");
    broken.store(false, SeqCst);
    until("it is scraped again", || shown(&proxy, "b0")["memory"] == 0.42);
}

/// A source that accepts and never answers holds up neither requests nor the other backends.
#[test]
fn a_silent_source_costs_only_itself() {
    let hold = Gate::new();
    let held = hold.clone();
    let silent = TestBackend::new(move |turn| match turn.request.target() {
        "/metrics" => held.pass(),
        _ => turn.answer(200, "ok"),
    });
    let fine = TestBackend::new(|turn| turn.answer(200, VLLM));
    let proxy = Setup::new(&[&silent, &fine])
        .pool(|pool| {
            pool.engine = Engine::Vllm;
            let scrape = ScrapePlan { interval: OFTEN, ..ScrapePlan::default() };
            pool.resources = Some(ResourcesPlan { scrape: Some(scrape), ..ResourcesPlan::default() });
        })
        .start();
    let failed = |backend| {
        let labels = [("backend", backend), ("source", "scrape"), ("result", "failed")];
        proxy.metric("evenkeel_resource_samples_total", &labels)
    };
    until("the silent one is given up a few times", || failed("b0") >= 3.0);
    assert_eq!(shown(&proxy, "b1")["memory"], 0.42);
    assert_eq!((shown(&proxy, "b0")["memory"].is_null(), failed("b1")), (true, 0.0));
    assert!((0..4).all(|_| proxy.get("/").status() == 200));
    hold.open();
}

/// A Prometheus server of Debian's, on an address that no other test has.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it, scraping `targets`; `None`: there is none on this machine.
    fn start(targets: &[SocketAddr]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n- job_name: ai\n  static_configs: [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let address = refusing_address();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self { child, address, _folder: folder }),
            Err(error) => {
                let required = std::env::var("EVENKEEL_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
                assert!(!required, "prometheus is missing ({error}), and EVENKEEL_REQUIRE_TOOLS=1");
                eprintln!("-- skipped: prometheus is missing ({error})");
                None
            }
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A real Prometheus scrapes two mock instances and answers our PromQL for each of them.
#[test]
fn a_real_prometheus_is_asked() {
    let mocks = ["one", "two"].map(|name| {
        let profile = MockProfile { tokens: 100_000, slots: 4, ..MockProfile::named(name) };
        Mock::start(SocketAddr::from(([127, 0, 0, 1], 0)), profile).unwrap()
    });
    let addresses = mocks.each_ref().map(Mock::address);
    let Some(prometheus) = Prometheus::start(&addresses) else { return };
    let proxy = Setup::at(&addresses)
        .pool(|pool| {
            let query = |text: &str| Some(text.to_owned());
            pool.resources = Some(ResourcesPlan {
                prometheus: Some(PrometheusPlan {
                    url: format!("http://{}", prometheus.address),
                    cpu: query("vllm:num_requests_running{instance=\"{instance}\"} / 4"),
                    memory: query("sum(up{instance=\"{address}\"}) * 0.5"),
                    interval: OFTEN,
                }),
                ..ResourcesPlan::default()
            });
        })
        .start();
    let cpu = |name| shown(&proxy, name)["cpu"].clone();
    until("Prometheus tells of both", || cpu("b0") == 0.0 && cpu("b1") == 0.0);
    assert_eq!(shown(&proxy, "b0")["memory"], 0.5);
    // One long stream, which round robin gives to one of the two.
    let mut client = proxy.client();
    let body = r#"{"model":"mock-model","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let length = body.len();
    client.send(format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
    let answer = client.head();
    let (busy, idle) = if answer.field("x-instance") == Some("one") { ("b0", "b1") } else { ("b1", "b0") };
    until("a quarter of its slots is in use", || cpu(busy) == 0.25);
    assert_eq!(cpu(idle), 0.0);
    let asked = [("source", "prometheus"), ("result", "ok")];
    assert!(proxy.metric("evenkeel_resource_samples_total", &asked) >= 2.0);
}

/// A backend that is overloaded says so and when to come again (429 or 503 with `Retry-After`): whatever the strategy, it is
/// left alone until then.
#[test]
fn retry_after_keeps_traffic_away_in_every_strategy() {
    for (number, kind) in StrategyKind::ALL.iter().enumerate() {
        let status = if number.is_multiple_of(2) { 429 } else { 503 };
        let refused = Arc::new(AtomicBool::new(false));
        // Whoever is asked first refuses; so it does not matter whom the strategy prefers.
        let backends = ["one", "two"].map(|name| {
            let refused = Arc::clone(&refused);
            TestBackend::new(move |turn| {
                if refused.swap(true, SeqCst) {
                    return turn.answer(200, name);
                }
                turn.send(format!(
                    "HTTP/1.1 {status} No\r\nRetry-After: 120\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                ));
            })
        });
        let proxy = Setup::new(&backends.each_ref()).pool(|pool| pool.strategy = StrategyPlan::new(*kind)).start();
        let refusal = proxy.get("/");
        assert_eq!(refusal.status(), status, "{kind:?}");
        let other = if refusal.text() == "one" { "two" } else { "one" };
        for _ in 0..12 {
            assert_eq!(proxy.get("/").text(), other, "{kind:?}");
        }
    }
}
