//! The real binary as a user or a script meets it: exit codes, what goes to stdout and what to stderr, help, completions.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The commands there are; the help must list exactly these.
const COMMANDS: [&str; 12] =
    ["run", "check", "quick", "demo", "mock", "ctl", "top", "simulate", "replay", "prove", "completions", "man"];

fn evenkeel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments).env_remove("EVENKEEL_ADMIN").env_remove("EVENKEEL_TOKEN_FILE").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    evenkeel(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn help_lists_every_command_and_each_explains_itself_with_examples() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    let listed: Vec<&str> = stdout(&help)
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
    for command in COMMANDS {
        let help = run(&[command, "--help"]);
        assert_eq!(code(&help), 0, "{command}");
        assert!(stdout(&help).contains("Examples:") && stdout(&help).contains("Usage:"), "{command}");
        assert_eq!(stderr(&help), "", "{command}");
    }
    assert_eq!(stdout(&run(&["--version"])), format!("evenkeel {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_end_with_2_and_say_why_on_stderr() {
    for (arguments, word) in [
        (&[][..], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["mock"], "--listen"),
        (&["mock", "--listen", "no-port"], "no-port"),
        (&["mock", "--listen", ":0", "--speed", "0"], "speed"),
        (&["mock", "--listen", ":0", "--profile", "/nowhere.toml"], "/nowhere.toml"),
        (&["ctl"], "Usage"),
        (&["ctl", "weight", "a", "0"], "1..=1000"),
        (&["ctl", "status", "--admin", "https://x:1"], "plain HTTP"),
        (&["check", "-c", "/nowhere.toml"], "/nowhere.toml"),
        (&["completions", "basic"], "basic"),
        (&["run", "-c", "/nowhere.toml"], "/nowhere.toml"),
        (&["quick", "--listen", ":0"], "--to"),
        (&["quick", "--listen", ":0", "--to", "1", "--to", "1"], "twice"),
        (&["quick", "--listen", ":0", "--to", "1", "--to", "https://x"], "mixed"),
        (&["quick", "--listen", ":0", "--to", "1", "--admin", "0.0.0.0:1"], "token"),
        (&["quick", "--listen", ":0", "--to", "1", "--strategy", "peak_ewmma"], "peak_ewma"),
        (&["demo", "--duration", "3"], "\"3s\""),
        (&["simulate", "--scenario", "nonsense"], "nonsense"),
        (&["simulate", "--scenario", "nowhere.toml"], "nowhere.toml"),
        (&["simulate", "--scenario", "s06", "--strategy", "nonsense"], "nonsense"),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const GOOD: &str = r#"
[[listeners]]
address = "127.0.0.1:8080"
[pools.ai]
strategy = "round_robin"
[[pools.ai.backends]]
name = "a"
address = "127.0.0.1:8001"
[[pools.ai.backends]]
name = "b"
address = "127.0.0.1:8002"
"#;

#[test]
fn check_passes_a_good_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "good.toml", GOOD);
    let output = run(&["check", "-c", &file]);
    assert_eq!((code(&output), stderr(&output)), (0, ""));
    assert_eq!(stdout(&output), format!("{file}: ok (1 listener, 1 pool, 2 backends)\n"));
    let output = run(&["check", "-c", &file, "--format", "json"]);
    assert_eq!((code(&output), stdout(&output).trim(), stderr(&output)), (0, "[]", ""));
}

#[test]
fn check_finds_every_fault_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = GOOD.replace("round_robin", "round_robbin").replace("127.0.0.1:8002", "127.0.0.1:99999");
    let file = write(folder.path(), "faulty.toml", &format!("colour = 1\n{faulty}"));
    let output = run(&["check", "-c", &file]);
    assert_eq!((code(&output), stdout(&output)), (2, ""));
    let text = stderr(&output);
    for word in ["colour", "round_robbin", "did you mean", "99999", "^", "3 errors"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    assert!(text.contains(&format!("{file}:1:1: ")), "{text}");

    let output = run(&["check", "-c", &file, "--format", "json"]);
    assert_eq!(code(&output), 2);
    let findings: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(findings.as_array().unwrap().len(), 3);
    for key in ["file", "line", "column", "key", "message", "hint", "severity"] {
        assert!(findings[0].get(key).is_some(), "{key}");
    }
}

#[test]
fn without_a_file_check_says_where_it_looked_and_what_else_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let output = evenkeel(&["check"]).current_dir(folder.path()).output().unwrap();
    // A machine may have one in /etc; then that one is checked.
    if !Path::new("/etc/evenkeel/evenkeel.toml").exists() {
        assert_eq!(code(&output), 2);
        for word in ["conf/evenkeel.toml", "/etc/evenkeel/evenkeel.toml", "evenkeel quick"] {
            assert!(stderr(&output).contains(word), "{}", stderr(&output));
        }
    }
    std::fs::create_dir(folder.path().join("conf")).unwrap();
    write(&folder.path().join("conf"), "evenkeel.toml", GOOD);
    let output = evenkeel(&["check"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(stdout(&output), "conf/evenkeel.toml: ok (1 listener, 1 pool, 2 backends)\n");
}

#[test]
fn ctl_and_top_without_a_server_end_with_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for arguments in [&["ctl", "status", "--admin", &address][..], &["top", "--once", "--admin", &address]] {
        let output = run(arguments);
        assert_eq!((code(&output), stdout(&output)), (1, ""), "{arguments:?}");
        assert!(stderr(&output).contains(&address), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn completions_and_the_manual_page_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!((code(&output), stderr(&output)), (0, ""), "{shell}");
        for command in COMMANDS {
            assert!(stdout(&output).contains(command), "{command} for {shell}");
        }
    }
    let output = run(&["man"]);
    assert_eq!((code(&output), stderr(&output)), (0, ""));
    assert!(stdout(&output).lines().any(|line| line.starts_with(".TH")));
    for command in COMMANDS {
        assert!(stdout(&output).contains(&format!("EVENKEEL {}", command.to_uppercase())), "{command}");
    }
}

/// A process that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a command whose stdout is then read line by line.
    fn start(mut command: Command) -> (Self, BufReader<ChildStdout>) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        (Self(child), lines)
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end; the code and what stood on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

/// The next line of output, which must begin with `prefix`; the rest of it.
fn next(lines: &mut impl BufRead, prefix: &str) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let rest = line.trim_end().strip_prefix(prefix);
    rest.unwrap_or_else(|| panic!("`{prefix}` was expected, not `{line}`")).to_owned()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Asks until each of the two mocks has answered: a backend may have to pass a check first.
fn both_answer(listener: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut missing = vec!["x-instance: one", "x-instance: two"];
    while !missing.is_empty() {
        let answer = get(listener, "/");
        missing.retain(|header| !answer.contains(header));
        assert!(Instant::now() < deadline, "never answered: {missing:?}");
    }
}

fn mock(name: &str) -> (Running, String) {
    let (mock, mut lines) = Running::start(evenkeel(&["mock", "--listen", "127.0.0.1:0", "--name", name]));
    let address = next(&mut lines, &format!("mock {name} listening on http://"));
    (mock, address)
}

#[test]
fn a_mock_says_where_it_listens_serves_by_its_profile_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let profile = write(folder.path(), "slow.toml", "name = \"from-file\"\nslots = 3\n");
    let arguments = ["mock", "--listen", "127.0.0.1:0", "--profile", &profile, "--name", "from-flag"];
    let (mock, mut lines) = Running::start(evenkeel(&arguments));
    let address = next(&mut lines, "mock from-flag listening on http://");
    let answer = get(&address, "/__mock");
    assert!(answer.contains("x-instance: from-flag") && answer.contains("\"slots\":3"), "{answer}");
    mock.signal("-TERM");
    assert_eq!(mock.end(), (Some(0), String::new()));
}

#[test]
fn run_says_where_it_listens_balances_and_drains_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (mock("one"), mock("two"));
    let config = GOOD
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:8001", &one.1)
        .replace("127.0.0.1:8002", &two.1);
    let more = "[admin]\naddress = \"127.0.0.1:0\"\n[access_log]\nformat = \"off\"\n";
    let file = write(folder.path(), "run.toml", &format!("{config}{more}"));
    let (balancer, mut lines) = Running::start(evenkeel(&["run", "-c", &file]));
    let listener = next(&mut lines, "listening http ");
    let admin = next(&mut lines, "admin http ");
    both_answer(&listener);

    let backends = run(&["ctl", "backends", "--admin", &admin]);
    assert_eq!((code(&backends), stderr(&backends)), (0, ""));
    assert!(stdout(&backends).contains("ai (round_robin)") && stdout(&backends).contains(&one.1));
    let status = run(&["ctl", "status", "--json", "--admin", &admin]);
    let status: serde_json::Value = serde_json::from_str(stdout(&status)).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let top = run(&["top", "--once", "--admin", &admin]);
    assert!(code(&top) == 0 && stdout(&top).contains("ai (round_robin)"), "{}", stdout(&top));

    balancer.signal("-TERM");
    let (code, said) = balancer.end();
    assert_eq!(code, Some(0), "{said}");
    // Ready lines only: the log is on stderr, the access log is off.
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn run_starts_nothing_when_it_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = write(folder.path(), "taken.toml", &GOOD.replace("127.0.0.1:8080", &address));
    let output = run(&["run", "-c", &file]);
    assert_eq!((code(&output), stdout(&output)), (2, ""));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));

    let file = write(folder.path(), "faulty.toml", &GOOD.replace("round_robin", "x"));
    let output = run(&["run", "-c", &file]);
    assert_eq!((code(&output), stdout(&output)), (2, ""));
}

#[test]
fn quick_balances_without_a_file() {
    let (one, two) = (mock("one"), mock("two"));
    let to = format!("http://{}", two.1);
    let arguments =
        ["quick", "--listen", "127.0.0.1:0", "--to", &one.1, "--to", &to, "--strategy", "round_robin", "--admin", ":0"];
    let (balancer, mut lines) = Running::start(evenkeel(&arguments));
    let listener = next(&mut lines, "listening http ");
    next(&mut lines, "admin http 127.0.0.1:");
    both_answer(&listener);
    balancer.signal("-INT");
    let (code, said) = balancer.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("try: curl"), "{said}");
}

#[test]
fn simulate_compares_writes_and_repeats_itself() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new").display().to_string();
    let arguments = ["simulate", "--scenario", "s06", "--strategy", "round_robin", "--strategy", "lc", "--seeds", "1"];
    let first = evenkeel(&arguments).args(["--out", &out]).output().unwrap();
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    assert!(stdout(&first).contains("s06_crash\n") && stdout(&first).contains("round_robin"), "{}", stdout(&first));
    let csv = std::fs::read_to_string(Path::new(&out).join("results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3, "a heading and a line a run: {csv}");
    assert_eq!(stdout(&run(&arguments)), stdout(&first));
}

#[test]
fn a_demo_runs_its_time_and_sums_up() {
    let output = run(&["demo", "--duration", "3s", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    for word in ["curl -N http://127.0.0.1:", "dashboard http://127.0.0.1:", "3 s with rl: ", "answered by inst"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    let summary = text.lines().find(|line| line.contains(" requests, ")).unwrap();
    let requests: u64 = summary.split([':', ' ']).filter_map(|word| word.parse().ok()).nth(1).unwrap();
    assert!(requests > 10, "{summary}");
}
