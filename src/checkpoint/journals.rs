//! The journals of rewinds that have not ended (FORMAT.md, section 16), on the disk.

use std::io;
use std::path::{Path, PathBuf};

use super::Files;
use crate::disk::{Disk, File, How};
use crate::error::{Error, Result};
use crate::format::journal::{self, Journal};
use crate::format::pack::Bad;
use crate::ids::Uid;
use crate::objects::{EntryKind, Root};

/// A journal that waits for its workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The workspace, where it was.
    pub root: Vec<u8>,
    /// The rewind.
    pub uid: Uid,
    /// What the caller gave to [`Files::apply`].
    pub payload: Vec<u8>,
}

impl Pending {
    pub(super) fn of(journal: &Journal) -> Self {
        Self { root: journal.root.clone(), uid: journal.uid, payload: journal.payload.clone() }
    }
}

impl Files {
    /// Makes sure that a journal which is there stays, and that one which is not does: whoever wrote or removed it may have failed, or died, before
    /// that was stable. One that went in a power cut would leave what was carried on half done; one that came back would undo what was
    /// done since.
    pub(super) fn settle_journal(&self) -> Result<()> {
        match self.disk.sync_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("sync", &self.dir, error)),
            _ => Ok(()),
        }
    }

    /// Writes the place in the journal that says whether the files are as they shall be.
    pub(super) fn mark(
        &self,
        journal: &Journal,
        mark: &[u8],
        then: impl FnOnce(&dyn File) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.journal_path();
        let written = || -> io::Result<()> {
            let file = self.disk.open(&path, How::Write)?;
            file.write_at(mark, journal::encode(journal).len() as u64)?;
            then(&*file)
        };
        written().map_err(|e| Error::io("write", &path, e))
    }

    pub(super) fn write_journal(&self, journal: &Journal) -> Result<()> {
        self.replace_journal(journal).map_err(|error| match self.remove_journal() {
            Ok(()) => error,
            // It never had its name.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => error,
            // It may be there, or come back: rolling forward needs nothing else.
            Err(_) => Error::Poisoned { path: self.journal_path() },
        })
    }

    pub(super) fn replace_journal(&self, journal: &Journal) -> Result<()> {
        let path = self.journal_path();
        let temp = self.dir.join(format!("journal.{}.tmp", journal.uid));
        // One that a killed process left.
        let _ = self.disk.remove_file(&temp);
        let written = || -> io::Result<()> {
            let file = self.disk.open(&temp, How::CreateNew)?;
            let mut bytes = journal::encode(journal);
            // A place for the mark, which a full disk then cannot refuse.
            bytes.extend_from_slice(&[0; journal::applied_mark().len()]);
            file.write_at(&bytes, 0)?;
            file.sync()?;
            self.disk.rename(&temp, &path)?;
            // The names of the directories above were synced before the lock, which is held, was made.
            self.disk.sync_dir(&self.dir)
        };
        written().map_err(|error| {
            let _ = self.disk.remove_file(&temp);
            Error::io("write", &path, error)
        })
    }

    /// The journal must be gone for good before the user goes on: one that came back would undo what they did since.
    pub(super) fn remove_journal(&self) -> Result<()> {
        let path = self.journal_path();
        self.disk.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))
    }
}

pub(super) fn read_journal(disk: &dyn Disk, path: &Path) -> Result<Option<(Journal, bool)>> {
    let file = match disk.open(path, How::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    };
    let bytes = read().map_err(|e| Error::io("read", path, e))?;
    journal::decode(&bytes).map(Some).map_err(|bad| match bad {
        Bad::Torn => Error::corrupt(path, 0, "a journal is cut short"),
        Bad::Corrupt(why) => Error::corrupt(path, 0, why),
        Bad::Newer => {
            Error::Newer { path: path.to_owned(), at: crate::Offset::new(0), what: "this journal".to_owned() }
        }
    })
}

pub(super) fn all_journals(disk: &dyn Disk, journals: &Path) -> Result<Vec<(PathBuf, Journal)>> {
    let names = match disk.list(journals) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", journals, error)),
    };
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| name.is_dir) {
        let path = journals.join(name.name).join("journal");
        if let Some((journal, _)) = read_journal(disk, &path)? {
            found.push((path, journal));
        }
    }
    Ok(found)
}

/// The rewinds that have not ended, of all workspaces. `journals` is `STORE/journals`.
///
/// # Errors
///
/// [`Error::Io`], [`Error::Corrupt`], [`Error::Newer`]: a journal cannot be read.
pub fn pending(disk: &dyn Disk, journals: &Path) -> Result<Vec<Pending>> {
    let found = all_journals(disk, journals)?;
    Ok(found.into_iter().map(|(_, journal)| Pending::of(&journal)).collect())
}

/// What the rewinds that have not ended need: roots for [`ObjectStore::gc`](crate::objects::ObjectStore::gc).
///
/// # Errors
///
/// As [`pending`].
pub fn journal_roots(disk: &dyn Disk, journals: &Path) -> Result<Vec<Root>> {
    let mut roots = Vec::new();
    for (_, journal) in all_journals(disk, journals)? {
        roots.extend([journal.before, journal.seen].into_iter().flatten().map(Root::Entry));
        let entries = journal.steps.iter().flat_map(|step| [&step.before, &step.after]).flatten();
        // What a directory holds are steps of their own.
        let entries = entries.chain(journal.found.iter().map(|(_, entry)| entry));
        roots.extend(entries.filter(|entry| entry.kind != EntryKind::Directory).map(|entry| Root::Entry(*entry)));
    }
    Ok(roots)
}
