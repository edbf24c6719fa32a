//! What the tests of objects and checkpoints share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use forklog::Uid;
use forklog::disk::{Disk, OsDisk};
use forklog::objects::{NewUid, ObjectStore};
#[cfg(unix)]
use forklog::workspace::{Content, Meta, OsWorkspace, RelPath, Workspace};
use forklog_sim::through::{Change, Hook, Then};

/// Uids that never repeat within a test process.
pub fn new_uids() -> NewUid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(|| {
        let n = u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 64 | u128::from(std::process::id());
        Uid::from_bytes(n.to_be_bytes())
    })
}

pub fn store(disk: Arc<dyn Disk>, root: &Path) -> ObjectStore {
    ObjectStore::open(disk, &root.join("objects"), new_uids())
}

pub fn os_store(root: &Path) -> ObjectStore {
    store(Arc::new(OsDisk), root)
}

/// Lets so many changing calls through and fails all after them, as if the process had been killed there. The last
/// call that goes through a write writes only half.
#[derive(Clone, Debug)]
pub struct Fuse(Arc<AtomicI64>);

impl Fuse {
    pub fn after(calls: i64) -> Self {
        Self(Arc::new(AtomicI64::new(calls)))
    }

    pub fn blown(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }

    /// `Ok(true)` for the last call that works.
    pub fn burn(&self) -> io::Result<bool> {
        match self.0.fetch_sub(1, Ordering::SeqCst) {
            n if n > 1 => Ok(false),
            1 => Ok(true),
            _ => {
                self.0.store(-1, Ordering::SeqCst);
                Err(io::Error::other("killed"))
            }
        }
    }
}

impl Hook for Fuse {
    fn before(&self, change: Change) -> io::Result<Then> {
        let last = self.burn()?;
        if last && change == Change::Write {
            self.0.store(-1, Ordering::SeqCst);
            return Ok(Then::Half);
        }
        Ok(Then::Go)
    }
}

/// The real workspace behind a fuse.
#[cfg(unix)]
#[derive(Debug)]
pub struct FusedWorkspace {
    pub workspace: OsWorkspace,
    pub fuse: Fuse,
}

#[cfg(unix)]
impl Workspace for FusedWorkspace {
    fn root(&self) -> &Path {
        self.workspace.root()
    }
    fn list(&self, dir: &RelPath) -> io::Result<Vec<(Vec<u8>, io::Result<Meta>)>> {
        self.workspace.list(dir)
    }
    fn meta(&self, path: &RelPath) -> io::Result<Meta> {
        self.workspace.meta(path)
    }
    fn read(&self, path: &RelPath, max_len: u64) -> io::Result<Content> {
        self.workspace.read(path, max_len)
    }
    fn read_link(&self, path: &RelPath) -> io::Result<Vec<u8>> {
        self.workspace.read_link(path)
    }
    fn create_dir(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.create_dir(path, mode)
    }
    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.remove_dir(path)
    }
    fn write_new(&self, path: &RelPath, bytes: &[u8], mode: u16) -> io::Result<()> {
        if self.fuse.burn()? {
            self.workspace.write_new(path, &bytes[..bytes.len() / 2], 0o600)?;
            self.fuse.burn()?;
        }
        self.workspace.write_new(path, bytes, mode)
    }
    fn create_link(&self, path: &RelPath, target: &[u8]) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.create_link(path, target)
    }
    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.rename(from, to)
    }
    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.exchange(one, other)
    }
    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.remove_file(path)
    }
    fn set_mode(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.set_mode(path, mode)
    }
    fn sync(&self, files: &[RelPath], dirs: &[RelPath]) -> io::Result<()> {
        self.fuse.burn()?;
        self.workspace.sync(files, dirs)
    }
    fn boot(&self) -> u64 {
        self.workspace.boot()
    }
}
