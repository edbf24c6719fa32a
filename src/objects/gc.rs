//! Removing what nothing refers to, while others write.
//!
//! Whole packs are removed, never parts. A pack is first condemned: from then on nobody deduplicates against it, and once
//! every batch that had begun before is over, no new reference to it can arise. What is live in it is copied to another
//! pack and synced, and only then does it go. A gc that is killed leaves condemned packs, which the next one finishes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::pack::{Pack, index_path};
use super::writer::SEALED_LEN;
use super::{Entry, EntryKind, ObjectStore, PATIENCE, State, read_tree};
use crate::disk::{File, How, LockMode};
use crate::error::{Error, Result};
use crate::format::pack::{FrameKind, MAX_OBJECT};
use crate::ids::{ObjectId, ObjectKind};

/// A pack is rewritten when at least one part in this many of it is dead.
const DEAD_PART: u64 = 4;
/// Packs shorter than this are folded together once there are `FEW_SMALL` of them.
const SMALL: u64 = SEALED_LEN / 16;
const FEW_SMALL: usize = 8;

/// Something that must stay: an object, and for a tree all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// The state of a file, symbolic link or directory.
    Entry(Entry),
    /// A payload.
    Blob(ObjectId),
}

/// What [`ObjectStore::gc`] did, or [`ObjectStore::gc_dry_run`] would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Objects that are live.
    pub live_objects: u64,
    /// Packs removed.
    pub packs_removed: u64,
    /// Objects copied out of them.
    pub objects_moved: u64,
    /// Bytes of the packs removed.
    pub bytes_removed: u64,
    /// Bytes that were copied out of them.
    pub bytes_moved: u64,
}

/// A pack that nobody writes, kept so by its lock.
struct Candidate {
    pack: std::sync::Arc<Pack>,
    len: u64,
    _lock: Box<dyn File>,
}

impl ObjectStore {
    /// Removes packs of which much is dead, after copying what is live in them.
    ///
    /// `roots` is asked twice: to see what would be worth it, and again once no new reference to the chosen packs can
    /// arise. Each time it must name everything that any live session, fork, undo, payload or journal needs. Writers are
    /// held up only while packs are chosen and while they are removed. May be killed at any moment.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: another gc runs, or a batch stayed open for half a minute. Nothing was removed.
    /// - [`Error::NotFound`], [`Error::Corrupt`]: a live tree cannot be read, so what it needs is unknown, or a live object of a pack that
    ///   is worth removing cannot. Nothing was removed.
    pub fn gc(&self, mut roots: impl FnMut() -> Result<Vec<Root>>) -> Result<GcReport> {
        let _only_one = self.lock("gc.lock", LockMode::Exclusive, Duration::ZERO)?;
        self.remove_leftovers()?;
        let live = self.reachable(&roots()?)?;
        let candidates = self.condemn(&live)?;
        let mut report = GcReport { live_objects: live.len() as u64, ..GcReport::default() };
        if candidates.is_empty() {
            return Ok(report);
        }
        let live = self.reachable(&roots()?)?;
        report.live_objects = live.len() as u64;
        (report.objects_moved, report.bytes_moved) = self.rescue(&candidates, &live)?;
        self.sweep(&candidates, &mut report)?;
        Ok(report)
    }

    /// What [`ObjectStore::gc`] would do with these roots, if nobody wrote meanwhile. Changes nothing, but writers wait while it looks.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::gc`], apart from what only copying an object would find.
    pub fn gc_dry_run(&self, roots: &[Root]) -> Result<GcReport> {
        let live = self.reachable(roots)?;
        let mut report = GcReport { live_objects: live.len() as u64, ..GcReport::default() };
        if self.disk.stat(&self.dir.join("lock")).is_err() {
            return Ok(report); // Nobody has ever put anything.
        }
        let _nobody_writes = self.lock("lock", LockMode::Exclusive, PATIENCE)?;
        let mut state = self.state();
        let chosen = self.choose(&mut state, &live)?;
        let mut moved = HashSet::new();
        for Candidate { pack, len, .. } in &chosen {
            report.packs_removed += 1;
            report.bytes_removed += len;
            let file = super::pack::open(&*self.disk, &pack.path)?;
            for entry in pack.entries().iter().filter(|entry| live.contains(&entry.id)) {
                let stays = |other: &Pack| chosen.iter().all(|found| found.pack.uid != other.uid);
                if moved.contains(&entry.id) || ObjectStore::is_stored_in(&state, &entry.id, stays) {
                    continue;
                }
                let head = super::pack::read_head(&*file, &pack.path, pack.uid, entry.at)?;
                moved.insert(entry.id);
                report.bytes_moved += head.frame_len();
            }
        }
        report.objects_moved = moved.len() as u64;
        Ok(report)
    }

    /// Everything that the roots need.
    fn reachable(&self, roots: &[Root]) -> Result<HashSet<ObjectId>> {
        let mut live = HashSet::new();
        let mut trees = Vec::new();
        let mut reach = |root: Root, trees: &mut Vec<Entry>| match root {
            Root::Blob(id) => drop(live.insert(id)),
            Root::Entry(entry) => {
                if live.insert(entry.id) && entry.kind == EntryKind::Directory {
                    trees.push(entry);
                }
            }
        };
        for root in roots {
            reach(*root, &mut trees);
        }
        while let Some(tree) = trees.pop() {
            for named in read_tree(self, &tree)? {
                reach(Root::Entry(named.entry), &mut trees);
            }
        }
        Ok(live)
    }

    /// Chooses packs and marks them, at a moment when no batch is open.
    fn condemn(&self, live: &HashSet<ObjectId>) -> Result<Vec<Candidate>> {
        let _nobody_writes = self.lock("lock", LockMode::Exclusive, PATIENCE)?;
        let mut state = self.state();
        let chosen = self.choose(&mut state, live)?;
        for found in &chosen {
            let path = found.pack.path.with_extension("condemned");
            self.disk.open(&path, How::Create).map_err(|e| Error::io("create", &path, e))?;
        }
        self.refresh(&mut state)?;
        Ok(chosen)
    }

    /// Chooses the packs that are worth removing, of those that nobody writes. The same again for the same packs and roots.
    fn choose(&self, state: &mut State, live: &HashSet<ObjectId>) -> Result<Vec<Candidate>> {
        self.refresh(state)?;
        let mut unused = Vec::new();
        for pack in state.packs.values() {
            if pack.scanned().hole.is_some() {
                // Perhaps a head was misread.
                pack.scan_again(&*self.disk)?;
            }
            let scanned = pack.scanned();
            if scanned.hole.is_some_and(|at| at < scanned.synced) {
                // What the damage hides cannot be copied, and may be live.
                continue;
            }
            let path = &pack.path;
            let file = self.disk.open(path, How::Write).map_err(|e| Error::io("open", path, e))?;
            if file.try_lock(LockMode::Exclusive).map_err(|e| Error::io("lock", path, e))? {
                let len = file.len().map_err(|e| Error::io("stat", path, e))?;
                unused.push(Candidate { pack: pack.clone(), len, _lock: file });
            }
        }
        // Which of two copies counts as dead must not depend on the order in which packs were found.
        unused.sort_by_key(|found| found.pack.uid);
        let n_small = unused.iter().filter(|found| found.len < SMALL).count();
        let mut chosen = Vec::new();
        let mut seen = HashSet::new();
        for found in unused {
            let small = FEW_SMALL <= n_small && found.len < SMALL;
            let dead = self.dead_bytes(&found, live, &mut seen)?;
            if found.pack.condemned || small || found.len <= dead.saturating_mul(DEAD_PART) {
                chosen.push(found);
            }
        }
        Ok(chosen)
    }

    /// How much of a pack nothing needs: dead objects, objects that a pack looked at before has too, and a torn tail.
    fn dead_bytes(&self, found: &Candidate, live: &HashSet<ObjectId>, seen: &mut HashSet<ObjectId>) -> Result<u64> {
        let pack = &found.pack;
        let file = super::pack::open(&*self.disk, &pack.path)?;
        let mut dead = found.len.saturating_sub(pack.scanned().end);
        for entry in pack.entries() {
            if !live.contains(&entry.id) || !seen.insert(entry.id) {
                let head = super::pack::read_head(&*file, &pack.path, pack.uid, entry.at);
                dead += head.map_or(0, |head| head.frame_len());
            }
        }
        Ok(dead)
    }

    /// Copies the live objects of condemned packs into packs that stay, and syncs them.
    fn rescue(&self, candidates: &[Candidate], live: &HashSet<ObjectId>) -> Result<(u64, u64)> {
        let batch = self.begin()?;
        let (mut moved, mut bytes) = (0, 0);
        for Candidate { pack, .. } in candidates {
            let file = super::pack::open(&*self.disk, &pack.path)?;
            // In the order of the pack, so that bases come before what was stored against them.
            let mut entries = pack.entries();
            entries.retain(|entry| live.contains(&entry.id));
            entries.sort_unstable_by_key(|entry| entry.at);
            // For each base the first object that resembles it and was copied: the base itself may be dead.
            let mut copied = HashMap::new();
            for entry in &entries {
                let base = super::pack::read_base(&*file, &pack.path, pack.uid, entry.at).ok().flatten();
                let base = base.map(|(_, base_at)| base_at);
                let like = base.and_then(|base_at| copied.get(&base_at).copied());
                if let Some(base_at) = base {
                    copied.entry(base_at).or_insert(entry.id);
                }
                if batch.contains(&entry.id)? {
                    continue;
                }
                let head = super::pack::read_head(&*file, &pack.path, pack.uid, entry.at)?;
                let FrameKind::Object(kind) = head.kind else { continue };
                // After the promise too: that of the last batch before a crash, or before a failed sync, was never written.
                batch.put_like(kind, &self.get(kind, entry.id, MAX_OBJECT)?, like)?;
                moved += 1;
                bytes += head.frame_len();
            }
        }
        batch.sync()?;
        Ok((moved, bytes))
    }

    /// Removes condemned packs. A pack goes before its marker, so that one that is left is still condemned.
    fn sweep(&self, candidates: &[Candidate], report: &mut GcReport) -> Result<()> {
        let _nobody_writes = self.lock("lock", LockMode::Exclusive, PATIENCE)?;
        for Candidate { pack, len, .. } in candidates {
            self.disk.remove_file(&pack.path).map_err(|e| Error::io("remove", &pack.path, e))?;
            report.packs_removed += 1;
            report.bytes_removed += len;
        }
        // The packs are gone for good before their markers are, or a power cut could bring a pack back alone, which
        // would do no harm but keep its space.
        self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))?;
        for Candidate { pack, .. } in candidates {
            let _ = self.disk.remove_file(&index_path(&pack.path));
            let _ = self.disk.remove_file(&pack.path.with_extension("condemned"));
        }
        let mut state = self.state();
        self.refresh(&mut state)
    }

    /// Removes markers and indexes of packs that are gone, and temporary files of writers that were killed.
    fn remove_leftovers(&self) -> Result<()> {
        let _nobody_writes = self.lock("lock", LockMode::Exclusive, PATIENCE)?;
        let names = self.disk.list(&self.dir).map_err(|e| Error::io("list", &self.dir, e))?;
        let has = |name: &str| names.iter().any(|entry| entry.name == *name);
        for name in names.iter().filter_map(|entry| entry.name.to_str()) {
            let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
            let orphan = matches!(ending, "idx" | "condemned") && !has(&format!("{stem}.pack"));
            if orphan || ending.ends_with(".tmp") {
                let _ = self.disk.remove_file(&self.dir.join(name));
            }
        }
        Ok(())
    }
}

impl Root {
    /// The root that keeps the object that `id` names.
    #[must_use]
    pub fn tree(id: ObjectId, size: u64) -> Self {
        Self::Entry(Entry { kind: EntryKind::Directory, mode: 0o700, size, id })
    }

    /// The object.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Entry(entry) => entry.id,
            Self::Blob(id) => *id,
        }
    }

    /// What kind of object it is.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Entry(Entry { kind: EntryKind::Directory, .. }) => ObjectKind::Tree,
            Self::Entry(_) | Self::Blob(_) => ObjectKind::Blob,
        }
    }
}
