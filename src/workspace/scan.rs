//! Finding what is in a workspace: ignore rules as in git, and a reason for everything that is left out.

use foldhash::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::Serialize;

use super::{Meta, MetaKind, RelPath, Workspace};
use crate::error::{Error, Result};
use crate::format::tree::name_is_fit;
use crate::objects::MAX_OBJECT;

/// The engine's own ignore file; where it disagrees with `.gitignore` of the same directory, it wins.
pub const IGNORE_FILE: &str = ".forklogignore";

/// Directories with such names are the engine's own and never part of a checkpoint.
pub const STAGE_PREFIX: &str = ".forklog-stage-";

/// The deepest directory that is looked into.
const MAX_DEPTH: usize = 200;

/// What a scan takes in.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// A file longer than this is left out unless the last checkpoint of this workspace had it.
    pub max_new_file: u64,
    /// Files and directories that are left out without a word, such as the store itself.
    pub excluded: Vec<RelPath>,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { max_new_file: 16 << 20, excluded: Vec::new() }
    }
}

/// Something that was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Skipped {
    /// Which.
    pub path: RelPath,
    /// Why.
    pub why: Why,
}

/// Why something is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Why {
    /// A new file over the size limit, or any file over the limit of objects.
    TooLarge,
    /// It cannot be read.
    Unreadable,
    /// A pipe, socket or device.
    Special,
    /// A directory with a repository of its own.
    NestedRepository,
    /// The directories are nested too deep.
    TooDeep,
    /// The name is too long to be kept.
    BadName,
    /// A directory holds files that are not part of checkpoints, so nothing else can take its place.
    DirectoryInUse,
    /// Something that is kept is where a directory would have to be.
    InTheWay,
    /// The paths that were asked for do not include it.
    NotChosen,
}

/// A file or directory that the rules take in.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: RelPath,
    pub(crate) meta: Meta,
}

/// Everything in the workspace that the rules take in, each directory before what it holds, and the root not named.
///
/// `had` says whether the last checkpoint had a file, which lifts the size limit.
pub(crate) fn scan(
    workspace: &dyn Workspace,
    options: &ScanOptions,
    had: impl Fn(&RelPath) -> bool + Sync,
) -> Result<(Vec<Found>, Vec<Skipped>)> {
    let root = RelPath::root();
    let names = workspace.list(&root).map_err(|e| Error::io("list", workspace.root(), e))?;
    let scan = Scan { workspace, options, had, queue: Mutex::default(), ready: Condvar::new() };
    scan.queue().open.push(Open { dir: root.clone(), names, rules: None, depth: 0 });
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..cores {
            // Where no more threads are to be had, fewer do it.
            let _ = thread::Builder::new().spawn_scoped(scope, || scan.work());
        }
        scan.work();
    });
    let mut queue = scan.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::new();
    gather(&root, &mut queue.found, &mut found);
    queue.skipped.sort();
    Ok((found, queue.skipped))
}

/// Puts every directory before what it holds.
fn gather(dir: &RelPath, by_dir: &mut HashMap<RelPath, Vec<Found>>, into: &mut Vec<Found>) {
    for found in by_dir.remove(dir).unwrap_or_default() {
        let below = (found.meta.kind == MetaKind::Directory).then(|| found.path.clone());
        into.push(found);
        if let Some(below) = below {
            gather(&below, by_dir, into);
        }
    }
}

struct Scan<'a, F> {
    workspace: &'a dyn Workspace,
    options: &'a ScanOptions,
    had: F,
    queue: Mutex<Queue>,
    ready: Condvar,
}

/// What the threads of a scan share.
#[derive(Default)]
struct Queue {
    /// Directories that have been listed and not looked through.
    open: Vec<Open>,
    /// Threads that may still add to `open`.
    busy: usize,
    found: HashMap<RelPath, Vec<Found>>,
    skipped: Vec<Skipped>,
}

struct Open {
    dir: RelPath,
    names: Names,
    rules: Option<Arc<Rules>>,
    depth: usize,
}

/// The rules of a directory and of those above it.
struct Rules {
    own: Gitignore,
    above: Option<Arc<Rules>>,
}

/// What a directory turned out to hold.
#[derive(Default)]
struct Held {
    found: Vec<Found>,
    open: Vec<Open>,
    skipped: Vec<Skipped>,
}

type Names = Vec<(Vec<u8>, std::io::Result<Meta>)>;

impl<F: Fn(&RelPath) -> bool + Sync> Scan<'_, F> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks through directories until none is left and no other thread can find another.
    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(open) = queue.open.pop() {
                queue.busy += 1;
                drop(queue);
                let dir = open.dir.clone();
                let mut held = self.directory(open);
                queue = self.queue();
                queue.busy -= 1;
                queue.found.insert(dir, held.found);
                queue.skipped.append(&mut held.skipped);
                queue.open.append(&mut held.open);
                self.ready.notify_all();
            } else if queue.busy == 0 {
                return;
            } else {
                queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn directory(&self, open: Open) -> Held {
        let Open { dir, mut names, rules, depth } = open;
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let rules = match self.rules_of(&dir, &names) {
            Some(own) => Some(Arc::new(Rules { own, above: rules })),
            None => rules,
        };
        let mut held = Held::default();
        for (name, meta) in names {
            self.entry(&dir, &name, meta, rules.as_ref(), depth, &mut held);
        }
        held
    }

    fn entry(
        &self,
        dir: &RelPath,
        name: &[u8],
        meta: std::io::Result<Meta>,
        rules: Option<&Arc<Rules>>,
        depth: usize,
        held: &mut Held,
    ) {
        if name == b".git" || (dir.is_root() && name.starts_with(STAGE_PREFIX.as_bytes())) {
            return;
        }
        let mut skip = |path, why| held.skipped.push(Skipped { path, why });
        if !name_is_fit(name) {
            return skip(dir.clone(), Why::BadName);
        }
        let path = dir.join(name);
        if self.options.excluded.contains(&path) {
            return;
        }
        let meta = match meta {
            Ok(meta) => meta,
            // It went while the directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => return skip(path, Why::Unreadable),
        };
        if is_ignored(rules, &path, meta.kind == MetaKind::Directory) {
            return;
        }
        match meta.kind {
            MetaKind::Special => skip(path, Why::Special),
            MetaKind::File if MAX_OBJECT < meta.size => skip(path, Why::TooLarge),
            MetaKind::File if self.options.max_new_file < meta.size && !(self.had)(&path) => {
                skip(path, Why::TooLarge);
            }
            MetaKind::File | MetaKind::Symlink => held.found.push(Found { path, meta }),
            MetaKind::Directory if MAX_DEPTH <= depth => skip(path, Why::TooDeep),
            MetaKind::Directory => match self.workspace.list(&path) {
                Ok(names) if names.iter().any(|(name, _)| name == b".git") => skip(path, Why::NestedRepository),
                Ok(names) => {
                    held.found.push(Found { path: path.clone(), meta });
                    held.open.push(Open { dir: path, names, rules: rules.cloned(), depth: depth + 1 });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => skip(path, Why::Unreadable),
            },
        }
    }

    fn rules_of(&self, dir: &RelPath, names: &Names) -> Option<Gitignore> {
        let has = |wanted: &str| names.iter().any(|(name, _)| name == wanted.as_bytes());
        let mut files = Vec::new();
        if dir.is_root() && has(".git") {
            files.push(".git/info/exclude");
        }
        files.extend([".gitignore", IGNORE_FILE].into_iter().filter(|name| has(name)));
        if files.is_empty() {
            return None;
        }
        let mut rules = GitignoreBuilder::new(in_rules(dir));
        for name in files {
            self.add_rules(&mut rules, dir, name);
        }
        rules.build().ok().filter(|rules| !rules.is_empty())
    }

    /// A pattern that cannot be understood is passed over, as git does.
    fn add_rules(&self, rules: &mut GitignoreBuilder, dir: &RelPath, name: &str) {
        const MAX_LEN: u64 = 1 << 20;
        let path = name.split('/').fold(dir.clone(), |path, name| path.join(name.as_bytes()));
        let Ok(content) = self.workspace.read(&path, MAX_LEN) else { return };
        let text = String::from_utf8_lossy(&content.bytes);
        for line in text.trim_start_matches('\u{feff}').lines() {
            let _ = rules.add_line(None, line);
        }
    }
}

/// The deepest directory's rules that say anything decide.
fn is_ignored(mut rules: Option<&Arc<Rules>>, path: &RelPath, is_dir: bool) -> bool {
    let place = rules.map(|_| in_rules(path)).unwrap_or_default();
    while let Some(here) = rules {
        match here.own.matched(&place, is_dir) {
            Match::None => rules = here.above.as_ref(),
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
        }
    }
    false
}

/// Rules match absolute paths; all are put below a place that does not exist.
fn in_rules(path: &RelPath) -> PathBuf {
    Path::new("/workspace").join(path.to_path())
}
