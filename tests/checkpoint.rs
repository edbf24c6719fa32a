//! What checkpoints of files promise.
#![cfg(unix)]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use common::{Fuse, FusedWorkspace, new_uids};
use forklog::checkpoint::{Change, Files, Outcome, Plan, PlanOptions, Standing, State, Why, journal_roots, pending};
use forklog::disk::{Disk, OsDisk};
use forklog::objects::{Entry, ObjectStore, Root};
use forklog::workspace::{OsWorkspace, RelPath, ScanOptions, Stamp, Workspace};
use forklog::{Error, ObjectKind};
use forklog_sim::through::Through;

struct Place {
    dir: tempfile::TempDir,
}

/// A long time after anything was written, so that no file counts as just written.
fn late() -> Stamp {
    Stamp { seconds: i64::MAX / 2, nanos: 0 }
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a place");
        fs::create_dir(dir.path().join("store")).expect("made");
        fs::create_dir(dir.path().join("work")).expect("made");
        Self { dir }
    }

    fn work(&self) -> std::path::PathBuf {
        self.dir.path().join("work")
    }

    fn journals(&self) -> std::path::PathBuf {
        self.dir.path().join("store/journals")
    }

    fn write(&self, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        let path = self.work().join(Path::new(path.as_ref()));
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn open(&self) -> (Arc<ObjectStore>, Files) {
        let workspace = OsWorkspace::open(&self.work()).expect("opened");
        self.open_with(Arc::new(OsDisk), Arc::new(workspace), late())
    }

    fn open_with(&self, disk: Arc<dyn Disk>, workspace: Arc<dyn Workspace>, now: Stamp) -> (Arc<ObjectStore>, Files) {
        let objects = Arc::new(common::store(Arc::clone(&disk), &self.dir.path().join("store")));
        let scan = ScanOptions { max_new_file: 10_000, excluded: Vec::new() };
        let now = Arc::new(move || now);
        let files = Files::new(disk, &self.journals(), Arc::clone(&objects), workspace, scan, new_uids(), now);
        (objects, files)
    }

    fn capture(&self) -> Entry {
        let (objects, files) = self.open();
        let batch = objects.begin().expect("begun");
        let captured = files.capture(&batch).expect("captured");
        batch.sync().expect("synced");
        captured.tree
    }

    /// Everything below the workspace as text, to compare.
    fn image(&self) -> BTreeMap<Vec<u8>, String> {
        let mut image = BTreeMap::new();
        image_of(&self.work(), b"", &mut image);
        image
    }
}

fn image_of(dir: &Path, prefix: &[u8], image: &mut BTreeMap<Vec<u8>, String>) {
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("read").path();
        let name = [prefix, b"/", path.file_name().expect("named").as_bytes()].concat();
        let meta = fs::symlink_metadata(&path).expect("there");
        let mode = meta.permissions().mode() & 0o777;
        if meta.is_symlink() {
            image.insert(name, format!("-> {:?}", fs::read_link(&path).expect("read")));
        } else if meta.is_dir() {
            image.insert(name.clone(), format!("dir {mode:o}"));
            image_of(&path, &name, image);
        } else if meta.is_file() {
            image.insert(name, format!("{mode:o} {:?}", String::from_utf8_lossy(&fs::read(&path).expect("read"))));
        }
    }
}

fn tree(entry: Entry) -> State {
    State { tree: Some(entry), ..State::default() }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("fit")
}

fn plan(files: &Files, target: &State, seen: &State, force: bool) -> Plan {
    files.plan(target, seen, &PlanOptions { force, count_lines: true, ..PlanOptions::default() }).expect("planned")
}

fn rewind(files: &Files, target: &State, seen: &State, force: bool) -> Outcome {
    files.apply(&plan(files, target, seen, force), b"payload", |_| Ok(())).expect("applied")
}

fn first_state(place: &Place) {
    place.write("src/main.rs", "fn main() {}\n");
    place.write("src/deep/er/x.txt", "one\ntwo\nthree\n");
    place.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(place.work().join("run.sh"), fs::Permissions::from_mode(0o755)).expect("set");
    place.write(OsStr::from_bytes(b"bad \xff name\n"), "bytes");
    place.write("becomes-dir", "a file");
    place.write("is-dir/inside", "a file in a directory");
    place.write("gone", "will be deleted");
    fs::create_dir(place.work().join("empty")).expect("made");
    symlink("src/main.rs", place.work().join("link")).expect("made");
    symlink("/etc/passwd", place.work().join("outside")).expect("made");
}

fn second_state(place: &Place) {
    let work = place.work();
    place.write("src/main.rs", "fn main() { todo!() }\n");
    place.write("src/new.rs", "new\n");
    place.write("fresh/dir/file", "fresh");
    fs::set_permissions(work.join("run.sh"), fs::Permissions::from_mode(0o644)).expect("set");
    fs::remove_file(work.join("becomes-dir")).expect("removed");
    place.write("becomes-dir/now", "inside");
    fs::remove_dir_all(work.join("is-dir")).expect("removed");
    place.write("is-dir", "now a file");
    fs::remove_file(work.join("gone")).expect("removed");
    fs::remove_dir(work.join("empty")).expect("removed");
    fs::remove_file(work.join("link")).expect("removed");
    symlink("run.sh", work.join("link")).expect("made");
    fs::remove_file(work.join("outside")).expect("removed");
    place.write("outside", "a file now");
    fs::set_permissions(work.join("src/deep"), fs::Permissions::from_mode(0o700)).expect("set");
}

#[test]
fn files_go_back_forth_and_back() {
    let place = Place::new();
    first_state(&place);
    let (one, before) = (place.capture(), place.image());
    second_state(&place);
    let (two, after) = (place.capture(), place.image());
    let (_, files) = place.open();
    let undo = rewind(&files, &tree(one), &tree(two), false);
    assert_eq!(place.image(), before);
    assert_eq!(place.capture(), one, "the same tree");
    assert_eq!(undo.seen, tree(one));
    assert_eq!(undo.before, tree(two));
    let redo = rewind(&files, &undo.before, &undo.seen, false);
    assert_eq!(place.image(), after);
    rewind(&files, &redo.before, &redo.seen, false);
    assert_eq!(place.image(), before);
    assert!(plan(&files, &tree(one), &tree(one), false).files_changed.is_empty(), "nothing is left to do");
}

#[test]
fn a_plan_changes_nothing_and_says_what_would_happen() {
    let place = Place::new();
    first_state(&place);
    let one = place.capture();
    second_state(&place);
    let (two, after) = (place.capture(), place.image());
    let (_, files) = place.open();
    let planned = plan(&files, &tree(one), &tree(two), false);
    assert_eq!(place.image(), after);
    let change = |name: &str| planned.files_changed.iter().find(|file| file.path == path(name)).map(|file| file.change);
    assert_eq!(change("src/main.rs"), Some(Change::Modify));
    assert_eq!(change("src/new.rs"), Some(Change::Delete));
    assert_eq!(change("gone"), Some(Change::Create));
    assert_eq!(change("run.sh"), Some(Change::Chmod));
    assert_eq!(change("becomes-dir"), Some(Change::Replace));
    assert_eq!(change("src/deep/er/x.txt"), None);
    let json = serde_json::to_value(&planned).expect("serialises");
    assert_eq!(json["can_rewind"], true);
    assert_eq!(
        (json["insertions"].as_u64(), json["deletions"].as_u64()),
        (Some(planned.insertions), Some(planned.deletions))
    );
    let only = PlanOptions { only: vec!["*.rs".to_owned()], ..PlanOptions::default() };
    let some = files.plan(&tree(one), &tree(two), &only).expect("planned");
    let names: Vec<_> = some.files_changed.iter().map(|file| file.path.to_string()).collect();
    assert_eq!(names, ["src/main.rs", "src/new.rs"]);
}

#[test]
fn what_the_session_never_saw_is_kept_unless_forced_and_comes_back_by_undo() {
    let place = Place::new();
    first_state(&place);
    let one = place.capture();
    second_state(&place);
    let two = place.capture();
    place.write("src/main.rs", "the user's own edit\n");
    place.write("mine.txt", "the user's own file\n");
    let edited = place.image();
    let (_, files) = place.open();
    let planned = plan(&files, &tree(one), &tree(two), false);
    assert!(!planned.can_rewind);
    let names: Vec<_> = planned.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
    assert_eq!(names, ["mine.txt", "src/main.rs"]);
    let undo = files.apply(&planned, b"", |_| Ok(())).expect("applied");
    let read = |name: &str| fs::read_to_string(place.work().join(name)).expect("there");
    assert_eq!(
        (read("src/main.rs"), read("mine.txt")),
        ("the user's own edit\n".into(), "the user's own file\n".into())
    );
    assert_eq!(read("gone"), "will be deleted", "the rest went back");
    assert!(!plan(&files, &tree(one), &undo.seen, false).can_rewind, "it is still not seen");
    rewind(&files, &undo.before, &undo.seen, false);
    assert_eq!(place.image(), edited);

    let undo = rewind(&files, &tree(one), &tree(two), true);
    assert_eq!(read("src/main.rs"), "fn main() {}\n");
    assert!(!place.work().join("mine.txt").exists());
    rewind(&files, &undo.before, &undo.seen, false);
    assert_eq!(place.image(), edited, "undo brings back what was forced over");
}

#[test]
fn single_paths_can_be_tracked_and_taken_back() {
    let place = Place::new();
    place.write("a", "old");
    let (objects, files) = place.open();
    let batch = objects.begin().expect("begun");
    let mut target = State::default();
    for name in ["a", "b"] {
        target.paths.insert(path(name), files.track(&batch, &path(name)).expect("tracked"));
    }
    assert_eq!(target.paths[&path("b")], None);
    place.write("a", "new");
    place.write("b", "made");
    place.write("c", "not tracked");
    let mut seen = State::default();
    for name in ["a", "b"] {
        seen.paths.insert(path(name), files.track(&batch, &path(name)).expect("tracked"));
    }
    batch.sync().expect("synced");
    drop(batch);
    let undo = rewind(&files, &target, &seen, false);
    assert_eq!(fs::read_to_string(place.work().join("a")).expect("there"), "old");
    assert!(!place.work().join("b").exists() && place.work().join("c").exists());
    rewind(&files, &undo.before, &undo.seen, false);
    assert_eq!(fs::read_to_string(place.work().join("b")).expect("there"), "made");
}

#[test]
fn what_is_left_out_is_left_alone_and_said() {
    let place = Place::new();
    place.write(".gitignore", "*.log\ntarget/\n!keep.log\n");
    place.write(".forklogignore", "secret\n!kept-by-us.log\n");
    place.write("a.log", "ignored");
    place.write("keep.log", "kept");
    place.write("kept-by-us.log", "kept");
    place.write("secret", "ignored");
    place.write("target/x", "ignored");
    place.write("sub/.gitignore", "!b.log\n");
    place.write("sub/b.log", "kept");
    place.write(".git/HEAD", "the repository");
    place.write("vendor/.git/HEAD", "another repository");
    place.write("vendor/file", "left alone");
    place.write("big", vec![b'x'; 20_000]);
    place.write("unreadable", "x");
    rustix_fifo(&place.work().join("pipe"));
    let (objects, files) = place.open();
    let batch = objects.begin().expect("begun");
    let captured = files.capture(&batch).expect("captured");
    let why =
        |name: &str| captured.skipped.iter().find(|skipped| skipped.path == path(name)).map(|skipped| skipped.why);
    assert_eq!(why("big"), Some(Why::TooLarge));
    assert_eq!(why("pipe"), Some(Why::Special));
    assert_eq!(why("vendor"), Some(Why::NestedRepository));
    let diff = Files::diff_trees(&objects, None, Some(captured.tree)).expect("compared");
    let names: Vec<_> = diff.files.iter().map(|file| file.path.to_string()).collect();
    let expected = [
        ".forklogignore",
        ".gitignore",
        "keep.log",
        "kept-by-us.log",
        "sub",
        "sub/.gitignore",
        "sub/b.log",
        "unreadable",
    ];
    assert_eq!(names, expected);
    batch.sync().expect("synced");
    drop(batch);
    let everything = place.image();
    rewind(&files, &tree(captured.tree), &tree(captured.tree), true);
    assert_eq!(place.image(), everything);
    // A file that was in a checkpoint stays in later ones although it has grown past the limit.
    place.write("keep.log", vec![b'y'; 20_000]);
    assert_ne!(place.capture(), captured.tree);
}

fn rustix_fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}

#[test]
fn ignored_files_in_a_target_are_looked_at_before_they_are_overwritten() {
    let place = Place::new();
    place.write("x.log", "captured");
    let one = place.capture();
    place.write("x.log", "the user's");
    place.write(".gitignore", "*.log\n");
    let two = place.capture();
    let (_, files) = place.open();
    let planned = plan(&files, &tree(one), &tree(two), false);
    assert_eq!(planned.conflicts.iter().map(|c| c.path.to_string()).collect::<Vec<_>>(), ["x.log"]);
    let undo = rewind(&files, &tree(one), &tree(two), true);
    assert_eq!(fs::read_to_string(place.work().join("x.log")).expect("there"), "captured");
    rewind(&files, &undo.before, &undo.seen, true);
    assert_eq!(fs::read_to_string(place.work().join("x.log")).expect("there"), "the user's");
}

#[test]
fn a_change_within_the_grain_of_time_stamps_is_seen() {
    let place = Place::new();
    let capture = || {
        let workspace = Arc::new(OsWorkspace::open(&place.work()).expect("opened"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let now = Stamp { seconds: i64::try_from(now.as_secs()).expect("fits"), nanos: now.subsec_nanos() };
        let (objects, files) = place.open_with(Arc::new(OsDisk), workspace, now);
        let batch = objects.begin().expect("begun");
        let tree = files.capture(&batch).expect("captured").tree;
        batch.sync().expect("synced");
        tree
    };
    for turn in 0..50u32 {
        let file = place.work().join("f");
        fs::write(&file, format!("{turn:04}a")).expect("written");
        let one = capture();
        // The same length and inode, at once.
        fs::write(&file, format!("{turn:04}b")).expect("written");
        assert_ne!(capture(), one, "turn {turn}");
    }
}

#[test]
fn nothing_outside_is_touched_when_a_directory_becomes_a_link() {
    let place = Place::new();
    place.write("d/a", "one");
    place.write("d/b", "two");
    let one = place.capture();
    place.write("d/a", "changed");
    fs::remove_file(place.work().join("d/b")).expect("removed");
    let two = place.capture();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("a"), "outside").expect("written");
    let (_, files) = place.open();
    let stale = plan(&files, &tree(one), &tree(two), true);
    fs::remove_dir_all(place.work().join("d")).expect("removed");
    symlink(&outside, place.work().join("d")).expect("made");
    let result = files.apply(&stale, b"", |_| Ok(()));
    assert!(matches!(result, Err(Error::Stale { .. })), "{result:?}");
    let kept = plan(&files, &tree(one), &tree(two), false);
    assert_eq!(kept.conflicts.iter().map(|c| c.path.to_string()).collect::<Vec<_>>(), ["d"]);
    let undo = rewind(&files, &tree(one), &tree(two), true);
    assert_eq!(fs::read_to_string(place.work().join("d/a")).expect("there"), "one");
    rewind(&files, &undo.before, &undo.seen, false);
    assert_eq!(fs::read_link(place.work().join("d")).expect("a link again"), outside);
    let image: Vec<_> = fs::read_dir(&outside).expect("there").collect();
    assert_eq!(image.len(), 1);
    assert_eq!(fs::read_to_string(outside.join("a")).expect("there"), "outside");
    let workspace = OsWorkspace::open(&place.work()).expect("opened");
    assert!(workspace.read(&path("d/a"), 100).is_err());
    assert!(workspace.write_new(&path("d/x"), b"", 0o600).is_err());
    assert!(workspace.remove_file(&path("d/a")).is_err());
    assert!(workspace.set_mode(&path("d/a"), 0o777).is_err());
    assert!(workspace.rename(&path("d/a"), &path("stolen")).is_err());
}

#[test]
fn a_forged_tree_is_an_error_and_changes_nothing() {
    let place = Place::new();
    place.write("a", "one");
    let one = place.capture();
    let before = place.image();
    let (objects, files) = place.open();
    let batch = objects.begin().expect("begun");
    let blob = batch.put(ObjectKind::Blob, b"evil").expect("put");
    let mut forged = b"FLt1".to_vec();
    forged.push(1);
    forged.extend_from_slice(&0o644u16.to_le_bytes());
    forged.extend_from_slice(&4u64.to_le_bytes());
    forged.extend_from_slice(&blob.to_bytes());
    forged.extend_from_slice(&6u16.to_le_bytes());
    forged.extend_from_slice(b"../own");
    let honest_len = forged.len() as u64;
    let id = batch.put(ObjectKind::Tree, &forged).expect("put");
    let mut lie = forged.clone();
    lie[7] = 99;
    lie.truncate(lie.len() - 8);
    lie.extend_from_slice(&1u16.to_le_bytes());
    lie.extend_from_slice(b"x");
    let lie_len = lie.len() as u64;
    let lie = batch.put(ObjectKind::Tree, &lie).expect("put");
    batch.sync().expect("synced");
    drop(batch);
    for (id, size) in [(id, honest_len), (id, honest_len + 1), (id, 3)] {
        let target = tree(Entry { id, size, ..one });
        let result = files.plan(&target, &tree(one), &PlanOptions::default());
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
    }
    // A file whose size lies is found out when it is to be written.
    let target = tree(Entry { id: lie, size: lie_len, ..one });
    let planned = files.plan(&target, &tree(one), &PlanOptions::default()).expect("the tree itself is sound");
    assert!(files.apply(&planned, b"", |_| Ok(())).is_err());
    assert_eq!(place.image(), before);
    assert!(pending(&OsDisk, &place.journals()).expect("listed").is_empty());
}

#[test]
fn diffs_are_what_git_applies() {
    let place = Place::new();
    place.write("a.txt", (0..40).map(|n| format!("line {n}\n")).collect::<String>());
    place.write("gone", "x\n");
    place.write("no-newline", "x");
    let one = place.capture();
    let mut lines: Vec<String> = (0..40).map(|n| format!("line {n}\n")).collect();
    lines[3] = "changed\n".into();
    lines.insert(30, "added\n".into());
    lines.remove(12);
    place.write("a.txt", lines.concat());
    place.write("sub/new", "n\nm\n");
    place.write("no-newline", "x\ny");
    fs::remove_file(place.work().join("gone")).expect("removed");
    let (objects, files) = place.open();
    let live = files.diff_workspace(one).expect("compared");
    let two = place.capture();
    let stored = Files::diff_trees(&objects, Some(one), Some(two)).expect("compared");
    assert_eq!(live.to_unified(), stored.to_unified());
    assert_eq!((stored.insertions, stored.deletions), (2 + 2 + 2, 2 + 1 + 1));
    let after = place.image();
    rewind(&files, &tree(one), &tree(two), false);
    let patch = place.dir.path().join("patch");
    let unified = String::from_utf8(stored.to_unified()).expect("text");
    // Directories are no news to git.
    let unified: String = unified.split_inclusive("diff --git ").filter(|part| !part.contains("mode 40")).collect();
    fs::write(&patch, unified).expect("written");
    let git = std::process::Command::new("git").current_dir(place.work()).arg("apply").arg(&patch).output();
    let git = git.expect("git runs");
    assert!(git.status.success(), "{}", String::from_utf8_lossy(&git.stderr));
    assert_eq!(place.image(), after);
}

impl Place {
    fn open_fused(&self, fuse: &Fuse) -> (Arc<ObjectStore>, Files) {
        let workspace = OsWorkspace::open(&self.work()).expect("opened");
        let workspace = FusedWorkspace { workspace, fuse: fuse.clone() };
        self.open_with(Arc::new(Through(fuse.clone())), Arc::new(workspace), late())
    }
}

/// Kills a rewind at each call that changes anything, then lets the user edit, then opens again.
fn kill_everywhere(user_edits: bool) {
    let (mut forward, mut untouched) = (0, 0);
    for calls in 0.. {
        let place = Place::new();
        first_state(&place);
        let (one, before) = (place.capture(), place.image());
        second_state(&place);
        let (two, after) = (place.capture(), place.image());
        let fuse = Fuse::after(calls);
        let (objects, files) = place.open_fused(&fuse);
        let planned = plan(&files, &tree(one), &tree(two), false);
        let committed = Cell::new(0);
        let commit = |outcome: &Outcome| {
            assert_eq!(outcome.payload, b"payload");
            committed.set(committed.get() + 1);
            Ok(())
        };
        let done = files.apply(&planned, b"payload", commit);
        drop((files, objects));
        if user_edits {
            place.write("src/main.rs", format!("the user's, after {calls} calls"));
        }
        // gc in between must keep what the journal needs, and what the checkpoints need.
        let (objects, files) = place.open();
        let roots = || {
            let mut roots = journal_roots(&OsDisk, &place.journals())?;
            roots.extend([Root::Entry(one), Root::Entry(two)]);
            Ok(roots)
        };
        objects.gc(roots).expect("collected");
        let was_pending = !pending(&OsDisk, &place.journals()).expect("listed").is_empty();
        let recovered = files.recover(|_| Ok(Standing::Open), commit).expect("recovers");
        assert_eq!(recovered.is_some(), was_pending);
        assert!(files.recover(|_| Ok(Standing::Open), commit).expect("recovers").is_none(), "once");
        let mut image = place.image();
        let edit = image.insert(b"/src/main.rs".to_vec(), String::new());
        let (mut before, mut after) = (before, after);
        if user_edits {
            before.insert(b"/src/main.rs".to_vec(), String::new());
            after.insert(b"/src/main.rs".to_vec(), String::new());
        } else {
            image.insert(b"/src/main.rs".to_vec(), edit.clone().expect("there"));
        }
        if committed.get() > 0 {
            assert_eq!(image, before, "wholly after the rewind, {calls} calls");
            forward += 1;
        } else {
            assert_eq!(image, after, "wholly as it was, {calls} calls");
            untouched += 1;
        }
        if user_edits {
            let text = format!("the user's, after {calls} calls");
            let in_place = edit.is_some_and(|found| found.contains(&text));
            let rescued = recovered.iter().flat_map(|outcome| &outcome.rescued).any(|(_, entry)| {
                objects.get(ObjectKind::Blob, entry.id, entry.size).is_ok_and(|found| found == text.as_bytes())
            });
            assert!(in_place || rescued, "the user's edit is lost after {calls} calls");
        }
        if !fuse.blown() {
            assert!(done.is_ok());
            break;
        }
    }
    assert!(20 < forward && 4 < untouched, "{forward} forward, {untouched} untouched");
    println!("killed at {} places: {forward} carried forward, {untouched} untouched", forward + untouched - 1);
}

#[test]
fn a_rewind_that_is_killed_anywhere_ends_wholly_before_or_after() {
    kill_everywhere(false);
}

#[test]
fn an_edit_between_the_kill_and_the_next_open_is_not_lost() {
    kill_everywhere(true);
}

#[test]
fn a_checkpoint_that_is_killed_anywhere_leaves_the_next_one_right() {
    for calls in 0.. {
        let place = Place::new();
        first_state(&place);
        let one = place.capture();
        let before = place.image();
        second_state(&place);
        let fuse = Fuse::after(calls);
        let (objects, files) = place.open_fused(&fuse);
        let captured = objects.begin().and_then(|batch| {
            let captured = files.capture(&batch)?;
            batch.sync()?;
            Ok(captured)
        });
        drop((files, objects));
        let two = place.capture();
        assert!(captured.is_err() || captured.is_ok_and(|captured| captured.tree == two));
        let (_, files) = place.open();
        rewind(&files, &tree(one), &tree(two), false);
        assert_eq!(place.image(), before, "killed after {calls} calls");
        if !fuse.blown() {
            break;
        }
    }
}

#[test]
fn a_commit_that_fails_leaves_the_files_as_they_were() {
    let place = Place::new();
    first_state(&place);
    let one = place.capture();
    second_state(&place);
    let (two, after) = (place.capture(), place.image());
    let (_, files) = place.open();
    let planned = plan(&files, &tree(one), &tree(two), false);
    let full = || Error::Full { path: "transcript".into(), source: io::ErrorKind::StorageFull.into() };
    assert!(files.apply(&planned, b"", |_| Err(full())).is_err());
    assert_eq!(place.image(), after);
    // Whether the record is there is not known: the next open decides.
    let poisoned = || Error::Poisoned { path: "transcript".into() };
    assert!(files.apply(&planned, b"", |_| Err(poisoned())).is_err());
    assert!(matches!(files.plan(&tree(one), &tree(two), &PlanOptions::default()), Err(Error::Stale { .. })));
    assert!(files.recover(|_| Ok(Standing::Open), |_| Ok(())).expect("recovers").is_some());
    assert_eq!(place.capture(), one);
}

#[test]
fn syncs_do_not_grow_with_the_number_of_files() {
    let syncs = |n: u32| {
        let place = Place::new();
        (0..n).for_each(|file| place.write(format!("d{}/{file}", file % 40), format!("one {file}")));
        let one = place.capture();
        (0..n).for_each(|file| place.write(format!("d{}/{file}", file % 40), format!("two {file}")));
        let workspace = Arc::new(OsWorkspace::open(&place.work()).expect("opened"));
        let (objects, files) = place.open_with(Arc::new(OsDisk), workspace.clone(), late());
        let batch = objects.begin().expect("begun");
        let two = files.capture(&batch).expect("captured").tree;
        batch.sync().expect("synced");
        drop(batch);
        let checkpoint = objects.sync_count();
        rewind(&files, &tree(one), &tree(two), false);
        assert_eq!(place.capture(), one);
        (checkpoint, workspace.sync_count())
    };
    assert_eq!(syncs(50), (1, 2), "contents before they get their names, and names");
    assert_eq!(syncs(500), (1, 2));
    let (checkpoint, few) = syncs(10);
    assert!(checkpoint == 1 && few <= 2 * 10 + 1, "{few}");
}
