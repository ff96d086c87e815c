//! The thread that writes: workers append to one bounded buffer, it takes the whole buffer at a time.
//!
//! A worker holds the lock for one `memcpy` and wakes the thread only when it sleeps on an empty buffer. After each
//! write the thread rests for [`REST`], so that at a high rate it makes large writes instead of one per line.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// Bytes that may wait for the disk: some 10,000 lines, two seconds of a fully busy balancer.
pub(super) const BUFFER_LIMIT: usize = 4 * 1024 * 1024;

/// A buffer that grew beyond this is given back when it is empty.
const BUFFER_KEPT: usize = 256 * 1024;

/// Between two writes, so that lines gather; also the longest time a line waits while the disk keeps up.
const REST: Duration = Duration::from_millis(50);

/// A buffer this full ends the rest.
const BATCH: usize = 128 * 1024;

/// How long to wait when a non-blocking target takes nothing.
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);

/// Between two log lines about lost lines.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Where lines go.
pub(super) trait Target: Write + Send {
    /// Opens the target anew, because its file was moved away.
    fn reopen(&mut self) -> io::Result<()>;
}

/// A file, or stdout.
#[derive(Debug)]
pub(super) struct FileTarget {
    file: File,
    /// `None`: stdout.
    path: Option<PathBuf>,
}

impl FileTarget {
    /// Opens (or creates) the file at `path` to append.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        // A fifo is opened for reading too: the open then does not wait for a reader.
        let is_fifo = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo());
        let file = OpenOptions::new().append(true).create(true).read(is_fifo).open(&path)?;
        Ok(Self { file, path: Some(path) })
    }

    /// Standard output, without the line buffer of [`std::io::stdout`].
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self { file: File::from(io::stdout().as_fd().try_clone_to_owned()?), path: None })
    }
}

impl Write for FileTarget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Target for FileTarget {
    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = self.path.clone() {
            *self = Self::open(path)?;
        }
        Ok(())
    }
}

/// The shared side: what workers append to.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guards the buffer and the flags; held for a `memcpy` or a swap, never while writing.
    state: Mutex<State>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes who waits in `close`.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// Lines lost so far.
    lost: u64,
    /// The thread sleeps until it is woken.
    asleep: bool,
    reopen: bool,
    closing: bool,
    has_ended: bool,
}

impl Shared {
    /// A poisoned lock is taken over: the state stays sound whatever panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    pub(super) fn start(target: Box<dyn Target>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = Thread { shared: Arc::clone(&shared), target, torn: false, reported: 0, report_after: None };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || thread.run())?;
        Ok(Self { shared })
    }

    /// Hands over one line, or counts it as lost.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if state.closing || state.buffer.len() + line.len() > BUFFER_LIMIT {
            state.lost += 1;
            return;
        }
        state.buffer.extend_from_slice(line);
        let batch_is_full = state.buffer.len() >= BATCH && state.buffer.len() - line.len() < BATCH;
        let wake = std::mem::take(&mut state.asleep) || batch_is_full;
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
    }

    pub(super) fn reopen(&self) {
        let mut state = self.shared.lock();
        state.reopen = true;
        state.asleep = false;
        drop(state);
        self.shared.work.notify_one();
    }

    pub(super) fn lost(&self) -> u64 {
        self.shared.lock().lost
    }

    /// Ends the thread after what is buffered was written; whether that was done within `patience` and nothing of it
    /// was lost.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        let lost_before = state.lost;
        state.closing = true;
        self.shared.work.notify_one();
        let deadline = clock::now() + patience;
        while !state.has_ended {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.lost == lost_before
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }
}

/// The thread's side.
struct Thread {
    shared: Arc<Shared>,
    target: Box<dyn Target>,
    /// The last write ended within a line.
    torn: bool,
    /// Lost lines already told of.
    reported: u64,
    /// When the next report may be made; `None`: at once.
    report_after: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let (reopen, last) = self.wait(&mut batch);
            if reopen && let Err(error) = self.target.reopen() {
                tracing::error!(%error, "the access log cannot be reopened; the old file stays in use");
            }
            let failed = self.write(&batch);
            batch.clear();
            batch.shrink_to(BUFFER_KEPT);
            self.report(failed, last);
            if last {
                break;
            }
            self.rest();
        }
        self.shared.lock().has_ended = true;
        self.shared.ended.notify_all();
    }

    /// Waits for work and swaps the buffer into `batch`. Whether to reopen, and whether this is the last batch.
    fn wait(&self, batch: &mut Vec<u8>) -> (bool, bool) {
        let mut state = self.shared.lock();
        while state.buffer.is_empty() && !state.reopen && !state.closing {
            state.asleep = true;
            let untold = state.lost != self.reported;
            let pause = self.report_after.filter(|_| untold).map(|at| at.saturating_duration_since(clock::now()));
            state = match pause {
                None => self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => self.shared.work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0,
            };
            if pause.is_some() {
                break;
            }
        }
        state.asleep = false;
        std::mem::swap(&mut state.buffer, batch);
        (std::mem::take(&mut state.reopen), state.closing)
    }

    /// Writes `batch`; on an error what is unwritten is lost.
    fn write(&mut self, batch: &[u8]) -> Option<io::Error> {
        let mut rest = batch;
        let mut failed = None;
        if self.torn && !rest.is_empty() && self.target.write_all(b"\n").is_ok() {
            self.torn = false;
        }
        while !rest.is_empty() {
            match self.target.write(rest) {
                Ok(0) => failed = Some(io::Error::from(ErrorKind::WriteZero)),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE_PAUSE),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() {
                break;
            }
        }
        if failed.is_some() {
            let written = batch.get(..batch.len() - rest.len()).unwrap_or_default();
            self.torn |= written.last().is_some_and(|byte| *byte != b'\n');
            let lines = rest.iter().filter(|byte| **byte == b'\n').count();
            self.shared.lock().lost += lines as u64;
        }
        failed
    }

    /// Tells of lost lines, at most once a minute and once at the end.
    fn report(&mut self, failed: Option<io::Error>, last: bool) {
        let lost = self.shared.lock().lost;
        let now = clock::now();
        if lost == self.reported || !last && self.report_after.is_some_and(|at| now < at) {
            return;
        }
        let lines = lost - self.reported;
        match failed {
            Some(error) => tracing::warn!(lines, total = lost, %error, "access log lines lost: they cannot be written"),
            None => tracing::warn!(lines, total = lost, "access log lines lost: they are not written fast enough"),
        }
        self.reported = lost;
        self.report_after = Some(now + REPORT_EVERY);
    }

    /// Lets lines gather, unless there is a batch already or the end has come.
    fn rest(&self) {
        let state = self.shared.lock();
        let gathering = |state: &mut State| state.buffer.len() < BATCH && !state.closing && !state.reopen;
        drop(self.shared.work.wait_timeout_while(state, REST, gathering));
    }
}
