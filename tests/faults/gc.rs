//! What gc promises to who writes meanwhile, and what it does where it cannot know what is needed.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forklog::checkpoint::PlanOptions;
use forklog::disk::{Disk, How, LockMode};
use forklog::objects::{MAX_OBJECT, NewUid, ObjectStore, Root};
use forklog::{Error, NewSession, ObjectKind, Scope, SessionKey, Uid};
use forklog_sim::{Points, Process, SimDisk, derive};

use crate::world::{STORE, User, WORK, files, forced, key, open, seq, three_turns};

const OBJECTS: &str = "/objects";

fn objects(process: &Process) -> ObjectStore {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let new_uid: NewUid = Arc::new(|| Uid::from_bytes(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes()));
    ObjectStore::open(Arc::new(process.clone()), Path::new(OBJECTS), new_uid)
}

fn content(n: u64) -> Vec<u8> {
    (0..60).flat_map(|i| derive(n, i).to_be_bytes()).collect()
}

fn put(store: &ObjectStore, which: impl IntoIterator<Item = u64>) -> Result<Vec<Root>, Error> {
    let batch = store.begin()?;
    let ids = which.into_iter().map(|n| batch.put(ObjectKind::Blob, &content(n)).map(Root::Blob));
    let roots = ids.collect::<Result<_, _>>()?;
    batch.sync()?;
    Ok(roots)
}

/// At each call of a gc, another process puts what the gc is about to remove.
#[test]
fn a_writer_that_needs_what_gc_removes_stores_it_again() {
    let disk = SimDisk::new(3);
    put(&objects(&disk.process()), 0..40).expect("put");
    let (mut written, mut waited) = (0, 0);
    for moment in 0.. {
        let copy = disk.after(forklog_sim::Cut::Everything);
        let roots = Arc::new(Mutex::new(put(&objects(&copy.process()), 0..4).expect("put")));
        let (other, shared) = (copy.process(), Arc::clone(&roots));
        let did = copy.at_call(Points::Every, moment, move || {
            let lock = other.open(&Path::new(OBJECTS).join("lock"), How::Write);
            // A writer would wait until gc has passed this phase, and gc waits for us.
            let is_free = lock.is_ok_and(|lock| lock.try_lock(LockMode::Shared).expect("asked"));
            if is_free {
                let writer = objects(&other);
                let batch = writer.begin().expect("begun");
                let ids = (10..20).map(|n| batch.put(ObjectKind::Blob, &content(n)).map(Root::Blob));
                let found = ids.collect::<Result<Vec<_>, _>>().expect("put");
                batch.sync().expect("synced");
                // The record that names them comes before the batch ends.
                shared.lock().expect("sound").extend(found);
            }
            is_free
        });
        let collector = objects(&copy.process());
        let report = collector.gc(|| Ok(roots.lock().expect("sound").clone())).expect("collected");
        copy.clear_hook();
        assert!(report.packs_removed > 0 || did.get() == Some(&true), "{report:?}");
        let reader = objects(&copy.process());
        for root in roots.lock().expect("sound").iter() {
            reader.get(ObjectKind::Blob, root.id(), MAX_OBJECT).unwrap_or_else(|error| panic!("at {moment}: {error}"));
        }
        assert!(reader.verify().expect("read").is_empty());
        match did.get() {
            None => break,
            Some(true) => written += 1,
            Some(false) => waited += 1,
        }
    }
    println!("a writer came at {written} calls of a gc, and had to wait at {waited}");
    assert!(written > 20 && waited > 0, "{written} {waited}");
}

/// At each call of a gc, another process carries on a rewind whose process was killed, unless somebody has what that needs.
#[test]
fn a_recovery_beside_gc_loses_nothing_that_its_record_names() {
    const EDIT: &str = "an edit that no checkpoint has";
    let (disk, _) = three_turns();
    let user = User::of(&disk);
    // Most of the pack is dead, so that gc writes what is live into another one.
    let process = disk.process();
    let store = open(&process).expect("opens");
    let other = SessionKey::new("p", "other").expect("legal");
    let session = store.create(NewSession::named(other.clone())).expect("created");
    let noise: String = (0..90_000u64).map(|n| format!("{:x}", derive(4, n) % 16)).collect();
    user.write("noise", &noise);
    files(&process, &session).and_then(|files| files.checkpoint(None)).expect("taken");
    user.remove("noise");
    session.close().expect("closed");
    store.delete(&other).expect("deleted");
    drop(store);
    user.write("main", EDIT);
    let before = user.image();
    // Killed once a file has moved.
    let victim = disk.process();
    let struck = victim.clone();
    let moved = AtomicU64::new(0);
    disk.on_point(Points::Changes, move |point, _| {
        if point.path.starts_with(WORK) && moved.fetch_add(1, Ordering::SeqCst) == 4 {
            struck.kill();
        }
    });
    let rewound = open(&victim).and_then(|store| {
        let session = store.session(&key())?;
        files(&victim, &session)?.rewind(&seq(0), Scope::Files, &forced())
    });
    disk.clear_hook();
    rewound.expect_err("killed");
    victim.kill();
    let (mut recovered, mut waited) = (0, 0);
    for moment in 0.. {
        let copy = disk.after(forklog_sim::Cut::Everything);
        let process = copy.process();
        let did = copy.at_call(Points::Every, moment, move || {
            // Whoever waits here waits for good.
            let is_free = ["lock", "objects/lock"].iter().all(|name| {
                let lock = process.open(&Path::new(STORE).join(name), How::Create);
                lock.is_ok_and(|lock| lock.try_lock(LockMode::Shared).expect("asked"))
            });
            let found = || {
                let store = open(&process)?;
                let session = store.session(&key())?;
                files(&process, &session).map(drop)
            };
            is_free && found().is_ok()
        });
        let process = copy.process();
        let store = open(&process).expect("opens");
        let collected = store.gc(false);
        copy.clear_hook();
        collected.unwrap_or_else(|error| panic!("at {moment}: {error}"));
        let process = copy.process();
        let store = open(&process).expect("opens");
        let session = store.session(&key()).expect("opens");
        let found = files(&process, &session).expect("opens");
        found.undo(&forced()).unwrap_or_else(|error| panic!("at {moment}: {error}"));
        assert_eq!(User::of(&copy).image(), before, "at {moment}");
        match did.get() {
            None => break,
            Some(true) => recovered += 1,
            Some(false) => waited += 1,
        }
    }
    println!("a recovery came at {recovered} calls of a gc, and had to wait at {waited}");
    assert!(recovered > 20, "{recovered} {waited}");
}

/// While a transcript is damaged nobody knows what it needs: objects stay, and gc says why.
#[test]
fn a_damaged_transcript_stops_the_collection_of_objects_and_gc_says_so() {
    let (disk, images) = three_turns();
    let process = disk.process();
    let store = open(&process).expect("opens");
    let other = SessionKey::new("p", "other").expect("legal");
    let session = store.create(NewSession::named(other.clone())).expect("created");
    let noise: String = (0..9_000u64).map(|n| format!("{:x}", derive(4, n) % 16)).collect();
    let user = User::of(&disk);
    user.write("noise", &noise);
    session
        .files_of(Arc::new(user.0.clone()), Default::default())
        .and_then(|files| files.checkpoint(None))
        .expect("taken");
    user.remove("noise");
    session.close().expect("closed");
    store.delete(&other).expect("deleted");
    drop(store);
    let store = open(&disk.process()).expect("opens");
    let path = Path::new("/store/projects/p/a/transcript.jsonl");
    let whole = disk.peek(path).expect("there");
    let at = whole.len() / 2;
    disk.damage(path, |bytes| bytes[at] ^= 1).expect("there");
    let done = store.gc(false);
    let said = format!("{done:?}");
    println!("{said}");
    assert!(said.contains("transcript.jsonl"), "it names the file: {said}");
    let packs = || disk.tree().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "pack")).count();
    assert!(packs() > 0);
    disk.damage(path, |bytes| bytes[at] ^= 1).expect("there");
    assert!(store.gc(false).expect("collected").packs > 0, "once it is well again, gc goes on");
    let session = store.session(&key()).expect("opens");
    let found = files(&process, &session).expect("opens");
    found
        .rewind(&crate::world::seq(0), forklog::Scope::Both, &PlanOptions { force: true, ..PlanOptions::default() })
        .expect("everything is there");
    assert_eq!(user.image(), images[0]);
}
