//! Calls that fail, disks that are full, modes that forbid, and a user who does not wait.

use std::path::Path;
use std::sync::atomic::Ordering;

use forklog::checkpoint::{Why, pending};
use forklog::disk::Disk;
use forklog::workspace::{RelPath, Workspace};
use forklog::{Error, FilesTarget, NewSession, ObjectId, ObjectKind, Scope, SessionFiles, Store};
use forklog_sim::{Cut, Errno, Fault, Op, Points, SimDisk, What};

use crate::world::{
    EDIT, Image, STORE, User, WORK, conversation, edit, files, forced, key, moments, normal, open, path, run, seq,
    three_turns,
};

/// Rewinds everything and takes it back after something has gone wrong in a rewind; says what the rewind said.
fn goes_wrong(disk: &SimDisk, images: &[Image], prepare: &dyn Fn(&SimDisk), context: &str) -> Result<(), Error> {
    let process = disk.process();
    let store = open(&process).expect("opens");
    let session = store.session(&key()).expect("opens");
    let found = files(&process, &session).expect("opens");
    prepare(disk);
    let moved = found.rewind(&seq(0), Scope::Both, &normal());
    // What a fault hid from the scan is left alone, and said.
    let is_partial = moved.as_ref().is_ok_and(|moved| moved.plan.iter().any(|plan| !plan.skipped.is_empty()));
    let done = moved.map(drop);
    disk.clear_faults();
    disk.set_capacity(None);
    let user = User::of(disk);
    if let Err(error) = &done
        && !matches!(error, Error::Poisoned { .. })
    {
        assert_eq!(user.image(), images[2], "{context}: {error}");
        assert_eq!(conversation(&store), 3, "{context}: {error}");
        let journals = Path::new(STORE).join("journals");
        assert_eq!(pending(&process, &journals).expect("listed"), [], "{context}: {error}");
    }
    drop(found);
    drop(session);
    process.kill();
    for (end, disk) in [("on", disk.snapshot().killed()), ("cut", disk.after(Cut::Nothing))] {
        run(&disk, &|store, files| {
            let len = conversation(store);
            assert!(len == 3 || len == 1, "{context}, {end}");
            if !is_partial {
                assert_eq!(User::of(&disk).image(), images[len - 1], "{context}, {end}: {done:?}");
            }
            assert!(done.is_err() || len == 1, "{context}, {end}: what was acknowledged is lost");
            if len == 1 {
                files.undo(&normal()).expect("undone");
            } else {
                files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound");
                files.undo(&normal()).expect("undone");
            }
            if !is_partial {
                assert_eq!(User::of(&disk).image(), images[2], "{context}, {end}");
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{context}, {end}: {error}"));
    }
    done
}

/// Every call of a rewind fails, one at a time, or all from then on.
#[test]
fn a_rewind_of_which_any_call_fails_is_whole() {
    let (disk, images) = three_turns();
    let whats = [
        What::Fail(Errno::Io),
        What::FailAfter(Errno::Io),
        What::Fail(Errno::NoSpace),
        What::FailAfter(Errno::NoSpace),
        What::LoseDirty(Errno::Io),
    ];
    let (mut failed, mut poisoned) = (0, 0);
    for what in whats {
        for part in ["/work", "/store"] {
            for lasting in [false, true] {
                for n in 1.. {
                    let copy = disk.after(Cut::Everything);
                    let fault = Fault::at(n, what).in_path(part);
                    let fault = if lasting { fault.lasting() } else { fault };
                    let context = format!("{fault:?}");
                    let done = goes_wrong(&copy, &images, &|disk| disk.add_fault(fault.clone()), &context);
                    failed += u32::from(done.is_err());
                    poisoned += u32::from(matches!(done, Err(Error::Poisoned { .. })));
                    if copy.fault_hits() == 0 {
                        done.expect("nothing stood in its way");
                        break;
                    }
                }
            }
        }
    }
    println!("{failed} rewinds failed; of {poisoned} the next open decided");
    assert!(failed > 300, "{failed}");
}

/// Found by the soak: the files were put back since the record could not be written, the journal could not be removed, and the next to open
/// believed it that the files had been moved, and wrote the record.
#[test]
fn files_that_were_put_back_are_not_taken_for_moved_ones() {
    let (disk, images) = three_turns();
    // More reads than a rewind makes, some of them when the files are there and the record is not.
    for n in 1..=120 {
        let copy = disk.after(Cut::Everything);
        let stays = Fault::at(1, What::Fail(Errno::Io)).on(Op::RemoveFile).in_path("/journal").lasting();
        let fails = Fault::at(n, What::Fail(Errno::Io)).on(Op::Read).in_path("/store");
        let prepare = |disk: &SimDisk| [&stays, &fails].into_iter().for_each(|fault| disk.add_fault(fault.clone()));
        goes_wrong(&copy, &images, &prepare, &format!("{fails:?}")).expect_err("the journal stays");
    }
}

/// Found by the soak: a bit of the transcript was read wrong when the files had been moved and the record was still to be written. The error said
/// that nothing was changed, but the files stayed moved, and nobody else could open the workspace while the session was open.
#[test]
fn a_rewind_that_meets_damage_before_its_record_puts_the_files_back() {
    let (disk, images) = three_turns();
    let mut failed = 0;
    for n in 1.. {
        let copy = disk.after(Cut::Everything);
        let fault = Fault::at(n, What::FlipBit).in_path("transcript.jsonl");
        let done = goes_wrong(&copy, &images, &|disk| disk.add_fault(fault.clone()), &format!("{fault:?}"));
        failed += u32::from(matches!(done, Err(Error::Corrupt { .. } | Error::Newer { .. })));
        if copy.fault_hits() == 0 {
            break;
        }
    }
    assert!(3 < failed, "some when it is planned, and one before the record: {failed}");
}

/// Found by the soak: a journal was removed, the sync of its directory failed, and a process that went on did not see to it that the name stays
/// away. A power cut brought it back, and the rewind came over what had been done since.
#[test]
fn a_journal_that_was_seen_to_be_gone_stays_gone() {
    let (disk, _) = three_turns();
    for n in 1.. {
        let copy = disk.after(Cut::Everything);
        let process = copy.process();
        let store = open(&process).expect("opens");
        let session = store.session(&key()).expect("opens");
        let found = files(&process, &session).expect("opens");
        copy.add_fault(Fault::at(n, What::Fail(Errno::Io)).on(Op::SyncDir).in_path("/journals/").lasting());
        let done = found.rewind(&seq(0), Scope::Both, &normal());
        drop(found);
        process.kill();
        if copy.fault_hits() == 0 {
            assert!(2 < n, "a rewind syncs the journal's directory when it comes and when it goes");
            return done.map(drop).expect("nothing stood in its way");
        }
        copy.clear_faults();
        let went_on = |disk: &SimDisk| {
            let seen = std::cell::RefCell::new(None);
            run(disk, &|store, _| {
                seen.replace(Some((conversation(store), User::of(disk).image())));
                Ok(())
            })
            .expect("opens");
            seen.take()
        };
        let before = went_on(&copy);
        for (cut, image) in copy.snapshot().images(n, 40) {
            assert_eq!(went_on(&image), before, "sync {n}, {cut}");
        }
    }
}

/// Found by the soak: the sync of a journal's name failed, the journal stayed, and the next to open carried it out without making its name stable. A
/// power cut in the middle of that left files moved, no record and no journal.
#[test]
fn a_journal_that_is_carried_out_outlives_a_power_cut() {
    let (disk, states) = three_turns();
    let process = disk.process();
    let store = open(&process).expect("opens");
    let session = store.session(&key()).expect("opens");
    let found = files(&process, &session).expect("opens");
    let fails = |op, path| Fault::at(1, What::Fail(Errno::Io)).on(op).in_path(path).lasting();
    disk.add_fault(fails(Op::SyncDir, "/journals/"));
    disk.add_fault(fails(Op::RemoveFile, "/journal"));
    found.rewind(&seq(0), Scope::Both, &normal()).expect_err("the journal is not stable");
    drop(found);
    process.kill();
    disk.clear_faults();
    for (n, snapshot) in moments(&disk, &|_, _| Ok(())).iter().enumerate() {
        for (cut, image) in
            [(Cut::Nothing, snapshot.after(Cut::Nothing))].into_iter().chain(snapshot.images(n as u64, 4))
        {
            run(&image, &|store, _| {
                let len = conversation(store);
                assert!(len == 1 || len == 3, "moment {n}, {cut}");
                assert_eq!(User::of(&image).image(), states[len - 1], "moment {n}, {cut}");
                Ok(())
            })
            .expect("opens");
        }
    }
}

/// Found by the soak: a rewind failed before it changed a file, its journal was removed but not for good, and a power cut brought it back: it was
/// carried out on a conversation that had gone on meanwhile.
#[test]
fn a_rewind_that_comes_back_is_given_up_where_the_conversation_has_gone_on() {
    let (disk, images) = three_turns();
    let process = disk.process();
    let store = open(&process).expect("opens");
    let session = store.session(&key()).expect("opens");
    let found = files(&process, &session).expect("opens");
    let at_journals = |n, what| Fault::at(n, what).on(Op::SyncDir).in_path("/journals/");
    disk.add_fault(at_journals(1, What::FailAfter(Errno::Io)));
    disk.add_fault(at_journals(2, What::Fail(Errno::Io)));
    let failed = found.rewind(&seq(0), Scope::Both, &normal());
    assert!(matches!(failed, Err(Error::Poisoned { .. })), "{failed:?}");
    assert_eq!(disk.fault_hits(), 2);
    drop(found);
    process.kill();
    for goes_on in [false, true] {
        if goes_on {
            let store = open(&disk.process()).expect("opens");
            let session = store.session(&key()).expect("opens");
            session.append(&"more").and_then(|_| session.close()).expect("there is room");
        }
        // Names as they were last synced.
        let image = disk.after(Cut::Data);
        let journals = Path::new(STORE).join("journals");
        assert_eq!(pending(&image.process(), &journals).expect("listed").len(), 1, "the journal has not come back");
        run(&image, &|store, _| {
            assert_eq!(conversation(store), if goes_on { 4 } else { 1 });
            Ok(())
        })
        .expect("opens");
        assert_eq!(User::of(&image).image(), images[if goes_on { 2 } else { 0 }]);
        assert_eq!(pending(&image.process(), &journals).expect("listed"), []);
    }
}

/// A rewind that has changed files is carried to its end, but takes back nothing that was said since.
#[test]
fn an_interrupted_rewind_leaves_a_conversation_alone_that_has_gone_on() {
    let (disk, images) = three_turns();
    let alone = std::cell::Cell::new(0);
    let rewind = |_: &Store, files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &normal()).map(drop);
    for (n, moment) in moments(&disk, &rewind).iter().enumerate() {
        let image = moment.killed();
        let store = open(&image.process()).expect("opens");
        let before = conversation(&store);
        let session = store.session(&key()).expect("opens");
        session.append(&"more").and_then(|_| session.close()).expect("there is room");
        drop(store);
        run(&image, &|store, found| {
            assert_eq!(conversation(store), before + 1, "moment {n}");
            let now = User::of(&image).image();
            assert!(now == images[0] || before == 3 && now == images[2], "moment {n}");
            if before == 3 && now == images[0] {
                alone.set(alone.get() + 1);
                found.undo(&normal())?;
                assert_eq!((conversation(store), User::of(&image).image()), (4, images[2].clone()), "moment {n}");
            }
            Ok(())
        })
        .expect("opens");
    }
    assert!(3 < alone.get(), "{alone:?}");
}

#[test]
fn a_disk_that_is_full_at_any_byte_leaves_files_whole() {
    let (disk, images) = three_turns();
    let mut full = 0;
    for room in (0..).step_by(61) {
        let copy = disk.after(Cut::Everything);
        let done = goes_wrong(&copy, &images, &|disk| disk.set_capacity(Some(disk.used() + room)), "full");
        match done {
            Ok(()) => break,
            Err(Error::Full { .. } | Error::Poisoned { .. }) => full += 1,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => full += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("full at {full} lengths");
    assert!(full > 10, "{full}");
}

/// What modes forbid is an error that changes nothing, or is said in the plan; the workspace can be used afterwards.
#[test]
fn modes_that_forbid_lose_nothing() {
    let (disk, images) = three_turns();
    let rewind = |files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &normal());

    // A file that may not be written is replaced all the same: its directory may.
    let copy = disk.after(Cut::Everything);
    let user = User::of(&copy);
    user.chmod("main", 0o444);
    run(&copy, &|_, files| {
        files.checkpoint(None)?;
        rewind(files).map(drop)
    })
    .expect("rewound");
    assert_eq!(user.image(), images[0]);

    // Directories in which nothing may be changed: the root, and one below.
    for (locked, mode) in [(".", 0o500), ("src", 0o500), ("fresh/dir", 0o500), ("src/deep", 0o000)] {
        let copy = disk.after(Cut::Everything);
        let user = User::of(&copy);
        let place = if locked == "." { forklog::workspace::RelPath::root() } else { path(locked) };
        let was = user.0.meta(&place).expect("there").mode;
        user.0.set_mode(&place, mode).expect("changed");
        run(&copy, &|store, files| {
            let done = rewind(files);
            user.0.set_mode(&place, was).expect("changed");
            match done {
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. }), "{locked}: {error}");
                    assert_eq!(user.image(), images[2], "{locked}");
                    assert_eq!(conversation(store), 3);
                    rewind(files).expect("once it may, it goes back");
                    assert_eq!(user.image(), images[0], "{locked}");
                    files.undo(&normal()).expect("undone");
                }
                Ok(moved) => {
                    let plan = moved.plan.expect("of files");
                    assert!(!plan.skipped.is_empty() || !plan.conflicts.is_empty(), "{locked}: it is said");
                    files.undo(&forced()).expect("undone");
                    user.0.set_mode(&place, was).expect("changed");
                }
            }
            assert_eq!(user.image(), images[2], "{locked}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{locked}: {error}"));
    }

    // A file that cannot be read is left alone and said.
    let copy = disk.after(Cut::Everything);
    let user = User::of(&copy);
    user.chmod("main", 0o000);
    run(&copy, &|_, files| {
        let plan = rewind(files)?.plan.expect("of files");
        assert!(plan.skipped.iter().any(|found| found.path == path("main") && found.why == Why::Unreadable));
        Ok(())
    })
    .expect("rewound");
    user.chmod("main", 0o644);
    assert_eq!(user.image()["main"], images[2]["main"]);
}

/// A checkpoint that could not read a file knows nothing of it: going back to it must not take the file for missing.
#[test]
fn a_rewind_leaves_alone_what_the_checkpoint_could_not_read() {
    for how in ["a mode that forbids", "a read that fails"] {
        let (disk, _) = three_turns();
        let user = User::of(&disk);
        user.write("secret/key", "never captured before");
        run(&disk, &|store, files| {
            match how {
                "a mode that forbids" => user.chmod("secret/key", 0o000),
                _ => disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(Op::Read).in_path("secret/key")),
            }
            let taken = files.checkpoint(Some("blind"))?;
            assert!(taken.skipped.iter().any(|s| s.path == path("secret/key") && s.why == Why::Unreadable), "{how}");
            disk.clear_faults();
            user.chmod("secret/key", 0o600);
            user.write("main", "changed");
            assert!(files.checkpoint(None)?.skipped.is_empty(), "{how}: now it is seen");
            let moved = files.rewind(&FilesTarget::Checkpoint(taken.id), Scope::Files, &forced())?;
            let plan = moved.plan.expect("of files");
            assert_eq!(plan.files_changed.len(), 1, "{how}: {plan:?}");
            assert!(plan.skipped.iter().any(|s| s.path == path("secret/key") && s.why == Why::NotCaptured), "{how}");
            assert_eq!(user.read("secret/key").as_deref(), Some("never captured before"), "{how}");
            files.undo(&normal())?;
            assert_eq!(user.read("main").as_deref(), Some("changed"), "{how}");
            assert!(store.verify(None, |_| {})?.is_sound());
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{how}: {error}"));
    }
}

/// After a power cut a file's times may be new and its bytes old: nothing is recognised by its stat.
#[test]
fn the_stat_cache_is_not_believed_after_a_power_cut() {
    let (disk, _) = three_turns();
    let main_is_read = |disk: &SimDisk| {
        disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(Op::Read).in_path("work/main").lasting());
        let mut skipped = false;
        let user = std::sync::Mutex::new(&mut skipped);
        run(disk, &|_, files| {
            **user.lock().expect("sound") = !files.checkpoint(None)?.skipped.is_empty();
            Ok(())
        })
        .expect("taken");
        disk.clear_faults();
        skipped
    };
    run(&disk, &|_, files| files.checkpoint(None).map(drop)).expect("taken");
    assert!(!main_is_read(&disk), "its stat is remembered");
    assert!(main_is_read(&disk.after(Cut::Everything)), "its stat says nothing any more");
}

/// The directories were made and a name of theirs was not synced; the next who comes finds them there.
#[test]
fn a_journal_survives_although_syncing_its_directorys_name_failed_once() {
    let mut failed = 0;
    for nth in 1..8 {
        let disk = SimDisk::new(1);
        let process = disk.process();
        process.create_dir(Path::new(WORK)).expect("made");
        process.sync_dir(Path::new("/")).expect("synced");
        let (user, store) = (User::of(&disk), open(&process).expect("a store"));
        let session = store.create(NewSession::named(key())).expect("created");
        let found = files(&process, &session).expect("opened");
        edit(&user, 0);
        session.append("first").expect("appended");
        disk.add_fault(Fault::at(nth, What::Fail(Errno::Io)).on(Op::SyncDir).in_path("/store"));
        failed += u32::from(found.checkpoint(None).is_err());
        disk.clear_faults();
        let first = found.checkpoint(None).expect("taken").id;
        edit(&user, 1);
        found.checkpoint(None).expect("taken");
        user.0.sync(&[path("main")], &[RelPath::root(), path("src")]).expect("synced");
        let journal = |disk: &SimDisk| pending(&disk.process(), &Path::new(STORE).join("journals")).expect("listed");
        let (without, with) = (std::sync::atomic::AtomicU64::new(0), std::sync::atomic::AtomicU64::new(0));
        let counts = std::sync::Arc::new((without, with));
        let hook = std::sync::Arc::clone(&counts);
        // Before anything changes in the workspace, the journal is there to stay.
        disk.on_point(Points::Changes, move |point, snapshot| {
            if point.path.starts_with(WORK) {
                let cut = snapshot.after(Cut::Nothing);
                let count = if journal(&cut).is_empty() { &hook.0 } else { &hook.1 };
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        found.rewind(&FilesTarget::Checkpoint(first), Scope::Files, &forced()).expect("rewound");
        disk.clear_hook();
        let counted = (counts.0.load(Ordering::SeqCst), counts.1.load(Ordering::SeqCst));
        assert!(counted.0 == 0 && counted.1 > 0, "the {nth}th sync failed: {counted:?}");
    }
    assert!(failed > 2, "{failed}");
}

/// Somebody puts a directory where a file was while a rewind runs, at each of its calls that changes anything.
#[test]
fn a_directory_that_takes_a_files_place_during_a_rewind_is_kept_and_blocks_nothing() {
    let (disk, _) = three_turns();
    for moment in 0.. {
        let copy = disk.after(Cut::Everything);
        let user = User::of(&copy);
        let process = copy.process();
        let store = open(&process).expect("opens");
        let session = store.session(&key()).expect("opens");
        let found = files(&process, &session).expect("opens");
        let done = copy.at_call(Points::Changes, moment, move || {
            let _ = user.0.remove_file(&path("main"));
            let made = user.0.create_dir(&path("main"), 0o755);
            made.and_then(|()| user.0.write_new(&path("main/inside"), EDIT.as_bytes(), 0o644)).is_ok()
        });
        let result = found.rewind(&seq(0), Scope::Both, &normal());
        copy.clear_hook();
        drop(found);
        if done.get() != Some(&true) {
            assert!(moment > 20, "{moment}");
            break;
        }
        files(&process, &session).unwrap_or_else(|error| panic!("at {moment}: {error}, after {result:?}"));
        let image = User::of(&copy).image();
        let holds = image.iter().find(|(_, is)| is.contains(EDIT)).map(|(path, _)| path.clone());
        assert!(holds.as_ref().is_some_and(|path| !path.contains("stage")), "at {moment}: {holds:?}, {result:?}");
    }
}

/// The user writes a file while a rewind runs, at each of its calls that changes anything.
#[test]
fn an_edit_in_the_middle_of_a_rewind_is_not_lost() {
    let (disk, _) = three_turns();
    let mut rescued = 0;
    for edited in ["main", "gone", "is-dir/inside", "fresh/dir/file"] {
        for moment in 0.. {
            let copy = disk.after(Cut::Everything);
            let (user, name) = (User::of(&copy), edited.to_owned());
            let write = move || {
                // In place, or as a new file where there is none; a directory may just be in the way.
                let _ = user.0.create_dir(&path("is-dir"), 0o755);
                let _ = user.0.remove_file(&path(&name));
                user.0.write_new(&path(&name), EDIT.as_bytes(), 0o644).is_ok()
            };
            let process = copy.process();
            let store = open(&process).expect("opens");
            let session = store.session(&key()).expect("opens");
            let found = files(&process, &session).expect("opens");
            let done = copy.at_call(Points::Changes, moment, write);
            let result = found.rewind(&seq(0), Scope::Both, &normal());
            copy.clear_hook();
            drop(found);
            let found = files(&process, &session).unwrap_or_else(|error| panic!("{edited} at {moment}: {error}"));
            store.gc(false).expect("collected");
            let user = User::of(&copy);
            let is_there = || user.image().values().any(|is| is.contains(EDIT));
            if done.get() == Some(&true) && !is_there() {
                rescued += 1;
                let id = ObjectId::of(ObjectKind::Blob, EDIT.as_bytes());
                assert!(store.objects().get(ObjectKind::Blob, id, 1000).is_ok(), "{edited} at {moment}: {result:?}");
                found.undo(&forced()).unwrap_or_else(|error| panic!("{edited} at {moment}: {error}"));
                assert!(is_there(), "{edited} at {moment}: undo brings it back: {result:?}");
            }
            if done.get() != Some(&true) && moment > 100 {
                break;
            }
        }
    }
    println!("{rescued} edits were replaced and came back by undo");
    assert!(rescued > 0, "{rescued}");
}
