//! Any text given as a configuration gets an answer: no panic, every finding has a place in the text and something to say.

#![no_main]

use std::path::Path;

use evenkeel::config::{Plan, findings_as_json, findings_as_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let findings = match Plan::parse(text, "fuzz.toml", Path::new("/nowhere")) {
        Ok((plan, warnings)) => {
            assert!(!plan.listeners.is_empty() && !plan.pools.is_empty());
            assert!(plan.routes.iter().all(|route| route.pool < plan.pools.len()));
            assert!(plan.pools.iter().all(|pool| !pool.backends.is_empty()));
            warnings
        }
        Err(errors) => {
            assert!(errors.errors().next().is_some());
            errors.into_vec()
        }
    };
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).split('\n').collect();
    for finding in &findings {
        assert!(finding.line >= 1 && finding.line <= lines.len());
        assert!(finding.column >= 1 && finding.column <= lines[finding.line - 1].chars().count() + 1);
        assert!(!finding.key.is_empty() && !finding.message.is_empty());
    }
    assert!(findings.is_empty() != findings_as_text(&findings).contains(':'));
    findings_as_json(&findings);
});
