//! What the configuration can say and this version cannot do yet. At its default such a key parses; switching it on is an
//! error, so that nobody runs without what he asked for.
//!
//! When a feature lands, its line in [`MISSING`] goes; nothing else has to change.

use toml::de::{DeTable, DeValue};

use super::source::Span;
use super::walk::Walk;
use super::words::join;

/// A key that must stay off.
struct Missing {
    /// In the notation of the reference: `[]` an entry of a list, `NAME` any name.
    key: &'static str,
    on: On,
    /// What is not available.
    feature: &'static str,
}

/// When a key counts as switched on.
enum On {
    Written,
    /// Not an empty text or list.
    NotEmpty,
}

/// Remove a line when its feature is built.
const MISSING: &[Missing] = &[
    Missing { key: "pools.NAME.shadow", on: On::NotEmpty, feature: "shadow" },
    Missing { key: "pools.NAME.rl.guardrail", on: On::Written, feature: "rl.guardrail" },
];

/// Notes every missing feature that the document switches on.
pub(super) fn check(walk: &Walk<'_>, document: &DeTable<'_>) {
    let mut noted: Vec<String> = Vec::new();
    for missing in MISSING {
        each(document, "", missing.key, &mut |path, span, value| {
            // What is inside a missing table needs no second line.
            let inside =
                noted.iter().any(|outer| path.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('.')));
            if !inside && missing.on.holds(value) {
                let hint = missing.on.cure(path);
                walk.error_at(&span, path, (format!("{} is not available in this version", missing.feature), hint));
                noted.push(path.to_owned());
            }
        });
    }
}

/// Every value of the document that `pattern` names, with its path and place.
fn each(table: &DeTable<'_>, path: &str, pattern: &str, found: &mut dyn FnMut(&str, Span, &DeValue<'_>)) {
    let (segment, rest) = pattern.split_once('.').unwrap_or((pattern, ""));
    let (name, list) = segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
    for (key, value) in table.iter().filter(|(key, _)| name == "NAME" || key.get_ref() == name) {
        let path = join(path, key.get_ref());
        match (value.get_ref(), list) {
            (DeValue::Array(entries), true) => {
                for (index, entry) in entries.iter().enumerate() {
                    if let DeValue::Table(inner) = entry.get_ref() {
                        each(inner, &format!("{path}[{index}]"), rest, found);
                    }
                }
            }
            (DeValue::Table(inner), false) if !rest.is_empty() => each(inner, &path, rest, found),
            (value_here, false) if rest.is_empty() => found(&path, value.span(), value_here),
            _ => {} // of another type than it should be, which the walk has noted
        }
    }
}

impl On {
    fn holds(&self, value: &DeValue<'_>) -> bool {
        match self {
            Self::Written => true,
            Self::NotEmpty => {
                value.as_str().is_some_and(|text| !text.is_empty())
                    || value.as_array().is_some_and(|list| !list.is_empty())
            }
        }
    }

    fn cure(&self, path: &str) -> String {
        let key = path.rsplit('.').next().unwrap_or(path);
        match self {
            Self::Written | Self::NotEmpty => format!("leave `{key}` out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ConfigError;
    use super::super::reference::{Kind, SECTIONS};
    use super::super::source::Source;
    use super::*;

    /// The key with a value that switches it on, and one that does not (empty: leaving it out).
    fn on_and_off(missing: &Missing) -> (String, &'static str) {
        let (section, key) = missing.key.rsplit_once('.').unwrap();
        let known = SECTIONS.iter().find(|known| known.path == section).and_then(|known| known.key(key));
        let known = known.unwrap_or_else(|| panic!("{} is no key", missing.key));
        match (&missing.on, known.kind) {
            (On::Written, _) => (known.written.text().to_owned(), ""),
            (On::NotEmpty, Kind::List(_)) => ("[\"x\"]".to_owned(), "[]"),
            (On::NotEmpty, _) => ("\"x\"".to_owned(), "\"\""),
        }
    }

    /// The findings of a document in which the key alone is written, as `value`.
    fn findings(key: &str, value: &str) -> Vec<ConfigError> {
        let nested = key.rsplit('.').fold(value.to_owned(), |inner, segment| match segment.strip_suffix("[]") {
            Some(list) => format!("{{ {list} = [{inner}] }}"),
            None => format!("{{ {} = {inner} }}", segment.replace("NAME", "ai")),
        });
        let text = nested[1..nested.len() - 1].trim().to_owned();
        let document = DeTable::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")).into_inner();
        let source = Source::new("f", &text);
        let walk = Walk::new(&source, false, Default::default());
        check(&walk, &document);
        walk.finish().0
    }

    #[test]
    fn a_missing_feature_is_refused_when_it_is_on_and_only_then() {
        for missing in MISSING {
            let (on, off) = on_and_off(missing);
            let refused = findings(missing.key, &on);
            let [refused] = refused.as_slice() else { panic!("{}: {refused:?}", missing.key) };
            assert!(refused.message.ends_with(" is not available in this version"), "{refused}");
            let path = missing.key.replace("[]", "[0]").replace("NAME", "ai");
            assert!(path.starts_with(&refused.key), "{path}: {refused}");
            assert!(off.is_empty() || findings(missing.key, off).is_empty(), "{}", missing.key);
        }
    }

    #[test]
    fn a_key_is_found_wherever_its_pattern_says() {
        let text = "[pools.a]\nshadow = []\n[pools.b]\nshadow = ['x']\n[[pools.b.backends]]\n[[pools.b.backends]]\nexpand = true";
        let document = DeTable::parse(text).unwrap().into_inner();
        let paths = |pattern: &str| {
            let mut paths = Vec::new();
            each(&document, "", pattern, &mut |path, _, _| paths.push(path.to_owned()));
            paths
        };
        assert_eq!(paths("pools.NAME.shadow"), ["pools.a.shadow", "pools.b.shadow"]);
        assert_eq!(paths("pools.NAME.backends[].expand"), ["pools.b.backends[1].expand"]);
        assert!(paths("pools.NAME.sticky").is_empty());
    }
}
