//! Finding what is in a workspace: ignore rules as in git, and a reason for everything that is left out.

use std::path::{Path, PathBuf};

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
    had: impl Fn(&RelPath) -> bool,
) -> Result<(Vec<Found>, Vec<Skipped>)> {
    let mut scan = Scan { workspace, options, had, found: Vec::new(), skipped: Vec::new(), rules: Vec::new() };
    let root = RelPath::root();
    let names = workspace.list(&root).map_err(|e| Error::io("list", workspace.root(), e))?;
    scan.directory(&root, names, 0);
    scan.skipped.sort();
    Ok((scan.found, scan.skipped))
}

struct Scan<'a, F> {
    workspace: &'a dyn Workspace,
    options: &'a ScanOptions,
    had: F,
    found: Vec<Found>,
    skipped: Vec<Skipped>,
    /// The rules of the directories above, the root's first.
    rules: Vec<Gitignore>,
}

type Names = Vec<(Vec<u8>, std::io::Result<Meta>)>;

impl<F: Fn(&RelPath) -> bool> Scan<'_, F> {
    fn skip(&mut self, path: RelPath, why: Why) {
        self.skipped.push(Skipped { path, why });
    }

    fn directory(&mut self, dir: &RelPath, mut names: Names, depth: usize) {
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let own_rules = self.rules_of(dir, &names);
        let n_rules = self.rules.len();
        self.rules.extend(own_rules);
        for (name, meta) in names {
            self.entry(dir, &name, meta, depth);
        }
        self.rules.truncate(n_rules);
    }

    fn entry(&mut self, dir: &RelPath, name: &[u8], meta: std::io::Result<Meta>, depth: usize) {
        if name == b".git" || (dir.is_root() && name.starts_with(STAGE_PREFIX.as_bytes())) {
            return;
        }
        if !name_is_fit(name) {
            return self.skip(dir.clone(), Why::BadName);
        }
        let path = dir.join(name);
        if self.options.excluded.contains(&path) {
            return;
        }
        let meta = match meta {
            Ok(meta) => meta,
            // It went while the directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => return self.skip(path, Why::Unreadable),
        };
        if self.is_ignored(&path, meta.kind == MetaKind::Directory) {
            return;
        }
        match meta.kind {
            MetaKind::Special => self.skip(path, Why::Special),
            MetaKind::File if MAX_OBJECT < meta.size => self.skip(path, Why::TooLarge),
            MetaKind::File if self.options.max_new_file < meta.size && !(self.had)(&path) => {
                self.skip(path, Why::TooLarge);
            }
            MetaKind::File | MetaKind::Symlink => self.found.push(Found { path, meta }),
            MetaKind::Directory if MAX_DEPTH <= depth => self.skip(path, Why::TooDeep),
            MetaKind::Directory => match self.workspace.list(&path) {
                Ok(names) if names.iter().any(|(name, _)| name == b".git") => self.skip(path, Why::NestedRepository),
                Ok(names) => {
                    self.found.push(Found { path: path.clone(), meta });
                    self.directory(&path, names, depth + 1);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => self.skip(path, Why::Unreadable),
            },
        }
    }

    /// The deepest directory's rules that say anything decide.
    fn is_ignored(&self, path: &RelPath, is_dir: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let path = in_rules(path);
        for rules in self.rules.iter().rev() {
            match rules.matched(&path, is_dir) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }

    fn rules_of(&self, dir: &RelPath, names: &Names) -> Option<Gitignore> {
        let has = |wanted: &str| names.iter().any(|(name, _)| name == wanted.as_bytes());
        let mut files = Vec::new();
        if dir.is_root() && has(".git") {
            files.push(".git/info/exclude");
        }
        files.extend([".gitignore", IGNORE_FILE].into_iter().filter(|name| has(name)));
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

/// Rules match absolute paths; all are put below a place that does not exist.
fn in_rules(path: &RelPath) -> PathBuf {
    Path::new("/workspace").join(path.to_path())
}
