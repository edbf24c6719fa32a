//! What a map remembers of a transcript: it changes what an answer costs, and never the answer.

use std::sync::Arc;

use forklog::{
    AgentDigest, Appended, At, Digest, Entry, NewRecord, NewSession, OpenOptions, Reader, RecordId, Seq, Session,
    SessionKey, SideName, Store, Summary,
};
use forklog_sim::{Process, SimDisk, Ticks};
use forklog_soak::path;
use serde_json::{Value, json};

/// Samples of a map are about this far apart.
const STRIDE: u64 = 1 << 20;

/// While a session is written, its maps are about this far apart, and so are the notes in its marker.
const LIVE_STRIDE: u64 = 8 << 20;
const NOTES: u64 = 256 << 10;

/// More than a line, and than what is read at once to find one.
const SLACK: u64 = 512 << 10;

/// Where nothing is to be looked for: the ends of the file, and the lines that say what leads there.
const ENDS: u64 = 256 << 10;

fn key(id: &str) -> SessionKey {
    SessionKey::new("p", id).expect("legal")
}

/// A digest that is not the default one: counts, and keeps what it saw last.
#[derive(Debug)]
struct Count;

impl Digest for Count {
    fn name(&self) -> &'static str {
        "count"
    }

    fn version(&self) -> u32 {
        1
    }

    fn observe(&self, summary: &mut Summary, payload: &[u8]) {
        summary.messages += 1;
        summary.model = Some(String::from_utf8_lossy(&payload[..40]).into_owned());
    }
}

fn open_with(process: &Process, digest: Arc<dyn Digest>) -> Store {
    let options = Store::options().disk(Arc::new(process.clone())).env(Ticks::new(3)).digest(digest);
    options.open("/store").expect("a store")
}

fn open(process: &Process) -> Store {
    open_with(process, Arc::new(AgentDigest))
}

/// Record `n`: 40 KB, and something that a digest must see in order.
fn payload(n: u64) -> String {
    let message = match n % 3 {
        0 => json!({ "type": "user", "message": { "role": "user", "content": format!("prompt {n}") } }),
        1 => {
            json!({ "type": "assistant", "message": { "id": format!("m{n}"), "role": "assistant", "model": format!("model {n}"),
            "content": [{ "type": "text", "text": format!("answer {n}") }] } })
        }
        _ => json!({ "type": "result", "total_cost_usd": (n % 7) as f64 / 8.0, "session_id": format!("s{n}") }),
    };
    let Value::Object(mut message) = message else { unreachable!("an object") };
    message.insert("padding".into(), json!(format!("{n} ").repeat(40_000 / format!("{n} ").len())));
    Value::Object(message).to_string()
}

/// A conversation as it should be: the id of each record, and its number for [`payload`].
type Said = Vec<(String, u64)>;

fn append(session: &Session, said: &mut Said, records: impl IntoIterator<Item = (String, u64)>) {
    for (id, n) in records {
        let text = payload(n);
        let record = NewRecord::json(text.as_bytes()).expect("JSON").id(RecordId::new(id.clone()).expect("legal"));
        session.append_record(&record).expect("appended");
        said.push((id, n));
    }
}

fn named(range: std::ops::Range<u64>) -> impl Iterator<Item = (String, u64)> {
    range.map(|n| (format!("id {n}"), n))
}

/// A disk with long sessions, and what each must say: `a` with moves of its head and closed twice, `b` forked from it, `c` from `b`
/// within what that inherited, `d` from `c`, and `e`, which was closed twice and which its process left open.
fn disk() -> (SimDisk, Vec<(&'static str, Said)>) {
    let disk = SimDisk::new(11);
    let store = open(&disk.process());
    let (mut a, mut e) = (Said::new(), Said::new());

    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, &mut a, named(0..60));
    session.set(&json!({ "title": "one", "kept": { "deep": [1, 2] } })).expect("set");
    let before = a.clone();
    session.rewind(&At::Seq(Seq::new(39))).expect("rewound");
    a.truncate(40);
    append(&session, &mut a, named(60..100));
    session.undo().expect("undone");
    assert_eq!(session.head().expect("known").records, before.len() as u64);
    session.redo().expect("redone");
    session.close().expect("closed");

    let session = store.session(&key("a")).expect("opened");
    append(&session, &mut a, named(100..140));
    session.set(&json!({ "title": null, "kept": { "more": true } })).expect("set");
    session.rewind(&At::Seq(Seq::new(89))).expect("rewound");
    a.truncate(90);
    // Ids that abandoned tails have, one before the first map and one behind it.
    append(&session, &mut a, [("id 45".into(), 145), ("id 120".into(), 146)]);
    session.close().expect("closed");

    let fork = |parent: &str, at: u64, name: &str, records: std::ops::Range<u64>, said: &Said| {
        let session = store.fork(&key(parent), &At::Seq(Seq::new(at)), NewSession::named(key(name))).expect("forked");
        let mut said = said[..=usize::try_from(at).expect("small")].to_vec();
        append(&session, &mut said, records.map(|n| (format!("{name} {n}"), n)));
        session.close().expect("closed");
        said
    };
    let b = fork("a", 84, "b", 200..260, &a);
    let c = fork("b", 70, "c", 300..303, &b);
    let d = fork("c", 72, "d", 400..470, &c);

    let session = store.create(NewSession::named(key("e"))).expect("created");
    append(&session, &mut e, named(500..540));
    session.close().expect("closed");
    let session = store.session(&key("e")).expect("opened");
    append(&session, &mut e, named(540..600));
    session.close().expect("closed");
    let process = disk.process();
    let session = open(&process).session(&key("e")).expect("opened");
    append(&session, &mut e, named(600..610));
    process.kill();
    (disk, vec![("a", a), ("b", b), ("c", c), ("d", d), ("e", e)])
}

fn maps(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    disk.tree().into_iter().map(|(path, _)| path).filter(|path| path.extension().is_some_and(|e| e == "map")).collect()
}

fn digest_of(digest: &dyn Digest, said: &[(String, u64)]) -> Summary {
    let mut summary = Summary::default();
    for (_, n) in said {
        digest.observe(&mut summary, payload(*n).as_bytes());
    }
    summary
}

/// Asks for every `step`th record in each way there is.
fn check(reader: &Reader, said: &Said, digest: &dyn Digest, step: usize) {
    assert_eq!(reader.len(), said.len() as u64);
    assert_eq!(reader.summary().expect("sound"), digest_of(digest, said));
    for (n, (id, text)) in said.iter().enumerate().step_by(step) {
        let (seq, id, text) = (Seq::new(n as u64), RecordId::new(id.clone()).expect("legal"), payload(*text));
        let mut records = reader.records_from(seq).expect("sound");
        let found = records.next().expect("sound").expect("there");
        assert!(found.payload() == text.as_bytes() && found.seq() == seq, "record {n} is another one");
        let found = reader.get(&id).expect("sound").unwrap_or_else(|| panic!("{id} is not found"));
        assert!(found.payload == text.as_bytes() && found.seq == seq, "{id} is another record");
        let position = reader.position(&At::Seq(seq)).expect("sound");
        assert_eq!(position.records, n as u64 + 1);
        assert_eq!(reader.position(&At::Id(id)).expect("sound"), position);
        assert_eq!(reader.position(&At::Position(position)).expect("sound"), position);
        let then = reader.at(position).expect("sound");
        assert_eq!(then.summary().expect("sound"), digest_of(digest, &said[..=n]), "the digest up to record {n}");
    }
    let all: Vec<_> = reader.records().map(|record| record.expect("sound").payload).collect();
    assert!(all.iter().zip(said).all(|(payload_there, (_, n))| *payload_there == payload(*n).into_bytes()));
    assert_eq!(all.len(), said.len());
    for n in [45, 110, 130, 9999] {
        let id = format!("id {n}");
        let there = said.iter().any(|(other, _)| *other == id);
        assert_eq!(reader.get(&RecordId::new(id).expect("legal")).expect("sound").is_some(), there, "id {n}");
    }
}

#[test]
fn answers_are_the_same_with_maps_without_them_and_with_those_of_another_digest() {
    let (disk, sessions) = disk();
    // `c` is too short for one.
    assert_eq!(maps(&disk).len(), 4);
    let check_all = |digest: Arc<dyn Digest>, step| {
        let store = open_with(&disk.process(), digest.clone());
        for (name, said) in &sessions {
            check(&store.read(&key(name)).expect("sound"), said, &*digest, step);
        }
        assert_eq!(
            Value::Object(store.read(&key("a")).expect("sound").meta()),
            json!({ "kept": { "deep": [1, 2], "more": true } })
        );
    };
    check_all(Arc::new(AgentDigest), 5);
    check_all(Arc::new(Count), 17);
    // Closing makes a map with the digest of who closes, which takes over the older one's places and not what it says of them.
    for (digest, text) in [(Arc::new(Count) as Arc<dyn Digest>, 600), (Arc::new(AgentDigest), 700)] {
        let mut sessions = sessions.clone();
        let copy = disk.after(forklog_sim::Cut::Everything);
        let store = open_with(&copy.process(), digest.clone());
        for (name, said) in &mut sessions {
            let session = store.session(&key(name)).expect("opened");
            append(&session, said, (text..text + 30).map(|n| (format!("{name} {n}"), n)));
            session.close().expect("closed");
            check(&store.read(&key(name)).expect("sound"), said, &*digest, 23);
        }
        let store = open(&copy.process());
        for (name, said) in &sessions {
            check(&store.read(&key(name)).expect("sound"), said, &AgentDigest, 23);
        }
    }
    for map in maps(&disk) {
        disk.put(&map, None).expect("there");
    }
    check_all(Arc::new(AgentDigest), 17);
}

/// Bytes that `what` reads.
fn read<T>(disk: &SimDisk, what: impl FnOnce() -> T) -> (T, u64) {
    let before = disk.counts();
    let result = what();
    (result, disk.counts().since(&before).bytes_read)
}

#[test]
fn an_answer_of_a_session_at_rest_reads_no_more_than_lies_between_two_samples() {
    let (disk, sessions) = disk();
    for map in maps(&disk) {
        let [map, transcript] = [&map, &map.with_extension("jsonl")].map(|path| disk.peek(path).expect("there").len());
        assert!(map < 8 << 10, "{map} bytes tell of {transcript}");
    }
    let store = open(&disk.process());
    for (name, said) in &sessions {
        // What is not covered by a map of its own: all of `c`, and the end of `e`.
        let own = if *name == "c" || *name == "e" { SLACK } else { 0 };
        // Where a session is opened again, samples begin anew behind its map.
        let between = if *name == "e" { 2 * STRIDE } else { STRIDE };
        let (reader, bytes) = read(&disk, || store.read(&key(name)).expect("sound"));
        assert!(bytes < ENDS + own, "opening {name} reads {bytes} bytes");
        let (_, bytes) = read(&disk, || reader.summary().expect("sound"));
        let base = if *name == "c" { STRIDE } else { 0 };
        assert!(bytes < ENDS + base + own, "the digest of {name} reads {bytes} bytes");
        for n in (0..said.len()).step_by(9) {
            let seq = Seq::new(n as u64);
            let (position, bytes) = read(&disk, || reader.position(&At::Seq(seq)).expect("sound"));
            assert!(bytes < between + SLACK, "the position of record {n} of {name} reads {bytes} bytes");
            let (_, bytes) = read(&disk, || reader.records_from(seq).expect("sound").next().expect("sound").is_some());
            assert!(bytes < between + SLACK, "record {n} of {name} reads {bytes} bytes");
            let then = reader.at(position).expect("sound");
            let (_, bytes) = read(&disk, || then.summary().expect("sound"));
            // In the fork, and before that in what it was forked from.
            assert!(bytes < 2 * STRIDE + SLACK, "the digest up to record {n} of {name} reads {bytes} bytes");
        }
    }
}

#[test]
fn a_map_of_which_any_part_is_changed_gives_no_wrong_answer() {
    let (disk, sessions) = disk();
    let process = disk.process();
    let said = &sessions[0].1;
    let map = path("projects/p/a/transcript.map");
    let good = disk.peek(&map).expect("there").to_vec();
    for at in (0..good.len()).step_by(good.len() / 60) {
        disk.damage(&map, |bytes| {
            bytes.clone_from(&good);
            bytes[at] ^= 1 << (at % 8);
        })
        .expect("there");
        check(&open(&process).read(&key("a")).expect("sound"), said, &AgentDigest, 31);
    }
    for len in [0, 1, good.len() / 2, good.len() - 1] {
        disk.damage(&map, |bytes| bytes.clone_from(&good[..len].to_vec())).expect("there");
        check(&open(&process).read(&key("a")).expect("sound"), said, &AgentDigest, 47);
    }
}

#[test]
fn a_map_of_another_transcript_is_not_believed() {
    let (disk, sessions) = disk();
    let (of_a, of_e) = ("projects/p/a/transcript.map", "projects/p/e/transcript.map");
    let other = disk.peek(&path(of_e)).expect("there").to_vec();
    disk.damage(&path(of_a), |bytes| bytes.clone_from(&other)).expect("there");
    check(&open(&disk.process()).read(&key("a")).expect("sound"), &sessions[0].1, &AgentDigest, 29);
}

#[test]
fn a_map_that_covers_more_than_the_transcript_holds_is_not_believed() {
    let (disk, mut said) = (SimDisk::new(13), Said::new());
    let (store, transcript) = (open(&disk.process()), path("projects/p/a/transcript.jsonl"));
    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, &mut said, named(0..40));
    session.close().expect("closed");
    let (before, wanted) = (disk.peek(&transcript).expect("there").to_vec(), said.clone());
    let session = store.session(&key("a")).expect("opened");
    append(&session, &mut said, named(40..80));
    session.close().expect("closed");
    // From a backup, say.
    disk.damage(&transcript, |bytes| bytes.clone_from(&before)).expect("there");
    check(&open(&disk.process()).read(&key("a")).expect("sound"), &wanted, &AgentDigest, 7);
}

#[test]
fn a_sample_behind_a_line_that_is_no_record_moves_no_record() {
    let (disk, mut said) = (SimDisk::new(17), Said::new());
    let session = open(&disk.process()).create(NewSession::named(key("a"))).expect("created");
    let end = || session.head().expect("known").offset.get();
    while end() + 50_000 < STRIDE {
        let n = said.len() as u64;
        append(&session, &mut said, named(n..n + 1));
    }
    let last = session.head().expect("known");
    session.set(&json!({ "long": "x".repeat(100_000) })).expect("set");
    let at = At::Seq(Seq::new(said.len() as u64 - 1));
    let read = || open(&disk.process()).read(&key("a")).expect("sound");
    assert_eq!(read().position(&at).expect("sound"), last);
    append(&session, &mut said, named(50..55));
    session.rewind(&at).expect("rewound");
    said.truncate(said.len() - 5);
    append(&session, &mut said, named(60..65));
    session.close().expect("closed");
    assert_eq!(read().position(&at).expect("sound"), last);
    check(&read(), &said, &AgentDigest, 1);
}

#[test]
fn the_digest_of_a_fork_that_went_back_before_its_beginning_is_none_of_its_own_places() {
    let (disk, mut said) = (SimDisk::new(18), Said::new());
    let store = open(&disk.process());
    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, &mut said, named(0..80));
    session.close().expect("closed");
    let at = |n| At::Seq(Seq::new(n));
    let fork = store.fork(&key("a"), &at(79), NewSession::named(key("b"))).expect("forked");
    append(&fork, &mut said, named(80..120));
    fork.rewind(&at(60)).expect("rewound");
    said.truncate(61);
    append(&fork, &mut said, named(120..121));
    fork.close().expect("closed");
    check(&open(&disk.process()).read(&key("b")).expect("sound"), &said, &AgentDigest, 7);
}

#[test]
fn a_map_is_made_whatever_a_killed_writer_left_in_its_place() {
    let (disk, mut said) = (SimDisk::new(14), Said::new());
    let session = open(&disk.process()).create(NewSession::named(key("a"))).expect("created");
    append(&session, &mut said, named(0..40));
    disk.put(&path("projects/p/a/transcript.map.tmp"), Some(&[b'x'; 100_000])).expect("new");
    session.close().expect("closed");
    let store = open(&disk.process());
    let (reader, bytes) = read(&disk, || store.read(&key("a")).expect("sound"));
    assert!(bytes < ENDS, "opening it reads {bytes} bytes");
    check(&reader, &said, &AgentDigest, 7);
}

#[test]
fn a_long_session_whose_writer_was_killed_is_not_read_from_its_beginning() {
    let (disk, mut said) = (SimDisk::new(15), Said::new());
    let process = disk.process();
    let session = open(&process).create(NewSession::named(key("a"))).expect("created");
    // More than 16 MiB, of which more is read at once.
    append(&session, &mut said, named(0..450));
    process.kill();
    let store = open(&disk.process());
    let (reader, bytes) = read(&disk, || store.read(&key("a")).expect("sound"));
    assert!(bytes < LIVE_STRIDE + SLACK, "opening it reads {bytes} bytes");
    check(&reader, &said, &AgentDigest, 97);
}

#[test]
fn a_list_reads_of_a_session_that_is_written_what_its_marker_does_not_tell() {
    let (disk, mut said) = (SimDisk::new(16), Said::new());
    let process = disk.process();
    let session = open(&process).create(NewSession::named(key("a"))).expect("created");
    session.set(&json!({ "title": "kept", "gone": 1 })).expect("set");
    append(&session, &mut said, named(0..60));
    session.set(&json!({ "gone": null })).expect("set");
    let list = |digest: Arc<dyn Digest>| {
        let store = open_with(&disk.process(), digest);
        read(&disk, || store.entries().expect("listed").remove(0))
    };
    let (listed, bytes) = list(Arc::new(AgentDigest));
    assert!(bytes < NOTES + ENDS, "the list reads {bytes} bytes");
    // What another digest noted says nothing to this one.
    let (counted, _) = list(Arc::new(Count));
    assert_eq!((counted.records, counted.messages), (60, 60));
    let copy = disk.after(forklog_sim::Cut::Everything);
    session.close().expect("closed");
    let (closed, _) = list(Arc::new(AgentDigest));
    assert_eq!(listed, Entry { live: true, ..closed });
    // A power cut may take back what the marker tells of.
    let transcript = path("projects/p/a/transcript.jsonl");
    let bytes = copy.peek(&transcript).expect("there").to_vec();
    let (half, _) = bytes.split_at(bytes.len() / 2);
    let cut = &half[..=half.iter().rposition(|c| *c == b'\n').expect("a line")];
    copy.damage(&transcript, |bytes| bytes.truncate(cut.len())).expect("there");
    // But for the header and the metadata.
    let left = cut.iter().filter(|c| **c == b'\n').count() - 2;
    let entry = open(&copy.process()).entries().expect("listed").remove(0);
    let cut = digest_of(&AgentDigest, &said[..left]);
    assert_eq!((entry.records, entry.messages, entry.model), (left as u64, cut.messages, cut.model));
}

#[test]
fn an_id_whose_record_a_repair_gave_up_is_appended_again() {
    let (disk, mut said) = (SimDisk::new(19), Said::new());
    let store = open(&disk.process());
    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, &mut said, named(0..40));
    session.close().expect("closed");
    let transcript = path("projects/p/a/transcript.jsonl");
    let bytes = disk.peek(&transcript).expect("there");
    let at = bytes.windows(9).position(|found| found == b"prompt 12").expect("it stands there");
    disk.damage(&transcript, |bytes| bytes[at] ^= 1).expect("there");
    store.repair(&key("a")).expect("repaired");
    let session = store.session(&key("a")).expect("opened");
    let text = payload(12);
    let record = NewRecord::json(text.as_bytes()).expect("JSON").id(RecordId::new("id 12").expect("legal"));
    assert!(matches!(session.append_record(&record), Ok(Appended::New(_))));
    assert!(matches!(session.append_record(&record), Ok(Appended::Duplicate)));
}

#[test]
fn a_map_has_no_place_within_what_a_repair_gave_up() {
    let (disk, mut said) = (SimDisk::new(20), Said::new());
    let store = open(&disk.process());
    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, &mut said, named(0..60));
    session.close().expect("closed");
    // Around the first MiB, where a sample is.
    let transcript = path("projects/p/a/transcript.jsonl");
    let given_up = 23..30;
    let bytes = disk.peek(&transcript).expect("there");
    for n in given_up.clone() {
        let id = format!("\"id {n}\"");
        let at = bytes.windows(id.len()).position(|found| found == id.as_bytes()).expect("it stands there");
        disk.damage(&transcript, |bytes| bytes[at + 1000] ^= 1).expect("there");
    }
    store.repair(&key("a")).expect("repaired");
    let reader = open(&disk.process()).read(&key("a")).expect("sound");
    let all: Vec<_> = reader.records().map(|record| record.expect("sound")).collect();
    assert_eq!(all.len(), said.len() - given_up.len());
    for record in &all {
        let mut from = reader.records_from(record.seq).expect("sound");
        assert_eq!(from.next().expect("sound").expect("there").payload(), record.payload);
        assert_eq!(reader.position(&At::Seq(record.seq)).expect("sound"), record.position);
    }
}

#[test]
fn a_side_transcript_has_a_map_too() {
    let disk = SimDisk::new(12);
    let store = open(&disk.process());
    store.create(NewSession::named(key("a"))).expect("created").close().expect("closed");
    let (side, mut said) = (SideName::new("x").expect("legal"), Said::new());
    let session = store.side(&key("a"), &side, OpenOptions::default()).expect("made");
    append(&session, &mut said, named(0..40));
    session.close().expect("closed");
    assert_eq!(maps(&disk).len(), 1);
    let store = open(&disk.process());
    let (reader, bytes) = read(&disk, || store.read_side(&key("a"), &side).expect("sound"));
    assert!(bytes < ENDS, "opening it reads {bytes} bytes");
    check(&reader, &said, &AgentDigest, 7);
}
