//! The house rules that a machine can check: every file says what it is, rooms import only what the table allows, clocks
//! are read where they may be, and every configuration we ship parses.
//!
//! The tables stand at the top. A new room gets a line in [`ROOMS`] and in ARCHITECTURE.md, which may not allow more.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may import. Rooms to come have their lines already. The admin server knows `control` only by a trait
/// of its own, which `control` implements; `app` wires rooms, so it names what it hands from one to the other.
const ROOMS: &[(&str, &str)] = &[
    ("main", "cli"),
    ("cli", "app sim mock tls config telemetry"),
    ("app", "admin control listener proxy pool tls config telemetry clock"),
    ("control", "admin listener proxy health resources pool balance backend upstream tls config telemetry clock"),
    ("admin", "pool balance rl backend config telemetry clock"),
    ("listener", "proxy upstream tls config telemetry clock"),
    ("proxy", "pool backend upstream tls config telemetry clock"),
    ("health", "pool backend upstream tls config telemetry clock"),
    ("resources", "pool backend upstream tls config telemetry clock"),
    ("pool", "balance backend tls config telemetry clock"),
    ("sim", "balance rl backend config"),
    ("balance", "rl backend config"),
    ("upstream", "tls config telemetry clock"),
    ("tls", "config telemetry clock"),
    ("backend", "config"),
    ("rl", ""),
    ("mock", ""),
    ("config", ""),
    ("telemetry", ""),
    ("clock", ""),
];

/// Files, or folders ending in `/`, where the clock itself may be read, with the reason. Tests may anywhere.
const CLOCKS: &[(&str, &str)] = &[
    ("src/clock/", "the one reader of the clock"),
    ("src/mock/", "stands for another process, with a time of its own"),
    ("src/cli/", "tells people how long something takes"),
    ("src/control/drain.rs", "tokio's clock, for the deadline of a drain"),
    ("src/control/reload.rs", "the time of day of the last reload, for people"),
    ("src/proxy/story.rs", "the time of day in the access log"),
    ("src/proxy/respond.rs", "Retry-After may be a date"),
];

#[test]
fn every_file_says_what_it_is() {
    let folders = ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"];
    let files: Vec<Source> = folders.iter().flat_map(|folder| sources(folder)).collect();
    assert!(files.len() > 30, "the folders are where they were: {}", files.len());
    let silent: Vec<_> = files.iter().filter(|file| !file.text.starts_with("//! ")).map(|file| &file.path).collect();
    assert!(silent.is_empty(), "begin with `//! ` and what the file is and why: {silent:#?}");
}

#[test]
fn rooms_import_what_the_table_allows() {
    let allowed = allowed();
    let mut breaches = Vec::new();
    let mut seen = 0;
    for file in sources("src").iter().filter(|file| !file.is_test()) {
        let room = file.room();
        if room == "lib" {
            continue; // the contents page names every room
        }
        let Some(may) = allowed.get(room) else {
            breaches.push(format!("{}: the room `{room}` has no line in ROOMS", file.path));
            continue;
        };
        for (line, used) in imports(&without_tests(&bare(&file.text)), file.depth()) {
            seen += 1;
            if used != room && allowed.contains_key(used.as_str()) && !may.contains(&used.as_str()) {
                breaches.push(format!("{}:{line}: `{room}` may not import `{used}`", file.path));
            }
        }
    }
    assert!(seen > 50, "imports are found: {seen}");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_architecture_page_shows_the_table() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let allowed = allowed();
    let mut seen = 0;
    for line in page.lines() {
        let Some((rooms, may)) = line.split_once(" -> ") else { continue };
        let rooms: Vec<&str> = rooms.split(',').map(str::trim).collect();
        if rooms.iter().any(|room| !allowed.contains_key(room)) {
            continue; // an arrow of another picture
        }
        let may = may.split('(').next().unwrap().trim();
        let shown: Vec<&str> = if may == "nothing of ours" { Vec::new() } else { may.split_whitespace().collect() };
        for room in rooms {
            // The page shows what is used; the table may allow more, for what is to come.
            let extra: Vec<_> = shown.iter().filter(|other| !allowed[room].contains(other)).collect();
            assert!(extra.is_empty(), "ARCHITECTURE.md lets `{room}` import {extra:?}, ROOMS does not");
            seen += 1;
        }
    }
    assert!(seen >= 15, "the page has the table: {seen} lines");
}

#[test]
fn the_table_has_no_circle() {
    // Rooms that import nothing that is left are taken away until nothing is left to take.
    let mut left = allowed();
    loop {
        let leaves: Vec<&str> = left
            .iter()
            .filter(|(_, may)| may.iter().all(|room| !left.contains_key(room)))
            .map(|(room, _)| *room)
            .collect();
        if leaves.is_empty() {
            break;
        }
        leaves.iter().for_each(|room| {
            left.remove(room);
        });
    }
    assert!(left.is_empty(), "these import one another: {:?}", left.keys());
}

#[test]
fn clocks_are_read_where_they_may_be() {
    let mut breaches = Vec::new();
    let mut seen = 0;
    for file in sources("src").iter().filter(|file| !file.is_test()) {
        for (index, line) in without_tests(&bare(&file.text)).lines().enumerate() {
            if !line.contains("Instant::now") && !line.contains("SystemTime::now") && !line.contains(".elapsed()") {
                continue;
            }
            seen += 1;
            if !CLOCKS
                .iter()
                .any(|(place, _)| file.path == *place || (place.ends_with('/') && file.path.starts_with(place)))
            {
                breaches.push(format!(
                    "{}:{}: ask `clock`, or take `now` as an argument: {}",
                    file.path,
                    index + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(seen > 0, "the clock is read somewhere");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    for (place, _) in CLOCKS {
        assert!(root().join(place).exists(), "{place} is gone: take its line out of CLOCKS");
    }
}

#[test]
fn every_configuration_we_ship_parses() {
    let files: Vec<PathBuf> = fs::read_dir(root().join("conf"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        match evenkeel::config::Plan::load(&file) {
            Ok((_, warnings)) => assert!(warnings.is_empty(), "{}", evenkeel::config::findings_as_text(&warnings)),
            Err(errors) => panic!("{errors}"),
        }
    }
}

/// What docs/reliability.md names as proof exists: tests by their names (or their beginnings), paths, and files of tests.
#[test]
fn the_reliability_page_names_what_there_is() {
    let files: Vec<Source> = ["src", "tests"].into_iter().flat_map(sources).collect();
    let named = |file: &str, name: &str| {
        let found = files.iter().filter(|source| source.path.ends_with(".rs") && source.path.contains(file));
        found.flat_map(|source| source.text.match_indices("fn ").map(|(at, _)| &source.text[at + 3..])).any(|text| {
            text.strip_prefix(name.trim_end_matches('…'))
                .is_some_and(|rest| name.ends_with('…') || rest.starts_with('('))
        })
    };
    let page = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let (mut names, mut wrong) = (0, Vec::new());
    for proof in page.lines().filter_map(|line| line.strip_prefix("| ")?.trim_end_matches(" |").rsplit("| ").next()) {
        let mut file = "";
        for word in proof.split([' ', ',', ';', '(', ')', '`']).filter(|word| !word.is_empty()) {
            let is_path = ["src/", "tests/", "scripts/"].iter().any(|folder| word.starts_with(folder));
            let path = word.trim_end_matches(':');
            if is_path && !root().join(path).exists() {
                wrong.push(path.to_owned());
            }
            if word.ends_with(':') {
                file = path;
            }
            let is_name =
                word.matches('_').count() >= 2 && word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '…'));
            if is_name && !word.starts_with("evenkeel") {
                names += 1;
                if !named(file, word) {
                    wrong.push(format!("{file}: {word}"));
                }
            }
        }
    }
    assert!(names > 100, "{names}");
    assert!(wrong.is_empty(), "docs/reliability.md names what is not there: {wrong:#?}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One Rust file.
struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// `pool` for `src/pool.rs` and all in `src/pool/`.
    fn room(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// How many `super` lead from this file to the crate: 1 for a room's door.
    fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path).trim_end_matches(".rs");
        inside.trim_end_matches("/mod").split('/').count()
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

/// Every Rust file below `folder`.
fn sources(folder: &str) -> Vec<Source> {
    fn collect(folder: &Path, found: &mut Vec<Source>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let allowed: BTreeMap<_, Vec<_>> =
        ROOMS.iter().map(|(room, may)| (*room, may.split_whitespace().collect())).collect();
    assert_eq!(allowed.len(), ROOMS.len(), "a room has two lines");
    allowed
}

/// The text with comments, strings and characters blanked, lines kept.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if first == '"' {
            string_end(rest)
        } else if first == '\'' {
            char_end(rest)
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

/// Hashes of a raw string that begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    hashes[count..].starts_with('"').then_some(count)
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The end of a character literal, or of the quote alone for a lifetime.
fn char_end(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 3)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            Some(_) | None => 1,
        },
        None => 1,
    }
}

/// The text without what stands under `#[cfg(test)]`, lines kept.
fn without_tests(text: &str) -> String {
    let mut out = text.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let body = &out[start..];
        let end = match (body.find('{'), body.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => {
                start + closing(body, open)
            }
            (_, Some(semicolon)) => start + semicolon + 1,
            _ => out.len(),
        };
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

/// Just after the brace that closes the one at `open`.
fn closing(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return open + at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// What follows `crate::` (or `evenkeel::`, or `super::` up to the crate) anywhere in the text, with its line; groups are
/// opened.
fn imports(text: &str, depth: usize) -> Vec<(usize, String)> {
    let up = "super::".repeat(depth);
    let mut found = Vec::new();
    for path in ["crate::", "evenkeel::", &up] {
        for (at, _) in text.match_indices(path) {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let rest = &text[at + path.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(_) => top_level(&rest[1..closing(rest, 0) - 1]),
                None => vec![rest],
            };
            found.extend(names.iter().map(|name| (line, identifier(name))).filter(|(_, name)| name != "super"));
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The parts of a group, split at its own commas.
fn top_level(group: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts
}

#[test]
fn the_checks_see_what_they_should() {
    let text = r####"
//! crate::comment
use crate::{config::{A, B}, pool};
use super::super::admin::X;
const S: &str = "crate::text \" crate::more";
const R: &str = r#"crate::raw "quoted" crate::raw2"#;
const C: (char, char) = ('"', '\'');
fn f<'a>(x: &'a str) -> crate::rl::Agent { evenkeel::cli::go(); mycrate::no() }
#[cfg(test)]
mod tests { use crate::mock; fn g() { Instant::now(); } }
#[cfg(test)]
use crate::sim;
fn h() -> crate::backend::Backend {}
"####;
    let text = without_tests(&bare(text));
    let mut names: Vec<String> = imports(&text, 2).into_iter().map(|(_, name)| name).collect();
    names.sort();
    assert_eq!(names, ["admin", "backend", "cli", "config", "pool", "rl"]);
    assert!(!text.contains("Instant::now"));
    assert!(imports(&text, 2).contains(&(13, "backend".to_owned())));
    let file = |path: &str| Source { path: path.to_owned(), text: String::new() };
    assert_eq!(
        (file("src/pool/lease.rs").depth(), file("src/pool/mod.rs").depth(), file("src/app.rs").depth()),
        (2, 1, 1)
    );
    assert_eq!((file("src/pool/lease.rs").room(), file("src/app.rs").room()), ("pool", "app"));
    assert!(file("src/pool/tests.rs").is_test() && !file("src/pool/lease.rs").is_test());
}
