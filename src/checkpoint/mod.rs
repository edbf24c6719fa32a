//! Checkpoints of a workspace's files: capture, plan, rewind, and the way back.
//!
//! A checkpoint is a tree object. Going back to one is planned first, which changes nothing; then everything that is
//! there now is captured, the plan is written to a journal and synced, the files are changed, and the caller's record is
//! written. A process that dies in between leaves a journal that the next one finds by the workspace's path and carries to
//! its end. What the user had is never lost: it is in the captured state, whatever was forced.
//!
//! Kept: regular files with their nine permission bits, symbolic links, directories (empty ones too), names of any
//! bytes. Not kept: owner, times, extended attributes, set-user-id bits. A hard link becomes a file of its own when it is
//! rewritten. Pipes, sockets and devices are reported and never touched.

mod apply;
mod compare;
mod diff;
mod journals;
mod plan;
mod snapshot;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub use self::apply::{Outcome, Standing};
pub use self::diff::{Change, Diff, FileDiff};
pub use self::journals::{Pending, journal_roots, pending};
pub use self::plan::{Conflict, FileChange, Plan, PlanOptions};
pub use crate::workspace::{ScanOptions, Skipped, Why};

use self::compare::{Lookup, Side, compare};
use self::diff::FileDiff as OneFile;
use self::snapshot::{Looking, Snapshot, read_state};
use crate::disk::{Disk, File, LockMode};
use crate::error::{Error, Result};
use crate::ids::{ObjectKind, Uid};
use crate::objects::{Batch, Entry, EntryKind, NewUid, ObjectStore, open_lock};
use crate::workspace::{MetaKind, RelPath, Stamp, Workspace};

/// Gives the time.
pub type Now = Arc<dyn Fn() -> Stamp + Send + Sync>;

/// The state of a workspace, or of some of its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The whole tree; `None` when only single paths are known.
    pub tree: Option<Entry>,
    /// Paths that differ from the tree; `None` for one that is not there.
    pub paths: BTreeMap<RelPath, Option<Entry>>,
    /// Paths that could not be looked at, such as files that could not be read: what they were is not known, nor what was
    /// below them. Going back to this state leaves them as they are.
    pub unknown: BTreeSet<RelPath>,
}

/// A checkpoint that has been taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The workspace's tree.
    pub tree: Entry,
    /// What is not in it.
    pub skipped: Vec<Skipped>,
}

/// The files of one workspace and what a store keeps about them.
pub struct Files {
    disk: Arc<dyn Disk>,
    objects: Arc<ObjectStore>,
    workspace: Arc<dyn Workspace>,
    /// `STORE/journals/<key>`.
    dir: PathBuf,
    scan: ScanOptions,
    new_uid: NewUid,
    now: Now,
}

impl Captured {
    /// The state of the workspace that was captured.
    #[must_use]
    pub fn state(&self) -> State {
        State { tree: Some(self.tree), paths: BTreeMap::new(), unknown: unknown(&self.skipped) }
    }
}

/// The paths of which nothing is known, of those that were left out.
fn unknown(skipped: &[Skipped]) -> BTreeSet<RelPath> {
    // A name that no tree can hold is said of its directory.
    skipped.iter().filter(|skipped| skipped.why != Why::BadName).map(|skipped| skipped.path.clone()).collect()
}

impl Files {
    /// The files of `workspace`, with the journal and stat cache under `journals`, which is `STORE/journals`. Touches nothing.
    ///
    /// A journal may be pending: call [`Files::recover`] first.
    #[must_use]
    pub fn new(
        disk: Arc<dyn Disk>,
        journals: &Path,
        objects: Arc<ObjectStore>,
        workspace: Arc<dyn Workspace>,
        scan: ScanOptions,
        new_uid: NewUid,
        now: Now,
    ) -> Self {
        let dir = journals.join(workspace_key(workspace.root()));
        Self { disk, objects, workspace, dir, scan, new_uid, now }
    }

    /// Takes a checkpoint of the whole workspace, whoever changed what. Reads only files whose stat differs from the one
    /// remembered.
    ///
    /// Survives nothing until [`Batch::sync`]; keep the batch until the record that names the tree is synced. A second
    /// process that rewinds this workspace is waited for.
    ///
    /// # Errors
    ///
    /// - [`Error::Stale`]: a rewind has not ended; call [`Files::recover`].
    /// - [`Error::Locked`]: another process is changing the files and does not end.
    /// - [`Error::Io`], [`Error::Full`], [`Error::Poisoned`]: nothing was captured.
    pub fn capture(&self, batch: &Batch<'_>) -> Result<Captured> {
        let _lock = self.lock(LockMode::Shared)?;
        self.nothing_pending()?;
        let snapshot = self.look(Some(batch))?;
        Ok(Captured { tree: snapshot.root.entry, skipped: snapshot.skipped })
    }

    /// The state of one path, before somebody changes it; `None` when nothing is there. A directory has an entry, but
    /// what it holds is not captured.
    ///
    /// Survives nothing until [`Batch::sync`].
    ///
    /// # Errors
    ///
    /// - [`Error::Io`]: the file cannot be read, or is a pipe, socket or device.
    /// - [`Error::Full`], [`Error::Poisoned`]: nothing was captured.
    pub fn track(&self, batch: &Batch<'_>, path: &RelPath) -> Result<Option<Entry>> {
        Ok(self.observe(Some(batch), path)?.map(|(entry, _)| entry))
    }

    /// What differs between two trees, sorted by path. Content that is not text is only named.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], [`Error::NotFound`]: an object cannot be read.
    pub fn diff_trees(objects: &ObjectStore, before: Option<Entry>, after: Option<Entry>) -> Result<Diff> {
        let side = |entry: Option<Entry>| entry.map_or(Side::Absent, Side::Stored);
        let mut differ = Vec::new();
        compare(objects, side(before), side(after), &mut |path, found| differ.push((path, found)))?;
        let mut diff = Diff::default();
        for (path, found) in differ {
            diff.push(OneFile::new(path, found.one, found.other, |_, entry| read_blob(objects, entry))?);
        }
        Ok(diff)
    }

    /// What has changed in the workspace since `before`. Paths that cannot be compared are in [`Diff::skipped`].
    ///
    /// # Errors
    ///
    /// As [`Files::diff_trees`]; [`Error::Io`]: the workspace cannot be read.
    pub fn diff_workspace(&self, before: Entry) -> Result<Diff> {
        self.nothing_pending()?;
        let snapshot = self.look(None)?;
        let mut differ = Vec::new();
        let (one, other) = (Side::Stored(before), Side::Live(&snapshot.root));
        compare(&self.objects, one, other, &mut |path, found| differ.push((path, found)))?;
        let is_skipped = |path: &RelPath| snapshot.skipped.iter().any(|skipped| path.is_within(&skipped.path));
        differ.retain(|(path, found)| found.other.is_some() || !is_skipped(path));
        let mut diff = Diff { skipped: snapshot.skipped, ..Diff::default() };
        for (path, found) in differ {
            let name = path.clone();
            let file = OneFile::new(path, found.one, found.other, |is_after, entry| match is_after {
                true => self.read_live(&name, entry),
                false => read_blob(&self.objects, entry),
            })?;
            diff.push(file);
        }
        Ok(diff)
    }

    /// What each of `paths` is in a stored tree.
    pub(crate) fn look_up<'p>(
        &self,
        tree: &Entry,
        paths: impl IntoIterator<Item = &'p RelPath>,
    ) -> Result<Vec<Option<Entry>>> {
        let mut lookup = Lookup::new(&self.objects);
        paths.into_iter().map(|path| lookup.find(tree, path)).collect()
    }

    /// What a path is now, read but not captured.
    pub(crate) fn now_at(&self, path: &RelPath) -> Result<Option<Entry>> {
        Ok(self.observe(None, path)?.map(|(entry, _)| entry))
    }

    fn look(&self, batch: Option<&Batch<'_>>) -> Result<Snapshot> {
        let looking = Looking {
            disk: &*self.disk,
            workspace: &*self.workspace,
            options: &self.scan,
            cache: &self.dir.join("stat"),
            recent: &self.dir.join("stat-recent"),
            temp: (self.new_uid)(),
            now: (self.now)(),
            batch,
        };
        looking.snapshot()
    }

    /// What is at a path right now, content included; a parent that is no directory counts as nothing there.
    fn observe(&self, batch: Option<&Batch<'_>>, path: &RelPath) -> Result<Option<(Entry, crate::workspace::Meta)>> {
        let io = |error| Error::io("read", &self.workspace.root().join(path.to_path()), error);
        let meta = match self.workspace.meta(path) {
            Ok(meta) => meta,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        if meta.kind == MetaKind::Directory {
            let id = crate::ids::ObjectId::from_bytes([0; 32]);
            return Ok(Some((Entry { kind: EntryKind::Directory, mode: meta.mode, size: 0, id }, meta)));
        }
        let (entry, meta, _) = read_state(&*self.workspace, batch, None, path, meta.kind)?.map_err(io)?;
        Ok(Some((entry, meta)))
    }

    /// The content of a file of the workspace, as text to compare; one that has gone meanwhile is empty.
    fn read_live(&self, path: &RelPath, entry: &Entry) -> Result<Vec<u8>> {
        let read = match entry.kind {
            EntryKind::File => self.workspace.read(path, crate::objects::MAX_OBJECT).map(|content| content.bytes),
            EntryKind::Symlink => self.workspace.read_link(path),
            EntryKind::Directory => return Ok(Vec::new()),
        };
        match read {
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            read => read.map_err(|e| Error::io("read", &self.workspace.root().join(path.to_path()), e)),
        }
    }

    /// The same files with the journal at another place.
    fn with_dir(&self, dir: PathBuf) -> Self {
        Self {
            disk: self.disk.clone(),
            objects: self.objects.clone(),
            workspace: self.workspace.clone(),
            dir,
            scan: self.scan.clone(),
            new_uid: self.new_uid.clone(),
            now: self.now.clone(),
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.dir.join("journal")
    }

    fn nothing_pending(&self) -> Result<()> {
        let path = self.journal_path();
        match self.disk.stat(&path) {
            Ok(_) => Err(Error::Stale { path, why: "a rewind of this workspace has not ended" }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("stat", &path, error)),
        }
    }

    /// Takes the workspace's lock: shared to look at its files, exclusive to change them.
    fn lock(&self, mode: LockMode) -> Result<Box<dyn File>> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const STEP: Duration = Duration::from_millis(2);
        let path = self.dir.join("lock");
        let file = open_lock(&*self.disk, &path, 2)?;
        let mut waited = Duration::ZERO;
        while !file.try_lock(mode).map_err(|e| Error::io("lock", &path, e))? {
            if PATIENCE <= waited {
                return Err(Error::Locked { path, holder: None });
            }
            thread::sleep(STEP);
            waited += STEP;
        }
        Ok(file)
    }

    fn temp_uid(&self) -> Uid {
        (self.new_uid)()
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("workspace", &self.workspace).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The directory below `STORE/journals` that belongs to the workspace at `root`, a canonical path.
#[must_use]
pub fn workspace_key(root: &Path) -> String {
    let hash = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
    hash.chars().take(32).collect()
}

/// The content of a file or the target of a link; its length must be what the entry says.
pub(crate) fn read_blob(objects: &ObjectStore, entry: &Entry) -> Result<Vec<u8>> {
    let bytes = objects.get(ObjectKind::Blob, entry.id, entry.size)?;
    if bytes.len() as u64 == entry.size {
        return Ok(bytes);
    }
    Err(Error::corrupt(Path::new(&entry.id.to_string()), 0, "an object is shorter than its entry says"))
}

/// Whether a path is not there: the name is missing, or what should hold it is no directory.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    // A symbolic link where a directory should be: `ELOOP`, which has no stable kind.
    matches!(error.kind(), NotFound | NotADirectory) || error.raw_os_error() == Some(too_many_links())
}

#[cfg(unix)]
fn too_many_links() -> i32 {
    rustix::io::Errno::LOOP.raw_os_error()
}

#[cfg(not(unix))]
fn too_many_links() -> i32 {
    i32::MIN
}
