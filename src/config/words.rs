//! The words of a finding: what was expected, what was found, what was probably meant; and the paths of keys.

use toml::de::DeValue;

use super::reference::{SECTIONS, Section};
use super::source::Finding;

pub(super) fn mismatch(expected: &str, found: &DeValue<'_>, hint: &str) -> Finding {
    let found = match found {
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    (format!("{expected} is expected, not {found}"), hint).into()
}

pub(super) fn out_of_range(
    found: impl std::fmt::Display,
    least: impl std::fmt::Display,
    most: impl std::fmt::Display,
) -> Finding {
    (format!("{found} is out of range"), format!("{least} to {most}")).into()
}

/// `path.key`, the key quoted where TOML wants it quoted.
pub fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

pub(super) fn unknown_key(name: &str, section: &Section) -> Finding {
    let hint = if let Some(near) = nearest(name, section.keys.iter().map(|key| key.name)) {
        format!("did you mean `{near}`?")
    } else if let Some(home) = home_of(name, section) {
        match home.path {
            "" => format!("`{name}` is a table of its own, at the top: `[{name}]`"),
            _ => format!("`{name}` is a key of {}", home.header()),
        }
    } else {
        format!("known here: {}", list(section.keys.iter().map(|key| key.name)))
    };
    (format!("unknown key `{}`", name.escape_debug()), hint).into()
}

/// The section that has this key: one inside `section` rather than one elsewhere. Keys like `name` are everywhere, so
/// elsewhere counts only when it is a single place.
fn home_of(name: &str, section: &Section) -> Option<&'static Section> {
    let homes = || SECTIONS.into_iter().filter(|home| home.key(name).is_some());
    let inside = homes().find(|home| home.path.strip_prefix(section.path).is_some_and(|rest| rest.starts_with('.')));
    inside.or_else(|| homes().next().filter(|_| homes().count() == 1))
}

pub(super) fn unknown_word(word: &str, words: &[&str]) -> Finding {
    let hint = match nearest(word, words.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("one of {}", list(words.iter().copied())),
    };
    (format!("unknown value \"{}\"", word.escape_debug()), hint).into()
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| if word.is_empty() { "\"\"" } else { word }).collect::<Vec<_>>().join(", ")
}

/// The word that was probably meant: near by edit distance, hyphens and case aside.
pub(super) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None; // the distance is quadratic, and no key is that long
    }
    let plain = word.to_lowercase().replace(['-', ' '], "_");
    let scored =
        words.filter(|known| !known.is_empty()).map(|known| (strsim::damerau_levenshtein(&plain, known), known));
    // A third of the word may be wrong: enough for a slip, too little for another word.
    scored
        .filter(|(distance, known)| *distance <= known.chars().count().div_ceil(3).min(3))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_meant() {
        let words = || ["interval", "timeout", "rise", "fall", "max_in_flight", "round_robin"].into_iter();
        for (typed, meant) in [
            ("intervall", Some("interval")),
            ("timeuot", Some("timeout")),
            ("max-in-flight", Some("max_in_flight")),
            ("Round Robin", Some("round_robin")),
            ("raise", Some("rise")),
            ("threads", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, words()), meant, "{typed}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), words()), None);
    }

    #[test]
    fn paths_quote_odd_names() {
        assert_eq!(join("", "server"), "server");
        assert_eq!(join("pools", "a b"), "pools.\"a b\"");
        assert_eq!(join("pools", "a.b"), "pools.\"a.b\"");
    }
}
