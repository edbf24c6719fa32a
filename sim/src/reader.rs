//! A second reader of the format, written from FORMAT.md alone and sharing no code with forklog.
//!
//! It is slow and obvious on purpose: it holds whole files in memory, reads them again for every question, and checks
//! what a fast reader may take on trust. What it says about a store is what the engine is compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::objects::{self, Kind};

/// Gives the bytes of a file of the store by its path below the store's directory, or `None` where there is no file.
pub type Files<'a> = dyn Fn(&Path) -> Option<Vec<u8>> + 'a;

/// A transcript's true name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The project.
    pub project: String,
    /// The session.
    pub session: String,
    /// The side transcript, or `None` for the main one.
    pub side: Option<String>,
}

/// The end of a line in a file, with what is needed to find the view that ends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file's uid.
    pub uid: String,
    /// The end of the line.
    pub offset: u64,
    /// The 8 hex of the line's checksum.
    pub crc: String,
    /// The number of records in the view that ends there.
    pub records: u64,
    /// The start of the newest head move at or before it, or 0.
    pub moved: u64,
}

/// One record of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was appended, as it stands in the line.
    pub at: String,
    /// The caller's name for it.
    pub id: Option<String>,
    /// The payload's bytes as they stand in the line.
    pub payload: Vec<u8>,
}

/// What a transcript says.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// The `data` lines of the view at the end.
    pub records: Vec<Record>,
    /// The `checkpoint` lines of the view: how many of `records` stand before each, and its payload.
    pub checkpoints: Vec<(usize, Vec<u8>)>,
    /// What all `meta` lines make of the empty object.
    pub metadata: Map<String, Value>,
    /// The position of the end.
    pub head: Position,
    /// The start of the head move that can be undone.
    pub undo: Option<u64>,
    /// The start of the `undo` that can be redone.
    pub redo: Option<u64>,
    /// Whether the file ends in an `xclose` that promises its own start, with nothing behind it.
    pub closed: bool,
}

/// Why a file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first line ends with CR LF.
    LineEnds,
    /// The file starts with a byte-order mark.
    ByteOrderMark,
    /// There is no good first line, or it is no header.
    NoHeader,
    /// The header names another project, session or side than the path.
    OtherSession,
    /// A line is spelled as no writer spells it, has no end, is too long, or promises what can not be.
    Line,
    /// A line is spelled well and its checksum does not fit.
    Checksum,
    /// A batch that began before the promise is not complete.
    Batch,
    /// A record's payload is not JSON.
    Payload,
    /// A position does not fit the file that it points into.
    Position,
    /// A head move says what is not so.
    Move,
    /// A known kind stands where it must not.
    Place,
    /// The gaps of a repair line are not where they can be.
    Gap,
    /// The store's first file is not one good line that names it.
    Store,
}

/// Why there is no conversation to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The directory is no store.
    NoStore,
    /// There is no transcript of this name.
    NoSession,
    /// A later version wrote the line at `at`.
    Newer {
        /// The file.
        path: PathBuf,
        /// The start of the line.
        at: u64,
    },
    /// The file is damaged.
    Damage {
        /// The file.
        path: PathBuf,
        /// The start of the first line concerned.
        at: u64,
        /// What is wrong with it.
        reason: Reason,
    },
    /// An ancestor is missing, there are too many, or one is its own ancestor.
    Lineage {
        /// The uid of the ancestor.
        uid: String,
    },
}

/// Reads one transcript of a store held in a map from paths to bytes.
///
/// # Errors
///
/// As [`read`].
pub fn read_map(files: &BTreeMap<PathBuf, Vec<u8>>, name: &Name) -> Result<Conversation, Verdict> {
    let packs =
        files.keys().filter(|path| path.starts_with("objects") && path.extension().is_some_and(|end| end == "pack"));
    read(&|path: &Path| files.get(path).cloned(), &packs.cloned().collect::<Vec<_>>(), name)
}

/// Reads one transcript of a store: its view at its end, its metadata, and what can be undone and redone. `packs` are the paths of all packs.
///
/// # Errors
///
/// Every [`Verdict`]; the files are only read.
pub fn read(files: &Files<'_>, packs: &[PathBuf], name: &Name) -> Result<Conversation, Verdict> {
    check_store(files)?;
    let path = transcript_path(name);
    let bytes = files(&path).ok_or(Verdict::NoSession)?;
    let file = Transcript::open(path, session_dir(name), bytes)?;
    if file.header.name != *name {
        return Err(file.damage(0, Reason::OtherSession));
    }
    let store = Store { files, packs, root: session_dir(name) };
    let log = scan(&file)?;
    let moves = check_moves(&store, &file, &log)?;
    let mut head = Position {
        uid: file.header.uid.clone(),
        offset: log.end,
        crc: file.crc_before(log.end).ok_or_else(|| file.damage(log.end, Reason::Position))?,
        records: 0,
        moved: moves.keys().next_back().copied().unwrap_or(0),
    };
    let (said, count) = store.view_records(&file, &head)?;
    head.records = count;
    let closed = log.lines().last().is_some_and(|line| {
        chain(line).is_some() && line.synced == line.start && line.end == file.bytes.len() as u64 && log.end == line.end
    });
    Ok(Conversation {
        records: said.records,
        checkpoints: said.checkpoints,
        metadata: metadata(&file, &log),
        undo: undo(&moves, (head.moved != 0).then_some(head.moved)),
        redo: redo(&moves, (head.moved != 0).then_some(head.moved)),
        head,
        closed,
    })
}

fn check_store(files: &Files<'_>) -> Result<(), Verdict> {
    let path = PathBuf::from("store.json");
    let bytes = files(&path).ok_or(Verdict::NoStore)?;
    let damage = Verdict::Damage { path: path.clone(), at: 0, reason: Reason::Store };
    let line = frame(&bytes, 0).filter(|line| line.kind == "store" && fits(&bytes, line, 0));
    let line = line.filter(|line| line.end == bytes.len() as u64).ok_or(damage)?;
    let uid = serde_json::from_slice(&line.payload).ok().and_then(|value: Value| hex_string(&value, "uid", 32));
    match uid {
        Some(uid) if line.payload == format!(r#"{{"format":1,"uid":"{uid}"}}"#).as_bytes() => Ok(()),
        _ => Err(Verdict::Newer { path, at: 0 }),
    }
}

// ---- names (section 2)

/// Says where a transcript lies below the store's directory.
pub fn transcript_path(name: &Name) -> PathBuf {
    session_dir(name).join(file_in_session(name.side.as_deref()))
}

fn session_dir(name: &Name) -> PathBuf {
    Path::new("projects").join(encode(&name.project)).join(encode(&name.session))
}

fn file_in_session(side: Option<&str>) -> PathBuf {
    side.map_or_else(
        || PathBuf::from("transcript.jsonl"),
        |side| Path::new("side").join(format!("{}.jsonl", encode(side))),
    )
}

fn encode(name: &str) -> String {
    let lower =
        |from: &str| matches!(name.strip_prefix(from), Some(n) if n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    let reserved = matches!(name, "con" | "prn" | "aux" | "nul") || lower("com") || lower("lpt");
    let mut out = String::new();
    for (i, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if plain && !(reserved && i == 0) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    if out.len() > 200 {
        out.truncate(160);
        if let Some(cut) = out.rfind('%').filter(|at| *at > 157) {
            out.truncate(cut);
        }
        out.push('~');
        out.push_str(&blake3::hash(name.as_bytes()).to_hex()[..32]);
    }
    out
}

// ---- a line (section 3)

#[derive(Clone, Debug)]
struct Line {
    start: u64,
    end: u64,
    at: String,
    id: Option<String>,
    kind: String,
    payload: Vec<u8>,
    synced: u64,
    more: bool,
    crc: u32,
    covered: usize,
}

impl Line {
    fn is_record(&self) -> bool {
        matches!(self.kind.as_str(), "data" | "large")
    }

    fn is_move(&self) -> bool {
        matches!(self.kind.as_str(), "rewind" | "undo" | "redo")
    }
}

const LONGEST: usize = 1 << 30;

/// What a line's own members are called.
const NO_KINDS: [&str; 5] = ["at", "id", "synced", "more", "crc"];

/// The kinds that another line of the same batch never follows.
const KNOWN_ALONE: [&str; 8] = ["forklog", "rewind", "undo", "redo", "checkpoint", "repair", "xclose", "store"];

fn hex(bytes: &[u8], digits: usize) -> Option<u64> {
    if bytes.len() != digits || !bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(bytes).ok()?, 16).ok()
}

fn hex8(bytes: &[u8]) -> Option<u32> {
    u32::try_from(hex(bytes, 8)?).ok()
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn is_time(time: &[u8]) -> bool {
    if time.len() != 24 {
        return false;
    }
    let shape = b"0000-00-00T00:00:00.000Z";
    let fits = |(have, want): (&u8, &u8)| if *want == b'0' { have.is_ascii_digit() } else { have == want };
    if !time.iter().zip(shape).all(fits) {
        return false;
    }
    let number = |from: usize, to: usize| time[from..to].iter().fold(0u32, |n, b| n * 10 + u32::from(b - b'0'));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    (1..=days).contains(&day) && number(11, 13) < 24 && number(14, 16) < 60 && number(17, 19) < 60
}

/// Takes the line at `start` apart, without its checksum; `None` when it is spelled wrong in any way.
fn frame(file: &[u8], start: u64) -> Option<Line> {
    frame_moved(file, start).filter(|line| line.synced <= start)
}

/// The same for a line that may have stood further back, and so may promise more than its start.
fn frame_moved(file: &[u8], start: u64) -> Option<Line> {
    let begin = usize::try_from(start).ok()?;
    let rest = file.get(begin..)?;
    let length = rest.iter().position(|b| *b == b'\n')? + 1;
    if length > LONGEST {
        return None;
    }
    let line = &rest[..length];
    let (body, tail) = line.split_at_checked(length.checked_sub(19)?)?;
    let crc = hex8(tail.strip_prefix(b",\"crc\":\"")?.strip_suffix(b"\"}\n")?)?;
    let (body, more) = match body.strip_suffix(b",\"more\":1") {
        Some(body) => (body, true),
        None => (body, false),
    };
    let (body, promise) = body.split_at_checked(body.len().checked_sub(24)?)?;
    let synced = hex(promise.strip_prefix(b",\"synced\":\"")?.strip_suffix(b"\"")?, 12)?;
    let (at, body) = body.strip_prefix(b"{\"at\":\"")?.split_at_checked(24)?;
    let mut body = body.strip_prefix(b"\",")?;
    let mut id = None;
    if let Some(from) = body.strip_prefix(b"\"id\":\"") {
        let quote = from.iter().position(|b| *b == b'"')?;
        let printable = from[..quote].iter().all(|b| matches!(b, 0x20..=0x7e) && *b != b'\\');
        if !(1..=128).contains(&quote) || !printable {
            return None;
        }
        id = Some(text(&from[..quote])?);
        body = from[quote..].strip_prefix(b"\",")?;
    }
    let body = body.strip_prefix(b"\"")?;
    let letters = body.iter().take_while(|b| b.is_ascii_lowercase()).count();
    let kind = text(&body[..letters])?;
    let payload = body[letters..].strip_prefix(b"\":")?.to_vec();
    let line = Line {
        start,
        end: start + length as u64,
        at: text(at)?,
        id,
        kind,
        payload,
        synced,
        more,
        crc,
        covered: length - 11,
    };
    let good = is_time(at)
        && (1..=16).contains(&letters)
        && !NO_KINDS.contains(&line.kind.as_str())
        && !line.payload.is_empty()
        && (line.id.is_none() || line.is_record())
        && !(line.more && KNOWN_ALONE.contains(&line.kind.as_str()));
    good.then_some(line)
}

fn fits(file: &[u8], line: &Line, previous: u32) -> bool {
    let Ok(begin) = usize::try_from(line.start) else { return false };
    let Some(covered) = file.get(begin..begin + line.covered) else { return false };
    let mut hasher = crc32fast::Hasher::new_with_initial(previous);
    hasher.update(covered);
    hasher.finalize() == line.crc
}

/// The 8 hex of the checksum of the line that ends at `offset`.
fn crc_before(file: &[u8], offset: u64) -> Option<&[u8]> {
    let end = usize::try_from(offset).ok()?;
    let digits = file.get(end.checked_sub(11)?..end)?.strip_suffix(b"\"}\n")?;
    hex8(digits).map(|_| digits)
}

/// The line at `start`, if it verifies by what stands just before it, or by what it says about that.
fn alone(file: &[u8], start: u64) -> Option<Line> {
    let line = frame(file, start)?;
    let before = crc_before(file, start).and_then(hex8);
    let good = |previous: Option<u32>| previous.is_some_and(|previous| fits(file, &line, previous));
    (good(before) || good(chain(&line))).then_some(line)
}

/// What a close says about the checksum of the line before it.
fn chain(line: &Line) -> Option<u32> {
    if line.kind != "xclose" {
        return None;
    }
    hex8(line.payload.strip_prefix(b"{\"chain\":\"")?.strip_suffix(b"\"}")?)
}

/// Bytes of a close with its line feed.
const CLOSE: u64 = 105;

/// All lines after the start of whatever stands at `from`, that verify alone: behind every line feed, and closes before every one.
fn all_alone(file: &[u8], from: u64) -> Vec<Line> {
    let begin = usize::try_from(from).unwrap_or(usize::MAX).min(file.len());
    let ends = (begin..file.len()).filter(|at| file[*at] == b'\n');
    let mut found = BTreeMap::new();
    for end in ends.map(|at| at as u64 + 1) {
        let close = end.checked_sub(CLOSE).filter(|start| *start > from).and_then(|start| frame(file, start));
        let close = close.filter(|line| chain(line).is_some_and(|previous| fits(file, line, previous)));
        found.extend([close, alone(file, end)].into_iter().flatten().map(|line| (line.start, line)));
    }
    found.into_values().collect()
}

/// The greatest promise of lines behind line feeds after `from` that verify alone, where they stand or where they stood.
fn promised(file: &[u8], from: u64) -> u64 {
    let begin = usize::try_from(from).unwrap_or(usize::MAX).min(file.len());
    let starts = (begin..file.len()).filter(|at| file[*at] == b'\n').map(|at| at as u64 + 1);
    let lines = std::iter::once(from).chain(starts).filter_map(|start| frame_moved(file, start));
    let before = |line: &Line| crc_before(file, line.start).and_then(hex8).filter(|_| from < line.start);
    let good = |line: &Line, previous: Option<u32>| previous.is_some_and(|previous| fits(file, line, previous));
    let sound = lines.filter(|line| good(line, before(line)) || good(line, chain(line)));
    sound.map(|line| line.synced).chain(all_alone(file, from).iter().map(|line| line.synced)).max().unwrap_or(0)
}

// ---- kinds (section 4)

#[derive(Clone, Debug)]
struct Header {
    uid: String,
    name: Name,
    base: Option<Base>,
}

#[derive(Clone, Debug)]
struct Base {
    at: Position,
    name: Name,
    main: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    from: u64,
    to: u64,
    chain: u32,
    records: u64,
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key)?.as_u64().filter(|n| *n < 1 << 63)
}

fn string(value: &Value, key: &str) -> Option<String> {
    Some(value.get(key)?.as_str()?.to_owned())
}

fn hex_string(value: &Value, key: &str, digits: usize) -> Option<String> {
    let is_hex = |text: &String| text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    string(value, key).filter(is_hex)
}

fn position(value: &Value) -> Option<Position> {
    Some(Position {
        uid: hex_string(value, "uid", 32)?,
        offset: number(value, "offset")?,
        crc: hex_string(value, "crc", 8)?,
        records: number(value, "records")?,
        moved: number(value, "moved")?,
    })
}

fn spell(p: &Position) -> String {
    format!(
        r#"{{"uid":"{}","offset":{},"crc":"{}","records":{},"moved":{}}}"#,
        p.uid, p.offset, p.crc, p.records, p.moved
    )
}

fn name(value: &Value, side: Option<String>) -> Option<Name> {
    Some(Name { project: string(value, "project")?, session: string(value, "session")?, side })
}

/// Every control payload is read loosely, spelled again, and must then be the same bytes.
fn header(payload: &[u8]) -> Option<Header> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let uid = hex_string(&value, "uid", 32)?;
    let side = match value.get("side") {
        Some(side) => Some((string(side, "name")?, hex_string(side, "of", 32)?)),
        None => None,
    };
    let base = match value.get("base") {
        Some(base) => Some(Base {
            at: position(base.get("at")?)?,
            name: name(base, base.get("side").and_then(Value::as_str).map(str::to_owned))?,
            main: hex_string(base, "main", 32)?,
        }),
        None => None,
    };
    let header = Header { uid, name: name(&value, side.as_ref().map(|s| s.0.clone()))?, base };
    let mut out = format!(
        r#"{{"format":1,"uid":"{}","project":{},"session":{}"#,
        header.uid,
        quote(&header.name.project),
        quote(&header.name.session)
    );
    if let Some((side, of)) = side {
        out.push_str(&format!(r#","side":{{"name":{},"of":"{of}"}}"#, quote(&side)));
    }
    if let Some(base) = &header.base {
        let place = (spell(&base.at), quote(&base.name.project), quote(&base.name.session));
        out.push_str(&format!(r#","base":{{"at":{},"project":{},"session":{}"#, place.0, place.1, place.2));
        if let Some(side) = &base.name.side {
            out.push_str(&format!(r#","side":{}"#, quote(side)));
        }
        out.push_str(&format!(r#","main":"{}"}}"#, base.main));
    }
    out.push('}');
    (out.as_bytes() == payload).then_some(header)
}

#[derive(Clone, Debug)]
struct Move {
    kind: String,
    of: u64,
    to: Position,
    moved: u64,
    end: u64,
    /// Whether it moved files and left the conversation where it was.
    alone: bool,
}

/// The part of a head move that moves files, as far as conversations go: whether it leaves them alone. It must be the last
/// member and is not spelled again.
fn files(value: &Value) -> Option<bool> {
    let files = value.get("files")?.as_object()?;
    hex_string(value.get("files")?, "uid", 32)?;
    let whole = ["uid", "workspace", "alone", "before", "seen"];
    let known = files.len() == whole.len() && whole.iter().all(|member| files.contains_key(*member));
    known.then(|| value.get("files")?.get("alone")?.as_bool())?
}

fn head_move(line: &Line) -> Option<Move> {
    let value: Value = serde_json::from_slice(&line.payload).ok()?;
    let to = position(value.get("to")?)?;
    let moved = number(&value, "moved")?;
    let (of, out) = if line.kind == "rewind" {
        (0, format!(r#"{{"to":{},"moved":{moved}}}"#, spell(&to)))
    } else {
        let of = number(&value, "of")?;
        (of, format!(r#"{{"of":{of},"to":{},"moved":{moved}}}"#, spell(&to)))
    };
    let mut found = Move { kind: line.kind.clone(), of, to, moved, end: line.end, alone: false };
    if value.get("files").is_none() {
        return (out.as_bytes() == line.payload).then_some(found);
    }
    found.alone = files(&value)?;
    let front = out.strip_suffix('}')?;
    let rest = line.payload.strip_prefix(front.as_bytes())?;
    rest.starts_with(br#","files":{"uid":""#).then_some(found)
}

/// Says whether a checkpoint has the members it should; what they say of files is not looked at.
fn is_checkpoint(payload: &[u8]) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_slice(payload) else { return false };
    let known = ["id", "label", "workspace", "tree", "paths", "unknown"];
    members.contains_key("workspace") && members.keys().all(|member| known.contains(&member.as_str()))
}

fn repair(payload: &[u8]) -> Option<Vec<Gap>> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let (mut gaps, mut spelled) = (Vec::<Gap>::new(), Vec::new());
    for gap in value.get("gaps")?.as_array()? {
        let (raw, chain) = (hex_string(gap, "raw", 8)?, hex_string(gap, "chain", 8)?);
        let (from, to, records) = (number(gap, "from")?, number(gap, "to")?, number(gap, "records")?);
        spelled.push(format!(r#"{{"from":{from},"to":{to},"raw":"{raw}","chain":"{chain}","records":{records}}}"#));
        gaps.push(Gap { from, to, chain: hex8(chain.as_bytes())?, records });
    }
    let out = format!(r#"{{"gaps":[{}]}}"#, spelled.join(","));
    (!gaps.is_empty() && out.as_bytes() == payload).then_some(gaps)
}

/// Says whether the gaps of the repair line at `start` lie before it, rise, and do not touch.
fn are_gaps(gaps: &[Gap], start: u64) -> bool {
    let each = gaps.iter().all(|gap| 0 < gap.from && gap.from < gap.to && gap.to <= start);
    each && gaps.windows(2).all(|pair| matches!(pair, [first, second] if first.to < second.from))
}

/// The name and length of the object that a `large` line stands for.
fn large(payload: &[u8]) -> Option<([u8; 32], u64)> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let (object, size) = (hex_string(&value, "object", 64)?, number(&value, "size")?);
    let spelled = format!(r#"{{"object":"{object}","size":{size}}}"#);
    let mut name = [0; 32];
    for (byte, digits) in name.iter_mut().zip(object.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    (spelled.as_bytes() == payload && (1..=1 << 30).contains(&size)).then_some((name, size))
}

/// Says whether a line of a later version stands here, that can not be passed over.
fn is_newer(line: &Line) -> bool {
    match line.kind.as_str() {
        "data" => false,
        "large" => large(&line.payload).is_none(),
        "meta" => !matches!(serde_json::from_slice(&line.payload), Ok(Value::Object(_))),
        "rewind" | "undo" | "redo" => head_move(line).is_none(),
        "checkpoint" => !is_checkpoint(&line.payload),
        "repair" => repair(&line.payload).is_none(),
        "forklog" => header(&line.payload).is_none(),
        "store" => false,
        kind => !kind.starts_with('x'),
    }
}

// ---- objects (section 14)

/// The blob of this name and length, if the pack has a good frame of it: every place is tried, so that no torn frame hides one.
fn blob(path: &Path, pack: &[u8], name: [u8; 32], size: u64) -> Option<Vec<u8>> {
    let uid = objects::uid_of(path)?;
    let content = objects::in_pack(uid, pack, Kind::Blob, &name)?;
    (content.len() as u64 == size).then_some(content)
}

// ---- a file and its end (section 6)

struct Transcript {
    path: PathBuf,
    /// The directory of the session it belongs to.
    dir: PathBuf,
    bytes: Vec<u8>,
    header: Header,
    first_end: u64,
}

impl Transcript {
    /// Reads the first line.
    fn open(path: PathBuf, dir: PathBuf, bytes: Vec<u8>) -> Result<Transcript, Verdict> {
        let damage = |reason| Verdict::Damage { path: path.clone(), at: 0, reason };
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(damage(Reason::ByteOrderMark));
        }
        let first = bytes.split_inclusive(|b| *b == b'\n').next().unwrap_or_default();
        if first.ends_with(b"\r\n") {
            return Err(damage(Reason::LineEnds));
        }
        let line = frame(&bytes, 0).ok_or_else(|| damage(Reason::NoHeader))?;
        // A header that cannot be read may still name the checksum that it goes on from.
        let loose: Value = serde_json::from_slice(&line.payload).unwrap_or_default();
        let previous = loose.pointer("/base/at/crc").and_then(Value::as_str).and_then(|crc| hex8(crc.as_bytes()));
        if !fits(&bytes, &line, previous.unwrap_or(0)) || line.kind != "forklog" {
            return Err(damage(Reason::NoHeader));
        }
        let header = header(&line.payload).ok_or_else(|| Verdict::Newer { path: path.clone(), at: 0 })?;
        Ok(Transcript { path, dir, bytes, header, first_end: line.end })
    }

    fn damage(&self, at: u64, reason: Reason) -> Verdict {
        Verdict::Damage { path: self.path.clone(), at, reason }
    }

    fn newer(&self, line: &Line) -> Result<(), Verdict> {
        if is_newer(line) {
            return Err(Verdict::Newer { path: self.path.clone(), at: line.start });
        }
        Ok(())
    }

    fn crc_before(&self, offset: u64) -> Option<String> {
        text(crc_before(&self.bytes, offset)?)
    }

    /// The newest gap that a repair line behind `from` gives for a bad line there.
    fn gap_at(&self, from: u64) -> Option<Gap> {
        let mut found = None;
        for line in all_alone(&self.bytes, from).iter().filter(|line| line.kind == "repair") {
            let gaps = repair(&line.payload).unwrap_or_default();
            if are_gaps(&gaps, line.start) {
                found = gaps.into_iter().find(|gap| gap.from == from).or(found);
            }
        }
        found
    }

    /// The line or the gap at `at`, when `before` is the line before it, which has the checksum `previous`.
    fn step(&self, at: u64, previous: u32, before: Before) -> Result<Item, Reason> {
        let framed = frame(&self.bytes, at).filter(|line| match before {
            Before::Batch(promise) => line.synced == promise,
            Before::Promise(promise) => line.synced >= promise,
        });
        let reason = if framed.is_some() { Reason::Checksum } else { Reason::Line };
        if let Some(line) = framed.filter(|line| fits(&self.bytes, line, previous)) {
            return Ok(Item::Line(line));
        }
        self.gap_at(at).map(Item::Gap).ok_or(reason)
    }

    /// The head move at `start`, if there is one; what stands before it is not read.
    fn move_at(&self, start: u64) -> Result<Option<Move>, Verdict> {
        let after_gap = |line: &Line| {
            let repairs = all_alone(&self.bytes, start).into_iter().filter_map(|line| repair(&line.payload));
            repairs.flatten().any(|gap| gap.to == start && fits(&self.bytes, line, gap.chain))
        };
        let line = alone(&self.bytes, start).or_else(|| frame(&self.bytes, start).filter(after_gap));
        let Some(line) = line.filter(Line::is_move) else { return Ok(None) };
        self.newer(&line)?;
        Ok(head_move(&line))
    }
}

/// What the line before says about the promise of the next one.
#[derive(Clone, Copy)]
enum Before {
    /// They are of one batch.
    Batch(u64),
    /// It does not fall.
    Promise(u64),
}

impl Before {
    fn of(line: &Line) -> Before {
        if line.more { Before::Batch(line.synced) } else { Before::Promise(line.synced) }
    }
}

enum Item {
    Line(Line),
    Gap(Gap),
}

struct Log {
    items: Vec<Item>,
    end: u64,
}

impl Log {
    fn gaps(&self) -> impl Iterator<Item = &Gap> {
        self.items.iter().filter_map(|item| match item {
            Item::Gap(gap) => Some(gap),
            Item::Line(_) => None,
        })
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.items.iter().filter_map(|item| match item {
            Item::Line(line) => Some(line),
            Item::Gap(_) => None,
        })
    }
}

/// Reads all lines after the first, and finds the end.
fn scan(file: &Transcript) -> Result<Log, Verdict> {
    let length = file.bytes.len() as u64;
    let mut log = Log { items: Vec::new(), end: file.first_end };
    let mut previous = file.crc_before(log.end).and_then(|crc| hex8(crc.as_bytes())).unwrap_or(0);
    let (mut promise, mut before) = (0, Before::Promise(0));
    while log.end < length {
        if usize::try_from(log.end).is_ok_and(|end| file.bytes[end..].iter().all(|b| *b == b' ')) {
            break;
        }
        match file.step(log.end, previous, before) {
            Ok(Item::Line(line)) => {
                before = Before::of(&line);
                (log.end, previous, promise) = (line.end, line.crc, line.synced);
                log.items.push(Item::Line(line));
            }
            Ok(Item::Gap(gap)) => {
                before = Before::Promise(promise);
                (log.end, previous) = (gap.to, gap.chain);
                log.items.push(Item::Gap(gap));
            }
            Err(reason) => {
                promise = promise.max(promised(&file.bytes, log.end));
                if log.end < promise {
                    log.lines().try_for_each(|line| check_place(file, line))?;
                    return Err(file.damage(log.end, reason));
                }
                break;
            }
        }
    }
    while let Some(Item::Line(line)) = log.items.pop_if(|item| matches!(item, Item::Line(line) if line.more)) {
        log.end = line.start;
    }
    log.lines().try_for_each(|line| check_place(file, line))?;
    if log.end < promise {
        return Err(file.damage(log.end, Reason::Batch));
    }
    Ok(log)
}

/// Checks that a line is of this version and may stand in this file behind line 1.
fn check_place(file: &Transcript, line: &Line) -> Result<(), Verdict> {
    file.newer(line)?;
    let side = file.header.name.side.is_some();
    match line.kind.as_str() {
        "forklog" | "store" => Err(file.damage(line.start, Reason::Place)),
        "meta" if side => Err(file.damage(line.start, Reason::Place)),
        "repair" if !repair(&line.payload).is_some_and(|gaps| are_gaps(&gaps, line.start)) => {
            Err(file.damage(line.start, Reason::Gap))
        }
        _ => Ok(()),
    }
}

fn metadata(file: &Transcript, log: &Log) -> Map<String, Value> {
    let mut whole = Value::Object(Map::new());
    for line in log.lines().filter(|line| line.kind == "meta" && file.header.name.side.is_none()) {
        merge(&mut whole, serde_json::from_slice(&line.payload).unwrap_or_default());
    }
    match whole {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(&key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), value);
        }
    }
}

// ---- views (section 5)

struct Store<'a> {
    files: &'a Files<'a>,
    packs: &'a [PathBuf],
    /// The directory of the session that is being read.
    root: PathBuf,
}

struct Extent {
    file: usize,
    from: u64,
    to: u64,
}

/// The files that a view passes through, the newest first, and its extents, the oldest first.
struct View {
    files: Vec<Transcript>,
    extents: Vec<Extent>,
}

const MOST_BASES: usize = 4096;

impl Store<'_> {
    fn base_of(&self, file: &Transcript, base: &Base) -> Result<Transcript, Verdict> {
        let copy = format!("lineage/{}.jsonl", base.at.uid);
        let grave = Path::new("graves").join(&base.main);
        let places = [
            (self.root.join(&copy), self.root.clone()),
            (file.dir.join(&copy), file.dir.clone()),
            (transcript_path(&base.name), session_dir(&base.name)),
            (grave.join(file_in_session(base.name.side.as_deref())), grave),
        ];
        for (path, dir) in places {
            let Some(bytes) = (self.files)(&path) else { continue };
            let Ok(found) = Transcript::open(path, dir, bytes) else { continue };
            if found.header.uid != base.at.uid {
                continue;
            }
            if check(&found, &base.at) {
                return Ok(found);
            }
        }
        Err(Verdict::Lineage { uid: base.at.uid.clone() })
    }

    fn view(&self, file: &Transcript, end: &Position) -> Result<View, Verdict> {
        let again = Transcript::open(file.path.clone(), file.dir.clone(), file.bytes.clone())?;
        let mut view = View { files: vec![again], extents: Vec::new() };
        let mut seen = BTreeSet::from([file.header.uid.clone()]);
        let mut at = end.clone();
        // The line that holds the position is what is wrong when the position is.
        let mut wrong = file.damage(end.offset, Reason::Position);
        loop {
            let index = view.files.len() - 1;
            let file = &view.files[index];
            if !check(file, &at) {
                return Err(wrong);
            }
            if at.moved == 0 {
                view.extents.push(Extent { file: index, from: file.first_end, to: at.offset });
                let Some(base) = file.header.base.clone() else { break };
                wrong = file.damage(0, Reason::Position);
                self.descend(&mut view, &mut seen, &base)?;
                at = base.at;
                continue;
            }
            let found = file.move_at(at.moved)?.ok_or(wrong)?;
            let inside = found.to.uid == file.header.uid;
            wrong = file.damage(at.moved, Reason::Move);
            if found.end > at.offset || found.moved >= at.moved || (inside && found.to.offset > at.moved) {
                return Err(wrong);
            }
            view.extents.push(Extent { file: index, from: found.end, to: at.offset });
            // A `to` in another file is in an ancestor of this one, and the headers tell the way there.
            let mut most = None;
            while view.files.last().is_some_and(|file| file.header.uid != found.to.uid) {
                let base = view.files.last().and_then(|file| file.header.base.clone());
                let base = base.ok_or_else(|| wrong.clone())?;
                self.descend(&mut view, &mut seen, &base)?;
                most = Some(base.at.offset);
            }
            if most.is_some_and(|most| found.to.offset > most) {
                return Err(wrong);
            }
            at = found.to;
        }
        view.extents.reverse();
        Ok(view)
    }

    fn descend(&self, view: &mut View, seen: &mut BTreeSet<String>, base: &Base) -> Result<(), Verdict> {
        if view.files.len() > MOST_BASES || !seen.insert(base.at.uid.clone()) {
            return Err(Verdict::Lineage { uid: base.at.uid.clone() });
        }
        if let Some(last) = view.files.last() {
            let found = self.base_of(last, base)?;
            view.files.push(found);
        }
        Ok(())
    }

    /// What stands in an extent counts, whatever the promise: somebody pointed at its end.
    fn read_extent(&self, file: &Transcript, extent: &Extent, said: &mut Said) -> Result<u64, Verdict> {
        let (mut at, mut count, mut before) = (extent.from, 0, Before::Promise(0));
        let mut previous = file.crc_before(at).and_then(|crc| hex8(crc.as_bytes())).unwrap_or(0);
        while at < extent.to {
            match file.step(at, previous, before).map_err(|reason| file.damage(at, reason))? {
                Item::Gap(gap) => {
                    before = Before::Promise(0);
                    (at, previous) = (gap.to, gap.chain);
                    count += gap.records;
                }
                Item::Line(line) => {
                    file.newer(&line)?;
                    if line.is_move() {
                        return Err(file.damage(line.start, Reason::Move));
                    }
                    before = Before::of(&line);
                    (at, previous) = (line.end, line.crc);
                    if line.is_record() {
                        count += 1;
                        let bad = file.damage(line.start, Reason::Payload);
                        said.records.push(self.record(line).ok_or(bad)?);
                    } else if line.kind == "checkpoint" {
                        said.checkpoints.push((said.records.len(), line.payload));
                    }
                }
            }
        }
        if at != extent.to {
            return Err(file.damage(extent.to, Reason::Position));
        }
        Ok(count)
    }

    /// The record that a line is, its payload fetched where it is an object.
    fn record(&self, mut line: Line) -> Option<Record> {
        if line.kind == "large" {
            let (name, size) = large(&line.payload)?;
            line.payload = self.packs.iter().find_map(|path| blob(path, &(self.files)(path)?, name, size))?;
        }
        serde_json::from_slice::<Value>(&line.payload).ok()?;
        Some(Record { at: line.at, id: line.id, payload: line.payload })
    }

    /// The records of the view that ends at `end`, and how many Seqs they and the gaps between them use up.
    fn view_records(&self, file: &Transcript, end: &Position) -> Result<(Said, u64), Verdict> {
        let view = self.view(file, end)?;
        let (mut records, mut count) = (Said::default(), 0);
        for extent in &view.extents {
            let Some(file) = view.files.get(extent.file) else { continue };
            count += self.read_extent(file, extent, &mut records)?;
        }
        Ok((records, count))
    }
}

/// What a view holds.
#[derive(Default)]
struct Said {
    records: Vec<Record>,
    checkpoints: Vec<(usize, Vec<u8>)>,
}

fn check(file: &Transcript, at: &Position) -> bool {
    at.uid == file.header.uid
        && at.offset >= file.first_end
        && file.crc_before(at.offset).as_deref() == Some(at.crc.as_str())
        && at.moved < at.offset
}

/// Checks that every head move says what is so, and gives them by their starts.
fn check_moves(store: &Store<'_>, file: &Transcript, log: &Log) -> Result<BTreeMap<u64, Move>, Verdict> {
    let mut moves = BTreeMap::<u64, Move>::new();
    for line in log.lines().filter(|line| line.is_move()) {
        let wrong = || file.damage(line.start, Reason::Move);
        let found = head_move(line).ok_or_else(wrong)?;
        let newest = moves.keys().next_back().copied().unwrap_or(0);
        let swallowed = |start: u64| log.gaps().any(|gap| (gap.from..gap.to).contains(&start));
        if found.moved != newest && !(newest < found.moved && swallowed(found.moved)) {
            return Err(wrong());
        }
        if found.alone && found.to.offset != line.start {
            return Err(wrong());
        }
        match found.kind.as_str() {
            // What a gap swallowed can not be compared with.
            "rewind" if swallowed(found.moved) => (),
            "undo" | "redo" if swallowed(found.of) => (),
            "rewind" => {
                let crc = file.crc_before(line.start).unwrap_or_default();
                let uid = file.header.uid.clone();
                let before = Position { uid, offset: line.start, crc, records: 0, moved: newest };
                let view = store.view(file, &before)?;
                let holds = |e: &Extent| {
                    view.files.get(e.file).is_some_and(|f| f.header.uid == found.to.uid)
                        && (e.from..=e.to).contains(&found.to.offset)
                };
                if !view.extents.iter().any(holds) {
                    return Err(wrong());
                }
            }
            kind => {
                let of = moves.get(&found.of).ok_or_else(wrong)?;
                let takes_back_undo = of.kind == "undo";
                let (offset, moved) = if of.alone { (line.start, newest) } else { (found.of, of.moved) };
                let place = found.to.uid == file.header.uid && found.to.offset == offset;
                if takes_back_undo != (kind == "redo") || !place || found.to.moved != moved {
                    return Err(wrong());
                }
            }
        }
        let end = Position {
            uid: file.header.uid.clone(),
            offset: line.end,
            crc: format!("{:08x}", line.crc),
            records: 0,
            moved: line.start,
        };
        let (_, count) = store.view_records(file, &end)?;
        if count != found.to.records {
            return Err(wrong());
        }
        moves.insert(line.start, found);
    }
    Ok(moves)
}

fn before(moves: &BTreeMap<u64, Move>, of: u64) -> Option<u64> {
    moves.get(&of).map(|m| m.moved).filter(|start| *start != 0)
}

fn undo(moves: &BTreeMap<u64, Move>, newest: Option<u64>) -> Option<u64> {
    let start = newest?;
    let found = moves.get(&start)?;
    if found.kind == "undo" { undo(moves, before(moves, found.of)) } else { Some(start) }
}

fn redo(moves: &BTreeMap<u64, Move>, newest: Option<u64>) -> Option<u64> {
    let start = newest?;
    let found = moves.get(&start)?;
    match found.kind.as_str() {
        "undo" => Some(start),
        "redo" => redo(moves, before(moves, found.of)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
