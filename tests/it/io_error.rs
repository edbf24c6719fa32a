//! Calls that fail, each in turn: what was acknowledged stays, errors have their type, and the store opens afterwards.

use forklog::disk::{Disk, How};
use forklog::{Durability, Kind, NewSession, OpenOptions, Sharing};
use forklog_sim::{Cut, Errno, Fault, Op as SimOp, SimDisk, What};
use forklog_soak::model::Which;
use forklog_soak::{
    Did, FaultCase, Op, Tally, Unit, World, all_options, check_image, key, open_store, records, resolve,
};

const A: Which = Which("a", None);

const PROGRAM: [Op; 13] = [
    Op::Create("a"),
    Op::Append(A),
    Op::Sync(A),
    Op::Batch(A),
    Op::Set("a"),
    Op::Sync(A),
    Op::AppendId(A),
    Op::Close(A),
    Op::List,
    Op::Append(A),
    Op::Sync(A),
    Op::Rewind(A),
    Op::Close(A),
];

/// Runs the program with a fault in it. Returns whether the fault struck.
fn strike(n: u64, fault: &Fault, options: OpenOptions, tally: &mut Tally) -> Result<bool, String> {
    let mut world = World::new(n, options);
    world.disk.add_fault(fault.clone());
    for op in PROGRAM {
        if let Did::Failed(error) = world.step(op, &mut |_| ()) {
            if !matches!(error.kind(), Kind::System | Kind::Reopen) {
                return Err(format!("{op:?} fails with {error:?}"));
            }
            break;
        }
    }
    let struck = world.disk.fault_hits() > 0;
    for cut in [Cut::Nothing, Cut::random(n, 0)] {
        let image = world.disk.after(cut);
        check_image(&image, &world.model, None, tally).map_err(|wrong| world.disk.report(format!("{cut}: {wrong}")))?;
    }
    // The next process finds what is in memory, which a lying sync may have left there, and makes it good.
    world.disk.clear_faults();
    world.kill(0);
    let store = open_store(&world.disk.process(), 77).map_err(|error| error.to_string())?;
    let found = resolve(&store, &world.disk, &world.model)?;
    let mut next = World::found(world.disk.clone(), found, OpenOptions::default(), 78).map_err(|e| e.to_string())?;
    for op in [Op::Create("a"), Op::Append(A), Op::Sync(A)] {
        if let Did::Failed(error) = next.step(op, &mut |_| ()) {
            return Err(next.disk.report(format!("afterwards, {op:?}: {error}")));
        }
    }
    let image = next.disk.after(Cut::Nothing);
    check_image(&image, &next.model, None, tally).map_err(|wrong| next.disk.report(format!("afterwards: {wrong}")))?;
    Ok(struck)
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

#[test]
fn every_call_may_fail_once_or_for_good() {
    let mut tally = Tally::default();
    let whats = [
        What::Fail(Errno::Io),
        What::Fail(Errno::NoSpace),
        What::FailAfter(Errno::NoSpace),
        What::FailAfter(Errno::Io),
        What::Fail(Errno::Interrupted),
        What::LoseDirty(Errno::Io),
        What::LoseSomeDirty(Errno::Io),
    ];
    let shared = |options: &&OpenOptions| options.sharing == Sharing::PerCall;
    for options in all_options().iter().filter(|options| !shared(options)) {
        for what in whats {
            for lasting in [false, true] {
                for n in 1.. {
                    let fault = if lasting { Fault::at(n, what).lasting() } else { Fault::at(n, what) };
                    match strike(n, &fault, *options, &mut tally) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(wrong) => panic!("{fault:?}, {options:?}: {wrong}"),
                    }
                }
            }
        }
    }
    eprintln!("{tally:?}");
}

/// After a full disk the same handle goes on; after a failed sync of its transcript it is poisoned; after a failed sync of a marker or
/// directory it tries again. [`FaultCase`] says so of every call; the soak tries all of them, and this a share.
#[test]
fn handles_go_on_after_a_failure_or_say_that_they_cannot() {
    let mut tally = Tally::default();
    for kind in 0..FaultCase::KINDS {
        Unit::Faults(kind).run(67, &mut tally).unwrap_or_else(|wrong| panic!("{wrong}"));
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
