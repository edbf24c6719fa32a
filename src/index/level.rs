//! The levels that a list is merged from: runs on disk, and tails and overlays in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::run::{Run, Table, Writer};
use crate::error::{Error, Result};
use crate::format::entry::{self, Entry};
use crate::format::run::{Order, ROW, Row};
use crate::ids::Uid;

/// Entries in the order of lists. What a newer level says of a session replaces what older ones say.
#[derive(Clone, Debug)]
pub(super) enum Level {
    Memory(Arc<Memory>),
    Run(Arc<Run>),
}

/// What a level says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Row(u32),
    Gone,
}

/// A level in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    /// Rows in the order of lists, and where in `bytes` the rest of each is.
    rows: Vec<(Row, Range<usize>)>,
    by_uid: HashMap<Uid, Found>,
}

/// Gathers entries and removals, the newest last, into a [`Memory`].
#[derive(Debug, Default)]
pub(super) struct Gather {
    rows: Vec<(Row, Range<usize>)>,
    /// What was said last of each session; a row's number is its place in `rows` before they are sorted.
    by_uid: HashMap<Uid, Found>,
}

impl Gather {
    /// Takes an entry whose text stands at `text` of the bytes that [`Gather::finish`] gets.
    pub(super) fn put(&mut self, row: Row, text: Range<usize>) {
        let n = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.by_uid.insert(row.uid, Found::Row(n));
        self.rows.push((row, text));
    }

    pub(super) fn remove(&mut self, uid: Uid) {
        self.by_uid.insert(uid, Found::Gone);
    }

    pub(super) fn finish(self, bytes: Vec<u8>) -> Memory {
        let Self { rows, mut by_uid } = self;
        let newest = |(n, (row, _)): &(u32, (Row, _))| by_uid.get(&row.uid) == Some(&Found::Row(*n));
        let mut rows: Vec<_> = (0..).zip(rows).filter(newest).map(|(_, row)| row).collect();
        rows.sort_unstable_by_key(|(row, _)| row.order());
        for (n, (row, _)) in (0..).zip(&rows) {
            by_uid.insert(row.uid, Found::Row(n));
        }
        Memory { bytes, rows, by_uid }
    }
}

impl Memory {
    /// The level that `entries` make, the newest last, in which the sessions `gone` are removed.
    pub(super) fn of_entries<'a>(entries: impl IntoIterator<Item = &'a Entry>, gone: &[Uid]) -> Self {
        let (mut gather, mut bytes) = (Gather::default(), Vec::new());
        for entry in entries {
            let start = bytes.len();
            entry::encode_text(&mut bytes, entry);
            gather.put(entry::row(entry), start..bytes.len());
        }
        gone.iter().for_each(|uid| gather.remove(*uid));
        gather.finish(bytes)
    }
}

impl Level {
    pub(super) fn rows(&self) -> u32 {
        match self {
            Self::Memory(memory) => u32::try_from(memory.rows.len()).unwrap_or(u32::MAX),
            Self::Run(run) => run.rows(),
        }
    }

    pub(super) fn row(&self, n: u32) -> Result<Row> {
        match self {
            Self::Memory(memory) => {
                let row = usize::try_from(n).ok().and_then(|n| memory.rows.get(n)).map(|(row, _)| *row);
                row.ok_or_else(not_there)
            }
            Self::Run(run) => run.row(n),
        }
    }

    /// What the row number `n`, which is `row`, does not say about its entry.
    pub(super) fn text(&self, n: u32, row: &Row) -> Result<&[u8]> {
        match self {
            Self::Memory(memory) => {
                let text = usize::try_from(n).ok().and_then(|n| memory.rows.get(n)).map(|(_, text)| text.clone());
                text.and_then(|text| memory.bytes.get(text)).ok_or_else(not_there)
            }
            Self::Run(run) => run.text(row),
        }
    }

    pub(super) fn entry(&self, n: u32, row: &Row) -> Result<Entry> {
        let entry = entry::decode(row, self.text(n, row)?);
        entry.ok_or_else(|| match self {
            Self::Memory(_) => not_there(),
            Self::Run(run) => run.corrupt(u64::from(n) * ROW as u64, "not an entry"),
        })
    }

    pub(super) fn find_uid(&self, uid: Uid) -> Result<Option<Found>> {
        match self {
            Self::Memory(memory) => Ok(memory.by_uid.get(&uid).copied()),
            Self::Run(run) => match run.find_uid(uid)? {
                Some(row) => Ok(Some(Found::Row(row))),
                None => Ok(run.is_gone(uid)?.then_some(Found::Gone)),
            },
        }
    }

    /// The rows of sessions whose key may be the one with this sum.
    pub(super) fn find_key(&self, key: u32) -> Result<Vec<u32>> {
        match self {
            Self::Memory(memory) => {
                let same =
                    |text: &Range<usize>| memory.bytes.get(text.clone()).and_then(entry::key_sum_of) == Some(key);
                Ok((0..).zip(&memory.rows).filter(|(_, (_, text))| same(text)).map(|(n, _)| n).collect())
            }
            Self::Run(run) => {
                run.find(Table::Key, key)?.map(|n| run.pair(Table::Key, n).map(|pair| pair.row)).collect()
            }
        }
    }

    /// The number of the first row that does not come before `order`.
    pub(super) fn first_from(&self, order: Order) -> Result<u32> {
        let (mut from, mut to) = (0, self.rows());
        while from < to {
            let middle = from + (to - from) / 2;
            if self.row(middle)?.order() < order { from = middle + 1 } else { to = middle }
        }
        Ok(from)
    }

    /// The sessions that this level says are gone, in no order.
    fn gone(&self) -> Result<Vec<Uid>> {
        match self {
            Self::Memory(memory) => {
                Ok(memory.by_uid.iter().filter(|(_, found)| **found == Found::Gone).map(|(uid, _)| *uid).collect())
            }
            Self::Run(run) => (0..run.gone()).map(|n| run.gone_uid(n)).collect(),
        }
    }
}

/// A checksum fits, but what it covers was not written by [`entry::encode_text`].
fn not_there() -> Error {
    Error::corrupt(Path::new("index/tail"), 0, "not an entry")
}

/// Whether one of the newer levels says something of this session.
pub(super) fn shadowed(newer: &[Level], uid: Uid) -> Result<bool> {
    for level in newer {
        if level.find_uid(uid)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes what `levels`, the newest first, say together. `bottom` says that there is no older level, so that
/// removals have nothing left to hide.
pub(super) fn merge(levels: &[Level], bottom: bool, out: &mut Writer) -> Result<()> {
    let mut next: Vec<(u32, Option<Row>)> =
        levels.iter().map(|level| Ok((0, first(level, 0)?))).collect::<Result<_>>()?;
    loop {
        let heads = next.iter().enumerate().filter_map(|(rank, (_, row))| Some((row.as_ref()?.order(), rank)));
        let Some((_, rank)) = heads.min() else { break };
        let (Some(level), Some((n, head))) = (levels.get(rank), next.get_mut(rank)) else { break };
        if let Some(row) = head.take()
            && !shadowed(&levels[..rank], row.uid)?
        {
            out.add(row, level.text(*n, &row)?)?;
        }
        *n += 1;
        *head = first(level, *n)?;
    }
    if !bottom {
        for (rank, level) in levels.iter().enumerate() {
            for uid in level.gone()? {
                if !shadowed(&levels[..rank], uid)? {
                    out.add_gone(uid);
                }
            }
        }
    }
    Ok(())
}

fn first(level: &Level, n: u32) -> Result<Option<Row>> {
    if n < level.rows() { level.row(n).map(Some) } else { Ok(None) }
}
