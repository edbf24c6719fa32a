//! What a reader sees: the extents of a view, through head moves and forks (FORMAT.md, section 5).

use std::io;
use std::iter::once_with;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::HashSet;

use super::transcript::Transcript;
use crate::MAX_LINEAGE;
use crate::disk::{Disk, How};
use crate::error::{Error, Result};
use crate::format::control::Base;
use crate::format::line::Link;
use crate::format::name;
use crate::ids::{Offset, Position, ProjectName, SessionId, SideName, Uid};

/// Where things are in a store (FORMAT.md, section 1).
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn project(&self, project: &ProjectName) -> PathBuf {
        self.root.join("projects").join(name::encode(project.as_str()))
    }

    pub(crate) fn session(&self, project: &ProjectName, session: &SessionId) -> PathBuf {
        self.project(project).join(name::encode(session.as_str()))
    }

    pub(crate) fn grave(&self, main: Uid) -> PathBuf {
        self.root.join("graves").join(main.to_string())
    }

    /// A transcript's path below its session's directory.
    pub(crate) fn transcript(side: Option<&SideName>) -> PathBuf {
        match side {
            None => PathBuf::from("transcript.jsonl"),
            Some(side) => Path::new("side").join(format!("{}.jsonl", name::encode(side.as_str()))),
        }
    }

    /// Where the file of `base` may be, in the order in which it is looked for: `session` is read, and the file that names the base was found
    /// in `dir`. Where the session is known to have no copies, none is looked for in it.
    pub(crate) fn bases(
        &self,
        session: &Path,
        has_copies: bool,
        dir: &Path,
        base: &Base,
    ) -> impl Iterator<Item = PathBuf> {
        let uid = Position::from(base.at).uid;
        // Mostly the one that it names is the one, and paths cost more than looking there.
        let copy = has_copies.then(|| Self::copy(session, uid)).into_iter();
        let nearer = (dir != session).then_some(dir).into_iter().map(move |dir| Self::copy(dir, uid));
        let named = once_with(move || self.named(base));
        let grave = once_with(move || self.grave(base.main).join(Self::transcript(base.side.as_ref())));
        copy.chain(nearer).chain(named).chain(grave)
    }

    /// Where the file of `base` was when the fork was made.
    fn named(&self, base: &Base) -> PathBuf {
        self.session(&base.project, &base.session).join(Self::transcript(base.side.as_ref()))
    }

    /// The copy of an ancestor in a session's directory.
    pub(crate) fn copy(session: &Path, uid: Uid) -> PathBuf {
        Self::copies(session).join(format!("{uid}.jsonl"))
    }

    /// Where a session has copies of its ancestors.
    fn copies(session: &Path) -> PathBuf {
        session.join("lineage")
    }
}

/// The session directory that a transcript's path is in.
pub(crate) fn session_dir(transcript: &Path) -> PathBuf {
    let parent = transcript.parent().unwrap_or(transcript);
    match parent.file_name() {
        Some(dir) if dir == "side" || dir == "lineage" => parent.parent().unwrap_or(parent).to_owned(),
        _ => parent.to_owned(),
    }
}

/// A transcript and its ancestors, nearest first, found as they are needed.
pub(crate) struct Lineage<'d> {
    disk: &'d dyn Disk,
    layout: Arc<Layout>,
    /// The file that was opened last, with its place in `chain`: a lineage of any length keeps two files open.
    open: (usize, Transcript),
    /// The first is the transcript itself.
    ///
    /// Invariant: never empty; each but the last has a base, whose file is the next.
    chain: Vec<Arc<Ancestor>>,
    /// The uids in `chain`.
    seen: HashSet<Uid>,
    /// Whether the transcript's session has copies of ancestors, once that is known.
    has_copies: Option<bool>,
}

/// One file of a lineage.
#[derive(Debug)]
pub(crate) struct Ancestor {
    pub(crate) uid: Uid,
    base: Option<Arc<Base>>,
    /// The most that is seen of the file: the end of the base that names it.
    pub(crate) limit: Position,
    /// The session directory in which it was found.
    dir: Arc<Path>,
    access: Access,
}

/// How a file of a lineage is come by.
#[derive(Debug)]
enum Access {
    /// The first one stays open.
    Held(Box<Transcript>),
    /// The others may move meanwhile.
    Sought(Sought),
}

/// What says where an ancestor may be.
#[derive(Debug)]
struct Sought {
    layout: Arc<Layout>,
    /// The session directory of the first one.
    session: Arc<Path>,
    /// The session directory of the file that names it.
    dir: Arc<Path>,
    base: Arc<Base>,
    /// The main transcript of that file's session, if it is not the first one's.
    main: Option<Uid>,
}

impl Ancestor {
    /// Opens the file, wherever it is by now: in the one order that everybody looks in, since gc cuts what stands behind the first that fits.
    ///
    /// # Errors
    ///
    /// [`Error::Lineage`] when it is gone; what reading its first line may return.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<Transcript> {
        match &self.access {
            Access::Held(held) => Ok(Transcript::clone(held)),
            Access::Sought(sought) => sought.open(disk, &self.limit, true),
        }
    }
}

impl Sought {
    /// Opens the first file that has `limit`.
    fn open(&self, disk: &dyn Disk, limit: &Position, has_copies: bool) -> Result<Transcript> {
        for path in self.places(has_copies) {
            let Some(found) = Transcript::open(disk, &path, How::Read).or_else(skip_damaged)? else { continue };
            if found.header.uid == limit.uid && found.fits(limit)? {
                return Ok(found);
            }
        }
        if !has_copies {
            // They may have been made since, and the file removed that they were made of.
            return self.open(disk, limit, true);
        }
        let path = self.layout.named(&self.base);
        Err(Error::Lineage { path, why: "the file that a fork was made from is gone or was cut" })
    }

    /// Where the file may be, in the order in which it is looked for.
    fn places(&self, has_copies: bool) -> impl Iterator<Item = PathBuf> {
        let uid = Position::from(self.base.at).uid;
        // The session of the file that names it may be deleted while this is in use, and takes its copies along.
        let taken = self.main.into_iter().map(move |main| Layout::copy(&self.layout.grave(main), uid));
        self.layout.bases(&self.session, has_copies, &self.dir, &self.base).chain(taken)
    }
}

/// A part of one file.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) source: Arc<Ancestor>,
    /// After the header or head move that the extent begins behind.
    pub(crate) from: Link,
    pub(crate) to: u64,
    /// Start of the head move that the extent begins behind; 0 for none.
    pub(crate) moved: u64,
    /// Seq of the first data record at or after `from`.
    pub(crate) first: u64,
}

/// The extents whose data records are the conversation, oldest first. Empty ones are left out, save the last.
///
/// Invariant: `extents` is never empty.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) extents: Vec<Extent>,
    pub(crate) end: Position,
}

impl View {
    /// Whether `position` is a place in the view.
    pub(crate) fn has_place(&self, position: &Position) -> bool {
        self.extent_of(position).is_some()
    }

    /// Which extent `position` is a place in.
    pub(crate) fn extent_of(&self, position: &Position) -> Option<usize> {
        self.extents.iter().position(|extent| {
            extent.source.uid == position.uid
                && extent.moved == position.moved.get()
                && extent.from.end <= position.offset.get()
                && position.offset.get() <= extent.to
        })
    }

    /// How many records this view and another begin with that are the same lines of the same files.
    ///
    /// Reads nothing: a part of a file that begins behind the same line is the same part.
    pub(crate) fn shared_with(&self, other: &Self) -> u64 {
        let end = |view: &Self, index: usize| view.extents.get(index + 1).map_or(view.end.records, |next| next.first);
        let mut shared = 0;
        for (index, (one, two)) in self.extents.iter().zip(&other.extents).enumerate() {
            if one.source.uid != two.source.uid || one.from.end != two.from.end {
                break;
            }
            shared = end(self, index).min(end(other, index));
            if one.to != two.to {
                break;
            }
        }
        shared
    }

    /// Whether the line at `start` of file `uid` is in the view.
    pub(crate) fn holds(&self, uid: Uid, start: u64) -> bool {
        let inside = |extent: &Extent| extent.source.uid == uid && extent.from.end <= start && start < extent.to;
        self.extents.iter().any(inside)
    }
}

/// A position on the way back through a lineage, and the line that holds it, which is what is wrong when the position is.
struct Held {
    position: Position,
    /// Its file and where it starts; `None` for a position that the caller has.
    line: Option<(PathBuf, u64)>,
}

impl Deref for Held {
    type Target = Position;

    fn deref(&self) -> &Position {
        &self.position
    }
}

impl Held {
    /// The error for a position in `transcript` that is not what a position must be.
    fn wrong(&self, transcript: &Transcript, why: &'static str) -> Error {
        match &self.line {
            Some((path, start)) => Error::corrupt(path, *start, why),
            None => transcript.corrupt(self.offset.get(), why),
        }
    }
}

impl<'d> Lineage<'d> {
    pub(crate) fn new(disk: &'d dyn Disk, layout: &Layout, own: &Transcript) -> Self {
        let first = Ancestor {
            uid: own.header.uid,
            base: own.header.base.clone().map(Arc::new),
            limit: Position { offset: Offset::new(u64::MAX), ..own.position(&own.start()) },
            dir: session_dir(&own.path).into(),
            access: Access::Held(Box::new(own.clone())),
        };
        let seen = HashSet::from_iter([first.uid]);
        let (layout, chain) = (Arc::new(layout.clone()), vec![Arc::new(first)]);
        Self { disk, layout, open: (0, own.clone()), chain, seen, has_copies: None }
    }

    /// The view at `end`, which must be a position in this transcript or one of its ancestors.
    ///
    /// Cost: one hop, of a few reads, for every head move and fork on the way.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], [`Error::Lineage`], [`Error::Newer`], [`Error::Io`].
    pub(crate) fn view(&mut self, end: Position) -> Result<View> {
        let mut extents = Vec::new();
        let (mut level, mut at) = (0, Held { position: end, line: None });
        loop {
            level = self.find(level, &at)?;
            let source = self.chain[level].clone();
            let transcript = &self.open.1;
            let (from, first, line, next) = if at.moved.get() == 0 {
                let base = transcript.header.base.as_ref().map(|base| Position::from(base.at));
                (transcript.first, base.map_or(0, |base| base.records), 0, base)
            } else {
                let Some(found) = transcript.find_move(at.moved.get())? else {
                    return Err(at.wrong(transcript, "it gives a position with a head move where none is"));
                };
                (found.link, found.to.records, found.start, Some(found.to))
            };
            if at.offset.get() < from.end {
                return Err(at.wrong(transcript, "it gives a position that lies before its own head move"));
            }
            if from.end < at.offset.get() || extents.is_empty() {
                let (to, moved) = (at.offset.get(), at.moved.get());
                extents.push(Extent { source: source.clone(), from, to, moved, first });
            }
            let Some(position) = next else { break };
            let path = transcript.path.clone();
            if line == 0 && self.extend(level)? {
                level += 1;
            }
            at = Held { position, line: Some((path, line)) };
        }
        extents.reverse();
        Ok(View { extents, end })
    }

    /// Opens the file at or behind `level` that `at` lies in, and checks `at` in it.
    fn find(&mut self, mut level: usize, at: &Held) -> Result<usize> {
        while self.chain[level].uid != at.uid {
            if !self.extend(level)? {
                return Err(at.wrong(&self.open.1, "it gives a position in a file that is no ancestor"));
            }
            level += 1;
        }
        if self.open.0 != level {
            self.open = (level, self.chain[level].open(self.disk)?);
        }
        let transcript = &self.open.1;
        // An ancestor was found by its limit, which is where most positions in it lie.
        let limit = &self.chain[level].limit;
        if at.position != *limit && (at.offset > limit.offset || !transcript.fits(at)?) {
            return Err(at.wrong(transcript, "it gives a position in a file that was cut and written again since"));
        }
        Ok(level)
    }

    /// Makes sure that the chain goes on behind `level`, if that has a base.
    fn extend(&mut self, level: usize) -> Result<bool> {
        if level + 1 < self.chain.len() {
            return Ok(true);
        }
        let child = self.chain[level].clone();
        let lineage = |why| Err(Error::Lineage { path: child.dir.to_path_buf(), why });
        let Some(base) = &child.base else { return Ok(false) };
        let limit = Position::from(base.at);
        if level >= MAX_LINEAGE {
            return lineage("it is too long");
        }
        if self.seen.contains(&limit.uid) {
            return lineage("it comes back to itself");
        }
        let sought = Sought {
            layout: self.layout.clone(),
            session: self.chain[0].dir.clone(),
            dir: child.dir.clone(),
            base: base.clone(),
            main: match &child.access {
                Access::Held(_) => None,
                Access::Sought(sought) => Some(sought.base.main),
            },
        };
        let has_copies = self.has_copies();
        let found = sought.open(self.disk, &limit, has_copies)?;
        let next = Ancestor {
            uid: limit.uid,
            base: found.header.base.clone().map(Arc::new),
            limit,
            dir: session_dir(&found.path).into(),
            access: Access::Sought(sought),
        };
        self.open = (level + 1, found);
        self.seen.insert(next.uid);
        self.chain.push(Arc::new(next));
        Ok(true)
    }

    /// Whether the transcript's session has copies of ancestors: most have none, and need not be asked for each ancestor.
    fn has_copies(&mut self) -> bool {
        let (disk, dir) = (self.disk, &self.chain[0].dir);
        let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        *self.has_copies.get_or_insert_with(|| !disk.stat(&Layout::copies(dir)).is_err_and(missing))
    }

    /// Every ancestor, nearest first, the transcript itself left out.
    ///
    /// # Errors
    ///
    /// As [`Lineage::view`].
    pub(crate) fn ancestors(&mut self) -> Result<&[Arc<Ancestor>]> {
        let mut level = 0;
        while self.extend(level)? {
            level += 1;
        }
        Ok(&self.chain[1..])
    }
}

/// A damaged file in one place does not hide a good one in the next.
fn skip_damaged(error: Error) -> Result<Option<Transcript>> {
    match error {
        Error::Corrupt { .. } => Ok(None),
        other => Err(other),
    }
}
