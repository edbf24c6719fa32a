//! Finding what is in a workspace: ignore rules as in git, and a reason for everything that is left out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::Serialize;

use super::{Meta, MetaKind, RelPath, Workspace};
use crate::error::{Error, Result};
use crate::format::tree::name_is_fit;
use crate::objects::MAX_OBJECT;
use crate::parallel;

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
    /// It could not be looked at when the state was captured that it would go back to.
    NotCaptured,
}

/// A name that the rules take in.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) name: Vec<u8>,
    pub(crate) meta: Meta,
}

/// A directory that was looked through.
pub(crate) struct Scanned<T> {
    pub(crate) path: RelPath,
    /// What the rules take in, sorted by name.
    pub(crate) found: Vec<Found>,
    /// What the caller made of it.
    pub(crate) made: T,
}

/// What the caller of a scan adds to it. Both are called by several threads.
pub(crate) trait Visit: Sync {
    /// What becomes of a directory.
    type Made: Send;

    /// Whether the last checkpoint had a file, which lifts the size limit.
    fn had(&self, dir: &RelPath, name: &[u8]) -> bool;

    /// A directory was looked through.
    fn directory(&self, path: &RelPath, found: &[Found]) -> Self::Made;
}

/// The directories that were looked through, and what was left out.
pub(crate) type Scan<T> = (Vec<Scanned<T>>, Vec<Skipped>);

/// All directories that the rules take in, in no order; the root is one of them.
pub(crate) fn scan<V: Visit>(workspace: &dyn Workspace, options: &ScanOptions, visit: &V) -> Result<Scan<V::Made>> {
    let root = RelPath::root();
    let names = workspace.list(&root).map_err(|e| Error::io("list", workspace.root(), e))?;
    let scan = Walk { workspace, options, visit, queue: Mutex::default(), ready: Condvar::new() };
    scan.queue().open.push(Open { dir: root, names, rules: None, depth: 0 });
    parallel::together(parallel::cores(), || scan.work());
    let mut queue = scan.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.skipped.sort();
    Ok((queue.scanned, queue.skipped))
}

struct Walk<'a, V: Visit> {
    workspace: &'a dyn Workspace,
    options: &'a ScanOptions,
    visit: &'a V,
    queue: Mutex<Queue<V::Made>>,
    ready: Condvar,
}

/// What the threads of a scan share.
struct Queue<T> {
    /// Directories that have been listed and not looked through.
    open: Vec<Open>,
    /// Threads that may still add to `open`.
    busy: usize,
    /// Threads that wait for one.
    waiting: usize,
    scanned: Vec<Scanned<T>>,
    skipped: Vec<Skipped>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { open: Vec::new(), busy: 0, waiting: 0, scanned: Vec::new(), skipped: Vec::new() }
    }
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

impl<V: Visit> Walk<'_, V> {
    fn queue(&self) -> MutexGuard<'_, Queue<V::Made>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks through directories until none is left and no other thread can find another.
    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(open) = queue.open.pop() {
                queue.busy += 1;
                drop(queue);
                let (scanned, mut held) = self.directory(open);
                queue = self.queue();
                queue.busy -= 1;
                queue.scanned.push(scanned);
                queue.skipped.append(&mut held.skipped);
                queue.open.append(&mut held.open);
                if 0 < queue.waiting && (1 < queue.open.len() || queue.busy == 0 && queue.open.is_empty()) {
                    self.ready.notify_all();
                }
            } else if queue.busy == 0 {
                return;
            } else {
                queue.waiting += 1;
                queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.waiting -= 1;
            }
        }
    }

    fn directory(&self, open: Open) -> (Scanned<V::Made>, Held) {
        let Open { dir, mut names, rules, depth } = open;
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let rules = match self.rules_of(&dir, &names) {
            Some(own) => Some(Arc::new(Rules { own, above: rules })),
            None => rules,
        };
        let mut held = Held::default();
        let mut looking = Looking { place: in_rules(&dir), dir: &dir, rules: rules.as_ref(), depth };
        for (name, meta) in names {
            self.entry(&mut looking, name, meta, &mut held);
        }
        let found = std::mem::take(&mut held.found);
        let made = self.visit.directory(&dir, &found);
        (Scanned { path: dir, found, made }, held)
    }

    fn entry(&self, looking: &mut Looking<'_>, name: Vec<u8>, meta: std::io::Result<Meta>, held: &mut Held) {
        let Looking { dir, rules, depth, .. } = *looking;
        if name == b".git" || (dir.is_root() && name.starts_with(STAGE_PREFIX.as_bytes())) {
            return;
        }
        let mut skip = |path, why| held.skipped.push(Skipped { path, why });
        if !name_is_fit(&name) {
            return skip(dir.clone(), Why::BadName);
        }
        if self.options.excluded.iter().any(|path| path.is_named(dir, &name)) {
            return;
        }
        let meta = match meta {
            Ok(meta) => meta,
            // It went while the directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => return skip(dir.join(&name), Why::Unreadable),
        };
        if looking.is_ignored(&name, meta.kind == MetaKind::Directory) {
            return;
        }
        match meta.kind {
            MetaKind::Special => skip(dir.join(&name), Why::Special),
            MetaKind::File if MAX_OBJECT < meta.size => skip(dir.join(&name), Why::TooLarge),
            MetaKind::File if self.options.max_new_file < meta.size && !self.visit.had(dir, &name) => {
                skip(dir.join(&name), Why::TooLarge);
            }
            MetaKind::File | MetaKind::Symlink => held.found.push(Found { name, meta }),
            MetaKind::Directory if MAX_DEPTH <= depth => skip(dir.join(&name), Why::TooDeep),
            MetaKind::Directory => {
                let path = dir.join(&name);
                match self.workspace.list(&path) {
                    Ok(names) if names.iter().any(|(name, _)| name == b".git") => skip(path, Why::NestedRepository),
                    Ok(names) => {
                        held.found.push(Found { name, meta });
                        held.open.push(Open { dir: path, names, rules: rules.cloned(), depth: depth + 1 });
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(_) => skip(path, Why::Unreadable),
                }
            }
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

/// A directory that is being looked through.
struct Looking<'a> {
    dir: &'a RelPath,
    /// Where the rules see it.
    place: PathBuf,
    rules: Option<&'a Arc<Rules>>,
    depth: usize,
}

impl Looking<'_> {
    /// The deepest directory's rules that say anything decide.
    fn is_ignored(&mut self, name: &[u8], is_dir: bool) -> bool {
        let mut rules = self.rules;
        if rules.is_none() {
            return false;
        }
        self.place.push(RelPath::root().join(name).to_path());
        let mut found = false;
        while let Some(here) = rules {
            match here.own.matched(&self.place, is_dir) {
                Match::None => rules = here.above.as_ref(),
                decided => {
                    found = decided.is_ignore();
                    break;
                }
            }
        }
        self.place.pop();
        found
    }
}

/// Rules match absolute paths; all are put below a place that does not exist.
fn in_rules(path: &RelPath) -> PathBuf {
    Path::new("/workspace").join(path.to_path())
}
