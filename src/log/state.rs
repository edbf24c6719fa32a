//! What the engine remembers of a transcript, so that it need not be read again: kept in memory while it is open, in the
//! map between.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map as Object, Value};

use super::ends::{self, Ends, Seen};
use super::files::read_checkpoint;
use super::large::{self, Look};
use super::lineage::{Ancestor, Extent, View};
use super::note::{Known, Note};
use super::transcript::{Move, MovedFiles, Tip, Transcript};
use super::walk::{Walk, Walked, each_line, is_inside, not_inside};
use crate::Summary;
use crate::digest::Digest;
use crate::disk::{Disk, How, Mapped};
use crate::error::{Error, Result};
use crate::format::control::{self, Repair};
use crate::format::line::{Link, Whole, kind};
use crate::format::map::{self, MapBytes, MapHead, Sample, SampleRow, Section, hash_id};
use crate::ids::{Offset, Position, RecordId, Uid};
use crate::time::Timestamp;

/// Samples are at least this far apart.
pub(crate) const STRIDE: u64 = 1 << 20;

/// While a transcript is written, maps are at least this far apart: one costs about 0.1 ms, and reading this much again, after a
/// kill, 2 ms.
const LIVE_STRIDE: u64 = 8 << 20;

/// A map file.
type Map = MapBytes<Mapped>;

/// What is remembered of one transcript up to its tip.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tip: Tip,
    /// After the last line that is not of a kind with `x`: an `xclose` may be lost in a power cut, and means nothing to a list.
    pub(crate) settled: Tip,
    /// Time of the last record that is the caller's, as it stands there.
    updated: [u8; Timestamp::LEN],
    /// The session's metadata, in main transcripts.
    pub(crate) meta: Object<String, Value>,
    /// The digest at the tip, unless it has yet to be made.
    pub(crate) summary: Option<Summary>,
    /// Covers the front of the file.
    map: Option<Arc<Map>>,
    /// Samples behind the map's.
    samples: Vec<Sample>,
    /// Where the next sample is due.
    sample_from: u64,
    /// Hash and start of records with an id, behind the map's.
    ids: HashMap<u64, Vec<u64>>,
    /// Ids of ancestors that have no map.
    ancestors: HashMap<Uid, HashMap<u64, Vec<u64>>>,
}

/// Where a transcript's map is.
pub(crate) fn map_path(transcript: &Path) -> PathBuf {
    transcript.with_extension("map")
}

/// The name under which a digest's states are kept.
fn digest_name(digest: &dyn Digest) -> String {
    format!("{}/{}", digest.name(), digest.version())
}

/// Opens the map of `transcript`, if there is one that fits it.
fn open_map(disk: &dyn Disk, transcript: &Transcript) -> Option<Arc<Map>> {
    let file = disk.open(&map_path(&transcript.path), How::Read).ok()?;
    let map = MapBytes::new(file.map().ok()?)?;
    let head = &map.head;
    let tip = Tip { link: head_link(head), records: head.records, moved: head.moved.get() };
    let fits = head.uid == transcript.header.uid
        && transcript.first.end <= tip.link.end
        && transcript.fits(&transcript.position(&tip)).ok()?;
    fits.then(|| Arc::new(map))
}

fn head_link(head: &MapHead) -> Link {
    Link { end: head.len.get(), crc: head.crc, synced: head.synced.get(), more: false }
}

impl State {
    /// Reads what is to be known of `transcript`, from its map and then from what the map does not cover.
    ///
    /// Cost: in proportion to what was written since the map.
    ///
    /// # Errors
    ///
    /// As [`ends::find`]; [`Error::Newer`] for a kind that is not known.
    pub(crate) fn read(disk: &dyn Disk, transcript: &Transcript, look: Look<'_>) -> Result<(Self, Ends)> {
        Self::read_from(disk, transcript, look, None)
    }

    /// [`State::read`], from what a marker's note says where that reaches further than the map. Ids and samples between the two are
    /// not known then: good for what a list shows, and for nothing else.
    pub(crate) fn read_from(
        disk: &dyn Disk,
        transcript: &Transcript,
        look: Look<'_>,
        note: Option<&Note>,
    ) -> Result<(Self, Ends)> {
        let mut state = Self::of_map(disk, transcript, look.digest);
        if let Some(known) = note.and_then(|note| note.known.as_ref()) {
            state.skip_to(transcript, known, look.digest)?;
        }
        let from = state.tip.link;
        let ends = ends::find(&transcript.file, &transcript.path, from, |seen| match seen {
            Seen::Line(start, whole) => state.line(transcript, start, whole, look),
            Seen::Gap(gap) => {
                state.tip.records += gap.records;
                state.tip.link = Link { end: gap.to.get(), crc: gap.chain, synced: state.tip.link.synced, more: false };
                state.settled = state.tip;
                Ok(())
            }
        })?;
        Ok((state, ends))
    }

    /// What the map alone says, or line 1.
    pub(crate) fn of_map(disk: &dyn Disk, transcript: &Transcript, digest: &dyn Digest) -> Self {
        Self::before(transcript, open_map(disk, transcript), digest)
    }

    /// Takes over what a note says, if it fits and reaches further.
    fn skip_to(&mut self, transcript: &Transcript, known: &Known, digest: &dyn Digest) -> Result<()> {
        let at = Position::from(known.at);
        let fits = known.digest == digest_name(digest)
            && at.uid == transcript.header.uid
            && at.offset.get() > self.tip.link.end
            && transcript.fits(&at)?;
        if fits {
            let link = Link { end: at.offset.get(), crc: at.crc, synced: known.synced, more: false };
            self.tip = Tip { link, records: at.records, moved: at.moved.get() };
            self.settled = self.tip;
            self.updated = known.updated.to_bytes();
            self.meta = known.meta.clone();
            self.summary = Some(known.summary.clone());
        }
        Ok(())
    }

    fn before(transcript: &Transcript, map: Option<Arc<Map>>, digest: &dyn Digest) -> Self {
        let mut state = Self {
            tip: transcript.start(),
            settled: transcript.start(),
            updated: transcript.created.to_bytes(),
            meta: Object::new(),
            // A fork's digest begins with that of its base, which is looked up when somebody asks.
            summary: transcript.header.base.is_none().then(Summary::default),
            map: None,
            samples: Vec::new(),
            sample_from: STRIDE,
            ids: HashMap::new(),
            ancestors: HashMap::new(),
        };
        if let Some(map) = map {
            let head = &map.head;
            state.sample_from += head.len.get();
            state.tip = Tip { link: head_link(head), records: head.records, moved: head.moved.get() };
            state.settled = state.tip;
            state.updated = head.updated.to_bytes();
            state.meta = head.meta.clone();
            state.summary = head.summary.clone().filter(|_| head.digest == digest_name(digest));
            state.map = Some(map);
        }
        state
    }

    /// Takes note of a line behind the tip; after an error, of nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`] and [`Error::Corrupt`] for a control record that cannot be believed.
    pub(crate) fn line(
        &mut self,
        transcript: &Transcript,
        start: u64,
        whole: &Whole<'_>,
        look: Look<'_>,
    ) -> Result<()> {
        let found = match whole.kind {
            kind::DATA | kind::LARGE => {
                if whole.kind == kind::LARGE {
                    large::reference(transcript, start, whole)?;
                }
                if let Some(id) = whole.id {
                    self.ids.entry(hash_id(id)).or_default().push(start);
                }
                // Where a payload cannot be read now, the digest is made when somebody asks.
                let observed = self.summary.as_mut().map(|summary| look.observe(summary, transcript, start, whole));
                if let Some(Err(_)) = observed {
                    self.summary = None;
                }
                None
            }
            kind::META => {
                let patch = serde_json::from_slice(whole.payload).ok();
                let Some(Value::Object(patch)) = patch else { return Err(transcript.newer(start, whole.kind)) };
                merge(&mut self.meta, patch);
                None
            }
            kind::REWIND | kind::UNDO | kind::REDO => {
                let found = transcript.read_move(start, whole)?;
                // It may name a later one, which a gap has swallowed.
                if found.is_some_and(|found| found.moved < self.tip.moved) {
                    return Err(transcript.corrupt(start, "a head move passes over the one before it"));
                }
                if found.is_some_and(|found| found.files != MovedFiles::Alone) {
                    self.summary = None;
                }
                found
            }
            kind::CHECKPOINT => {
                read_checkpoint(whole).ok_or_else(|| transcript.newer(start, whole.kind))?;
                None
            }
            kind::REPAIR => {
                let repair: Option<Repair> = control::decode(whole.payload);
                let repair = repair.ok_or_else(|| transcript.newer(start, whole.kind))?;
                if !repair.fits(start) {
                    return Err(transcript.corrupt(start, "the gaps of a repair are not in order before it"));
                }
                None
            }
            other if other.starts_with('x') => {
                self.tip.pass(start, whole, None);
                return Ok(());
            }
            other => return Err(transcript.newer(start, other)),
        };
        self.updated = whole.at.try_into().unwrap_or(self.updated);
        self.pass(start, whole, found.as_ref())
    }

    fn pass(&mut self, start: u64, whole: &Whole<'_>, found: Option<&Move>) -> Result<()> {
        self.tip.pass(start, whole, found);
        self.settled = self.tip;
        if !whole.link.more {
            self.sample();
        }
        Ok(())
    }

    /// Takes a sample at the tip where the last one is far enough away.
    fn sample(&mut self) {
        if self.tip.link.end >= self.sample_from {
            let Tip { link, records, moved } = self.tip;
            self.samples.push(Sample { link, records, moved, digest: self.summary.clone() });
            self.sample_from = link.end + STRIDE;
        }
    }

    /// Time of the last record that is the caller's.
    pub(crate) fn updated(&self) -> Timestamp {
        Timestamp::of_line(&self.updated)
    }

    /// Bytes behind the map. A writer that closes makes a new map when they are more than a [`STRIDE`], so that the next open is
    /// quick; that costs 16 bytes for every id there is.
    pub(crate) fn uncovered(&self) -> u64 {
        self.tip.link.end - self.map.as_ref().map_or(0, |map| map.head.len.get())
    }

    /// Whether enough has been written since the map that a new one is worth its cost: then the cost of all maps together stays in
    /// proportion to what was written.
    pub(crate) fn wants_map(&self) -> bool {
        self.uncovered() >= LIVE_STRIDE.max(self.tip.link.end / 16)
    }

    /// Replaces the map by one that covers the transcript up to the tip. Not synced: a torn map is no map.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] and [`Error::Io`]; the old map is still there.
    pub(crate) fn write_map(
        &mut self,
        disk: &dyn Disk,
        transcript: &Transcript,
        digest: &dyn Digest,
        now: Timestamp,
    ) -> Result<()> {
        let head = MapHead {
            format: crate::format::VERSION,
            uid: transcript.header.uid,
            len: Offset(self.settled.link.end),
            crc: self.settled.link.crc,
            synced: Offset(self.settled.link.synced),
            records: self.settled.records,
            moved: Offset(self.settled.moved),
            updated: self.updated(),
            digest: digest_name(digest),
            summary: self.summary.clone(),
            meta: self.meta.clone(),
            samples: Section::default(),
            states: Section::default(),
            ids: Section::default(),
        };
        let old = self.map.as_ref();
        let same_digest = old.is_some_and(|old| old.head.digest == head.digest);
        let mut samples: Vec<Sample> = Vec::new();
        for row in old.and_then(|old| old.samples()).unwrap_or_default() {
            let digest = old.filter(|_| same_digest).and_then(|old| old.digest(&row));
            samples.push(Sample { link: row.link, records: row.records, moved: row.moved, digest });
        }
        samples.append(&mut self.samples.clone());
        let Some(mut ids) = old.map_or(Some(Vec::new()), |old| old.all_ids()) else {
            self.map = None;
            return Ok(());
        };
        ids.extend(self.ids.iter().flat_map(|(hash, starts)| starts.iter().map(|start| (*hash, *start))));
        let bytes = map::encode(head, &samples, &mut ids, now);
        let path = map_path(&transcript.path);
        let temp = path.with_extension("map.tmp");
        let io = |source| Error::io("write", &temp, source);
        let file = disk.open(&temp, How::Create).map_err(io)?;
        // A file that is cut to nothing, or renamed over another, ext4 writes out at once, and whoever removes it next waits for
        // that. Without a map, should this stop here, the next open takes longer.
        if !file.is_empty().map_err(io)? {
            file.set_len(0).map_err(io)?;
        }
        file.write_at(&bytes, 0).map_err(io)?;
        let _ = disk.remove_file(&path);
        disk.rename(&temp, &path).map_err(|source| Error::io("write", &path, source))?;
        if let Some(map) = file.map().ok().and_then(MapBytes::new) {
            self.sample_from = map.head.len.get() + STRIDE;
            self.map = Some(Arc::new(map));
            self.samples.clear();
            self.ids = HashMap::new();
        }
        Ok(())
    }

    /// The digest of `view`, of which the tip of `transcript` need not be the end.
    ///
    /// Cost: one read of what lies behind the last sample in the view.
    ///
    /// # Errors
    ///
    /// As reading the view.
    pub(crate) fn digest_of(
        &self,
        disk: &dyn Disk,
        transcript: &Transcript,
        view: &View,
        look: Look<'_>,
    ) -> Result<Summary> {
        let mut summary = Summary::default();
        let mut first = (0, None);
        for (index, extent) in view.extents.iter().enumerate().rev() {
            if let Some((link, known)) = self.known_digest(disk, transcript, extent, look.digest)? {
                summary = known;
                first = (index, Some(link));
                break;
            }
        }
        for extent in view.extents.iter().skip(first.0) {
            let source = extent.source.open(disk)?;
            let from = first.1.take().unwrap_or(extent.from);
            each_line(&source, from, extent.to, |start, whole| match kind::is_record(whole.kind) {
                true => look.observe(&mut summary, &source, start, whole),
                false => Ok(()),
            })?;
        }
        Ok(summary)
    }

    /// The last place in `extent` where the digest is known.
    fn known_digest(
        &self,
        disk: &dyn Disk,
        transcript: &Transcript,
        extent: &Extent,
        digest: &dyn Digest,
    ) -> Result<Option<(Link, Summary)>> {
        let within =
            |link: &Link, moved: u64| extent.from.end < link.end && link.end <= extent.to && moved == extent.moved;
        let own = extent.source.uid == transcript.header.uid;
        if own {
            let sample =
                self.samples.iter().rev().find(|sample| within(&sample.link, sample.moved) && sample.digest.is_some());
            if let Some(Sample { link, digest: Some(known), .. }) = sample {
                return Ok(Some((*link, known.clone())));
            }
        }
        let Some(map) = self.map_of(disk, transcript, &extent.source)? else { return Ok(None) };
        if map.head.digest != digest_name(digest) {
            return Ok(None);
        }
        if let Some(summary) = map.head.summary.clone().filter(|_| within(&head_link(&map.head), map.head.moved.get()))
        {
            return Ok(Some((head_link(&map.head), summary)));
        }
        let rows = map.samples().unwrap_or_default();
        let known = |row: &SampleRow| Some((row.link, map.digest(row)?));
        Ok(rows.iter().rev().filter(|row| within(&row.link, row.moved)).find_map(known))
    }

    /// The map of a file of the lineage.
    fn map_of(&self, disk: &dyn Disk, transcript: &Transcript, source: &Ancestor) -> Result<Option<Arc<Map>>> {
        if source.uid == transcript.header.uid {
            return Ok(self.map.clone());
        }
        Ok(open_map(disk, &source.open(disk)?))
    }

    /// The last place of `extent` from which reading can start, with its Seq, that is not behind `goal`.
    pub(crate) fn place_before(
        &self,
        disk: &dyn Disk,
        transcript: &Transcript,
        extent: &Extent,
        goal: Goal,
    ) -> Result<(Link, u64)> {
        let within = |link: &Link, records: u64, moved: u64| {
            let inside = extent.from.end < link.end && link.end <= extent.to && moved == extent.moved;
            inside && goal.is_ahead(link.end, records)
        };
        if extent.source.uid == transcript.header.uid {
            let sample = self.samples.iter().rev().find(|sample| within(&sample.link, sample.records, sample.moved));
            if let Some(sample) = sample {
                return Ok((sample.link, sample.records));
            }
        }
        let map = self.map_of(disk, transcript, &extent.source)?;
        let rows = map.and_then(|map| map.samples()).unwrap_or_default();
        let row = rows.iter().rev().find(|row| within(&row.link, row.records, row.moved));
        Ok(row.map_or((extent.from, extent.first), |row| (row.link, row.records)))
    }

    /// The position in `extent` at `goal`; `None` when the extent ends before it, or no line ends there.
    ///
    /// Cost: one read of what lies behind the last sample before it.
    pub(crate) fn position_at(
        &self,
        disk: &dyn Disk,
        transcript: &Transcript,
        extent: &Extent,
        goal: Goal,
    ) -> Result<Option<Position>> {
        let (from, mut records) = self.place_before(disk, transcript, extent, goal)?;
        let source = extent.source.open(disk)?;
        let mut found = goal.is_reached(from, records).then_some((from, records));
        let mut walk = Walk::new(source.clone(), from, extent.to);
        while found.is_none() {
            match walk.next()? {
                Walked::Line(start, whole) => {
                    if !is_inside(whole.kind) {
                        return Err(not_inside(&source, start, whole.kind));
                    }
                    records += u64::from(kind::is_record(whole.kind));
                }
                Walked::Gap(gap) => records += gap.records,
                Walked::End => break,
            }
            let link = walk.link();
            if goal.is_reached(link, records) {
                found = Some((link, records));
            } else if !goal.is_ahead(link.end, records) {
                break;
            }
        }
        let position = |(link, records): (Link, u64)| source.position(&Tip { link, records, moved: extent.moved });
        Ok(found.map(position))
    }

    /// Where the record of `view` with this id starts: the extent's place in the view, and the offset.
    ///
    /// Cost: a look-up in the maps, and a read of each record whose id has the same hash. An ancestor without a map is read once.
    pub(crate) fn find_id(
        &mut self,
        disk: &dyn Disk,
        transcript: &Transcript,
        view: &View,
        id: &RecordId,
    ) -> Result<Option<(usize, u64)>> {
        let hash = hash_id(id.as_str());
        for (index, extent) in view.extents.iter().enumerate().rev() {
            for start in self.candidates(disk, transcript, extent, hash)? {
                if start < extent.from.end || extent.to <= start {
                    continue;
                }
                let source = extent.source.open(disk)?;
                let holds = || source.line_at(start, |whole| Ok(whole.id == Some(id.as_str())));
                // A bit that is read wrong once must not hide a record: it would be appended again.
                let found = match holds() {
                    Err(Error::Corrupt { .. }) => holds().or_else(not_here)?,
                    found => found?,
                };
                if found {
                    return Ok(Some((index, start)));
                }
            }
        }
        Ok(None)
    }

    /// Starts of records of the extent's file whose id has this hash.
    fn candidates(&mut self, disk: &dyn Disk, transcript: &Transcript, extent: &Extent, hash: u64) -> Result<Vec<u64>> {
        let source = &extent.source;
        if source.uid == transcript.header.uid {
            let Some(mut found) = self.map.as_ref().map_or(Some(Vec::new()), |map| map.ids(hash)) else {
                self.relearn_ids(transcript)?;
                return Ok(self.ids.get(&hash).cloned().unwrap_or_default());
            };
            found.extend(self.ids.get(&hash).into_iter().flatten());
            return Ok(found);
        }
        if let Slot::Vacant(slot) = self.ancestors.entry(source.uid) {
            let file = source.open(disk)?;
            let map = open_map(disk, &file);
            let from = map.as_ref().map_or(file.first, |map| head_link(&map.head));
            let known = map.as_ref().map_or(Some(Vec::new()), |map| map.all_ids());
            let from = if known.is_some() { from } else { file.first };
            let mut ids: HashMap<u64, Vec<u64>> = HashMap::new();
            for (hash, start) in known.unwrap_or_default() {
                ids.entry(hash).or_default().push(start);
            }
            if from.end < source.limit.offset.get() {
                collect_ids(&file, from, source.limit.offset.get(), &mut ids)?;
            }
            slot.insert(ids);
        }
        Ok(self.ancestors.get(&source.uid).and_then(|ids| ids.get(&hash)).cloned().unwrap_or_default())
    }

    /// Reads all ids from the transcript, since the map's are damaged.
    fn relearn_ids(&mut self, transcript: &Transcript) -> Result<()> {
        let mut ids = HashMap::new();
        collect_ids(transcript, transcript.first, self.tip.link.end, &mut ids)?;
        (self.ids, self.map) = (ids, None);
        Ok(())
    }
}

/// A place that holds no good line holds no record with the id that is looked for.
fn not_here(error: Error) -> Result<bool> {
    match error {
        Error::Corrupt { .. } => Ok(false),
        other => Err(other),
    }
}

fn collect_ids(source: &Transcript, from: Link, to: u64, ids: &mut HashMap<u64, Vec<u64>>) -> Result<()> {
    each_line(source, from, to, |start, whole| {
        if let Some(id) = whole.id {
            ids.entry(hash_id(id)).or_default().push(start);
        }
        Ok(())
    })
}

/// A place that is looked for in an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// After so many records of the view.
    Records(u64),
    /// At this offset.
    Offset(u64),
}

impl Goal {
    fn is_reached(self, link: Link, records: u64) -> bool {
        match self {
            Self::Records(goal) => records == goal,
            Self::Offset(goal) => link.end == goal,
        }
    }

    /// Whether it is found by reading on from here. Behind the record that is looked for may stand lines that are none, which its place is
    /// not behind.
    fn is_ahead(self, end: u64, records: u64) -> bool {
        match self {
            Self::Records(goal) => records < goal,
            Self::Offset(goal) => end <= goal,
        }
    }
}

/// Applies a merge patch (RFC 7396) to an object.
pub(crate) fn merge(into: &mut Object<String, Value>, patch: Object<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(into.remove(&name)),
            Value::Object(patch) => {
                let member = into.entry(name).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Object::new());
                }
                if let Value::Object(member) = member {
                    merge(member, patch);
                }
            }
            value => drop(into.insert(name, value)),
        }
    }
}
