//! Learned state on disk: versioned, checksummed, replaced atomically, and never able to stop a start.
//!
//! A file is one header line, `evenkeel-rl VERSION LENGTH CHECKSUM`, and a JSON payload. Anything else (torn, foreign,
//! of an older version) is refused as a value, so that the caller can set the file aside, say so, and start fresh.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// First word of every state file.
const MAGIC: &str = "evenkeel-rl";

/// Version of the payload; raised whenever its meaning changes.
pub const VERSION: u32 = 1;

/// Largest state file that is read: an agent of a thousand backends needs a tenth of it.
const MAX_BYTES: u64 = 64 << 20;

/// Names tried for a file that is set aside: `.bad`, `.bad.1` … `.bad.9`; then the last is replaced.
const MAX_BAD_FILES: u32 = 10;

/// Why bytes are not a state that this agent can take over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not one of our files.
    #[error("not a learned state of this program")]
    Foreign,
    /// Ours, but of another version.
    #[error("version {found}, this program writes version {VERSION}")]
    Version {
        /// As the file says.
        found: u32,
    },
    /// Shorter or longer than its header says.
    #[error("torn: {found} bytes instead of {expected}")]
    Torn {
        /// Payload bytes as the header says.
        expected: usize,
        /// Payload bytes there are.
        found: usize,
    },
    /// The content changed after it was written.
    #[error("checksum does not match")]
    Checksum,
    /// Whole, but not what this agent writes.
    #[error("content: {0}")]
    Content(String),
}

/// What became of a state file at start.
#[derive(Debug)]
pub enum Restored {
    /// There was none.
    Fresh,
    /// It was taken over.
    Loaded,
    /// It was unusable; it was renamed and the agent starts fresh.
    SetAside {
        /// What was wrong.
        why: StateError,
        /// Where it is now; `None` when even the renaming failed.
        to: Option<PathBuf>,
    },
    /// It could not be read at all.
    Unreadable(io::Error),
}

/// FNV-1a, 64 bits: finds torn and edited files; it is no signature.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Puts the header before `payload`.
pub fn seal(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{MAGIC} {VERSION} {} {:016x}\n", payload.len(), checksum(payload)).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload behind the header, if both are whole.
pub fn open(bytes: &[u8]) -> Result<&[u8], StateError> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(StateError::Foreign)?;
    let (head, rest) = bytes.split_at(end);
    let payload = rest.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| StateError::Foreign)?;
    let words: Vec<&str> = head.split(' ').collect();
    let [MAGIC, version, length, sum] = words[..] else { return Err(StateError::Foreign) };
    let found: u32 = version.parse().map_err(|_| StateError::Foreign)?;
    if found != VERSION {
        return Err(StateError::Version { found });
    }
    let expected: usize = length.parse().map_err(|_| StateError::Foreign)?;
    if payload.len() != expected {
        return Err(StateError::Torn { expected, found: payload.len() });
    }
    let sum = u64::from_str_radix(sum, 16).map_err(|_| StateError::Foreign)?;
    if sum == checksum(payload) { Ok(payload) } else { Err(StateError::Checksum) }
}

/// Replaces the file at `path` by `bytes` in one step: a reader sees the old or the new, a crash leaves the old or the
/// new. Makes the directory when it is missing.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory)?;
    let temporary = suffixed(path, &format!(".tmp.{}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Reads the file at `path` and gives its bytes to `take_over`; a file that is refused is renamed to `….bad`.
pub fn restore(path: &Path, take_over: impl FnOnce(&[u8]) -> Result<(), StateError>) -> Restored {
    let bytes = match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_BYTES => Err(io::Error::new(io::ErrorKind::FileTooLarge, "state file too large")),
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    match bytes {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Restored::Fresh,
        Err(error) => Restored::Unreadable(error),
        Ok(bytes) => match take_over(&bytes) {
            Ok(()) => Restored::Loaded,
            Err(why) => Restored::SetAside { why, to: set_aside(path).ok() },
        },
    }
}

/// Renames the file at `path` out of the way and says where it is now.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut to = suffixed(path, ".bad");
    for number in 1..MAX_BAD_FILES {
        if !to.exists() {
            break;
        }
        to = suffixed(path, &format!(".bad.{number}"));
    }
    fs::rename(path, &to)?;
    Ok(to)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_payload_opens_and_any_change_is_noticed() {
        let bytes = seal(b"{\"a\":1}");
        assert_eq!(open(&bytes), Ok(&b"{\"a\":1}"[..]));
        assert_eq!(open(&bytes[..bytes.len() - 1]), Err(StateError::Torn { expected: 7, found: 6 }));
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(open(&changed).is_err(), "byte {index}");
        }
        assert_eq!(open(b"hello\nworld"), Err(StateError::Foreign));
        assert_eq!(open(b""), Err(StateError::Foreign));
        let older = String::from_utf8(bytes).unwrap().replacen(" 1 ", " 0 ", 1);
        assert_eq!(open(older.as_bytes()), Err(StateError::Version { found: 0 }));
    }

    #[test]
    fn a_refused_file_is_set_aside_and_never_overwrites_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/ai.rl");
        assert!(matches!(restore(&path, |_| Ok(())), Restored::Fresh));
        for round in 0..2 {
            write(&path, format!("junk {round}").as_bytes()).unwrap();
            let Restored::SetAside { why, to: Some(to) } = restore(&path, |bytes| open(bytes).map(drop)) else {
                panic!("must be set aside");
            };
            assert_eq!(why, StateError::Foreign);
            assert_eq!(fs::read_to_string(to).unwrap(), format!("junk {round}"));
            assert!(!path.exists());
        }
        write(&path, &seal(b"one")).unwrap();
        write(&path, &seal(b"two")).unwrap();
        let mut seen = Vec::new();
        let restored = restore(&path, |bytes| {
            seen = open(bytes)?.to_vec();
            Ok(())
        });
        assert!(matches!(restored, Restored::Loaded));
        assert_eq!(seen, b"two");
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 3, "the file and two set aside, no temporary");
    }
}
