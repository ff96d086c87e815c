//! The bytes of `grpc.health.v1`: one request message, one response message, by hand. A protobuf library would be much
//! code for one string and one number.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::probe::{Answer, BODY_LIMIT};
use crate::backend::ProbeResult;

/// gRPC's frame head: one byte of flags and four of length.
const FRAME_HEAD: usize = 5;

/// The framed request message: field 1, a string, left out when empty.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a); // field 1, length-delimited
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(FRAME_HEAD + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// What the response means.
pub(super) async fn judge(response: Response<Incoming>) -> Answer {
    if response.status() != 200 {
        return Ok((ProbeResult::Failed, format!("status {}", response.status().as_u16())));
    }
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| format!("broken answer: {error}"))?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(other) => trailers = other.into_trailers().ok(),
        }
        if bytes.len() > BODY_LIMIT {
            return Err("the answer is too long".to_owned().into());
        }
    }
    let code = grpc_status(trailers.as_ref()).or_else(|| grpc_status(Some(&head.headers)));
    match code {
        None => return Err("no grpc-status".to_owned().into()),
        Some(0) => {}
        Some(5) => return Ok((ProbeResult::Failed, "grpc-status 5: the service is not known there".to_owned())),
        Some(12) => return Ok((ProbeResult::Failed, "grpc-status 12: it has no health service".to_owned())),
        Some(code) => return Ok((ProbeResult::Failed, format!("grpc-status {code}"))),
    }
    match serving_status(bytes.get(FRAME_HEAD..).unwrap_or_default()) {
        None => Err("not a health response".to_owned().into()),
        Some(1) => Ok((ProbeResult::Passed, "serving".to_owned())),
        Some(0) => Ok((ProbeResult::Failed, "serving status unknown".to_owned())),
        Some(2) => Ok((ProbeResult::Failed, "not serving".to_owned())),
        Some(other) => Ok((ProbeResult::Failed, format!("serving status {other}"))),
    }
}

fn grpc_status(headers: Option<&HeaderMap>) -> Option<u32> {
    headers?.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Field 1 of a `HealthCheckResponse`; 0 when it is left out. `None`: not such a message.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request() {
        assert_eq!(request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(request("ai")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'i']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn the_response() {
        for (message, expected) in [
            (&[][..], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 2], Some(2)),
            (&[0x12, 1, 7, 8, 1], Some(1)),
            (&[8], None),
            (&[0x12, 9, 7], None),
            (&[0xff; 20], None),
            (&[0x0b], None),
        ] {
            assert_eq!(serving_status(message), expected, "{message:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            let _ = serving_status(&bytes);
        }
    }
}
