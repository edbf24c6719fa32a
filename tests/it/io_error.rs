//! Calls that fail, each in turn: what was acknowledged stays, errors have their type, and the store opens afterwards.

use forklog::disk::{Disk, How};
use forklog::{Durability, Kind, OpenOptions};
use forklog_sim::{Cut, Errno, Fault, Op as SimOp, What};
use forklog_soak::model::Which;
use forklog_soak::{Did, FaultCase, Op, Tally, Unit, World, check_image, key, open_store, records};

const A: Which = Which("a", None);

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
