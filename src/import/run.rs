//! Bringing what was discovered into a store.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Bad, Line, Lines, Source};
use crate::disk::{File, How};
use crate::error::{Error, Kind, Result};
use crate::ids::{SessionKey, Uid};
use crate::log::lineage::Layout;
use crate::log::recover::{make_dirs, quarantine_of, stem};
use crate::session::{Appended, NewRecord, OpenOptions, Session};
use crate::store::{NewSession, Progress, Store};
use crate::time::Timestamp;

/// Payload bytes that are appended with one call.
const BATCH: usize = 1 << 20;
/// Bad lines that a report lists; those past it are only counted.
const LISTED: usize = 1000;
/// More than what a line has besides its payload: time, id, names and sums.
const ENVELOPE: u64 = 512;

/// What [`Store::import`] did.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Imported {
    /// Files that were read to their end.
    pub files: u64,
    /// Bytes that were read of them.
    pub bytes: u64,
    /// Sessions that were made.
    pub created: u64,
    /// Records that were appended.
    pub appended: u64,
    /// Records that were there from an earlier import.
    pub duplicates: u64,
    /// Lines that are no records, unfinished last ones aside. Their bytes are in the session's quarantine.
    pub bad_lines: u64,
    /// The first thousand of them, and unfinished last lines.
    pub bad: Vec<BadLine>,
    /// Files that were not read to their end. What came before the failure is imported.
    pub failed: Vec<FailedFile>,
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BadLine {
    /// The file that it is in.
    pub path: PathBuf,
    /// Its number in the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
    /// Whether it is a last line that is not finished: no damage, and not kept, since the next import finds it whole.
    pub torn: bool,
}

/// A file that was not imported, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailedFile {
    /// The file.
    pub path: PathBuf,
    /// The session it belongs to.
    pub session: SessionKey,
    /// What went wrong.
    pub why: String,
    /// What to do about it.
    #[serde(skip)]
    pub kind: Kind,
}

impl Store {
    /// Imports the transcripts that [`discover`](super::discover) found.
    ///
    /// Every line becomes a record with the line's own id and time, so that a second import of the same or a grown file adds what is new
    /// and nothing twice. A line without a time gets that of the line before. A session begins when its first message was
    /// made. Lines that are no records are counted, and their bytes kept in the session's quarantine. A file that fails does not stop the
    /// others. Everything survives a power cut once this returns; after a crash, import again. `progress` is called about once a MiB.
    ///
    /// Cost: one pass over each file, a few syncs for each, and memory for 1 MiB of records and an id of 16 bytes for each line of a file.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] and [`Error::Io`] of the store, which would stop every file; what was imported before stands. Everything else is in the
    /// report.
    pub fn import(&self, sources: &[Source], mut progress: impl FnMut(Progress)) -> Result<Imported> {
        let mut report = Imported::default();
        let mut at = Progress { done: 0, total: sources.iter().map(|source| source.len_bytes).sum() };
        for source in sources {
            let before = at.done;
            let run = Run::new(self, source, &mut report);
            match run.and_then(|run| run.file(|read| progress(Progress { done: before + read, ..at }))) {
                Ok(()) => report.files += 1,
                Err(Failure::File(error)) => report.failed.push(FailedFile {
                    path: source.path.clone(),
                    session: key_of(source),
                    why: error.to_string(),
                    kind: error.kind(),
                }),
                Err(Failure::Store(error)) => return Err(error),
            }
            at.done += source.len_bytes;
            progress(at);
        }
        Ok(report)
    }
}

fn key_of(source: &Source) -> SessionKey {
    SessionKey { project: source.project.clone(), session: source.session.clone() }
}

/// Whose failure it is.
enum Failure {
    /// This file's or its session's: others may fare better.
    File(Error),
    /// The store's.
    Store(Error),
}

/// What an operation on the store gives: only the system's failures concern other files too.
fn of_store(error: Error) -> Failure {
    if error.kind() == Kind::System { Failure::Store(error) } else { Failure::File(error) }
}

/// The import of one file.
struct Run<'a> {
    store: &'a Store,
    source: &'a Source,
    report: &'a mut Imported,
    lines: Lines,
    max_payload: u64,
    session: Option<Session>,
    batch: Vec<NewRecord<'static>>,
    batch_bytes: usize,
    /// The newest time that a line had.
    at: Option<Timestamp>,
    kept: Option<Kept>,
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, source: &'a Source, report: &'a mut Imported) -> Result<Self, Failure> {
        let max_payload = store.max_line().saturating_sub(ENVELOPE);
        let lines = Lines::open(&source.path).map_err(Failure::File)?.max_line(max_payload);
        let (session, batch) = (None, Vec::new());
        Ok(Self { store, source, report, lines, max_payload, session, batch, batch_bytes: 0, at: None, kept: None })
    }

    fn file(mut self, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
        let read = self.read(&mut progress);
        self.report.bytes += self.lines.position().get();
        // What came before a failure is brought in all the same.
        let flushed = self.flush().and_then(|()| self.finish());
        read.and(flushed)
    }

    fn read(&mut self, progress: &mut impl FnMut(u64)) -> Result<(), Failure> {
        while let Some(line) = self.lines.next().map_err(Failure::File)? {
            match line {
                Line::Record(record) if record.payload.len() as u64 > self.max_payload => {
                    let why = format!("longer than {} bytes", self.max_payload);
                    let found = BadLine { path: self.source.path.clone(), line: record.number, why, torn: false };
                    keep(self.store, &mut self.kept, &record.payload).map_err(of_store)?;
                    note(self.report, found);
                }
                Line::Record(record) => {
                    self.at = record.at.or(self.at);
                    self.batch_bytes += record.payload.len();
                    let payload = Cow::Owned(record.payload.into_owned());
                    self.batch.push(NewRecord { payload, id: Some(record.id), at: self.at });
                }
                Line::Bad(bad) => {
                    let Bad { number, why, bytes, torn, .. } = bad;
                    if !torn {
                        keep(self.store, &mut self.kept, bytes).map_err(of_store)?;
                    }
                    note(self.report, BadLine { path: self.source.path.clone(), line: number, why, torn });
                }
            }
            if self.batch_bytes >= BATCH {
                self.flush()?;
                progress(self.lines.position().get());
            }
        }
        Ok(())
    }

    /// Appends what has been gathered.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let first = self.batch.iter().find_map(|record| record.at);
        let earliest = self.batch.iter().filter_map(|record| record.at).min();
        // Lines before the first one with a time came about no later than that one.
        self.batch.iter_mut().for_each(|record| record.at = record.at.or(first));
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let appended = self.session(earliest)?.append_batch(&batch).map_err(of_store)?;
        let new = appended.iter().filter(|appended| matches!(appended, Appended::New(_))).count() as u64;
        self.report.appended += new;
        self.report.duplicates += appended.len() as u64 - new;
        Ok(())
    }

    /// The session, opened, and made where there is none.
    fn session(&mut self, created: Option<Timestamp>) -> Result<&Session, Failure> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.open(created).map_err(of_store)?,
        };
        Ok(self.session.insert(session))
    }

    fn open(&mut self, created: Option<Timestamp>) -> Result<Session> {
        let (store, key) = (self.store, key_of(self.source));
        let open = |key| match &self.source.side {
            None => store.session(key),
            Some(side) => store.side(key, side, OpenOptions::default()),
        };
        match open(&key) {
            Err(Error::NotFound { .. }) => {}
            other => return other,
        }
        let new = NewSession::named(key.clone());
        let main = store.create(created.map_or(new.clone(), |at| new.created(at)))?;
        self.report.created += 1;
        if self.source.side.is_none() {
            return Ok(main);
        }
        main.close()?;
        open(&key)
    }

    /// Closes the session, which syncs it, and puts the bad lines where they stay.
    fn finish(mut self) -> Result<(), Failure> {
        if self.kept.is_some() {
            self.session(None)?;
        }
        if let Some(session) = self.session.take() {
            session.close().map_err(of_store)?;
        }
        let Some(kept) = self.kept.take() else { return Ok(()) };
        let key = key_of(self.source);
        let dir = self.store.layout().session(&key.project, &key.session);
        kept.settle(self.store, &dir.join(Layout::transcript(self.source.side.as_ref()))).map_err(of_store)
    }
}

fn note(report: &mut Imported, found: BadLine) {
    report.bad_lines += u64::from(!found.torn);
    if found.torn || report.bad.len() < LISTED {
        report.bad.push(found);
    }
}

fn keep(store: &Store, kept: &mut Option<Kept>, line: &[u8]) -> Result<()> {
    let kept = match kept {
        Some(kept) => kept,
        None => kept.insert(Kept::new(store)?),
    };
    kept.line(line)
}

/// The bad lines of a file, in a file of their own whose name is known when it is whole.
struct Kept {
    temp: PathBuf,
    file: Box<dyn File>,
    len: u64,
    sum: crc32fast::Hasher,
}

impl Kept {
    fn new(store: &Store) -> Result<Self> {
        let dir = store.path().join("tmp");
        make_dirs(&**store.disk(), &dir)?;
        let temp = dir.join(Uid::from_bytes(store.random()).to_string());
        let file = store.disk().open(&temp, How::CreateNew).map_err(|error| Error::io("write", &temp, error))?;
        Ok(Self { temp, file, len: 0, sum: crc32fast::Hasher::new() })
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        for part in [line, b"\n"] {
            self.file.write_at(part, self.len).map_err(|error| Error::io("write", &self.temp, error))?;
            self.sum.update(part);
            self.len += part.len() as u64;
        }
        Ok(())
    }

    /// Moves the file into the quarantine of the session of `transcript`. The same lines get the same name.
    fn settle(self, store: &Store, transcript: &Path) -> Result<()> {
        let disk = &**store.disk();
        let dir = quarantine_of(transcript);
        make_dirs(disk, &dir)?;
        let kept = dir.join(format!("{}-{:012x}-{:08x}.bad", stem(transcript), self.len, self.sum.finalize()));
        let io = |error| Error::io("write", &kept, error);
        self.file.sync().map_err(io)?;
        disk.rename(&self.temp, &kept).map_err(io)?;
        for dir in [Some(&*dir), dir.parent()].into_iter().flatten() {
            disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
        }
        Ok(())
    }
}
