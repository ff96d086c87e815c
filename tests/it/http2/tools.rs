//! Clients that nobody here wrote. A tool that is not there is skipped with a word, or missed where
//! `EVENKEEL_REQUIRE_TOOLS=1` says that all are.

use std::process::{Command, Output};

use super::support::H2Backend;
use super::{AnyBackend, Side, h2c};
use crate::support::*;

/// Runs a tool; `None`: it is not installed and need not be.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            let required = std::env::var_os("EVENKEEL_REQUIRE_TOOLS").is_some_and(|value| value == "1");
            assert!(!required, "{program} is required and does not run: {error}");
            eprintln!("skipped: {program} does not run here: {error}");
            None
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// curl with prior knowledge: methods, bodies, HEAD.
#[test]
fn curl_by_prior_knowledge() {
    for side in [Side::One, Side::Two] {
        let backend = AnyBackend::new(side);
        let proxy = backend.setup().start();
        let url = |path: &str| format!("http://{}{path}", proxy.address);
        let get = ["-sS", "--max-time", "60", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}"];
        let Some(output) = run("curl", &[get.as_slice(), &[&url("/")]].concat()) else { return };
        assert_eq!(text(&output), "hello 2 200", "{side:?}");
        let body = "x".repeat(1_000_000);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &body).unwrap();
        let data = format!("@{}", file.path().display());
        let output = run("curl", &[get.as_slice(), &["--data-binary", &data, &url("/echo")]].concat()).unwrap();
        assert_eq!(text(&output), format!("{body} 2 200"), "{side:?}");
        let output = run("curl", &[get.as_slice(), &["-I", &url("/")]].concat()).unwrap();
        assert!(text(&output).ends_with("\r\n\r\n 2 200") && text(&output).contains("content-length: 5"), "{output:?}");
    }
}

/// curl over HTTP/1.1 takes trailers of an HTTP/2 backend.
#[test]
fn curl_takes_trailers() {
    let backend = H2Backend::new(|mut turn| async move {
        let Some(mut stream) = turn.head(200, &[("trailer", "x-sum")], false) else { return };
        super::support::send_all(&mut stream, "ok".into(), false).await;
        stream.send_trailers(super::map(&[("x-sum", "7")])).unwrap();
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let url = format!("http://{}/", proxy.address);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let arguments = ["-sS", "--max-time", "60", version, "-H", "TE: trailers", "-D", "-", &url];
        let Some(output) = run("curl", &arguments) else { return };
        assert!(text(&output).to_ascii_lowercase().contains("x-sum: 7"), "{version}: {}", text(&output));
    }
}

#[test]
fn nghttp_fetches() {
    let backend = AnyBackend::new(Side::One);
    let proxy = backend.setup().start();
    let url = format!("http://{}/", proxy.address);
    let Some(output) = run("nghttp", &["-t", "60s", &url, &url]) else { return };
    assert!(output.status.success() && text(&output).contains("hello"), "{}", text(&output));
}

/// Many streams on few connections, for both kinds of backend: every one is answered.
#[test]
fn h2load_gets_every_answer() {
    for side in [Side::One, Side::Two] {
        let backend = AnyBackend::new(side);
        let proxy = backend.setup().start();
        let url = format!("http://{}/", proxy.address);
        let Some(output) = run("h2load", &["-n", "2000", "-c", "4", "-m", "25", "-T", "60", "-N", "60", &url]) else {
            return;
        };
        let text = text(&output);
        assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{side:?}: {text}");
        assert!(text.contains("status codes: 2000 2xx"), "{side:?}: {text}");
    }
}

const HTTPX: &str = r#"
import sys
try:
    import h2, httpx
except ImportError as missing:
    print(f"skip {missing}")
    sys.exit(0)
base = sys.argv[1]
with httpx.Client(http1=False, http2=True, timeout=60) as client:
    answer = client.get(base + "/")
    assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "hello"), answer
    body = bytes(range(256)) * 4000
    assert client.post(base + "/echo", content=body).content == body
    with client.stream("POST", base + "/echo", content=iter([b"one", b"two"])) as answer:
        assert b"".join(answer.iter_raw()) == b"onetwo"
    assert client.get(base + "/none").status_code == 204
    assert client.head(base + "/").headers["content-length"] == "5"
    assert client.get(base + "/fault").status_code == 500
print("done")
"#;

/// httpx with its own HTTP/2 implementation.
#[test]
fn httpx_over_http2() {
    let python = std::env::var("EVENKEEL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for side in [Side::One, Side::Two] {
        let backend = AnyBackend::new(side);
        let proxy = backend.setup().start();
        let base = format!("http://{}", proxy.address);
        let Some(output) = run(&python, &["-c", HTTPX, &base]) else { return };
        let text = text(&output);
        if text.starts_with("skip ") {
            let required = std::env::var_os("EVENKEEL_REQUIRE_TOOLS").is_some_and(|value| value == "1");
            assert!(!required, "httpx[http2] is required: {text}");
            eprintln!("skipped: {text}");
            return;
        }
        assert!(output.status.success() && text.trim() == "done", "{side:?}: {text}");
    }
}
