//! The bytes of one file: what a reader sees, what is on stable storage, and what a power cut makes of the difference.

use std::ops::Range;
use std::sync::Arc;

use crate::rng::{Rng, derive};

/// What devices write whole, as far as anybody promises.
const SECTOR: usize = 512;

/// A file's bytes. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    live: Arc<Vec<u8>>,
    stable: Arc<Vec<u8>>,
    /// Every write and cut since `stable`, in order.
    ///
    /// Invariant: unless `diverged`, these applied to `stable` give `live`.
    pending: Vec<Change>,
    /// Set once a failed sync has dropped changes that `live` still shows.
    diverged: bool,
    /// What is written here never gets to stable storage, although syncs succeed, until the file is cut before it, or what is known of it is
    /// forgotten.
    unwritten: Vec<Range<usize>>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

/// What happens to the unsynced changes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Lengths are kept, written bytes are not: what grew is zeros.
    Sizes,
    /// Any subset, torn anywhere, as the seed says.
    Random(u64),
}

impl Content {
    /// A file that is on stable storage as it is.
    pub(crate) fn stable(bytes: Arc<Vec<u8>>) -> Self {
        Self { live: Arc::clone(&bytes), stable: bytes, ..Self::default() }
    }

    pub(crate) fn live(&self) -> &Arc<Vec<u8>> {
        &self.live
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether a power cut can change anything.
    pub(crate) fn is_stable(&self) -> bool {
        self.pending.is_empty() && !self.diverged
    }

    pub(crate) fn write(&mut self, bytes: &[u8], at: usize) {
        if bytes.is_empty() {
            return;
        }
        put(Arc::make_mut(&mut self.live), bytes, at);
        let mut stored: Arc<[u8]> = bytes.into();
        for hole in &self.unwritten {
            let (from, to) = (hole.start.max(at), hole.end.min(at + bytes.len()));
            if from < to {
                Arc::make_mut(&mut stored)[from - at..to - at].fill(0);
            }
        }
        self.pending.push(Change::Write { at, bytes: stored });
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        Arc::make_mut(&mut self.live).resize(len, 0);
        self.pending.push(Change::SetLen(len));
        self.look_again(len);
    }

    /// Forgets what was read from the device, or was written to it, from `from` on: what a failed sync has dropped is seen no more.
    pub(crate) fn forget(&mut self, from: usize) {
        let device = self.after(Fate::Kept);
        let from = from.min(self.live.len());
        let live = Arc::make_mut(&mut self.live);
        for (at, byte) in live.iter_mut().enumerate().skip(from) {
            *byte = device.get(at).copied().unwrap_or(0);
        }
        self.diverged = device != self.live;
        self.look_again(from);
    }

    fn look_again(&mut self, from: usize) {
        self.unwritten.iter_mut().for_each(|hole| hole.end = hole.end.min(from));
        self.unwritten.retain(|hole| hole.start < hole.end);
    }

    /// Makes every pending change stable. What a failed sync has dropped before stays dropped.
    pub(crate) fn sync(&mut self) {
        self.stable = self.after(Fate::Kept);
        self.pending.clear();
    }

    /// What a failed sync does on ext4 and XFS: the changes meet their fate now and count as clean afterwards, while
    /// readers go on seeing them.
    pub(crate) fn drop_dirty(&mut self, fate: Fate) {
        self.stable = self.after(fate);
        self.pending.clear();
        self.diverged = self.stable != self.live;
    }

    /// What it does on ext4 besides, where the file had grown: what is written there again counts as written, and is not
    /// (Linux 6.18; docs/RELIABILITY.md).
    pub(crate) fn drop_dirty_for_good(&mut self) {
        let before = self.stable.len();
        self.drop_dirty(Fate::Lost);
        self.unwritten.push(before..self.live.len());
    }

    /// Changes the bytes behind everybody's back, on stable storage and for readers.
    pub(crate) fn damage(&mut self, change: impl Fn(&mut Vec<u8>)) {
        change(Arc::make_mut(&mut self.live));
        change(Arc::make_mut(&mut self.stable));
    }

    /// The bytes that a power cut leaves.
    pub(crate) fn after(&self, fate: Fate) -> Arc<Vec<u8>> {
        match fate {
            Fate::Lost => Arc::clone(&self.stable),
            _ if self.pending.is_empty() => Arc::clone(&self.stable),
            Fate::Kept if !self.diverged => Arc::clone(&self.live),
            Fate::Kept => self.each(|_, _| Outcome::Whole),
            Fate::Sizes => self.each(|_, _| Outcome::SizeOnly),
            Fate::Random(seed) => self.random(&mut Rng::new(seed)),
        }
    }

    fn random(&self, rng: &mut Rng) -> Arc<Vec<u8>> {
        let one = rng.below(self.pending.len());
        match rng.below(8) {
            0 => self.after(Fate::Lost),
            1 => self.after(Fate::Kept),
            2 => self.after(Fate::Sizes),
            // Writes arrived in order, and the last of them was cut short.
            3 => self.each(|i, change| match i.cmp(&one) {
                std::cmp::Ordering::Less => Outcome::Whole,
                std::cmp::Ordering::Equal => Outcome::torn(change, rng),
                std::cmp::Ordering::Greater => Outcome::Lost,
            }),
            // One change is missing in the middle, or only one has arrived.
            4 => self.each(|i, change| if i == one { Outcome::not_whole(change, rng) } else { Outcome::Whole }),
            5 => self.each(|i, change| if i == one { Outcome::any(change, rng) } else { Outcome::Lost }),
            6 => self.each(|_, change| Outcome::any(change, rng)),
            _ => self.by_sector(rng.bits()),
        }
    }

    fn each(&self, mut outcome: impl FnMut(usize, &Change) -> Outcome) -> Arc<Vec<u8>> {
        let mut left = Left { data: self.stable.to_vec(), len: self.stable.len() };
        for (i, change) in self.pending.iter().enumerate() {
            left.apply(change, outcome(i, change));
        }
        left.finish()
    }

    /// Each sector is as it was at some moment since the last sync, and so is the length, each at its own moment.
    fn by_sector(&self, seed: u64) -> Arc<Vec<u8>> {
        let moments = self.pending.len() + 1;
        let moment = |sector: usize| Rng::new(derive(seed, sector as u64)).below(moments);
        let mut data = self.stable.to_vec();
        let mut len = data.len();
        let len_moment = moment(usize::MAX);
        for (i, change) in self.pending.iter().enumerate() {
            let (from, to) = match change {
                Change::Write { at, bytes } => (*at, at + bytes.len()),
                Change::SetLen(to) => (*to, data.len().max(*to)),
            };
            for (start, end) in sectors(from, to).filter(|(start, _)| i < moment(start / SECTOR)) {
                match change {
                    Change::Write { bytes, .. } => put(&mut data, &bytes[start - from..end - from], start),
                    Change::SetLen(_) => put(&mut data, &vec![0; end - start], start),
                }
            }
            if i < len_moment {
                len = match change {
                    Change::Write { .. } => len.max(to),
                    Change::SetLen(to) => *to,
                };
            }
        }
        Left { data, len }.finish()
    }
}

/// How one change came through a power cut.
#[derive(Clone, Debug)]
enum Outcome {
    Lost,
    Whole,
    SizeOnly,
    /// The bytes are on the device and the length does not count them, unless a later change does.
    DataOnly,
    /// These pieces of the bytes, as offsets into them, and the file counts this many of them.
    Torn {
        pieces: Vec<(usize, usize)>,
        counted: usize,
    },
}

impl Outcome {
    fn any(change: &Change, rng: &mut Rng) -> Self {
        if rng.chance(2, 5) { Self::Whole } else { Self::not_whole(change, rng) }
    }

    fn not_whole(change: &Change, rng: &mut Rng) -> Self {
        match rng.below(6) {
            0 | 1 => Self::Lost,
            2 => Self::SizeOnly,
            3 => Self::DataOnly,
            _ => Self::torn(change, rng),
        }
    }

    fn torn(change: &Change, rng: &mut Rng) -> Self {
        let Change::Write { at, bytes } = change else { return Self::Lost };
        let (len, end) = (bytes.len(), at + bytes.len());
        let byte = rng.below(len + 1);
        let pieces = match rng.below(4) {
            0 => vec![(0, byte)],
            1 => vec![(byte, len)],
            2 => sectors(*at, end).take_while(|_| rng.chance(3, 4)).map(|(s, e)| (s - at, e - at)).collect(),
            _ => sectors(*at, end).filter(|_| rng.chance(1, 2)).map(|(s, e)| (s - at, e - at)).collect(),
        };
        let last: usize = pieces.last().map_or(0, |&(_, to)| to);
        let counted = [0, last, len, rng.below(len + 1)][rng.below(4)];
        Self::Torn { pieces, counted }
    }
}

/// A file under reconstruction: the bytes on the device, and how many of them the file counts.
struct Left {
    data: Vec<u8>,
    len: usize,
}

impl Left {
    fn apply(&mut self, change: &Change, outcome: Outcome) {
        match (change, outcome) {
            (_, Outcome::Lost) => {}
            // A cut has no data of its own: it has happened or it has not.
            (Change::SetLen(_), Outcome::DataOnly | Outcome::Torn { .. }) => {}
            (Change::SetLen(len), Outcome::Whole | Outcome::SizeOnly) => {
                self.data.truncate(*len);
                self.len = *len;
            }
            (Change::Write { at, bytes }, Outcome::Whole) => {
                put(&mut self.data, bytes, *at);
                self.len = self.len.max(at + bytes.len());
            }
            (Change::Write { at, bytes }, Outcome::SizeOnly) => self.len = self.len.max(at + bytes.len()),
            (Change::Write { at, bytes }, Outcome::DataOnly) => put(&mut self.data, bytes, *at),
            (Change::Write { at, bytes }, Outcome::Torn { pieces, counted }) => {
                for (from, to) in pieces {
                    put(&mut self.data, &bytes[from..to], at + from);
                }
                if counted > 0 {
                    self.len = self.len.max(at + counted);
                }
            }
        }
    }

    fn finish(mut self) -> Arc<Vec<u8>> {
        self.data.resize(self.len, 0);
        Arc::new(self.data)
    }
}

fn put(data: &mut Vec<u8>, bytes: &[u8], at: usize) {
    if bytes.is_empty() {
        return;
    }
    let end = at + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at..end].copy_from_slice(bytes);
}

/// The range, broken at sector boundaries.
fn sectors(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / SECTOR + 1) * SECTOR).min(to);
        (start < to).then_some((start, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(content: &Content, seed: u64) -> Vec<u8> {
        content.after(Fate::Random(seed)).to_vec()
    }

    fn stable(bytes: &[u8]) -> Content {
        Content::stable(Arc::new(bytes.to_vec()))
    }

    #[test]
    fn canonical_fates() {
        let mut file = stable(b"old");
        file.write(b"new", 3);
        assert_eq!(**file.after(Fate::Lost), *b"old");
        assert_eq!(**file.after(Fate::Kept), *b"oldnew");
        assert_eq!(**file.after(Fate::Sizes), *b"old\0\0\0");
        file.sync();
        assert!(file.is_stable());
        assert_eq!(**file.after(Fate::Lost), *b"oldnew");
    }

    #[test]
    fn a_failed_sync_drops_what_readers_still_see_and_the_next_one_lies() {
        let mut file = stable(b"old");
        file.write(b"gone", 3);
        file.drop_dirty(Fate::Lost);
        assert_eq!(**file.live(), *b"oldgone");
        assert!(!file.is_stable());
        file.sync();
        assert_eq!(**file.after(Fate::Kept), *b"old");
        file.write(b"kept", 7);
        file.sync();
        assert_eq!(**file.live(), *b"oldgonekept");
        assert_eq!(**file.after(Fate::Lost), *b"old\0\0\0\0kept");
    }

    #[test]
    fn what_is_written_again_where_a_sync_failed_is_kept_only_after_a_cut_or_another_look() {
        let lost = || {
            let mut file = stable(b"old");
            file.write(b"gone", 3);
            file.drop_dirty_for_good();
            file
        };
        let mut file = lost();
        file.forget(3);
        assert_eq!(**file.live(), *b"old\0\0\0\0");
        file.write(b"kept", 3);
        file.sync();
        assert_eq!(**file.after(Fate::Lost), *b"oldkept");
        let mut file = lost();
        file.write(b"Xgone", 2);
        file.sync();
        assert_eq!(**file.live(), *b"olXgone");
        assert_eq!(**file.after(Fate::Lost), *b"olX\0\0\0\0");
        file.set_len(3);
        file.write(b"kept", 3);
        file.sync();
        assert_eq!(**file.after(Fate::Lost), *b"olXkept");
    }

    /// Whatever happens, a byte is the synced one, or was written there since, or is a zero that growth left.
    #[test]
    fn no_byte_comes_from_nowhere() {
        for seed in 0..3000 {
            let mut rng = Rng::new(seed);
            let mut file = stable(&vec![b's'; rng.below(1500)]);
            let synced = file.live().to_vec();
            let mut lens = vec![synced.len()];
            let mut lowest = synced.len();
            let mut writes: Vec<(usize, usize, u8)> = Vec::new();
            for n in 0..=rng.below(6) {
                if rng.chance(1, 3) {
                    file.set_len(rng.below(2000));
                } else {
                    let letter = b'A' + u8::try_from(n).expect("few");
                    let (at, len) = (rng.below(1500), 1 + rng.below(1200));
                    file.write(&vec![letter; len], at);
                    writes.push((at, at + len, letter));
                }
                lens.push(file.len());
                lowest = lowest.min(file.len());
            }
            assert_eq!(**file.each(|_, _| Outcome::Whole), **file.live(), "seed {seed}");
            for image in 0..20 {
                let left = random(&file, derive(seed, image));
                let most = writes.iter().map(|w| w.1).chain(lens.iter().copied()).max().unwrap_or(0);
                assert!(lowest <= left.len() && left.len() <= most, "seed {seed}/{image}: length {}", left.len());
                for (i, &byte) in left.iter().enumerate() {
                    let was = synced.get(i) == Some(&byte);
                    let written = writes.iter().any(|&(from, to, letter)| (from..to).contains(&i) && letter == byte);
                    let grown = byte == 0 && (i >= lowest);
                    assert!(was || written || grown, "seed {seed}/{image}: byte {i} is {byte}");
                }
            }
        }
    }

    fn finds(file: &Content, what: &str, mut wanted: impl FnMut(&[u8]) -> bool) {
        assert!((0..3000).any(|seed| wanted(&random(file, seed))), "never seen: {what}");
    }

    #[test]
    fn every_way_to_tear_is_met() {
        let mut file = stable(&[b's'; 100]);
        file.write(&[b'A'; 700], 100);
        file.write(&[b'B'; 700], 800);
        file.write(&[b'C'; 700], 1500);
        let has = |image: &[u8], letter: u8| image.contains(&letter);
        finds(&file, "nothing", |i| i.len() == 100);
        finds(&file, "everything", |i| i == &file.live()[..]);
        finds(&file, "the last without the first", |i| has(i, b'C') && !has(i, b'A'));
        finds(&file, "a hole in the middle", |i| has(i, b'A') && has(i, b'C') && i[800..1500].iter().all(|&b| b == 0));
        finds(&file, "only zeros", |i| i.len() == 2200 && i[100..].iter().all(|&b| b == 0));
        finds(&file, "a tail of zeros", |i| i.len() == 2200 && has(i, b'A') && i[2000..].iter().all(|&b| b == 0));
        finds(&file, "a length that splits a write at a byte", |i| {
            i.len() > 100 && i.len() < 800 && i.len() % 512 != 0
        });
        finds(&file, "a sector torn out", |i| {
            i.len() == 2200 && i[1023] == b'B' && i[1024..1500].iter().all(|&b| b == 0)
        });
        finds(&file, "bytes torn within a sector", |i| i.len() > 300 && i[100] == b'A' && i[300] == 0);
        finds(&file, "a front that is missing", |i| i.len() > 799 && i[100] == 0 && i[799] == b'A');
    }

    #[test]
    fn cuts_may_or_may_not_have_happened() {
        let mut file = stable(b"0123456789");
        file.set_len(4);
        finds(&file, "cut", |i| i == b"0123");
        finds(&file, "not cut", |i| i == b"0123456789");
        assert!((0..500).all(|seed| [4, 10].contains(&random(&file, seed).len())));
        file.write(b"new", 4);
        finds(&file, "the write without the cut", |i| i == b"0123new789");
        finds(&file, "the cut without the write", |i| i == b"0123");
        finds(&file, "the cut and the new length", |i| i == b"0123\0\0\0");
    }
}
