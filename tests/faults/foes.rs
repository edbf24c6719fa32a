//! Things that are not what they were, or never were what they say: an error or a conflict, and nothing outside is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forklog::checkpoint::{Files, PlanOptions, State, Why};
use forklog::objects::{Entry, EntryKind, ObjectStore, Root};
use forklog::{At, Error, FilesTarget, NewSession, ObjectId, ObjectKind, Scope, Seq, SessionKey, Store};

use crate::world::{forced, normal};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a place"));
        fs::create_dir(place.work()).expect("made");
        place
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn store(&self) -> Store {
        Store::open(self.0.path().join("store")).expect("a store")
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.work().join(name)).ok()
    }

    fn image(&self) -> BTreeMap<PathBuf, String> {
        image(&self.work())
    }
}

fn image(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("listed") {
            let path = entry.expect("read").path();
            let is = match fs::read_link(&path) {
                Ok(target) => format!("-> {}", target.display()),
                Err(_) if path.is_dir() => {
                    dirs.push(path.clone());
                    "dir".to_owned()
                }
                Err(_) => fs::read_to_string(&path).expect("text"),
            };
            found.insert(path.strip_prefix(root).expect("below").to_owned(), is);
        }
    }
    found
}

fn key() -> SessionKey {
    SessionKey::new("p", "a").expect("legal")
}

fn first() -> FilesTarget {
    FilesTarget::At(At::Seq(Seq::new(0)))
}

/// A file of which the name is in `/etc` nowhere, and a directory that becomes a link to `/etc`.
#[test]
fn a_link_to_etc_in_place_of_a_file_or_directory_leads_nowhere() {
    const NAME: &str = "forklog-foe-that-is-not-there";
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key())).expect("created");
    let files = session.files(place.work()).expect("opened");
    place.write(&format!("dir/{NAME}"), "mine");
    place.write("dir/hostname", "mine too");
    place.write("file", "a file");
    session.append("m").expect("appended");
    files.checkpoint(None).expect("taken");
    let before = place.image();
    let hostname = fs::read("/etc/hostname").ok();
    fs::remove_dir_all(place.work().join("dir")).expect("removed");
    fs::remove_file(place.work().join("file")).expect("removed");
    symlink("/etc", place.work().join("dir")).expect("made");
    symlink("/etc/hostname", place.work().join("file")).expect("made");
    let linked = place.image();
    let plan = files.plan(&first(), &normal()).expect("planned");
    let names: Vec<_> = plan.conflicts.iter().map(|found| found.path.to_string()).collect();
    assert_eq!(names, ["dir", "file"]);
    files.rewind(&first(), Scope::Both, &normal()).expect("conflicts are kept");
    assert_eq!(place.image(), linked);
    files.rewind(&first(), Scope::Both, &forced()).expect("rewound");
    assert_eq!(place.image(), before);
    files.undo(&normal()).expect("undone");
    assert_eq!(place.image(), linked, "the links are back");
    assert!(!Path::new("/etc").join(NAME).exists());
    assert_eq!(fs::read("/etc/hostname").ok(), hostname);
}

#[test]
fn a_directory_where_a_file_must_go_keeps_what_is_in_it() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key())).expect("created");
    let files = session.files(place.work()).expect("opened");
    place.write(".gitignore", "*.log\n");
    place.write("one", "a file");
    place.write("two", "a file");
    session.append("m").expect("appended");
    files.checkpoint(None).expect("taken");
    for name in ["one", "two"] {
        fs::remove_file(place.work().join(name)).expect("removed");
        place.write(&format!("{name}/inside"), "the user's");
    }
    place.write("two/ignored.log", "never captured");
    let before = place.image();
    let moved = files.rewind(&first(), Scope::Both, &forced()).expect("rewound");
    let plan = moved.plan.expect("of files");
    let why = |name: &str| plan.skipped.iter().find(|found| found.path.to_string() == name).map(|found| found.why);
    assert_eq!((place.read("one").as_deref(), why("two")), (Some("a file"), Some(Why::DirectoryInUse)));
    assert_eq!(place.read("two/ignored.log").as_deref(), Some("never captured"));
    files.undo(&forced()).expect("undone");
    assert_eq!(place.image(), before);
}

#[test]
fn a_workspace_that_moved_is_an_error_or_is_carried_on_where_it_is() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key())).expect("created");
    for n in 0..2 {
        place.write("file", &format!("turn {n}"));
        session.append(&n).expect("appended");
        session.files(place.work()).expect("opened").checkpoint(None).expect("taken");
    }
    let before = place.image();
    let moved = place.0.path().join("moved");
    fs::rename(place.work(), &moved).expect("moved");
    assert!(matches!(session.files(place.work()), Err(Error::Io { .. })), "there is none");
    let elsewhere = session.files(&moved).expect("a directory like any other");
    assert!(matches!(elsewhere.rewind(&first(), Scope::Both, &forced()), Err(Error::NotFound { .. })));
    assert_eq!(image(&moved), before, "nothing is known of it there");
    drop(elsewhere);
    // Another directory in its place is not taken for it: everything in it is a conflict, and comes back.
    fs::create_dir(place.work()).expect("made");
    place.write("file", "another project");
    let files = session.files(place.work()).expect("opened");
    files.rewind(&first(), Scope::Both, &normal()).expect("conflicts are kept");
    assert_eq!(place.read("file").as_deref(), Some("another project"));
    files.rewind(&first(), Scope::Files, &forced()).expect("rewound");
    files.undo(&normal()).expect("undone");
    assert_eq!(place.read("file").as_deref(), Some("another project"));
    assert_eq!(image(&moved), before);
}

struct Forge {
    place: Place,
    objects: std::sync::Arc<ObjectStore>,
}

impl Forge {
    fn new() -> Self {
        let place = Place::new();
        let objects = std::sync::Arc::clone(place.store().objects());
        Self { place, objects }
    }

    fn tree(&self, entries: &[(&str, Entry)]) -> Entry {
        let mut bytes = b"FLt1".to_vec();
        for (name, entry) in entries {
            bytes.push(if entry.kind == EntryKind::Directory { 3 } else { 1 });
            bytes.extend_from_slice(&entry.mode.to_le_bytes());
            bytes.extend_from_slice(&entry.size.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_bytes());
            bytes.extend_from_slice(&u16::try_from(name.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        let batch = self.objects.begin().expect("begun");
        let id = batch.put(ObjectKind::Tree, &bytes).expect("put");
        batch.sync().expect("synced");
        Entry { kind: EntryKind::Directory, mode: 0o755, size: bytes.len() as u64, id }
    }

    fn plan(&self, tree: Entry) -> Result<(), Error> {
        let store = self.place.store();
        let session = store.create(NewSession::named(SessionKey::new("p", "forged").expect("legal"))).expect("created");
        let files = session.files(self.place.work()).expect("opened");
        let target = State { tree: Some(tree), ..State::default() };
        files.workspace().plan(&target, &State::default(), &PlanOptions::default()).map(drop)
    }
}

/// Trees that hold themselves cannot be made, for they are named by their hashes; these come nearest.
#[test]
fn forged_trees_that_never_end_are_refused_soon() {
    let start = Instant::now();
    // Each holds the next one twice: a few kilobytes that spell a thousand million paths.
    let forge = Forge::new();
    let mut tree = forge.tree(&[]);
    for _ in 0..30 {
        tree = forge.tree(&[("a", tree), ("b", tree)]);
    }
    let done = forge.plan(tree);
    assert!(matches!(done, Err(Error::Corrupt { .. })), "{done:?}");
    let diff = Files::diff_trees(&forge.objects, None, Some(tree));
    assert!(matches!(diff, Err(Error::Corrupt { .. })), "of every path");
    assert_eq!(forge.objects.gc(|| Ok(vec![Root::Entry(tree)])).expect("it needs each once").live_objects, 31);
    // Deeper than any stack.
    let forge = Forge::new();
    let mut tree = forge.tree(&[]);
    for _ in 0..5_000 {
        tree = forge.tree(&[("a", tree)]);
    }
    assert!(matches!(forge.plan(tree), Err(Error::Corrupt { .. })));
    assert_eq!(forge.objects.gc(|| Ok(vec![Root::Entry(tree)])).expect("it is no harm").live_objects, 5_001);
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    assert!(forge.place.image().is_empty());
}

/// A pack in which a tree stands under a name that it has not, and which it names: a cycle, if it were believed.
#[test]
fn a_tree_that_names_itself_is_refused() {
    let forge = Forge::new();
    let id = ObjectId::from_bytes([7; 32]);
    let mut content = b"FLt1".to_vec();
    content.push(3);
    content.extend_from_slice(&0o755u16.to_le_bytes());
    content.extend_from_slice(&50u64.to_le_bytes());
    content.extend_from_slice(&id.to_bytes());
    content.extend_from_slice(&1u16.to_le_bytes());
    content.push(b'x');
    assert_eq!(content.len(), 50);
    let uid = [9u8; 16];
    let mut pack = b"FLpack\r\n".to_vec();
    pack.extend_from_slice(&1u32.to_le_bytes());
    pack.extend_from_slice(&uid);
    pack.extend_from_slice(&crc32fast::hash(&pack).to_le_bytes());
    let at = pack.len() as u64;
    let mut head = b"FLob".to_vec();
    head.extend_from_slice(&[2, 0, 0, 0]);
    for field in [0, 50u64, 50] {
        head.extend_from_slice(&field.to_le_bytes());
    }
    head.extend_from_slice(&id.to_bytes());
    head.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    for part in [&uid[..], &at.to_le_bytes(), &head] {
        crc.update(part);
    }
    head.extend_from_slice(&crc.finalize().to_le_bytes());
    pack.extend_from_slice(&head);
    pack.extend_from_slice(&content);
    let dir = forge.place.0.path().join("store/objects");
    fs::create_dir_all(&dir).expect("made");
    let name: String = uid.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(dir.join(format!("{name}.pack")), pack).expect("written");
    let tree = Entry { kind: EntryKind::Directory, mode: 0o755, size: 50, id };
    let done = forge.plan(tree);
    assert!(matches!(&done, Err(Error::Corrupt { why, .. }) if why.contains("hash")), "{done:?}");
    let done = forge.objects.gc(|| Ok(vec![Root::Entry(tree)]));
    assert!(matches!(done, Err(Error::Corrupt { .. })), "{done:?}");
}
