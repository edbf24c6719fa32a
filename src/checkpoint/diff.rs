//! Line differences: counts, unified text and JSON.

use imara_diff::{Algorithm, Diff as LineDiff, InternedInput, sources};
use serde::Serialize;

use crate::error::Result;
use crate::objects::{Entry, EntryKind};
use crate::workspace::{RelPath, Skipped};

/// Contents longer than this are compared as a whole, not line by line.
const MAX_LINES_LEN: usize = 8 << 20;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// It was not there before.
    Create,
    /// It has another content.
    Modify,
    /// It is not there after.
    Delete,
    /// Only its permission bits differ.
    Chmod,
    /// It is another kind of thing: a file became a directory or a symbolic link, or the other way round.
    Replace,
}

impl Change {
    pub(super) fn between(before: Option<&Entry>, after: Option<&Entry>) -> Self {
        match (before, after) {
            (None, _) => Self::Create,
            (_, None) => Self::Delete,
            (Some(before), Some(after)) if before.kind != after.kind => Self::Replace,
            (Some(before), Some(after)) if before.kind == EntryKind::Directory || before.id == after.id => {
                debug_assert_ne!(before.mode, after.mode, "something differs");
                Self::Chmod
            }
            _ => Self::Modify,
        }
    }
}

/// What differs between two states of a workspace. Serialises as JSON; [`Diff::to_unified`] is for people and `patch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The files, sorted by path. In JSON it is called `files_changed`, as in a [`Plan`](super::Plan).
    #[serde(rename = "files_changed")]
    pub files: Vec<FileDiff>,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// Paths of a workspace that are left out, and why; none when two checkpoints are compared.
    pub skipped: Vec<Skipped>,
}

/// What differs in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDiff {
    /// Which.
    pub path: RelPath,
    /// What became of it.
    pub change: Change,
    /// Lines added.
    pub insertions: u64,
    /// Lines removed.
    pub deletions: u64,
    /// Whether it has no lines to speak of.
    pub binary: bool,
    /// The hunks of a unified diff, bytes that are not UTF-8 replaced.
    pub hunks: String,
    #[serde(skip)]
    raw_hunks: Vec<u8>,
    #[serde(skip)]
    before: Option<Entry>,
    #[serde(skip)]
    after: Option<Entry>,
}

/// Lines added and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) insertions: u64,
    pub(super) deletions: u64,
    pub(super) binary: bool,
}

/// How the lines of two contents differ; a content that is not there is empty.
pub(super) fn count(before: &[u8], after: &[u8]) -> Count {
    if is_binary(before) || is_binary(after) {
        return Count { binary: true, ..Count::default() };
    }
    let lines = |bytes: &[u8]| {
        (memchr::memchr_iter(b'\n', bytes).count() + usize::from(bytes.last().is_some_and(|&c| c != b'\n'))) as u64
    };
    if before.is_empty() || after.is_empty() {
        return Count { insertions: lines(after), deletions: lines(before), binary: false };
    }
    let input = InternedInput::new(sources::byte_lines(before), sources::byte_lines(after));
    let diff = LineDiff::compute(Algorithm::Histogram, &input);
    Count { insertions: diff.count_additions().into(), deletions: diff.count_removals().into(), binary: false }
}

/// As git tells: a NUL near the beginning.
fn is_binary(bytes: &[u8]) -> bool {
    MAX_LINES_LEN < bytes.len() || memchr::memchr(0, bytes.get(..8000).unwrap_or(bytes)).is_some()
}

impl FileDiff {
    pub(super) fn new(
        path: RelPath,
        before: Option<Entry>,
        after: Option<Entry>,
        mut content: impl FnMut(bool, &Entry) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let mut read = |is_after: bool, entry: Option<&Entry>| match entry {
            Some(entry) if entry.kind != EntryKind::Directory => content(is_after, entry),
            _ => Ok(Vec::new()),
        };
        let (old, new) = (read(false, before.as_ref())?, read(true, after.as_ref())?);
        let count = count(&old, &new);
        let raw_hunks = if count.binary { Vec::new() } else { hunks(&old, &new) };
        Ok(Self {
            path,
            change: Change::between(before.as_ref(), after.as_ref()),
            insertions: count.insertions,
            deletions: count.deletions,
            binary: count.binary,
            hunks: String::from_utf8_lossy(&raw_hunks).into_owned(),
            raw_hunks,
            before,
            after,
        })
    }

    fn write_unified(&self, out: &mut Vec<u8>) {
        let name = |side: &str, entry: Option<&Entry>| match entry {
            Some(_) => [side.as_bytes(), b"/", self.path.as_bytes()].concat(),
            None => b"/dev/null".to_vec(),
        };
        let mode = |entry: &Entry| match entry.kind {
            EntryKind::File => 0o100_000 | u32::from(entry.mode),
            EntryKind::Symlink => 0o120_000,
            EntryKind::Directory => 0o040_000 | u32::from(entry.mode),
        };
        let mut line = |parts: &[&[u8]]| {
            parts.iter().for_each(|part| out.extend_from_slice(part));
            out.push(b'\n');
        };
        line(&[b"diff --git a/", self.path.as_bytes(), b" b/", self.path.as_bytes()]);
        match (&self.before, &self.after) {
            (Some(before), Some(after)) if mode(before) != mode(after) => {
                line(&[format!("old mode {:o}", mode(before)).as_bytes()]);
                line(&[format!("new mode {:o}", mode(after)).as_bytes()]);
            }
            (None, Some(after)) => line(&[format!("new file mode {:o}", mode(after)).as_bytes()]),
            (Some(before), None) => line(&[format!("deleted file mode {:o}", mode(before)).as_bytes()]),
            _ => {}
        }
        let (old, new) = (name("a", self.before.as_ref()), name("b", self.after.as_ref()));
        if self.binary {
            line(&[b"Binary files ", &old, b" and ", &new, b" differ"]);
        } else if !self.raw_hunks.is_empty() {
            line(&[b"--- ", &old]);
            line(&[b"+++ ", &new]);
            out.extend_from_slice(&self.raw_hunks);
        }
    }
}

impl Diff {
    pub(super) fn push(&mut self, file: FileDiff) {
        self.insertions += file.insertions;
        self.deletions += file.deletions;
        self.files.push(file);
    }

    /// The text that `diff -u` and `git diff` would write; `patch` and `git apply` read it. Bytes, since files need not
    /// be UTF-8.
    #[must_use]
    pub fn to_unified(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for file in &self.files {
            file.write_unified(&mut out);
        }
        out
    }
}

/// The hunks of a unified diff with three lines of context.
fn hunks(before: &[u8], after: &[u8]) -> Vec<u8> {
    const CONTEXT: u32 = 3;
    let input = InternedInput::new(sources::byte_lines(before), sources::byte_lines(after));
    let mut diff = LineDiff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let changed: Vec<_> = diff.hunks().collect();
    let mut out = Vec::new();
    for group in changed.chunk_by(|one, next| next.before.start - one.before.end <= 2 * CONTEXT) {
        let [first, ..] = group else { continue };
        let Some(last) = group.last() else { continue };
        let lead = first.before.start.min(CONTEXT);
        let trail = (u32::try_from(input.before.len()).unwrap_or(u32::MAX) - last.before.end).min(CONTEXT);
        let (old, new) =
            (first.before.start - lead..last.before.end + trail, first.after.start - lead..last.after.end + trail);
        let range = |range: &std::ops::Range<u32>| match range.len() {
            0 => format!("{},0", range.start),
            1 => format!("{}", range.start + 1),
            len => format!("{},{len}", range.start + 1),
        };
        out.extend_from_slice(format!("@@ -{} +{} @@\n", range(&old), range(&new)).as_bytes());
        let mut put = |sign: u8, tokens: &[imara_diff::Token], lines: std::ops::Range<u32>| {
            for token in tokens.get(lines.start as usize..lines.end as usize).unwrap_or_default() {
                let text: &[u8] = input.interner[*token];
                out.push(sign);
                out.extend_from_slice(text);
                if !text.ends_with(b"\n") {
                    out.extend_from_slice(b"\n\\ No newline at end of file\n");
                }
            }
        };
        let mut at = old.start;
        for hunk in group {
            put(b' ', &input.before, at..hunk.before.start);
            put(b'-', &input.before, hunk.before.clone());
            put(b'+', &input.after, hunk.after.clone());
            at = hunk.before.end;
        }
        put(b' ', &input.before, at..old.end);
    }
    out
}
