//! What a rewind would do to each file. Changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::Serialize;

use super::compare::{Lookup, Side, alike, compare, find_live};
use super::diff::{Change, count};
use super::snapshot::{Node, Snapshot};
use super::{Files, State, is_absent, read_blob};
use crate::error::{Error, Result};
use crate::format::journal::Step;
use crate::objects::{Entry, EntryKind};
use crate::workspace::{MetaKind, RelPath, Skipped, Why};

/// How to plan.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Only paths that match one of these patterns, written as in `.gitignore`; all when there is none.
    pub only: Vec<String>,
    /// Change conflicting files too. What was there can be brought back by undoing.
    pub force: bool,
    /// Count inserted and deleted lines, which reads both versions of each file.
    pub count_lines: bool,
}

/// What a rewind would do. Serialises as the JSON that `rewind --dry-run` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Whether applying would leave no conflict behind.
    pub can_rewind: bool,
    /// What would become of each path that would change, sorted by path.
    pub files_changed: Vec<FileChange>,
    /// Lines that would be added.
    pub insertions: u64,
    /// Lines that would be removed.
    pub deletions: u64,
    /// Paths that are kept as they are, since their content is not what this session last saw. Empty when forced.
    pub conflicts: Vec<Conflict>,
    /// Paths that are left out, and why.
    pub skipped: Vec<Skipped>,
    #[serde(skip)]
    pub(super) steps: Vec<Step>,
    /// What the workspace was when this was planned; only if the target is a whole tree.
    #[serde(skip)]
    pub(super) snapshot: Option<Arc<Snapshot>>,
    #[serde(skip)]
    pub(super) seen: State,
}

/// A path that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Which.
    pub path: RelPath,
    /// What would become of it.
    pub change: Change,
    /// Lines that would be added.
    pub insertions: u64,
    /// Lines that would be removed.
    pub deletions: u64,
}

/// A path whose content this session never saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Conflict {
    /// Which.
    pub path: RelPath,
    /// What the rewind would do to it if it were forced.
    pub change: Change,
}

/// What there is to decide about.
struct Wanted {
    now: Option<Entry>,
    target: Option<Entry>,
}

impl Files {
    /// Plans how the workspace gets from what it is now to `target`. `seen` is what this session last knew its files to
    /// be: its last checkpoint with the pre-images and rewinds since.
    ///
    /// Changes nothing. A path that is not there now is never a conflict, since nothing would be lost. Files that do not
    /// differ are not in the plan.
    ///
    /// # Errors
    ///
    /// - [`Error::BadArgument`]: a pattern of [`PlanOptions::only`] cannot be understood.
    /// - [`Error::Stale`]: an earlier rewind has not ended; call [`Files::recover`].
    /// - [`Error::NotFound`], [`Error::Corrupt`]: an object of the target cannot be read.
    /// - [`Error::Io`]: the workspace cannot be read.
    pub fn plan(&self, target: &State, seen: &State, options: &PlanOptions) -> Result<Plan> {
        self.nothing_pending()?;
        let chosen = patterns(&options.only)?;
        let snapshot = match target.tree {
            Some(_) => Some(self.look(None)?),
            None => None,
        };
        let mut planning = Planning {
            files: self,
            lookup: Lookup::new(&self.objects),
            snapshot: snapshot.as_ref(),
            seen,
            force: options.force,
            steps: BTreeMap::new(),
            conflicts: Vec::new(),
            skipped: snapshot.as_ref().map(|snapshot| snapshot.skipped.clone()).unwrap_or_default(),
        };
        let mut wanted = planning.wanted(target)?;
        choose(&mut wanted, chosen.as_ref());
        for (path, wanted) in wanted {
            planning.decide(path, wanted)?;
        }
        planning.keep_what_is_in_the_way();
        let mut plan = planning.finish(options)?;
        plan.snapshot = snapshot.map(Arc::new);
        Ok(plan)
    }
}

struct Planning<'a> {
    files: &'a Files,
    lookup: Lookup<'a>,
    snapshot: Option<&'a Snapshot>,
    seen: &'a State,
    force: bool,
    steps: BTreeMap<RelPath, Wanted>,
    conflicts: Vec<Conflict>,
    skipped: Vec<Skipped>,
}

impl Planning<'_> {
    /// Every path that is not what the target says.
    fn wanted(&mut self, target: &State) -> Result<BTreeMap<RelPath, Wanted>> {
        let mut wanted = BTreeMap::new();
        if let (Some(snapshot), Some(tree)) = (self.snapshot, target.tree) {
            let (one, other) = (Side::Live(&snapshot.root), Side::Stored(tree));
            compare(&self.files.objects, one, other, &mut |path, found| {
                wanted.insert(path, Wanted { now: found.one, target: found.other });
            })?;
        }
        for (path, entry) in target.paths.iter().filter(|(path, _)| !path.is_root()) {
            let now = self.snapshot.and_then(|s| find_live(&s.root, path)).map(|node| node.entry);
            wanted.insert(path.clone(), Wanted { now, target: *entry });
        }
        let is_unknown = |path: &RelPath| {
            !target.paths.contains_key(path) && target.unknown.iter().any(|unknown| path.is_within(unknown))
        };
        let mut left = Vec::new();
        wanted.retain(|path, wanted| {
            let unknown = is_unknown(path);
            left.extend((unknown && wanted.now.is_some()).then(|| path.clone()));
            !unknown
        });
        self.skipped.extend(left.into_iter().map(|path| Skipped { path, why: Why::NotCaptured }));
        // What the rules of scanning leave out may be there all the same.
        let hidden: Vec<RelPath> =
            (wanted.iter().filter(|(_, w)| w.now.is_none())).map(|(path, _)| path.clone()).collect();
        for path in hidden {
            match self.probe(&path)? {
                Ok(now) => drop(wanted.entry(path).and_modify(|wanted| wanted.now = now)),
                Err(why) => {
                    wanted.remove(&path);
                    self.skipped.push(Skipped { path, why });
                }
            }
        }
        wanted.retain(|_, wanted| !alike(wanted.now.as_ref(), wanted.target.as_ref()));
        Ok(wanted)
    }

    /// What is at a path that the scan did not find, or why it cannot be touched.
    fn probe(&self, path: &RelPath) -> Result<Result<Option<Entry>, Why>> {
        match self.files.workspace.meta(path) {
            Err(error) if is_absent(&error) => return Ok(Ok(None)),
            Err(_) => return Ok(Err(Why::Unreadable)),
            Ok(meta) if meta.kind == MetaKind::Special => return Ok(Err(Why::Special)),
            Ok(_) => {}
        }
        match self.files.observe(None, path) {
            Ok(found) => Ok(Ok(found.map(|(entry, _)| entry))),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::FileTooLarge => {
                Ok(Err(Why::TooLarge))
            }
            Err(Error::Io { .. }) => Ok(Err(Why::Unreadable)),
            Err(error) => Err(error),
        }
    }

    fn decide(&mut self, path: RelPath, wanted: Wanted) -> Result<()> {
        let is_dir = |entry: Option<Entry>| entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        if is_dir(wanted.now) && !is_dir(wanted.target) && wanted.target.is_some() && !self.can_clear(&path) {
            self.skipped.push(Skipped { path, why: Why::DirectoryInUse });
        } else if self.force || wanted.now.is_none() || self.has_seen(&path, wanted.now.as_ref())? {
            self.steps.insert(path, wanted);
        } else {
            let change = Change::between(wanted.now.as_ref(), wanted.target.as_ref());
            self.conflicts.push(Conflict { path, change });
        }
        Ok(())
    }

    /// Whether what is there now is what this session knew.
    fn has_seen(&mut self, path: &RelPath, now: Option<&Entry>) -> Result<bool> {
        if let Some(known) = self.seen.paths.get(path) {
            return Ok(alike(known.as_ref(), now));
        }
        match &self.seen.tree {
            Some(tree) => Ok(alike(self.lookup.find(tree, path)?.as_ref(), now)),
            None => Ok(false),
        }
    }

    /// Whether everything in a directory is known to the scan, so that it will be empty once its files are gone.
    fn can_clear(&self, path: &RelPath) -> bool {
        let node = self.snapshot.and_then(|snapshot| find_live(&snapshot.root, path));
        node.is_some_and(|node| self.is_wholly_known(path, node))
    }

    fn is_wholly_known(&self, path: &RelPath, node: &Node) -> bool {
        let Ok(names) = self.files.workspace.list(path) else { return false };
        names.len() == node.children.len()
            && (node.children.iter())
                .filter(|(_, child)| child.entry.kind == EntryKind::Directory)
                .all(|(name, child)| self.is_wholly_known(&path.join(name), child))
    }

    /// Takes out the steps that what is kept stands in the way of.
    fn keep_what_is_in_the_way(&mut self) {
        let kept: Vec<RelPath> = (self.conflicts.iter().map(|conflict| &conflict.path))
            .chain(self.skipped.iter().map(|skipped| &skipped.path))
            .cloned()
            .collect();
        let is_dir = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        let mut blocked = Vec::new();
        self.steps.retain(|path, wanted| {
            let above = |kept: &&RelPath| path.is_within(kept) && *kept != path;
            let below = |kept: &&RelPath| kept.is_within(path) && *kept != path;
            if wanted.target.is_some() && kept.iter().any(|kept| above(&kept)) {
                blocked.push(Skipped { path: path.clone(), why: Why::InTheWay });
                return false;
            }
            if is_dir(&wanted.now) && !is_dir(&wanted.target) && kept.iter().any(|kept| below(&kept)) {
                if wanted.target.is_some() {
                    blocked.push(Skipped { path: path.clone(), why: Why::DirectoryInUse });
                }
                return false;
            }
            true
        });
        self.skipped.append(&mut blocked);
    }

    fn finish(mut self, options: &PlanOptions) -> Result<Plan> {
        let mut files_changed = Vec::new();
        for (path, wanted) in &self.steps {
            let change = Change::between(wanted.now.as_ref(), wanted.target.as_ref());
            let counted = if options.count_lines && change != Change::Chmod {
                let old = wanted.now.map_or(Ok(Vec::new()), |entry| self.files.read_live(path, &entry))?;
                let new = wanted.target.filter(|entry| entry.kind != EntryKind::Directory);
                count(&old, &new.map_or(Ok(Vec::new()), |entry| read_blob(&self.files.objects, &entry))?)
            } else {
                super::diff::Count::default()
            };
            let (insertions, deletions) = (counted.insertions, counted.deletions);
            files_changed.push(FileChange { path: path.clone(), change, insertions, deletions });
        }
        self.conflicts.sort();
        self.skipped.sort();
        self.skipped.dedup();
        Ok(Plan {
            can_rewind: self.conflicts.is_empty(),
            insertions: files_changed.iter().map(|file| file.insertions).sum(),
            deletions: files_changed.iter().map(|file| file.deletions).sum(),
            files_changed,
            conflicts: self.conflicts,
            skipped: self.skipped,
            steps: (self.steps.into_iter())
                .map(|(path, wanted)| Step {
                    path: path.as_bytes().to_owned(),
                    before: wanted.now,
                    after: wanted.target,
                })
                .collect(),
            snapshot: None,
            seen: self.seen.clone(),
        })
    }
}

fn patterns(only: &[String]) -> Result<Option<Gitignore>> {
    if only.is_empty() {
        return Ok(None);
    }
    let bad = |error: ignore::Error| Error::BadArgument { why: error.to_string() };
    let mut patterns = GitignoreBuilder::new("/workspace");
    for pattern in only {
        patterns.add_line(None, pattern).map_err(bad)?;
    }
    patterns.build().map(Some).map_err(bad)
}

/// Leaves only what was chosen, and the directories that it needs.
fn choose(wanted: &mut BTreeMap<RelPath, Wanted>, chosen: Option<&Gitignore>) {
    let Some(chosen) = chosen else { return };
    let is_dir = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
    let mut needed: Vec<RelPath> = Vec::new();
    // Backwards, so that what a directory holds comes before the directory.
    let paths: Vec<RelPath> = wanted.keys().rev().cloned().collect();
    for path in paths {
        let Some(found) = wanted.get(&path) else { continue };
        let as_dir = is_dir(&found.target) || is_dir(&found.now);
        let place = Path::new("/workspace").join(path.to_path());
        let is_chosen = chosen.matched_path_or_any_parents(place, as_dir).is_ignore();
        let is_needed = is_dir(&found.target) && needed.iter().any(|needed| needed.is_within(&path));
        if !is_chosen && !is_needed {
            wanted.remove(&path);
        } else if found.target.is_some() {
            needed.push(path);
        }
    }
}
