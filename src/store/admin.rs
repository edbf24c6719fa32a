//! What ends sessions, and what frees the space they had.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Store;
use super::listing::list_dir;
use crate::checkpoint::journal_roots;
use crate::disk::{How, LockMode};
use crate::error::{Error, Kind, Result};
use crate::format::control::Base;
use crate::ids::{Position, SessionKey, Uid};
use crate::index::{Archived, Filter};
use crate::log::files::each_object;
use crate::log::lineage::{Layout, Lineage, session_dir};
use crate::log::note::Note;
use crate::log::transcript::Transcript;
use crate::objects::{GcReport, Root};
use crate::session::{OpenOptions, Presence, Session, marker_uid, open_named};
use crate::time::Timestamp;
use crate::{Entry, MAX_LINEAGE};

/// What [`Store::cleanup`] deleted, or would delete.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Cleaned {
    /// The sessions.
    pub deleted: Vec<Entry>,
    /// Sessions that are old enough but open for append, and were left alone.
    pub live: Vec<SessionKey>,
}

/// What [`Store::gc`] freed, or would free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Deleted sessions of which nothing is needed any more.
    pub graves: u64,
    /// Files that were removed.
    pub files: u64,
    /// Their bytes, and those of which only a part is still needed.
    pub bytes: u64,
    /// Deleted sessions that forks still need.
    pub kept: u64,
    /// Packs of objects that were removed; their bytes are in `bytes`, less what was still needed of them and moved.
    pub packs: u64,
    /// Objects that were still needed of them, and were moved.
    pub objects_moved: u64,
}

/// What [`Store::reroot`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rerooted {
    /// Ancestors that the session has copies of now.
    pub ancestors: u64,
    /// Bytes that were copied.
    pub bytes: u64,
}

/// Files, and how many of their bytes forks need; of graves' transcripts, how many must stay.
pub(super) type Needed = HashMap<PathBuf, u64>;

impl Store {
    /// Deletes a session. Its forks go on working: what they share with it stays until they are gone too, see [`Store::gc`].
    ///
    /// Survives a power cut. Cost: one rename.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Locked`] while it is open for append; [`Error::Io`].
    pub fn delete(&self, key: &SessionKey) -> Result<()> {
        let disk = &**self.disk();
        let dir = self.layout().session(&key.project, &key.session);
        loop {
            let uid = open_named(disk, &dir, key, None, How::Read)?.header.uid;
            let marker = self.layout().marker(uid);
            let Some(alone) = Presence::alone(self.disk(), &marker)? else {
                return Err(Error::Locked { path: dir, holder: None });
            };
            // Somebody may have deleted it, and made another one, before we were alone.
            if open_named(disk, &dir, key, None, How::Read).map(|found| found.header.uid).ok() != Some(uid) {
                self.forget(uid)?;
                alone.remove()?;
                continue;
            }
            // The index may go on naming the session after a power cut: then the marker tells that it is gone.
            alone.sync()?;
            self.make_dir(&self.dir("graves"))?;
            let grave = self.layout().grave(uid);
            disk.rename(&dir, &grave).map_err(|error| Error::io("delete", &dir, error))?;
            // Of a session that was never synced, the project's name may not have been either.
            let graves = self.dir("graves");
            disk.sync_dir(&graves).map_err(|error| Error::io("sync", &graves, error))?;
            self.sync_names(&dir)?;
            self.forget(uid)?;
            return alone.remove();
        }
    }

    /// Makes the index forget a session that is gone, before its marker goes.
    pub(crate) fn forget(&self, uid: Uid) -> Result<()> {
        match self.index().remove(&[uid]) {
            // Built again, it will not find the session.
            Ok(()) | Err(Error::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes sessions that nobody has changed since `before`, archived ones among them; never one that is open for append.
    ///
    /// With `dry_run` it only says which.
    ///
    /// # Errors
    ///
    /// As [`Store::list`] and [`Store::delete`].
    pub fn cleanup(&self, before: Timestamp, filter: &Filter, dry_run: bool) -> Result<Cleaned> {
        let filter = Filter {
            updated_before: Some(filter.updated_before.map_or(before, |given| given.min(before))),
            archived: if filter.archived == Archived::Hidden { Archived::Shown } else { filter.archived },
            ..filter.clone()
        };
        let mut cleaned = Cleaned::default();
        for entry in self.listed(&filter)? {
            if self.is_live(entry.uid)? {
                cleaned.live.push(entry.key);
                continue;
            }
            if !dry_run {
                match self.delete(&entry.key) {
                    Err(Error::NotFound { .. }) => continue,
                    Err(Error::Locked { .. }) => {
                        cleaned.live.push(entry.key);
                        continue;
                    }
                    other => other?,
                }
            }
            cleaned.deleted.push(entry);
        }
        Ok(cleaned)
    }

    /// Whether somebody has the session open for append now. Of two who ask at the same moment, one may be taken for a writer.
    pub(super) fn is_live(&self, uid: Uid) -> Result<bool> {
        let marker = self.layout().marker(uid);
        match self.disk().open(&marker, How::Read) {
            Ok(file) => Ok(!file.try_lock(LockMode::Exclusive).map_err(|error| Error::io("lock", &marker, error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("open", &marker, error)),
        }
    }

    /// Frees what deleted sessions leave and no fork needs, and what a crash left half made.
    ///
    /// Forks that are made meanwhile wait while graves are swept. Then contents of files go that no checkpoint or rewind in any transcript needs, in an
    /// abandoned tail either, nor any record; checkpoints can be taken meanwhile. Killed at any step, it can be run again. Cost: the first line of every
    /// transcript; two reads of what is left of deleted sessions behind the last place that a fork needs, and of all transcripts where there are objects. With `dry_run` it only says what it would do, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when forks are being made all the time; [`Error::Corrupt`] and [`Error::Newer`] when a session's first line
    /// cannot be read, since nobody knows then what it needs: nothing was freed. The same when another line of a transcript or copy is
    /// damaged, or a tree that a checkpoint needs: by then deleted sessions were freed, and no object was. [`Error::Io`].
    pub fn gc(&self, dry_run: bool) -> Result<Collected> {
        let guard = self.guard(LockMode::Exclusive)?;
        // Listed first: of a session that is deleted from here on, nobody knows what is needed.
        let graves = list_dir(&**self.disk(), &self.dir("graves"))?;
        let needed = self.needed()?;
        let mut collected = Collected::default();
        if !dry_run && !graves.is_empty() {
            self.settle_names(&needed)?;
        }
        for grave in graves {
            self.sweep(&grave, &needed, dry_run, &mut collected)?;
        }
        if !dry_run {
            self.settle_markers()?;
            for path in list_dir(&**self.disk(), &self.dir("tmp"))? {
                self.sweep_temp(&path)?;
            }
        }
        let mut done = GcReport::default();
        let has_objects = exists(&**self.disk(), &self.dir("objects"))?;
        if dry_run && has_objects {
            done = self.objects().gc_dry_run(&self.roots(Some(&needed))?)?;
        }
        drop(guard);
        if !dry_run && has_objects {
            // No other gc cuts a grave while it is read.
            let guard = self.guard(LockMode::Shared)?;
            done = self.objects().gc(|| self.roots(None))?;
            drop(guard);
        }
        collected.packs = done.packs_removed;
        collected.objects_moved = done.objects_moved;
        collected.bytes += done.bytes_removed.saturating_sub(done.bytes_moved);
        Ok(collected)
    }

    /// Everything that a transcript or journal refers to, whatever view it is in; with `needed` as if the graves had been swept.
    fn roots(&self, needed: Option<&Needed>) -> Result<Vec<Root>> {
        let disk = &**self.disk();
        // First, since a recovery that runs meanwhile has its record take over what the journal names; whoever makes a new journal puts all that it
        // names in a batch of its own.
        let mut roots: HashSet<Root> = journal_roots(disk, &self.journals())?.into_iter().collect();
        for project in list_dir(disk, &self.dir("projects"))? {
            for session in list_dir(disk, &project)? {
                for path in transcripts(disk, &session)?.into_iter().chain(copies(disk, &session)?) {
                    self.roots_of(&path, None, &mut roots)?;
                }
            }
        }
        // Last, so that a session that is deleted meanwhile is found in one of its places.
        for grave in list_dir(disk, &self.dir("graves"))? {
            for path in transcripts(disk, &grave)?.into_iter().chain(copies(disk, &grave)?) {
                self.roots_of(&path, needed, &mut roots)?;
            }
        }
        Ok(roots.into_iter().collect())
    }

    /// What one transcript refers to; with `needed`, what it does as far as it is needed.
    fn roots_of(&self, path: &Path, needed: Option<&Needed>, roots: &mut HashSet<Root>) -> Result<()> {
        let most = match needed {
            None => u64::MAX,
            Some(needed) => match needed.get(path) {
                Some(_) if is_copy(path) => u64::MAX,
                Some(most) => *most,
                None => return Ok(()),
            },
        };
        let Some(found) = Transcript::open(&**self.disk(), path, How::Read)? else { return Ok(()) };
        each_object(&found, |start, root| {
            if start < most {
                roots.insert(root);
            }
        })
    }

    /// How much of which file is needed by the forks that are left.
    pub(super) fn needed(&self) -> Result<Needed> {
        let disk = &**self.disk();
        let mut needed = Needed::new();
        for project in list_dir(disk, &self.dir("projects"))? {
            for session in list_dir(disk, &project)? {
                for path in transcripts(disk, &session)? {
                    let Some(found) = Transcript::open(disk, &path, How::Read)? else { continue };
                    let (mut base, mut dir, mut hops) = (found.header.base, session.clone(), 0);
                    while let Some(Base { at, .. }) = base.as_ref().filter(|_| hops < MAX_LINEAGE) {
                        hops += 1;
                        let at = Position::from(*at);
                        let places = self.bases(&session, &dir, base.as_ref())?;
                        // Readers take the first that fits. Where none does, something is damaged, and nothing of it is thrown away.
                        let fitting = places.iter().position(|place| place.fits(&at).unwrap_or(false));
                        let chosen = fitting.map_or(&places[..], |fitting| &places[fitting..=fitting]);
                        for found in chosen {
                            let most = needed.entry(found.path.clone()).or_insert(0);
                            *most = at.offset.get().max(*most);
                        }
                        let next = chosen.first().cloned();
                        dir = next.as_ref().map(|next| session_dir(&next.path)).unwrap_or_default();
                        base = next.and_then(|next| next.header.base);
                    }
                }
            }
        }
        for (path, most) in &mut needed {
            if path.starts_with(self.dir("graves"))
                && !is_copy(path)
                && let Some(grave) = Transcript::open(disk, path, How::Read)?
            {
                *most = grave.cut_behind(*most)?;
            }
        }
        Ok(needed)
    }

    /// The files that may be meant by a base, in the order in which readers look for them: `session` is read, and the file that names the base
    /// was found in `dir`.
    fn bases(&self, session: &Path, dir: &Path, base: Option<&Base>) -> Result<Vec<Transcript>> {
        let Some(base) = base else { return Ok(Vec::new()) };
        let uid = Position::from(base.at).uid;
        let mut found = Vec::new();
        for path in self.layout().bases(session, true, dir, base) {
            match Transcript::open(&**self.disk(), &path, How::Read) {
                Ok(Some(transcript)) if transcript.header.uid == uid => found.push(transcript),
                Ok(_) => {}
                // Nobody can have a base in a file without a first line.
                Err(error) if matches!(error.kind(), Kind::Data) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Makes what `needed` was made from survive a power cut: deletions, and copies that stand in for what graves hold. Whoever made them may have
    /// died before they did so, and nothing that is swept may be missed after a name came back or went.
    fn settle_names(&self, needed: &Needed) -> Result<()> {
        let mut dirs: BTreeSet<_> = list_dir(&**self.disk(), &self.dir("projects"))?.into_iter().collect();
        dirs.extend([self.dir("graves"), self.dir("projects"), self.layout().root.clone()]);
        for copy in needed.keys().filter(|path| is_copy(path)) {
            dirs.extend(copy.parent().map(Path::to_owned));
            dirs.insert(session_dir(copy));
        }
        for dir in dirs {
            self.disk().sync_dir(&dir).map_err(|error| Error::io("sync", &dir, error))?;
        }
        Ok(())
    }

    /// Removes what is not needed of one grave.
    fn sweep(&self, grave: &Path, needed: &Needed, dry_run: bool, collected: &mut Collected) -> Result<()> {
        let disk = &**self.disk();
        let mut keep = Vec::new();
        for path in transcripts(disk, grave)?.into_iter().chain(copies(disk, grave)?) {
            let Some(most) = needed.get(&path) else { continue };
            let stat = disk.stat(&path).map_err(|error| Error::io("read", &path, error))?;
            // Copies are never written.
            if *most < stat.len && !is_copy(&path) {
                collected.bytes += stat.len - most;
                if !dry_run {
                    let io = |error| Error::io("cut", &path, error);
                    let file = disk.open(&path, How::Write).map_err(io)?;
                    file.set_len(*most).and_then(|()| file.sync()).map_err(io)?;
                }
            }
            keep.push(path);
        }
        if keep.is_empty() {
            collected.graves += 1;
        } else {
            collected.kept += 1;
        }
        self.remove_below(grave, &keep, dry_run, collected)?;
        Ok(())
    }

    /// Removes everything below `dir` but `keep`, and `dir` itself when nothing is left.
    fn remove_below(&self, dir: &Path, keep: &[PathBuf], dry_run: bool, collected: &mut Collected) -> Result<()> {
        let disk = &**self.disk();
        let mut left = false;
        for path in list_dir(disk, dir)? {
            let stat = disk.stat(&path).map_err(|error| Error::io("read", &path, error))?;
            if stat.is_dir {
                self.remove_below(&path, keep, dry_run, collected)?;
                left |= keep.iter().any(|kept| kept.starts_with(&path));
            } else if keep.contains(&path) {
                left = true;
            } else {
                collected.files += 1;
                collected.bytes += stat.len;
                if !dry_run {
                    disk.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
                }
            }
        }
        if !left && !dry_run {
            disk.remove_dir(dir).map_err(|error| Error::io("remove", dir, error))?;
        }
        Ok(())
    }

    /// Removes what a crash left in `tmp/`, unless it is young enough that somebody may be making it: nobody's clock is asked, so what is there
    /// is taken for old once it is found by two sweeps in a row.
    fn sweep_temp(&self, path: &Path) -> Result<()> {
        let disk = &**self.disk();
        let condemned = path.extension().is_some_and(|extension| extension == "old");
        if condemned {
            let stat = disk.stat(path).map_err(|error| Error::io("read", path, error))?;
            if stat.is_dir {
                return self.remove_below(path, &[], false, &mut Collected::default());
            }
            return disk.remove_file(path).map_err(|error| Error::io("remove", path, error));
        }
        match disk.rename(path, &path.with_extension("old")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Puts in order what dead writers left, so that lists need not look at it again.
    fn settle_markers(&self) -> Result<()> {
        for path in list_dir(&**self.disk(), &self.dir("live"))? {
            match self.settle_marker(&path) {
                // Somebody has it open; or it is damaged, or cannot be put in order now, and stays marked.
                Err(Error::Locked { .. } | Error::Full { .. }) => {}
                Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => {}
                settled => settled?,
            }
        }
        Ok(())
    }

    /// Opens the session of a dead writer and closes it. Publishing what can be read would not do: as long as it is not
    /// synced, a power cut may take it back, and only the marker would tell.
    fn settle_marker(&self, path: &Path) -> Result<()> {
        let disk = &**self.disk();
        let Some(note) = Note::read(disk, path) else { return Ok(()) };
        let Some(alone) = Presence::alone(self.disk(), path)? else { return Ok(()) };
        let key = note.key();
        let dir = self.layout().session(&key.project, &key.session);
        match open_named(disk, &dir, &key, None, How::Read) {
            Ok(found) if self.layout().marker(found.header.uid) == path => {}
            // A session that never got its name, or lost it in a power cut, or is deleted. The index may know it all the same.
            Ok(_) | Err(Error::NotFound { .. }) => {
                if let Some(uid) = path.file_name().and_then(marker_uid) {
                    self.forget(uid)?;
                }
                return alone.remove();
            }
            Err(error) => return Err(error),
        }
        drop(alone);
        // The marker stays as long as one of them is in doubt.
        for side in if note.poisoned { transcripts(disk, &dir)? } else { Vec::new() } {
            let Some(side) = Transcript::open(disk, &side, How::Read)? else { continue };
            if let Some(side) = side.header.side {
                Session::open(self, &key, Some(&side.name), OpenOptions::default())?.close()?;
            }
        }
        Session::open(self, &key, None, OpenOptions::default())?.close()
    }

    /// Copies what a fork shares with its ancestors into the fork's own directory, so that they can be deleted and freed.
    ///
    /// Survives a power cut. Killed at any step, it can be run again. Cost: the ancestors' bytes up to where the fork begins, and two
    /// reads of the rest, which may hold what a [repair](Store::repair) wrote down.
    ///
    /// # Errors
    ///
    /// As [`Store::read`], and [`Error::Full`].
    pub fn reroot(&self, key: &SessionKey) -> Result<Rerooted> {
        let guard = self.guard(LockMode::Shared)?;
        let disk = &**self.disk();
        let dir = self.layout().session(&key.project, &key.session);
        open_named(disk, &dir, key, None, How::Read)?;
        let mut done = Rerooted::default();
        for path in transcripts(disk, &dir)? {
            let Some(own) = Transcript::open(disk, &path, How::Read)? else { continue };
            let mut lineage = Lineage::new(disk, self.layout(), &own);
            for ancestor in lineage.ancestors()? {
                let copy = Layout::copy(&dir, ancestor.uid);
                let source = ancestor.open(disk)?;
                let wanted = source.cut_behind(ancestor.limit.offset.get())?;
                if disk.stat(&copy).is_ok_and(|stat| stat.len >= wanted) {
                    continue;
                }
                self.copy(&source, wanted, &copy)?;
                done.ancestors += 1;
                done.bytes += wanted;
            }
        }
        let lineage = dir.join("lineage");
        if exists(disk, &lineage)? {
            // Also for who made a copy earlier, and died before this.
            for dir in [&lineage, &dir] {
                disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
            }
        }
        drop(guard);
        Ok(done)
    }

    /// Copies the first `len` bytes of a transcript to `target`, whose name the caller syncs.
    pub(super) fn copy(&self, source: &Transcript, len: u64, target: &Path) -> Result<()> {
        let disk = &**self.disk();
        let dir = session_dir(target).join("lineage");
        self.make_dir(&dir)?;
        let temp = target.with_extension("tmp");
        let io = |error| Error::io("write", &temp, error);
        let file = disk.open(&temp, How::Create).map_err(io)?;
        file.set_len(0).map_err(io)?;
        let [mut bytes, mut again] = [vec![0; 1 << 20], vec![0; 1 << 20]];
        let mut at = 0;
        while at < len {
            let want = usize::try_from(len - at).unwrap_or(bytes.len()).min(bytes.len());
            // Twice: gc may throw the source away for the copy, and a bit that is read wrong once would stay wrong.
            for buf in [&mut bytes, &mut again] {
                if source.file.read_at(&mut buf[..want], at).map_err(|error| source.io(error))? < want {
                    return Err(source.corrupt(at, "the file ends before a fork's base"));
                }
            }
            if bytes[..want] != again[..want] {
                return Err(source.corrupt(at, "two reads of the same bytes differ"));
            }
            file.write_at(&bytes[..want], at).map_err(io)?;
            at += want as u64;
        }
        file.sync().map_err(io)?;
        disk.rename(&temp, target).map_err(|error| Error::io("write", target, error))
    }

    /// A moment that long ago.
    #[must_use]
    pub fn ago(&self, age: Duration) -> Timestamp {
        let ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.now().as_millis().saturating_sub(ms))
    }
}

/// Whether something has this name. What cannot be looked at this moment is an error: gc throws away what nobody is seen to need.
pub(super) fn exists(disk: &dyn crate::disk::Disk, path: &Path) -> Result<bool> {
    match disk.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// The paths of a session directory's own transcripts.
pub(crate) fn transcripts(disk: &dyn crate::disk::Disk, session: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let main = session.join("transcript.jsonl");
    if exists(disk, &main)? {
        paths.push(main);
    }
    let sides = list_dir(disk, &session.join("side"))?;
    paths.extend(sides.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")));
    Ok(paths)
}

/// The paths of the copies of ancestors in a session directory.
fn copies(disk: &dyn crate::disk::Disk, session: &Path) -> Result<Vec<PathBuf>> {
    let found = list_dir(disk, &session.join("lineage"))?;
    Ok(found.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "jsonl")).collect())
}

/// Whether a transcript's path is that of a copy of an ancestor.
pub(super) fn is_copy(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|dir| dir == "lineage")
}
