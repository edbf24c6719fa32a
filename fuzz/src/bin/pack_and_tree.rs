//! Changes packs, their indexes and trees: an object reads right or is an error, and collecting frees nothing that is
//! live and reads right.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use forklog::objects::{ObjectStore, Root};
use forklog::{Env, ObjectId, ObjectKind, Uid};
use forklog_fuzz::run_files;
use forklog_sim::{SimDisk, Ticks};

fn open(disk: &SimDisk, seed: u64) -> ObjectStore {
    let ticks = Ticks::new(seed);
    ObjectStore::open(
        Arc::new(disk.process()),
        Path::new("/objects"),
        Arc::new(move || Uid::from_bytes(ticks.random())),
    )
}

fn content(n: usize) -> Vec<u8> {
    format!("object {n} ").repeat(1 + n * 9).into_bytes()
}

/// A tree of one file, as FORMAT.md spells it.
fn tree(id: ObjectId, size: u64) -> Vec<u8> {
    let mut bytes = b"FLt1\x01".to_vec();
    bytes.extend_from_slice(&0o644_u16.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&id.to_bytes());
    bytes.extend_from_slice(&4_u16.to_le_bytes());
    bytes.extend_from_slice(b"name");
    bytes
}

fn main() {
    let disk = SimDisk::new(1);
    let mut objects = Vec::new();
    // What trees name is live, and so are the deltas. Their bases are not.
    let mut roots = Vec::new();
    let mut live = HashSet::new();
    for round in 0..3 {
        let store = open(&disk, round);
        let batch = store.begin().expect("begun");
        for n in 0..4 {
            let bytes = content(usize::try_from(round).expect("small") * 4 + n);
            let id = batch.put(ObjectKind::Blob, &bytes).expect("put");
            let base: Vec<u8> = (0..200_u8).map(|at| at.wrapping_mul(at ^ 77).wrapping_add(n as u8)).collect();
            let like = batch.put(ObjectKind::Blob, &base).expect("put");
            let changed = [&base[..], &bytes].concat();
            let delta = batch.put_like(ObjectKind::Blob, &changed, Some(like)).expect("put");
            objects.extend([(ObjectKind::Blob, like, base), (ObjectKind::Blob, delta, changed)]);
            let tree = tree(id, bytes.len() as u64);
            let named = batch.put(ObjectKind::Tree, &tree).expect("put");
            roots.extend([Root::tree(named, tree.len() as u64), Root::Blob(delta)]);
            live.extend([id, named, delta]);
            objects.extend([(ObjectKind::Tree, named, tree), (ObjectKind::Blob, id, bytes)]);
        }
        batch.sync().expect("synced");
        drop(batch);
        // The next one makes a pack of its own.
        std::mem::forget(store);
    }
    let whole =
        |(path, bytes): (std::path::PathBuf, Option<Arc<Vec<u8>>>)| bytes.filter(|b| !b.is_empty()).map(|_| path);
    let files: Vec<_> = disk.tree().into_iter().filter_map(whole).collect();
    run_files("pack_and_tree", disk, files, move |disk| {
        let store = open(disk, 9);
        let reads = |store: &ObjectStore| -> Vec<bool> {
            let read = |(kind, id, bytes): &(ObjectKind, ObjectId, Vec<u8>)| match store.get(*kind, *id, 1 << 20) {
                Ok(found) => {
                    assert_eq!(&found, bytes, "{id}");
                    true
                }
                Err(_) => false,
            };
            objects.iter().map(read).collect()
        };
        let before = reads(&store);
        let _ = store.verify();
        let _ = store.gc(|| Ok(roots.clone()));
        let after = reads(&open(disk, 10));
        for ((_, id, _), (before, after)) in objects.iter().zip(before.iter().zip(after)) {
            assert!(!before || after || !live.contains(id), "gc lost {id}");
        }
        if let Ok(batch) = store.begin()
            && let Ok(id) = batch.put(ObjectKind::Blob, b"another")
            && batch.sync().is_ok()
        {
            assert_eq!(store.get(ObjectKind::Blob, id, 100).expect("just put"), b"another");
        }
    });
}
