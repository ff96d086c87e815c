//! The identifier of a request: told to the backend, to the client, and in the log.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngExt as _};

/// Where it stands in a head.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest identifier taken over from a trusted proxy.
const LONGEST: usize = 128;

/// An identifier, a trusted proxy's or our own. Ours is text in place: a header value made once for the story and cloned
/// for the response costs three allocations' worth of instructions more (measured: 130 a request).
#[derive(Debug, Clone)]
pub enum RequestId {
    /// 128 random bits in hex.
    Ours([u8; 32]),
    /// As a trusted proxy gave it.
    Theirs(HeaderValue),
}

impl RequestId {
    /// The identifier of the request with these fields; of `trusted` clients theirs is believed.
    #[inline]
    pub fn of(headers: &HeaderMap, trusted: bool, rng: &mut impl Rng) -> Self {
        if trusted
            && let Some(id) = headers.get(&X_REQUEST_ID)
            && (1..=LONGEST).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
        {
            return Self::Theirs(id.clone());
        }
        let mut text = [0u8; 32];
        let random: u128 = rng.random();
        for (pair, byte) in text.chunks_exact_mut(2).zip(random.to_ne_bytes()) {
            pair.copy_from_slice(&HEX[usize::from(byte)]);
        }
        Self::Ours(text)
    }

    /// Its bytes, all of them visible ASCII.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ours(text) => text,
            Self::Theirs(id) => id.as_bytes(),
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// As a field of a head. Marked as sensitive, which in HTTP/2 means that it is never put into a header table: there it
    /// would crowd out what does come again, and every response would be compared with all the identifiers before it (a
    /// tenth of its instructions).
    #[inline]
    pub fn to_value(&self) -> HeaderValue {
        let mut value = match self {
            // INVARIANT: hex digits are a valid header value.
            Self::Ours(text) => HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text))
                .unwrap_or_else(|_| HeaderValue::from_static("0")),
            Self::Theirs(id) => id.clone(),
        };
        value.set_sensitive(true);
        value
    }
}

/// Every byte as two hex digits.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn it_is_random_unless_a_trusted_proxy_gave_one() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut headers = HeaderMap::new();
        headers.insert(&X_REQUEST_ID, HeaderValue::from_static("theirs"));
        assert_eq!(RequestId::of(&headers, true, &mut rng).as_str(), "theirs");
        let (a, b) = (RequestId::of(&headers, false, &mut rng), RequestId::of(&headers, false, &mut rng));
        assert_ne!(a.as_str(), b.as_str());
        assert!(a.as_str().len() == 32 && a.as_str().bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert!(a.to_value() == a.as_str() && a.to_value().is_sensitive());
        for refused in ["", "with space", &"x".repeat(LONGEST + 1)] {
            headers.insert(&X_REQUEST_ID, HeaderValue::from_str(refused).unwrap());
            assert_ne!(RequestId::of(&headers, true, &mut rng).as_str(), refused);
        }
    }
}
