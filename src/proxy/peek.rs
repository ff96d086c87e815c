//! The `model` of a JSON request body, found without parsing the rest: a strict little scanner over the first bytes.
//!
//! Bytes are only looked at, never changed (public rivals re-serialise bodies and lose fields). The scanner follows
//! objects, arrays and strings of JSON (RFC 8259) as far as it must to tell a key `model` of the outermost object from
//! one deeper down or inside a string. Pure; property-tested and fuzzed.

/// What the bytes so far tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// The model.
    Found(String),
    /// It may still come.
    NeedMore,
    /// There is none, or this is not a JSON object.
    Absent,
}

/// Nesting that is followed; deeper documents have no model for us.
const DEEPEST: usize = 128;
/// Longest model name, in bytes.
const LONGEST: usize = 512;

/// Looks for the `model` of the outermost object in `bytes`, the beginning of a body.
pub fn model(bytes: &[u8]) -> Peek {
    let mut scan = Scan { bytes, at: 0 };
    match scan.find() {
        Ok(Some(model)) => Peek::Found(model),
        Ok(None) | Err(Stop::Malformed) => Peek::Absent,
        Err(Stop::End) => Peek::NeedMore,
    }
}

/// Why the scan stopped.
enum Stop {
    /// The bytes ended.
    End,
    /// This is not JSON.
    Malformed,
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn find(&mut self) -> Result<Option<String>, Stop> {
        if self.bytes.starts_with(b"\xEF\xBB\xBF") {
            self.at = 3;
        }
        self.expect(b'{')?;
        if self.peek_token()? == b'}' {
            return Ok(None);
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            let token = self.peek_token()?;
            if key == "model" {
                return if token == b'"' { self.string().map(Some) } else { Ok(None) };
            }
            self.skip_value(token)?;
            match self.next_token()? {
                b',' => {}
                b'}' => return Ok(None),
                _ => return Err(Stop::Malformed),
            }
        }
    }

    /// Passes over one value that begins with `token`.
    fn skip_value(&mut self, token: u8) -> Result<(), Stop> {
        match token {
            b'"' => self.pass_string().map(drop),
            b'{' | b'[' => self.skip_nested(),
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                while let Some(byte) = self.bytes.get(self.at) {
                    if matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace() {
                        return Ok(());
                    }
                    self.at += 1;
                }
                Err(Stop::End)
            }
            _ => Err(Stop::Malformed),
        }
    }

    fn skip_nested(&mut self) -> Result<(), Stop> {
        let mut depth = 0usize;
        loop {
            match self.peek_token()? {
                b'"' => {
                    self.pass_string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
            if depth > DEEPEST {
                return Err(Stop::Malformed);
            }
        }
    }

    /// A string as text.
    fn string(&mut self) -> Result<String, Stop> {
        let (from, to) = self.pass_string()?;
        if to - from > LONGEST {
            return Ok(String::new());
        }
        // With its quotes it is a JSON document of its own, escapes and all.
        let quoted = self.bytes.get(from..to).ok_or(Stop::End)?;
        serde_json::from_slice(quoted).map_err(|_| Stop::Malformed)
    }

    /// Passes over a string and says where it stands, quotes included.
    fn pass_string(&mut self) -> Result<(usize, usize), Stop> {
        if self.peek_token()? != b'"' {
            return Err(Stop::Malformed);
        }
        let from = self.at;
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok((from, self.at));
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        Err(Stop::End)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.next_token()? == wanted { Ok(()) } else { Err(Stop::Malformed) }
    }

    fn next_token(&mut self) -> Result<u8, Stop> {
        let token = self.peek_token()?;
        self.at += 1;
        Ok(token)
    }

    /// The next byte that is not white space, without taking it.
    fn peek_token(&mut self) -> Result<u8, Stop> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Stop::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn models() {
        let found = |name: &str| Peek::Found(name.to_owned());
        let cases: [(&[u8], Peek); 18] = [
            (br#"{"model":"llama-3-8b","messages":[]}"#, found("llama-3-8b")),
            (b" {\n \"stream\" : true , \"model\" : \"a\\u0062\\\"\" ", found("ab\"")),
            (br#"{"messages":[{"model":"no","x":["}",{"a":"]"}]}],"model":"yes"}"#, found("yes")),
            (br#"{"a":"\"model\":\"no\"","n":-1.5e3,"t":true,"z":null,"model":"yes""#, found("yes")),
            (b"\xEF\xBB\xBF{\"model\":\"bom\"", found("bom")),
            (br#"{"mod\u0065l":"escaped key"}"#, found("escaped key")),
            (br#"{"model":5}"#, Peek::Absent),
            (br#"{"a":1}"#, Peek::Absent),
            (b"{}", Peek::Absent),
            (b"[1]", Peek::Absent),
            (b"model=x", Peek::Absent),
            (br#"{"a":1 "model":"x"}"#, Peek::Absent),
            (br#"{model:"x"}"#, Peek::Absent),
            (b"", Peek::NeedMore),
            (br#"{"mod"#, Peek::NeedMore),
            (br#"{"model":"x"#, Peek::NeedMore),
            (br#"{"model":"x\"#, Peek::NeedMore),
            (br#"{"a":[1,2"#, Peek::NeedMore),
        ];
        for (bytes, expected) in cases {
            assert_eq!(model(bytes), expected, "{}", bytes.escape_ascii());
        }
        let deep = format!("{{\"a\":{}", "[".repeat(DEEPEST + 2));
        assert_eq!(model(deep.as_bytes()), Peek::Absent);
    }

    proptest! {
        #[test]
        fn it_finds_what_serde_finds(
            before in proptest::collection::vec(("[a-z\"\\\\]{0,6}", "[ -~]{0,12}", any::<i32>()), 0..4),
            name in "[ -~]{0,20}",
            cut in any::<usize>(),
        ) {
            let mut document = serde_json::Map::new();
            for (key, text, number) in before {
                document.insert(format!("k{key}"), serde_json::json!({ "model": text, "n": [number, { "model": 1 }] }));
            }
            document.insert("model".into(), name.clone().into());
            let text = serde_json::Value::Object(document).to_string();
            prop_assert_eq!(model(text.as_bytes()), Peek::Found(name.clone()));
            let part = &text.as_bytes()[..cut % text.len()];
            let peeked = model(part);
            prop_assert!(peeked == Peek::NeedMore || peeked == Peek::Found(name), "{:?}", peeked);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = model(&bytes);
            let _ = model(&[b"{\"a\":".as_slice(), &bytes].concat());
        }
    }
}
