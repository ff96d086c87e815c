//! Lines of a file are shown beside what is wrong with them, and the file may hold, by mistake, what only names of files and
//! variables should stand for: passwords in addresses, tokens written out. Those are not shown.

/// Ends of keys whose text is a secret, in small letters.
const SECRET_KEYS: [&str; 7] = ["token", "secret", "password", "passwd", "api_key", "apikey", "authorization"];

/// `line` with stars in the place of secrets, byte for byte: places in it stay what they were.
pub(super) fn conceal(line: &str) -> String {
    let mut shown = line.as_bytes().to_vec();
    for (at, _) in line.match_indices("://") {
        conceal_user(&mut shown, at + 3);
    }
    for (at, _) in line.match_indices('=') {
        conceal_value(&mut shown, line, at);
    }
    // Stars stand for whole characters: either all bytes of one or none.
    String::from_utf8(shown).unwrap_or_default()
}

/// `address` (behind its scheme) without the name and the password in it.
pub(super) fn without_user(address: &str) -> &str {
    let end = address.find(['/', '?', '#']).unwrap_or(address.len());
    address[..end].rfind('@').map_or(address, |at| &address[at + 1..])
}

fn conceal_user(shown: &mut [u8], from: usize) {
    let rest = shown.get(from..).unwrap_or_default();
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'"' | b'\'' | b' ')).unwrap_or(rest.len());
    if let Some(at) = rest[..end].iter().rposition(|byte| *byte == b'@') {
        shown[from..from + at].fill(b'*');
    }
}

/// The text behind the equals sign at `at`, where the key before it is one of a secret.
fn conceal_value(shown: &mut [u8], line: &str, at: usize) {
    let key = line[..at].trim_end().trim_end_matches(['"', '\'']).to_ascii_lowercase();
    if !SECRET_KEYS.iter().any(|name| key.ends_with(name)) {
        return;
    }
    let value = line[at + 1..].trim_start();
    let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else { return };
    let text = value.trim_start_matches(quote);
    // The name of a variable is no secret.
    if text.starts_with("env:") {
        return;
    }
    let end = text.find(quote).unwrap_or(text.len());
    let from = line.len() - text.len();
    shown[from..from + end].fill(b'*');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_starred_and_nothing_else() {
        for (line, expected) in [
            ("address = \"http://user:pass@host:1/a@b\"", "address = \"http://*********@host:1/a@b\""),
            ("address = \"http://host:1\" # or a@b", "address = \"http://host:1\" # or a@b"),
            ("token = \"hunter2\" # mine", "token = \"*******\" # mine"),
            ("x = { \"api_key\"='päß', b = 1 }", "x = { \"api_key\"='*****', b = 1 }"),
            ("Admin.Password = \"open", "Admin.Password = \"****"),
            ("secret = \"env:NAME\"", "secret = \"env:NAME\""),
            ("token_file = \"a.token\"", "token_file = \"a.token\""),
            ("per_token = 0.5", "per_token = 0.5"),
            ("secret = \"\"\"three\"\"\"", "secret = \"\"\"*****\"\"\""),
        ] {
            assert_eq!(conceal(line), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn places_stay_what_they_were(line in "([a-z\"'= @:/ü]|token|secret|://|env:){0,40}") {
            let shown = conceal(&line);
            prop_assert_eq!(shown.len(), line.len());
            prop_assert!(shown.bytes().zip(line.bytes()).all(|(now, before)| now == before || now == b'*'));
        }
    }
}
