//! Calls that fail, each in turn: what was acknowledged stays, errors have their type, and the store opens afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forklog::disk::{Disk, How};
use forklog::{
    Appended, At, Durability, Error, Kind, NewRecord, NewSession, OpenOptions, RecordId, Session, Sharing, SideName,
    Store,
};
use forklog_sim::{Cut, Errno, Fault, Op as SimOp, Points, SimDisk, What, derive};
use forklog_soak::model::Which;
use forklog_soak::{
    Did, FaultCase, Op, Snapshots, Tally, Unit, World, check_image, images, key, open_store, records, side_name,
};

const A: Which = Which("a", None);

/// Every way to go on after a sync whose bytes ext4 loses for good: with the handle's successor, and with one who shares the session.
#[test]
fn what_a_failed_sync_lost_for_good_is_written_anew() {
    for sharing in [Sharing::Exclusive, Sharing::PerCall] {
        let disk = SimDisk::new(9);
        let options = OpenOptions { durability: Some(Durability::Sync), sharing, ..OpenOptions::default() };
        let first =
            open_store(&disk.process(), 1).and_then(|store| store.create(NewSession::named(key("a")).options(options)));
        let first = first.expect("created");
        first.append(&1).expect("there is room");
        disk.add_fault(Fault::at(1, What::LoseForGood(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
        first.append(&2).expect_err("the sync fails");
        disk.clear_faults();
        let first = (sharing == Sharing::PerCall).then_some(first);
        let store = open_store(&disk.process(), 2).expect("a store");
        let next = store.session_with(&key("a"), options).expect("opened");
        assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1", "2"], "{sharing:?}");
        next.append(&3).expect("the disk is well again");
        assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1", "2", "3"], "{sharing:?}");
        drop(first);
    }
}

/// Between the cut and the sync the lines are in quarantine only: whoever comes next puts them back.
#[test]
fn a_recovery_that_is_killed_on_the_way_costs_no_record() {
    let mut killed = 0;
    for n in 1.. {
        let disk = SimDisk::new(9);
        let store = open_store(&disk.process(), 1).expect("a store");
        let session = store.create(NewSession::named(key("a"))).expect("created");
        session.append(&1).and_then(|_| session.sync()).expect("there is room");
        session.append(&2).expect("there is room");
        session.append(&3).expect("there is room");
        disk.add_fault(Fault::at(1, What::LoseForGood(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
        session.sync().expect_err("the sync fails");
        disk.clear_faults();
        drop((session, store));
        let (victim, calls) = (disk.process(), Arc::new(AtomicU64::new(0)));
        let (counted, struck) = (Arc::clone(&calls), victim.clone());
        disk.on_point(Points::Changes, move |_, _| {
            if counted.fetch_add(1, Ordering::Relaxed) + 1 == n {
                struck.kill();
            }
        });
        let opened = open_store(&victim, 2).and_then(|store| store.session(&key("a")));
        disk.clear_hook();
        let done = opened.is_ok() && calls.load(Ordering::Relaxed) < n;
        drop(opened);
        victim.kill();
        assert_eq!(payloads(&disk.after(Cut::Nothing))[..1], ["1"], "synced, killed before call {n}");
        open_store(&disk.process(), 3)
            .and_then(|store| store.session(&key("a")))
            .expect("opened")
            .close()
            .expect("closed");
        assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1", "2", "3"], "killed before call {n}");
        if done {
            break;
        }
        killed += 1;
    }
    assert!(killed > 8, "{killed} kills reach the cut, the write and the sync");
}

/// A fork synced its parent, whose last sync had failed, and took that for a promise.
#[test]
fn a_read_that_fails_or_errs_once_lets_no_id_in_twice() {
    let id = || RecordId::new("once").expect("legal");
    let fail = What::Fail(Errno::Io);
    // In the last, looking again fails.
    for what in [vec![fail], vec![What::FlipBit], vec![What::FlipBit, fail]] {
        let mut hits = 0;
        for n in 1.. {
            let disk = SimDisk::new(n);
            let store = open_store(&disk.process(), 1).expect("a store");
            let session = store.create(NewSession::named(key("a"))).expect("created");
            session.append(&1).expect("there is room");
            let record = NewRecord::json(b"2").expect("JSON").id(id());
            assert!(matches!(session.append_record(&record), Ok(Appended::New(_))));
            session.append(&3).expect("there is room");
            let reader = store.read(&key("a")).expect("sound");
            let strike = || {
                for (n, what) in (n..).zip(&what) {
                    disk.add_fault(Fault::at(n, *what).on(SimOp::Read).in_path("transcript.jsonl"));
                }
            };
            strike();
            let appended = session.append_record(&record);
            let hit = disk.fault_hits();
            disk.clear_faults();
            strike();
            let found = reader.get(&id());
            disk.clear_faults();
            assert!(!matches!(appended, Ok(Appended::New(_))), "{what:?} at read {n}");
            assert!(!matches!(found, Ok(None)), "{what:?} at read {n}");
            assert_eq!(payloads(&disk), ["1", "2", "3"], "{what:?} at read {n}");
            if hit == 0 {
                break;
            }
            hits += 1;
        }
        assert!(hits > 0, "{what:?}");
    }
}

#[test]
fn a_fork_does_not_believe_a_sync_that_follows_a_failed_one() {
    let disk = SimDisk::new(9);
    let store = open_store(&disk.process(), 1).expect("a store");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    session.append(&1).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    session.sync().expect_err("the sync fails");
    disk.clear_faults();
    let fork = || store.fork(&key("a"), &At::Head, NewSession::named(key("b")));
    assert!(matches!(fork(), Err(Error::Poisoned { .. })));
    drop(session);
    fork().expect("its parent is put in order").close().expect("closed");
    let store = open_store(&disk.after(Cut::Nothing).process(), 2).expect("a store");
    assert_eq!(records(&store.read(&key("b")).expect("there")).expect("sound").len(), 1);
}

/// The same where it is the fork's own sync that fails: whoever opens the parent next must know.
#[test]
fn a_fork_whose_sync_of_its_parent_fails_says_so() {
    let disk = SimDisk::new(9);
    let dead = disk.process();
    let session = open_store(&dead, 1).and_then(|store| store.create(NewSession::named(key("a")))).expect("created");
    session.append(&1).expect("there is room");
    dead.kill();
    drop(session);
    let store = open_store(&disk.process(), 2).expect("a store");
    disk.add_fault(Fault::at(1, What::LoseForGood(Errno::Io)).on(SimOp::Sync).in_path("projects/p/a/transcript.jsonl"));
    store.fork(&key("a"), &At::Head, NewSession::named(key("b"))).expect_err("the sync fails");
    assert_eq!(disk.fault_hits(), 1);
    disk.clear_faults();
    store.session(&key("a")).expect("opened").close().expect("closed");
    assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1"]);
}

/// A power cut may tear the marker of a dead writer, which may have said that a sync had failed. Forks were refused then.
#[test]
fn a_fork_puts_a_parent_in_order_whose_marker_cannot_be_read() {
    let disk = SimDisk::new(9);
    let dead = disk.process();
    let session = open_store(&dead, 1).and_then(|store| store.create(NewSession::named(key("a")))).expect("created");
    session.append(&1).expect("there is room");
    dead.kill();
    drop(session);
    let marked = disk.tree().into_iter().find(|(path, bytes)| path.starts_with("/store/live") && bytes.is_some());
    let marked = marked.expect("a marker").0;
    disk.damage(&marked, |bytes| bytes.fill(0)).expect("torn");
    let copy = disk.after(Cut::Everything);
    let store = open_store(&copy.process(), 2).expect("a store");
    let fork = |name| store.fork(&key("a"), &At::Head, NewSession::named(key(name)));
    fork("b").expect("forked").close().expect("closed");
    let after = open_store(&copy.after(Cut::Nothing).process(), 3).expect("a store");
    assert_eq!(records(&after.read(&key("b")).expect("there")).expect("sound").len(), 1);
    // Whoever has it open has put it in order, until a sync fails again.
    let store = open_store(&disk.process(), 4).expect("a store");
    let fork = |name| store.fork(&key("a"), &At::Head, NewSession::named(key(name)));
    let session = store.session(&key("a")).expect("opened");
    session.append(&2).expect("there is room");
    fork("b").expect("forked").close().expect("closed");
    let after = open_store(&disk.after(Cut::Nothing).process(), 5).expect("a store");
    assert_eq!(records(&after.read(&key("b")).expect("there")).expect("sound").len(), 2);
    session.append(&3).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    session.sync().expect_err("the sync fails");
    disk.clear_faults();
    assert!(matches!(fork("c"), Err(Error::Poisoned { .. })));
}

/// What a fork has of its ancestors was synced before it was made: it needs none of them again.
#[test]
fn a_fork_of_a_fork_asks_nothing_of_an_ancestor_whose_sync_failed() {
    let disk = SimDisk::new(9);
    let store = open_store(&disk.process(), 1).expect("a store");
    let fork = |of, name| store.fork(&key(of), &At::Head, NewSession::named(key(name)));
    let a = store.create(NewSession::named(key("a"))).expect("created");
    a.append(&1).expect("there is room");
    fork("a", "b").expect("forked").close().expect("closed");
    a.append(&2).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("projects/p/a/transcript.jsonl"));
    a.sync().expect_err("the sync fails");
    disk.clear_faults();
    fork("b", "c").expect("its ancestor does not matter").close().expect("closed");
    let store = open_store(&disk.after(Cut::Nothing).process(), 2).expect("a store");
    assert_eq!(records(&store.read(&key("c")).expect("there")).expect("sound").len(), 1);
}

/// A session with a side transcript, both open for append, and what the side is called.
fn main_and_side(store: &Store) -> (Session, Session, SideName) {
    let (main, side) =
        (store.create(NewSession::named(key("a"))).expect("created"), "s".parse::<SideName>().expect("a name"));
    let worker = store.side(&key("a"), &side, OpenOptions::default()).expect("created");
    (main, worker, side)
}

/// Only the transcript that is forked must be in order.
#[test]
fn a_fork_does_not_wait_for_a_side_that_is_open() {
    let disk = SimDisk::new(9);
    let store = open_store(&disk.process(), 1).expect("a store");
    let (main, worker, _) = main_and_side(&store);
    main.append(&1).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    main.sync().expect_err("the sync fails");
    disk.clear_faults();
    drop(main);
    let fork = store.fork(&key("a"), &At::Head, NewSession::named(key("b"))).expect("put in order");
    fork.close().expect("closed");
    worker.append(&2).expect("it goes on");
    let store = open_store(&disk.after(Cut::Nothing).process(), 2).expect("a store");
    assert_eq!(records(&store.read(&key("b")).expect("there")).expect("sound").len(), 1);
}

/// The main transcript was closed in order and took the marker away, which was all that told of the side transcript's failed sync.
#[test]
fn a_side_whose_sync_failed_is_remembered_when_the_main_one_is_closed() {
    let disk = SimDisk::new(9);
    let store = open_store(&disk.process(), 1).expect("a store");
    let (main, worker, side) = main_and_side(&store);
    worker.append(&1).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseForGood(Errno::Io)).on(SimOp::Sync).in_path("side"));
    worker.sync().expect_err("the sync fails");
    disk.clear_faults();
    drop(worker);
    main.close().expect("closed");
    store.gc(false).expect("collected");
    let after = open_store(&disk.after(Cut::Nothing).process(), 2).expect("a store");
    let side = after.read_side(&key("a"), &side).expect("there");
    assert_eq!(records(&side).expect("sound").len(), 1);
}

/// What a store holds of session a.
fn payloads(disk: &SimDisk) -> Vec<String> {
    let reader = open_store(&disk.process(), 9).and_then(|store| store.read(&key("a"))).expect("sound");
    records(&reader).expect("sound").into_iter().map(|record| record.0).collect()
}

/// A writer whose sync had failed was still there, and had not said so: the next to share the session took what it read for what is on
/// the disk, and its own sync for a promise of all of it.
#[test]
fn what_a_failed_sync_lost_is_written_again_although_others_share_the_session() {
    let disk = SimDisk::new(9);
    let shared =
        OpenOptions { durability: Some(Durability::Sync), sharing: Sharing::PerCall, ..OpenOptions::default() };
    let open = |n| open_store(&disk.process(), n).expect("it opens");
    let first = open(1).create(NewSession::named(key("a")).options(shared)).expect("created");
    let second = open(2).session_with(&key("a"), shared).expect("shared");
    first.append(&1).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(SimOp::Write).in_path("live"));
    first.append(&2).expect_err("the sync fails");
    assert_eq!(disk.fault_hits(), 2);
    disk.clear_faults();
    let third = open(3).session_with(&key("a"), shared).expect("shared");
    third.append(&3).expect("the disk is well again");
    let image = disk.after(Cut::Nothing);
    let reader = open_store(&image.process(), 4).and_then(|store| store.read(&key("a"))).expect("sound");
    let payloads: Vec<_> = records(&reader).expect("sound").into_iter().map(|record| record.0).collect();
    assert_eq!(payloads, ["1", "2", "3"]);
    drop((first, second, third));
}

/// What stood behind the `xclose` was cut before the sync that failed, and the next to open took the file for one that was closed.
#[test]
fn a_sync_that_fails_on_opening_leaves_no_file_that_looks_closed() {
    let options = OpenOptions { durability: Some(Durability::Sync), ..OpenOptions::default() };
    let mut world = World::new(5, options);
    for op in [Op::Create("a"), Op::Append(A), Op::Close(A)] {
        assert!(matches!(world.step(op, &mut |_| ()), Did::It), "{op:?}");
    }
    let path = world.disk.tree().into_iter().map(|(path, _)| path).find(|path| path.ends_with("transcript.jsonl"));
    let file = world.disk.process().open(&path.expect("a transcript"), How::Write).expect("it opens");
    file.write_at(b"   ", file.len().expect("a length")).expect("there is room");
    world.disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    assert!(matches!(world.step(Op::Open(A), &mut |_| ()), Did::Failed(_)));
    assert_eq!(world.disk.fault_hits(), 1);
    world.disk.clear_faults();
    assert!(matches!(world.step(Op::Append(A), &mut |_| ()), Did::It));
    let image = world.disk.after(Cut::Nothing);
    check_image(&image, &world.model, None, &mut Tally::default()).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// A map reached further than the last sync, and what lies before the end of a map was not written again.
#[test]
fn what_a_failed_sync_lost_is_written_again_though_a_map_covers_it() {
    let disk = SimDisk::new(9);
    let store = open_store(&disk.process(), 1).expect("a store");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let text = "x".repeat(1 << 20);
    for _ in 0..9 {
        session.append(&text).expect("appended");
    }
    assert!(disk.tree().iter().any(|(path, _)| path.ends_with("transcript.map")), "the writer made no map");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    assert!(session.sync().is_err());
    disk.clear_faults();
    drop((session, store));
    let store = open_store(&disk.process(), 2).expect("a store");
    store.session(&key("a")).expect("opened again").sync().expect("synced");
    let after = open_store(&disk.after(Cut::Nothing).process(), 3).expect("a store");
    let records = after.read(&key("a")).expect("there").records();
    assert_eq!(records.map(|record| record.expect("undamaged").seq.get()).collect::<Vec<_>>(), Vec::from_iter(0..9));
}

/// Found by a soak: a session whose deletion had failed after its rename, or whose deleter had died there, was swept away in its grave
/// before that name was stable. A power cut put what was left of it back in its place: no session, and its name taken.
#[test]
fn gc_sweeps_no_grave_that_a_power_cut_takes_back() {
    let mut world = World::new(7, OpenOptions::default());
    let b = Which("b", None);
    for op in [Op::Create("b"), Op::Append(b), Op::Sync(b), Op::Close(b)] {
        assert!(matches!(world.step(op, &mut |_| ()), Did::It), "{op:?}");
    }
    world.disk.add_fault(Fault::at(1, What::FailAfter(Errno::NoSpace)).on(SimOp::Rename).in_path("projects/p/b"));
    assert!(matches!(world.step(Op::Delete("b"), &mut |_| ()), Did::Failed(_)));
    assert_eq!(world.disk.fault_hits(), 1);
    world.disk.clear_faults();
    world.relearn().expect("readable");
    let snapshots = Snapshots::default();
    snapshots.collect(&world.disk, Points::Changes);
    assert!(matches!(world.step(Op::Gc, &mut |_| ()), Did::It));
    snapshots.push(world.disk.snapshot());
    for (n, snapshot) in snapshots.take().iter().enumerate() {
        for (cut, image) in images(snapshot, derive(0x67a7e, n as u64), 5, 8) {
            let checked = check_image(&image, &world.model, None, &mut Tally::default());
            checked.unwrap_or_else(|wrong| panic!("{}", image.report(format!("{cut}: {wrong}"))));
        }
    }
}

/// Found by a soak: a creation whose rename had failed after it was done took the marker away, and lists missed the session.
#[test]
fn a_session_whose_creation_failed_late_is_in_the_list() {
    let mut world = World::new(10, OpenOptions::default());
    for op in [Op::Create("a"), Op::Append(A), Op::Close(A)] {
        assert!(matches!(world.step(op, &mut |_| ()), Did::It), "{op:?}");
    }
    world.disk.add_fault(Fault::at(1, What::FailAfter(Errno::Io)).on(SimOp::Rename).in_path("tmp"));
    assert!(matches!(world.step(Op::Fork("a", "b"), &mut |_| ()), Did::Failed(_)));
    assert_eq!(world.disk.fault_hits(), 1);
    world.disk.clear_faults();
    world.relearn().expect("readable");
    let checked = check_image(&world.disk.after(Cut::Everything), &world.model, None, &mut Tally::default());
    checked.unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// A store whose writer ended in the middle of writing its marker, after a sync that had lost what `a` had in memory.
fn with_a_torn_marker(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let writer = disk.process();
    let session = open_store(&writer, 1).and_then(|store| store.create(NewSession::named(key("a"))));
    let session = session.expect("created");
    session.append(&1).and_then(|_| session.sync()).expect("synced");
    session.append(&2).expect("there is room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    session.sync().expect_err("the sync fails");
    assert_eq!(disk.fault_hits(), 1);
    disk.clear_faults();
    writer.kill();
    let marker =
        disk.tree().into_iter().find_map(|(path, file)| file.filter(|_| path.starts_with("/store/live")).map(|_| path));
    let marker = disk.process().open(&marker.expect("a marker"), How::Write).expect("it opens");
    marker.write_at(b"torn", 40).expect("there is room");
    disk
}

/// How many records the list shows of `a`, after a power cut that spares names and loses what was never written to the disk.
fn listed_after_a_cut(disk: &SimDisk) -> u64 {
    let image = disk.after(Cut::Names);
    let store = open_store(&image.process(), 9).expect("a store");
    let listed = store.entries().expect("a list")[0].records;
    assert_eq!(listed, records(&store.read(&key("a")).expect("sound")).expect("sound").len() as u64);
    listed
}

/// Found by a soak: a list that met the torn marker of a dead writer put what could be read into the index, and took the marker away.
#[test]
fn a_list_publishes_nothing_that_a_power_cut_takes_back() {
    let disk = with_a_torn_marker(12);
    let store = open_store(&disk.process(), 2).expect("a store");
    assert_eq!(store.entries().expect("a list")[0].records, 2);
    assert_eq!(listed_after_a_cut(&disk), 1);
    store.session(&key("a")).and_then(forklog::Session::close).expect("in order again");
    assert_eq!(listed_after_a_cut(&disk), 2);
}

/// Who wrote a torn marker anew forgot that it may have said that a sync had failed.
#[test]
fn closing_a_side_publishes_nothing_that_a_failed_sync_lost() {
    let disk = with_a_torn_marker(13);
    let store = open_store(&disk.process(), 2).expect("a store");
    let side = store.side(&key("a"), &side_name("x"), OpenOptions::default()).expect("a side");
    side.append(&1).and_then(|_| side.close()).expect("there is room");
    assert_eq!(listed_after_a_cut(&disk), 1);
}

/// A handle that has synced a record. Of another process that shared the session, and was killed, there are two records that nobody synced.
fn with_a_dead_sharer(disk: &SimDisk, sync: impl Fn(&Session)) -> Session {
    let options = OpenOptions { sharing: Sharing::PerCall, ..OpenOptions::default() };
    let first =
        open_store(&disk.process(), 1).and_then(|store| store.create(NewSession::named(key("a")).options(options)));
    let first = first.expect("created");
    let dead = disk.process();
    let second = open_store(&dead, 2).and_then(|store| store.session_with(&key("a"), options)).expect("shared");
    first.append(&1).and_then(|_| first.sync()).expect("there is room");
    second.append(&2).and_then(|_| second.append(&3)).expect("there is room");
    sync(&second);
    dead.kill();
    first
}

/// The last handle that shares a session synced what it had written itself, and published what others had.
#[test]
fn the_last_to_close_publishes_nothing_of_a_dead_sharer_that_a_power_cut_takes_back() {
    let disk = SimDisk::new(14);
    with_a_dead_sharer(&disk, |_| ()).close().expect("closed");
    assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1", "2", "3"]);
    assert_eq!(listed_after_a_cut(&disk), 3);
}

#[test]
fn a_close_whose_sync_of_a_dead_sharers_records_fails_says_so() {
    let disk = SimDisk::new(14);
    let session = with_a_dead_sharer(&disk, |_| ());
    disk.add_fault(Fault::at(1, What::LoseForGood(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
    session.close().expect_err("the sync fails");
    disk.clear_faults();
    assert_eq!(listed_after_a_cut(&disk), 1);
    let store = open_store(&disk.process(), 3).expect("a store");
    store.session(&key("a")).expect("opened").close().expect("closed");
    assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1", "2", "3"]);
    assert_eq!(listed_after_a_cut(&disk), 3);
}

#[test]
fn the_last_to_close_does_not_believe_a_sync_that_follows_a_dead_sharers_failed_one() {
    let disk = SimDisk::new(14);
    let session = with_a_dead_sharer(&disk, |sharer| {
        disk.add_fault(Fault::at(1, What::LoseForGood(Errno::Io)).on(SimOp::Sync).in_path("transcript.jsonl"));
        sharer.sync().expect_err("the sync fails");
        disk.clear_faults();
    });
    session.close().expect("its own record is synced");
    assert_eq!(listed_after_a_cut(&disk), 1);
    let store = open_store(&disk.process(), 3).expect("a store");
    store.session(&key("a")).expect("opened").close().expect("closed");
    assert_eq!(payloads(&disk.after(Cut::Nothing)), ["1", "2", "3"]);
}

/// A world with session `a`, its fork `b`, and `a` deleted.
fn orphan(seed: u64) -> World {
    let mut world = World::new(seed, OpenOptions::default());
    let b = Which("b", None);
    let before = [Op::Create("a"), Op::Append(A), Op::Append(A), Op::Fork("a", "b"), Op::Append(b), Op::Close(A)];
    for op in before.into_iter().chain([Op::Close(b), Op::Delete("a")]) {
        assert!(matches!(world.step(op, &mut |_| ()), Did::It), "{op:?}");
    }
    world
}

/// Found by a soak: gc swept what a fork had in a grave, for a copy whose name was not stable since its maker had died before that.
#[test]
fn gc_relies_on_no_copy_that_a_power_cut_takes_back() {
    for n in 1.. {
        let mut world = orphan(8);
        world.disk.add_fault(Fault::at(n, What::FailAfter(Errno::Io)).on(SimOp::SyncDir).in_path("projects/p/b"));
        let did = world.step(Op::Reroot("b"), &mut |_| ());
        if world.disk.fault_hits() == 0 {
            assert!(1 < n, "reroot syncs");
            break;
        }
        assert!(matches!(did, Did::Failed(_)));
        world.disk.clear_faults();
        world.relearn().expect("readable");
        assert!(matches!(world.step(Op::Gc, &mut |_| ()), Did::It));
        for (cut, image) in images(&world.disk.snapshot(), derive(0x67a7f, n), 5, 30) {
            let checked = check_image(&image, &world.model, None, &mut Tally::default());
            checked.unwrap_or_else(|wrong| panic!("{}", image.report(format!("{cut}: {wrong}"))));
        }
    }
}

/// The copy takes its source's place: a bit that is read wrong on the way costs nothing.
#[test]
fn a_bit_that_is_read_wrong_while_an_ancestor_is_copied_costs_no_record() {
    for seed in 0..30 {
        for n in 1.. {
            let mut world = orphan(seed);
            world.disk.add_fault(Fault::at(n, What::FlipBit).on(SimOp::Read));
            let did = world.step(Op::Reroot("b"), &mut |_| ());
            if world.disk.fault_hits() == 0 {
                assert!(matches!(did, Did::It) && 2 < n, "{n} reads");
                break;
            }
            world.disk.clear_faults();
            world.relearn().expect("readable");
            assert!(matches!(world.step(Op::Gc, &mut |_| ()), Did::It));
            let checked = check_image(&world.disk.after(Cut::Nothing), &world.model, None, &mut Tally::default());
            checked.unwrap_or_else(|wrong| panic!("seed {seed}, read {n}: {wrong}"));
        }
    }
}

/// After a full disk the same handle goes on; after a failed sync of its transcript it is poisoned; after a failed sync of a marker or
/// directory it tries again. [`FaultCase`] says so of every call; the soak tries all of them, and this a share.
#[test]
fn handles_go_on_after_a_failure_or_say_that_they_cannot() {
    let mut tally = Tally::default();
    for kind in 0..FaultCase::KINDS {
        Unit::Faults(kind).run(401, &mut tally).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    eprintln!("{tally:?}");
}

/// Found by a soak: a writer that read one bit wrong when it opened an unclean end cut whole records off, or wrote the wrong bit back.
#[test]
fn a_bit_that_is_read_wrong_once_costs_no_record() {
    for n in 1.. {
        let mut world = World::new(n, OpenOptions::default());
        for op in
            [Op::Create("a"), Op::Append(A), Op::Sync(A), Op::Batch(A), Op::Append(A), Op::Rewind(A), Op::Append(A)]
        {
            assert!(matches!(world.step(op, &mut |_| ()), Did::It), "{op:?}");
        }
        assert!(matches!(world.step(Op::Kill, &mut |_| ()), Did::It));
        let wanted: Vec<_> = world.model.now(A).records().cloned().collect();
        world.disk.add_fault(Fault::at(n, What::FlipBit).in_path("transcript.jsonl"));
        match world.step(Op::Open(A), &mut |_| ()) {
            Did::It => {}
            Did::Failed(error) => {
                assert!(matches!(error.kind(), Kind::Data | Kind::Reopen | Kind::Newer), "{n}: {error}")
            }
            Did::Nothing => panic!("it is not open"),
        }
        let struck = world.disk.fault_hits() > 0;
        world.disk.clear_faults();
        world.forget(A);
        let store = open_store(&world.disk.process(), 99).expect("a store");
        assert_eq!(records(&store.read(&key("a")).expect("sound")).expect("sound"), wanted, "read {n}");
        assert!(store.verify(None, |_| {}).expect("read").is_sound(), "read {n}");
        if !struck {
            break;
        }
    }
}

/// What a fork needs of a session that is deleted is known from the fork's own file.
#[test]
fn gc_throws_nothing_away_while_it_cannot_look_at_a_transcript() {
    let mut failed = 0;
    for nth in 1..20 {
        let disk = SimDisk::new(11);
        let store = open_store(&disk.process(), 1).expect("a store");
        let session = store.create(NewSession::named(key("a"))).expect("created");
        session.append(&1).and_then(|_| session.close()).expect("there is room");
        let fork = store.fork(&key("a"), &At::Head, NewSession::named(key("b"))).expect("forked");
        fork.append(&2).and_then(|_| fork.close()).expect("there is room");
        store.delete(&key("a")).expect("deleted");
        disk.add_fault(Fault::at(nth, What::Fail(Errno::Io)).on(SimOp::Stat).in_path("/b/transcript.jsonl"));
        let hits = disk.fault_hits();
        let collected = store.gc(false);
        let hit = disk.fault_hits() > hits;
        disk.clear_faults();
        if hit {
            collected.expect_err("it cannot know what is needed");
            failed += 1;
        }
        assert_eq!(store.read(&key("b")).expect("the ancestor is there").len(), 2, "the {nth}th look fails");
        store.gc(false).expect("collected");
        assert_eq!(store.read(&key("b")).expect("the ancestor is there").len(), 2, "the {nth}th look failed");
    }
    assert!(failed > 0, "nobody looked");
}

/// At each call of a rebuild, another process makes a session and closes it, unless the index is locked just then.
#[test]
fn a_session_that_is_made_beside_a_rebuild_is_in_the_list() {
    let (mut made, mut waited) = (0, 0);
    for moment in 0.. {
        let disk = SimDisk::new(12);
        let store = open_store(&disk.process(), 1).expect("a store");
        for id in ["a", "b", "c"] {
            store.create(NewSession::named(key(id))).and_then(|session| session.close()).expect("made");
        }
        let (other, process) = (open_store(&disk.process(), 2).expect("a store"), disk.process());
        let lock = store.path().join("index/lock");
        let did = disk.at_call(Points::Every, moment, move || {
            let file = process.open(&lock, How::Write).expect("there");
            let is_free = file.try_lock(forklog::disk::LockMode::Exclusive).expect("asked");
            drop(file);
            if is_free {
                let session = other.create(NewSession::named(key("aa")));
                session.and_then(|session| session.close()).expect("made");
            }
            is_free
        });
        store.reindex().expect("built again");
        disk.clear_hook();
        match did.get() {
            None => break,
            Some(true) => made += 1,
            Some(false) => waited += 1,
        }
        let listed = |store: &Store| store.entries().expect("listed").len() as u64;
        let found = listed(&store);
        assert_eq!(store.reindex().expect("built again"), found, "made at call {moment} of a rebuild");
    }
    assert!(made > 1 && waited > 1, "{made} {waited}");
}

/// At each call that makes a side transcript, another process deletes the session.
#[test]
fn a_session_that_is_deleted_while_a_side_of_it_is_made_leaves_its_name_free() {
    let mut deleted = 0;
    for moment in 0.. {
        let disk = SimDisk::new(13);
        let store = open_store(&disk.process(), 1).expect("a store");
        store.create(NewSession::named(key("a"))).and_then(|session| session.close()).expect("made");
        let other = open_store(&disk.process(), 2).expect("a store");
        let deletes = move || other.delete(&key("a")).is_ok();
        let did = disk.at_call(Points::Every, moment, deletes);
        let side = store.side(&key("a"), &SideName::new("x").expect("legal"), OpenOptions::default());
        disk.clear_hook();
        let Some(is_deleted) = did.get() else { break };
        drop(side);
        if *is_deleted {
            deleted += 1;
            let again = store.create(NewSession::named(key("a"))).unwrap_or_else(|error| panic!("{moment}: {error}"));
            again.append(&1).and_then(|_| again.close()).expect("there is room");
            assert_eq!(store.read(&key("a")).expect("readable").len(), 1);
        }
    }
    assert!(deleted > 5, "{deleted}");
}
