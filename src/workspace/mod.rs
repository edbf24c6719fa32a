//! The user's files: the one door to a workspace.
//!
//! Everything that checkpoints read or change goes through [`Workspace`], which never leaves the workspace's root: a path is
//! a list of names below it, and no symbolic link is ever followed, also when one takes a directory's place between two
//! calls.

#[cfg(unix)]
mod os;
mod path;
mod scan;

use std::fmt;
use std::io;
use std::path::Path;

#[cfg(unix)]
pub use os::OsWorkspace;
pub use path::RelPath;
pub(crate) use path::{path_as_text, path_text};
pub(crate) use scan::{Found, Scanned, Visit, scan};
pub use scan::{IGNORE_FILE, STAGE_PREFIX, ScanOptions, Skipped, Why};

/// A directory tree of the user's, seen from its root. Every path is below the root; none leads through a symbolic link.
///
/// A call on a path of which a parent is a symbolic link fails, whatever the link points to.
pub trait Workspace: fmt::Debug + Send + Sync {
    /// Where the root is; absolute, without symbolic links.
    fn root(&self) -> &Path;

    /// The names in a directory, in no order, and what each stands for.
    fn list(&self, dir: &RelPath) -> io::Result<Vec<(Vec<u8>, io::Result<Meta>)>>;

    /// What a name stands for; a symbolic link is not followed.
    fn meta(&self, path: &RelPath) -> io::Result<Meta>;

    /// The content of a regular file. Never blocks, also when the name has become a pipe.
    ///
    /// Fails with [`io::ErrorKind::FileTooLarge`] past `max_len`, and with [`io::ErrorKind::InvalidInput`] for anything
    /// that is not a regular file.
    fn read(&self, path: &RelPath, max_len: u64) -> io::Result<Content>;

    /// The target of a symbolic link.
    fn read_link(&self, path: &RelPath) -> io::Result<Vec<u8>>;

    /// Makes a directory.
    fn create_dir(&self, path: &RelPath, mode: u16) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &RelPath) -> io::Result<()>;

    /// Writes a regular file that must not exist yet.
    fn write_new(&self, path: &RelPath, bytes: &[u8], mode: u16) -> io::Result<()>;

    /// Makes a symbolic link that must not exist yet.
    fn create_link(&self, path: &RelPath, target: &[u8]) -> io::Result<()>;

    /// Gives a file, link or directory a name that nothing has; fails with [`io::ErrorKind::AlreadyExists`] when something
    /// has it.
    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;

    /// Lets two names change places in one step; fails with [`io::ErrorKind::Unsupported`] where that is not possible.
    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()>;

    /// Removes the name of a file or link.
    fn remove_file(&self, path: &RelPath) -> io::Result<()>;

    /// Sets the permission bits of a regular file or directory.
    fn set_mode(&self, path: &RelPath, mode: u16) -> io::Result<()>;

    /// Returns once the content and mode of these files, and the names in these directories and their modes, survive a
    /// power cut. What is not there, or has become something else, is passed over.
    fn sync(&self, files: &[RelPath], dirs: &[RelPath]) -> io::Result<()>;

    /// Tells one run of the machine from every other: what was not synced may have changed between two. 0 when that is
    /// not known.
    fn boot(&self) -> u64 {
        0
    }
}

/// What a name in a workspace stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: MetaKind,
    /// The nine permission bits.
    pub mode: u16,
    /// Length in bytes.
    pub size: u64,
    /// When the content changed last.
    pub modified: Stamp,
    /// When anything about it changed last, the name excepted on some file systems. Programs cannot set it.
    pub changed: Stamp,
    /// The file's number on its device.
    pub inode: u64,
    /// The device's number.
    pub device: u64,
}

/// A time as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanos: u32,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A pipe, socket or device.
    Special,
}

/// What [`Workspace::read`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// What the file was before it was read.
    pub meta: Meta,
    /// Whether it was the same after it was read.
    pub settled: bool,
}

impl Meta {
    /// Whether nothing says that this is another file or content than `other`, apart from the time at which the name or
    /// mode changed, which a rename moves on too.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let fields = |m: &Self| (m.kind, m.size, m.modified, m.inode, m.device);
        fields(self) == fields(other)
    }
}
