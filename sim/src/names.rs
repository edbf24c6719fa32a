//! The names in directories: which are on stable storage, and which unsynced changes a power cut may keep together.
//!
//! Every create, rename and remove is one change, kept or lost as a whole. A change that touches the same name or the
//! same file as an earlier one is never kept without it, so that no image loses a file or gives it two names; changes
//! that have nothing to do with each other are kept in any combination.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use crate::rng::Rng;

/// A file's or directory's number, never used again.
pub(crate) type Ino = u64;

/// The names of one directory.
pub(crate) type Entries = BTreeMap<OsString, Ino>;

/// Every directory with its names.
pub(crate) type Tree = BTreeMap<Ino, Arc<Entries>>;

/// The names on stable storage and the changes since.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    stable: Tree,
    /// In order.
    pending: Vec<Arc<Pending>>,
    next: u64,
    /// One past the newest change that is certainly stable: a file system with one ordered journal has kept all before.
    journalled: u64,
}

/// What one call does to names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    /// Directory, name, and what it stands for afterwards.
    pub(crate) sets: Vec<(Ino, OsString, Option<Ino>)>,
    /// What is made, moved, replaced or removed.
    pub(crate) subjects: Vec<Ino>,
    /// A directory that is made.
    pub(crate) made_dir: Option<Ino>,
    /// A directory that is removed or replaced.
    pub(crate) gone_dir: Option<Ino>,
    /// For a directory that moves: every directory above its new place.
    pub(crate) moved_below: Vec<Ino>,
}

#[derive(Clone, Debug)]
struct Pending {
    seq: u64,
    change: Change,
    /// Directories of this change that have not been synced since.
    unsynced: Vec<Ino>,
    /// Earlier changes without which this one makes no sense.
    after: Vec<u64>,
    /// Those of them that made the directories this change is in. Syncing a directory whose own name is not stable
    /// promises nothing.
    within: Vec<u64>,
}

/// Which unsynced names come through a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// All up to some moment and none after.
    Prefix(u64),
    /// Any set that makes sense.
    Subset(u64),
}

impl Names {
    pub(crate) fn new(stable: Tree) -> Self {
        Self { stable, pending: Vec::new(), next: 0, journalled: 0 }
    }

    pub(crate) fn is_stable(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn push(&mut self, change: Change) {
        let mut after = Vec::new();
        let mut within = Vec::new();
        for earlier in &self.pending {
            let makes_our_dir = earlier.change.made_dir.is_some_and(|dir| change.is_in(dir));
            if makes_our_dir {
                within.push(earlier.seq);
            }
            if makes_our_dir || change.follows(&earlier.change) {
                after.push(earlier.seq);
            }
        }
        let mut unsynced: Vec<Ino> = change.sets.iter().map(|set| set.0).collect();
        unsynced.dedup();
        self.pending.push(Arc::new(Pending { seq: self.next, change, unsynced, after, within }));
        self.next += 1;
    }

    /// Makes stable what must be once `dir` has been synced.
    pub(crate) fn sync_dir(&mut self, dir: Ino) {
        for pending in self.pending.iter_mut().filter(|p| p.unsynced.contains(&dir)) {
            Arc::make_mut(pending).unsynced.retain(|&d| d != dir);
        }
        let forced = self.forced();
        for pending in self.pending.extract_if(.., |p| forced.contains(&p.seq)) {
            pending.change.apply(&mut self.stable);
            self.journalled = self.journalled.max(pending.seq + 1);
        }
    }

    /// The changes whose directories are all synced, and what they cannot do without.
    fn forced(&self) -> BTreeSet<u64> {
        let is_pending: BTreeSet<u64> = self.pending.iter().map(|p| p.seq).collect();
        let mut forced = BTreeSet::new();
        for p in &self.pending {
            let reachable = p.within.iter().all(|seq| forced.contains(seq) || !is_pending.contains(seq));
            if p.unsynced.is_empty() && reachable {
                forced.insert(p.seq);
            }
        }
        for p in self.pending.iter().rev() {
            if forced.contains(&p.seq) {
                forced.extend(p.after.iter().filter(|seq| is_pending.contains(seq)));
            }
        }
        forced
    }

    /// The names that a power cut leaves. Directories that cannot be reached from the root may be among them.
    pub(crate) fn after(&self, fate: Fate) -> Tree {
        let chosen = self.choose(fate);
        let mut tree = self.stable.clone();
        for (pending, _) in self.pending.iter().zip(chosen).filter(|(_, chosen)| *chosen) {
            pending.change.apply(&mut tree);
        }
        tree
    }

    /// For each pending change, whether it is kept.
    fn choose(&self, fate: Fate) -> Vec<bool> {
        let n = self.pending.len();
        match fate {
            Fate::Lost => vec![false; n],
            Fate::Kept => vec![true; n],
            Fate::Prefix(seed) => {
                let least = self.pending.partition_point(|p| p.seq < self.journalled);
                let kept = least + Rng::new(seed).below(n - least + 1);
                (0..n).map(|i| i < kept).collect()
            }
            Fate::Subset(seed) => self.subset(&mut Rng::new(seed)),
        }
    }

    fn subset(&self, rng: &mut Rng) -> Vec<bool> {
        let one = rng.below(self.pending.len());
        let style = rng.below(4);
        let mut chosen: Vec<bool> = (0..self.pending.len())
            .map(|i| match style {
                0 => i == one,
                1 => i != one,
                2 => rng.chance(3, 4),
                _ => rng.chance(1, 3),
            })
            .collect();
        if style == 0 {
            self.add_needed(&mut chosen);
        } else {
            self.remove_baseless(&mut chosen);
        }
        chosen
    }

    fn add_needed(&self, chosen: &mut [bool]) {
        for i in (0..chosen.len()).rev().filter(|&i| chosen.get(i) == Some(&true)).collect::<Vec<_>>() {
            let mut todo = vec![i];
            while let Some(i) = todo.pop() {
                chosen[i] = true;
                todo.extend(self.pending[i].after.iter().filter_map(|seq| self.place_of(*seq)));
            }
        }
    }

    fn remove_baseless(&self, chosen: &mut [bool]) {
        for i in 0..chosen.len() {
            let founded = self.pending[i].after.iter().filter_map(|seq| self.place_of(*seq)).all(|j| chosen[j]);
            chosen[i] = chosen[i] && founded;
        }
    }

    fn place_of(&self, seq: u64) -> Option<usize> {
        self.pending.binary_search_by_key(&seq, |p| p.seq).ok()
    }

    /// Everything that any image may still show.
    pub(crate) fn mentioned(&self) -> BTreeSet<Ino> {
        let stable = self.stable.values().flat_map(|entries| entries.values().copied());
        let pending = self.pending.iter().flat_map(|p| p.change.subjects.iter().copied());
        stable.chain(pending).collect()
    }
}

impl Change {
    fn is_in(&self, dir: Ino) -> bool {
        self.sets.iter().any(|set| set.0 == dir)
    }

    fn follows(&self, earlier: &Change) -> bool {
        // This also orders the changes of one file: each takes it from the name that the one before gave it.
        let same_name = self.sets.iter().any(|(d, n, _)| earlier.sets.iter().any(|(dd, nn, _)| d == dd && n == nn));
        // A directory goes only once everything has gone from it.
        let empties = self.gone_dir.is_some_and(|dir| earlier.is_in(dir));
        // Without this, two directories could end up inside each other.
        let moves_above = self.moved_below.iter().any(|ino| earlier.subjects.contains(ino));
        same_name || empties || moves_above
    }

    fn apply(&self, tree: &mut Tree) {
        for (dir, name, to) in &self.sets {
            let entries = Arc::make_mut(tree.entry(*dir).or_default());
            match to {
                Some(ino) => drop(entries.insert(name.clone(), *ino)),
                None => drop(entries.remove(name)),
            }
        }
        if let Some(dir) = self.gone_dir {
            tree.remove(&dir);
        }
        if let Some(dir) = self.made_dir {
            tree.insert(dir, Arc::default());
        }
    }
}
