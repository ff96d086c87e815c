//! Secrets: named in the configuration, read when they are needed, never printed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Longest secret that is read; a PEM key of any use is shorter.
const MAX_BYTES: u64 = 1024 * 1024;

/// A secret that is read when it is needed and never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The content of this file, without its trailing newline.
    File(PathBuf),
    /// The value of this environment variable.
    Env(String),
}

impl Secret {
    /// The secret that `text` names: `env:NAME`, or a file relative to `base`.
    pub fn named(text: &str, base: &Path) -> Self {
        match text.strip_prefix("env:") {
            Some(name) => Self::Env(name.to_owned()),
            None => Self::File(base.join(text)),
        }
    }

    /// The secret itself, without trailing line ends.
    ///
    /// # Errors
    /// When the file cannot be read, the variable is not set, or what is there is empty or longer than 1 MiB.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = match self {
            Self::File(path) => read_limited(path)?,
            Self::Env(name) => match std::env::var_os(name) {
                Some(value) => value.into_encoded_bytes(),
                None => return Err(io::Error::new(io::ErrorKind::NotFound, "the environment variable is not set")),
            },
        };
        let length = bytes.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
        bytes.truncate(length);
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        Ok(bytes)
    }
}

/// Opens a file to read it, and nothing else: to read a pipe is to wait for its writer, perhaps for ever.
///
/// # Errors
/// The system's, or that it is a folder, a pipe or a device.
pub fn open_regular(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Without the flag, even to open a pipe is to wait.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(bytes)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_the_file_says_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        for (content, secret) in
            [("s3cret\n", Some("s3cret")), ("a\r\n\n", Some("a")), (" a b ", Some(" a b ")), ("\n", None)]
        {
            std::fs::write(folder.path().join("token"), content).unwrap();
            let read = Secret::named("token", folder.path()).read().ok();
            assert_eq!(read.as_deref(), secret.map(str::as_bytes), "{content:?}");
        }
        assert!(Secret::named(".", folder.path()).read().is_err());
        assert!(Secret::named("absent", folder.path()).read().is_err());
        // Nor does it wait for somebody who writes into a pipe.
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
        assert!(made.unwrap().success());
        let error = Secret::named("pipe", folder.path()).read().unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
    }

    #[test]
    fn a_secret_may_stand_in_the_environment() {
        // Variables that any process has; setting one would race with other tests.
        assert!(Secret::named("env:PATH", Path::new("")).read().is_ok());
        let absent = Secret::named("env:EVENKEEL_TEST_NO_SUCH_VARIABLE", Path::new(""));
        assert_eq!(absent.read().unwrap_err().to_string(), "the environment variable is not set");
        assert_eq!(format!("{absent:?}"), "env:EVENKEEL_TEST_NO_SUCH_VARIABLE");
    }
}
