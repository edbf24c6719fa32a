//! What a session promises about files: they go back, and forth again, together with the conversation.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Fuse, FusedWorkspace};
use forklog::checkpoint::{PlanOptions, pending};
use forklog::disk::OsDisk;
use forklog::workspace::{OsWorkspace, RelPath, ScanOptions};
use forklog::{
    At, Error, FilesTarget, NewSession, OpenOptions, Reader, Scope, Seq, Session, SessionFiles, SessionKey, Sharing,
    Store,
};
use forklog_sim::through::Through;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a place");
        fs::create_dir(dir.path().join("work")).expect("made");
        Self { dir }
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn store(&self) -> Store {
        Store::open(self.dir.path().join("store")).expect("a store")
    }

    /// One of the packs of the store.
    fn pack(&self) -> PathBuf {
        let objects = self.dir.path().join("store/objects");
        let mut names = fs::read_dir(objects).expect("listed").map(|entry| entry.expect("read").path());
        names.find(|path| path.extension().is_some_and(|end| end == "pack")).expect("a pack")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.work().join(path)).unwrap_or_else(|_| "-".to_owned())
    }

    fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        Self::image_of(self.work())
    }

    fn image_of(dir: PathBuf) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut image = BTreeMap::new();
        let mut dirs = vec![dir];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("listed") {
                let path = entry.expect("read").path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let content = fs::read(&path).expect("read");
                    image.insert(path, content);
                }
            }
        }
        image
    }
}

fn key(id: &str) -> SessionKey {
    SessionKey::new("p", id).expect("legal")
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("fit")
}

fn texts(reader: &Reader) -> Vec<String> {
    reader.records().map(|record| String::from_utf8(record.expect("readable").payload).expect("text")).collect()
}

fn conversation(store: &Store, id: &str) -> Vec<String> {
    texts(&store.read(&key(id)).expect("readable"))
}

fn seq(n: u64) -> FilesTarget {
    FilesTarget::At(At::Seq(Seq::new(n)))
}

fn normal() -> PlanOptions {
    PlanOptions::default()
}

fn forced() -> PlanOptions {
    PlanOptions { force: true, ..PlanOptions::default() }
}

/// Turn `n`: a message, then what a shell command does to files, then a checkpoint.
fn turn(place: &Place, session: &Session, files: &SessionFiles<'_>, n: u32) {
    session.append(&n).expect("appended");
    place.write("always", &format!("in turn {n}\n"));
    place.write(&format!("new/{n}"), "made");
    let _ = fs::remove_file(place.work().join(format!("new/{}", n.wrapping_sub(2))));
    files.checkpoint(Some(&format!("turn {n}"))).expect("taken");
}

#[test]
fn conversation_and_files_go_back_together_and_forth_again_step_by_step() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    let mut images = Vec::new();
    for n in 0..4 {
        turn(&place, &session, &files, n);
        images.push(place.image());
    }
    let all = conversation(&store, "a");
    assert_eq!(all, ["0", "1", "2", "3"]);
    let moved = files.rewind(&seq(2), Scope::Both, &normal()).expect("rewound");
    assert!(moved.plan.is_some_and(|plan| plan.can_rewind));
    assert_eq!((conversation(&store, "a").len(), place.image()), (3, images[2].clone()));
    files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound");
    assert_eq!((conversation(&store, "a").len(), place.image()), (1, images[0].clone()));
    let labels: Vec<_> =
        store.read(&key("a")).expect("ok").checkpoints().expect("listed").into_iter().filter_map(|c| c.label).collect();
    assert_eq!(labels, ["turn 0"]);
    files.undo(&normal()).expect("undone");
    assert_eq!((conversation(&store, "a").len(), place.image()), (3, images[2].clone()));
    files.undo(&normal()).expect("undone");
    assert_eq!((conversation(&store, "a"), place.image()), (all.clone(), images[3].clone()));
    assert!(matches!(files.undo(&normal()), Err(Error::NothingTo { .. })));
    files.redo(&normal()).expect("redone");
    files.redo(&normal()).expect("redone");
    assert_eq!((conversation(&store, "a").len(), place.image()), (1, images[0].clone()));
    files.undo(&normal()).expect("undone");
    files.undo(&normal()).expect("undone");
    assert_eq!((conversation(&store, "a"), place.image()), (all, images[3].clone()));
    session.close().expect("closed");
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
}

#[test]
fn files_alone_go_back_while_the_conversation_goes_on() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    (0..3).for_each(|n| turn(&place, &session, &files, n));
    let last = place.image();
    let id = store.read(&key("a")).expect("ok").checkpoints().expect("listed")[0].id;
    files.rewind(&FilesTarget::Checkpoint(id), Scope::Files, &normal()).expect("rewound");
    assert_eq!(place.read("always"), "in turn 0\n");
    session.append("and on").expect("appended");
    assert_eq!(conversation(&store, "a").len(), 4);
    assert_eq!(session.undo_workspace().expect("known"), Some(fs::canonicalize(place.work()).expect("there")));
    assert!(matches!(session.undo(), Err(Error::BadArgument { .. })), "it would leave the files behind");
    files.undo(&normal()).expect("undone");
    assert_eq!((conversation(&store, "a").len(), place.image()), (4, last));
    files.redo(&normal()).expect("redone");
    assert_eq!((conversation(&store, "a").len(), place.read("always")), (4, "in turn 0\n".to_owned()));
    // A rewind of the conversation alone, in between, is undone alone.
    session.rewind(&At::Seq(Seq::new(1))).expect("rewound");
    assert!(files.undo(&normal()).expect("undone").plan.is_none());
    assert_eq!(conversation(&store, "a").len(), 4);
}

#[test]
fn an_undo_of_a_rewind_to_where_the_conversation_stood_brings_both_back() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    turn(&place, &session, &files, 0);
    files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound to where it is");
    let before = place.image();
    turn(&place, &session, &files, 1);
    files.undo(&normal()).expect("undone");
    assert_eq!((conversation(&store, "a").len(), place.image()), (1, before));
}

#[test]
fn a_users_edit_is_kept_unless_forced_and_even_then_comes_back() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    (0..2).for_each(|n| turn(&place, &session, &files, n));
    place.write("always", "the user's own\n");
    let plan = files.plan(&seq(0), &normal()).expect("planned");
    assert_eq!(plan.conflicts.iter().map(|found| found.path.to_string()).collect::<Vec<_>>(), ["always"]);
    files.rewind(&seq(0), Scope::Files, &normal()).expect("rewound");
    assert_eq!((place.read("always"), place.read("new/1")), ("the user's own\n".to_owned(), "-".to_owned()));
    files.undo(&normal()).expect("undone");
    files.rewind(&seq(0), Scope::Both, &forced()).expect("rewound");
    assert_eq!(place.read("always"), "in turn 0\n");
    files.undo(&normal()).expect("undone");
    assert_eq!((place.read("always"), place.read("new/1")), ("the user's own\n".to_owned(), "made".to_owned()));
    assert_eq!(conversation(&store, "a").len(), 2);
}

#[test]
fn tracked_paths_go_back_to_what_they_were_before_the_edit() {
    let place = Place::new();
    let store = place.store();
    place.write("a", "zero");
    place.write("other", "untouched");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    session.append("m0").expect("appended");
    let edit = |name: &str, content: &str| {
        files.track(&[path(name)]).expect("tracked");
        place.write(name, content);
        files.track(&[path(name)]).expect("tracked");
    };
    edit("a", "one");
    edit("fresh", "new");
    session.append("m1").expect("appended");
    edit("a", "two");
    place.write("other", "somebody else's");
    files.rewind(&seq(1), Scope::Both, &normal()).expect("rewound");
    assert_eq!((place.read("a"), place.read("fresh")), ("one".to_owned(), "new".to_owned()));
    session.append("m2").expect("appended");
    edit("a", "three");
    files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound");
    assert_eq!((place.read("a"), place.read("fresh")), ("zero".to_owned(), "-".to_owned()));
    assert_eq!(conversation(&store, "a"), ["\"m0\""]);
    files.undo(&normal()).expect("undone");
    assert_eq!((place.read("a"), place.read("fresh")), ("three".to_owned(), "new".to_owned()));
    files.undo(&normal()).expect("undone");
    assert_eq!(place.read("a"), "two");
    assert_eq!(place.read("other"), "somebody else's");
}

#[test]
fn two_sessions_in_one_directory_touch_only_what_each_changed() {
    let place = Place::new();
    let store = place.store();
    for name in ["mine", "yours", "both"] {
        place.write(name, "at first");
    }
    let one = store.create(NewSession::named(key("one"))).expect("created");
    let other = store.create(NewSession::named(key("other"))).expect("created");
    let (one_files, other_files) =
        (one.files(place.work()).expect("opened"), other.files(place.work()).expect("opened"));
    one.append("m").expect("appended");
    other.append("m").expect("appended");
    let edit = |files: &SessionFiles<'_>, name: &str, content: &str| {
        files.track(&[path(name)]).expect("tracked");
        place.write(name, content);
        files.track(&[path(name)]).expect("tracked");
    };
    edit(&one_files, "mine", "one's");
    edit(&one_files, "both", "one's");
    edit(&other_files, "yours", "other's");
    edit(&other_files, "both", "other's");
    let moved = one_files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound");
    let plan = moved.plan.expect("of files");
    assert_eq!(plan.conflicts.iter().map(|found| found.path.to_string()).collect::<Vec<_>>(), ["both"]);
    assert_eq!([place.read("mine"), place.read("yours"), place.read("both")], ["at first", "other's", "other's"]);
    other_files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound");
    assert_eq!([place.read("mine"), place.read("yours"), place.read("both")], ["at first", "at first", "one's"]);
    one_files.undo(&normal()).expect("undone");
    assert_eq!([place.read("mine"), place.read("yours"), place.read("both")], ["one's", "at first", "one's"]);
}

#[test]
fn a_fork_inherits_checkpoints_and_outlives_its_parent() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let mut images = Vec::new();
    {
        let files = session.files(place.work()).expect("opened");
        place.write("tracked/x", "before");
        for n in 0..3 {
            turn(&place, &session, &files, n);
            images.push(place.image());
        }
    }
    session.close().expect("closed");
    let fork = store.fork(&key("a"), &At::Seq(Seq::new(1)), NewSession::named(key("b"))).expect("forked");
    fork.append("b").expect("appended");
    store.delete(&key("a")).expect("deleted");
    let before = store.gc(false).expect("collected");
    assert_eq!(before.kept, 1, "the fork needs the grave");
    let files = fork.files(place.work()).expect("opened");
    let checkpoints = store.read(&key("b")).expect("ok").checkpoints().expect("listed");
    let labels: Vec<_> = checkpoints.iter().filter_map(|found| found.label.as_deref()).collect();
    assert!(labels.starts_with(&["turn 0"]), "{labels:?}");
    // What the parent did after the fork is not the fork's own: a conflict.
    let plan = files.plan(&seq(0), &normal()).expect("planned");
    assert!(!plan.can_rewind);
    files.rewind(&seq(0), Scope::Both, &forced()).expect("rewound");
    assert_eq!(place.image(), images[0]);
    files.undo(&normal()).expect("undone");
    assert_eq!(place.image(), images[2]);
    assert_eq!(conversation(&store, "b"), ["0", "1", "\"b\""]);
}

#[test]
fn a_fork_at_a_record_has_the_checkpoint_that_belongs_to_it() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    session.append("0").expect("appended");
    place.write("a.txt", "zero");
    let files = session.files(place.work()).expect("opened");
    files.checkpoint(Some("old")).expect("taken");
    place.write("a.txt", "one");
    let belongs = files.checkpoint(Some("new")).expect("taken");
    drop(files);
    session.append("1").expect("appended");
    place.write("a.txt", "two");
    session.files(place.work()).expect("opened").checkpoint(None).expect("taken");
    let fork = store.fork(&key("a"), &At::Seq(Seq::new(0)), NewSession::named(key("b"))).expect("forked");
    let reader = store.read(&key("b")).expect("there");
    let labels: Vec<_> = reader.checkpoints().expect("readable").into_iter().map(|found| found.label).collect();
    assert_eq!((texts(&reader).len(), labels), (1, vec![Some("old".to_owned()), Some("new".to_owned())]));
    assert_eq!(reader.base().expect("a fork").1, belongs.position);
    let files = fork.files(place.work()).expect("opened");
    let force = PlanOptions { force: true, ..PlanOptions::default() };
    files.rewind(&FilesTarget::At(At::Seq(Seq::new(0))), Scope::Both, &force).expect("rewound");
    assert_eq!(place.read("a.txt"), "one");
}

#[test]
fn a_workspace_that_moved_keeps_its_name() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    session.append("0").expect("appended");
    place.write("a.txt", "zero");
    session.files(place.work()).expect("opened").checkpoint(None).expect("taken");
    session.append("1").expect("appended");
    place.write("a.txt", "one");
    session.files(place.work()).expect("opened").checkpoint(None).expect("taken");
    let (was, now) = (fs::canonicalize(place.work()).expect("there"), place.dir.path().join("elsewhere"));
    fs::rename(&was, &now).expect("moved");
    let to = FilesTarget::At(At::Seq(Seq::new(0)));
    let files = session.files(&now).expect("opened");
    assert!(matches!(files.plan(&to, &PlanOptions::default()), Err(Error::NotFound { .. })), "a stranger");
    drop(files);
    let files = session.files_moved(&now, &was).expect("opened");
    files.rewind(&to, Scope::Both, &PlanOptions::default()).expect("rewound");
    assert_eq!(fs::read_to_string(now.join("a.txt")).expect("there"), "zero");
    files.checkpoint(None).expect("taken");
    files.undo(&PlanOptions::default()).expect("undone");
    assert_eq!(fs::read_to_string(now.join("a.txt")).expect("there"), "one");
    assert_eq!(store.read(&key("a")).expect("there").workspaces().expect("readable"), [was]);
}

#[test]
fn a_fork_knows_what_files_were_at_its_base_though_the_parent_goes() {
    let place = Place::new();
    let store = place.store();
    place.write("a", "zero");
    let parent = store.create(NewSession::named(key("a"))).expect("created");
    {
        let files = parent.files(place.work()).expect("opened");
        parent.append("m0").expect("appended");
        files.track(&[path("a")]).expect("tracked");
        place.write("a", "one");
        files.track(&[path("a")]).expect("tracked");
    }
    parent.close().expect("closed");
    let fork = store.fork(&key("a"), &At::Seq(Seq::new(0)), NewSession::named(key("b"))).expect("forked");
    let files = fork.files(place.work()).expect("opened");
    files.track(&[path("b")]).expect("tracked");
    store.delete(&key("a")).expect("deleted");
    store.gc(false).expect("collected");
    files.rewind(&seq(0), Scope::Both, &forced()).expect("rewound");
    assert_eq!(place.read("a"), "zero");
    files.undo(&normal()).expect("undone");
    assert_eq!(place.read("a"), "one");
}

#[test]
fn gc_keeps_what_undo_needs_and_frees_what_nothing_does() {
    let place = Place::new();
    let store = place.store();
    let gone = store.create(NewSession::named(key("gone"))).expect("created");
    {
        let files = gone.files(place.work()).expect("opened");
        let mut state = 1u64;
        let noise: String = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(b'!' + state.to_be_bytes()[0] % 90)
            })
            .collect();
        place.write("big", &noise);
        gone.append("m").expect("appended");
        files.checkpoint(None).expect("taken");
        fs::remove_file(place.work().join("big")).expect("removed");
    }
    gone.close().expect("closed");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    (0..3).for_each(|n| turn(&place, &session, &files, n));
    place.write("always", "the user's\n");
    let last = place.image();
    files.rewind(&seq(0), Scope::Both, &forced()).expect("rewound");
    session.append("on").expect("appended");
    drop(files);
    session.close().expect("closed");
    drop(store);
    let store = place.store();
    store.delete(&key("gone")).expect("deleted");
    let collected = store.gc(false).expect("collected");
    assert!(collected.packs > 0 && collected.bytes > 100_000, "{collected:?}");
    assert!(store.objects().verify().expect("read").is_empty());
    let session = store.session(&key("a")).expect("opened");
    session.files(place.work()).expect("opened").undo(&normal()).expect("undone");
    assert_eq!(place.image(), last);
}

/// A session `a` with three turns; returns what the workspace was after each.
fn three_turns(place: &Place) -> Vec<BTreeMap<PathBuf, Vec<u8>>> {
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    let images = (0..3).map(|n| {
        turn(place, &session, &files, n);
        place.image()
    });
    images.collect()
}

/// Does `step` with the files of session `a` until the fuse blows.
fn until_blown(
    place: &Place,
    fuse: &Fuse,
    step: impl Fn(&SessionFiles<'_>) -> forklog::Result<()>,
) -> forklog::Result<()> {
    let disk = Arc::new(Through(fuse.clone()));
    let store = Store::options().disk(disk).existing().open(place.dir.path().join("store")).expect("opens");
    let workspace = OsWorkspace::open(&place.work()).expect("opened");
    let workspace = FusedWorkspace { workspace, fuse: fuse.clone() };
    store.session(&key("a")).and_then(|session| {
        let files = session.files_of(Arc::new(workspace), ScanOptions::default())?;
        step(&files)
    })
}

/// Kills `step` after every number of calls that change anything, and looks at what the next one finds.
fn kill_everywhere(step: impl Fn(&SessionFiles<'_>) -> forklog::Result<()>, before: u64, after: u64) -> (u32, u32) {
    let (mut done, mut undone) = (0, 0);
    for calls in 0.. {
        let place = Place::new();
        let images = three_turns(&place);
        if before < 3 {
            let session = place.store().session(&key("a")).expect("opened");
            let files = session.files(place.work()).expect("opened");
            files.rewind(&seq(before - 1), Scope::Both, &normal()).expect("rewound");
        }
        let fuse = Fuse::after(calls);
        let result = until_blown(&place, &fuse, &step);
        let store = place.store();
        store.gc(false).expect("collected");
        let session = store.session(&key("a")).expect("the conversation opens all the same");
        let files = session.files(place.work()).expect("carried on");
        let len = conversation(&store, "a").len() as u64;
        assert!(len == before || len == after, "{len} records after {calls} calls");
        assert_eq!(
            place.image(),
            images[usize::try_from(len).expect("few") - 1],
            "files and conversation agree after {calls} calls"
        );
        assert!(pending(&OsDisk, &place.dir.path().join("store/journals")).expect("listed").is_empty());
        if len == after {
            done += 1
        } else {
            undone += 1
        }
        if result.is_ok() {
            assert_eq!(len, after, "what was acknowledged stays");
        }
        // The way back and forth is still open.
        if len == after {
            let back = if before > after { files.undo(&normal()) } else { files.redo(&normal()) };
            back.expect("goes back");
            assert_eq!(place.image(), images[usize::try_from(before).expect("few") - 1]);
        }
        drop(files);
        session.close().expect("closed");
        assert!(store.verify(None, |_| {}).expect("verified").is_sound());
        if !fuse.blown() {
            result.expect("nothing stood in its way");
            break;
        }
    }
    (done, undone)
}

#[test]
fn a_rewind_of_both_that_is_killed_anywhere_is_whole() {
    let rewind = |files: &SessionFiles<'_>| files.rewind(&seq(0), Scope::Both, &normal()).map(drop);
    let (done, undone) = kill_everywhere(rewind, 3, 1);
    assert!(done > 10 && undone > 5, "{done} {undone}");
    println!("rewind killed at {} places: {done} carried on, {undone} as before", done + undone - 1);
}

/// The journal says whose the rewind is: who opens the directory next carries it on, in that one's conversation.
#[test]
fn a_rewind_that_is_killed_anywhere_is_carried_on_by_another_session_of_the_directory() {
    for deleted in [false, true] {
        let mut carried = 0;
        for calls in (0..).step_by(if deleted { 5 } else { 1 }) {
            let place = Place::new();
            let images = three_turns(&place);
            let fuse = Fuse::after(calls);
            let result = until_blown(&place, &fuse, |files| files.rewind(&seq(0), Scope::Both, &normal()).map(drop));
            let store = place.store();
            if deleted {
                store.delete(&key("a")).expect("deleted");
            }
            let other = store.create(NewSession::named(key("other"))).expect("created");
            let _files = other.files(place.work()).expect("carried on");
            assert!(pending(&OsDisk, &place.dir.path().join("store/journals")).expect("listed").is_empty());
            let moved = place.image() == images[0];
            assert!(moved || place.image() == images[2], "after {calls} calls");
            if !deleted {
                let len = conversation(&store, "a").len();
                assert_eq!(len, if moved { 1 } else { 3 }, "files and conversation agree after {calls} calls");
            }
            assert!(moved || result.is_err(), "what was acknowledged stays");
            carried += u32::from(moved && result.is_err());
            if !fuse.blown() {
                break;
            }
        }
        assert!(carried > if deleted { 2 } else { 10 }, "{carried}");
    }
}

#[test]
fn an_undo_that_is_killed_anywhere_is_whole() {
    let undo = |files: &SessionFiles<'_>| files.undo(&normal()).map(drop);
    let (done, undone) = kill_everywhere(undo, 1, 3);
    assert!(done > 10 && undone > 5, "{done} {undone}");
    println!("undo killed at {} places: {done} carried on, {undone} as before", done + undone - 1);
}

#[test]
fn a_checkpoint_is_there_wholly_or_not_at_all_wherever_it_is_killed() {
    let mut kept = 0;
    for calls in 0.. {
        let place = Place::new();
        {
            let store = place.store();
            let session = store.create(NewSession::named(key("a"))).expect("created");
            turn(&place, &session, &session.files(place.work()).expect("opened"), 0);
            session.append("next").expect("appended");
        }
        place.write("always", "changed\n");
        let fuse = Fuse::after(calls);
        let disk = Arc::new(Through(fuse.clone()));
        let store = Store::options().disk(disk).existing().open(place.dir.path().join("store")).expect("opens");
        let result =
            store.session(&key("a")).and_then(|session| session.files(place.work())?.checkpoint(Some("second")));
        drop(store);
        let store = place.store();
        store.gc(false).expect("collected");
        let found = store.read(&key("a")).expect("readable").checkpoints().expect("listed");
        let session = store.session(&key("a")).expect("opened");
        let files = session.files(place.work()).expect("opened");
        place.write("always", "lost unless checkpointed\n");
        files.checkpoint(None).expect("taken");
        if let Some(second) = found.iter().find(|found| found.label.is_some() && found.seq == Some(Seq::new(1))) {
            kept += 1;
            files.rewind(&FilesTarget::Checkpoint(second.id), Scope::Both, &normal()).expect("rewound");
            assert_eq!(place.read("always"), "changed\n", "after {calls} calls");
        } else {
            assert!(result.is_err(), "what was acknowledged stays, after {calls} calls");
        }
        if !fuse.blown() {
            break;
        }
    }
    assert!(kept > 0);
}

const ROLE: &str = "FORKLOG_TEST_CHILD";

/// Not a test of its own: the processes that [`real_processes_are_killed`] kills.
#[test]
fn child() {
    let Ok(dir) = std::env::var(ROLE) else { return };
    let (role, dir) = dir.split_once(':').expect("two parts");
    let store = Store::open(Path::new(dir).join("store")).expect("a store");
    if role == "collector" {
        println!("begun");
        loop {
            let _ = store.gc(false);
        }
    }
    let options = OpenOptions { wait: Duration::from_secs(5), ..OpenOptions::default() };
    let session = store.session_with(&key("a"), options).expect("opened");
    let files = session.files(Path::new(dir).join("work")).expect("opened");
    println!("begun");
    loop {
        files.rewind(&seq(0), Scope::Both, &normal()).expect("rewound");
        files.checkpoint(None).expect("taken");
        files.undo(&normal()).expect("undone");
        files.checkpoint(None).expect("taken");
    }
}

fn spawn(place: &Place, role: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, format!("{role}:{}", place.dir.path().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawned");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.contains("begun"))) {}
    child
}

/// One process rewinds, undoes and takes checkpoints, another one collects; both are killed, over and over.
#[test]
fn real_processes_are_killed() {
    const ROUNDS: u64 = 60;
    let place = Place::new();
    let store = place.store();
    let mut images = Vec::new();
    {
        let session = store.create(NewSession::named(key("a"))).expect("created");
        let files = session.files(place.work()).expect("opened");
        for n in 0..2 {
            for file in 0..40 {
                place.write(&format!("src/{file}"), &format!("turn {n}\n").repeat(file * 10 + 1));
            }
            turn(&place, &session, &files, n);
            images.push(place.image());
        }
    }
    let mut ends = [0, 0];
    for round in 0..ROUNDS {
        let mut collector = spawn(&place, "collector");
        let mut child = spawn(&place, "worker");
        std::thread::sleep(Duration::from_micros(1_000 + round * 1_300 % 41_000));
        child.kill().expect("killed");
        child.wait().expect("ended");
        // One in three goes on collecting while the next session begins.
        if round % 3 != 0 {
            collector.kill().expect("killed");
            collector.wait().expect("ended");
        }
        let options =
            OpenOptions { sharing: Sharing::Exclusive, wait: Duration::from_secs(5), ..OpenOptions::default() };
        let session = store.session_with(&key("a"), options).expect("opened");
        let files = session.files(place.work()).expect("carried on");
        let len = conversation(&store, "a").len();
        assert_eq!(place.image(), images[len - 1], "files and conversation agree in round {round}");
        ends[len - 1] += 1;
        if len == 1 {
            files.undo(&normal()).expect("undone");
            assert_eq!(place.image(), images[1]);
        }
        let _ = collector.kill();
        collector.wait().expect("ended");
    }
    assert!(store.objects().verify().expect("read").is_empty());
    println!("killed {} processes: {} ended before, {} after", 2 * ROUNDS, ends[1], ends[0]);
}

#[test]
fn a_hundred_checkpoints_take_little_more_than_their_contents() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    let mut distinct = 0;
    let mut seed = 7u64;
    let mut text = |len: usize| {
        let mut out = String::new();
        while out.len() < len {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            out.push_str(
                ["let ", "fn ", "self.", "value", "(", ") ", "{\n", "}\n"][usize::try_from(seed % 8).expect("few")],
            );
            if seed.is_multiple_of(3) {
                out.push_str(&format!("name_{:x} ", seed >> 44));
            }
        }
        out
    };
    let mut put = |name: String| {
        let content = text(8_000);
        distinct += zstd::bulk::compress(content.as_bytes(), 1).expect("compressed").len() as u64;
        place.write(&name, &content);
    };
    for n in 0..500 {
        put(format!("d{}/f{n}", n % 25));
    }
    files.checkpoint(None).expect("taken");
    for turn in 0..100 {
        for n in 0..10 {
            let n = (turn * 37 + n * 53) % 500;
            put(format!("d{}/f{n}", n % 25));
        }
        session.append(&turn).expect("appended");
        files.checkpoint(None).expect("taken");
    }
    let packs = fs::read_dir(place.dir.path().join("store/objects")).expect("listed");
    let stored: u64 = packs.map(|entry| entry.expect("read").metadata().expect("there").len()).sum();
    println!("100 checkpoints: {stored} bytes for {distinct} compressed: {:.3}", stored as f64 / distinct as f64);
    assert!(stored * 10 <= distinct * 13, "{stored} bytes for {distinct}");
}

/// What gc says that it would do is what it does.
#[test]
fn a_dry_run_of_gc_changes_nothing_and_says_what_gc_does() {
    let place = Place::new();
    let noise = |seed: u32| -> Vec<u8> {
        (0..40_000_u32).map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_be_bytes()[(n % 3) as usize]).collect()
    };
    let take = |store: &Store, id: &str, seed: u32| {
        let session = store.create(NewSession::named(key(id))).expect("created");
        session.append(id).expect("appended");
        fs::write(place.work().join("own"), noise(seed)).expect("written");
        session.files(place.work()).expect("opened").checkpoint(None).expect("taken");
        session.append("more").expect("appended");
        fs::write(place.work().join("own"), noise(seed + 1)).expect("written");
        session.files(place.work()).expect("opened").checkpoint(None).expect("taken");
        session.close().expect("closed");
    };
    let check = |store: &Store, what: &str| {
        let root = place.dir.path().join("store");
        // A lock file is made when somebody first takes the lock; it never holds anything.
        let image = || {
            let mut image = Place::image_of(root.clone());
            image.retain(|path, _| !path.ends_with("lock"));
            image
        };
        let before = image();
        let said = store.gc(true).expect("planned");
        assert!(image() == before, "{what}: a dry run changes nothing");
        assert_eq!(store.gc(false).expect("collected"), said, "{what}");
        assert!(store.objects().verify().expect("read").is_empty());
        said
    };
    fs::write(place.work().join("shared"), noise(7)).expect("written");
    let store = place.store();
    assert_eq!(check(&store, "nothing there").packs, 0);
    // Three packs: three processes write at once.
    let (one, two, three) = (place.store(), place.store(), place.store());
    take(&one, "a", 100);
    take(&two, "b", 200);
    take(&three, "c", 300);
    take(&one, "d", 400);
    one.fork(&key("b"), &At::Seq(Seq::new(0)), NewSession::named(key("f"))).expect("forked").close().expect("closed");
    drop((one, two, three));
    for id in ["b", "c"] {
        store.delete(&key(id)).expect("deleted");
    }
    let said = check(&store, "one gone, one half needed");
    assert!(said.packs >= 2 && said.objects_moved > 0 && said.graves == 1 && said.kept == 1, "{said:?}");
    let reader = store.read(&key("f")).expect("there");
    let found = reader.checkpoints().expect("readable");
    let tree = reader.checkpoint_tree(found[0].id).expect("whole");
    store.files(place.work()).expect("opened").diff_workspace(tree).expect("everything of it is there");
    for id in ["f", "a"] {
        store.delete(&key(id)).expect("deleted");
        check(&store, id);
    }
    // A pack that somebody may go on writing is left alone: here, by gc itself, which moved something there.
    drop((reader, store));
    let store = place.store();
    store.delete(&key("d")).expect("deleted");
    let last = check(&store, "all gone");
    assert!(last.packs > 0 && last.objects_moved == 0, "{last:?}");
    assert_eq!(check(&store, "again").bytes, 0);
}

#[test]
fn verify_tells_of_files_that_a_checkpoint_lost() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let files = session.files(place.work()).expect("opened");
    turn(&place, &session, &files, 0);
    drop(files);
    session.close().expect("closed");
    drop(store);
    let store = place.store();
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
    let pack = place.pack();
    let whole = fs::read(&pack).expect("read");
    let (mut at, mut found) = (32, 0);
    // What each frame holds, in turn; a mark holds nothing.
    while at < whole.len() {
        let stored = u64::from_le_bytes(whole[at + 16..at + 24].try_into().expect("8 bytes"));
        let body = at + 72;
        if 0 < stored {
            let mut bytes = whole.clone();
            bytes[body] ^= 1;
            fs::write(&pack, &bytes).expect("written");
            let report = place.store().verify(Some(&key("a")), |_| {}).expect("read");
            let [checked] = &report.findings[..] else { panic!("frame at {at}: {report:?}") };
            let [damage, ..] = &checked.damage[..] else { panic!("frame at {at}: {checked:?}") };
            let told = format!("{}: damaged at byte {at}: ", pack.display());
            assert!(damage.why.contains(&told) && !damage.repairable && damage.from < damage.to, "{}", damage.why);
            found += 1;
        }
        at = body + usize::try_from(stored).expect("short");
    }
    assert!(found > 3, "{found}");
    fs::remove_file(&pack).expect("removed");
    assert!(!place.store().verify(None, |_| {}).expect("read").is_sound(), "what is missing is told as well");
}

#[test]
fn a_checkpoint_stores_anew_what_was_damaged_once_the_pack_has_been_moved_away() {
    for stays_open in [false, true] {
        let place = Place::new();
        let mut store = place.store();
        let session = store.create(NewSession::named(key("a"))).expect("created");
        turn(&place, &session, &session.files(place.work()).expect("opened"), 0);
        let image = place.image();
        session.close().expect("closed");
        if !stays_open {
            drop(store);
            store = place.store();
        }
        let is_sound = |store: &Store| store.verify(None, |_| {}).expect("read").is_sound();
        let pack = place.pack();
        let mut bytes = fs::read(&pack).expect("read");
        bytes[32 + 72] ^= 1;
        fs::write(&pack, bytes).expect("written");
        let session = store.session(&key("a")).expect("opens");
        let files = session.files(place.work()).expect("opened");
        files.checkpoint(Some("of the same")).expect("taken");
        assert!(!is_sound(&store) && !is_sound(&place.store()), "what is stored is not stored again, damaged or not");
        fs::rename(&pack, place.dir.path().join("moved away")).expect("moved");
        files.checkpoint(Some("anew")).expect("taken");
        place.write("always", "something else");
        files.checkpoint(None).expect("taken");
        drop(files);
        session.close().expect("closed");
        drop(store);
        let store = place.store();
        assert!(is_sound(&store), "open: {stays_open}");
        let session = store.session(&key("a")).expect("opens");
        let files = session.files(place.work()).expect("opened");
        for checkpoint in store.read(&key("a")).expect("readable").checkpoints().expect("listed") {
            files.rewind(&FilesTarget::Checkpoint(checkpoint.id), Scope::Files, &forced()).expect("goes there");
            assert_eq!(place.image() == image, checkpoint.label.is_some(), "{:?}", checkpoint.label);
        }
    }
}

/// Killed in the middle of a rewind, then the directory is moved, then the session is opened there.
#[test]
fn a_rewind_is_carried_on_where_the_workspace_has_been_moved_to() {
    let mut carried = 0;
    for calls in (0..).step_by(2) {
        let place = Place::new();
        let images = three_turns(&place);
        let fuse = Fuse::after(calls);
        let _ = until_blown(&place, &fuse, |files| files.rewind(&seq(0), Scope::Both, &normal()).map(drop));
        let began = fs::read_dir(place.work())
            .expect("listed")
            .any(|entry| entry.expect("read").file_name().to_string_lossy().starts_with(".forklog-stage-"));
        let moved = place.dir.path().join("elsewhere");
        fs::rename(place.work(), &moved).expect("moved");
        let store = place.store();
        let session = store.session(&key("a")).expect("opened");
        let files = session.files_moved(&moved, place.work()).expect("carried on");
        let len = conversation(&store, "a").len();
        if began {
            carried += 1;
            assert_eq!(len, 1, "the conversation goes with the files, after {calls} calls");
            assert!(pending(&OsDisk, &place.dir.path().join("store/journals")).expect("listed").is_empty());
            files.undo(&normal()).expect("undone");
            files.redo(&normal()).expect("redone");
        }
        if began || len == 1 {
            let here: BTreeMap<_, _> = Place::image_of(moved.clone())
                .into_iter()
                .map(|(path, content)| (path.strip_prefix(&moved).expect("below").to_owned(), content))
                .collect();
            let was: BTreeMap<_, _> = images[0]
                .iter()
                .map(|(path, content)| (path.strip_prefix(place.work()).expect("below").to_owned(), content.clone()))
                .collect();
            assert_eq!(here, was, "after {calls} calls");
        }
        if !fuse.blown() {
            break;
        }
    }
    assert!(carried > 3, "{carried}");
}
