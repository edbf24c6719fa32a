//! The index at one moment, and the questions that it answers.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::filter::{Cursor, Filter, Page, Sieve};
use super::level::{Found, Level, Memory, shadowed};
use super::run::Table;
use crate::error::Result;
use crate::format::entry::Entry;
use crate::format::run::{Order, Row, key_sum};
use crate::ids::{ProjectName, SessionKey, Uid};

/// The index at one moment. Cheap to clone; later changes do not touch it.
///
/// An [`Error::Corrupt`](crate::Error::Corrupt) from any of its methods means that the index has to be built again;
/// an answer that is given is right.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The newest first.
    pub(super) levels: Arc<[Level]>,
}

/// What is known of some sessions more freshly than the index knows it: those that are open for append.
///
/// Take the [`View`] first and look at the sessions afterwards, so that the overlay is never the older one.
#[derive(Clone, Debug)]
pub(crate) struct Overlay(Level);

impl Overlay {
    /// The overlay that shows `entries` instead of what the index says of them, and hides `gone`.
    pub(crate) fn new<'a>(entries: impl IntoIterator<Item = &'a Entry>, gone: &[Uid]) -> Self {
        Self(Level::Memory(Arc::new(Memory::of_entries(entries, gone))))
    }
}

impl View {
    /// Lists up to `limit` sessions that fit `filter`, beginning after `cursor`.
    ///
    /// Cost: what the page costs, plus 64 bytes read for every session that is passed over; with a project in the
    /// filter, for every session of the project.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        cursor: Option<Cursor>,
        limit: usize,
        overlay: Option<&Overlay>,
    ) -> Result<Page> {
        let levels = self.with(overlay);
        let sieve = Sieve::new(filter);
        let mut scans =
            levels.iter().map(|level| Scan::start(level, filter, &sieve, cursor)).collect::<Result<Vec<_>>>()?;
        let mut entries = Vec::new();
        while entries.len() < limit {
            let heads = scans.iter().enumerate().filter_map(|(rank, scan)| Some((scan.head?.1.order(), rank)));
            let Some((_, rank)) = heads.min() else { break };
            let Some(scan) = scans.get_mut(rank) else { break };
            if let Some((n, row)) = scan.head
                && !shadowed(&levels[..rank], row.uid)?
            {
                let entry = scan.level.entry(n, &row)?;
                if filter.fits(&entry) {
                    entries.push(entry);
                }
            }
            scan.advance(&sieve)?;
        }
        let more = scans.iter().any(|scan| scan.head.is_some());
        let last = entries.last().map(Cursor::after).or(cursor);
        Ok(Page { next: last.filter(|_| more), entries })
    }

    /// The session updated last, in a project or in the store, archived ones aside.
    pub(crate) fn latest(&self, project: Option<&ProjectName>, overlay: Option<&Overlay>) -> Result<Option<Entry>> {
        let filter = Filter { project: project.cloned(), ..Filter::default() };
        Ok(self.list(&filter, None, 1, overlay)?.entries.pop())
    }

    /// What the index says of the session with this key.
    #[cfg_attr(not(test), expect(dead_code, reason = "lists do not ask by key; the tests check the table"))]
    pub(crate) fn get(&self, key: &SessionKey) -> Result<Option<Entry>> {
        let sum = key_sum(key.project.as_str(), key.session.as_str());
        for (rank, level) in self.levels.iter().enumerate() {
            for n in level.find_key(sum)? {
                let row = level.row(n)?;
                let entry = level.entry(n, &row)?;
                if entry.key == *key && !shadowed(&self.levels[..rank], row.uid)? {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// What the index says of the session with this main transcript.
    pub(crate) fn by_uid(&self, uid: Uid) -> Result<Option<Entry>> {
        for level in self.levels.iter() {
            match level.find_uid(uid)? {
                Some(Found::Row(n)) => return level.entry(n, &level.row(n)?).map(Some),
                Some(Found::Gone) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    /// Reads and checks every byte of every run.
    #[cfg(test)]
    pub(crate) fn verify(&self) -> Result<()> {
        for level in self.levels.iter() {
            match level {
                Level::Run(run) => run.verify()?,
                Level::Memory(_) => {
                    for n in 0..level.rows() {
                        level.entry(n, &level.row(n)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn with(&self, overlay: Option<&Overlay>) -> Vec<Level> {
        overlay.iter().map(|overlay| &overlay.0).chain(self.levels.iter()).cloned().collect()
    }
}

/// A walk over the rows of one level that the sieve lets through, in the order of lists.
struct Scan<'a> {
    level: &'a Level,
    rows: Rows,
    /// Where the walk ends: the first place that is too old.
    end: Option<Reverse<i64>>,
    /// The row to merge next, and its number.
    head: Option<(u32, Row)>,
}

/// The numbers of rows still to be looked at: all in a range, or those that a range of the project table names.
enum Rows {
    All(Range<u32>),
    Project(Range<u64>),
}

impl<'a> Scan<'a> {
    fn start(level: &'a Level, filter: &Filter, sieve: &Sieve<'_>, cursor: Option<Cursor>) -> Result<Self> {
        let rows = match (level, &filter.project) {
            (Level::Run(run), Some(project)) => {
                Rows::Project(run.find(Table::Project, crate::format::run::sum(project.as_str()))?)
            }
            _ => Rows::All(0..level.rows()),
        };
        // The first place that may be shown: after the cursor, and before the upper bound of the time of update.
        let after_cursor = cursor.map(|cursor| (cursor.order(), true));
        let below = filter.updated_before.map(|bound| {
            let updated = Reverse(bound.as_millis().saturating_sub(1));
            (Order { updated, uid: Uid([0; 16]) }, false)
        });
        let end = filter.updated_from.map(|bound| Reverse(bound.as_millis()));
        let mut scan = Self { level, rows, end, head: None };
        if let Some((from, strictly)) = after_cursor.max(below) {
            scan.skip_to(from, strictly)?;
        }
        scan.advance(sieve)?;
        Ok(scan)
    }

    /// Leaves out the rows before `from`, and `from` itself where that is asked for.
    fn skip_to(&mut self, from: Order, strictly: bool) -> Result<()> {
        let past = |row: &Row| if strictly { row.order() > from } else { row.order() >= from };
        match &mut self.rows {
            Rows::All(rows) => {
                rows.start = self.level.first_from(from)?;
                if rows.start < rows.end && !past(&self.level.row(rows.start)?) {
                    rows.start += 1;
                }
            }
            Rows::Project(pairs) => {
                let Level::Run(run) = self.level else { return Ok(()) };
                let mut end = pairs.end;
                while pairs.start < end {
                    let middle = pairs.start + (end - pairs.start) / 2;
                    let row = run.row(run.pair(Table::Project, middle)?.row)?;
                    if past(&row) { end = middle } else { pairs.start = middle + 1 }
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, sieve: &Sieve<'_>) -> Result<()> {
        self.head = None;
        loop {
            if let (Rows::All(rows), Level::Run(run)) = (&mut self.rows, self.level) {
                rows.start = run.first_with(rows.clone(), sieve.tags_all(), sieve.created())?;
            }
            let Some(n) = self.next_number()? else { break };
            let row = self.level.row(n)?;
            if self.end.is_some_and(|end| Reverse(row.updated) > end) {
                break;
            }
            if sieve.lets_through(&row) {
                self.head = Some((n, row));
                break;
            }
        }
        Ok(())
    }

    fn next_number(&mut self) -> Result<Option<u32>> {
        match (&mut self.rows, self.level) {
            (Rows::All(rows), _) => Ok(rows.next()),
            (Rows::Project(pairs), Level::Run(run)) => {
                pairs.next().map(|n| run.pair(Table::Project, n).map(|pair| pair.row)).transpose()
            }
            (Rows::Project(_), Level::Memory(_)) => Ok(None),
        }
    }
}
