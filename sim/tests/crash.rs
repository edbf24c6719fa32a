//! What power cuts may and may not leave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forklog::disk::{Disk, How};
use forklog_sim::{Cut, Process, Rng, SimDisk, derive};

/// Paths with the bytes of files.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn tree(disk: &SimDisk) -> Tree {
    disk.tree().into_iter().map(|(path, bytes)| (path, bytes.map(|b| b.to_vec()))).collect()
}

fn make(process: &Process, path: &str, bytes: &[u8]) {
    let file = process.open(Path::new(path), How::CreateNew).expect("a new file");
    file.write_at(bytes, 0).expect("room");
    file.sync().expect("no fault");
}

fn paths(disk: &SimDisk) -> Vec<String> {
    disk.tree().into_iter().map(|(path, _)| path.display().to_string()).collect()
}

/// Every set of names that random cuts leave.
fn outcomes(disk: &SimDisk) -> BTreeSet<Vec<String>> {
    disk.snapshot().images(3, 400).map(|(_, image)| paths(&image)).collect()
}

fn set(expected: &[&[&str]]) -> BTreeSet<Vec<String>> {
    expected.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

#[test]
fn a_new_name_needs_its_directory_synced() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    make(&process, "/a", b"synced");
    assert_eq!(outcomes(&disk), set(&[&[], &["/a"]]));
    process.sync_dir(p("/")).expect("no fault");
    assert!(disk.snapshot().is_stable());
    assert_eq!(outcomes(&disk), set(&[&["/a"]]));
    process.remove_file(p("/a")).expect("there");
    assert_eq!(outcomes(&disk), set(&[&[], &["/a"]]));
    process.sync_dir(p("/")).expect("no fault");
    assert_eq!(outcomes(&disk), set(&[&[]]));
}

#[test]
fn changes_that_have_nothing_to_do_with_each_other_come_in_any_combination() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    make(&process, "/a", b"");
    make(&process, "/b", b"");
    assert_eq!(outcomes(&disk), set(&[&[], &["/a"], &["/b"], &["/a", "/b"]]));
    let journal = |seed| paths(&disk.after(Cut::Journal(seed)));
    let in_order: BTreeSet<_> = (0..200).map(journal).collect();
    assert_eq!(in_order, set(&[&[], &["/a"], &["/a", "/b"]]));
}

#[test]
fn a_new_directory_needs_its_parent_synced_too() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    process.create_dir(p("/d")).expect("new");
    make(&process, "/d/x", b"synced");
    process.sync_dir(p("/d")).expect("no fault");
    assert_eq!(outcomes(&disk), set(&[&[], &["/d"], &["/d", "/d/x"]]));
    process.sync_dir(p("/")).expect("no fault");
    assert_eq!(outcomes(&disk), set(&[&["/d", "/d/x"]]));
}

#[test]
fn a_rename_between_directories_needs_both_synced_and_never_loses_the_file() {
    for synced in [&[][..], &["/a"], &["/b"], &["/a", "/b"]] {
        let disk = SimDisk::new(0);
        let process = disk.process();
        process.create_dir(p("/a")).expect("new");
        process.create_dir(p("/b")).expect("new");
        make(&process, "/a/x", b"synced");
        for dir in ["/", "/a", "/b"] {
            process.sync_dir(p(dir)).expect("no fault");
        }
        process.rename(p("/a/x"), p("/b/y")).expect("there");
        for dir in synced {
            process.sync_dir(p(dir)).expect("no fault");
        }
        let (old, new): (&[&str], &[&str]) = (&["/a", "/a/x", "/b"], &["/a", "/b", "/b/y"]);
        let expected = if synced.len() == 2 { set(&[new]) } else { set(&[old, new]) };
        assert_eq!(outcomes(&disk), expected, "{}", disk.report(format!("synced {synced:?}")));
    }
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one_and_unsynced_bytes_may_be_missing_from_it() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    make(&process, "/a", b"old");
    process.sync_dir(p("/")).expect("no fault");
    let file = process.open(p("/t"), How::CreateNew).expect("new");
    file.write_at(b"new", 0).expect("room");
    process.rename(p("/t"), p("/a")).expect("there");
    let left: BTreeSet<Vec<u8>> = disk
        .snapshot()
        .images(1, 300)
        .map(|(_, image)| image.peek(p("/a")).expect("one of the two").to_vec())
        .collect();
    for wanted in [&b"old"[..], b"new", b"", b"\0\0\0"] {
        assert!(left.contains(wanted), "{left:?}");
    }
    file.sync().expect("no fault");
    process.sync_dir(p("/")).expect("no fault");
    assert_eq!(**disk.after(Cut::Nothing).peek(p("/a")).expect("there"), *b"new");
}

#[test]
fn a_moved_directory_takes_its_contents_along() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    for dir in ["/live", "/graves", "/live/s"] {
        process.create_dir(p(dir)).expect("new");
    }
    make(&process, "/live/s/x", b"1");
    for dir in ["/", "/live", "/live/s"] {
        process.sync_dir(p(dir)).expect("no fault");
    }
    process.rename(p("/live/s"), p("/graves/s")).expect("there");
    let old: &[&str] = &["/graves", "/live", "/live/s", "/live/s/x"];
    let new: &[&str] = &["/graves", "/graves/s", "/graves/s/x", "/live"];
    assert_eq!(outcomes(&disk), set(&[old, new]));
}

#[test]
fn directories_never_end_up_inside_each_other() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    for dir in ["/c", "/c/b"] {
        process.create_dir(p(dir)).expect("new");
    }
    process.sync_dir(p("/c")).expect("no fault");
    process.sync_dir(p("/")).expect("no fault");
    process.rename(p("/c/b"), p("/b")).expect("there");
    process.rename(p("/c"), p("/b/c")).expect("there");
    assert_eq!(outcomes(&disk), set(&[&["/c", "/c/b"], &["/b", "/c"], &["/b", "/b/c"]]));
}

#[test]
fn canonical_cuts_are_what_they_say() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    make(&process, "/a", b"a");
    process.sync_dir(p("/")).expect("no fault");
    process.open(p("/a"), How::Write).expect("there").write_at(b"bc", 1).expect("room");
    make(&process, "/n", b"n");
    let a = |bytes: &[u8]| (PathBuf::from("/a"), Some(bytes.to_vec()));
    let n = (PathBuf::from("/n"), Some(b"n".to_vec()));
    assert_eq!(tree(&disk.after(Cut::Nothing)), Tree::from([a(b"a")]));
    assert_eq!(tree(&disk.after(Cut::Everything)), Tree::from([a(b"abc"), n.clone()]));
    assert_eq!(tree(&disk.after(Cut::Sizes)), Tree::from([a(b"a\0\0"), n.clone()]));
    assert_eq!(tree(&disk.after(Cut::Names)), Tree::from([a(b"a"), n]));
    assert_eq!(tree(&disk.after(Cut::Data)), Tree::from([a(b"abc")]));
}

const DIRS: [&str; 4] = ["/", "/d", "/e", "/d/f"];

/// One random change of names. Files hold their own number, synced, so that each can be told from every other.
fn shuffle(process: &Process, rng: &mut Rng, made: &mut u32) {
    let any = |rng: &mut Rng| {
        let dir = PathBuf::from(DIRS[rng.below(DIRS.len())]);
        dir.join(["d", "e", "f", "x", "y"][rng.below(5)])
    };
    match rng.below(10) {
        0..=2 => {
            if let Ok(file) = process.open(&any(rng), How::CreateNew) {
                file.write_at(&made.to_le_bytes(), 0).expect("room");
                file.sync().expect("no fault");
                *made += 1;
            }
        }
        3 => drop(process.create_dir(&any(rng))),
        4..=6 => drop(process.rename(&any(rng), &any(rng))),
        7 => drop(process.remove_file(&any(rng))),
        8 => drop(process.remove_dir(&any(rng))),
        _ => drop(process.sync_dir(Path::new(DIRS[rng.below(DIRS.len())]))),
    }
}

/// Numbers of the files in a tree, and that none is there twice.
fn numbers(tree: &Tree, context: &str) -> BTreeSet<Vec<u8>> {
    let files: Vec<Vec<u8>> = tree.values().flatten().filter(|bytes| !bytes.is_empty()).cloned().collect();
    let numbers: BTreeSet<_> = files.iter().cloned().collect();
    assert_eq!(numbers.len(), files.len(), "a file with two names: {context}");
    numbers
}

#[test]
fn random_names_keep_their_promises() {
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let process = disk.process();
        let mut rng = Rng::new(seed);
        let mut made = 0;
        let mut history = vec![tree(&disk)];
        let mut surely: BTreeSet<Vec<u8>> = BTreeSet::new();
        for step in 0..60 {
            shuffle(&process, &mut rng, &mut made);
            let now = tree(&disk);
            if history.last() != Some(&now) {
                history.push(now.clone());
            }
            let alive = numbers(&now, "live");
            surely.retain(|number| alive.contains(number));
            let snapshot = disk.snapshot();
            assert_eq!(tree(&snapshot.after(Cut::Everything)), now);
            let base = tree(&snapshot.after(Cut::Nothing));
            for image in 0..6 {
                let cut = Cut::random(derive(seed, step), image);
                let left = tree(&snapshot.after(cut));
                let context = disk.report(format!("seed {seed}, step {step}, {cut}: {left:?}"));
                // No file twice, and none lost that was stable and still has a name.
                let found = numbers(&left, &context);
                assert!(surely.is_subset(&found), "lost: {context}");
                // Journal order means a moment that really was, but that a file may be there empty.
                if matches!(cut, Cut::Journal(_)) {
                    assert!(history.contains(&left), "never was: {context}");
                }
                // Whatever has a name had it at some time. The directory may have another one by now.
                for (path, bytes) in &left {
                    let had = |then: &Tree| then.iter().any(|(p, b)| p.file_name() == path.file_name() && b == bytes);
                    assert!(history.iter().any(had), "{path:?} is new: {context}");
                }
            }
            surely.extend(numbers(&base, "base").into_iter().filter(|number| alive.contains(number)));
        }
        // Everything is stable once every directory has been synced, in whatever order that was.
        let dirs: Vec<PathBuf> = disk.tree().into_iter().filter(|(_, bytes)| bytes.is_none()).map(|(p, _)| p).collect();
        for dir in dirs.iter().rev().map(PathBuf::as_path).chain([Path::new("/")]) {
            process.sync_dir(dir).expect("it was listed");
        }
        assert!(disk.snapshot().is_stable(), "{}", disk.report("not stable"));
        assert_eq!(tree(&disk.after(Cut::Nothing)), tree(&disk), "{}", disk.report("not stable"));
    }
}

/// Images are disks of their own: they can be cut again, and nothing leaks between them and the first.
#[test]
fn images_are_whole_disks_and_independent() {
    let disk = SimDisk::new(9);
    let process = disk.process();
    make(&process, "/a", b"1");
    let file = process.open(p("/a"), How::Write).expect("there");
    assert!(file.try_lock(forklog::disk::LockMode::Exclusive).expect("no fault"));
    let image = disk.after(Cut::Everything);
    assert_eq!(image.calls(), 0);
    let other = image.process();
    let again = other.open(p("/a"), How::Write).expect("there");
    assert!(again.try_lock(forklog::disk::LockMode::Exclusive).expect("no fault"), "locks end with the power");
    again.write_at(b"2", 0).expect("room");
    assert_eq!(**image.after(Cut::Nothing).peek(p("/a")).expect("there"), *b"1");
    assert_eq!(**image.after(Cut::Everything).peek(p("/a")).expect("there"), *b"2");
    assert_eq!(**disk.peek(p("/a")).expect("there"), *b"1");
    assert!(image.report("x").contains("Cut::Everything after call"), "{}", image.report("x"));
}

#[test]
fn the_same_seed_gives_the_same_images() {
    let run = || {
        let disk = SimDisk::new(4);
        let process = disk.process();
        let mut rng = Rng::new(4);
        let mut made = 0;
        (0..80).for_each(|_| shuffle(&process, &mut rng, &mut made));
        disk.snapshot().images(5, 50).map(|(cut, image)| (cut, tree(&image))).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn bytes_are_shared_until_they_change() {
    let disk = SimDisk::new(0);
    let process = disk.process();
    make(&process, "/a", &[1; 1000]);
    process.sync_dir(p("/")).expect("no fault");
    let image = disk.after(Cut::Subset(1));
    let (one, other) = (disk.peek(p("/a")).expect("there"), image.peek(p("/a")).expect("there"));
    assert!(Arc::ptr_eq(&one, &other));
}
