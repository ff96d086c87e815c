//! The few fields of a certificate that we show or compare: validity, names, subject. rustls does not tell them, and
//! nothing here decides whom to trust: that is webpki's.
//!
//! A reader of DER in definite lengths; it takes any bytes, goes forward only, and gives up at the first oddity.

use std::net::IpAddr;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Valid from, seconds after the epoch.
    pub not_before: i64,
    /// Valid until, seconds after the epoch.
    pub not_after: i64,
    /// Host names (`subjectAltName`), in lower case; `*.` before a suffix.
    pub names: Vec<String>,
    /// Addresses (`subjectAltName`).
    pub addresses: Vec<IpAddr>,
    /// As in RFC 4514: the most specific part first, printable ASCII only.
    pub subject: String,
}

impl Certificate {
    /// Reads a DER certificate; `None`: it is none.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut whole = Reader(Reader(der).expect(SEQUENCE)?);
        let mut fields = Reader(whole.expect(SEQUENCE)?);
        fields.optional(VERSION);
        fields.expect(INTEGER)?; // serial number
        fields.expect(SEQUENCE)?; // algorithm
        fields.expect(SEQUENCE)?; // issuer
        let mut validity = Reader(fields.expect(SEQUENCE)?);
        let (not_before, not_after) = (moment(validity.next()?)?, moment(validity.next()?)?);
        let subject = subject(fields.expect(SEQUENCE)?)?;
        fields.expect(SEQUENCE)?; // public key
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                alternative_names(content, &mut names, &mut addresses)?;
            }
        }
        Some(Self { not_before, not_after, names, addresses, subject })
    }

    /// Whether it is for `host`: a name in lower case, or an address.
    pub fn covers(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => name == host,
        })
    }
}

const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` of a certificate.
const VERSION: u8 = 0xA0;
/// `[3]` of a certificate.
const EXTENSIONS: u8 = 0xA3;
/// `[2]` and `[7]` of a general name.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// Goes over the elements of a DER text.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Tag and content of the next element; `None`: there is none, or it is no DER.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            // Up to three bytes: 16 MiB, more than any certificate.
            0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The content of the next element if it has this tag.
    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }
}

/// `UTCTime` or `GeneralizedTime`, in the only form that certificates may have: to the second, in UTC.
fn moment((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest) // RFC 5280 section 4.1.2.5.1
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |index: usize| rest.get(index * 2..index * 2 + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(1)?);
    if rest.len() != 10 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(((days(year, month, day) * 24 + part(2)?) * 60 + part(3)?) * 60 + part(4)?)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    const DAYS_TO_EPOCH: i64 = 719_468; // from 0000-03-01
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - DAYS_TO_EPOCH
}

fn alternative_names(extensions: &[u8], names: &mut Vec<String>, addresses: &mut Vec<IpAddr>) -> Option<()> {
    let mut list = Reader(Reader(extensions).expect(SEQUENCE)?);
    while let Some(extension) = list.optional(SEQUENCE) {
        let mut extension = Reader(extension);
        let id = extension.expect(OBJECT)?;
        extension.optional(BOOLEAN);
        let value = extension.expect(OCTETS)?;
        if id != SUBJECT_ALT_NAME {
            continue;
        }
        let mut general = Reader(Reader(value).expect(SEQUENCE)?);
        while let Some((tag, content)) = general.next() {
            match tag {
                // One that is no text is for no host; the others are.
                DNS_NAME => names.extend(std::str::from_utf8(content).map(str::to_ascii_lowercase)),
                IP_ADDRESS => match content.len() {
                    4 => addresses.extend(<[u8; 4]>::try_from(content).map(IpAddr::from)),
                    16 => addresses.extend(<[u8; 16]>::try_from(content).map(IpAddr::from)),
                    _ => {}
                },
                _ => {}
            }
        }
    }
    Some(())
}

/// A name as text. RFC 4514 begins with the last part.
fn subject(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    let mut sets = Reader(name);
    while let Some(set) = sets.optional(SET) {
        let mut several = Vec::new();
        let mut pairs = Reader(set);
        while let Some(pair) = pairs.optional(SEQUENCE) {
            let mut pair = Reader(pair);
            let (id, (_, value)) = (pair.expect(OBJECT)?, pair.next()?);
            several.push(format!("{}={}", attribute(id), escaped(value)));
        }
        parts.push(several.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// The short names of RFC 4514 and what else is common; others by number.
fn attribute(id: &[u8]) -> String {
    let known = match id {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x04] => "SN",
        [0x55, 0x04, 0x05] => "serialNumber",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x09] => "STREET",
        [0x55, 0x04, 0x0A] => "O",
        [0x55, 0x04, 0x0B] => "OU",
        [0x55, 0x04, 0x2A] => "GN",
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x01] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x01] => "UID",
        _ => return numbers(id),
    };
    known.to_owned()
}

fn numbers(id: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut value: u64 = 0;
    for byte in id {
        value = value.wrapping_shl(7) | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (value / 40).min(2);
                arcs.push(first);
                value -= first * 40;
            }
            arcs.push(value);
            value = 0;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Printable ASCII with RFC 4514's escapes; all else byte by byte as `\XX`, so that the text is safe in a header and in
/// a log.
fn escaped(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, byte) in value.iter().enumerate() {
        let edge = at == 0 || at + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(*byte)]),
            b' ' if edge => out.push_str("\\ "),
            b'#' if at == 0 => out.push_str("\\#"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(names: &[&str], subject: &[(rcgen::DnType, &str)]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2050, 3, 1);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_its_names_dates_and_subject() {
        use rcgen::DnType::{CommonName, CountryName, OrganizationName};
        let der = made(
            &["A.example.com", "*.b.example.com", "192.0.2.7", "2001:db8::1"],
            &[(CountryName, "DE"), (OrganizationName, "Acme, Inc"), (CommonName, "Jürgen \u{202e}x\r\n")],
        );
        let read = Certificate::parse(&der).unwrap();
        // Checked with `date -u -d 2020-02-29 +%s`.
        assert_eq!((read.not_before, read.not_after), (1_582_934_400, 2_529_705_600));
        assert_eq!(read.names, ["a.example.com", "*.b.example.com"]);
        assert_eq!(read.addresses.len(), 2);
        assert_eq!(read.subject, "CN=J\\C3\\BCrgen \\E2\\80\\AEx\\0D\\0A,O=Acme\\, Inc,C=DE");
        let covered = ["a.example.com", "x.b.example.com", "192.0.2.7", "2001:db8::1"];
        assert!(covered.iter().all(|host| read.covers(host)));
        let others = ["b.example.com", "x.y.b.example.com", "example.com", "192.0.2.8", ""];
        assert!(!others.iter().any(|host| read.covers(host)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Certificate::parse(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_read_without_a_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..500) {
            let mut der = made(&["a.example.com"], &[(rcgen::DnType::CommonName, "x")]);
            let at = at % der.len();
            der[at] = byte;
            der.truncate(cut.max(1));
            let _ = Certificate::parse(&der);
        }
    }
}
