//! Finding damage, and giving up what is damaged so that the rest can be read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Store;
use super::admin::transcripts;
use super::listing::list_dir;
use super::reach::Reached;
use crate::disk::How;
use crate::error::{Error, Kind, Result};
use crate::format::control::{self, Gap, Repair};
use crate::format::line::{self, Link, Whole, kind};
use crate::ids::{Offset, SessionKey};
use crate::index::remove_if_there;
use crate::log::ends::{self, Seen};
use crate::log::files::FilesRecord;
use crate::log::large;
use crate::log::lineage::Lineage;
use crate::log::recover::{put_back, quarantine};
use crate::log::state::map_path;
use crate::log::transcript::Transcript;
use crate::log::walk::{Walk, Walked};
use crate::parallel;
use crate::session::{OpenOptions, PATIENCE, Presence, Session, WriteLock};
use crate::workspace::{path_as_text, path_text};

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Transcripts that were read.
    pub transcripts: u64,
    /// Bytes that were read and verified.
    pub bytes: u64,
    /// Records that verified.
    pub records: u64,
    /// What each transcript with something to tell has.
    pub findings: Vec<Checked>,
}

impl Report {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|found| found.damage.is_empty())
    }
}

/// What one transcript has.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// The file.
    #[serde(serialize_with = "path_text")]
    pub path: PathBuf,
    /// The session, where the first line can be read.
    pub session: Option<SessionKey>,
    /// Damaged ranges.
    pub damage: Vec<Damage>,
    /// Records that can be read.
    pub readable_records: u64,
    /// Bytes at the end that a crash left, and the next writer will move to quarantine.
    pub crash_remains: u64,
    /// Ranges that a repair gave up earlier.
    pub repaired: u64,
}

impl Checked {
    /// Takes note of a good line, and looks for its payload where that is an object, and for the files that it refers to.
    fn line(&mut self, reached: &Reached<'_>, source: &Transcript, start: u64, whole: &Whole<'_>) -> Result<()> {
        for entry in FilesRecord::of(whole).iter().flat_map(FilesRecord::entries) {
            if let Some(why) = reached.check(&entry)? {
                let why = format!("files that it refers to are lost: {why}");
                self.damage.push(Damage { from: start, to: whole.link.end, why, repairable: false });
                break;
            }
        }
        if whole.kind == kind::LARGE
            && let Err(error) = large::payload(reached.objects, source, start, whole)
        {
            let Error::Corrupt { why, .. } = error else { return Err(error) };
            let (to, why) = (whole.link.end, why.to_owned());
            self.damage.push(Damage { from: start, to, why, repairable: false });
            return Ok(());
        }
        self.readable_records += u64::from(kind::is_record(whole.kind));
        Ok(())
    }
}

/// A damaged range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Damage {
    /// First bad byte, from the start of the file.
    pub from: u64,
    /// Where the next good line starts; the file's length when there is none.
    pub to: u64,
    /// The check that failed.
    pub why: String,
    /// Whether [`Store::repair`] can give the range up.
    pub repairable: bool,
}

/// How far a long run has come.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What [`Store::repair`] did.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Repaired {
    /// Ranges that were given up, by transcript.
    #[serde(serialize_with = "by_path")]
    pub gaps: BTreeMap<PathBuf, Vec<Damage>>,
    /// Copies of their bytes.
    #[serde(serialize_with = "paths")]
    pub quarantined: Vec<PathBuf>,
    /// Transcripts that cannot be repaired, or not wholly, and why.
    #[serde(serialize_with = "with_paths")]
    pub hopeless: Vec<(PathBuf, String)>,
    /// Records whose payload is gone; everything else in their transcripts can be read.
    #[serde(skip)]
    lost: Vec<(PathBuf, String)>,
}

fn by_path<S: Serializer>(gaps: &BTreeMap<PathBuf, Vec<Damage>>, out: S) -> std::result::Result<S::Ok, S::Error> {
    out.collect_map(gaps.iter().map(|(path, gaps)| (path_as_text(path), gaps)))
}

fn paths<S: Serializer>(paths: &[PathBuf], out: S) -> std::result::Result<S::Ok, S::Error> {
    out.collect_seq(paths.iter().map(|path| path_as_text(path)))
}

fn with_paths<S: Serializer>(found: &[(PathBuf, String)], out: S) -> std::result::Result<S::Ok, S::Error> {
    out.collect_seq(found.iter().map(|(path, why)| (path_as_text(path), why)))
}

impl Store {
    /// Reads every byte of a session's transcripts, or of all, several at a time, and says what is damaged. Payloads and files that
    /// they refer to are read too, each once: a line of which one is lost is damage that no repair mends, told with the
    /// pack, the byte and the reason.
    ///
    /// Changes nothing. `progress` is called now and then. Deleted sessions that forks need are checked too when the whole store is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`]. Damage is no error here but a finding.
    pub fn verify(&self, key: Option<&SessionKey>, progress: impl Fn(Progress) + Sync) -> Result<Report> {
        let mut paths = Vec::new();
        let mut graves = BTreeMap::new();
        let disk = &**self.disk();
        match key {
            Some(key) => {
                let dir = self.layout().session(&key.project, &key.session);
                paths = transcripts(disk, &dir)?;
                if paths.is_empty() {
                    return Err(Error::not_found(crate::Named::Session, key));
                }
            }
            None => {
                for project in list_dir(disk, &self.dir("projects"))? {
                    for session in list_dir(disk, &project)? {
                        paths.extend(transcripts(disk, &session)?);
                    }
                }
                graves = self.needed_graves()?;
                paths.extend(graves.keys().cloned());
            }
        }
        let reached = Reached::new(self.objects());
        let total = paths.iter().map(|path| disk.stat(path).map_or(0, |stat| stat.len)).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let report = Mutex::new((Report::default(), None));
        let work = || {
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let checked = match graves.get(path) {
                    Some(most) => self.check_grave(path, *most, &reached),
                    None => self.check(path, &reached),
                };
                let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match checked {
                    Ok(Some((checked, bytes))) => {
                        report.0.transcripts += 1;
                        report.0.bytes += bytes;
                        report.0.records += checked.readable_records;
                        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                        progress(Progress { done, total });
                        if !checked.damage.is_empty() || checked.crash_remains > 0 || checked.repaired > 0 {
                            report.0.findings.push(checked);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => drop(report.1.get_or_insert(error)),
                }
            }
        };
        parallel::together(parallel::cores().min(paths.len()), work);
        let (mut report, error) = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.findings.sort_by(|a, b| a.path.cmp(&b.path));
        error.map_or(Ok(report), Err)
    }

    /// Checks one transcript; `None` when it is gone.
    fn check(&self, path: &std::path::Path, reached: &Reached<'_>) -> Result<Option<(Checked, u64)>> {
        let disk = &**self.disk();
        let mut checked = Checked {
            path: path.to_owned(),
            session: None,
            damage: Vec::new(),
            readable_records: 0,
            crash_remains: 0,
            repaired: 0,
        };
        let transcript = match Transcript::open(disk, path, How::Read) {
            Ok(Some(transcript)) => transcript,
            Ok(None) => return Ok(None),
            Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => {
                let len = disk.stat(path).map_or(0, |stat| stat.len);
                checked.damage.push(Damage { from: 0, to: len, why: why(&error), repairable: false });
                return Ok(Some((checked, len)));
            }
            Err(error) => return Err(error),
        };
        let header = transcript.header.clone();
        checked.session = Some(SessionKey { project: header.project, session: header.session });
        let len = transcript.file.len().map_err(|error| transcript.io(error))?;
        let (gaps, end, padding) = damaged(reached, &transcript, &mut checked)?;
        for (gap, reason) in &gaps {
            let (from, to) = (gap.from.get(), gap.to.get());
            checked.damage.push(Damage { from, to, why: reason.clone(), repairable: true });
        }
        let len = if padding { end } else { len };
        checked.crash_remains = len - end.max(gaps.last().map_or(0, |(gap, _)| gap.to.get())).min(len);
        if gaps.is_empty()
            && let Err(error) = self.check_view(&transcript)
        {
            if !matches!(error.kind(), Kind::Data | Kind::Newer) {
                return Err(error);
            }
            let from = match &error {
                Error::Corrupt { at, .. } | Error::Newer { at, .. } => at.get(),
                _ => 0,
            };
            checked.damage.push(Damage { from, to: from, why: why(&error), repairable: false });
        }
        Ok(Some((checked, len)))
    }

    /// The transcripts of deleted sessions that are still needed, and how much of each. When the first line of a session cannot be
    /// read, that session is reported anyway, and nobody knows what it needs.
    fn needed_graves(&self) -> Result<BTreeMap<PathBuf, u64>> {
        match self.needed() {
            Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => Ok(BTreeMap::new()),
            needed => {
                let graves = self.dir("graves");
                Ok(needed?.into_iter().filter(|(path, _)| path.starts_with(&graves)).collect())
            }
        }
    }

    /// Checks the first `most` bytes of a transcript that was deleted; what a fork does not need may be gone, or cut within a batch.
    fn check_grave(&self, path: &std::path::Path, most: u64, reached: &Reached<'_>) -> Result<Option<(Checked, u64)>> {
        let Some(transcript) = Transcript::open(&**self.disk(), path, How::Read)? else { return Ok(None) };
        let header = &transcript.header;
        let session = SessionKey { project: header.project.clone(), session: header.session.clone() };
        let mut checked = Checked {
            path: path.to_owned(),
            session: Some(session),
            damage: Vec::new(),
            readable_records: 0,
            crash_remains: 0,
            repaired: 0,
        };
        let mut walk = Walk::new(transcript.clone(), transcript.first, most);
        loop {
            match walk.next() {
                Ok(Walked::Line(start, whole)) => checked.line(reached, &transcript, start, &whole)?,
                Ok(Walked::Gap(_)) => checked.repaired += 1,
                Ok(Walked::End) => return Ok(Some((checked, most))),
                Err(Error::Corrupt { at, why, .. }) => {
                    checked.damage.push(Damage { from: at.get(), to: most, why: why.to_owned(), repairable: false });
                    return Ok(Some((checked, most)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// That the head moves and bases of a transcript lead where they say.
    fn check_view(&self, transcript: &Transcript) -> Result<()> {
        let (state, _) = crate::log::state::State::read(&**self.disk(), transcript, self.look())?;
        let mut lineage = Lineage::new(&**self.disk(), self.layout(), transcript);
        lineage.view(transcript.position(&state.tip)).map(drop)
    }

    /// Gives up the damaged ranges of a session's transcripts, so that everything else can be read and the session can go on.
    ///
    /// No byte is moved or lost: a record names the ranges, and copies go to the session's quarantine. Positions and forks stay good, except
    /// where they lie in such a range. A rewind that was in one is gone with it. Survives a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Locked`] while the session is open for append; [`Error::Full`], [`Error::Io`].
    pub fn repair(&self, key: &SessionKey) -> Result<Repaired> {
        let disk = &**self.disk();
        let dir = self.layout().session(&key.project, &key.session);
        let paths = transcripts(disk, &dir)?;
        if paths.is_empty() {
            return Err(Error::not_found(crate::Named::Session, key));
        }
        let mut repaired = Repaired::default();
        for path in paths {
            let transcript = match Transcript::open(disk, &path, How::Write) {
                Ok(Some(transcript)) => transcript,
                Ok(None) => continue,
                Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => {
                    repaired.hopeless.push((path, why(&error)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.repair_one(key, &transcript, &mut repaired)?;
        }
        // A session that was closed in its damaged state is in the index as damaged.
        if repaired.hopeless.is_empty() {
            let session = Session::open(self, key, None, OpenOptions::default())?;
            session.close()?;
            self.publish_session(key)?;
        }
        repaired.hopeless.append(&mut repaired.lost);
        Ok(repaired)
    }

    fn repair_one(&self, key: &SessionKey, transcript: &Transcript, repaired: &mut Repaired) -> Result<()> {
        let disk = &**self.disk();
        let path = &transcript.path;
        let main = transcript.header.side.as_ref().map_or(transcript.header.uid, |side| side.of);
        let marker = self.layout().marker(main);
        let presence = Presence::join(self.disk(), &marker, key, PATIENCE, self.now())?;
        let lock = WriteLock::open(disk, path)?;
        lock.take(Duration::ZERO, true)?;
        if presence.is_poisoned() {
            put_back(disk, transcript)?;
        }
        let mut checked = Checked {
            path: path.clone(),
            session: None,
            damage: Vec::new(),
            readable_records: 0,
            crash_remains: 0,
            repaired: 0,
        };
        let (gaps, end, padding) = damaged(&Reached::new(self.objects()), transcript, &mut checked)?;
        if let (Some((last, _)), false) = (gaps.last(), gaps.is_empty()) {
            // The line goes behind the last good one; what a crash left after that goes to quarantine.
            let end = end.max(last.to.get());
            let len = transcript.file.len().map_err(|error| transcript.io(error))?;
            if len > end && !padding {
                repaired.quarantined.push(quarantine(disk, transcript, end, len, "cut")?);
            }
            if len > end {
                transcript.file.set_len(end).map_err(|error| Error::io("cut", path, error))?;
            }
            for (gap, why) in &gaps {
                let (from, to) = (gap.from.get(), gap.to.get());
                repaired.quarantined.push(quarantine(disk, transcript, from, to, "gap")?);
                let damage = Damage { from, to, why: why.clone(), repairable: true };
                repaired.gaps.entry(path.clone()).or_default().push(damage);
            }
            let crc = match transcript.crc_before(end) {
                Ok(crc) => crc,
                Err(_) => last.chain,
            };
            let gaps = gaps.into_iter().map(|(gap, _)| gap).collect();
            // Its samples may be places within the gaps, from where nobody can read on. It is gone for good before they are.
            let map = map_path(path);
            remove_if_there(disk, &map)?;
            let dir = map.parent().unwrap_or(&map);
            disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
            let mut bytes = Vec::new();
            let draft = line::Draft { at: &self.now().to_bytes(), id: None, kind: kind::REPAIR, more: false };
            let synced = transcript.promise_at(end)?.min(end);
            line::encode(
                &mut bytes,
                draft,
                Link { end, crc, synced, more: false },
                synced,
                &control::encode(&Repair { gaps }),
            );
            let written = transcript.file.write_at(&bytes, end).and_then(|()| transcript.file.sync());
            written.map_err(|error| {
                presence.poison(key, self.now());
                Error::io("write", path, error)
            })?;
        }
        // The marker stays for whoever publishes the session: a writer that died may have left more than the index shows.
        drop(presence);
        repaired.lost.extend(checked.damage.into_iter().map(|lost| {
            let why = format!("the record at byte {}: {}", lost.from, lost.why);
            (path.clone(), why)
        }));
        Ok(())
    }
}

/// Damaged ranges with what is wrong with each.
type Damaged = Vec<(Gap, String)>;

/// The damaged ranges of a transcript that no repair has given up, each as a gap, where its lines end, and whether nothing but padding
/// follows.
///
/// Records whose payload is lost are damage that no gap can mend, and are noted in `checked`.
fn damaged(reached: &Reached<'_>, transcript: &Transcript, checked: &mut Checked) -> Result<(Damaged, u64, bool)> {
    let file = &transcript.file;
    let mut gaps: Damaged = Vec::new();
    let mut from = transcript.first;
    loop {
        let found = ends::find(file, &transcript.path, from, |seen| {
            match seen {
                Seen::Line(start, whole) => checked.line(reached, transcript, start, whole)?,
                Seen::Gap(_) => checked.repaired += 1,
            }
            Ok(())
        });
        let (at, reason) = match found {
            Ok(ends) => return Ok((gaps, ends.link.end, ends.padding)),
            Err(Error::Corrupt { at, why, .. }) => (at.get(), why),
            Err(error) => return Err(error),
        };
        let len = file.len().map_err(|error| transcript.io(error))?;
        let mut next = None;
        ends::lone_lines(file, at, len, |start, _| {
            next = Some(start);
            false
        })
        .map_err(|error| transcript.io(error))?;
        let Some(next) = next else {
            let gap = gap(transcript, at, len, line::crc32(&[]))?;
            gaps.push((gap, reason.to_owned()));
            return Ok((gaps, len, false));
        };
        let chain = ends::lone_seed(file, next, len).map_err(|error| transcript.io(error))?;
        let chain = chain.ok_or_else(|| transcript.corrupt(next, "the file changes while it is read"))?;
        gaps.push((gap(transcript, at, next, chain)?, reason.to_owned()));
        from = Link::alone(next, chain);
    }
}

/// The range as a gap, with the number of records that it seems to have held.
fn gap(transcript: &Transcript, from: u64, to: u64, chain: crate::Crc) -> Result<Gap> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    let got = transcript.file.read_at(&mut bytes, from).map_err(|error| transcript.io(error))?;
    bytes.truncate(got);
    let has = |line: &[u8], kind: &[u8]| memchr::memmem::find(line.get(..200).unwrap_or(line), kind).is_some();
    let looks_like_data = |line: &&[u8]| has(line, b"\"data\":") || has(line, b"\"large\":{\"object\":");
    let records = bytes.split(|&c| c == b'\n').filter(looks_like_data).count() as u64;
    Ok(Gap { from: Offset(from), to: Offset(to), raw: line::crc32(&bytes), chain, records })
}

/// The reason alone, where an error has one.
fn why(error: &Error) -> String {
    match error {
        Error::Corrupt { why, .. } | Error::Lineage { why, .. } => (*why).to_owned(),
        other => other.to_string(),
    }
}
