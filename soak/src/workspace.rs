//! A directory of files in memory, for checkpoints.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forklog::workspace::{Content, Meta, MetaKind, RelPath, Stamp, Workspace};

use crate::model::{Bytes, Files};

/// Files and directories that an agent works on. Every change survives at once: what a power cut does to them is not what
/// is tested with it.
#[derive(Debug, Default)]
pub struct MemWorkspace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Changes so far: no two leave the same times.
    changes: u32,
}

#[derive(Clone, Debug)]
struct Node {
    meta: Meta,
    bytes: Vec<u8>,
}

impl MemWorkspace {
    /// An empty one, in which so many changes have left their times already: a file's times tell its contents apart.
    #[must_use]
    pub fn after(changes: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            changes: u32::try_from(changes).unwrap_or(u32::MAX),
            nodes: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a file, and makes the directories above it.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state();
        for (at, _) in path.match_indices('/') {
            if !state.nodes.contains_key(&path.as_bytes()[..at]) {
                state.make(&path.as_bytes()[..at], MetaKind::Directory, 0o755, Vec::new());
            }
        }
        state.make(path.as_bytes(), MetaKind::File, 0o644, bytes.to_vec());
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, path: &str) {
        self.state().nodes.remove(path.as_bytes());
    }

    /// The files by their paths.
    #[must_use]
    pub fn files(&self) -> Files {
        let state = self.state();
        let files = state.nodes.iter().filter(|(_, node)| node.meta.kind == MetaKind::File);
        files.map(|(path, node)| (String::from_utf8_lossy(path).into_owned(), Bytes(node.bytes.clone()))).collect()
    }
}

impl State {
    fn make(&mut self, path: &[u8], kind: MetaKind, mode: u16, bytes: Vec<u8>) {
        self.changes += 1;
        let stamp = Stamp { seconds: i64::from(self.changes), nanos: 0 };
        let (size, inode) = (bytes.len() as u64, u64::from(self.changes));
        let meta = Meta { kind, mode, size, modified: stamp, changed: stamp, inode, device: 1 };
        self.nodes.insert(path.to_vec(), Node { meta, bytes });
    }

    fn find(&self, path: &RelPath) -> io::Result<Node> {
        if path.is_root() {
            let stamp = Stamp::default();
            let (kind, mode) = (MetaKind::Directory, 0o755);
            let meta = Meta { kind, mode, size: 0, modified: stamp, changed: stamp, inode: 0, device: 1 };
            return Ok(Node { meta, bytes: Vec::new() });
        }
        self.nodes.get(path.as_bytes()).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn make_new(&mut self, path: &RelPath, kind: MetaKind, mode: u16, bytes: &[u8]) -> io::Result<()> {
        if self.nodes.contains_key(path.as_bytes()) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.make(path.as_bytes(), kind, mode, bytes.to_vec());
        Ok(())
    }

    /// Takes a name and all below it away.
    fn take(&mut self, path: &RelPath) -> io::Result<Vec<(Vec<u8>, Node)>> {
        self.find(path)?;
        let below = [path.as_bytes(), b"/"].concat();
        let is_in = |name: &Vec<u8>| name == path.as_bytes() || name.starts_with(&below);
        let (taken, rest) =
            std::mem::take(&mut self.nodes).into_iter().partition::<BTreeMap<_, _>, _>(|(name, _)| is_in(name));
        self.nodes = rest;
        Ok(taken.into_iter().map(|(name, node)| (name[path.as_bytes().len()..].to_vec(), node)).collect())
    }

    fn put(&mut self, path: &RelPath, nodes: Vec<(Vec<u8>, Node)>) {
        self.nodes.extend(nodes.into_iter().map(|(rest, node)| ([path.as_bytes(), &rest].concat(), node)));
    }
}

impl Workspace for MemWorkspace {
    fn root(&self) -> &Path {
        Path::new("/workspace")
    }

    fn list(&self, dir: &RelPath) -> io::Result<Vec<(Vec<u8>, io::Result<Meta>)>> {
        let state = self.state();
        state.find(dir)?;
        let front = if dir.is_root() { Vec::new() } else { [dir.as_bytes(), b"/"].concat() };
        let own = state.nodes.iter().filter_map(|(path, node)| {
            let name = path.strip_prefix(front.as_slice())?;
            (!name.contains(&b'/')).then(|| (name.to_vec(), Ok(node.meta)))
        });
        Ok(own.collect())
    }

    fn meta(&self, path: &RelPath) -> io::Result<Meta> {
        Ok(self.state().find(path)?.meta)
    }

    fn read(&self, path: &RelPath, max_len: u64) -> io::Result<Content> {
        let Node { meta, bytes } = self.state().find(path)?;
        match meta.kind {
            MetaKind::File if meta.size <= max_len => Ok(Content { bytes, meta, settled: true }),
            MetaKind::File => Err(ErrorKind::FileTooLarge.into()),
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn read_link(&self, path: &RelPath) -> io::Result<Vec<u8>> {
        Ok(self.state().find(path)?.bytes)
    }

    fn create_dir(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        self.state().make_new(path, MetaKind::Directory, mode, b"")
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.state().take(path).map(drop)
    }

    fn write_new(&self, path: &RelPath, bytes: &[u8], mode: u16) -> io::Result<()> {
        self.state().make_new(path, MetaKind::File, mode, bytes)
    }

    fn create_link(&self, path: &RelPath, target: &[u8]) -> io::Result<()> {
        self.state().make_new(path, MetaKind::Symlink, 0o777, target)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        if state.find(to).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let taken = state.take(from)?;
        state.put(to, taken);
        Ok(())
    }

    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        let (a, b) = (state.take(one)?, state.take(other)?);
        state.put(one, b);
        state.put(other, a);
        Ok(())
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.state().take(path).map(drop)
    }

    fn set_mode(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        let mut state = self.state();
        state.find(path)?;
        if let Some(node) = state.nodes.get_mut(path.as_bytes()) {
            node.meta.mode = mode;
        }
        Ok(())
    }

    fn sync(&self, _files: &[RelPath], _dirs: &[RelPath]) -> io::Result<()> {
        Ok(())
    }
}
