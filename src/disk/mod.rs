//! The one door to the file system.
//!
//! Everything that touches a store goes through [`Disk`] and [`File`], so that tests can put a disk behind the engine
//! that drops, tears, reorders and fails. [`OsDisk`] is the real one. What holds after a call, and after its failure, is
//! said here and relied on everywhere else.

mod map;
mod os;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

pub(crate) use map::ForkMark;
pub use map::Mapped;
pub use os::OsDisk;

/// A file system, as far as the engine needs one. Paths are absolute.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file. A file that is created gets mode 0600.
    ///
    /// A created name survives a power cut only after [`Disk::sync_dir`] of its directory.
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>>;

    /// Makes one directory with mode 0700; its parent must exist. Survives a power cut after `sync_dir` of the parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or directory a new name, atomically replacing a file (or an empty directory) that has it.
    ///
    /// Either name may be found after a power cut until `sync_dir` of both parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. May come back after a power cut until `sync_dir` of the parent.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a directory, in no order, without `.` and `..`.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// What a name stands for; symbolic links are not followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// Returns once every earlier create, rename and remove in this directory survives a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Starts to watch a file for growth, for followers. Waking late or too often is allowed; never waking is not.
    fn watch(&self, path: &Path) -> io::Result<Box<dyn Watch>>;
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads from `at` into `out` and returns how many bytes; fewer than asked only at the end of the file.
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `at`; the file grows as needed. Survives a killed process once it has returned.
    ///
    /// After an error any part of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Lets the system forget what it holds of the file from `from` on, as far as that is written out, so that it is read from the device
    /// again. Where the system cannot, it does nothing.
    fn forget(&self, _from: u64) -> io::Result<()> {
        Ok(())
    }

    /// Sets `len` bytes of room aside behind `at`, the file's length, for what will be written there; 0 gives back whatever was set aside.
    ///
    /// Changes neither the file's bytes nor its length, and a cut gives it back too: only writing becomes quicker. Fails where that is not
    /// possible, which means nothing.
    fn reserve(&self, _at: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns once every earlier write and cut of this file survives a power cut.
    ///
    /// After an error nothing is promised, and a later success promises nothing either about what was written before
    /// the failure: callers give the file up.
    fn sync(&self) -> io::Result<()>;

    /// Takes the lock if that is possible at once, and says whether it was. Locks belong to the open file, survive a
    /// rename, and end with the handle or the process. Taking again in another mode converts, not atomically.
    fn try_lock(&self, mode: LockMode) -> io::Result<bool>;

    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;

    /// A number that tells this file from every other that exists at the same time.
    fn file_id(&self) -> io::Result<u64>;

    /// The whole file in memory. Only for files that are complete and never changed again: see [`Mapped`].
    fn map(&self) -> io::Result<Mapped>;
}

/// How [`Disk::open`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A file that must not exist yet, to read and write.
    CreateNew,
    /// A file to read and write, made when there is none.
    Create,
}

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// With other shared holders.
    Shared,
    /// With nobody.
    Exclusive,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// What [`Disk::stat`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes, for a file.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A wait for a file to grow.
pub trait Watch: fmt::Debug + Send {
    /// Returns when the file may have changed since the last call, or after `timeout`.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
}
