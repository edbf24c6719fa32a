//! One line of a transcript (FORMAT.md, section 3).
//!
//! ```text
//! {"at":"2026-11-21T01:29:42.123Z","id":"msg-1","data":PAYLOAD,"synced":"0000000f4240","more":1,"crc":"9ae0daaf"}␊
//! ```

use crc32fast::Hasher;

use crate::ids::Crc;
use crate::time::{Minute, Timestamp, is_time, is_time_in};

/// The longest line that is a line at all, line feed included.
pub(crate) const MAX_LEN: usize = 1 << 30;
/// Bytes from the start of a line that hold its predecessor's crc, counted back from the start.
pub(crate) const SEED_BACK: usize = 11;
/// The greatest promise that 12 digits can hold.
pub(crate) const MAX_SYNCED: u64 = (1 << 48) - 1;

const AT: &[u8] = b"{\"at\":\"";
const AFTER_AT: &[u8] = b"\",\"";
/// What every line begins with, whatever its time.
const HEAD: &[u8; HEAD_LEN] = b"{\"at\":\"0000-00-00T00:00:00.000Z\",\"";
const ID: &[u8] = b"id\":\"";
const SYNCED: &[u8] = b",\"synced\":\"";
const MORE: &[u8] = b",\"more\":1";
const CRC: &[u8] = b",\"crc\":\"";
const END: &[u8] = b"\"}\n";
/// What stands behind every payload, whatever it promises, before the checksum's digits.
const TAIL: &[u8; TAIL_LEN - 8 - END.len()] = b",\"synced\":\"000000000000\",\"crc\":\"";

/// Bytes before an id, or before the kind where there is no id.
const HEAD_LEN: usize = AT.len() + Timestamp::LEN + AFTER_AT.len();
/// Bytes of the shortest line: everything but the payload, with a kind of one letter, and a payload of one byte.
const MIN_LEN: usize = HEAD_LEN + 3 + 1 + TAIL_LEN;
/// Bytes after the payload of a line without `more`.
const TAIL_LEN: usize = SYNCED.len() + 12 + 1 + CRC.len() + 8 + END.len();
/// Bytes of a line's checksum member, and the end.
const CRC_LEN: usize = CRC.len() + 8 + END.len();
const _: () = assert!(CRC_LEN == 19 && SYNCED.len() + 12 + 1 == 24 && MORE.len() == 9);

/// Names of kinds.
pub(crate) mod kind {
    pub(crate) const HEADER: &str = "forklog";
    pub(crate) const DATA: &str = "data";
    pub(crate) const LARGE: &str = "large";
    pub(crate) const META: &str = "meta";
    pub(crate) const REWIND: &str = "rewind";
    pub(crate) const UNDO: &str = "undo";
    pub(crate) const REDO: &str = "redo";
    pub(crate) const CHECKPOINT: &str = "checkpoint";
    pub(crate) const REPAIR: &str = "repair";
    pub(crate) const CLOSE: &str = "xclose";
    pub(crate) const STORE: &str = "store";
    pub(crate) const MAP: &str = "map";
    pub(crate) const LIVE: &str = "live";

    /// Whether lines of this kind are records of the conversation.
    pub(crate) fn is_record(kind: &str) -> bool {
        kind == DATA || kind == LARGE
    }

    /// Kinds that are never followed by more of a batch.
    pub(super) const ALONE: [&str; 10] = [HEADER, REWIND, UNDO, REDO, CHECKPOINT, REPAIR, CLOSE, STORE, MAP, LIVE];
}

/// What is known of a file up to the end of some line, and what the next line is checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Where the next line starts.
    pub(crate) end: u64,
    /// The chained crc there.
    pub(crate) crc: Crc,
    /// The promise of the line before.
    pub(crate) synced: u64,
    /// Whether the line before has `more`: the next one is of its batch, and makes the same promise.
    pub(crate) more: bool,
}

impl Link {
    /// Before the first line of a file whose chain begins with `crc`: 0, or a fork's base.
    pub(crate) fn first(crc: Crc) -> Self {
        Self { end: 0, crc, synced: 0, more: false }
    }

    /// For a line at `start` that is verified alone, by the crc that stands before it.
    pub(crate) fn alone(start: u64, crc: Crc) -> Self {
        Self { end: start, crc, synced: 0, more: false }
    }
}

/// What stands at a place where a line should start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line that passes every check.
    Whole(Whole<'a>),
    /// There is no line feed: the bytes end first.
    Torn,
    /// A line feed ends something that fails a check.
    Bad {
        /// The check that failed.
        why: &'static str,
        /// Bytes up to and with the line feed.
        len: usize,
    },
}

/// A line that passes every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole<'a> {
    /// The time, in its one spelling.
    pub(crate) at: &'a [u8],
    pub(crate) id: Option<&'a str>,
    pub(crate) kind: &'a str,
    pub(crate) payload: &'a [u8],
    /// Bytes of the line, line feed included.
    pub(crate) len: usize,
    /// What the next line is checked against.
    pub(crate) link: Link,
}

/// Where the parts of a line are, without its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// 0 for none.
    id_len: usize,
    kind_len: usize,
    /// Whether its kind is [`kind::DATA`], which nearly every line's is: what is known need not be looked at again.
    pub(crate) is_data: bool,
    payload_len: usize,
    pub(crate) len: usize,
    pub(crate) link: Link,
}

impl Frame {
    /// Of no line: what is known at a place where one may begin.
    pub(crate) fn behind(link: Link) -> Self {
        Self { link, ..Self::default() }
    }

    /// The line with these parts, given the bytes that the frame was made of.
    #[inline(always)]
    pub(crate) fn of<'a>(&self, line: &'a [u8]) -> Whole<'a> {
        let (at, id, kind, payload) = (self.at(line), self.id(line), self.kind(line), self.payload(line));
        Whole { at, id, kind, payload, len: self.len, link: self.link }
    }

    /// One part of [`Frame::of`].
    pub(crate) fn at<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        part(line, AT.len(), Timestamp::LEN)
    }

    /// One part of [`Frame::of`].
    pub(crate) fn id<'a>(&self, line: &'a [u8]) -> Option<&'a str> {
        (self.id_len > 0).then(|| text(line, HEAD_LEN + ID.len(), self.id_len))
    }

    /// One part of [`Frame::of`].
    #[inline(always)]
    pub(crate) fn kind<'a>(&self, line: &'a [u8]) -> &'a str {
        if self.is_data { kind::DATA } else { text(line, kind_at(self.id_len), self.kind_len) }
    }

    /// One part of [`Frame::of`].
    #[inline]
    pub(crate) fn payload<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        part(line, kind_at(self.id_len) + self.kind_len + 2, self.payload_len)
    }
}

fn part(line: &[u8], from: usize, len: usize) -> &[u8] {
    line.get(from..from + len).unwrap_or_default()
}

fn text(line: &[u8], from: usize, len: usize) -> &str {
    std::str::from_utf8(part(line, from, len)).unwrap_or_default()
}

/// Where the kind begins in a line whose id has so many bytes; 0 for none.
#[inline(always)]
fn kind_at(id: usize) -> usize {
    HEAD_LEN + if id == 0 { 0 } else { ID.len() + id + AFTER_AT.len() }
}

impl Whole<'_> {
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::of_line(self.at)
    }
}

/// What a line says besides its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    /// The time, as [`Timestamp`] writes it.
    pub(crate) at: &'a [u8; Timestamp::LEN],
    pub(crate) id: Option<&'a str>,
    pub(crate) kind: &'a str,
    pub(crate) more: bool,
}

/// Adds to `out` what a line has before its payload.
#[inline(always)]
pub(crate) fn begin(out: &mut Vec<u8>, draft: Draft<'_>) {
    debug_assert!(is_time(draft.at));
    let mut head = *HEAD;
    head[AT.len()..AT.len() + Timestamp::LEN].copy_from_slice(draft.at);
    out.extend_from_slice(&head);
    if let Some(id) = draft.id {
        out.extend_from_slice(ID);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(AFTER_AT);
    }
    out.extend_from_slice(draft.kind.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Adds to `out` what a line has behind its payload, which [begins](begin) at `start`, and returns where its parts are.
///
/// `before` is the link before the line; `synced` is the promise that it makes.
#[inline(always)]
pub(crate) fn finish(out: &mut Vec<u8>, start: usize, draft: Draft<'_>, before: Link, synced: u64) -> Frame {
    debug_assert!(before.synced <= synced && synced <= before.end);
    debug_assert!(!before.more || synced == before.synced, "a batch makes one promise");
    let (id_len, kind_len) = (draft.id.map_or(0, str::len), draft.kind.len());
    let payload_len = out.len() - (start + kind_at(id_len) + kind_len + 2);
    let crc = put_tail(out, start, draft.more, before.crc, synced);
    let len = out.len() - start;
    let link = Link { end: before.end + len as u64, crc, synced, more: draft.more };
    Frame { id_len, kind_len, is_data: draft.kind == kind::DATA, payload_len, len, link }
}

/// Adds the tail to the line that begins at `start`, and returns its crc.
#[inline(always)]
fn put_tail(out: &mut Vec<u8>, start: usize, more: bool, before: Crc, synced: u64) -> Crc {
    let mut tail = *TAIL;
    tail[SYNCED.len()..SYNCED.len() + 12].copy_from_slice(&hex::<12>(synced));
    let (promise, rest) = tail.split_at(SYNCED.len() + 13);
    out.extend_from_slice(promise);
    if more {
        out.extend_from_slice(MORE);
    }
    out.extend_from_slice(&rest[..CRC.len()]);
    let crc = chain(before, &out[start..]);
    let mut end = *b"00000000\"}\n";
    end[..8].copy_from_slice(&hex::<8>(crc.0.into()));
    out.extend_from_slice(&end);
    crc
}

/// Adds a line to `out`: [`begin`], the payload, and [`finish`].
pub(crate) fn encode(out: &mut Vec<u8>, draft: Draft<'_>, before: Link, synced: u64, payload: &[u8]) -> Link {
    let start = out.len();
    begin(out, draft);
    out.extend_from_slice(payload);
    finish(out, start, draft, before, synced).link
}

/// Reads the line at the start of `bytes`, which `before` says how to check. Never panics.
pub(crate) fn decode(bytes: &[u8], before: Link) -> Line<'_> {
    let window = bytes.get(..MAX_LEN).unwrap_or(bytes);
    let Some(at) = memchr::memchr(b'\n', window) else {
        return if window.len() < bytes.len() || window.len() == MAX_LEN {
            Line::Bad { why: "the line is longer than 1 GiB", len: window.len() }
        } else {
            Line::Torn
        };
    };
    let line = &bytes[..=at];
    match check_alone(line, before) {
        Ok(frame) => Line::Whole(frame.of(line)),
        Err(why) => Line::Bad { why, len: line.len() },
    }
}

/// What the lines before had where most lines have the same, so that it need not be understood again.
#[derive(Debug)]
pub(crate) struct Alike {
    /// Never one that no line may have.
    minute: Minute,
    /// A promise, as digits and as their value.
    synced: ([u8; 12], u64),
    /// Goes on where its checksum is the one before a line: who makes a new one asks again what the processor can do.
    chain: Hasher,
}

impl Alike {
    /// Of no line: what is known at a place with this checksum before it.
    pub(crate) fn behind(crc: Crc) -> Self {
        let chain = Hasher::new_with_initial(crc.0);
        Self { minute: *b"1970-01-01T00:00", synced: (*b"000000000000", 0), chain }
    }

    /// [`chain`].
    #[inline(always)]
    fn chain(&mut self, before: Crc, covered: &[u8]) -> Crc {
        if self.chain.clone().finalize() != before.0 {
            self.chain = Hasher::new_with_initial(before.0);
        }
        self.chain.update(covered);
        Crc(self.chain.clone().finalize())
    }
}

/// [`check`] of one line and no others.
pub(crate) fn check_alone(line: &[u8], before: Link) -> Result<Frame, &'static str> {
    check(line, before, &mut Alike::behind(before.crc))
}

/// Checks the bytes of one line, its line feed included.
///
/// Always inlined, as is what it calls: else each part of a line goes through memory on its way, and a record that is read takes a third
/// more of the engine's own instructions.
#[inline(always)]
pub(crate) fn check(line: &[u8], before: Link, alike: &mut Alike) -> Result<Frame, &'static str> {
    let (body, crc) = split_crc(line)?;
    let covered = &line[..line.len() - 8 - END.len()];
    let (body, more) = match body.strip_suffix(MORE) {
        Some(body) => (body, true),
        None => (body, false),
    };
    let (body, synced) = split_synced(body, &mut alike.synced).ok_or("the promise is misspelled")?;
    let rest = split_time(body, &mut alike.minute).ok_or("the time is misspelled")?;
    let (id_len, rest) = split_id(rest).ok_or("the id is misspelled")?;
    let (kind, payload) = split_kind(rest).ok_or("the kind is misspelled")?;
    if alike.chain(before.crc, covered) != crc {
        return Err("the checksum does not fit");
    }
    if synced > before.end {
        return Err("the promise goes past its own line");
    }
    if synced < before.synced {
        return Err("the promise is less than the one before");
    }
    if before.more && synced != before.synced {
        return Err("the lines of a batch promise different things");
    }
    let is_data = kind == kind::DATA;
    if !is_data {
        if id_len > 0 && !kind::is_record(kind) {
            return Err("a control record has an id");
        }
        if more && kind::ALONE.contains(&kind) {
            return Err("a record that stands alone is marked as part of a batch");
        }
    }
    let link = Link { end: before.end + line.len() as u64, crc, synced, more };
    Ok(Frame { id_len, kind_len: kind.len(), is_data, payload_len: payload.len(), len: line.len(), link })
}

/// The promise of a line that verifies with `seed`, wherever it stands now: one that promises more than its own start stood further
/// back when it was written.
pub(crate) fn claim(line: &[u8], seed: Crc) -> Option<u64> {
    check_alone(line, Link::alone(MAX_SYNCED, seed)).ok().map(|frame| frame.link.synced)
}

/// [`claim`] of an `xclose`, by the value in its own payload.
pub(crate) fn claim_close(line: &[u8]) -> Option<u64> {
    check_close(line, MAX_SYNCED).and_then(|link| claim(line, link.crc))
}

/// The payload of a header line whose checksum is not known yet, since the chain's start stands in the payload.
pub(crate) fn header_payload(line: &[u8]) -> Option<&[u8]> {
    let (body, _) = split_crc(line).ok()?;
    let mut alike = Alike::behind(Crc(0));
    let (body, _) = split_synced(body, &mut alike.synced)?;
    let rest = split_time(body, &mut alike.minute)?;
    let (kind, payload) = split_kind(rest)?;
    (kind == kind::HEADER).then_some(payload)
}

/// Divides a line into what stands before its checksum member, and the checksum.
#[inline(always)]
fn split_crc(line: &[u8]) -> Result<(&[u8], Crc), &'static str> {
    let (body, tail) = line.split_last_chunk::<CRC_LEN>().ok_or_else(|| foreign(line))?;
    let (name, rest) = tail.split_at(CRC.len());
    let (digits, end) = rest.split_first_chunk::<8>().ok_or_else(|| foreign(line))?;
    if name != CRC || end != END {
        return Err(foreign(line));
    }
    let crc = unhex(digits).and_then(|crc| u32::try_from(crc).ok()).ok_or("the checksum is misspelled")?;
    if line.len() < MIN_LEN {
        return Err("the line is too short");
    }
    Ok((body, Crc(crc)))
}

/// Says what seems to have happened to a line that does not end as lines do.
fn foreign(line: &[u8]) -> &'static str {
    if line.ends_with(b"\r\n") {
        "line ends with CR LF: another program rewrote this file"
    } else if line.starts_with(b"\xEF\xBB\xBF") {
        "starts with a byte-order mark: another program rewrote this file"
    } else if line.first() == Some(&0) {
        "NUL bytes where a line should start"
    } else {
        "the line does not end in a checksum"
    }
}

#[inline(always)]
fn split_synced<'a>(body: &'a [u8], last: &mut ([u8; 12], u64)) -> Option<(&'a [u8], u64)> {
    let (rest, member) = body.split_last_chunk::<{ SYNCED.len() + 13 }>()?;
    let (name, digits) = member.split_at(SYNCED.len());
    let (digits, quote) = digits.split_first_chunk::<12>()?;
    if name != SYNCED || quote != b"\"" {
        return None;
    }
    if *digits != last.0 {
        *last = (*digits, unhex(digits)?);
    }
    Some((rest, last.1))
}

#[inline(always)]
fn split_time<'a>(body: &'a [u8], minute: &mut Minute) -> Option<&'a [u8]> {
    let (at, rest) = body.strip_prefix(AT)?.split_first_chunk()?;
    let rest = rest.strip_prefix(AFTER_AT)?;
    if is_time_in(at, minute) { Some(rest) } else { None }
}

/// The length of the id, 0 for none, and what follows it.
#[inline(always)]
fn split_id(rest: &[u8]) -> Option<(usize, &[u8])> {
    rest.strip_prefix(ID).map_or(Some((0, rest)), split_some_id)
}

fn split_some_id(from: &[u8]) -> Option<(usize, &[u8])> {
    let (id, rest) = from.split_at_checked(memchr::memchr(b'"', from)?)?;
    let fits = (1..=crate::RecordId::MAX_LEN).contains(&id.len())
        && id.iter().all(|c| (b' '..=b'~').contains(c) && *c != b'\\');
    Some((id.len(), rest.strip_prefix(AFTER_AT).filter(|_| fits)?))
}

/// What a line's own members are called is never a kind.
const NO_KINDS: [&str; 5] = ["at", "id", "synced", "more", "crc"];

/// Divides what follows the time and id into kind and payload.
#[inline(always)]
fn split_kind(rest: &[u8]) -> Option<(&str, &[u8])> {
    if let Some(payload) = rest.strip_prefix(b"data\":") {
        return Some((kind::DATA, payload)).filter(|_| !payload.is_empty());
    }
    let (kind, payload) = rest.split_at_checked(memchr::memchr(b'"', rest.get(..17).unwrap_or(rest))?)?;
    let letters = !kind.is_empty() && kind.iter().all(u8::is_ascii_lowercase);
    let kind = std::str::from_utf8(kind).ok().filter(|kind| letters && !NO_KINDS.contains(kind))?;
    let payload = payload.strip_prefix(b"\":")?;
    Some((kind, payload)).filter(|_| !payload.is_empty())
}

/// The crc of a line whose predecessor's is `before`.
#[inline(always)]
fn chain(before: Crc, covered: &[u8]) -> Crc {
    let mut hasher = Hasher::new_with_initial(before.0);
    hasher.update(covered);
    Crc(hasher.finalize())
}

/// Checks an `xclose` by the value in its own payload, for when what stands before it is damaged.
///
/// Returns the link that it verifies with.
pub(crate) fn check_close(line: &[u8], start: u64) -> Option<Link> {
    let chain = line.windows(CLOSE_HEAD.len()).take(64).position(|part| part == CLOSE_HEAD)? + CLOSE_HEAD.len();
    let digits: &[u8; 8] = line.get(chain..)?.first_chunk()?;
    let crc = Crc(u32::try_from(unhex(digits)?).ok()?);
    let link = Link::alone(start, crc);
    let whole = check_alone(line, link).ok()?.of(line);
    (whole.kind == kind::CLOSE && whole.payload == close_payload(crc)).then_some(link)
}

/// Bytes of an `xclose`, line feed included.
pub(crate) const CLOSE_LEN: u64 = 105;

const CLOSE_HEAD: &[u8] = b"\"xclose\":{\"chain\":\"";

/// The payload of an `xclose` whose predecessor has `crc`.
pub(crate) fn close_payload(crc: Crc) -> [u8; 20] {
    let mut payload = *b"{\"chain\":\"00000000\"}";
    payload[10..18].copy_from_slice(&hex::<8>(crc.0.into()));
    payload
}

/// The crc that stands just before a line, given the 11 bytes there.
pub(crate) fn seed(before: &[u8]) -> Option<Crc> {
    let digits = before.strip_suffix(END)?.last_chunk::<8>()?;
    unhex(digits).and_then(|crc| u32::try_from(crc).ok()).map(Crc)
}

/// CRC-32 of bytes that belong to no chain.
pub(crate) fn crc32(bytes: &[u8]) -> Crc {
    chain(Crc(0), bytes)
}

/// The last `N` of the 16 hexadecimal digits of `value`.
#[inline(always)]
pub(crate) fn hex<const N: usize>(value: u64) -> [u8; N] {
    /// Eight digits at once: a hexadecimal digit to a byte, then to its character.
    fn digits(value: u64) -> [u8; 8] {
        const EACH: u64 = 0x0101_0101_0101_0101;
        let spread = value & 0xFFFF_FFFF;
        let spread = (spread | spread << 16) & 0x0000_FFFF_0000_FFFF;
        let spread = (spread | spread << 8) & 0x00FF_00FF_00FF_00FF;
        let spread = (spread | spread << 4) & 0x0F0F_0F0F_0F0F_0F0F;
        let letters = (spread + 6 * EACH) >> 4 & EACH;
        (spread + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
    }
    let mut all = [0; 16];
    all[..8].copy_from_slice(&digits(value >> 32));
    all[8..].copy_from_slice(&digits(value));
    let mut text = [0; N];
    text.copy_from_slice(&all[16 - N..]);
    text
}

/// Reads lower-case hexadecimal digits, of which there are 8 to 16.
#[inline(always)]
fn unhex<const N: usize>(digits: &[u8; N]) -> Option<u64> {
    // The first eight and the last eight have some in common, which agree.
    let (first, last) = (digits.first_chunk::<8>()?, digits.last_chunk::<8>()?);
    Some(unhex_eight(*first)? << (4 * (N - 8)) | unhex_eight(*last)?)
}

/// Reads eight digits at once, one in each byte of a word: every line that is read has twenty.
#[inline(always)]
fn unhex_eight(digits: [u8; 8]) -> Option<u64> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let text = u64::from_be_bytes(digits);
    // Letters have bit 6, and `a` is 0x61; no byte overflows into its neighbour.
    let letters = text >> 6 & ONES;
    let values = (text & (ONES * 0x0f)) + letters * 9;
    // What is spelled as its value is spelled, and has a value below 16, was a digit.
    let above_nine = (values + ONES * (0x80 - 10)) >> 7 & ONES;
    let spelled = values + ONES * u64::from(b'0') + above_nine * u64::from(b'a' - b'0' - 10);
    if values & (ONES * 0xf0) != 0 || spelled != text {
        return None;
    }
    let pairs = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    Some((fours | fours >> 16) & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written_and_in_no_other_spelling() {
        for value in [0, 1, 0x9abc_def0, 0xffff_ffff, 0x1234_5678, 0xa0a0_9999] {
            let text = hex::<8>(value);
            assert_eq!(unhex(&text), Some(value));
            for (at, other) in (0..8).flat_map(|at| (0..=255).map(move |other| (at, other))) {
                let mut bytes = text;
                bytes[at] = other;
                let known = std::str::from_utf8(&bytes)
                    .ok()
                    .filter(|text| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')));
                assert_eq!(unhex(&bytes), known.and_then(|text| u64::from_str_radix(text, 16).ok()), "{bytes:?}");
            }
        }
        assert_eq!(unhex(&hex::<12>(0x1234_5678_9abc)), Some(0x1234_5678_9abc));
        assert_eq!(unhex(b"0000000g4240"), None);
    }

    const AT: &[u8; 24] = b"2026-11-21T01:29:42.123Z";

    fn data<'a>(id: Option<&'a str>, more: bool) -> Draft<'a> {
        Draft { at: AT, id, kind: kind::DATA, more }
    }

    fn start() -> Link {
        Link { end: 1_000_000, crc: Crc(0x1234_5678), synced: 1000, more: false }
    }

    fn sample() -> (Vec<u8>, Link) {
        let mut out = Vec::new();
        let link = encode(&mut out, data(Some("msg-1"), true), start(), 999_999, b"{\"type\":\"user\"}");
        (out, link)
    }

    #[test]
    fn a_line_has_exactly_these_bytes() {
        let (line, _) = sample();
        let text = std::str::from_utf8(&line).expect("text");
        let fixed = concat!(
            r#"{"at":"2026-11-21T01:29:42.123Z","id":"msg-1","data":{"type":"user"},"#,
            r#""synced":"0000000f423f","more":1,"crc":""#,
        );
        let crc = crc32fast::Hasher::new_with_initial(0x1234_5678);
        let crc = [crc].map(|mut crc| {
            crc.update(fixed.as_bytes());
            crc.finalize()
        });
        assert_eq!(text, format!("{fixed}{:08x}\"}}\n", crc[0]));
    }

    #[test]
    fn a_line_reads_back() {
        let (line, link) = sample();
        let Line::Whole(whole) = decode(&line, start()) else { panic!("not whole") };
        assert_eq!((whole.id, whole.kind, whole.link.more), (Some("msg-1"), "data", true));
        assert_eq!((whole.payload, whole.at, whole.link), (&b"{\"type\":\"user\"}"[..], &AT[..], link));
        assert_eq!(link.end, start().end + line.len() as u64);
        assert_eq!(seed(&line), Some(link.crc));
    }

    #[test]
    fn every_cut_is_torn() {
        let (line, _) = sample();
        for len in 0..line.len() {
            assert_eq!(decode(&line[..len], start()), Line::Torn, "{len}");
        }
    }

    #[test]
    fn every_bit_flip_is_found() {
        let (line, _) = sample();
        for bit in 0..line.len() * 8 {
            let mut bytes = line.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&bytes, start()), Line::Whole(_)), "bit {bit} of byte {}", bit / 8);
        }
    }

    #[test]
    fn other_spellings_are_bad_though_their_checksum_fits() {
        let (line, _) = sample();
        let text = String::from_utf8(line).expect("text");
        let body = text.split_at(text.len() - 11).0;
        let changes = [
            ("0000000f423f", "0000000F423F"),
            ("0000000f423f", "000000f42410"), // past its own line
            ("0000000f423f", "000000000001"), // less than the one before
            ("0000000f423f", "00000000f423f"),
            ("\"more\":1", "\"more\":2"),
            ("\"more\":1", "\"more\": 1"),
            ("\"msg-1\"", "\"\""),
            ("\"msg-1\"", "\"m\\u0041\""),
            ("\"data\"", "\"Data\""),
            ("\"data\"", "\"meta\""), // with an id
            ("\"data\"", "\"\""),
            ("{\"type\":\"user\"}", ""),
            ("\"data\":", "\"data\" :"),
            ("11-21", "11-31"),
            ("2026-11-21T01:29", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("0000000f423f", "\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("42.123Z", "42Z"),
            ("42.123Z", "60.123Z"),
            ("{\"at\"", "{ \"at\""),
            ("{\"at\"", "\u{feff}{\"at\""),
        ];
        for (from, to) in changes {
            let changed = body.replacen(from, to, 1);
            assert_ne!(changed, body);
            let crc = chain(start().crc, changed.as_bytes());
            let line = format!("{changed}{crc}\"}}\n");
            assert!(matches!(decode(line.as_bytes(), start()), Line::Bad { .. }), "{from} -> {to}");
            let mut alike = Alike::behind(start().crc);
            check(&sample().0, start(), &mut alike).expect("good");
            check(line.as_bytes(), start(), &mut alike).expect_err("whatever came before");
        }
    }

    #[test]
    fn rewritten_files_are_named_as_such() {
        let (line, _) = sample();
        let why = |bytes: &[u8]| match decode(bytes, start()) {
            Line::Bad { why, .. } => why,
            other => panic!("{other:?}"),
        };
        let crlf = [&line[..line.len() - 1], b"\r\n"].concat();
        assert!(why(&crlf).contains("CR LF"));
        assert!(why(b"\xEF\xBB\xBFhello\n").contains("byte-order mark"));
        assert!(why(b"\0\0\0\n").contains("NUL"));
        assert!(why(b"{\"type\":\"user\"}\n").contains("does not end"));
    }

    /// Whatever a scanner has seen before, it takes and refuses what one does that has seen nothing.
    #[test]
    fn no_flipped_bit_passes_behind_a_good_line() {
        let (first, before) = sample();
        let mut second = Vec::new();
        let link = encode(&mut second, data(None, false), before, before.synced, b"\"what follows\"");
        let mut alike = Alike::behind(Crc(0));
        let mut both = |line: &[u8], before| {
            check(&first, start(), &mut alike).expect("good");
            let after = check(line, before, &mut alike);
            assert_eq!(after, check_alone(line, before));
            after.map(|frame| frame.link)
        };
        assert_eq!(both(&second, before), Ok(link));
        for bit in 0..second.len() * 8 {
            let mut line = second.clone();
            line[bit / 8] ^= 1 << (bit % 8);
            both(&line, before).expect_err("a flipped bit");
        }
        both(&second, Link { crc: Crc(before.crc.0 ^ 1), ..before }).expect_err("another chain");
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_hold_nothing_panics(bytes: Vec<u8>, crc: u32, end: u64) {
            let before = Link { end: end >> 1, crc: Crc(crc), synced: 0, more: false };
            decode(&bytes, before);
            decode(&[&bytes[..], b"\"}\n"].concat(), before);
        }

        #[test]
        fn lines_divide_as_they_were_put_together(
            id in proptest::option::of("[ !#-\\[\\]-~]{1,128}"),
            more: bool,
            payload in "[!-~]{1,300}",
            crc: u32,
        ) {
            let before = Link { end: 77, crc: Crc(crc), synced: 5, more: false };
            let (mut out, draft) = (Vec::new(), data(id.as_deref(), more));
            begin(&mut out, draft);
            out.extend_from_slice(payload.as_bytes());
            let frame = finish(&mut out, 0, draft, before, 77);
            let mut alike = Alike::behind(before.crc);
            prop_assert_eq!([(); 2].map(|()| check(&out, before, &mut alike)), [Ok(frame); 2]);
            let Line::Whole(whole) = decode(&out, before) else { panic!("not whole") };
            prop_assert_eq!(whole.id, id.as_deref());
            prop_assert_eq!((whole.link.more, whole.payload, whole.link), (more, payload.as_bytes(), frame.link));
        }
    }
}
