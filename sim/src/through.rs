//! The real disk, with somebody in between.

use std::fmt;
use std::io;
use std::path::Path;

use forklog::disk::{DirEntry, Disk, File, How, LockMode, Mapped, OsDisk, Stat, Watch};

/// Who stands between the engine and the real disk.
pub trait Hook: Clone + fmt::Debug + Send + Sync + 'static {
    /// Is asked before every call that changes something or syncs. An error takes the place of the call.
    ///
    /// # Errors
    ///
    /// What the engine is to see.
    fn before(&self, change: Change) -> io::Result<Then>;
}

/// A call that changes something or syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Opening a file that is made if need be.
    Create,
    /// Making a directory.
    CreateDir,
    /// Giving a new name.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Writing.
    Write,
    /// Cutting or extending a file.
    SetLen,
    /// Syncing a file or a directory.
    Sync,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is done.
    Go,
    /// It succeeds without being done.
    Skip,
    /// A write writes half of its bytes and fails; every other call is done.
    Half,
}

/// The real disk behind a [`Hook`].
#[derive(Debug)]
pub struct Through<H>(pub H);

impl<H: Hook> Through<H> {
    fn pass(&self, change: Change, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        pass(&self.0, change, call)
    }
}

fn pass(hook: &impl Hook, change: Change, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if hook.before(change)? == Then::Skip { Ok(()) } else { call() }
}

impl<H: Hook> Disk for Through<H> {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        if matches!(how, How::Create | How::CreateNew) {
            self.0.before(Change::Create)?;
        }
        Ok(Box::new(Open { file: OsDisk.open(path, how)?, hook: self.0.clone() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Change::CreateDir, || OsDisk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Change::Rename, || OsDisk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.pass(Change::Remove, || OsDisk.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Change::Remove, || OsDisk.remove_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        OsDisk.list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        OsDisk.stat(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Change::Sync, || OsDisk.sync_dir(path))
    }

    fn watch(&self, path: &Path) -> io::Result<Box<dyn Watch>> {
        OsDisk.watch(path)
    }
}

#[derive(Debug)]
struct Open<H> {
    file: Box<dyn File>,
    hook: H,
}

impl<H: Hook> File for Open<H> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(out, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self.hook.before(Change::Write)? {
            Then::Go => self.file.write_at(bytes, at),
            Then::Skip => Ok(()),
            Then::Half => {
                self.file.write_at(&bytes[..bytes.len() / 2], at)?;
                Err(io::Error::other("cut off in the middle of a write"))
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        pass(&self.hook, Change::SetLen, || self.file.set_len(len))
    }

    fn forget(&self, from: u64) -> io::Result<()> {
        self.file.forget(from)
    }

    fn reserve(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.reserve(at, len)
    }

    fn sync(&self) -> io::Result<()> {
        pass(&self.hook, Change::Sync, || self.file.sync())
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
