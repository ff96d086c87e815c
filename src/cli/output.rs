//! Writing to stdout and stderr without dying of it: a reader that left (`| head`) is no error of ours.

use std::io::{self, Write};

use super::Failure;

/// Writes a result to stdout, flushed.
///
/// # Errors
/// [`Failure::Failed`] when stdout is full or broken; a closed pipe is not an error.
pub(super) fn result(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write to stdout: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// [`result`], with the line's end.
///
/// # Errors
/// As [`result`].
pub(super) fn line(text: &str) -> Result<(), Failure> {
    result(&format!("{text}\n"))
}

/// Says something on stderr; nobody there to hear it is nobody's loss.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
