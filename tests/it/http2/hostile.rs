//! HTTP/2 backends that break the rules, as raw frames: what they may not do is a 502, and nothing hangs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::frames::*;
use super::h2c;
use crate::support::*;

const SETTINGS: u8 = 4;

/// A backend that answers each head of a request with the header blocks of `said`, and then with the end of a body.
fn backend(said: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process: nobody waits for it.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let said = said.clone();
            std::thread::spawn(move || serve(stream, &said));
        }
    });
    address
}

/// Until the balancer closes.
fn serve(mut stream: TcpStream, said: &[Vec<u8>]) -> std::io::Result<()> {
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    stream.read_exact(&mut [0; 24])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = (usize::from(head[0]) << 16) | (usize::from(head[1]) << 8) | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length])?;
        let on = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == HEADERS {
            let mut frames: Vec<u8> = said.iter().flat_map(|block| frame(HEADERS, END_HEADERS, on, block)).collect();
            frames.extend(frame(DATA, END_STREAM, on, b"ok"));
            stream.write_all(&frames)?;
        } else if head[3] == SETTINGS && head[4] == 0 {
            stream.write_all(&frame(SETTINGS, 1, 0, &[]))?;
        }
    }
}

fn said(status: &str, fields: usize) -> Vec<u8> {
    // `:status` by its place in the static table, its value as it is.
    let mut head = vec![0x08, 3];
    head.extend_from_slice(status.as_bytes());
    head.extend(block(&[("x", "y")]).repeat(fields));
    head
}

/// Limits of reliability.md, section 1, and a 101 that HTTP/2 does not have.
#[test]
fn http2_backends_have_limits() {
    let hints = |count: usize| [vec![said("103", 1); count], vec![said("200", 0)]].concat();
    let cases: [(&str, Vec<Vec<u8>>, u16); 6] = [
        ("20 informational responses", hints(20), 200),
        ("21 informational responses", hints(21), 502),
        ("200 fields", vec![said("200", 200)], 200),
        ("201 fields", vec![said("200", 201)], 502),
        ("a 101", vec![said("101", 0)], 502),
        ("no status", vec![block(&[("x", "y")])], 502),
    ];
    for (what, blocks, status) in cases {
        let proxy = h2c(Setup::at(&[backend(blocks)])).start();
        // Nothing of this waits for `first_byte`: that is more than the test has patience for.
        assert_eq!(proxy.get("/").status(), status, "{what}");
        until("nothing in flight", || proxy.in_flight() == 0.0);
    }
}
