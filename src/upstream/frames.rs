//! Looks at the frames of an HTTP/2 connection as they arrive, for what hyper does not tell: whether a header block is
//! half sent, a pseudo-field among trailers (which the `h2` crate drops in silence), floods of frames that carry nothing
//! (which it answers for ever), and the informational responses of a backend (which hyper swallows). Nothing is copied or
//! decompressed: header blocks are followed field by field, and of their compression's table only the kind of each entry is
//! kept.

mod allowance;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::allowance::Allowance;

/// What a client begins with, before its first frame (RFC 9113 section 3.4).
const PREFACE: u32 = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Bytes that the flag `PRIORITY` puts before the block.
const PRIORITY_BYTES: u32 = 5;
/// Entries of the static table (RFC 7541 appendix A); its first are pseudo-fields, of them the last statuses.
const STATIC_ENTRIES: u32 = 61;
const FIRST_STATUS: u32 = 8;
const LAST_PSEUDO: u32 = 14;
/// Entries that the dynamic table can hold: its 4,096 bytes are what hyper says in its SETTINGS, an entry counts for 32
/// at least.
const DYNAMIC_ENTRIES: usize = 128;
/// Informational responses before one answer (reliability.md §1).
const MOST_INFORMATIONAL: u8 = 20;
/// Streams that are known to wait after an informational response: more than a connection has at once.
const MOST_WAITING: usize = 1024;

/// What no well-behaved peer sends. It ends the connection: streams of hyper's cannot be told apart from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// RFC 9113 section 8.1: trailers have no pseudo-fields.
    #[error("a pseudo-field among trailers")]
    PseudoInTrailers,
    /// RFC 9113 section 8.6: HTTP/2 has no 101.
    #[error("a 101 over HTTP/2")]
    SwitchingProtocols,
    /// More than anybody needs.
    #[error("too many informational responses")]
    Informational,
    /// A flood of PING, SETTINGS or others like them.
    #[error("too many frames that carry nothing")]
    Flood,
}

/// What is known of a field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Plain,
    Pseudo,
    /// `:status`, of a final response where the value is known.
    Status,
    /// That of an informational response.
    Informational,
    SwitchingProtocols,
}

/// Where in the stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Amid the head of a frame; so many of its bytes are kept.
    Head(usize),
    /// The length of the padding.
    PadLength,
    /// Bytes before the block, then the block.
    Lead(u32),
    Block,
    /// Bytes that are of no interest.
    Skip(u32),
}

/// Where in a header block; it may go on in the next frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum In {
    /// Before a field.
    #[default]
    Between,
    /// Amid an integer of several bytes (RFC 7541 section 5.1): the value and the next shift.
    Integer(Whole, u32, u32),
    /// Before a string.
    Length(Part),
    /// Amid a string: bytes left, and whether it is compressed.
    Text(Part, u32, bool),
}

/// What an integer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Indexed,
    Name,
    Length(Part, bool),
    TableSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Value,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct FrameWatch {
    at: At,
    /// Bytes of a frame's head that came in an earlier read.
    head: [u8; FRAME_HEAD],
    /// Of the current block's frame.
    flags: u8,
    block_left: u32,
    padding: u32,
    /// A block has begun and not ended.
    amid_head: bool,
    stream: u32,
    /// From a client: the latest stream opened; further blocks on it are trailers. From a backend: none.
    opened: Option<u32>,
    /// From a client: how many frames that carry nothing it may still send.
    allowance: Allowance,
    trailers: bool,
    status: Field,
    within: In,
    /// The current field enters the table.
    enters: bool,
    name: Field,
    /// How the current string begins, and bytes of it that are kept.
    text: [u8; 3],
    kept: usize,
    table: [Field; DYNAMIC_ENTRIES],
    newest: usize,
    /// Streams of which only informational responses have come, and how many.
    waiting: HashMap<u32, u8>,
}

impl FrameWatch {
    /// Of what a client sends, from its preface on.
    pub fn of_client() -> Self {
        Self::new(At::Skip(PREFACE), Some(0))
    }

    /// Of what a backend sends.
    pub fn of_backend() -> Self {
        Self::new(At::Head(0), None)
    }

    fn new(at: At, opened: Option<u32>) -> Self {
        Self {
            at,
            head: [0; FRAME_HEAD],
            flags: 0,
            block_left: 0,
            padding: 0,
            amid_head: false,
            stream: 0,
            opened,
            allowance: Allowance::new(),
            trailers: false,
            status: Field::Plain,
            within: In::Between,
            enters: false,
            name: Field::Plain,
            text: [0; 3],
            kept: 0,
            table: [Field::Plain; DYNAMIC_ENTRIES],
            newest: 0,
            waiting: HashMap::new(),
        }
    }

    /// Whether a header block has begun and not ended.
    pub fn is_amid_head(&self) -> bool {
        self.amid_head
    }

    /// Takes in the bytes that come next.
    ///
    /// # Errors
    /// [`Violation`]; the connection is not to be read any further. What hyper refuses by itself is none.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some(first) = bytes.first() {
            let mut used = 1;
            match self.at {
                At::Head(0) if bytes.len() >= FRAME_HEAD => {
                    used = FRAME_HEAD;
                    if let Some(head) = bytes.first_chunk() {
                        self.frame(*head)?;
                    }
                }
                At::Head(kept) => {
                    if let Some(byte) = self.head.get_mut(kept) {
                        *byte = *first;
                    }
                    self.at = At::Head(kept + 1);
                    if kept + 1 == FRAME_HEAD {
                        self.frame(self.head)?;
                    }
                }
                At::PadLength => {
                    self.padding = u32::from(*first);
                    let lead = if self.flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
                    self.block_left = self.block_left.saturating_sub(1 + self.padding);
                    self.lead(lead)?;
                }
                At::Lead(left) => {
                    used = bytes.len().min(left as usize);
                    if used == left as usize { self.begin_block()? } else { self.at = At::Lead(left - used as u32) }
                }
                At::Block => {
                    used = bytes.len().min(self.block_left as usize);
                    self.block(&bytes[..used])?;
                    self.block_left -= used as u32;
                    if self.block_left == 0 {
                        self.end_block()?;
                    }
                }
                At::Skip(left) => {
                    used = bytes.len().min(left as usize);
                    self.skip(left - used as u32);
                }
            }
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn skip(&mut self, left: u32) {
        self.at = if left == 0 { At::Head(0) } else { At::Skip(left) };
    }

    /// A frame begins.
    fn frame(&mut self, head: [u8; FRAME_HEAD]) -> Result<(), Violation> {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        if kind != HEADERS && kind != CONTINUATION {
            if self.opened.is_some() {
                self.allowance.take(kind, flags)?;
            }
            self.skip(length);
            return Ok(());
        }
        self.flags = flags;
        self.block_left = length;
        self.padding = 0;
        if kind == CONTINUATION {
            return self.lead(0);
        }
        self.stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        self.amid_head = true;
        self.within = In::Between;
        self.status = Field::Plain;
        if let Some(opened) = &mut self.opened {
            self.trailers = self.stream <= *opened;
            *opened = (*opened).max(self.stream);
        }
        if flags & PADDED != 0 && length > 0 {
            self.at = At::PadLength;
            return Ok(());
        }
        self.lead(if flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 })
    }

    fn lead(&mut self, bytes: u32) -> Result<(), Violation> {
        let bytes = bytes.min(self.block_left);
        self.block_left -= bytes;
        if bytes == 0 {
            return self.begin_block();
        }
        self.at = At::Lead(bytes);
        Ok(())
    }

    fn begin_block(&mut self) -> Result<(), Violation> {
        self.at = At::Block;
        if self.block_left == 0 { self.end_block() } else { Ok(()) }
    }

    /// The bytes of a frame's part of a block have come.
    fn end_block(&mut self) -> Result<(), Violation> {
        self.skip(self.padding);
        if self.flags & END_HEADERS == 0 {
            return Ok(());
        }
        self.amid_head = false;
        match self.status {
            Field::SwitchingProtocols => return Err(Violation::SwitchingProtocols),
            Field::Informational => {
                if self.waiting.len() >= MOST_WAITING {
                    return Err(Violation::Informational);
                }
                let count = self.waiting.entry(self.stream).or_default();
                *count += 1;
                if *count > MOST_INFORMATIONAL {
                    return Err(Violation::Informational);
                }
            }
            Field::Plain | Field::Pseudo | Field::Status if self.waiting.is_empty() => {}
            Field::Plain | Field::Pseudo | Field::Status => drop(self.waiting.remove(&self.stream)),
        }
        Ok(())
    }

    /// Follows the fields of a block (RFC 7541 section 6).
    fn block(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some(&byte) = bytes.first() {
            let mut used = 1;
            match self.within {
                In::Between => self.begin_field(byte)?,
                In::Integer(what, value, shift) => {
                    // hyper ends the connection where it does not fit.
                    let value = value.saturating_add(u32::from(byte & 0x7F).checked_shl(shift).unwrap_or(u32::MAX));
                    if byte & 0x80 != 0 {
                        self.within = In::Integer(what, value, (shift + 7).min(32));
                    } else {
                        self.integer(what, value)?;
                    }
                }
                In::Length(part) => {
                    self.kept = 0;
                    self.prefixed(Whole::Length(part, byte & 0x80 != 0), byte, 0x7F)?;
                }
                In::Text(part, left, compressed) => {
                    used = bytes.len().min(left as usize);
                    if let Some(room) = self.text.get_mut(self.kept..) {
                        for (kept, byte) in room.iter_mut().zip(&bytes[..used]) {
                            *kept = *byte;
                            self.kept += 1;
                        }
                    }
                    if used < left as usize {
                        self.within = In::Text(part, left - used as u32, compressed);
                    } else {
                        self.text(part, compressed)?;
                    }
                }
            }
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn begin_field(&mut self, byte: u8) -> Result<(), Violation> {
        self.enters = false;
        match byte {
            0x80.. => self.prefixed(Whole::Indexed, byte, 0x7F),
            0x40.. => {
                self.enters = true;
                self.prefixed(Whole::Name, byte, 0x3F)
            }
            0x20.. => self.prefixed(Whole::TableSize, byte, 0x1F),
            _ => self.prefixed(Whole::Name, byte, 0x0F),
        }
    }

    /// An integer in the bits of `mask`; all of them set: it goes on.
    fn prefixed(&mut self, what: Whole, byte: u8, mask: u8) -> Result<(), Violation> {
        let value = u32::from(byte & mask);
        if byte & mask != mask {
            return self.integer(what, value);
        }
        self.within = In::Integer(what, value, 0);
        Ok(())
    }

    fn integer(&mut self, what: Whole, value: u32) -> Result<(), Violation> {
        self.within = In::Between;
        match what {
            Whole::TableSize => {}
            Whole::Indexed => return self.field(self.entry(value)),
            Whole::Name if value == 0 => self.within = In::Length(Part::Name),
            Whole::Name => self.named(self.entry(value)),
            Whole::Length(part, compressed) if value > 0 => self.within = In::Text(part, value, compressed),
            Whole::Length(part, compressed) => return self.text(part, compressed),
        }
        Ok(())
    }

    /// What an index stands for.
    fn entry(&self, index: u32) -> Field {
        match index {
            FIRST_STATUS..=LAST_PSEUDO => Field::Status,
            1..FIRST_STATUS => Field::Pseudo,
            // Entries that are gone hyper refuses.
            _ if index > STATIC_ENTRIES => {
                let age = (index - STATIC_ENTRIES - 1) as usize;
                self.table[self.newest.wrapping_sub(age) % DYNAMIC_ENTRIES]
            }
            _ => Field::Plain,
        }
    }

    /// A name is known, from a field that may have had another value.
    fn named(&mut self, from: Field) {
        self.name = match from {
            Field::Plain | Field::Pseudo | Field::Status => from,
            Field::Informational | Field::SwitchingProtocols => Field::Status,
        };
        self.within = In::Length(Part::Value);
    }

    /// A string has ended.
    fn text(&mut self, part: Part, compressed: bool) -> Result<(), Violation> {
        let text = self.text.get(..self.kept).unwrap_or_default();
        if part == Part::Name {
            // A colon, as it is or in Huffman's code (1011100).
            let is_pseudo =
                text.first().is_some_and(|byte| if compressed { byte & 0xFE == 0xB8 } else { *byte == b':' });
            self.named(if is_pseudo { Field::Pseudo } else { Field::Plain });
            return Ok(());
        }
        let field = if self.name == Field::Status { status(text, compressed) } else { self.name };
        if self.enters {
            self.newest = (self.newest + 1) % DYNAMIC_ENTRIES;
            self.table[self.newest] = field;
        }
        self.field(field)
    }

    fn field(&mut self, field: Field) -> Result<(), Violation> {
        self.within = In::Between;
        if field != Field::Plain {
            if self.trailers {
                return Err(Violation::PseudoInTrailers);
            }
            if field != Field::Pseudo {
                self.status = field;
            }
        }
        Ok(())
    }
}

/// A status, from the first bytes of its three digits. In Huffman's code 0 is 00000 and 1 is 00001.
fn status(text: &[u8], compressed: bool) -> Field {
    match (text, compressed) {
        (b"101", false) | ([0x08, 0x03], true) => Field::SwitchingProtocols,
        ([b'1', ..], false) | ([0x08..=0x0F, ..], true) => Field::Informational,
        _ => Field::Status,
    }
}
