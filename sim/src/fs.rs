//! The file system as running programs see it. Knows nothing of faults, locks or processes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::Arc;

use forklog::disk::{DirEntry, Stat};

use crate::data::{Content, Fate};
use crate::names::{Change, Entries, Ino, Names, Tree};
use crate::rng::Rng;

const ROOT: Ino = 0;
/// The longest name that Linux takes.
const MAX_NAME: usize = 255;
/// The longest file. Nothing that is simulated comes near; a wild offset must not eat the machine's memory.
const MAX_FILE: u64 = 1 << 30;

/// Directories, files and what of them is stable. Clones share everything that does not change.
#[derive(Clone, Debug)]
pub(crate) struct Fs {
    nodes: BTreeMap<Ino, Arc<Node>>,
    pub(crate) names: Names,
    next_ino: Ino,
    /// Numbers that programs see. As on ext4, that of a file that is gone goes to the next one that is made.
    next_id: u64,
    free_ids: BTreeSet<u64>,
    /// Files and directories without a name that a power cut may bring back.
    unnamed: BTreeSet<Ino>,
    /// Moves on with every change of a file, so that no two changes bear the same time.
    clock: u64,
}

#[derive(Clone, Debug)]
struct Node {
    what: What,
    id: u64,
    open: u32,
    attrs: Attrs,
    /// The mode that a power cut leaves at least.
    stable_mode: u16,
}

#[derive(Clone, Debug)]
enum What {
    Dir {
        entries: Entries,
        parent: Ino,
    },
    File(Content),
    /// A symbolic link, whole as soon as it has its name.
    Link(Arc<[u8]>),
}

/// What only a workspace looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub(crate) mode: u16,
    /// When the content changed.
    pub(crate) modified: u64,
    /// When anything changed.
    pub(crate) changed: u64,
}

impl Fs {
    pub(crate) fn new() -> Self {
        let entries = Entries::new();
        let attrs = Attrs { mode: 0o755, modified: 0, changed: 0 };
        let root = Node { what: What::Dir { entries, parent: ROOT }, id: 1, open: 0, attrs, stable_mode: 0o755 };
        Self {
            nodes: BTreeMap::from([(ROOT, Arc::new(root))]),
            names: Names::new(Tree::from([(ROOT, Arc::default())])),
            next_ino: ROOT + 1,
            next_id: 2,
            free_ids: BTreeSet::new(),
            unnamed: BTreeSet::new(),
            clock: 1,
        }
    }

    /// What a power cut leaves: what can be reached from the root of `tree`, all of it on stable storage. Files keep their
    /// numbers and times, also where their bytes are older: file systems write times before contents.
    pub(crate) fn left(&self, tree: &Tree, fate: impl Fn(Ino) -> Fate) -> Self {
        let mut nodes = BTreeMap::new();
        let mut reached = Tree::new();
        let mut todo = vec![(ROOT, ROOT)];
        while let Some((ino, parent)) = todo.pop() {
            let node = self.nodes.get(&ino).expect("a name that can come back has its file");
            let what = match &node.what {
                What::Dir { .. } => {
                    let entries = tree.get(&ino).cloned().unwrap_or_default();
                    todo.extend(entries.values().map(|&child| (child, ino)));
                    reached.insert(ino, Arc::clone(&entries));
                    What::Dir { entries: Entries::clone(&entries), parent }
                }
                What::File(content) => What::File(Content::stable(content.after(fate(ino)))),
                What::Link(target) => What::Link(Arc::clone(target)),
            };
            let mode = match fate(ino) {
                Fate::Lost => node.stable_mode,
                Fate::Random(seed) if Rng::new(seed ^ 0x6d6f_6465).chance(1, 2) => node.stable_mode,
                Fate::Kept | Fate::Sizes | Fate::Random(_) => node.attrs.mode,
            };
            let attrs = Attrs { mode, ..node.attrs };
            let doubled = nodes.insert(ino, Arc::new(Node { what, id: node.id, open: 0, attrs, stable_mode: mode }));
            debug_assert!(doubled.is_none(), "inode {ino} has two names");
        }
        let used: BTreeSet<u64> = nodes.values().map(|node| node.id).collect();
        Self {
            nodes,
            names: Names::new(reached),
            next_ino: self.next_ino,
            next_id: self.next_id,
            free_ids: (2..self.next_id).filter(|id| !used.contains(id)).collect(),
            unnamed: BTreeSet::new(),
            clock: self.clock,
        }
    }

    pub(crate) fn content(&self, ino: Ino) -> io::Result<&Content> {
        match self.nodes.get(&ino).map(|node| &node.what) {
            Some(What::File(content)) => Ok(content),
            Some(What::Dir { .. }) => Err(ErrorKind::IsADirectory.into()),
            Some(What::Link(_)) => Err(ErrorKind::InvalidInput.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn content_mut(&mut self, ino: Ino) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&ino).map(|node| &mut Arc::make_mut(node).what) {
            Some(What::File(content)) => Ok(content),
            Some(What::Dir { .. }) => Err(ErrorKind::IsADirectory.into()),
            Some(What::Link(_)) => Err(ErrorKind::InvalidInput.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn id(&self, ino: Ino) -> u64 {
        self.nodes.get(&ino).map_or(0, |node| node.id)
    }

    /// Bytes that count against the capacity: those of all files that have a name or are open.
    pub(crate) fn used(&self) -> u64 {
        let exists = |ino: &Ino, node: &Node| node.open > 0 || !self.unnamed.contains(ino);
        let files = self.nodes.iter().filter(|(ino, node)| exists(ino, node));
        files.map(|(_, node)| if let What::File(content) = &node.what { content.len() as u64 } else { 0 }).sum()
    }

    /// Whether a power cut now would change nothing.
    pub(crate) fn is_stable(&self) -> bool {
        let stable = |node: &Node| {
            node.stable_mode == node.attrs.mode
                && if let What::File(content) = &node.what { content.is_stable() } else { true }
        };
        self.names.is_stable() && self.nodes.values().all(|node| stable(node))
    }

    /// Every path with the file's bytes, or nothing for a directory; the root is left out.
    pub(crate) fn walk(&self) -> Vec<(std::path::PathBuf, Option<Arc<Vec<u8>>>)> {
        let mut found = Vec::new();
        let mut todo = vec![(std::path::PathBuf::from("/"), ROOT)];
        while let Some((path, ino)) = todo.pop() {
            match self.nodes.get(&ino).map(|node| &node.what) {
                Some(What::Dir { entries, .. }) => {
                    todo.extend(entries.iter().map(|(name, &child)| (path.join(name), child)));
                    if ino != ROOT {
                        found.push((path, None));
                    }
                }
                Some(What::File(content)) => found.push((path, Some(Arc::clone(content.live())))),
                Some(What::Link(target)) => found.push((path, Some(Arc::new(target.to_vec())))),
                None => {}
            }
        }
        found.sort();
        found
    }

    pub(crate) fn find(&self, path: &Path) -> io::Result<Ino> {
        if !path.is_absolute() {
            return Err(ErrorKind::InvalidInput.into());
        }
        path.components().try_fold(ROOT, |at, component| match component {
            Component::Normal(name) => self.child(at, name)?.ok_or_else(|| ErrorKind::NotFound.into()),
            Component::ParentDir => self.parent(at),
            _ => Ok(at),
        })
    }

    /// The directory of a path, and the name in it.
    fn split<'p>(&self, path: &'p Path) -> io::Result<(Ino, &'p OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::ResourceBusy.into());
        };
        let dir = self.find(parent)?;
        self.entries(dir)?;
        Ok((dir, name))
    }

    fn child(&self, dir: Ino, name: &OsStr) -> io::Result<Option<Ino>> {
        let entries = self.entries(dir)?;
        if name.len() > MAX_NAME {
            return Err(ErrorKind::InvalidFilename.into());
        }
        if name.as_encoded_bytes().contains(&0) {
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok(entries.get(name).copied())
    }

    fn entries(&self, dir: Ino) -> io::Result<&Entries> {
        match self.nodes.get(&dir).map(|node| &node.what) {
            Some(What::Dir { entries, .. }) => Ok(entries),
            Some(What::File(_) | What::Link(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn parent(&self, ino: Ino) -> io::Result<Ino> {
        match self.nodes.get(&ino).map(|node| &node.what) {
            Some(What::Dir { parent, .. }) => Ok(*parent),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    pub(crate) fn is_dir(&self, ino: Ino) -> bool {
        self.entries(ino).is_ok()
    }

    /// Every directory from `dir` up, itself included, the root not.
    fn above(&self, dir: Ino) -> Vec<Ino> {
        let up = |&ino: &Ino| self.parent(ino).ok().filter(|&p| p != ROOT);
        std::iter::successors(Some(dir).filter(|&d| d != ROOT), up).collect()
    }

    pub(crate) fn create_file(&mut self, path: &Path) -> io::Result<Ino> {
        self.create(path, 0o600, |_| What::File(Content::default()))
    }

    pub(crate) fn create_link(&mut self, path: &Path, target: &[u8]) -> io::Result<()> {
        self.create(path, 0o777, |_| What::Link(target.into())).map(drop)
    }

    pub(crate) fn create_dir(&mut self, path: &Path, mode: u16) -> io::Result<()> {
        if path.file_name().is_none() && self.find(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.create(path, mode, |parent| What::Dir { entries: Entries::new(), parent }).map(drop)
    }

    fn create(&mut self, path: &Path, mode: u16, what: impl FnOnce(Ino) -> What) -> io::Result<Ino> {
        let (dir, name) = self.split(path)?;
        if self.child(dir, name)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let what = what(dir);
        let made_dir = matches!(what, What::Dir { .. }).then_some(ino);
        let id = self.take_id();
        self.clock += 1;
        let attrs = Attrs { mode, modified: self.clock, changed: self.clock };
        self.nodes.insert(ino, Arc::new(Node { what, id, open: 0, attrs, stable_mode: mode }));
        let sets = vec![(dir, name.to_owned(), Some(ino))];
        self.change(Change { sets, subjects: vec![ino], made_dir, ..Change::default() });
        Ok(ino)
    }

    pub(crate) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        let ino = self.child(dir, name)?.ok_or(ErrorKind::NotFound)?;
        if self.is_dir(ino) {
            return Err(ErrorKind::IsADirectory.into());
        }
        let sets = vec![(dir, name.to_owned(), None)];
        self.change(Change { sets, subjects: vec![ino], ..Change::default() });
        self.lose_name(ino);
        Ok(())
    }

    pub(crate) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        let ino = self.child(dir, name)?.ok_or(ErrorKind::NotFound)?;
        if !self.entries(ino)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let sets = vec![(dir, name.to_owned(), None)];
        self.change(Change { sets, subjects: vec![ino], gone_dir: Some(ino), ..Change::default() });
        self.lose_name(ino);
        Ok(())
    }

    /// As `rename(2)`, with the order of Linux's checks.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.split(from)?;
        let (to_dir, to_name) = self.split(to)?;
        let ino = self.child(from_dir, from_name)?.ok_or(ErrorKind::NotFound)?;
        let replaced = self.child(to_dir, to_name)?;
        let above = self.above(to_dir);
        if above.contains(&ino) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if let Some(old) = replaced {
            if self.above(from_dir).contains(&old) {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            if old == ino {
                return Ok(());
            }
            self.may_replace(ino, old)?;
        }
        let sets = vec![(from_dir, from_name.to_owned(), None), (to_dir, to_name.to_owned(), Some(ino))];
        self.change(Change {
            sets,
            subjects: [ino].into_iter().chain(replaced).collect(),
            made_dir: None,
            gone_dir: replaced.filter(|&old| self.is_dir(old)),
            moved_below: if self.is_dir(ino) { above } else { Vec::new() },
        });
        self.moved(ino, to_dir);
        if let Some(old) = replaced {
            self.lose_name(old);
        }
        Ok(())
    }

    /// As `renameat2(2)` with `RENAME_NOREPLACE`.
    pub(crate) fn rename_new(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.split(from)?;
        self.child(from_dir, from_name)?.ok_or(ErrorKind::NotFound)?;
        let (to_dir, to_name) = self.split(to)?;
        match self.child(to_dir, to_name)? {
            Some(_) => Err(ErrorKind::AlreadyExists.into()),
            None => self.rename(from, to),
        }
    }

    /// As `renameat2(2)` with `RENAME_EXCHANGE`.
    pub(crate) fn exchange(&mut self, one: &Path, other: &Path) -> io::Result<()> {
        let (one_dir, one_name) = self.split(one)?;
        let (other_dir, other_name) = self.split(other)?;
        let one_ino = self.child(one_dir, one_name)?.ok_or(ErrorKind::NotFound)?;
        let other_ino = self.child(other_dir, other_name)?.ok_or(ErrorKind::NotFound)?;
        if one_ino == other_ino {
            return Ok(());
        }
        let (above_one, above_other) = (self.above(one_dir), self.above(other_dir));
        if above_other.contains(&one_ino) || above_one.contains(&other_ino) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut moved_below = Vec::new();
        if self.is_dir(one_ino) {
            moved_below.extend(above_other);
        }
        if self.is_dir(other_ino) {
            moved_below.extend(above_one);
        }
        let sets =
            vec![(one_dir, one_name.to_owned(), Some(other_ino)), (other_dir, other_name.to_owned(), Some(one_ino))];
        self.change(Change { sets, subjects: vec![one_ino, other_ino], moved_below, ..Change::default() });
        self.moved(one_ino, other_dir);
        self.moved(other_ino, one_dir);
        Ok(())
    }

    /// Notes that something has another name.
    fn moved(&mut self, ino: Ino, to_dir: Ino) {
        self.clock += 1;
        let clock = self.clock;
        let Some(node) = self.nodes.get_mut(&ino).map(Arc::make_mut) else { return };
        node.attrs.changed = clock;
        if let What::Dir { parent, .. } = &mut node.what {
            *parent = to_dir;
        }
    }

    /// Notes that a file's content has changed.
    pub(crate) fn touch(&mut self, ino: Ino) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(node) = self.nodes.get_mut(&ino) {
            let attrs = &mut Arc::make_mut(node).attrs;
            (attrs.modified, attrs.changed) = (clock, clock);
        }
    }

    pub(crate) fn attrs(&self, ino: Ino) -> io::Result<Attrs> {
        self.nodes.get(&ino).map(|node| node.attrs).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(crate) fn set_mode(&mut self, ino: Ino, mode: u16) -> io::Result<()> {
        self.clock += 1;
        let clock = self.clock;
        let node = self.nodes.get_mut(&ino).map(Arc::make_mut).ok_or(ErrorKind::NotFound)?;
        if let What::Link(_) = node.what {
            return Err(ErrorKind::InvalidInput.into());
        }
        (node.attrs.mode, node.attrs.changed) = (mode, clock);
        Ok(())
    }

    /// Makes a file's or directory's mode stable.
    pub(crate) fn sync_mode(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino)
            && node.stable_mode != node.attrs.mode
        {
            let node = Arc::make_mut(node);
            node.stable_mode = node.attrs.mode;
        }
    }

    /// The target, for a symbolic link.
    pub(crate) fn link(&self, ino: Ino) -> Option<&[u8]> {
        match self.nodes.get(&ino).map(|node| &node.what) {
            Some(What::Link(target)) => Some(target),
            _ => None,
        }
    }

    fn may_replace(&self, ino: Ino, old: Ino) -> io::Result<()> {
        match (self.is_dir(ino), self.entries(old)) {
            (false, Err(_)) => Ok(()),
            (true, Ok(entries)) if entries.is_empty() => Ok(()),
            (true, Ok(_)) => Err(ErrorKind::DirectoryNotEmpty.into()),
            (true, Err(_)) => Err(ErrorKind::NotADirectory.into()),
            (false, Ok(_)) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = self.entries(self.find(path)?)?;
        Ok(entries.iter().map(|(name, &ino)| DirEntry { name: name.clone(), is_dir: self.is_dir(ino) }).collect())
    }

    pub(crate) fn stat(&self, path: &Path) -> io::Result<Stat> {
        let ino = self.find(path)?;
        let len = self.content(ino).map_or(0, |content| content.len() as u64);
        Ok(Stat { len, is_dir: self.is_dir(ino) })
    }

    pub(crate) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.find(path)?;
        self.entries(dir)?;
        self.names.sync_dir(dir);
        self.sync_mode(dir);
        self.forget();
        Ok(())
    }

    pub(crate) fn opened(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            Arc::make_mut(node).open += 1;
        }
    }

    pub(crate) fn closed(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino).map(Arc::make_mut) else { return };
        node.open -= 1;
        let (open, id) = (node.open, node.id);
        if open == 0 && self.unnamed.contains(&ino) {
            self.free_ids.insert(id);
            self.forget();
        }
    }

    /// Records a change of names and shows it to readers.
    fn change(&mut self, change: Change) {
        for (dir, name, to) in &change.sets {
            let Some(What::Dir { entries, .. }) = self.nodes.get_mut(dir).map(|node| &mut Arc::make_mut(node).what)
            else {
                continue;
            };
            match to {
                Some(ino) => drop(entries.insert(OsString::clone(name), *ino)),
                None => drop(entries.remove(name)),
            }
        }
        self.names.push(change);
    }

    fn lose_name(&mut self, ino: Ino) {
        self.unnamed.insert(ino);
        if let Some(node) = self.nodes.get(&ino).filter(|node| node.open == 0) {
            self.free_ids.insert(node.id);
        }
    }

    /// Drops what nobody has open and no power cut can bring back.
    fn forget(&mut self) {
        if self.unnamed.is_empty() {
            return;
        }
        let mentioned = self.names.mentioned();
        let open = |ino: &Ino| self.nodes.get(ino).is_some_and(|node| node.open > 0);
        let gone: Vec<Ino> =
            self.unnamed.iter().filter(|ino| !open(ino) && !mentioned.contains(ino)).copied().collect();
        for ino in gone {
            self.unnamed.remove(&ino);
            self.nodes.remove(&ino);
        }
    }

    fn take_id(&mut self) -> u64 {
        self.free_ids.pop_first().unwrap_or_else(|| {
            self.next_id += 1;
            self.next_id - 1
        })
    }
}

/// The end of a write, if a file can be that long.
pub(crate) fn end_of(at: u64, len: u64) -> io::Result<usize> {
    let end = at.checked_add(len).filter(|&end| end <= MAX_FILE).ok_or(ErrorKind::FileTooLarge)?;
    Ok(usize::try_from(end).expect("below MAX_FILE"))
}
