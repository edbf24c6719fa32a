//! Looking at a workspace: which files it has and what is in them, reading only what may have changed.

use foldhash::HashMap;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use crate::disk::{Disk, How};
use crate::error::{Error, Result};
use crate::format::stat::{self, Cached, Group, Groups, Stat};
use crate::format::tree;
use crate::ids::{ObjectId, ObjectKind, Uid};
use crate::objects::{Batch, Entry, EntryKind, MAX_OBJECT};
use crate::parallel;
use crate::workspace::{
    Found, Meta, MetaKind, RelPath, ScanOptions, Scanned, Skipped, Stamp, Visit, Why, Workspace, scan,
};

/// The part of the stat cache that holds what has changed lately may have so many bytes, or an eighth of the rest; then the
/// whole is written anew.
const RECENT_LEN: usize = 1 << 16;

/// A file or directory of the workspace as it was found.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) entry: Entry,
    pub(super) meta: Meta,
    /// Sorted by name; empty but for directories.
    pub(super) children: Vec<(Vec<u8>, Node)>,
}

/// A whole workspace as it was found.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) root: Node,
    pub(super) skipped: Vec<Skipped>,
}

/// Where to look and what to remember.
pub(super) struct Looking<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) workspace: &'a dyn Workspace,
    pub(super) options: &'a ScanOptions,
    /// The stat cache, its part for recent changes, and a name for temporary files beside them.
    pub(super) cache: &'a Path,
    pub(super) recent: &'a Path,
    pub(super) temp: Uid,
    /// The time at which looking begins.
    pub(super) now: Stamp,
    /// Where contents are put; without it they are only hashed.
    pub(super) batch: Option<&'a Batch<'a>>,
}

/// What the stat cache says.
struct Known<'c> {
    /// Whether its stats say anything: times of another run of the machine do not.
    usable: bool,
    whole: Groups<'c>,
    /// What has changed since `whole` was written.
    recent: Groups<'c>,
}

impl<'c> Known<'c> {
    fn groups(&self, dir: &RelPath) -> [Group<'c>; 2] {
        [&self.whole, &self.recent].map(|groups| groups.get(dir.as_bytes()).copied().unwrap_or_default())
    }

    /// The directory's tree when it was looked at last.
    fn tree(&self, dir: &RelPath) -> Option<Entry> {
        let [whole, recent] = self.groups(dir);
        recent.tree.or(whole.tree)
    }

    /// The directory's files, sorted by name.
    fn files(&self, dir: &RelPath) -> Vec<Cached<'c>> {
        let [whole, recent] = self.groups(dir);
        let mut files: Vec<_> = whole.files().collect();
        for file in recent.files() {
            match files.binary_search_by(|known| known.name.cmp(file.name)) {
                Ok(at) => files.splice(at..=at, [file]).for_each(drop),
                Err(at) => files.insert(at, file),
            }
        }
        files
    }
}

/// What is known of a name without reading it.
enum Seen {
    /// Its state, since its stat is as it was.
    Known(Entry),
    /// It must be read. With what it was, if that is known.
    Unread(Option<ObjectId>),
    Directory,
}

/// A name in a directory.
enum Looked {
    /// Its state.
    There(Entry, Meta),
    Directory,
    Gone,
}

/// The names of each directory.
type LookedAt = HashMap<RelPath, Vec<(Vec<u8>, Meta, Looked)>>;

/// A file that was read.
enum Read {
    /// Its state, and whether it can be recognised by its stat from now on.
    There(Entry, Meta, bool),
    Gone,
    Skip(Why),
}

/// What the next checkpoint need not find out again.
#[derive(Default)]
struct Fresh {
    /// Files that were read, by directory and name.
    files: BTreeMap<RelPath, BTreeMap<Vec<u8>, (Stat, Entry)>>,
    /// Directories that have another tree than the cache says.
    trees: BTreeMap<RelPath, Entry>,
    /// Files that were read and might change without its showing.
    unsettled: HashSet<RelPath>,
}

impl Visit for (&Looking<'_>, &Known<'_>) {
    type Made = Result<Vec<Seen>>;

    fn had(&self, dir: &RelPath, name: &[u8]) -> bool {
        self.1.files(dir).iter().any(|file| file.name == name)
    }

    /// Recognises what has not changed.
    fn directory(&self, path: &RelPath, found: &[Found]) -> Result<Vec<Seen>> {
        let (looking, known) = self;
        let files = known.files(path);
        let mut files = files.iter().peekable();
        let mut seen: Vec<Seen> = Vec::with_capacity(found.len());
        for Found { name, meta } in found {
            while files.next_if(|file| file.name < &name[..]).is_some() {}
            let file = files.next_if(|file| file.name == &name[..]);
            seen.push(match file.and_then(|file| recognise(file, meta).filter(|_| known.usable)) {
                _ if meta.kind == MetaKind::Directory => Seen::Directory,
                Some(entry) => Seen::Known(entry),
                None => Seen::Unread(file.map(|file| file.entry.id)),
            });
        }
        // A content that is remembered may have been collected since.
        if let Some(batch) = looking.batch {
            let ids = seen.iter().filter_map(|seen| match seen {
                Seen::Known(entry) => Some(&entry.id),
                Seen::Unread(_) | Seen::Directory => None,
            });
            let mut stored = batch.contains_each(ids)?.into_iter();
            for seen in &mut seen {
                if let Seen::Known(entry) = seen
                    && !stored.next().unwrap_or(false)
                {
                    *seen = Seen::Unread(Some(entry.id));
                }
            }
        }
        Ok(seen)
    }
}

impl Looking<'_> {
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let cache = [self.cache, self.recent].map(|path| self.read(path).unwrap_or_default());
        let known = self.known(&cache);
        let (scanned, mut skipped) = scan(self.workspace, self.options, &(self, &known))?;
        let mut fresh = Fresh::default();
        let mut looked = self.look_at_all(scanned, &mut fresh, &mut skipped)?;
        skipped.sort();
        let meta = self.workspace.meta(&RelPath::root()).map_err(|e| Error::io("stat", self.workspace.root(), e))?;
        let root = self.directory(RelPath::root(), meta, &mut looked, &known, &mut fresh)?;
        let snapshot = Snapshot { root, skipped };
        self.save_cache(&snapshot, &known, &cache, fresh);
        Ok(snapshot)
    }

    /// Makes the directory of what was found in it and below.
    fn directory(
        &self,
        path: RelPath,
        meta: Meta,
        looked: &mut LookedAt,
        known: &Known<'_>,
        fresh: &mut Fresh,
    ) -> Result<Node> {
        let held = looked.remove(&path).unwrap_or_default();
        let mut children = Vec::with_capacity(held.len());
        for (name, meta, found) in held {
            let node = match found {
                Looked::There(entry, meta) => Node { entry, meta, children: Vec::new() },
                Looked::Directory => self.directory(path.join(&name), meta, looked, known, fresh)?,
                Looked::Gone => continue,
            };
            children.push((name, node));
        }
        let was = known.tree(&path);
        let names = children.iter().map(|(name, node)| (&name[..], &node.entry));
        let entry = put_tree(self.batch, was.map(|was| was.id), meta.mode, names)?;
        if was != Some(entry) {
            fresh.trees.insert(path, entry);
        }
        Ok(Node { entry, meta, children })
    }

    /// The state of each name of each directory; what was not recognised is read.
    fn look_at_all(
        &self,
        scanned: Vec<Scanned<Result<Vec<Seen>>>>,
        fresh: &mut Fresh,
        skipped: &mut Vec<Skipped>,
    ) -> Result<LookedAt> {
        let mut dirs = Vec::with_capacity(scanned.len());
        // Of each its place among the directories and their names, its path, what it is and what it was.
        let mut unread = Vec::new();
        for Scanned { path, found, made } in scanned {
            let mut names = Vec::with_capacity(found.len());
            for (Found { name, meta }, seen) in found.into_iter().zip(made?) {
                let looked = match seen {
                    Seen::Known(entry) => Looked::There(entry, meta),
                    Seen::Directory => Looked::Directory,
                    Seen::Unread(like) => {
                        let place = (dirs.len(), names.len());
                        unread.push((place, path.join(&name), meta.kind, like));
                        Looked::Gone
                    }
                };
                names.push((name, meta, looked));
            }
            dirs.push((path, names));
        }
        let reads = parallel::each(&unread, |(_, path, kind, like)| self.look_at(path, *kind, *like))?;
        for (((dir, name), file, ..), read) in unread.iter().zip(reads) {
            let Some((path, names)) = dirs.get_mut(*dir) else { continue };
            let Some((name, _, looked)) = names.get_mut(*name) else { continue };
            match read {
                Read::There(entry, meta, settled) => {
                    if settled {
                        let files = fresh.files.entry(path.clone()).or_default();
                        files.insert(name.clone(), (stat_of(&meta), entry));
                    } else {
                        fresh.unsettled.insert(file.clone());
                    }
                    *looked = Looked::There(entry, meta);
                }
                Read::Gone => {}
                Read::Skip(why) => skipped.push(Skipped { path: file.clone(), why }),
            }
        }
        Ok(dirs.into_iter().collect())
    }

    fn look_at(&self, path: &RelPath, kind: MetaKind, like: Option<ObjectId>) -> Result<Read> {
        Ok(match read_state(self.workspace, self.batch, like, path, kind)? {
            Ok((entry, meta, settled)) => Read::There(entry, meta, settled && !self.is_racy(&meta)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Read::Gone,
                io::ErrorKind::FileTooLarge => Read::Skip(Why::TooLarge),
                io::ErrorKind::InvalidInput => Read::Skip(Why::Special),
                _ => Read::Skip(Why::Unreadable),
            },
        })
    }

    /// Whether the file might be changed once more without its times showing it: they have a grain, and were moved on
    /// too shortly before looking began.
    fn is_racy(&self, meta: &Meta) -> bool {
        let coarse = [meta.modified, meta.changed].iter().all(|stamp| stamp.nanos % 1_000_000 == 0);
        let grain: i128 = if coarse { 2_000_000_000 } else { 50_000_000 };
        let nanos = |stamp: Stamp| i128::from(stamp.seconds) * 1_000_000_000 + i128::from(stamp.nanos);
        nanos(self.now) <= nanos(meta.modified.max(meta.changed)) + grain
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path, How::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// What the stat cache says. One that cannot be used costs reading the files.
    fn known<'c>(&self, [whole, recent]: &'c [Vec<u8>; 2]) -> Known<'c> {
        let root = self.workspace.root().as_os_str().as_encoded_bytes();
        let (boot, whole) = stat::decode(whole, root).unwrap_or_default();
        let recent = stat::decode(recent, root).filter(|recent| recent.0 == boot).unwrap_or_default().1;
        // A power cut may leave a file's new times beside its old bytes.
        Known { usable: boot != 0 && boot == self.workspace.boot(), whole, recent }
    }

    /// Writes what will be recognised next time. Not synced: the cache is derived and checksummed.
    ///
    /// Only by who stores contents: for others, having seen a file is no reason to lift the size limit.
    fn save_cache(&self, snapshot: &Snapshot, known: &Known<'_>, cache: &[Vec<u8>; 2], fresh: Fresh) {
        if self.batch.is_none() || known.usable && fresh.files.is_empty() && fresh.trees.is_empty() {
            return;
        }
        let root = self.workspace.root().as_os_str().as_encoded_bytes();
        let mut bytes = stat::Writer::new(root, self.workspace.boot());
        let recent_len = if known.usable { RECENT_LEN.max(cache[0].len() / 8) } else { 0 };
        if cache[1].len() + fresh.len() <= recent_len {
            for (path, (tree, files)) in &fresh.after(&known.recent) {
                bytes.directory(path, tree.as_ref());
                files.iter().for_each(|(name, (stat, entry))| bytes.file(name, stat, entry));
            }
            let _ = self.replace(self.recent, &bytes.finish());
        } else {
            spell(&RelPath::root(), &snapshot.root, &fresh.unsettled, &mut bytes);
            // In this order: what has changed lately is as true of an older whole, and of a newer one.
            if self.replace(self.cache, &bytes.finish()).is_ok() {
                let _ = self.disk.remove_file(self.recent);
            }
        }
    }

    /// Not by renaming over the old one, for which some file systems write the new one out at once.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temp = path.with_extension(format!("{}.tmp", self.temp));
        self.disk.open(&temp, How::CreateNew)?.write_at(bytes, 0)?;
        let _ = self.disk.remove_file(path);
        self.disk.rename(&temp, path)
    }
}

/// A directory's tree and files as they go into the stat cache.
type Row<'f> = (Option<Entry>, BTreeMap<&'f [u8], (Stat, Entry)>);

impl Fresh {
    /// About how many bytes it needs.
    fn len(&self) -> usize {
        const ABOUT: usize = 128;
        (self.files.values().map(BTreeMap::len).sum::<usize>() + self.trees.len()) * ABOUT
    }

    /// Everything that has changed since the whole cache was written, if `recent` had until now.
    fn after<'f>(&'f self, recent: &Groups<'f>) -> BTreeMap<&'f [u8], Row<'f>> {
        let mut all: BTreeMap<&[u8], Row<'_>> = BTreeMap::new();
        for (path, group) in recent {
            let files = group.files().map(|file| (file.name, (file.stat, file.entry)));
            all.insert(path, (group.tree, files.collect()));
        }
        for (path, files) in &self.files {
            let files = files.iter().map(|(name, file)| (&name[..], *file));
            all.entry(path.as_bytes()).or_default().1.extend(files);
        }
        for (path, tree) in &self.trees {
            all.entry(path.as_bytes()).or_default().0 = Some(*tree);
        }
        all
    }
}

/// Spells the stat cache of a directory and all below it.
fn spell(path: &RelPath, node: &Node, unsettled: &HashSet<RelPath>, bytes: &mut stat::Writer) {
    bytes.directory(path.as_bytes(), Some(&node.entry));
    let is_dir = |node: &Node| node.entry.kind == EntryKind::Directory;
    for (name, child) in node.children.iter().filter(|(_, child)| !is_dir(child)) {
        if unsettled.is_empty() || !unsettled.contains(&path.join(name)) {
            bytes.file(name, &stat_of(&child.meta), &child.entry);
        }
    }
    for (name, child) in node.children.iter().filter(|(_, child)| is_dir(child)) {
        spell(&path.join(name), child, unsettled, bytes);
    }
}

/// The state of a file or symbolic link, its content put where there is a batch, as [`Batch::put_like`] puts what
/// resembles `like`; the inner error is the workspace's.
pub(super) fn read_state(
    workspace: &dyn Workspace,
    batch: Option<&Batch<'_>>,
    like: Option<ObjectId>,
    path: &RelPath,
    kind: MetaKind,
) -> Result<io::Result<(Entry, Meta, bool)>> {
    let put = |bytes: &[u8]| match batch {
        Some(batch) => batch.put_like(ObjectKind::Blob, bytes, like),
        None => Ok(ObjectId::of(ObjectKind::Blob, bytes)),
    };
    match kind {
        MetaKind::File => match workspace.read(path, MAX_OBJECT) {
            Ok(content) => {
                let size = content.bytes.len() as u64;
                let entry = Entry { kind: EntryKind::File, mode: content.meta.mode, size, id: put(&content.bytes)? };
                Ok(Ok((entry, content.meta, content.settled)))
            }
            Err(error) => Ok(Err(error)),
        },
        MetaKind::Symlink => match workspace.meta(path).and_then(|meta| Ok((meta, workspace.read_link(path)?))) {
            Ok((meta, target)) => {
                let entry = Entry { kind: EntryKind::Symlink, mode: 0, size: target.len() as u64, id: put(&target)? };
                Ok(Ok((entry, meta, true)))
            }
            Err(error) => Ok(Err(error)),
        },
        MetaKind::Directory | MetaKind::Special => Ok(Err(io::ErrorKind::InvalidInput.into())),
    }
}

/// The directory with these names, its tree put where there is a batch, as [`Batch::put_like`] puts what resembles `like`.
pub(super) fn put_tree<'n>(
    batch: Option<&Batch<'_>>,
    like: Option<ObjectId>,
    mode: u16,
    names: impl Iterator<Item = (&'n [u8], &'n Entry)>,
) -> Result<Entry> {
    let bytes = tree::encode(names);
    let id = match batch {
        Some(batch) => batch.put_like(ObjectKind::Tree, &bytes, like)?,
        None => ObjectId::of(ObjectKind::Tree, &bytes),
    };
    Ok(Entry { kind: EntryKind::Directory, mode, size: bytes.len() as u64, id })
}

fn stat_of(meta: &Meta) -> Stat {
    let stamp = |stamp: Stamp| (stamp.seconds, stamp.nanos);
    Stat { modified: stamp(meta.modified), changed: stamp(meta.changed), inode: meta.inode, device: meta.device }
}

fn recognise(file: &Cached<'_>, meta: &Meta) -> Option<Entry> {
    let (kind, mode) = match meta.kind {
        MetaKind::File => (EntryKind::File, meta.mode),
        MetaKind::Symlink => (EntryKind::Symlink, 0),
        MetaKind::Directory | MetaKind::Special => return None,
    };
    let entry = Entry { kind, mode, size: meta.size, id: file.entry.id };
    (file.stat == stat_of(meta) && file.entry == entry).then_some(entry)
}
