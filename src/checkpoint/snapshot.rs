//! Looking at a workspace: which files it has and what is in them, reading only what may have changed.

use foldhash::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::disk::{Disk, How};
use crate::error::{Error, Result};
use crate::format::stat::{self, Cached, Stat};
use crate::format::tree;
use crate::ids::{ObjectId, ObjectKind, Uid};
use crate::objects::{Batch, Entry, EntryKind, MAX_OBJECT};
use crate::workspace::{Found, Meta, MetaKind, RelPath, ScanOptions, Skipped, Stamp, Why, Workspace, scan};

/// A stat cache of which more files than this are out of date is written anew.
const WORTH_WRITING: usize = 64;

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
    /// The stat cache, and a name for a temporary file beside it.
    pub(super) cache: &'a Path,
    pub(super) temp: Uid,
    /// The time at which looking begins.
    pub(super) now: Stamp,
    /// Where contents are put; without it they are only hashed.
    pub(super) batch: Option<&'a Batch<'a>>,
}

/// A file that the stat cache knows.
struct Known<'c> {
    /// Whether its stat says anything: times of another run of the machine do not.
    usable: bool,
    file: Cached<'c>,
}

/// A file that was looked at.
enum Looked {
    /// Its state, and whether it can be recognised by its stat from now on.
    There(Entry, Meta, bool),
    Gone,
    Skip(Why),
}

impl Looking<'_> {
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let cache = self.read_cache().unwrap_or_default();
        let known = self.known(&cache);
        let (found, mut skipped) = scan(self.workspace, self.options, |path| known.contains_key(path.as_bytes()))?;
        let looked = self.look_at_all(&found, &known)?;
        for (found, looked) in found.iter().zip(&looked) {
            if let Looked::Skip(why) = looked {
                skipped.push(Skipped { path: found.path.clone(), why: *why });
            }
        }
        self.save_cache(&found, &looked, &known);
        let meta = self.workspace.meta(&RelPath::root()).map_err(|e| Error::io("stat", self.workspace.root(), e))?;
        let mut rest = found.iter().zip(looked).peekable();
        let children = self.children(&RelPath::root(), &mut rest)?;
        let root = self.directory(meta, children)?;
        Ok(Snapshot { root, skipped })
    }

    /// Takes what is directly or indirectly in `dir` off the front of `rest`, where every directory comes before what it
    /// holds.
    fn children<'f>(
        &self,
        dir: &RelPath,
        rest: &mut std::iter::Peekable<impl Iterator<Item = (&'f Found, Looked)>>,
    ) -> Result<Vec<(Vec<u8>, Node)>> {
        let mut children = Vec::new();
        while let Some((found, looked)) = rest.next_if(|(found, _)| found.path.is_within(dir)) {
            let name = found.path.split().map(|(_, name)| name.to_owned()).unwrap_or_default();
            if found.meta.kind == MetaKind::Directory {
                let inside = self.children(&found.path, rest)?;
                children.push((name, self.directory(found.meta, inside)?));
            } else if let Looked::There(entry, meta, _) = looked {
                children.push((name, Node { entry, meta, children: Vec::new() }));
            }
        }
        Ok(children)
    }

    fn directory(&self, meta: Meta, children: Vec<(Vec<u8>, Node)>) -> Result<Node> {
        let entry = put_tree(self.batch, meta.mode, children.iter().map(|(name, node)| (&name[..], &node.entry)))?;
        Ok(Node { entry, meta, children })
    }

    /// The state of each file; directories are left for later and count as gone.
    fn look_at_all(&self, found: &[Found], known: &HashMap<&[u8], Known<'_>>) -> Result<Vec<Looked>> {
        let mut looked = Vec::with_capacity(found.len());
        let mut unknown = Vec::new();
        for (at, found) in found.iter().enumerate() {
            let entry = known.get(found.path.as_bytes()).and_then(|known| recognise(known, &found.meta));
            match entry {
                // A content that is remembered may have been collected since.
                Some(entry) if self.batch.map_or(Ok(true), |batch| batch.contains(&entry.id))? => {
                    looked.push(Looked::There(entry, found.meta, true));
                }
                _ => {
                    if found.meta.kind != MetaKind::Directory {
                        unknown.push(at);
                    }
                    looked.push(Looked::Gone);
                }
            }
        }
        for (at, state) in self.look_in_parallel(found, &unknown)? {
            if let Some(place) = looked.get_mut(at) {
                *place = state;
            }
        }
        Ok(looked)
    }

    fn look_in_parallel(&self, found: &[Found], which: &[usize]) -> Result<Vec<(usize, Looked)>> {
        const WORTH_A_THREAD: usize = 64;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(which.len() / WORTH_A_THREAD).max(1);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(&at) = which.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Some(found) = found.get(at) {
                    done.push((at, self.look_at(&found.path, found.meta.kind)?));
                }
            }
            Ok(done)
        };
        if threads == 1 {
            return work();
        }
        thread::scope(|scope| {
            // Where no more threads are to be had, fewer do it.
            let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
            let running: Vec<_> = (1..threads).filter_map(start).collect();
            let mut all = work()?;
            for thread in running {
                all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    fn look_at(&self, path: &RelPath, kind: MetaKind) -> Result<Looked> {
        Ok(match read_state(self.workspace, self.batch, path, kind)? {
            Ok((entry, meta, settled)) => Looked::There(entry, meta, settled && !self.is_racy(&meta)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Looked::Gone,
                io::ErrorKind::FileTooLarge => Looked::Skip(Why::TooLarge),
                io::ErrorKind::InvalidInput => Looked::Skip(Why::Special),
                _ => Looked::Skip(Why::Unreadable),
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

    fn read_cache(&self) -> io::Result<Vec<u8>> {
        let file = self.disk.open(self.cache, How::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// What the stat cache says, by path. One that cannot be used costs reading the files.
    fn known<'c>(&self, cache: &'c [u8]) -> HashMap<&'c [u8], Known<'c>> {
        let root = self.workspace.root().as_os_str().as_encoded_bytes();
        let (boot, files) = stat::decode(cache, root).unwrap_or_default();
        // A power cut may leave a file's new times beside its old bytes.
        let is_of_now = boot != 0 && boot == self.workspace.boot();
        files.into_iter().map(|file| (file.path, Known { usable: is_of_now, file })).collect()
    }

    /// Writes what will be recognised next time. Not synced: the cache is derived and checksummed.
    ///
    /// Only by who stores contents: for others, having seen a file is no reason to lift the size limit.
    fn save_cache(&self, found: &[Found], looked: &[Looked], known: &HashMap<&[u8], Known<'_>>) {
        if self.batch.is_none() {
            return;
        }
        let files: Vec<_> = (found.iter().zip(looked))
            .filter_map(|(found, looked)| match looked {
                Looked::There(entry, meta, true) => Some((found.path.as_bytes(), stat_of(meta), *entry)),
                _ => None,
            })
            .collect();
        // Reading a few files again next time is cheaper than writing all that is known. A new path is always written,
        // since the size limit does not hold for a file that is known.
        let is_new = |(path, ..): &(&[u8], Stat, Entry)| !known.contains_key(*path);
        let same = |(path, stat, entry): &&(&[u8], Stat, Entry)| {
            known.get(*path).is_some_and(|known| known.usable && known.file.stat == *stat && known.file.entry == *entry)
        };
        if !files.iter().any(is_new) && known.len() <= files.iter().filter(same).count() + WORTH_WRITING {
            return;
        }
        let root = self.workspace.root().as_os_str().as_encoded_bytes();
        let bytes =
            stat::encode(root, self.workspace.boot(), files.iter().map(|(path, stat, entry)| (*path, stat, entry)));
        let temp = self.cache.with_extension(format!("{}.tmp", self.temp));
        let write = || -> io::Result<()> {
            self.disk.open(&temp, How::CreateNew)?.write_at(&bytes, 0)?;
            self.disk.rename(&temp, self.cache)
        };
        let _ = write();
    }
}

/// The state of a file or symbolic link, its content put where there is a batch; the inner error is the workspace's.
pub(super) fn read_state(
    workspace: &dyn Workspace,
    batch: Option<&Batch<'_>>,
    path: &RelPath,
    kind: MetaKind,
) -> Result<io::Result<(Entry, Meta, bool)>> {
    let put = |bytes: &[u8]| match batch {
        Some(batch) => batch.put(ObjectKind::Blob, bytes),
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

/// The directory with these names, its tree put where there is a batch.
pub(super) fn put_tree<'n>(
    batch: Option<&Batch<'_>>,
    mode: u16,
    names: impl Iterator<Item = (&'n [u8], &'n Entry)>,
) -> Result<Entry> {
    let bytes = tree::encode(names);
    let id = match batch {
        Some(batch) => batch.put(ObjectKind::Tree, &bytes)?,
        None => ObjectId::of(ObjectKind::Tree, &bytes),
    };
    Ok(Entry { kind: EntryKind::Directory, mode, size: bytes.len() as u64, id })
}

fn stat_of(meta: &Meta) -> Stat {
    let stamp = |stamp: Stamp| (stamp.seconds, stamp.nanos);
    Stat { modified: stamp(meta.modified), changed: stamp(meta.changed), inode: meta.inode, device: meta.device }
}

fn recognise(Known { usable, file }: &Known<'_>, meta: &Meta) -> Option<Entry> {
    let (kind, mode) = match meta.kind {
        MetaKind::File => (EntryKind::File, meta.mode),
        MetaKind::Symlink => (EntryKind::Symlink, 0),
        MetaKind::Directory | MetaKind::Special => return None,
    };
    let entry = Entry { kind, mode, size: meta.size, id: file.entry.id };
    (*usable && file.stat == stat_of(meta) && file.entry == entry).then_some(entry)
}
