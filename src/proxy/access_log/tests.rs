//! What the access log promises: valid JSON whatever was sent, every line written, and no request held up by its disk.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Far beyond what any step takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn record() -> Record<'static> {
    Record {
        arrived: SystemTime::UNIX_EPOCH + Duration::new(1_795_284_000, 123_456_789),
        request_id: "0f",
        client: [10, 0, 0, 7].into(),
        method: "POST",
        host: b"api",
        path: b"/v1/chat/completions",
        protocol: "HTTP/1.1",
        status: 200,
        bytes_in: 812,
        bytes_out: 20_480,
        pool: Some("ai"),
        backend: Some("instance-3"),
        strategy: Some("rl"),
        propensity: Some(0.995),
        kind: Some("exploit"),
        candidates: 6,
        attempts: 1,
        queue: Duration::ZERO,
        connect: None,
        first_byte: Some(Duration::from_micros(41_200)),
        total: Duration::from_micros(910_700),
        end: End::Ok,
        retry: None,
        sticky: Sticky::None,
        subject: None,
        referer: None,
        user_agent: Some(b"curl/8 \"x\""),
    }
}

fn line(format: AccessLogFormat, record: &Record<'_>) -> String {
    String::from_utf8(Encoder::default().line(format, record).to_vec()).unwrap()
}

#[test]
fn the_contracts_example() {
    let expected = concat!(
        r#"{"ts":"2026-11-21T18:00:00.123456Z","request_id":"0f","client":"10.0.0.7","method":"POST","host":"api","#,
        r#""path":"/v1/chat/completions","protocol":"HTTP/1.1","status":200,"bytes_in":812,"bytes_out":20480,"#,
        r#""pool":"ai","backend":"instance-3","strategy":"rl","propensity":0.995,"kind":"exploit","candidates":6,"#,
        r#""attempts":1,"queue_ms":0.0,"connect_ms":null,"first_byte_ms":41.2,"total_ms":910.7,"end":"ok","#,
        r#""retry":null,"sticky":"none"}"#,
        "\n"
    );
    assert_eq!(line(AccessLogFormat::Json, &record()), expected);
}

#[test]
fn the_combined_format() {
    let expected = concat!(
        r#"10.0.0.7 - - [21/Nov/2026:18:00:00 +0000] "POST /v1/chat/completions HTTP/1.1" 200 20480 "-" "#,
        r#""curl/8 \x22x\x22""#,
        "\n"
    );
    assert_eq!(line(AccessLogFormat::Combined, &record()), expected);
    let hostile = Record { path: b"/\n\xff\"", status: 0, ..record() };
    assert!(line(AccessLogFormat::Combined, &hostile).contains(r#""POST /\x0A\xFF\x22 HTTP/1.1" 499 "#));
}

#[test]
fn the_second_is_cached_and_not_stale() {
    let mut encoder = Encoder::default();
    let mut stamp = |seconds, nanos| {
        let arrived = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        let line = encoder.line(AccessLogFormat::Json, &Record { arrived, ..record() }).to_vec();
        serde_json::from_slice::<Value>(&line).unwrap()["ts"].as_str().unwrap().to_owned()
    };
    assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000000Z");
    assert_eq!(stamp(0, 999_999_999), "1970-01-01T00:00:00.999999Z");
    assert_eq!(stamp(61, 1_000), "1970-01-01T00:01:01.000001Z");
    assert_eq!(stamp(0, 5_000), "1970-01-01T00:00:00.000005Z");
}

proptest! {
    #[test]
    fn any_bytes_give_one_line_of_valid_json_that_says_the_same(
        host in prop::collection::vec(any::<u8>(), 0..40),
        path in prop::collection::vec(any::<u8>(), 0..80),
        text in "\\PC*|[\\x00-\\x7f]*",
        client in any::<std::net::IpAddr>(),
        status in any::<u16>(),
        (bytes_in, nanos, propensity) in (any::<u64>(), any::<u32>(), any::<f32>()),
    ) {
        let total = Duration::from_nanos(u64::from(nanos) * 1000);
        let record = Record {
            request_id: &text, method: &text, protocol: &text, pool: Some(&text), retry: Some(&text),
            host: &host, path: &path, client, status, bytes_in, total, propensity: Some(propensity), ..record()
        };
        let line = line(AccessLogFormat::Json, &record);
        prop_assert_eq!(line.matches('\n').count(), 1);
        let parsed: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(parsed.as_object().unwrap().len(), 24);
        for name in ["request_id", "method", "protocol", "pool", "retry"] {
            prop_assert_eq!(parsed[name].as_str(), Some(text.as_str()));
        }
        prop_assert_eq!(parsed["host"].as_str().unwrap(), String::from_utf8_lossy(&host));
        prop_assert_eq!(parsed["path"].as_str().unwrap(), String::from_utf8_lossy(&path));
        prop_assert_eq!(parsed["client"].as_str().unwrap(), client.to_string());
        prop_assert_eq!(parsed["status"].as_u64(), Some(u64::from(status)));
        prop_assert_eq!(parsed["bytes_in"].as_u64(), Some(bytes_in));
        prop_assert!((parsed["total_ms"].as_f64().unwrap() - total.as_secs_f64() * 1e3).abs() < 1e-3);
        match parsed["propensity"].as_f64() {
            Some(value) => prop_assert!(value as f32 == propensity),
            None => prop_assert!(!propensity.is_finite()),
        }
    }

    #[test]
    fn the_combined_format_is_printable_ascii(path in prop::collection::vec(any::<u8>(), 0..80)) {
        let line = line(AccessLogFormat::Combined, &Record { path: &path, user_agent: Some(&path), ..record() });
        prop_assert!(line.trim_end_matches('\n').bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        prop_assert_eq!(line.matches('"').count(), 6);
    }
}

/// A target whose every write waits for the test's word, and then does what the word says.
struct Gated {
    words: Receiver<io::Result<usize>>,
    entered: Sender<()>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl io::Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        // When the test has dropped its end, everything passes.
        let count = self.words.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
        self.written.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for Gated {
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Gate {
    words: Sender<io::Result<usize>>,
    entered: Receiver<()>,
    written: Arc<Mutex<Vec<u8>>>,
}

fn gated() -> (AccessLog, Gate) {
    let (words, receiver) = channel();
    let (sender, entered) = channel();
    let written = Arc::default();
    let target = Gated { words: receiver, entered: sender, written: Arc::clone(&written) };
    let log = AccessLog::start(AccessLogFormat::Json, Box::new(target)).unwrap();
    (log, Gate { words, entered, written })
}

fn lines_of(written: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(written).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_stuck_disk_loses_lines_but_holds_up_nobody() {
    let (log, gate) = gated();
    log.write(&record());
    gate.entered.recv_timeout(PATIENCE).unwrap(); // the thread is now stuck in its first write
    let per_line = line(AccessLogFormat::Json, &record()).len();
    let fits = writer::BUFFER_LIMIT / per_line;
    for _ in 0..fits + 100 {
        log.write(&record());
    }
    assert_eq!(log.lost(), 100);
    assert!(!log.close(Duration::from_millis(1)), "nothing can have been written");
    let written = Arc::clone(&gate.written);
    drop(gate); // the disk recovers
    log.close(PATIENCE);
    assert_eq!(lines_of(&written.lock().unwrap()).len(), fits + 1);
    assert_eq!(log.lost(), 100);
}

#[test]
fn a_failing_disk_loses_the_rest_of_the_batch_and_later_lines_start_clean() {
    let (log, gate) = gated();
    log.write(&record());
    gate.words.send(Ok(10)).unwrap(); // torn within the line
    gate.words.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    gate.entered.recv_timeout(PATIENCE).unwrap();
    gate.entered.recv_timeout(PATIENCE).unwrap();
    gate.words.send(Ok(1)).unwrap(); // the newline that closes the torn line
    gate.words.send(Ok(usize::MAX)).unwrap();
    // Only after the failed write may the next line come, else it would be of the same batch.
    let deadline = std::time::Instant::now() + PATIENCE;
    while log.lost() == 0 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    log.write(&Record { request_id: "second", ..record() });
    assert!(log.close(PATIENCE));
    assert_eq!(log.lost(), 1);
    let written = gate.written.lock().unwrap();
    let text = std::str::from_utf8(&written).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert_eq!(lines_of(&written)[0]["request_id"], "second");
}

#[test]
fn every_line_of_many_threads_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(&AccessLogPlan { format: AccessLogFormat::Json, path: Some(path.clone()) }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for index in 0..500 {
                    log.write(&Record { request_id: &format!("{thread}-{index}"), ..record() });
                }
            });
        }
    });
    assert!(log.close(PATIENCE));
    let mut seen: Vec<_> = lines_of(&std::fs::read(&path).unwrap())
        .iter()
        .map(|line| line["request_id"].as_str().unwrap().to_owned())
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 2000);
    log.write(&record());
    assert_eq!(log.lost(), 1, "a line after the end is lost, not forgotten");
}

#[test]
fn a_rotated_file_is_left_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = AccessLog::open(&AccessLogPlan { format: AccessLogFormat::Json, path: Some(path.clone()) }).unwrap();
    log.write(&Record { request_id: "old", ..record() });
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::fs::metadata(&path).unwrap().len() == 0 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    std::fs::rename(&path, &moved).unwrap();
    log.reopen();
    log.write(&Record { request_id: "new", ..record() });
    assert!(log.close(PATIENCE));
    for (file, id) in [(&moved, "old"), (&path, "new")] {
        let lines = lines_of(&std::fs::read(file).unwrap());
        assert_eq!((lines.len(), &lines[0]["request_id"]), (1, &Value::from(id)));
    }
}

#[test]
fn a_path_that_cannot_be_written_is_an_error_and_off_is_silent() {
    let plan = AccessLogPlan { format: AccessLogFormat::Json, path: Some("/nonexistent/dir/access.log".into()) };
    assert!(AccessLog::open(&plan).is_err());
    let off = AccessLog::open(&AccessLogPlan { format: AccessLogFormat::Off, ..plan }).unwrap();
    off.write(&record());
    assert!(!off.is_on() && off.close(PATIENCE) && off.lost() == 0);
}
