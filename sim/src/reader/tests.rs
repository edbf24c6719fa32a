use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use forklog::{Error, SessionKey, SideName, Store};

use super::{Conversation, Name, Position, Reason, Verdict, encode, is_time};

const TIME: &str = "2026-11-21T01:29:42.123Z";
const UID_A: &str = "0123456789abcdef0123456789abcdef";
const UID_B: &str = "b123456789abcdef0123456789abcdef";
const UID_C: &str = "c123456789abcdef0123456789abcdef";

/// Writes lines by hand; `crc` and `start` of the next line are kept.
#[derive(Clone)]
struct File {
    uid: &'static str,
    bytes: Vec<u8>,
    crc: u32,
    synced: u64,
    records: u64,
    moved: u64,
}

impl File {
    fn new(uid: &'static str, session: &str) -> File {
        let mut file = File { uid, bytes: Vec::new(), crc: 0, synced: 0, records: 0, moved: 0 };
        file.line("", "forklog", &format!(r#"{{"format":1,"uid":"{uid}","project":"p","session":"{session}"}}"#), "");
        file
    }

    fn fork(uid: &'static str, session: &str, at: &Position, of: &str, main: &str) -> File {
        let crc = u32::from_str_radix(&at.crc, 16).expect("hex");
        let mut file = File { uid, bytes: Vec::new(), crc, synced: 0, records: at.records, moved: 0 };
        let base = format!(r#"{{"at":{},"project":"p","session":"{of}","main":"{main}"}}"#, spell(at));
        let header = format!(r#"{{"format":1,"uid":"{uid}","project":"p","session":"{session}","base":{base}}}"#);
        file.line("", "forklog", &header, "");
        file
    }

    fn line(&mut self, id: &str, kind: &str, payload: &str, more: &str) -> u64 {
        let start = self.end();
        let head = format!(r#"{{"at":"{TIME}",{id}"{kind}":{payload},"synced":"{:012x}"{more},"crc":""#, self.synced);
        let mut crc = crc32fast::Hasher::new_with_initial(self.crc);
        crc.update(head.as_bytes());
        self.crc = crc.finalize();
        self.bytes.extend(format!("{head}{:08x}\"}}\n", self.crc).bytes());
        self.records += u64::from(kind == "data");
        start
    }

    fn data(&mut self, payload: &str) -> Position {
        self.line("", "data", payload, "");
        self.here()
    }

    fn sync(&mut self) {
        self.synced = self.end();
    }

    fn close(&mut self) {
        self.sync();
        self.line("", "xclose", &format!(r#"{{"chain":"{:08x}"}}"#, self.crc), "");
    }

    fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn here(&self) -> Position {
        Position {
            uid: self.uid.to_owned(),
            offset: self.end(),
            crc: format!("{:08x}", self.crc),
            records: self.records,
            moved: self.moved,
        }
    }

    fn go(&mut self, kind: &str, of: Option<u64>, to: &Position) -> u64 {
        let of = of.map_or_else(String::new, |of| format!(r#""of":{of},"#));
        let payload = format!(r#"{{{of}"to":{},"moved":{}}}"#, spell(to), self.moved);
        self.moved = self.line("", kind, &payload, "");
        self.records = to.records;
        self.moved
    }

    fn read(&self) -> Result<Conversation, Verdict> {
        read_bytes(&self.bytes)
    }
}

fn spell(p: &Position) -> String {
    let (uid, offset, crc, records, moved) = (&p.uid, p.offset, &p.crc, p.records, p.moved);
    format!(r#"{{"uid":"{uid}","offset":{offset},"crc":"{crc}","records":{records},"moved":{moved}}}"#)
}

fn name(session: &str) -> Name {
    Name { project: "p".into(), session: session.into(), side: None }
}

fn path(session: &str) -> PathBuf {
    Path::new("projects/p").join(session).join("transcript.jsonl")
}

/// A store of project `p` with these main transcripts.
fn store<const N: usize>(sessions: [(&str, &[u8]); N]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut first = File { uid: UID_A, bytes: Vec::new(), crc: 0, synced: 0, records: 0, moved: 0 };
    first.line("", "store", &format!(r#"{{"format":1,"uid":"{UID_A}"}}"#), "");
    let mut files = BTreeMap::from([(PathBuf::from("store.json"), first.bytes)]);
    files.extend(sessions.map(|(session, bytes)| (path(session), bytes.to_vec())));
    files
}

fn on_disk(files: &BTreeMap<PathBuf, Vec<u8>>) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (below, bytes) in files {
        let path = root.path().join(below);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    root
}

/// What this reader says, when the engine says the same: the same records, or the same trouble in the same place.
fn read_map(files: &BTreeMap<PathBuf, Vec<u8>>, name: &Name) -> Result<Conversation, Verdict> {
    let said = super::read_map(files, name);
    let root = on_disk(files);
    let engine = read_with_engine(root.path(), name);
    let same = |path: &Path, at: forklog::Offset, below: &Path, start: u64| {
        path == root.path().join(below) && at.get() == start
    };
    let agreed = match (&said, &engine) {
        (Ok(said), Ok(records)) => {
            said.records.iter().map(|record| &record.payload).eq(records.iter().map(|record| &record.payload))
        }
        (Err(Verdict::NoStore | Verdict::NoSession), Err(Error::NotFound { .. }))
        | (Err(Verdict::Lineage { .. }), Err(Error::Lineage { .. })) => true,
        (Err(Verdict::Damage { path: below, at: start, .. }), Err(Error::Corrupt { path, at, .. }))
        | (Err(Verdict::Newer { path: below, at: start }), Err(Error::Newer { path, at, .. })) => {
            same(path, *at, below, *start)
        }
        _ => false,
    };
    assert!(agreed, "{said:?}, but the engine {engine:?}");
    said
}

fn read_with_engine(root: &Path, name: &Name) -> Result<Vec<forklog::OwnedRecord>, Error> {
    let store = Store::options().existing().open(root)?;
    let key = SessionKey::new(&name.project, &name.session)?;
    let reader = match &name.side {
        None => store.read(&key)?,
        Some(side) => store.read_side(&key, &SideName::new(side)?)?,
    };
    reader.records().collect()
}

fn read_bytes(bytes: &[u8]) -> Result<Conversation, Verdict> {
    read_map(&store([("a", bytes)]), &name("a"))
}

fn said(read: &Result<Conversation, Verdict>) -> Vec<String> {
    let read = read.as_ref().expect("a conversation");
    read.records.iter().map(|r| String::from_utf8_lossy(&r.payload).into_owned()).collect()
}

fn damage(at: u64, reason: Reason) -> Result<Conversation, Verdict> {
    Err(Verdict::Damage { path: path("a"), at, reason })
}

/// Three records, each synced before the next, then closed.
fn closed() -> File {
    let mut file = File::new(UID_A, "a");
    for payload in ["1", "2", "3"] {
        file.sync();
        file.data(payload);
    }
    file.close();
    file
}

#[test]
fn the_checksum_is_the_one_of_zlib_and_goes_on() {
    assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    let mut rest = crc32fast::Hasher::new_with_initial(crc32fast::hash(b"1234"));
    rest.update(b"56789");
    assert_eq!(rest.finalize(), 0xcbf4_3926);
}

#[test]
fn names_become_paths() {
    assert_eq!(encode("Ab-c_.é"), "%41b-c_%2e%c3%a9");
    assert_eq!((encode("con"), encode("com7"), encode("com10")), ("%63on".into(), "%63om7".into(), "com10".into()));
    assert_eq!(encode("CON"), "%43%4f%4e");
    let long = encode(&"x.".repeat(60));
    assert_eq!((encode(&"x".repeat(200)).len(), long.len()), (200, 193));
    assert!(encode(&"x".repeat(201)).starts_with(&format!("{}~", "x".repeat(160))));
    assert!(encode(&format!("{}{}", "x".repeat(159), ".".repeat(50))).starts_with(&format!("{}~", "x".repeat(159))));
}

#[test]
fn dates_are_real() {
    for good in [TIME, "2024-02-29T23:59:59.999Z", "0000-02-29T00:00:00.000Z"] {
        assert!(is_time(good.as_bytes()), "{good}");
    }
    for bad in
        ["2026-02-29T00:00:00.000Z", "2026-11-21T24:00:00.000Z", "2026-11-21T01:29:60.123Z", "2026-11-21T01:29:42,123Z"]
    {
        assert!(!is_time(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_closed_file_is_read_whole() {
    let file = closed();
    let read = file.read().expect("good");
    assert!(read.closed);
    assert_eq!(said(&Ok(read.clone())), ["1", "2", "3"]);
    assert_eq!(read.head, file.here());
    assert_eq!(read_bytes(&[&file.bytes[..], &b"   "[..]].concat()).expect("padding").head, file.here());
}

#[test]
fn a_cut_is_a_crash() {
    let file = closed();
    let ends: Vec<usize> = (1..=file.bytes.len()).filter(|at| file.bytes[at - 1] == b'\n').collect();
    for cut in 0..file.bytes.len() {
        let read = read_bytes(&file.bytes[..cut]);
        if cut < ends[0] {
            assert_eq!(read, damage(0, Reason::NoHeader), "{cut}");
            continue;
        }
        let whole = ends.iter().filter(|end| **end <= cut).count().min(4) - 1;
        assert_eq!(said(&read), ["1", "2", "3"][..whole], "{cut}");
    }
}

#[test]
fn a_flipped_bit_before_the_promise_is_damage() {
    let file = closed();
    let ends: Vec<usize> = (1..=file.bytes.len()).filter(|at| file.bytes[at - 1] == b'\n').collect();
    let last = ends[3];
    for at in 0..file.bytes.len() {
        for bit in 0..8 {
            let mut bytes = file.bytes.clone();
            bytes[at] ^= 1 << bit;
            let read = read_bytes(&bytes);
            if at >= last {
                assert_eq!(said(&read), ["1", "2", "3"], "the close holds nothing, {at}");
            } else {
                assert!(matches!(read, Err(Verdict::Damage { .. })), "{at} {bit} {read:?}");
            }
        }
    }
}

#[test]
fn damage_is_told_from_a_crash_by_the_promise() {
    let mut file = File::new(UID_A, "a");
    file.sync();
    let first = file.end();
    file.data("1");
    let second = file.end();
    file.data("2");
    file.data("3");
    let mut hole = file.bytes.clone();
    hole[usize::try_from(second).expect("small")..][..40].fill(0);
    assert_eq!(said(&read_bytes(&hole)), ["1"], "nothing behind the hole promises it");
    file.synced = second + 1;
    file.data("4");
    let mut hole = file.bytes.clone();
    hole[usize::try_from(second).expect("small")..][..40].fill(0);
    assert_eq!(read_bytes(&hole), damage(second, Reason::Line));
    let mut changed = file.bytes.clone();
    changed[usize::try_from(first).expect("small") + 40] ^= 1;
    assert!(matches!(read_bytes(&changed), Err(Verdict::Damage { at, .. }) if at == first));
}

#[test]
fn nuls_behind_the_end_are_a_crash() {
    let mut file = File::new(UID_A, "a");
    file.data("1");
    for tail in [&[0; 1][..], &[0; 9000], b"{\"at\"", b"other\nprogram\n", b"\n"] {
        assert_eq!(said(&read_bytes(&[&file.bytes[..], tail].concat())), ["1"]);
    }
}

#[test]
fn a_batch_is_whole_or_not_there() {
    let mut file = File::new(UID_A, "a");
    file.sync();
    file.data("1");
    let start = file.line("", "data", "2", ",\"more\":1");
    let read = file.read().expect("good");
    assert_eq!((read.records.len(), read.head.offset), (1, start));
    let mut early = file.clone();
    early.synced = start + 1;
    early.line("", "data", "3", "");
    assert_eq!(early.read().expect("crash").head.offset, start, "one batch makes one promise");
    file.line("\"id\":\"x y\",", "data", "3", "");
    let read = file.read().expect("good");
    assert_eq!(read.records[2].id.as_deref(), Some("x y"));
    assert_eq!(said(&Ok(read)), ["1", "2", "3"]);
}

#[test]
fn rewritten_by_another_program() {
    let file = closed();
    let text = String::from_utf8(file.bytes.clone()).expect("text");
    assert_eq!(read_bytes(text.replace('\n', "\r\n").as_bytes()), damage(0, Reason::LineEnds));
    assert_eq!(read_bytes(format!("\u{feff}{text}").as_bytes()), damage(0, Reason::ByteOrderMark));
    assert_eq!(read_bytes(b"\n"), damage(0, Reason::NoHeader));
    let mut other = File::new(UID_A, "b");
    other.data("1");
    assert_eq!(other.read(), damage(0, Reason::OtherSession));
}

#[test]
fn a_later_version_is_not_guessed_at() {
    let mut file = File::new(UID_A, "a");
    file.data("1");
    file.line("", "xnote", "[]", "");
    assert_eq!(said(&file.read()), ["1"]);
    let at = file.end();
    for (kind, payload) in [("note", "1"), ("meta", "1"), ("rewind", "{}"), ("repair", r#"{"gaps":[]}"#)] {
        let mut newer = file.clone();
        newer.line("", kind, payload, "");
        assert_eq!(newer.read(), Err(Verdict::Newer { path: path("a"), at }), "{kind}");
        // Nor is anything written behind it.
        let root = on_disk(&store([("a", &newer.bytes)]));
        std::fs::create_dir(root.path().join("live")).expect("made");
        let engine = Store::options().existing().open(root.path()).expect("a store");
        let opened = engine.session(&SessionKey::new("p", "a").expect("legal"));
        assert!(matches!(opened, Err(Error::Newer { .. })), "{kind}: {opened:?}");
    }
    let mut header = File { bytes: Vec::new(), crc: 0, ..file };
    header.synced = 0;
    header.line("", "forklog", r#"{"format":2}"#, "");
    assert_eq!(header.read(), Err(Verdict::Newer { path: path("a"), at: 0 }));
}

#[test]
fn the_names_of_a_lines_own_members_are_no_kinds() {
    for kind in ["at", "id", "synced", "more", "crc"] {
        let mut file = File::new(UID_A, "a");
        let at = file.line("", kind, "1", "");
        file.sync();
        file.data("2");
        assert_eq!(file.read(), damage(at, Reason::Line), "{kind}");
    }
}

#[test]
fn metadata_survives_a_rewind() {
    let mut file = File::new(UID_A, "a");
    let start = file.here();
    file.line("", "meta", r#"{"title":"t","cost":1,"x":{"y":1,"z":2}}"#, "");
    file.data("1");
    file.go("rewind", None, &start);
    file.line("", "meta", r#"{"cost":null,"x":{"y":null}}"#, "");
    let read = file.read().expect("good");
    assert_eq!(Value::Object(read.metadata), json!({"title": "t", "x": {"z": 2}}));
    assert!(read.records.is_empty());
}

#[test]
fn undo_and_redo() {
    let mut file = File::new(UID_A, "a");
    let one = file.data("1");
    file.data("2");
    let before_first = file.here();
    let first = file.go("rewind", None, &one);
    file.data("3");
    let before_second = file.here();
    let second = file.go("rewind", None, &one);
    let steps = |file: &File| {
        let read = file.read().expect("good");
        let seen: String = read.records.iter().map(|r| String::from_utf8_lossy(&r.payload).into_owned()).collect();
        assert_eq!(read.head, file.here());
        (seen, read.undo, read.redo)
    };
    assert_eq!(steps(&file), ("1".into(), Some(second), None));
    let undo_second = file.go("undo", Some(second), &before_second);
    assert_eq!(steps(&file), ("13".into(), Some(first), Some(undo_second)));
    let before = file.here();
    let undo_first = file.go("undo", Some(first), &before_first);
    assert_eq!(steps(&file), ("12".into(), None, Some(undo_first)));
    let redo_first = file.go("redo", Some(undo_first), &before);
    assert_eq!(steps(&file), ("13".into(), Some(redo_first), Some(undo_second)));
    let mut other = file.clone();
    let before =
        Position { offset: undo_second, moved: second, records: 1, crc: crc_at(&file, undo_second), ..one.clone() };
    let redo_second = file.go("redo", Some(undo_second), &before);
    assert_eq!(steps(&file), ("1".into(), Some(redo_second), None));
    let third = other.go("rewind", None, &one);
    assert_eq!(steps(&other), ("1".into(), Some(third), None));
}

fn crc_at(file: &File, offset: u64) -> String {
    let end = usize::try_from(offset).expect("small");
    String::from_utf8_lossy(&file.bytes[end - 11..end - 3]).into_owned()
}

#[test]
fn a_head_move_that_says_what_is_not_so_is_damage() {
    let mut file = File::new(UID_A, "a");
    let one = file.data("1");
    let two = file.data("2");
    let at = file.end();
    let mut forward = file.clone();
    forward.go("rewind", None, &Position { offset: at + 1000, ..one.clone() });
    assert_eq!(forward.read(), damage(at, Reason::Move));
    let mut miscounted = file.clone();
    miscounted.go("rewind", None, &Position { records: 2, ..one.clone() });
    // The engine need not count.
    assert_eq!(super::read_map(&store([("a", &miscounted.bytes)]), &name("a")), damage(at, Reason::Move));
    file.go("rewind", None, &one);
    let at = file.end();
    let mut gone = file.clone();
    gone.go("rewind", None, &two);
    // The engine follows it: the place is good, and the way there leads backwards.
    let read = super::read_map(&store([("a", &gone.bytes)]), &name("a"));
    assert_eq!(read, damage(at, Reason::Move), "not in the view");
    file.moved = 0;
    file.go("rewind", None, &one);
    assert_eq!(file.read(), damage(at, Reason::Move), "moved is not the newest");
}

#[test]
fn forks_share_their_ancestors() {
    let mut a = File::new(UID_A, "a");
    let one = a.data("1");
    let two = a.data("2");
    let mut b = File::fork(UID_B, "b", &two, "a", UID_A);
    let three = b.data("3");
    a.data("4");
    let mut c = File::fork(UID_C, "c", &three, "b", UID_B);
    c.data("5");
    let mut store = store([("a", &a.bytes), ("b", &b.bytes), ("c", &c.bytes)]);
    assert_eq!(said(&read_map(&store, &name("a"))), ["1", "2", "4"]);
    assert_eq!(said(&read_map(&store, &name("c"))), ["1", "2", "3", "5"]);
    c.go("rewind", None, &one);
    c.data("6");
    store.insert(path("c"), c.bytes.clone());
    let whole = read_map(&store, &name("c")).expect("good");
    assert_eq!((said(&Ok(whole.clone())), &whole.head), (vec!["1".into(), "6".into()], &c.here()));

    let grave = Path::new("graves").join(UID_A).join("transcript.jsonl");
    let bytes = store.remove(&path("a")).expect("there");
    assert_eq!(read_map(&store, &name("c")), Err(Verdict::Lineage { uid: UID_A.into() }));
    store.insert(grave.clone(), bytes);
    assert_eq!(read_map(&store, &name("c")), Ok(whole.clone()));

    store.remove(&grave);
    store.remove(&path("b"));
    let cut = usize::try_from(two.offset).expect("small");
    let lineage = |uid: &str| Path::new("projects/p/c/lineage").join(format!("{uid}.jsonl"));
    store.insert(lineage(UID_A), a.bytes[..cut].to_vec());
    store.insert(lineage(UID_B), b.bytes.clone());
    assert_eq!(read_map(&store, &name("c")), Ok(whole));
}

#[test]
fn a_base_that_was_written_again_is_damage() {
    let mut a = File::new(UID_A, "a");
    let before = a.clone();
    let one = a.data("1");
    let b = File::fork(UID_B, "b", &one, "a", UID_A);
    a = before;
    a.data("2");
    let store = store([("a", &a.bytes), ("b", &b.bytes)]);
    assert_eq!(read_map(&store, &name("b")), Err(Verdict::Lineage { uid: UID_A.into() }));
}

#[test]
fn a_file_that_is_its_own_ancestor_ends() {
    let mut a = File::new(UID_A, "a");
    let one = a.data("1");
    let b = File::fork(UID_A, "b", &one, "b", UID_A);
    let mut store = store([("b", &b.bytes)]);
    store.insert(Path::new("projects/p/b/lineage").join(format!("{UID_A}.jsonl")), a.bytes);
    assert_eq!(read_map(&store, &name("b")), Err(Verdict::Lineage { uid: UID_A.into() }));
}

#[test]
fn a_repair_line_leads_over_a_gap() {
    let mut file = File::new(UID_A, "a");
    file.data("1");
    let from = file.end();
    file.data("2");
    let to = file.end();
    file.sync();
    file.data("3");
    let at = usize::try_from(from).expect("small") + 50;
    file.bytes[at] ^= 1;
    assert!(matches!(file.read(), Err(Verdict::Damage { at, .. }) if at == from));
    let chain = crc_at(&file, to);
    let gap = format!(r#"{{"from":{from},"to":{to},"raw":"00000000","chain":"{chain}","records":1}}"#);
    let mut hostile = file.clone();
    hostile.line("", "repair", &format!(r#"{{"gaps":[{}]}}"#, gap.replace(&format!(r#""to":{to}"#), r#""to":1"#)), "");
    assert!(matches!(hostile.read(), Err(Verdict::Damage { at, .. }) if at == from));
    let mut backward = File::new(UID_A, "a");
    let at = backward.line(
        "",
        "repair",
        r#"{"gaps":[{"from":9,"to":9,"raw":"00000000","chain":"00000000","records":1}]}"#,
        "",
    );
    assert_eq!(backward.read(), damage(at, Reason::Gap));
    file.line("", "repair", &format!(r#"{{"gaps":[{gap}]}}"#), "");
    let read = file.read().expect("good");
    assert_eq!((read.head.records, said(&Ok(read))), (3, vec!["1".into(), "3".into()]));
}

#[test]
fn a_payload_that_is_not_json_is_damage_there() {
    let mut file = File::new(UID_A, "a");
    let at = file.end();
    file.data("nonsense");
    // The engine hands payloads out as they stand.
    assert_eq!(super::read_map(&store([("a", &file.bytes)]), &name("a")), damage(at, Reason::Payload));
}

/// The example of FORMAT.md, section 13.
#[test]
fn the_worked_example() {
    let mut file = File::new(UID_A, "a");
    file.sync();
    file.line("\"id\":\"msg-1\",", "data", r#"{"role":"user","text":"hello"}"#, "");
    let one = file.here();
    file.sync();
    file.line("", "data", r#"{"role":"assistant","text":"hi"}"#, ",\"more\":1");
    file.line("", "data", r#"{"role":"assistant","text":"what next?"}"#, "");
    file.sync();
    file.line("", "meta", r#"{"title":"greeting"}"#, "");
    let back = file.go("rewind", None, &one);
    file.close();
    let ends = file.bytes.iter().zip(1..).filter(|(byte, _)| **byte == b'\n').map(|(_, end)| end);
    assert_eq!(ends.collect::<Vec<u64>>(), [167, 293, 417, 540, 643, 839, 944]);
    let read = file.read().expect("good");
    assert_eq!(said(&Ok(read.clone())), [r#"{"role":"user","text":"hello"}"#]);
    assert_eq!((read.undo, read.redo, read.closed), (Some(back), None, true));
    assert_eq!((read.head.crc.as_str(), read.head.moved), ("9b717b00", 643));
    assert_eq!(read.head, file.here());
}

#[test]
fn a_store_has_a_first_file() {
    let mut files = store([]);
    assert_eq!(read_map(&files, &name("a")), Err(Verdict::NoSession));
    let path = PathBuf::from("store.json");
    files.get_mut(&path).expect("there").push(b' ');
    assert_eq!(read_map(&files, &name("a")), Err(Verdict::Damage { path: path.clone(), at: 0, reason: Reason::Store }));
    files.remove(&path);
    assert_eq!(read_map(&files, &name("a")), Err(Verdict::NoStore));
}
