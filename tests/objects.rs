//! What the object store promises.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Fuse, os_store, store};
use forklog::disk::Disk;
use forklog::objects::{MAX_OBJECT, ObjectStore, Root};
use forklog::{Error, ObjectId, ObjectKind};
use forklog_sim::through::Through;
use forklog_sim::{Cut, Errno, Fault, Op, SimDisk, What};

/// A simulated disk with a directory for a store that survives power cuts.
fn sim() -> SimDisk {
    let disk = SimDisk::new(1);
    let process = disk.process();
    process.create_dir(Path::new("/store")).expect("made");
    process.sync_dir(Path::new("/")).expect("synced");
    disk
}

/// The objects on it, as a process of their own sees them.
fn on(disk: &SimDisk) -> ObjectStore {
    store(Arc::new(disk.process()), Path::new("/store"))
}

fn content(n: u32) -> Vec<u8> {
    let line = format!("object {n}, a line that repeats itself often enough to be worth compressing\n");
    line.repeat(1 + n as usize % 7).into_bytes()
}

fn put_all(store: &ObjectStore, which: impl IntoIterator<Item = u32>) -> Result<HashMap<u32, ObjectId>, Error> {
    let batch = store.begin()?;
    let ids = which.into_iter().map(|n| Ok((n, batch.put(ObjectKind::Blob, &content(n))?))).collect();
    batch.sync()?;
    ids
}

fn get(store: &ObjectStore, id: ObjectId) -> Result<Vec<u8>, Error> {
    store.get(ObjectKind::Blob, id, MAX_OBJECT)
}

fn files(root: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("objects")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

#[test]
fn what_was_put_comes_back_and_is_stored_once() {
    let root = tempfile::tempdir().expect("a place");
    let first = os_store(root.path());
    let ids = put_all(&first, 0..50).expect("put");
    let len = || files(root.path(), "pack").iter().map(|path| path.metadata().expect("there").len()).sum::<u64>();
    let once = len();
    let second = os_store(root.path());
    assert_eq!(put_all(&second, 0..50).expect("put again"), ids, "another process finds what is promised");
    assert_eq!(len(), once, "nothing is stored twice");
    for (n, id) in &ids {
        assert_eq!(get(&second, *id).expect("there"), content(*n));
    }
    assert!(matches!(get(&second, ObjectId::of(ObjectKind::Blob, b"no")), Err(Error::NotFound { .. })));
    assert!(second.get(ObjectKind::Tree, ids[&0], MAX_OBJECT).is_err(), "a blob is no tree");
    assert!(second.get(ObjectKind::Blob, ids[&0], 3).is_err(), "longer than expected");
    assert!(first.verify().expect("readable").is_empty());
}

/// Versions of a file that does not compress, each with one more byte changed.
fn version(n: u8) -> Vec<u8> {
    let mut bytes = noise(7, 5_000);
    for at in 0..usize::from(n) {
        bytes[at * 100] ^= 1;
    }
    bytes
}

/// Puts versions 0 to 19, each as like the one before.
fn put_versions(store: &ObjectStore) -> Vec<ObjectId> {
    let batch = store.begin().expect("begun");
    let mut ids: Vec<ObjectId> = Vec::new();
    for n in 0..20 {
        ids.push(batch.put_like(ObjectKind::Blob, &version(n), ids.last().copied()).expect("put"));
    }
    batch.sync().expect("synced");
    ids
}

#[test]
fn an_object_like_another_costs_what_differs() {
    let root = tempfile::tempdir().expect("a place");
    let ids = put_versions(&os_store(root.path()));
    let len: u64 = files(root.path(), "pack").iter().map(|path| path.metadata().expect("there").len()).sum();
    assert!((5_000..15_000).contains(&len), "20 versions of 5,000 bytes in {len}");
    let store = os_store(root.path());
    for (n, id) in (0..).zip(&ids) {
        assert_eq!(get(&store, *id).expect("there"), version(n));
    }
    let missing = ObjectId::of(ObjectKind::Blob, b"missing");
    let id = store.begin().expect("begun").put_like(ObjectKind::Blob, &version(30), Some(missing)).expect("put");
    assert_eq!(get(&store, id).expect("stored whole"), version(30));
}

/// Bytes that do not compress, others for each `seed`.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut random = seed;
    let byte = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    std::iter::repeat_with(byte).take(len).collect()
}

/// Somebody sees what another process has put and not synced; that is cut off again, and a third process goes on in its place. `next` is as long
/// as what the third one puts there.
fn one_that_saw_what_was_cut(root: &Path, next: usize) -> (ObjectStore, Vec<u8>, ObjectId) {
    put_all(&os_store(root), 0..1).expect("put");
    let (lost, kept) = (noise(1, 2 << 20), noise(2, next));
    let first = os_store(root);
    let batch = first.begin().expect("begun");
    batch.put(ObjectKind::Blob, &lost).expect("put");
    let seeing = os_store(root);
    drop(seeing.begin().expect("begun"));
    drop(batch);
    drop(first);
    let third = os_store(root);
    let batch = third.begin().expect("begun");
    let kept = batch.put(ObjectKind::Blob, &kept).expect("put");
    batch.sync().expect("synced");
    (seeing, lost, kept)
}

#[test]
fn what_was_seen_and_then_cut_is_stored_when_it_is_put() {
    let root = tempfile::tempdir().expect("a place");
    let (seeing, lost, _) = one_that_saw_what_was_cut(root.path(), 5 << 20);
    let batch = seeing.begin().expect("begun");
    let id = batch.put(ObjectKind::Blob, &lost).expect("put");
    batch.sync().expect("synced");
    drop(batch);
    assert_eq!(get(&os_store(root.path()), id).expect("stored"), lost);
}

#[test]
fn what_took_the_place_of_what_was_cut_is_found_and_kept_by_gc() {
    let root = tempfile::tempdir().expect("a place");
    let (seeing, _, kept) = one_that_saw_what_was_cut(root.path(), 300_000);
    let roots = [Root::Blob(kept)];
    seeing.gc(|| Ok(roots.to_vec())).expect("collected");
    get(&seeing, kept).expect("found");
    get(&os_store(root.path()), kept).expect("kept");
}

/// The first version is dead, and the others were stored against it.
#[test]
fn gc_keeps_what_was_stored_against_what_is_dead() {
    let root = tempfile::tempdir().expect("a place");
    let ids = put_versions(&os_store(root.path()));
    let dead = put_all(&os_store(root.path()), 0..100).expect("put");
    let roots: Vec<Root> = ids[1..].iter().map(|id| Root::Blob(*id)).collect();
    let report = os_store(root.path()).gc(|| Ok(roots.clone())).expect("collected");
    assert_eq!((report.packs_removed, report.objects_moved), (1, 19));
    let len: u64 = files(root.path(), "pack").iter().map(|path| path.metadata().expect("there").len()).sum();
    assert!((5_000..15_000).contains(&len), "19 versions in {len} bytes");
    let store = os_store(root.path());
    assert!(get(&store, ids[0]).is_err() && get(&store, dead[&1]).is_err());
    for (n, id) in (1..).zip(&ids[1..]) {
        assert_eq!(get(&store, *id).expect("live"), version(n));
    }
}

#[test]
fn one_sync_for_any_number_of_objects_and_one_pack_for_processes_in_turn() {
    let root = tempfile::tempdir().expect("a place");
    for turn in 0..5 {
        let store = os_store(root.path());
        put_all(&store, turn * 100..turn * 100 + 100).expect("put");
        assert_eq!(store.sync_count(), if turn == 0 { 3 } else { 1 }, "the pack, and two directories of a new one");
    }
    assert_eq!(files(root.path(), "pack").len(), 1);
}

#[test]
fn what_was_not_synced_is_not_relied_upon() {
    let root = tempfile::tempdir().expect("a place");
    let first = os_store(root.path());
    let batch = first.begin().expect("begun");
    let id = batch.put(ObjectKind::Blob, &content(1)).expect("put");
    let second = os_store(root.path());
    assert!(!second.begin().expect("begun").contains(&id).expect("looked"));
    batch.sync().expect("synced");
    drop(batch);
    assert!(second.begin().expect("begun").contains(&id).expect("looked"));
}

#[test]
fn many_objects_get_an_index_that_can_be_lost_or_damaged() {
    let root = tempfile::tempdir().expect("a place");
    let ids = put_all(&os_store(root.path()), 0..1500).expect("put");
    let [index] = &files(root.path(), "idx")[..] else { panic!("one index") };
    let whole = fs::read(index).expect("readable");
    for damage in 0..40 {
        let mut bytes = whole.clone();
        let at = damage * bytes.len() / 40;
        bytes[at] ^= 0x10;
        fs::write(index, &bytes).expect("written");
        let store = os_store(root.path());
        for (n, id) in ids.iter().take(30).chain(ids.iter().filter(|(_, id)| bytes[at..].starts_with(&id.to_bytes()))) {
            assert_eq!(get(&store, *id).expect("there"), content(*n));
        }
        put_all(&store, 0..100).expect("put again");
    }
    fs::remove_file(index).expect("removed");
    let store = os_store(root.path());
    assert!(ids.iter().all(|(n, id)| get(&store, *id).expect("there") == content(*n)));
}

/// What an index says is not read from the pack again, and what is appended behind it is found beside it.
#[test]
fn an_index_spares_reading_the_heads_of_its_pack() {
    let disk = sim();
    let mut ids = put_all(&on(&disk), 0..1500).expect("put");
    let index = disk.tree().into_iter().map(|(path, _)| path).find(|path| path.extension().is_some_and(|e| e == "idx"));
    let index = index.expect("an index");
    let cost = |disk: &SimDisk, n: u32, id: ObjectId| {
        let (store, before) = (on(disk), disk.counts());
        assert_eq!(get(&store, id).expect("there"), content(n));
        disk.counts().since(&before).bytes_read
    };
    let without = disk.after(Cut::Everything);
    without.put(&index, None).expect("there");
    let (with, without) = (cost(&disk, 7, ids[&7]), cost(&without, 7, ids[&7]));
    assert!(with < 1 << 14 && 10 * with < without, "{with} bytes with an index, {without} without");

    ids.extend(put_all(&on(&disk), 1500..1510).expect("put"));
    let store = on(&disk);
    assert!(ids.iter().all(|(n, id)| get(&store, *id).expect("there") == content(*n)));
    assert!(store.verify().expect("readable").is_empty());
    ids.retain(|n, _| n % 2 == 0);
    store.gc(|| Ok(ids.values().copied().map(Root::Blob).collect())).expect("collected");
    for store in [store, on(&disk)] {
        assert!(ids.iter().all(|(n, id)| get(&store, *id).expect("there") == content(*n)));
    }
}

/// A pack is ended at 64 MiB, within a batch too, and gets its index then.
#[test]
fn what_is_more_than_a_pack_holds_goes_into_the_next() {
    let disk = sim();
    let noise = |n: u64| -> Vec<u8> {
        let mut rng = forklog_sim::Rng::new(n);
        (0..1 << 17).flat_map(|_| rng.bits().to_le_bytes()).collect()
    };
    let store = on(&disk);
    let batch = store.begin().expect("begun");
    let ids: Vec<_> = (0..70).map(|n| batch.put(ObjectKind::Blob, &noise(n)).expect("put")).collect();
    batch.sync().expect("synced");
    drop(batch);
    let count = |disk: &SimDisk, ending: &str| {
        disk.tree().into_iter().filter(|(path, _)| path.extension().is_some_and(|found| found == ending)).count()
    };
    assert_eq!((count(&disk, "pack"), count(&disk, "idx")), (2, 1));
    let cut = disk.after(Cut::Nothing);
    for store in [store, on(&disk), on(&cut)] {
        for (n, id) in (0..).zip(&ids) {
            assert!(get(&store, *id).expect("there") == noise(n), "object {n} is another one");
        }
        assert!(store.verify().expect("readable").is_empty());
    }
    // The full one is not gone on with.
    put_all(&on(&disk), 0..10).expect("put");
    assert_eq!(count(&disk, "pack"), 2);
}

/// Whatever single bit flips and wherever the pack is cut, an object reads right or not at all, and one that is put
/// again is there.
#[test]
fn damage_never_reads_wrong() {
    let root = tempfile::tempdir().expect("a place");
    let ids = put_all(&os_store(root.path()), 0..4).expect("put");
    let [pack] = &files(root.path(), "pack")[..] else { panic!("one pack") };
    let whole = fs::read(pack).expect("readable");
    let check = |bytes: &[u8], what: &str| {
        fs::write(pack, bytes).expect("written");
        let store = os_store(root.path());
        let mut readable = 0;
        for (n, id) in &ids {
            match get(&store, *id) {
                Ok(found) => {
                    assert_eq!(found, content(*n), "{what}");
                    readable += 1;
                }
                Err(Error::Corrupt { .. } | Error::NotFound { .. } | Error::Newer { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        readable
    };
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(3 <= check(&bytes, &format!("bit {bit}")), "one flip hides one object at most: bit {bit}");
    }
    for len in 0..whole.len() {
        check(&whole[..len], &format!("cut to {len}"));
        fs::write(pack, &whole[..len]).expect("written");
        let store = os_store(root.path());
        let again = put_all(&store, 0..4).expect("put again");
        assert_eq!(again, ids);
        for (n, id) in &ids {
            assert_eq!(get(&store, *id).expect("there"), content(*n), "cut to {len}");
        }
        drop(store);
        for extra in files(root.path(), "pack").iter().filter(|path| *path != pack) {
            fs::remove_file(extra).expect("removed");
        }
    }
}

#[test]
fn a_writer_that_is_killed_anywhere_leaves_what_it_promised() {
    for calls in 0.. {
        let root = tempfile::tempdir().expect("a place");
        let fuse = Fuse::after(calls);
        let mut promised = HashMap::new();
        let fused = store(Arc::new(Through(fuse.clone())), root.path());
        for turn in 0..4 {
            match put_all(&fused, turn * 10..turn * 10 + 10) {
                Ok(ids) => promised.extend(ids),
                Err(_) => break,
            }
        }
        drop(fused);
        let after = os_store(root.path());
        for (n, id) in &promised {
            assert_eq!(get(&after, *id).expect("promised"), content(*n), "killed after {calls} calls");
        }
        assert!(after.verify().expect("readable").is_empty(), "a kill is no damage: {calls}");
        let again = put_all(&after, 0..40).expect("the next writer goes on");
        for (n, id) in &again {
            assert_eq!(get(&after, *id).expect("there"), content(*n));
        }
        if !fuse.blown() {
            assert!(10 < calls, "the fuse was tried");
            break;
        }
    }
}

#[test]
fn gc_keeps_what_is_live_and_can_be_killed_anywhere() {
    let live = |ids: &HashMap<u32, ObjectId>| -> Vec<Root> {
        ids.iter().filter(|(n, _)| *n % 10 == 0).map(|(_, id)| Root::Blob(*id)).collect()
    };
    for calls in 0.. {
        let root = tempfile::tempdir().expect("a place");
        let ids = put_all(&os_store(root.path()), 0..100).expect("put");
        let fuse = Fuse::after(calls);
        let killed = store(Arc::new(Through(fuse.clone())), root.path());
        let done = killed.gc(|| Ok(live(&ids)));
        drop(killed);
        let check = |when: &str| {
            let store = os_store(root.path());
            for n in (0..100).step_by(10) {
                assert_eq!(get(&store, ids[&n]).expect("live"), content(n), "{when}, killed after {calls} calls");
            }
        };
        check("after the kill");
        // A writer that comes next may rely on nothing that gc is about to remove.
        assert_eq!(put_all(&os_store(root.path()), 0..20).expect("put again").len(), 20);
        let mut needed = live(&ids);
        needed.extend((0..20).map(|n| Root::Blob(ids[&n])));
        let report = os_store(root.path()).gc(|| Ok(needed.clone())).expect("the next gc finishes");
        check("after the next gc");
        let store = os_store(root.path());
        for n in 0..20 {
            assert_eq!(get(&store, ids[&n]).expect("live"), content(n));
        }
        assert!(files(root.path(), "condemned").is_empty() && files(root.path(), "tmp").is_empty());
        if let Ok(first) = done {
            assert_eq!((first.packs_removed, first.objects_moved), (1, 10), "{report:?}");
            assert!(matches!(get(&store, ids[&33]), Err(Error::NotFound { .. })), "the dead are gone");
            break;
        }
    }
}

#[test]
fn gc_waits_for_no_writer_between_batches_and_takes_nothing_from_one() {
    let root = tempfile::tempdir().expect("a place");
    let writer = os_store(root.path());
    let old = put_all(&os_store(root.path()), 0..10).expect("put");
    let own = put_all(&writer, 100..110).expect("put");
    let collector = os_store(root.path());
    collector.gc(|| Ok(Vec::new())).expect("the writer holds no batch");
    assert!(get(&writer, own[&100]).is_ok(), "the pack in hand stays");
    // The writer must not believe what it knew before.
    let again = put_all(&writer, 0..10).expect("put");
    assert_eq!(again, old);
    assert!(again.values().all(|id| get(&os_store(root.path()), *id).is_ok()));
}

#[test]
fn writers_and_gc_at_once_lose_nothing() {
    let root = tempfile::tempdir().expect("a place");
    let all_roots = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for writer in 0..3u32 {
            let (root, all_roots) = (root.path(), &all_roots);
            threads.spawn(move || {
                for turn in 0..30 {
                    let store = os_store(root);
                    let batch = store.begin().expect("begun");
                    let ids: Vec<_> = (0..20)
                        .map(|n| batch.put(ObjectKind::Blob, &content(turn * 7 + n * (1 + writer % 2))).expect("put"))
                        .collect();
                    batch.sync().expect("synced");
                    // As a session does: the record that refers to the objects comes before the batch ends.
                    let mut roots = all_roots.lock().expect("sound");
                    if turn % 3 == 0 {
                        roots.extend(ids.into_iter().map(Root::Blob));
                    }
                }
            });
        }
        threads.spawn(|| {
            for _ in 0..15 {
                let collector = os_store(root.path());
                collector.gc(|| Ok(all_roots.lock().expect("sound").clone())).expect("collected");
            }
        });
    });
    let store = os_store(root.path());
    for root in all_roots.into_inner().expect("sound") {
        get(&store, root.id()).expect("every root is there");
    }
    assert!(store.verify().expect("readable").is_empty());
}

#[test]
fn a_live_tree_that_cannot_be_read_stops_gc() {
    let root = tempfile::tempdir().expect("a place");
    let store = os_store(root.path());
    let ids = put_all(&store, 0..10).expect("put");
    drop(store);
    let store = os_store(root.path());
    let forged = store.begin().expect("begun").put(ObjectKind::Tree, b"no tree").expect("put");
    let missing = ObjectId::of(ObjectKind::Tree, b"missing");
    for bad in [forged, missing] {
        assert!(store.gc(|| Ok(vec![Root::tree(bad, 7)])).is_err());
        assert!(get(&store, ids[&3]).is_ok(), "nothing was removed");
    }
}

/// The directory was made and its name not synced; the next who begins finds it there.
#[test]
fn objects_survive_although_syncing_their_directorys_name_failed_once() {
    let disk = sim();
    let store = on(&disk);
    disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(Op::SyncDir));
    assert!(store.begin().is_err());
    let batch = store.begin().expect("begun");
    let id = batch.put(ObjectKind::Blob, b"content").expect("put");
    batch.sync().expect("synced");
    let store = on(&disk.after(Cut::Nothing));
    assert_eq!(store.get(ObjectKind::Blob, id, 100).expect("there"), b"content");
}

/// What a failed sync has dropped may hold the mark that the sync before it left: whoever went on behind it would promise that.
#[test]
fn nobody_goes_on_behind_a_mark_that_a_failed_sync_may_have_lost() {
    let disk = sim();
    let first = on(&disk);
    let mut ids = put_all(&first, 0..3).expect("put");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)).on(Op::Sync).in_path(".pack"));
    assert!(put_all(&first, 3..6).is_err());
    ids.extend(put_all(&first, 6..9).expect("the disk is well again"));
    drop(first);
    let second = on(&disk);
    ids.extend(put_all(&second, 9..12).expect("put"));
    for cut in [Cut::Nothing, Cut::Everything] {
        let store = on(&disk.after(cut));
        let damaged = store.verify().expect("readable");
        assert!(damaged.is_empty(), "{cut:?}: {damaged:?}");
        for (n, id) in &ids {
            assert_eq!(get(&store, *id).expect("there"), content(*n));
        }
    }
}

/// A frame whose head was misread looks like one that is not there.
#[test]
fn a_bit_that_is_read_wrong_once_hides_no_object() {
    let disk = sim();
    let ids = put_all(&on(&disk), 0..5).expect("put");
    for n in 1.. {
        let copy = disk.after(Cut::Everything);
        let store = on(&copy);
        copy.add_fault(Fault::at(n, What::FlipBit).on(Op::Read).in_path(".pack"));
        let adopted = put_all(&store, [9]);
        if copy.fault_hits() == 0 {
            assert!(5 < n, "{n} reads");
            break;
        }
        copy.clear_faults();
        assert!(adopted.is_ok(), "{n}: {adopted:?}");
        for (of, id) in &ids {
            let got = get(&store, *id).unwrap_or_else(|error| panic!("{of}, after misread {n}: {error}"));
            assert_eq!(got, content(*of));
        }
    }
}

/// A head that was misread hides its object from gc, too, which would have removed its pack.
#[test]
fn gc_removes_no_pack_of_which_it_has_misread_a_head() {
    let disk = sim();
    let ids = put_all(&on(&disk), 0..5).expect("put");
    for n in 1.. {
        let copy = disk.after(Cut::Everything);
        let store = on(&copy);
        copy.add_fault(Fault::at(n, What::FlipBit).on(Op::Read).in_path(".pack"));
        store.begin().map(drop).expect("begun");
        if copy.fault_hits() == 0 {
            assert!(5 < n, "{n} reads");
            break;
        }
        copy.clear_faults();
        let report = store.gc(|| Ok(vec![Root::Blob(ids[&1])])).expect("collected");
        assert_eq!(report.packs_removed, 1, "{n}");
        assert_eq!(get(&store, ids[&1]).unwrap_or_else(|error| panic!("after misread {n}: {error}")), content(1));
    }
}

/// The promise of the last batch before a crash was never written: what stands behind the promise may be live.
#[test]
fn gc_stops_at_a_live_object_that_cannot_be_read_behind_the_promise_too() {
    let disk = sim();
    let ids = put_all(&on(&disk), 0..5).expect("put");
    let disk = disk.after(Cut::Nothing);
    let pack = disk.tree().into_iter().map(|(path, _)| path).find(|path| path.extension().is_some_and(|e| e == "pack"));
    let pack = pack.expect("a pack");
    disk.damage(&pack, |bytes| bytes[32 + 72 + 5] ^= 1).expect("damaged");
    let store = on(&disk);
    let live = ids.values().copied().find(|id| get(&store, *id).is_err()).expect("one is damaged");
    store.gc(|| Ok(vec![Root::Blob(live)])).expect_err("it is live, and cannot be copied");
    assert!(disk.peek(&pack).is_ok(), "what may be mended is still there");
}
