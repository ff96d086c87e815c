//! The configuration as a whole: the files in `conf/`, the defaults in all their forms, every fault with its place.

use std::path::Path;

use super::reference::{Kind, SECTIONS, Section, Written};
use super::*;

mod faults;
mod warnings;
mod world;

const FULL: &str = include_str!("../../conf/full.toml");

/// The smallest file with the listener and backend of `conf/full.toml`.
const MINIMAL: &str = "\
[[listeners]]
address = \"127.0.0.1:8080\"

[pools.ai]
strategy = \"peak_ewma\"

[[pools.ai.backends]]
name = \"instance-1\"
address = \"127.0.0.1:8001\"
";

fn parse(text: &str) -> Result<(Plan, Vec<ConfigError>), ConfigErrors> {
    Plan::parse(text, "test.toml", Path::new("/etc/evenkeel"))
}

/// Whether it says that a feature is not built yet: that changes daily, and `features` has its own tests.
fn is_gate(finding: &ConfigError) -> bool {
    finding.message.ends_with("is not available in this version")
}

#[test]
fn the_smallest_file_is_the_plan_made_in_code() {
    let (plan, warnings) = parse(MINIMAL).unwrap();
    assert_eq!(warnings, []);
    let backend = BackendPlan::new("instance-1", "127.0.0.1:8001".parse().unwrap());
    let mut made = Plan::minimal("127.0.0.1:8080".parse().unwrap(), StrategyKind::PeakEwma, vec![backend]);
    let mut pool = PoolPlan::clone(&made.pools[0]);
    pool.name = "ai".to_owned();
    // Only a file has a folder to keep state in.
    let store = RlStorePlan { path: "/etc/evenkeel/state/ai.rl".into(), interval: std::time::Duration::from_secs(30) };
    pool.strategy.rl.store = Some(store);
    made.pools[0] = pool.into();
    assert_eq!(plan, made);
}

#[test]
fn the_full_file_is_the_defaults() {
    let (full, warnings) = parse(FULL).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(full, parse(MINIMAL).unwrap().0);
}

/// `conf/full.toml` with everything switched on that stands in comments.
fn full_uncommented() -> String {
    let uncommented = FULL.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.starts_with('[') => rest,
        Some(rest)
            if rest
                .split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) =>
        {
            rest
        }
        _ => line,
    });
    uncommented.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_full_file_has_every_key() {
    let text = full_uncommented();
    let source = source::Source::new("full.toml", &text);
    let (_, findings, places) = read::examine(&source, Path::new(""));
    let expected = |finding: &&ConfigError| {
        finding.severity == Severity::Error && !is_gate(finding) && finding.message != "the pool's protocol is plain"
    };
    let faults: Vec<&ConfigError> = findings.iter().filter(expected).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    for section in SECTIONS {
        for key in section.keys {
            let path = format!("{}.{}", section.path, key.name).replace("[]", "[0]").replace("NAME", "ai");
            let path = path.trim_start_matches('.');
            assert!(places.written(path), "{path} is not in conf/full.toml");
        }
    }
}

/// A file in which `section` has the keys that `lines` says, and everything around it is as small as can be.
fn file_with(section: &Section, lines: &str) -> String {
    let path = section.path.replace("NAME", "ai").replace("[]", "");
    let header = match section.path.strip_suffix("[]") {
        Some(_) => format!("[[{path}]]\n"),
        None => format!("[{path}]\n"),
    };
    match section.path {
        "pools.NAME" => MINIMAL.replace("[pools.ai]\nstrategy = \"peak_ewma\"\n", &format!("[pools.ai]\n{lines}")),
        "listeners[]" => MINIMAL.replace("address = \"127.0.0.1:8080\"\n", lines),
        "pools.NAME.backends[]" => MINIMAL.split("[[pools.ai.backends]]").next().unwrap().to_owned() + &header + lines,
        inner if inner.starts_with("listeners[]") => MINIMAL.replace("8080\"\n", &format!("8080\"\n{header}{lines}")),
        _ => format!("{MINIMAL}{header}{lines}"),
    }
}

#[test]
fn the_reference_tells_the_true_defaults() {
    let (minimal, _) = parse(MINIMAL).unwrap();
    let mut seen = 0;
    for section in SECTIONS.iter().filter(|section| !section.path.is_empty()) {
        // Tables that are off unless written are held below.
        let off = [
            "listeners[].limits",
            "listeners[].tls",
            "admin",
            "routes[]",
            "pools.NAME.slow_start",
            "pools.NAME.sticky",
        ];
        let off = off.iter().chain(&["pools.NAME.resources", "pools.NAME.backends[].tls"]);
        if off.into_iter().any(|off| section.path.starts_with(off)) {
            continue;
        }
        let defaults = section.keys.iter().filter(|key| {
            !matches!(
                (key.kind, key.written),
                (Kind::Table | Kind::Tables | Kind::Map(_), _) | (_, Written::Example(_))
            )
        });
        let mut lines: String = defaults.map(|key| format!("{} = {}\n", key.name, key.written.text())).collect();
        lines = lines.replace("state/NAME.rl", "state/ai.rl").replace("0.0.0.0:8443", "127.0.0.1:8080");
        let text = file_with(section, &lines);
        let source = source::Source::new("test.toml", &text);
        let (plan, findings, _) = read::examine(&source, Path::new("/etc/evenkeel"));
        assert!(findings.iter().all(is_gate), "{}:\n{}", section.path, findings_as_text(&findings));
        assert_eq!(plan, minimal, "{}:\n{text}", section.path);
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

/// A value below and one above the range, and its ends.
fn around(kind: Kind) -> Option<([String; 2], [String; 2])> {
    let quoted = |text: String| format!("\"{text}\"");
    let second = std::time::Duration::from_secs(1);
    Some(match kind {
        Kind::Integer(least, most) => (
            [(i128::from(least) - 1).to_string(), (i128::from(most) + 1).to_string()],
            [least.to_string(), most.to_string()],
        ),
        Kind::Number(least, most) => (
            [format!("{:?}", least - 1e-7), format!("{:?}", most * 1.001)],
            [format!("{least:?}"), format!("{most:?}")],
        ),
        Kind::Duration(least, most) => {
            // Below zero there is no duration; that text is refused by its form.
            let below = if least.is_zero() { most + second } else { least / 2 };
            ([below, most + second].map(show_duration).map(quoted), [least, most].map(show_duration).map(quoted))
        }
        Kind::Size(least, most) => {
            let below = least.checked_sub(1).unwrap_or(most.wrapping_add(1));
            let above = most.checked_add(1)?;
            ([below, above].map(show_size).map(quoted), [least, most].map(show_size).map(quoted))
        }
        Kind::Flag | Kind::Choice(_) | Kind::Text(_) | Kind::List(_) | Kind::Table | Kind::Tables | Kind::Map(_) => {
            return None;
        }
    })
}

/// The errors at `key` of `section` when it has this value and the section what it must have.
fn errors_at(section: &Section, key: &str, value: &str) -> Vec<String> {
    let required =
        section.keys.iter().filter(|other| matches!(other.written, Written::Required(_)) && other.name != key);
    let required = required.filter(|other| other.name != "backends");
    let mut lines: String = required.map(|other| format!("{} = {}\n", other.name, other.written.text())).collect();
    lines += &format!("{key} = {value}\n");
    let text = file_with(section, &lines);
    let source = source::Source::new("test.toml", &text);
    let (_, findings, _) = read::examine(&source, Path::new(""));
    let path = format!("{}.{key}", section.path).replace("[]", "[0]").replace("NAME", "ai");
    let here = findings.iter().filter(|finding| finding.key == path && finding.severity == Severity::Error);
    here.filter(|finding| !is_gate(finding)).map(|finding| finding.message.clone()).collect()
}

#[test]
fn ranges_are_what_the_reference_says() {
    // Refused at an end of its range for what it means, not for its size.
    let meant = ["latency"];
    let mut checked = 0;
    for section in SECTIONS.iter().filter(|section| !section.path.is_empty()) {
        for key in section.keys {
            let Some((outside, ends)) = around(key.kind) else { continue };
            for value in outside {
                let errors = errors_at(section, key.name, &value);
                let told = errors.iter().any(|error| error.contains("is out of range"));
                assert!(told, "{} {} = {value}: {errors:?}", section.path, key.name);
            }
            for value in ends.iter().filter(|_| !meant.contains(&key.name)) {
                let errors = errors_at(section, key.name, value);
                assert!(errors.is_empty(), "{} {} = {value}: {errors:?}", section.path, key.name);
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn every_word_that_the_reference_offers_is_taken() {
    let mut checked = 0;
    for section in SECTIONS {
        for key in section.keys {
            let Kind::Choice(words) = key.kind else { continue };
            for word in words {
                let errors = errors_at(section, key.name, &format!("{word:?}"));
                assert!(
                    !errors.iter().any(|error| error.contains("unknown value")),
                    "{} {word}: {errors:?}",
                    section.path
                );
                checked += 1;
            }
            assert!(errors_at(section, key.name, "\"no such word\"")[0].contains("unknown value"), "{}", section.path);
        }
    }
    assert!(checked > 40, "{checked}");
    assert!(StrategyKind::ALL.iter().map(|kind| kind.name()).eq(reference::STRATEGIES.iter().copied()));
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let made = reference_markdown();
    if std::env::var_os("EVENKEEL_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "docs/configuration.md is old: EVENKEEL_UPDATE_DOCS=1 cargo test --lib reference_page");
}

#[test]
fn secrets_and_paths_start_from_the_folder_of_the_file() {
    let text = format!(
        "{MINIMAL}[admin]\ntoken_file = 'admin.token'\n[access_log]\npath = '../log/access.json'\n[pools.ai.rl.store]\npath = '/var/ai.rl'\n"
    );
    let (plan, _) = parse(&text).unwrap();
    assert_eq!(plan.admin.unwrap().token, Some(Secret::File("/etc/evenkeel/admin.token".into())));
    assert_eq!(plan.access_log.path, Some("/etc/evenkeel/../log/access.json".into()));
    assert_eq!(plan.pools[0].strategy.rl.store.as_ref().unwrap().path, Path::new("/var/ai.rl"));
    let (plan, _) = parse(&text.replace("admin.token", "env:TOKEN").replace("/var/ai.rl", "")).unwrap();
    assert_eq!(plan.admin.unwrap().token, Some(Secret::Env("TOKEN".to_owned())));
    assert_eq!(plan.pools[0].strategy.rl.store, None);
}

#[test]
fn presets_lie_between_the_file_and_the_agent() {
    let rl = |lines: &str| parse(&format!("{MINIMAL}[pools.ai.rl]\n{lines}")).unwrap().0.pools[0].strategy.rl.clone();
    let tabular = rl("agent = 'tabular'");
    assert_eq!((tabular.discount_factor, tabular.min_epsilon), (0.95, 0.05));
    assert_eq!(tabular.sla, Some(std::time::Duration::from_millis(500)));
    assert_eq!(tabular.cache.decision, std::time::Duration::from_millis(100));
    let development = rl("agent = 'tabular'\npreset = 'development'\nlearning_rate = 0.01\ncache = { state = '1s' }");
    assert_eq!((development.learning_rate, development.discount_factor), (0.01, 0.9));
    assert_eq!((development.initial_epsilon, development.epsilon_decay, development.min_epsilon), (0.8, 0.995, 0.1));
    assert_eq!(development.cache.decision, std::time::Duration::from_millis(100));
    assert_eq!(rl("agent = 'tabular'\nsla = 'auto'").sla, tabular.sla);
    assert_eq!(rl("sla = '2s'").sla, Some(std::time::Duration::from_secs(2)));
    assert_eq!(rl("sla = 'auto'").sla, None);
}

#[test]
fn what_cannot_be_read_at_all_is_said_too() {
    let folder = tempfile::tempdir().unwrap();
    let absent = Plan::load(&folder.path().join("absent.toml")).unwrap_err();
    assert_eq!((absent.all()[0].key.as_str(), absent.all()[0].line), ("file", 1));
    assert!(absent.all()[0].message.starts_with("cannot be read: "));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"[server]\nthreads = \xff\n").unwrap();
    let error = &Plan::load(&binary).unwrap_err().into_vec()[0];
    assert_eq!((error.line, error.column, error.key.as_str()), (2, 11, "file"));
}

/// Every span that the walk noted, and every finding, lies in the text.
fn check_spans(text: &str) {
    let source = source::Source::new("any.toml", text);
    let (_, findings, places) = read::examine(&source, Path::new(""));
    let length = source.text().len();
    for (path, span) in places.all() {
        assert!(span.start <= span.end && span.end <= length, "{path}: {span:?} of {length}");
    }
    let lines: Vec<&str> = source.text().split('\n').collect();
    for finding in &findings {
        let line = lines.get(finding.line - 1).unwrap_or_else(|| panic!("{finding:?}"));
        assert!((1..=line.chars().count() + 1).contains(&finding.column), "{finding:?}");
        assert!(!finding.key.is_empty() && !finding.message.is_empty(), "{finding:?}");
        assert!(!finding.to_string().contains('\u{1b}'), "{finding}");
    }
    findings_as_json(&findings);
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    /// A piece that means something in the grammar, or anything.
    fn piece() -> impl Strategy<Value = String> {
        let tokens = [
            "[",
            "]",
            "[[",
            "]]",
            "=",
            ",",
            "{",
            "}",
            "\"",
            "'",
            "\"\"\"",
            "\n",
            "\r\n",
            "#",
            ".",
            "-1",
            "0",
            "1e999",
            "nan",
            "inf",
            "99999999999999999999",
            "true",
            "1979-05-27",
            "\"0\"",
            "\"365d\"",
            "\"env:\"",
            "\u{feff}",
            "模",
            "\t",
            "\\u0000",
            "\u{1b}",
            "pools",
            "listeners",
            "strategy = \"rl\"\n",
            "[pools.\"x.y\"]\n",
            "[[pools.ai.backends]]\n",
        ];
        prop_oneof![4 => proptest::sample::select(tokens.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn gets_an_answer(text in ".{0,200}") {
            check_spans(&text);
        }

        #[test]
        fn of_pieces_gets_an_answer(pieces in prop::collection::vec(piece(), 0..60)) {
            check_spans(&pieces.concat());
        }

        /// The full file with a few places cut out and something else put in.
        #[test]
        fn near_a_sound_file_gets_an_answer(
            uncomment: bool,
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..30, piece()), 1..6),
        ) {
            let mut text = if uncomment { full_uncommented() } else { FULL.to_owned() };
            for (at, length, piece) in cuts {
                let start = text.floor_char_boundary(at.index(text.len()));
                let end = text.ceil_char_boundary((start + length).min(text.len()));
                text.replace_range(start..end, &piece);
            }
            check_spans(&text);
        }

        /// Any value in the place of any other.
        #[test]
        fn with_values_swapped_gets_an_answer(line: prop::sample::Index, value in piece()) {
            let full = full_uncommented();
            let lines: Vec<&str> = full.lines().collect();
            let chosen = line.index(lines.len());
            let swapped = lines.iter().enumerate().map(|(index, line)| match line.split_once('=') {
                Some((key, _)) if index == chosen => format!("{key}= {value}"),
                _ => (*line).to_owned(),
            });
            check_spans(&swapped.collect::<Vec<_>>().join("\n"));
        }
    }
}
