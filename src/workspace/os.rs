//! The real workspace, through directory handles.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::{Content, Meta, MetaKind, RelPath, Stamp, Workspace};
use crate::error::{Error, Result};
use crate::parallel;

/// Up to so many files and directories are synced one by one; more by one sync of the whole file system, so that the number of
/// syncs does not grow with that of files. That also waits for what other programs have written.
const SYNC_EACH: usize = 4;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY);

/// A directory tree on the operating system's file system.
///
/// Holds the root open: when the directory is renamed, this goes with it. Every path is resolved from there by the
/// kernel with symbolic links forbidden (`openat2` on Linux, a walk name by name elsewhere).
#[derive(Debug)]
pub struct OsWorkspace {
    root: PathBuf,
    handle: OwnedFd,
    boot: u64,
    syncs: AtomicU64,
}

/// An open directory: the root, or one below it.
enum Dir<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(handle) => *handle,
            Self::Below(handle) => handle.as_fd(),
        }
    }
}

impl OsWorkspace {
    /// Opens the directory `root`; symbolic links on the way to it are followed, below it never.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: there is no such directory, or it cannot be read.
    pub fn open(root: &Path) -> Result<Self> {
        let root = fs::canonicalize(root).map_err(|e| Error::io("find", root, e))?;
        let handle = rustix::fs::open(&root, DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let handle = handle.map_err(|e| Error::io("open", &root, e.into()))?;
        Ok(Self { root, handle, boot: boot(), syncs: AtomicU64::new(0) })
    }

    /// How many files, directories and file systems have been synced, for tests and measurements.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn fsync(&self, handle: OwnedFd) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(rustix::fs::fsync(handle)?)
    }

    #[cfg(target_os = "linux")]
    fn sync_all(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(rustix::fs::syncfs(&self.handle)?)
    }

    fn sync_file(&self, path: &RelPath) -> io::Result<()> {
        match self.meta(path) {
            Ok(meta) if meta.kind == MetaKind::File => {}
            Ok(_) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(handle) => self.fsync(handle),
            Err(error) if is_gone(&error) => Ok(()),
            // Its mode forbids reading, also to its owner.
            #[cfg(target_os = "linux")]
            Err(_) => self.sync_all(),
            #[cfg(not(target_os = "linux"))]
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &RelPath) -> io::Result<()> {
        match self.open_at(dir, DIRECTORY) {
            Ok(handle) => self.fsync(handle),
            // Its name is a change of the directory above.
            Err(error) if is_gone(&error) => Ok(()),
            #[cfg(target_os = "linux")]
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.sync_all(),
            Err(error) => Err(error),
        }
    }

    fn open_at(&self, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let bytes = if path.is_root() { b"." } else { path.as_bytes() };
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match rustix::fs::openat2(&self.handle, OsStr::from_bytes(bytes), flags, Mode::empty(), resolve) {
                // An old kernel, or a sandbox that forbids the call.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {}
                opened => return Ok(opened?),
            }
        }
        let _ = bytes;
        self.walk(path, flags)
    }

    fn walk(&self, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
        let step = DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = rustix::fs::openat(&self.handle, ".", step, Mode::empty())?;
        let mut names = path.names().peekable();
        while let Some(name) = names.next() {
            let flags = if names.peek().is_some() { step } else { flags };
            here = rustix::fs::openat(&here, OsStr::from_bytes(name), flags, Mode::empty())?;
        }
        Ok(here)
    }

    /// The directory that holds `path`, and the name in it.
    fn parent<'p>(&self, path: &'p RelPath) -> io::Result<(Dir<'_>, &'p OsStr)> {
        let (dir, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
        let dir =
            if dir.is_root() { Dir::Root(self.handle.as_fd()) } else { Dir::Below(self.open_at(&dir, DIRECTORY)?) };
        Ok((dir, OsStr::from_bytes(name)))
    }
}

impl Workspace for OsWorkspace {
    fn root(&self) -> &Path {
        &self.root
    }

    fn list(&self, dir: &RelPath) -> io::Result<Vec<(Vec<u8>, io::Result<Meta>)>> {
        let handle = self.open_at(dir, DIRECTORY)?;
        let mut names = Vec::new();
        each_name(&handle, |name| {
            if name != c"." && name != c".." {
                names.push((name.to_bytes().to_owned(), stat_at(handle.as_fd(), name)));
            }
        })?;
        Ok(names)
    }

    fn meta(&self, path: &RelPath) -> io::Result<Meta> {
        if path.is_root() {
            return Ok(meta_of(&rustix::fs::fstat(&self.handle)?));
        }
        let (dir, name) = self.parent(path)?;
        Ok(meta_of(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn read(&self, path: &RelPath, max_len: u64) -> io::Result<Content> {
        // Without NONBLOCK, opening a pipe waits for a writer.
        let handle = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let meta = meta_of(&rustix::fs::fstat(&handle)?);
        if meta.kind != MetaKind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if max_len < meta.size {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let file = fs::File::from(handle);
        let mut bytes = Vec::with_capacity(usize::try_from(meta.size).unwrap_or(0) + 1);
        (&file).take(max_len.saturating_add(1)).read_to_end(&mut bytes)?;
        if max_len < bytes.len() as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let settled = meta_of(&rustix::fs::fstat(&file)?) == meta && bytes.len() as u64 == meta.size;
        Ok(Content { bytes, meta, settled })
    }

    fn read_link(&self, path: &RelPath) -> io::Result<Vec<u8>> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
    }

    fn create_dir(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        rustix::fs::mkdirat(dir, name, mode_of(mode))?;
        // The process's umask took its part.
        self.set_mode(path, mode)
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }

    fn write_new(&self, path: &RelPath, bytes: &[u8], mode: u16) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Private until it is whole and has the mode that it shall have.
        let mut file = fs::File::from(rustix::fs::openat(dir, name, flags, mode_of(0o600))?);
        file.write_all(bytes)?;
        Ok(rustix::fs::fchmod(&file, mode_of(mode))?)
    }

    fn create_link(&self, path: &RelPath, target: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), dir, name)?)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{RenameFlags, renameat_with};
            use rustix::io::Errno;
            match renameat_with(&from_dir, from_name, &to_dir, to_name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                done => return Ok(done?),
            }
        }
        // A file made between these two calls would be lost; no call of the systems that come here prevents that.
        match rustix::fs::statat(&to_dir, to_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(rustix::fs::renameat(from_dir, from_name, to_dir, to_name)?),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(target_os = "linux")]
    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()> {
        use rustix::io::Errno;
        let (one_dir, one_name) = self.parent(one)?;
        let (other_dir, other_name) = self.parent(other)?;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(one_dir, one_name, other_dir, other_name, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
            done => Ok(done?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn exchange(&self, _one: &RelPath, _other: &RelPath) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn set_mode(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        let handle = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        match meta_of(&rustix::fs::fstat(&handle)?).kind {
            MetaKind::File | MetaKind::Directory => Ok(rustix::fs::fchmod(&handle, mode_of(mode))?),
            MetaKind::Symlink | MetaKind::Special => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn sync(&self, files: &[RelPath], dirs: &[RelPath]) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if SYNC_EACH < files.len() + dirs.len() {
            return self.sync_all();
        }
        // At once, so that the file system can put them into one write of its journal.
        parallel::each_by(files.len().min(SYNC_EACH), files, |path| self.sync_file(path))?;
        dirs.iter().try_for_each(|dir| self.sync_dir(dir))
    }

    fn boot(&self) -> u64 {
        self.boot
    }
}

#[cfg(target_os = "linux")]
fn each_name(dir: &OwnedFd, mut visit: impl FnMut(&CStr)) -> io::Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1 << 14];
    // Without opening the directory again and allocating every name, as `Dir` does.
    let mut entries = rustix::fs::RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        visit(entry?.file_name());
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn each_name(dir: &OwnedFd, mut visit: impl FnMut(&CStr)) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        visit(entry?.file_name());
    }
    Ok(())
}

/// Linux names each run of the machine.
fn boot() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Meta> {
    Ok(meta_of(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

fn mode_of(mode: u16) -> Mode {
    Mode::from_bits_truncate((mode & 0o777).into())
}

#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_fallible_conversions,
    reason = "the fields have other types on other systems"
)]
fn meta_of(stat: &Stat) -> Meta {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => MetaKind::File,
        FileType::Symlink => MetaKind::Symlink,
        FileType::Directory => MetaKind::Directory,
        _ => MetaKind::Special,
    };
    let stamp = |seconds, nanos| Stamp { seconds, nanos };
    Meta {
        kind,
        mode: u16::try_from(stat.st_mode & 0o777).unwrap_or_default(),
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: stamp(stat.st_mtime.into(), u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        changed: stamp(stat.st_ctime.into(), u32::try_from(stat.st_ctime_nsec).unwrap_or_default()),
        inode: stat.st_ino.into(),
        device: u64::try_from(stat.st_dev).unwrap_or_default(),
    }
}
