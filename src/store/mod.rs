//! A store: a directory of sessions, and all that is done to sessions from outside.

mod admin;
mod create;
mod listing;
mod options;
mod reach;
mod tick;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Files;
use crate::digest::Digest;
use crate::disk::{Disk, How};
use crate::error::{Error, Named, Result};
use crate::format::control::{self, StoreHeader};
use crate::format::line::{self, Draft, Line, Link, kind};
use crate::ids::{Offset, SessionKey, SideName, Uid};
use crate::index::Index;
use crate::log::large::Look;
use crate::log::lineage::Layout;
use crate::log::recover::{make_dir, make_dirs};
use crate::objects::{NewUid, ObjectStore};
use crate::session::{Durability, OpenOptions, Reader, Session};
use crate::time::{Env, Timestamp};
use crate::workspace::{ScanOptions, Stamp, Workspace};

pub(crate) use admin::transcripts;
pub use admin::{Cleaned, Collected, Rerooted};
pub use create::NewSession;
pub use listing::Grep;
pub use options::StoreOptions;
pub use verify::{Checked, Damage, Progress, Repaired, Report};

/// A directory of sessions.
///
/// Cheap to clone; clones share everything. Any number of processes may have a store open.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    env: Arc<dyn Env>,
    digest: Arc<dyn Digest>,
    layout: Layout,
    index: Index,
    objects: Arc<ObjectStore>,
    new_uid: NewUid,
    durability: Durability,
    max_line: u64,
    spill_over: Option<u64>,
    ticker: tick::Ticker,
}

impl Store {
    /// Opens the store in `root`, and makes one where there is nothing.
    ///
    /// # Errors
    ///
    /// As [`StoreOptions::open`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        StoreOptions::new().open(root)
    }

    /// What can be chosen when a store is opened.
    #[must_use]
    pub fn options() -> StoreOptions {
        StoreOptions::new()
    }

    fn with_options(options: StoreOptions, root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|error| Error::io("open", root, error))?;
        let disk = options.disk;
        let made = prepare(&*disk, &*options.env, &root, options.create)?;
        let index = Index::open(disk.clone(), &root);
        let env = options.env.clone();
        let new_uid: NewUid = Arc::new(move || Uid::from_bytes(env.random()));
        let objects = Arc::new(ObjectStore::open(disk.clone(), &root.join("objects"), new_uid.clone()));
        let inner = Inner {
            disk,
            env: options.env,
            digest: options.digest,
            layout: Layout { root },
            index,
            objects,
            new_uid,
            durability: options.durability,
            max_line: options.max_line,
            spill_over: options.spill_over,
            ticker: tick::Ticker::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        if made {
            // Another process may have made the store as well, and sessions in it.
            store.reindex()?;
        }
        Ok(store)
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.layout.root
    }

    /// Opens a session for append, alone.
    ///
    /// What a crash left at its end is put in order first: cut bytes go to the session's quarantine. Cost: independent of the transcript's
    /// length after a clean close; else in proportion to what was written since the last sync.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: there is no such session.
    /// - [`Error::Locked`]: somebody else has it open for append.
    /// - [`Error::Corrupt`]: damage where it had to be read; nothing was changed, and [`Store::read`] still reads the rest.
    /// - [`Error::Newer`], [`Error::Full`], [`Error::Io`].
    pub fn session(&self, key: &SessionKey) -> Result<Session> {
        Session::open(self, key, None, OpenOptions::default())
    }

    /// Opens a session for append as `options` say.
    ///
    /// # Errors
    ///
    /// As [`Store::session`].
    pub fn session_with(&self, key: &SessionKey, options: OpenOptions) -> Result<Session> {
        Session::open(self, key, None, options)
    }

    /// Opens a side transcript of a session for append, made if there is none.
    ///
    /// # Errors
    ///
    /// As [`Store::session`].
    pub fn side(&self, key: &SessionKey, side: &SideName, options: OpenOptions) -> Result<Session> {
        self.make_side(key, side)?;
        Session::open(self, key, Some(side), options)
    }

    /// Opens a session to read it. Takes no lock and writes nothing.
    ///
    /// # Errors
    ///
    /// As [`Store::session`], [`Error::Locked`] aside.
    pub fn read(&self, key: &SessionKey) -> Result<Reader> {
        Reader::open(self, key, None)
    }

    /// Opens a side transcript to read it.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn read_side(&self, key: &SessionKey, side: &SideName) -> Result<Reader> {
        Reader::open(self, key, Some(side))
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    pub(crate) fn digest(&self) -> &dyn Digest {
        &*self.inner.digest
    }

    /// What is needed to keep the digest of a transcript.
    pub(crate) fn look(&self) -> Look<'_> {
        Look { digest: self.digest(), objects: self.objects() }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn index(&self) -> &Index {
        &self.inner.index
    }

    /// The contents of files that checkpoints refer to, and payloads that [spilled over](StoreOptions::spill_over).
    #[must_use]
    pub fn objects(&self) -> &Arc<ObjectStore> {
        &self.inner.objects
    }

    /// `STORE/journals`.
    pub(crate) fn journals(&self) -> PathBuf {
        self.dir("journals")
    }

    /// The files of the directory `workspace`, to compare them with a checkpoint: see [`Files::diff_workspace`]. Takes no lock, and touches nothing.
    ///
    /// The store itself, where it lies in the workspace, is left out, as in checkpoints.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: there is no such directory, or it cannot be read.
    #[cfg(unix)]
    pub fn files(&self, workspace: impl AsRef<Path>) -> Result<Files> {
        let (workspace, scan) = self.open_workspace(workspace.as_ref())?;
        Ok(self.workspace_files(workspace, scan))
    }

    /// A directory of the user's, and what a checkpoint takes in of it.
    #[cfg(unix)]
    pub(crate) fn open_workspace(&self, dir: &Path) -> Result<(Arc<dyn Workspace>, ScanOptions)> {
        let workspace = crate::workspace::OsWorkspace::open(dir)?;
        let mut scan = ScanOptions::default();
        let store = std::fs::canonicalize(self.path()).unwrap_or_else(|_| self.path().to_owned());
        if let Ok(inside) = store.strip_prefix(workspace.root()) {
            scan.excluded.push(crate::workspace::RelPath::new(inside.as_os_str().as_encoded_bytes())?);
        }
        Ok((Arc::new(workspace), scan))
    }

    /// What is known about the files of `workspace`. Touches nothing.
    pub(crate) fn workspace_files(&self, workspace: Arc<dyn Workspace>, scan: ScanOptions) -> Files {
        let inner = &*self.inner;
        let env = inner.env.clone();
        let now = Arc::new(move || {
            let ms = env.now().as_millis();
            let nanos = u32::try_from(ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
            Stamp { seconds: ms.div_euclid(1000), nanos }
        });
        let (disk, objects) = (inner.disk.clone(), inner.objects.clone());
        Files::new(disk, &self.journals(), objects, workspace, scan, inner.new_uid.clone(), now)
    }

    pub(crate) fn new_uid(&self) -> Uid {
        (self.inner.new_uid)()
    }

    pub(crate) fn durability(&self) -> Durability {
        self.inner.durability
    }

    pub(crate) fn max_line(&self) -> u64 {
        self.inner.max_line
    }

    pub(crate) fn spill_over(&self) -> Option<u64> {
        self.inner.spill_over
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.env.now()
    }

    pub(crate) fn random(&self) -> [u8; 16] {
        self.inner.env.random()
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.inner.layout.root.join(name)
    }

    /// Makes the name of a file of the store survive a power cut, and those of the directories it is in.
    pub(crate) fn sync_names(&self, file: &Path) -> Result<()> {
        let root = &self.inner.layout.root;
        for dir in file.ancestors().skip(1).take_while(|dir| dir.starts_with(root)) {
            self.inner.disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
        }
        // It was made in `tmp/`, and a rename is sure only once both directories are synced. A copy of a store may lack it, since
        // it is empty.
        let tmp = self.dir("tmp");
        match self.inner.disk.sync_dir(&tmp) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("sync", &tmp, error)),
            _ => Ok(()),
        }
    }

    /// Makes a directory of the store unless it is there.
    fn make_dir(&self, path: &Path) -> Result<()> {
        make_dirs(&*self.inner.disk, path)
    }
}

impl Layout {
    /// The marker of the session whose main transcript is `main`.
    pub(crate) fn marker(&self, main: Uid) -> PathBuf {
        self.root.join("live").join(main.to_string())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.path().display())
    }
}

/// Checks `store.json`, or makes a store. Returns whether it made one.
fn prepare(disk: &dyn Disk, env: &dyn Env, root: &Path, create: bool) -> Result<bool> {
    let path = root.join("store.json");
    match disk.open(&path, How::Read) {
        Ok(file) => {
            let mut bytes = vec![0; 4096];
            let got = file.read_at(&mut bytes, 0).map_err(|error| Error::io("read", &path, error))?;
            return check_store(&path, bytes.get(..got).unwrap_or_default()).map(|()| false);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found(Named::Store, root.display()));
        }
        Err(error) => return Err(Error::io("open", &path, error)),
    }
    if disk.list(root).is_ok_and(|entries| entries.iter().any(|entry| entry.name == "projects")) {
        return Err(Error::corrupt(&path, 0, "it is missing, though there are sessions"));
    }
    make_dirs(disk, root)?;
    for name in ["live", "tmp"] {
        make_dir(disk, &root.join(name))?;
    }
    let header = StoreHeader { format: crate::format::VERSION, uid: Uid::from_bytes(env.random()) };
    let mut bytes = Vec::new();
    let draft = Draft { at: &env.now().to_bytes(), id: None, kind: kind::STORE, more: false };
    line::encode(&mut bytes, draft, Link::default(), 0, &control::encode(&header));
    let temp = root.join("tmp").join(Uid::from_bytes(env.random()).to_string());
    let io = |error| Error::io("write", &temp, error);
    let file = disk.open(&temp, How::CreateNew).map_err(io)?;
    file.write_at(&bytes, 0).and_then(|()| file.sync()).map_err(io)?;
    disk.rename(&temp, &path).map_err(|error| Error::io("write", &path, error))?;
    for dir in [&root.join("tmp"), root] {
        disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
    }
    let above = root.parent().map_or(Ok(()), |above| disk.sync_dir(above));
    above.map(|()| true).map_err(|error| Error::io("sync", root, error))
}

fn check_store(path: &Path, bytes: &[u8]) -> Result<()> {
    let whole = match line::decode(bytes, Link::default()) {
        Line::Whole(whole) if whole.len == bytes.len() => whole,
        Line::Whole(_) => return Err(Error::corrupt(path, 0, "something follows its only line")),
        Line::Torn => return Err(Error::corrupt(path, 0, "its line has no end")),
        Line::Bad { why, .. } => return Err(Error::corrupt(path, 0, why)),
    };
    let newer = |what: String| Err(Error::Newer { path: path.to_owned(), at: Offset(0), what });
    match control::decode::<StoreHeader>(whole.payload) {
        _ if whole.kind != kind::STORE => Err(Error::corrupt(path, 0, "it is not the line of a store")),
        Some(header) if header.format == crate::format::VERSION => Ok(()),
        Some(header) => newer(format!("a store of format {}", header.format)),
        None => newer("this store".to_owned()),
    }
}
