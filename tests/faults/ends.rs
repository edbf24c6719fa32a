//! Processes that are killed and power that goes: before every call that changes the disk, and whatever it may then hold
//! is opened again.

use std::path::Path;
use std::sync::Arc;

use forklog::checkpoint::pending;
use forklog::workspace::ScanOptions;
use forklog::{Error, FilesTarget, NewSession, ObjectId, ObjectKind, Scope, SessionFiles, SessionKey, Store};
use forklog_sim::{Cut, SimDisk, Snapshot, derive};

use crate::world::{
    EDIT, Image, STORE, User, conversation, files, forced, key, moments, normal, open, run, seq, three_turns,
};

#[derive(Debug, Default)]
struct Tally {
    images: u32,
    /// Images in which the next open was cut off too.
    again: u32,
    before: u32,
    after: u32,
    /// Edits that the user made meanwhile, and that were replaced and kept.
    kept: u32,
}

/// What was done, by how many messages there were before and after.
struct Case<'a> {
    step: &'a dyn Fn(&Store, &SessionFiles<'_>) -> Result<(), Error>,
    images: &'a [Image],
    before: usize,
    after: usize,
    edited: Option<&'a str>,
}

fn is_below(name: &str, dir: Option<&str>) -> bool {
    dir.and_then(|dir| name.strip_prefix(dir)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The disks that a moment may turn into: every process killed, the power cut in the ways that no seed chooses, and in others.
fn ends(moment: &Snapshot, seed: u64, n_random: u64) -> Vec<(String, SimDisk)> {
    let killed = std::iter::once(("killed".to_owned(), moment.killed()));
    killed.chain(moment.images(seed, n_random).map(|(cut, image)| (cut.to_string(), image))).collect()
}

/// Ends a step at each moment, in several ways, lets the user edit if they shall, and opens again.
fn end_everywhere(disk: &SimDisk, case: &Case<'_>) -> Tally {
    let taken = moments(disk, case.step);
    let mut tally = Tally::default();
    for (n, moment) in taken.iter().enumerate() {
        for (which, (cut, image)) in ends(moment, derive(5, n as u64), 3).into_iter().enumerate() {
            let context = format!("moment {n} of {}, {cut}", taken.len());
            if let Some(name) = case.edited {
                User::of(&image).write(name, EDIT);
            }
            let is_acknowledged = n + 1 == taken.len();
            if (n + which) % 16 == 0 {
                // The next open does not come to its end either.
                let copy = image.snapshot().killed();
                let later = moments(&copy, &|_, _| Ok(()));
                for (m, moment) in later.iter().enumerate().skip(n % 7).step_by(7) {
                    for (cut, image) in ends(moment, derive(6, m as u64), 1) {
                        tally.again += 1;
                        let context = format!("{context}; then moment {m} of {}, {cut}", later.len());
                        // An edit that was cut off before it was synced was never safe anywhere.
                        let is_there = case.edited.is_none() || cut == "killed";
                        check_end(&image, case, is_acknowledged, is_there, &context, &mut tally);
                    }
                }
            }
            check_end(&image, case, is_acknowledged, true, &context, &mut tally);
        }
    }
    println!("ended at {} moments: {tally:?}", taken.len());
    tally
}

fn check_end(
    image: &SimDisk,
    case: &Case<'_>,
    is_acknowledged: bool,
    is_there: bool,
    context: &str,
    tally: &mut Tally,
) {
    tally.images += 1;
    let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{context}: {error}\n{}", image.report("")) };
    let process = image.process();
    let store = open(&process).unwrap_or_else(|error| fail(&error));
    store.gc(false).unwrap_or_else(|error| fail(&error));
    let session = store.session(&key()).unwrap_or_else(|error| fail(&error));
    let found = files(&process, &session).unwrap_or_else(|error| fail(&error));
    let len = conversation(&store);
    assert!(len == case.before || len == case.after, "{context}: {len} messages");
    assert!(!is_acknowledged || len == case.after, "{context}: what was acknowledged is lost");
    let user = User::of(image);
    let now = user.image();
    let rest = |image: &Image| -> Image {
        image.iter().filter(|(name, _)| !is_below(name, case.edited)).map(|(a, b)| (a.clone(), b.clone())).collect()
    };
    assert_eq!(rest(&now), rest(&case.images[len - 1]), "{context}");
    assert_eq!(pending(&process, &Path::new(STORE).join("journals")).expect("listed"), [], "{context}");
    if !is_there {
        return;
    }
    let kept = case.edited.filter(|name| user.read(name).as_deref() != Some(EDIT));
    if kept.is_some() {
        tally.kept += 1;
        store.gc(false).expect("collected");
        let id = ObjectId::of(ObjectKind::Blob, EDIT.as_bytes());
        let found = store.objects().get(ObjectKind::Blob, id, 1 << 20);
        assert!(found.is_ok(), "{context}: the user's edit is lost");
    }
    if len == case.before {
        tally.before += 1;
    } else {
        tally.after += 1;
        let back = if case.after < case.before { found.undo(&forced()) } else { found.redo(&forced()) };
        back.unwrap_or_else(|error| fail(&error));
        let mut now = user.image();
        let mut wanted = case.images[case.before - 1].clone();
        if let Some(name) = kept {
            // After a power cut, what the rewind had captured comes back beside it.
            let captured = wanted.insert(name.to_owned(), format!("644 {:?}", Some(EDIT)));
            if let Some(beside) = now.keys().find(|name| name.contains(".forklog-kept-")).cloned() {
                assert_eq!(now.remove(&beside), captured, "{context}");
            }
            assert_eq!(now, wanted, "{context}");
        }
        assert_eq!(rest(&now), rest(&wanted), "{context}");
    }
    drop(found);
    drop(session);
    assert!(store.objects().verify().expect("read").is_empty(), "{context}");
}

#[test]
fn a_rewind_is_whole_wherever_it_ends() {
    let (disk, images) = three_turns();
    let step = |_: &Store, files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &normal()).map(drop);
    let tally = end_everywhere(&disk, &Case { step: &step, images: &images, before: 3, after: 1, edited: None });
    assert!(tally.before > 50 && tally.after > 200, "{tally:?}");
}

#[test]
fn an_undo_and_a_redo_are_whole_wherever_they_end() {
    let (disk, images) = three_turns();
    run(&disk, &|_, files| files.rewind(&seq(0), Scope::Both, &normal()).map(drop)).expect("rewound");
    let undone = disk.snapshot().killed();
    let step = |_: &Store, files: &SessionFiles<'_>| files.undo(&normal()).map(drop);
    let tally = end_everywhere(&disk, &Case { step: &step, images: &images, before: 1, after: 3, edited: None });
    assert!(tally.before > 50 && tally.after > 200, "{tally:?}");
    run(&undone, &step).expect("undone");
    let step = |_: &Store, files: &SessionFiles<'_>| files.redo(&normal()).map(drop);
    let tally = end_everywhere(&undone, &Case { step: &step, images: &images, before: 3, after: 1, edited: None });
    assert!(tally.before > 50 && tally.after > 200, "{tally:?}");
}

#[test]
fn an_edit_between_the_end_and_the_next_open_is_not_lost() {
    for edited in ["main", "gone", "is-dir"] {
        let (disk, images) = three_turns();
        let step = |_: &Store, files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &normal()).map(drop);
        let edited = Some(edited);
        let tally = end_everywhere(&disk, &Case { step: &step, images: &images, before: 3, after: 1, edited });
        assert!(tally.kept > 20, "{tally:?}");
    }
}

/// What the user had not synced when the rewind began is in the store, whatever the cut makes of the file.
#[test]
fn what_nobody_had_synced_comes_back_by_undo() {
    let (disk, images) = three_turns();
    let user = User::of(&disk);
    let text = "half of this may be lost\n".repeat(100);
    // In place and longer than a sector: the cut may leave any mix of it with zeros.
    user.write("main", &text);
    let before = user.image();
    let step = |_: &Store, files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &forced()).map(drop);
    let taken = moments(&disk, &step);
    let mut undone = 0;
    for (n, moment) in taken.iter().enumerate() {
        for (cut, image) in ends(moment, derive(8, n as u64), 4) {
            let process = image.process();
            let store = open(&process).expect("opens");
            let session = store.session(&key()).expect("opens");
            let found = files(&process, &session).expect("carried on");
            if conversation(&store) == 1 {
                assert_eq!(User::of(&image).image(), images[0], "moment {n}, {cut}");
                found.undo(&normal()).expect("undone");
                let mut now = User::of(&image).image();
                // Something else may have come to light at the path: then what was captured comes back beside it.
                if let Some(beside) = now.keys().find(|name| name.contains(".forklog-kept-")).cloned() {
                    let captured = now.remove(&beside).expect("there");
                    assert_ne!(now.insert("main".to_owned(), captured), before.get("main").cloned());
                }
                assert_eq!(now, before, "moment {n}, {cut}");
                undone += 1;
            }
        }
    }
    println!("undone {undone} times");
    assert!(undone > 100, "{undone}");
}

#[test]
fn a_checkpoint_is_there_wholly_or_not_at_all_wherever_it_ends() {
    let (disk, mut images) = three_turns();
    let user = User::of(&disk);
    user.write("main", &"four\n".repeat(300));
    user.write("added/deep/file", "added");
    images.push(user.image());
    let step = |_: &Store, files: &SessionFiles<'_>| files.checkpoint(Some("3")).map(drop);
    let taken = moments(&disk, &step);
    let mut seen = [0, 0];
    for (n, moment) in taken.iter().enumerate() {
        for (cut, image) in ends(moment, derive(9, n as u64), 4) {
            let context = format!("moment {n} of {}, {cut}", taken.len());
            let process = image.process();
            let store = open(&process).unwrap_or_else(|error| panic!("{context}: {error}"));
            store.gc(false).unwrap_or_else(|error| panic!("{context}: {error}"));
            let session = store.session(&key()).expect("opens");
            let found = files(&process, &session).expect("opens");
            let listed = store.read(&key()).expect("readable").checkpoints().expect("listed");
            assert!(listed.len() == 3 || listed.len() == 4, "{context}");
            assert!(n + 1 < taken.len() || listed.len() == 4, "{context}: what was acknowledged is lost");
            seen[listed.len() - 3] += 1;
            let user = User::of(&image);
            user.write("main", "something else");
            found.checkpoint(None).expect("the next one works");
            for (checkpoint, wanted) in listed.iter().zip(&images) {
                found.rewind(&FilesTarget::Checkpoint(checkpoint.id), Scope::Files, &forced()).expect("goes back");
                assert_eq!(&user.image(), wanted, "{context}: {:?}", checkpoint.label);
            }
        }
    }
    println!("ended at {} moments: {} without it, {} with it", taken.len(), seen[0], seen[1]);
    assert!(seen[0] > 20 && seen[1] > 5, "{seen:?}");
}

#[test]
fn gc_keeps_what_is_needed_wherever_it_ends() {
    let (disk, images) = three_turns();
    let user = User::of(&disk);
    let noise: String =
        (0..30_000u64).map(|n| char::from(b'!' + u8::try_from(derive(3, n) % 90).expect("few"))).collect();
    user.write("noise", &noise);
    run(&disk, &|store, _| {
        let other = SessionKey::new("p", "other").expect("legal");
        let session = store.create(NewSession::named(other.clone()))?;
        let process = user.0.clone();
        session.files_of(Arc::new(process), ScanOptions::default())?.checkpoint(None)?;
        session.close()?;
        store.delete(&other)
    })
    .expect("made and deleted");
    user.remove("noise");
    let disk = disk.after(Cut::Everything);
    let step = |store: &Store, _: &SessionFiles<'_>| {
        assert!(store.gc(false)?.packs > 0, "there is something to collect");
        Ok(())
    };
    let taken = moments(&disk, &step);
    for (n, moment) in taken.iter().enumerate() {
        for (cut, image) in ends(moment, derive(10, n as u64), 4) {
            let context = format!("moment {n} of {}, {cut}", taken.len());
            let process = image.process();
            let store = open(&process).unwrap_or_else(|error| panic!("{context}: {error}"));
            let session = store.session(&key()).expect("opens");
            let found = files(&process, &session).expect("opens");
            let user = User::of(&image);
            for turn in [0, 1, 2, 0] {
                let listed = store.read(&key()).expect("readable").checkpoints().expect("listed");
                let id =
                    listed.iter().find(|found| found.label.as_deref() == Some(&turn.to_string())).expect("there").id;
                found.rewind(&FilesTarget::Checkpoint(id), Scope::Files, &forced()).expect("goes back");
                assert_eq!(user.image(), images[turn], "{context}");
                if turn == 1 {
                    store.gc(false).unwrap_or_else(|error| panic!("{context}: {error}"));
                }
            }
            drop(found);
            drop(session);
            assert!(store.objects().verify().expect("read").is_empty(), "{context}");
            let left: u64 = image
                .tree()
                .iter()
                .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "pack"))
                .map(|(_, bytes)| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
                .sum();
            assert!(left < 25_000, "{context}: {left} bytes are left");
        }
    }
    println!("ended at {} moments", taken.len());
}

/// Neither a file that nobody has ever captured nor the newer content of one that the session has seen is touched by the undo of a
/// rewind that could read neither, also when the rewind was carried to its end after a crash.
#[test]
fn what_a_rewind_could_not_read_is_left_alone_by_its_undo_wherever_it_ends() {
    let (disk, _) = three_turns();
    let user = User::of(&disk);
    let secrets = [("never-seen", "never captured"), ("same", "newer than what was captured")];
    for (name, content) in secrets {
        user.write(name, content);
        user.chmod(name, 0o000);
    }
    let disk = disk.after(Cut::Everything);
    let step = |_: &Store, files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &forced()).map(drop);
    let taken = moments(&disk, &step);
    let mut undone = 0;
    for (n, moment) in taken.iter().enumerate() {
        for (cut, image) in ends(moment, derive(11, n as u64), 2) {
            let process = image.process();
            let store = open(&process).expect("opens");
            let session = store.session(&key()).expect("opens");
            let found = files(&process, &session).expect("carried on");
            if conversation(&store) == 3 {
                continue;
            }
            let user = User::of(&image);
            for (name, _) in secrets {
                user.chmod(name, 0o600);
            }
            found.undo(&forced()).expect("undone");
            for (name, content) in secrets {
                assert_eq!(user.read(name).as_deref(), Some(content), "moment {n} of {}, {cut}: {name}", taken.len());
            }
            undone += 1;
        }
    }
    println!("undone {undone} times");
    assert!(undone > 100, "{undone}");
}
