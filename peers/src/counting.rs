//! Disks between the engine and the real one: one counts syncs, one leaves them out.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forklog::disk::{DirEntry, Disk, File, How, LockMode, Mapped, OsDisk, Stat, Watch};

/// The real disk, with every sync counted.
#[derive(Debug)]
pub(crate) struct Counting {
    syncs: Arc<AtomicU64>,
    /// Whether syncs reach the real disk. They need not where only the making of what is measured would wait for them.
    real: bool,
}

impl Counting {
    pub(crate) fn new(syncs: Arc<AtomicU64>) -> Self {
        Self { syncs, real: true }
    }

    /// A disk on which nothing is synced.
    pub(crate) fn unsynced() -> Self {
        Self { syncs: Arc::default(), real: false }
    }
}

impl Disk for Counting {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        let file = OsDisk.open(path, how)?;
        Ok(Box::new(Counted { file, syncs: self.syncs.clone(), real: self.real }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        OsDisk.list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        OsDisk.stat(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.real { OsDisk.sync_dir(path) } else { Ok(()) }
    }

    fn watch(&self, path: &Path) -> io::Result<Box<dyn Watch>> {
        OsDisk.watch(path)
    }
}

#[derive(Debug)]
struct Counted {
    file: Box<dyn File>,
    syncs: Arc<AtomicU64>,
    real: bool,
}

impl File for Counted {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(out, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.real { self.file.sync() } else { Ok(()) }
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        self.file.try_lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn file_id(&self) -> io::Result<u64> {
        self.file.file_id()
    }

    fn map(&self) -> io::Result<Mapped> {
        self.file.map()
    }
}
