//! What to list: filters, cursors and pages.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Named};
use crate::format::entry::{Entry, parent_sum};
use crate::format::run::{Order, Row, flag, low, sum, tag_bits};
use crate::ids::{ProjectName, SessionKey, Uid};
use crate::time::Timestamp;

/// Which sessions to list. The default is all that are not archived.
///
/// A session is listed when every member that is set fits it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only sessions of this project. Costs what the project's own sessions cost, not all.
    pub project: Option<ProjectName>,
    /// Only sessions that have every one of these tags.
    pub tags_all: Vec<String>,
    /// Only sessions that have at least one of these tags. Empty asks for none.
    pub tags_any: Vec<String>,
    /// Only sessions created at this time or later.
    pub created_from: Option<Timestamp>,
    /// Only sessions created before this time.
    pub created_before: Option<Timestamp>,
    /// Only sessions updated at this time or later.
    pub updated_from: Option<Timestamp>,
    /// Only sessions updated before this time.
    pub updated_before: Option<Timestamp>,
    /// Only sessions that cost this much or more. One whose cost is not known does not fit.
    pub min_cost: Option<f64>,
    /// Only sessions that cost this much or less. One whose cost is not known does not fit.
    pub max_cost: Option<f64>,
    /// Only sessions of exactly this model.
    pub model: Option<String>,
    /// Only sessions with this text in title, summary or first prompt, whatever its case.
    pub text: Option<String>,
    /// Whether archived sessions are listed.
    pub archived: Archived,
    /// Only damaged sessions, or only sound ones.
    pub damaged: Option<bool>,
    /// Only forks of this session.
    pub parent: Option<SessionKey>,
}

/// Whether archived sessions are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Archived {
    /// They are not.
    #[default]
    Hidden,
    /// Only they are.
    Only,
    /// They are listed like all others.
    Shown,
}

impl Filter {
    /// Whether a session is listed.
    #[must_use]
    pub fn fits(&self, entry: &Entry) -> bool {
        let from = |bound: Option<Timestamp>, at| bound.is_none_or(|bound| bound <= at);
        let before = |bound: Option<Timestamp>, at| bound.is_none_or(|bound| at < bound);
        from(self.created_from, entry.created)
            && before(self.created_before, entry.created)
            && from(self.updated_from, entry.updated)
            && before(self.updated_before, entry.updated)
            && self.fits_flags(entry.archived, entry.damaged)
            && self.fits_cost(entry.total_cost.unwrap_or(f64::NAN))
            && self.fits_names(entry)
    }

    fn fits_flags(&self, archived: bool, damaged: bool) -> bool {
        let shown = match self.archived {
            Archived::Hidden => !archived,
            Archived::Only => archived,
            Archived::Shown => true,
        };
        shown && self.damaged.is_none_or(|wanted| wanted == damaged)
    }

    /// NaN stands for a cost that is not known, and fits no bound.
    fn fits_cost(&self, cost: f64) -> bool {
        self.min_cost.is_none_or(|min| min <= cost) && self.max_cost.is_none_or(|max| cost <= max)
    }

    /// The part that needs an entry's texts.
    fn fits_names(&self, entry: &Entry) -> bool {
        self.project.as_ref().is_none_or(|project| *project == entry.key.project)
            && self.tags_all.iter().all(|tag| entry.tags.contains(tag))
            && (self.tags_any.is_empty() || self.tags_any.iter().any(|tag| entry.tags.contains(tag)))
            && self.model.as_ref().is_none_or(|model| entry.model.as_ref() == Some(model))
            && self.parent.as_ref().is_none_or(|parent| entry.parent.as_ref() == Some(parent))
            && self.text.as_ref().is_none_or(|text| {
                let needle = text.to_lowercase();
                let has = |text: &Option<String>| text.as_ref().is_some_and(|text| contains(text, &needle));
                has(&entry.title) || has(&entry.summary) || has(&entry.first_prompt)
            })
    }
}

/// Whether `text` in lower case contains `needle`, which is in lower case.
fn contains(text: &str, needle: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(needle);
    }
    let needle = needle.as_bytes();
    let Some(first) = needle.first() else { return true };
    let starts = memchr::memchr2_iter(*first, first.to_ascii_uppercase(), text.as_bytes());
    starts.into_iter().any(|at| {
        let here = text.as_bytes().get(at..at + needle.len());
        here.is_some_and(|here| here.eq_ignore_ascii_case(needle))
    })
}

/// A [`Filter`] as far as rows alone can answer it: a row that it refuses does not fit, one that it lets through may.
#[derive(Debug)]
pub(super) struct Sieve<'a> {
    filter: &'a Filter,
    project: Option<u32>,
    tags_all: u64,
    tags_any: Vec<u64>,
    model: Option<u16>,
    parent: Option<u16>,
    created: (i64, i64),
}

impl<'a> Sieve<'a> {
    pub(super) fn new(filter: &'a Filter) -> Self {
        let ms = |at: Option<Timestamp>, none| at.map_or(none, Timestamp::as_millis);
        Self {
            filter,
            project: filter.project.as_ref().map(|project| sum(project.as_str())),
            tags_all: filter.tags_all.iter().fold(0, |bits, tag| bits | tag_bits(tag)),
            tags_any: filter.tags_any.iter().map(|tag| tag_bits(tag)).collect(),
            model: filter.model.as_ref().map(|model| low(sum(model))),
            parent: filter.parent.as_ref().map(parent_sum),
            created: (ms(filter.created_from, i64::MIN), ms(filter.created_before, i64::MAX)),
        }
    }

    /// The bits that a row must have for its tags; 0 where it need have none.
    pub(super) fn tags_all(&self) -> u64 {
        self.tags_all
    }

    /// The times, from the first up to the second, in which a row must be created.
    pub(super) fn created(&self) -> (i64, i64) {
        self.created
    }

    pub(super) fn lets_through(&self, row: &Row) -> bool {
        row.tags & self.tags_all == self.tags_all
            && self.filter.fits_flags(row.flags & flag::ARCHIVED != 0, row.flags & flag::DAMAGED != 0)
            && self.filter.fits_cost(row.cost)
            && self.created.0 <= row.created
            && row.created < self.created.1
            && self.project.is_none_or(|project| project == row.project)
            && self.model.is_none_or(|model| model == row.model)
            && self.parent.is_none_or(|parent| parent == row.parent)
            && (self.tags_any.is_empty() || self.tags_any.iter().any(|bits| row.tags & bits == *bits))
    }
}

/// A place between two pages of a list.
///
/// Opaque text; keep it as long as you like. It names the last session shown by time of update and uid, so sessions
/// that did not change in the meantime are neither skipped nor shown twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    updated: i64,
    uid: Uid,
}

impl Cursor {
    pub(super) fn after(entry: &Entry) -> Self {
        Self { updated: entry.updated.as_millis(), uid: entry.uid }
    }

    pub(super) fn order(self) -> Order {
        Order { updated: Reverse(self.updated), uid: self.uid }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{}", self.updated, self.uid)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::bad_name(Named::Cursor, text, "a cursor is what an earlier page gave as its next");
        let (updated, uid) = text.split_at_checked(16).ok_or_else(bad)?;
        let cursor = Self {
            updated: u64::from_str_radix(updated, 16).map_err(|_| bad())?.cast_signed(),
            uid: uid.parse().map_err(|_| bad())?,
        };
        if cursor.to_string() == text { Ok(cursor) } else { Err(bad()) }
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// The sessions, the most recently updated first, and by uid where times are equal.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` when there is none. The last page may turn out to be empty.
    pub next: Option<Cursor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_has_one_spelling() {
        for updated in [0, -1, i64::MIN, i64::MAX, 1_763_688_582_123] {
            let cursor = Cursor { updated, uid: Uid([0xab; 16]) };
            assert_eq!(cursor.to_string().parse::<Cursor>().expect("own text"), cursor);
        }
        let good = Cursor { updated: 0xabc, uid: Uid([0xab; 16]) }.to_string();
        for bad in ["", "x", &good.to_uppercase(), &good[1..], &format!("+{}", &good[1..]), &format!("{good}0")] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn text_is_found_whatever_its_case() {
        assert!(contains("Fix the BUG", "bug") && contains("", "") && contains("ÄRGER", "ärger"));
        assert!(!contains("Fix the BUG", "bugs") && !contains("aab", "ab!"));
        assert!(contains("aab", "ab"));
    }
}
