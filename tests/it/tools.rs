//! What people really use: curl, and the `openai` Python package, through the balancer to mock AI instances; and a fuzzer
//! that reads the admin API's own description.
//!
//! A machine may lack them: then a test says so and passes. `EVENKEEL_REQUIRE_TOOLS=1` turns that into a failure (CI sets
//! it). `EVENKEEL_PYTHON` names the interpreter that has the package, `python3` by default.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use evenkeel::mock::{Mock, MockProfile};

use crate::support::*;

/// A mock instance that answers at once.
fn mock(name: &str) -> Mock {
    let profile = MockProfile {
        name: name.to_owned(),
        tokens_per_second: 2000.0,
        first_token_ms: 1.0,
        tokens: 12,
        variation: 0.0,
        ..MockProfile::default()
    };
    Mock::start(std::net::SocketAddr::from(([127, 0, 0, 1], 0)), profile).expect("a mock instance")
}

/// Runs a tool with `input` on stdin; `None`: it is absent, and may be.
pub(crate) fn tool(command: &mut Command, input: &str) -> Option<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        absent(&program);
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// Says that a tool is missing, or fails where all tools are required.
fn absent(what: &str) {
    let required = std::env::var("EVENKEEL_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(!required, "{what} is missing, and EVENKEEL_REQUIRE_TOOLS=1");
    eprintln!("-- skipped: {what} is missing");
}

fn curl(arguments: &[&str], url: &str) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]).args(arguments).arg(url);
    let output = tool(&mut command, "")?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "curl {arguments:?}: {error}");
    Some(out.into_owned())
}

/// Plain, streamed, uploads with `Expect`, HEAD, connections used again.
#[test]
fn curl_works() {
    let mock = mock("m");
    let proxy = Setup::at(&[mock.address()]).logged().start();
    let url = |path: &str| format!("http://{}{path}", proxy.address);
    let ask = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let Some(plain) = curl(&["--data", ask], &url("/v1/chat/completions")) else { return };
    let json: serde_json::Value = serde_json::from_str(&plain).unwrap_or_else(|error| panic!("{error}: {plain}"));
    assert_eq!(json["object"], "chat.completion", "{json}");

    let streamed = ask.replace("{\"model\"", "{\"stream\":true,\"model\"");
    let events = curl(&["--no-buffer", "--data", &streamed], &url("/v1/chat/completions")).unwrap();
    assert!(events.matches("data: ").count() > 3 && events.trim_end().ends_with("data: [DONE]"), "{events}");

    // Above 1 MiB curl asks whether it may send the body.
    let big = tempfile::NamedTempFile::new().unwrap();
    let content = "word ".repeat(300_000);
    let body = format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":"{content}"}}]}}"#);
    std::fs::write(big.path(), &body).unwrap();
    let data = format!("@{}", big.path().display());
    let headers = ["--data-binary", &data, "--dump-header", "-", "--header", "Expect: 100-continue"];
    let answer = curl(&headers, &url("/v1/chat/completions")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n"), "{}", &answer[..answer.len().min(300)]);
    assert!(answer.contains("HTTP/1.1 200 OK"), "{}", &answer[..answer.len().min(300)]);

    let head = curl(&["--head"], &url("/v1/models")).unwrap();
    assert!(head.to_ascii_lowercase().contains("x-request-id: "), "{head}");
    let twice = curl(
        &["--write-out", "%{num_connects} ", "--output", "/dev/null", &url("/v1/models"), "--output", "/dev/null"],
        &url("/v1/models"),
    );
    assert_eq!(twice.as_deref(), Some("1 0 "), "the second request uses the first one's connection");
    assert!(proxy.log(6).iter().all(|line| line["end"] == "ok"), "{:#?}", proxy.log(6));
}

/// What an application written against OpenAI's API does.
const PYTHON: &str = r#"
import sys
try:
    import openai
except ImportError:
    print("absent")
    sys.exit(0)
base, mode = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60)
messages = [{"role": "user", "content": "hi"}]
if mode == "error":
    try:
        client.chat.completions.create(model="m", messages=messages)
        print("no error")
    except openai.APIStatusError as error:
        print(error.status_code, error.code, error.type, error.request_id == error.body["request_id"])
    sys.exit(0)
models = [model.id for model in client.models.list()]
assert models, "no models"
plain = client.chat.completions.create(model=models[0], messages=messages)
assert plain.object == "chat.completion" and plain.choices[0].message.content, plain
words = []
for chunk in client.chat.completions.create(model=models[0], messages=messages, stream=True):
    if chunk.choices and chunk.choices[0].delta.content:
        words.append(chunk.choices[0].delta.content)
assert len(words) > 3, words
# A client that has had enough closes the stream.
stream = client.chat.completions.create(model=models[0], messages=messages, stream=True)
next(iter(stream))
stream.close()
print("fine", openai.__version__)
"#;

fn openai(base: &str, mode: &str) -> Option<String> {
    let python = std::env::var("EVENKEEL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.args(["-", base, mode]).env("no_proxy", "*");
    let output = tool(&mut command, PYTHON)?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    if out.trim() == "absent" {
        absent("the Python package openai");
        return None;
    }
    Some(out.trim().to_owned())
}

/// Plain and streamed chat completions, over several instances.
#[test]
fn the_openai_package_works() {
    let mocks = [mock("m1"), mock("m2")];
    let proxy = Setup::at(&[mocks[0].address(), mocks[1].address()]).start();
    let Some(said) = openai(&format!("http://{}/v1", proxy.address), "fine") else { return };
    assert!(said.starts_with("fine "), "{said}");
    until("both were asked", || {
        ["b0", "b1"].iter().all(|name| proxy.metric("evenkeel_requests_total", &[("backend", name)]) > 0.0)
    });
}

/// Our own errors are understood by it.
#[test]
fn the_openai_package_understands_our_errors() {
    let proxy = Setup::at(&[refusing_address()]).start();
    let Some(said) = openai(&format!("http://{}/v1", proxy.address), "error") else { return };
    assert_eq!(said, "502 backend_failed server_error True");
}

/// Names that exist, so that the fuzzer gets beyond 404.
const NAMES: &str = "[parameters]\n\"path.pool\" = \"ai\"\n\"path.name\" = \"b1\"\n";

/// What must hold of every answer. Not among them: that what fits the description is accepted, since a name may be taken.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      negative_data_rejection,unsupported_method,missing_required_header";

/// Some hundred requests that keep to the description of the admin API and that do not: each is answered as described,
/// and none by an error of the server's own.
#[test]
fn the_admin_api_keeps_to_its_description() {
    let backends = [TestBackend::saying("a"), TestBackend::saying("b")];
    // A decision that it asks for and leaves without feedback holds a removal up for that long; it waits 10 s for an answer.
    let patience = Duration::from_millis(100);
    let proxy = Setup::new(&[&backends[0], &backends[1]]).plan(|plan| plan.server.drain_timeout = patience).start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), NAMES).unwrap();
    let mut command = Command::new("schemathesis");
    command.current_dir(folder.path()).env("no_proxy", "*").args(["--config-file", "schemathesis.toml", "run"]);
    command.args(["--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "12", "--seed", "1"]);
    command.args(["--no-shrink", "--generation-database", "none", "--warnings", "off", "--no-color"]);
    // Readiness says 503 when it is not ready, as described.
    command.args(["--exclude-path", "/readyz", &format!("http://{}/openapi.json", proxy.admin)]);
    let Some(output) = tool(&mut command, "") else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("No tests were run") && said.contains("Tested: "), "{said}");
    assert_eq!(proxy.get("/").status(), 200, "it still balances");
}
