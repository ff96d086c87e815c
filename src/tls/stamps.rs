//! Whether files have changed: by looking at their age, size, number, and when anything about them last changed (their
//! owner or who may read them, for one). Looking works for files replaced by a rename,
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
    /// Seconds and nanoseconds.
    changed: (i64, i64),
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
    Some(Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        number: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that was made for root first, and given to us afterwards: not a byte of it changes, nor its date.
    #[test]
    fn who_may_read_a_file_is_part_of_how_it_looks() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.key");
        std::fs::write(&file, "key").unwrap();
        let (before, modified) = (Stamps::of(vec![file.clone()]), file.metadata().unwrap().modified().unwrap());
        assert_eq!(before.again(), before);
        // The clock of files ticks a few hundred times a second.
        let start = std::time::Instant::now();
        while before.again() == before {
            assert!(start.elapsed().as_secs() < 60, "the change is not seen");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        }
        assert_eq!(file.metadata().unwrap().modified().unwrap(), modified);
    }
}
