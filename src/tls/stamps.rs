//! Whether files have changed: by looking at their age, size and number. Looking works for files replaced by a rename,
//! for links that are turned (Kubernetes) and for network disks, where notifications do not; a few files a second cost
//! nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How files looked at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    number: u64,
}

impl Stamps {
    /// How these files look now.
    pub fn of(files: Vec<PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (stamp(&file), file)).map(|(stamp, file)| (file, stamp)).collect())
    }

    /// Whether no file is meant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How the same files look now.
    pub fn again(&self) -> Self {
        Self(self.0.iter().map(|(file, _)| (file.clone(), stamp(file))).collect())
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(file).ok()?;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), number: metadata.ino() })
}
