//! What the next to open a session does with what an unclean end left: each rule of its own, so that none can go unnoticed.

use std::path::PathBuf;

use forklog::disk::{Disk, How};
use forklog::{
    Appended, At, Durability, Error, NewRecord, NewSession, OpenOptions, Position, RecordId, Seq, Session, Sharing,
    Store,
};
use forklog_sim::{Cut, Errno, Fault, Op as SimOp, Process, SimDisk, What};
use forklog_soak::model::Which;
use forklog_soak::{Did, Op, SIDE, Step, Tally, World, check_image, files, key, open_store, path, records};
use serde_json::json;

const A: Which = Which("a", None);
const X: Which = Which("a", Some(SIDE));
const MAIN: &str = "projects/p/a/transcript.jsonl";

fn world(options: OpenOptions, ops: &[Op]) -> World {
    let mut world = World::new(5, options);
    run(&mut world, ops);
    world
}

fn run(world: &mut World, ops: &[Op]) {
    for op in ops {
        match world.step(*op, &mut |_| ()) {
            Did::It => {}
            Did::Nothing => panic!("{op:?} makes no sense"),
            Did::Failed(error) => panic!("{op:?}: {error}"),
        }
    }
}

/// Puts bytes behind a file's end, as a write that was cut off does.
fn tear(disk: &SimDisk, below: &str, bytes: &[u8]) {
    disk.damage(&path(below), |file| file.extend_from_slice(bytes)).expect("there");
}

fn quarantined(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let kept = files(disk).into_iter().filter(|(path, _)| path.starts_with("projects/p/a/quarantine"));
    kept.map(|(path, bytes)| (path.file_name().expect("a name").to_string_lossy().into_owned(), bytes)).collect()
}

fn texts(world: &World) -> Vec<String> {
    let reader = open_store(&world.disk.process(), 77).expect("a store").read(&key("a")).expect("sound");
    records(&reader).expect("sound").into_iter().map(|(payload, _)| payload).collect()
}

/// The calls of this kind on the transcript that opening the session makes, killed before.
fn calls_of_opening(world: &mut World, op: SimOp) -> usize {
    world.kill(0);
    let before = world.disk.calls();
    run(world, &[Op::Open(A)]);
    let opened =
        |line: &&str| line.split_whitespace().next().and_then(|n| n.parse().ok()).is_some_and(|n: u64| n > before);
    let of = |line: &&str| line.contains(&format!(" {op:?} ")) && line.contains(MAIN);
    world.disk.trace().lines().filter(opened).filter(of).count()
}

#[test]
fn what_does_not_count_is_cut_off_and_kept() {
    let mut world = world(OpenOptions::default(), &[Op::Create("a"), Op::Append(A), Op::Kill]);
    let mut kept = Vec::new();
    // Spaces alone may have been laid ahead; what stands behind them was not.
    for torn in [[b"{\"half\":\"".as_slice(), &[b'x'; 3000]].concat(), [[b' '; 20_000].as_slice(), b"x"].concat()] {
        tear(&world.disk, MAIN, &torn);
        run(&mut world, &[Op::Append(A)]);
        let bytes = world.disk.peek(&path(MAIN)).expect("there");
        assert_eq!(bytes.last(), Some(&b'\n'), "something of what was cut off is left behind the new line");
        assert!(bytes.len() < 3000);
        kept.push(torn);
        assert_eq!(quarantined(&world.disk).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), kept);
        world.kill(0);
    }
}

#[test]
fn a_second_unclean_end_goes_to_the_same_quarantine_under_a_name_that_tells_its_file() {
    let mut world = world(OpenOptions::default(), &[Op::Create("a"), Op::Append(A), Op::Append(X), Op::Kill]);
    tear(&world.disk, MAIN, b"{\"first\":");
    run(&mut world, &[Op::Append(A), Op::Kill]);
    tear(&world.disk, MAIN, b"{\"second\":");
    tear(&world.disk, "projects/p/a/side/x.jsonl", b"{\"side\":");
    run(&mut world, &[Op::Append(A), Op::Append(X)]);
    let found: Vec<_> = quarantined(&world.disk)
        .into_iter()
        .map(|(name, bytes)| {
            (name.split_once('-').expect("a place").0.to_owned(), String::from_utf8(bytes).expect("text"))
        })
        .collect();
    let wanted = [("side.x", "{\"side\":"), ("transcript", "{\"first\":"), ("transcript", "{\"second\":")];
    assert_eq!(found, wanted.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn spaces_that_were_laid_ahead_are_cut_off_and_not_kept() {
    let options = OpenOptions { durability: Some(Durability::Sync), padding: 40_000, ..OpenOptions::default() };
    let mut world = world(options, &[Op::Create("a"), Op::Append(A), Op::Kill]);
    assert_eq!(world.disk.peek(&path(MAIN)).expect("there").last(), Some(&b' '));
    world.options.padding = 0;
    run(&mut world, &[Op::Open(A)]);
    assert_eq!(world.disk.peek(&path(MAIN)).expect("there").last(), Some(&b'\n'));
    assert_eq!(quarantined(&world.disk), []);
}

/// The sync that failed may have left what it should have written in memory alone: only writing it again puts it on the disk.
#[test]
fn what_a_failed_sync_left_in_memory_is_written_again() {
    for records in 1..4 {
        let mut world = world(OpenOptions::default(), &[Op::Create("a"), Op::Append(A), Op::Sync(A)]);
        run(&mut world, &vec![Op::Batch(A); records]);
        world.disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
        assert!(matches!(world.step(Op::Sync(A), &mut |_| ()), Did::Failed(_)));
        world.forget(A);
        run(&mut world, &[Op::Open(A), Op::Sync(A)]);
        let image = world.disk.after(Cut::Nothing);
        check_image(&image, &world.model, None, &mut Tally::default()).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(texts(&world).len(), 1 + 3 * records);
    }
}

#[test]
fn an_unclean_end_of_megabytes_is_written_again_where_it_stood() {
    let mut world = world(OpenOptions::default(), &[Op::Create("a")]);
    let payloads: Vec<String> = (0..5).map(|n| json!({ "n": n, "text": "x".repeat(700_000) }).to_string()).collect();
    for payload in &payloads {
        world.session(A).expect("open").append_json(payload.as_bytes()).expect("appended");
    }
    world.kill(0);
    let store = open_store(&world.disk.process(), 78).expect("a store");
    drop(store.session(&key("a")).expect("opened"));
    assert!(texts(&world) == payloads);
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
}

#[test]
fn a_session_that_was_closed_is_opened_without_a_write_or_sync() {
    let mut world = world(OpenOptions::default(), &[Op::Create("a"), Op::Append(A), Op::Batch(A), Op::Close(A)]);
    assert_eq!(calls_of_opening(&mut world, SimOp::Write), 0);
    assert_eq!(calls_of_opening(&mut world, SimOp::Sync), 0);
    run(&mut world, &[Op::Append(A)]);
    assert!(calls_of_opening(&mut world, SimOp::Sync) > 0);
}

/// A writer may finish a line between two reads of it: what is bad is read once more before it is called damage.
#[test]
fn a_bit_that_is_read_wrong_once_does_not_make_an_entry_damaged() {
    let world = world(
        OpenOptions::default(),
        &[
            Op::Create("a"),
            Op::Append(A),
            Op::Batch(A),
            Op::Sync(A),
            Op::Append(A),
            Op::Append(A),
            Op::Sync(A),
            Op::Set("a"),
        ],
    );
    let mut healed = 0;
    // The first read is that of line 1, which nothing before it vouches for.
    for n in 2.. {
        let image = world.disk.snapshot().killed();
        let store = open_store(&image.process(), n).expect("a store");
        image.add_fault(Fault::at(n, What::FlipBit).on(SimOp::Read).in_path("transcript.jsonl"));
        let listed = store.entries();
        if image.fault_hits() == 0 {
            break;
        }
        let records = listed.map(|entries| entries.iter().map(|entry| entry.records).collect::<Vec<_>>());
        assert_eq!(records.unwrap_or_else(|error| panic!("read {n}: {error}")), [6]);
        healed += 1;
    }
    assert!(healed > 0);
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let mut world = world(OpenOptions::default(), &[Op::Create("a"), Op::Append(A), Op::Kill]);
    tear(&world.disk, MAIN, b"{\"half\":");
    world.disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(SimOp::CreateDir).in_path("quarantine"));
    match world.step(Op::Open(A), &mut |_| ()) {
        Did::Failed(Error::Io { path, .. }) => {
            assert!(path.ends_with(PathBuf::from("quarantine")), "{path:?}")
        }
        _ => panic!("it opened, or failed otherwise"),
    }
    assert!(world.disk.process().open(&path(MAIN), How::Read).expect("there").len().expect("known") > 0);
}

/// No end was left here, but who takes a session over from another handle reads up to its end as well.
#[test]
fn a_writer_that_shares_a_session_goes_on_behind_what_others_appended() {
    let options = OpenOptions { sharing: Sharing::PerCall, ..OpenOptions::default() };
    let mut world = world(options, &[Op::Create("a"), Op::Append(A)]);
    for by in [1, 0, 1, 1, 0] {
        assert!(matches!(world.step(Step { by, op: Op::Append(A) }, &mut |_| ()), Did::It));
    }
    let wanted: Vec<_> = world.model.now(A).records().map(|(payload, _)| payload.clone()).collect();
    assert_eq!(texts(&world), wanted);
}

/// Two handles of two processes that share session `a`.
fn sharers(disk: &SimDisk) -> (Process, [Session; 2]) {
    let options = OpenOptions { sharing: Sharing::PerCall, ..OpenOptions::default() };
    let (ours, other) = (disk.process(), disk.process());
    let first = open_store(&ours, 1).and_then(|store| store.create(NewSession::named(key("a")).options(options)));
    let second = open_store(&other, 2).and_then(|store| store.session_with(&key("a"), options));
    (other, [first.expect("created"), second.expect("shared")])
}

/// Ends a handle that has appended `last`, and compares what it says with what is there.
fn counts_right(disk: &SimDisk, session: Session, last: Position, wanted: u64) {
    let store = open_store(&disk.process(), 9).expect("a store");
    let reader = store.read(&key("a")).expect("sound");
    assert_eq!((reader.len(), last.records), (wanted, wanted));
    assert_eq!(session.head().expect("readable"), last);
    session.close().expect("closed");
    assert_eq!(store.entry(&key("a")).expect("listed").records, wanted);
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
}

#[test]
fn a_writer_that_met_half_a_line_of_another_counts_no_line_twice() {
    let disk = SimDisk::new(5);
    let (other, [first, second]) = sharers(&disk);
    first.append(&1).expect("there is room");
    second.append(&2).expect("there is room");
    other.kill();
    drop(second);
    disk.damage(&path(MAIN), |bytes| bytes.extend(b"{\"t\":\"half a li")).expect("there");
    assert!(matches!(first.append(&3), Err(Error::Stale { .. })));
    let third = open_store(&disk.process(), 3).expect("a store");
    let options = OpenOptions { sharing: Sharing::PerCall, ..OpenOptions::default() };
    drop(third.session_with(&key("a"), options).expect("what was left is cut off"));
    let last = first.append(&3).expect("it is in order");
    counts_right(&disk, first, last, 3);
}

#[test]
fn a_writer_that_once_failed_to_read_what_another_appended_counts_no_line_twice() {
    for n in 1.. {
        let disk = SimDisk::new(n);
        let (_other, [first, second]) = sharers(&disk);
        let id = |id: u64| RecordId::new(id.to_string()).expect("legal");
        let long = format!("\"{}\"", "x".repeat(9000));
        let record = |n| NewRecord::json(long.as_bytes()).expect("JSON").id(id(n));
        second.append(&1).expect("there is room");
        second.append_batch(&[record(2), record(3), record(4)]).expect("there is room");
        second.append_batch(&[record(5), record(6), record(7)]).expect("there is room");
        disk.add_fault(Fault::at(n, What::Fail(Errno::Io)).on(SimOp::Read).in_path("transcript.jsonl"));
        let failed = first.append_record(&record(6));
        let struck = disk.fault_hits() > 0;
        disk.clear_faults();
        assert!(
            if struck { failed.is_err() } else { matches!(failed, Ok(Appended::Duplicate)) },
            "read {n}: {failed:?}"
        );
        assert_eq!(first.append_record(&record(5)).expect("it is well again"), Appended::Duplicate, "read {n}");
        let last = first.append(&8).expect("it is well again");
        drop(second);
        counts_right(&disk, first, last, 8);
        if !struck {
            assert!(5 < n, "only {n} reads");
            break;
        }
    }
}

#[test]
fn an_id_that_only_an_abandoned_tail_has_is_appended_again() {
    let world = world(OpenOptions::default(), &[Op::Create("a"), Op::Append(A)]);
    let session = world.session(A).expect("open");
    let record = || NewRecord::json(b"2").expect("JSON").id(RecordId::new("twice").expect("legal"));
    assert!(matches!(session.append_record(&record()), Ok(Appended::New(_))));
    assert!(matches!(session.append_record(&record()), Ok(Appended::Duplicate)));
    session.rewind(&At::Seq(Seq::new(0))).expect("rewound");
    assert!(matches!(session.append_record(&record()), Ok(Appended::New(_))));
    assert_eq!(texts(&world).len(), 2);
}

#[test]
fn what_a_repair_gave_up_is_passed_over_by_every_later_open() {
    for (damaged, twice) in [(1, false), (2, false), (3, true), (5, false)] {
        let mut world = world(OpenOptions::default(), &[Op::Create("a")]);
        run(&mut world, &[Op::Append(A), Op::Append(A), Op::Append(A), Op::Close(A)]);
        run(&mut world, &[Op::Append(A), Op::Append(A), Op::Append(A), Op::Sync(A), Op::Append(A), Op::Close(A)]);
        let mut wanted = texts(&world);
        let bytes = world.disk.peek(&path(MAIN)).expect("there");
        for payload in wanted.splice(damaged..=damaged + usize::from(twice), []) {
            let at =
                bytes.windows(payload.len()).position(|found| found == payload.as_bytes()).expect("it stands there");
            // In one of them the line feed, behind which an `xclose` stands.
            let at = at + if damaged == 2 { bytes[at..].iter().position(|c| *c == b'\n').expect("an end") } else { 3 };
            world.disk.damage(&path(MAIN), |bytes| bytes[at] ^= 1).expect("there");
        }
        let store = open_store(&world.disk.process(), 79).expect("a store");
        let read = |store: &Store| store.read(&key("a")).and_then(|reader| records(&reader));
        assert!(matches!(read(&store), Err(Error::Corrupt { .. })));
        store.repair(&key("a")).expect("repaired");
        assert_eq!(texts(&world), wanted, "{damaged}, {twice}");
        each_way(&store, &wanted);
        for n in 0..2 {
            let process = world.disk.process();
            let session = open_store(&process, 80 + n).expect("a store").session(&key("a")).expect("opened");
            session.append(&n).expect("appended");
            wanted.push(n.to_string());
            process.kill();
            assert_eq!(texts(&world), wanted, "{damaged}, {twice}");
            let image = world.disk.after(Cut::Nothing);
            let left = records(&open_store(&image.process(), 90).expect("a store").read(&key("a")).expect("sound"));
            let left = left.expect("sound").len();
            assert!(wanted.len() - 2 <= left, "{left} of {}", wanted.len());
        }
        each_way(&store, &wanted);
        // What was given up stays out of forks.
        let fork = store.fork(&key("a"), &At::Head, NewSession::named(key("b"))).expect("forked");
        fork.append_json(b"\"fork\"").expect("appended");
        fork.close().expect("closed");
        wanted.push("\"fork\"".to_owned());
        let read = records(&store.read(&key("b")).expect("sound")).expect("sound");
        assert_eq!(read.into_iter().map(|(payload, _)| payload).collect::<Vec<_>>(), wanted);
        assert!(store.verify(None, |_| {}).expect("read").is_sound());
    }
}

/// A fork's part of its parent may lie before the damage's `repair` line, which it needs all the same.
#[test]
fn a_fork_passes_over_what_a_repair_of_its_parent_gave_up_although_the_parent_goes() {
    for twice in [false, true] {
        let disk = SimDisk::new(32);
        let store = open_store(&disk.process(), 33).expect("a store");
        let options = OpenOptions { spill_over: Some(1000), ..OpenOptions::default() };
        let parent = store.create(NewSession::named(key("a")).options(options)).expect("created");
        // Every other one has its payload in an object, so that gc reads all that is left of the grave.
        let text = |n: usize| format!("\"{n} {}\"", "x".repeat(70_000));
        for n in 0..8 {
            parent.append_json(text(n).as_bytes()).expect("appended");
            parent.append(&n).expect("appended");
        }
        parent.close().expect("closed");
        let fork = |store: &Store, of: &str, id: &str| {
            let fork = store.fork(&key(of), &At::Seq(Seq::new(9)), NewSession::named(key(id))).expect("forked");
            fork.close().expect("closed");
        };
        fork(&store, "a", "b");
        // One place before the fork's base, then one behind it but before the first `repair` line.
        for damaged in if twice { vec![2, 6] } else { vec![2] } {
            let line = format!("\"data\":{damaged},");
            let bytes = disk.peek(&path(MAIN)).expect("there");
            let at = bytes.windows(line.len()).position(|found| found == line.as_bytes()).expect("it stands there");
            disk.damage(&path(MAIN), |bytes| bytes[at + 7] ^= 1).expect("there");
            store.repair(&key("a")).expect("repaired");
        }
        let wanted: Vec<_> = (0..5).flat_map(|n| [text(n), n.to_string()]).filter(|found| found != "2").collect();
        let check = |store: &Store, id: &str, what: &str| {
            let read = store.read(&key(id)).and_then(|reader| records(&reader));
            let read = read.unwrap_or_else(|error| panic!("{id}, {what}, {twice}: {error}"));
            assert!(read.iter().map(|(payload, _)| payload).eq(&wanted), "{id}, {what}, {twice}");
            let report = store.verify(None, |_| {}).expect("read");
            assert!(report.is_sound(), "{what}, {twice}: {report:?}");
        };
        check(&store, "b", "the parent is there");
        let image = disk.snapshot().killed();
        let store = &open_store(&image.process(), 34).expect("a store");
        store.delete(&key("a")).expect("deleted");
        check(store, "b", "the parent is deleted");
        let would = store.gc(true).expect("told");
        assert_eq!(store.gc(false).expect("swept"), would);
        check(store, "b", "the grave is swept");
        let left = files(&image);
        let again = store.gc(false).expect("swept again");
        assert_eq!((again.kept, again.bytes, again.files), (1, 0, 0));
        assert_eq!(files(&image), left);
        check(store, "b", "the grave is swept again");

        let image = disk.snapshot().killed();
        let store = &open_store(&image.process(), 35).expect("a store");
        store.reroot(&key("b")).expect("rerooted");
        check(store, "b", "it is rerooted");
        assert_eq!(store.reroot(&key("b")).expect("rerooted again").bytes, 0);
        // Within what was inherited, so that it gets a copy of its own.
        fork(store, "b", "c");
        for gone in ["a", "b"] {
            check(store, "c", gone);
            store.delete(&key(gone)).expect("deleted");
            store.gc(false).expect("swept");
        }
        check(store, "c", "all before it are gone");
    }
}

#[test]
fn a_gap_that_ends_behind_what_was_read_at_once_is_passed_over() {
    for damaged in 1..16 {
        let disk = SimDisk::new(30);
        let store = open_store(&disk.process(), 31).expect("a store");
        let session = store.create(NewSession::named(key("a"))).expect("created");
        let text = |n: usize| format!("\"{n} {}\"", "x".repeat(3000));
        for n in 0..20 {
            session.append_json(text(n).as_bytes()).expect("appended");
        }
        session.close().expect("closed");
        for n in damaged..damaged + 3 {
            let start = format!("\"{n} x");
            let bytes = disk.peek(&path(MAIN)).expect("there");
            let at = bytes.windows(start.len()).position(|found| found == start.as_bytes()).expect("it stands there");
            disk.damage(&path(MAIN), |bytes| bytes[at + 100] ^= 1).expect("there");
        }
        store.repair(&key("a")).expect("repaired");
        let wanted: Vec<_> = (0..20).filter(|n| !(damaged..damaged + 3).contains(n)).map(text).collect();
        each_way(&store, &wanted);
    }
}

/// Reads `a` backwards, and from each of its records on; the numbers of those that were given up stay used.
fn each_way(store: &Store, wanted: &[String]) {
    let reader = store.read(&key("a")).expect("sound");
    let all: Vec<_> = reader.records().map(|record| record.expect("sound")).collect();
    assert!(all.iter().map(|record| &record.payload[..]).eq(wanted.iter().map(String::as_bytes)));
    let mut back = reader.records_back();
    for record in all.iter().rev() {
        let found = back.next().expect("sound").expect("there");
        assert_eq!((found.payload(), found.seq()), (&record.payload[..], record.seq));
    }
    assert!(back.next().expect("sound").is_none());
    for (n, record) in all.iter().enumerate() {
        let position = reader.position(&At::Seq(record.seq)).expect("sound");
        assert_eq!(position, record.position);
        assert_eq!(reader.position(&At::Position(position)).expect("sound"), position);
        let mut from = reader.records_from(record.seq).expect("sound");
        assert_eq!(from.next().expect("sound").expect("there").payload(), record.payload);
        let then = reader.at(position).expect("sound").records().map(|record| record.expect("sound"));
        assert_eq!(then.collect::<Vec<_>>(), all[..=n]);
    }
}
