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

use evenkeel::config::{Engine, PrometheusPlan, ResourcesPlan, ScrapePlan, StrategyKind, StrategyPlan, WhenUnhealthy};
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
    assert!(shown(&proxy, "b0")["age_s"].is_null(), "nothing has no age");
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

/// When everybody asked for a pause there is nobody to turn to: `reject` says so and when to come again, `fail_open` asks them
/// all the same and counts it. The API and the metrics show who is left alone.
#[test]
fn when_all_ask_for_a_pause_the_pool_rejects_or_counts() {
    let busy = || {
        TestBackend::new(|turn| {
            turn.send("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n");
        })
    };
    let (one, two) = (busy(), busy());
    for when in [WhenUnhealthy::Reject, WhenUnhealthy::FailOpen] {
        let asked = one.count() + two.count();
        let proxy = Setup::new(&[&one, &two]).pool(|pool| pool.when_unhealthy = when).start();
        assert_eq!([proxy.get("/").status(), proxy.get("/").status()], [429, 429]);
        until("both are held", || proxy.metric("evenkeel_backend_held_seconds", &[]) > 200.0);
        let view: Value = serde_json::from_str(&proxy.admin("/api/v1/pools/ai/backends/b1").text()).unwrap();
        assert!((100.0..=120.0).contains(&view["held_s"].as_f64().unwrap()), "{view}");
        let answer = proxy.get("/");
        let counted = proxy.metric("evenkeel_fail_open_picks_total", &[]);
        if when == WhenUnhealthy::Reject {
            let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
            assert!(answer.status() == 503 && answer.text().contains("no_backend"), "{answer:?}");
            assert!((100..=120).contains(&wait), "the time that is left: {wait}");
            assert_eq!((one.count() + two.count() - asked, counted), (2, 0.0));
        } else {
            assert_eq!((answer.status(), one.count() + two.count() - asked, counted), (429, 3, 1.0));
        }
    }
}

/// One backend's query that is refused blinds nobody else, a server that is gone counts against everybody; each different
/// complaint is told once, in the server's own words; what matches nothing, and what is no fraction, is told too.
#[test]
fn a_faulty_query_is_told_and_costs_only_its_own_backend() {
    let saying =
        |result: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{result}]}}}}"#);
    let prometheus = TestBackend::new(move |turn| {
        let target = turn.request.target().to_owned();
        let refused = |text: &str| format!(r#"{{"status":"error","errorType":"bad_data","error":"{text}"}}"#);
        let series = |value: &str| saying(&format!(r#"{{"metric":{{}},"value":[1,"{value}"]}}"#));
        let is = |what: &str| target.contains(what);
        match () {
            () if is("mem") && is("b1") => turn.answer(400, &refused("no such label")),
            () if is("mem") && is("b2") => turn.answer(422, &refused("too many samples")),
            () if is("mem") && is("b3") => turn.answer(200, &saying("")),
            () if is("mem") => turn.answer(200, &series("55")),
            () => turn.answer(200, &series("0.25")),
        }
    });
    let backends: Vec<_> = (0..5).map(|_| TestBackend::saying("ok")).collect();
    let mut config = Config::new(&backends.iter().collect::<Vec<_>>());
    for (number, backend) in config.backends.iter_mut().enumerate() {
        backend.0 = format!("b{number}");
    }
    let text = |address: SocketAddr| {
        let table = format!(
            "\n[pools.ai.resources.prometheus]\nurl = \"http://{address}\"\ncpu = \"cpu{{name}}\"\nmemory = \"mem{{name}}\"\ninterval = \"100ms\"\n"
        );
        config.text() + &table
    };
    let binary = Binary::run(&text(prometheus.address()));
    let samples = |backend: &str, result: &str| {
        let labels = [("backend", backend), ("source", "prometheus"), ("result", result)];
        binary.metric("evenkeel_resource_samples_total", &labels)
    };
    until("several rounds", || samples("b4", "ok") >= 3.0);
    assert!(samples("b1", "failed") >= 3.0 && samples("b2", "failed") >= 3.0, "the last is asked in each round");
    assert!(samples("b3", "empty") >= 3.0 && samples("b3", "ok") == 0.0);
    let shown = |name: &str| {
        let view = binary.admin().get(&format!("/api/v1/pools/ai/backends/{name}")).text();
        let view: Value = serde_json::from_str(&view).unwrap();
        (view["resources"]["cpu"].as_f64(), view["resources"]["memory"].as_f64())
    };
    assert_eq!(shown("b1"), (Some(0.25), None), "what the other query says counts");
    assert_eq!(shown("b4"), (Some(0.25), Some(1.0)));
    let log = binary.log();
    for complaint in ["no such label", "too many samples", "no series that the query matches", "says 55,"] {
        assert_eq!(log.matches(complaint).count(), 1, "{complaint}:\n{log}");
    }

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(binary.reload(&text(nobody)));
    let before = samples("b4", "failed");
    until("all are counted", || samples("b4", "failed") > before && samples("b0", "failed") > 0.0);
    until("that is told", || binary.log().contains("cannot be asked"));
    binary.end();
}
