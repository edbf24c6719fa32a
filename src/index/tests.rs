//! Promises of the index as a whole, on real files.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::disk::{DirEntry, Mapped, OsDisk, Stat, Watch};
use crate::format::entry::tests::sample;
use crate::ids::SessionKey;
use crate::time::Timestamp;

type Model = BTreeMap<Uid, Entry>;

fn index(root: &Path) -> Index {
    Index::open(Arc::new(OsDisk), root)
}

fn view(index: &Index) -> View {
    match index.snapshot().unwrap() {
        IndexState::Ready(view) => view,
        IndexState::NeedsRebuild { path, why } => panic!("{}: {why}", path.display()),
    }
}

fn new_index(root: &Path) -> Index {
    let index = index(root);
    index.rebuild([1; 16], []).unwrap();
    index
}

/// What a list must show, the slow way.
fn expected(model: &Model, filter: &Filter) -> Vec<Entry> {
    let mut entries: Vec<_> = model.values().filter(|entry| filter.fits(entry)).cloned().collect();
    entries.sort_by_key(|entry| (std::cmp::Reverse(entry.updated), entry.uid));
    entries
}

fn all() -> Filter {
    Filter { archived: Archived::Shown, ..Filter::default() }
}

fn pages(view: &View, filter: &Filter, limit: usize) -> Result<Vec<Entry>> {
    let (mut entries, mut cursor) = (Vec::new(), None);
    loop {
        let page = view.list(filter, cursor, limit, None)?;
        assert!(page.entries.len() <= limit);
        entries.extend(page.entries);
        cursor = match page.next {
            Some(next) => Some(next.to_string().parse().unwrap()),
            None => return Ok(entries),
        };
    }
}

fn filters() -> Vec<Filter> {
    let at = |n: i64| Some(Timestamp::from_millis(1_763_000_000_000 + n * 1000));
    let text = |text: &str| Some(text.to_owned());
    vec![
        Filter::default(),
        all(),
        Filter { archived: Archived::Only, ..Filter::default() },
        Filter { project: Some("/home/me/p3".parse().unwrap()), ..all() },
        Filter { project: Some("/home/me/p3".parse().unwrap()), updated_before: at(200), ..all() },
        Filter { project: Some("nowhere".parse().unwrap()), ..all() },
        Filter { tags_all: vec!["tag-0".into(), "tag-2".into()], ..all() },
        Filter { tags_any: vec!["tag-2".into(), "nothing".into()], min_cost: Some(1.0), ..all() },
        Filter { updated_from: at(100), updated_before: at(180), ..all() },
        Filter { created_from: at(50), created_before: at(90), ..all() },
        Filter { min_cost: Some(0.5), max_cost: Some(1.5), tags_all: vec!["tag-1".into()], ..all() },
        Filter { max_cost: Some(0.0), ..all() },
        Filter { model: text("model-1"), ..all() },
        Filter { text: text("fix bUG 1"), ..all() },
        Filter { damaged: Some(true), ..all() },
        Filter { damaged: Some(false), parent: Some("default/s0".parse().unwrap()), ..all() },
    ]
}

fn check(index: &Index, model: &Model) {
    let view = view(index);
    for filter in filters() {
        assert_eq!(pages(&view, &filter, 17).unwrap(), expected(model, &filter), "{filter:?}");
    }
    assert_eq!(view.latest(None, None).unwrap(), expected(model, &Filter::default()).first().cloned());
    for n in 0..400 {
        let probe = sample(n);
        assert_eq!(view.by_uid(probe.uid).unwrap().as_ref(), model.get(&probe.uid));
        let by_key = model.values().find(|entry| entry.key == probe.key);
        assert_eq!(view.get(&probe.key).unwrap().as_ref(), by_key);
    }
    view.verify().unwrap();
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A new version of session `n`, updated at a time that `step` says.
fn version(n: u64, step: u64) -> Entry {
    let mut entry = sample(n);
    entry.updated = Timestamp::from_millis(1_763_000_000_000 + i64::try_from(step).unwrap() * 1000);
    entry.records += step;
    entry.archived = step.is_multiple_of(11);
    entry.description = Some("x".repeat(usize::try_from(step % 3000).unwrap()));
    entry
}

#[test]
fn an_index_answers_as_a_plain_list_does() {
    for seed in 0..4 {
        let root = tempfile::tempdir().unwrap();
        let mut handle = new_index(root.path());
        let (mut model, mut dice) = (Model::new(), Dice(seed));
        for step in 0..1500 {
            match dice.roll(10) {
                0 => {
                    let uid = sample(dice.roll(400)).uid;
                    model.remove(&uid);
                    handle.remove(&[uid]).unwrap();
                }
                1 => handle = index(root.path()),
                2..5 => {
                    let entry = version(dice.roll(400), dice.roll(300));
                    model.insert(entry.uid, entry.clone());
                    handle.publish(&[entry]).unwrap();
                }
                _ => {
                    let batch: Vec<_> = (0..dice.roll(4)).map(|_| version(dice.roll(400), step)).collect();
                    model.extend(batch.iter().map(|entry| (entry.uid, entry.clone())));
                    handle.publish(&batch).unwrap();
                }
            }
            if step % 250 == 249 {
                check(&handle, &model);
            }
        }
        let names: Vec<_> = fs::read_dir(root.path().join("index")).unwrap().map(|e| e.unwrap().file_name()).collect();
        let runs = names.iter().filter(|name| name.to_str().unwrap().starts_with("run-")).count();
        assert!((1..=5).contains(&runs), "{names:?}");
        assert!(fs::metadata(root.path().join("index/tail")).unwrap().len() <= MAX_TAIL);
        check(&index(root.path()), &model);
        let shuffled: Vec<_> = model.values().cloned().map(Ok).collect();
        handle.rebuild([2; 16], shuffled).unwrap();
        check(&handle, &model);
    }
}

#[test]
fn what_was_removed_stays_away_while_its_removal_moves_from_run_to_run() {
    let root = tempfile::tempdir().unwrap();
    let handle = new_index(root.path());
    // So many that folding leaves their run alone, and the removals have to be kept beside it.
    let first: Vec<_> = (0..30_000).map(sample).collect();
    handle.rebuild([3; 16], first.iter().cloned().map(Ok)).unwrap();
    let mut model: Model = first.into_iter().map(|entry| (entry.uid, entry)).collect();
    for round in 0..4 {
        let from = 400 + round * 60;
        let gone: Vec<_> = (from..from + 60).map(|n| sample(n).uid).collect();
        model.retain(|uid, _| !gone.contains(uid));
        handle.remove(&gone).unwrap();
        // One comes back, and in the next round it goes again.
        let mut entries = vec![version(from, 2000)];
        if let Some(before) = from.checked_sub(60).filter(|before| *before >= 400) {
            model.remove(&sample(before).uid);
            handle.remove(&[sample(before).uid]).unwrap();
        }
        entries.extend((0..200).map(|n| version(n * 2, 2000 + round * 200 + n)));
        for entry in entries {
            model.insert(entry.uid, entry.clone());
            handle.publish(&[entry]).unwrap();
        }
        for index in [&handle, &index(root.path())] {
            let view = view(index);
            for n in 0..700 {
                let uid = sample(n).uid;
                assert_eq!(view.by_uid(uid).unwrap().as_ref(), model.get(&uid), "{n} in round {round}");
            }
            let listed = view.list(&all(), None, model.len() + 1, None).unwrap().entries;
            assert!(listed == expected(&model, &all()), "the list in round {round}");
        }
    }
    let names = fs::read_dir(root.path().join("index")).unwrap().map(|e| e.unwrap().file_name());
    assert!(names.filter(|name| name.to_str().unwrap().starts_with("run-")).count() >= 2);
}

#[test]
fn a_session_that_changes_between_pages_moves_and_no_other_does() {
    let root = tempfile::tempdir().unwrap();
    let index = new_index(root.path());
    let entries: Vec<_> = (0..50).map(sample).collect();
    index.publish(&entries).unwrap();
    let first = view(&index).list(&all(), None, 20, None).unwrap();
    index.publish(&[version(10, 1000), version(40, 1001)]).unwrap();
    let second = view(&index).list(&all(), first.next, 40, None).unwrap();
    let ids: Vec<_> = second.entries.iter().map(|entry| entry.records).collect();
    let wanted: Vec<_> = (0..30).rev().filter(|n| *n != 10).collect();
    assert_eq!(ids, wanted);
    assert_eq!(second.next, None);
}

#[test]
fn an_overlay_replaces_and_hides() {
    let root = tempfile::tempdir().unwrap();
    let index = new_index(root.path());
    index.publish(&(0..30).map(sample).collect::<Vec<_>>()).unwrap();
    let fresh = version(5, 5000);
    let overlay = Overlay::new([&fresh], &[sample(29).uid]);
    let page = view(&index).list(&all(), None, 3, Some(&overlay)).unwrap();
    assert_eq!(page.entries, [fresh.clone(), sample(28), sample(27)]);
    let rest = view(&index).list(&all(), page.next, 100, Some(&overlay)).unwrap();
    assert_eq!(rest.entries.len(), 26);
    let project = Filter { project: Some(fresh.key.project.clone()), ..all() };
    let page = view(&index).list(&project, None, 1, Some(&overlay)).unwrap();
    assert_eq!(page.entries, std::slice::from_ref(&fresh));
    assert_eq!(view(&index).latest(Some(&fresh.key.project), Some(&overlay)).unwrap(), Some(fresh));
}

/// Copies every file of an index, so that it can be put back.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = fs::read_dir(root.join("index")).unwrap().map(|entry| entry.unwrap().path());
    dir.chain([root.join("anchor")]).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn put_back(root: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, with_anchor: bool) {
    for entry in fs::read_dir(root.join("index")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (path, bytes) in files.iter().filter(|(path, _)| with_anchor || !path.ends_with("anchor")) {
        fs::write(path, bytes).unwrap();
    }
}

/// An index with a large run, a small one and a tail, and what it holds.
fn with_runs(root: &Path) -> (Index, Model) {
    let index = new_index(root);
    let first: Vec<_> = (0..6000).map(sample).collect();
    index.rebuild([3; 16], first.iter().cloned().map(Ok)).unwrap();
    let mut model: Model = first.into_iter().map(|entry| (entry.uid, entry)).collect();
    for step in 7500..7700 {
        let entry = version(step % 400, step);
        model.insert(entry.uid, entry.clone());
        index.publish(&[entry]).unwrap();
    }
    let gone = sample(77).uid;
    model.remove(&gone);
    index.remove(&[gone]).unwrap();
    (index, model)
}

/// Whether the index in `root` says that it has to be built again; fails when it gives a wrong answer.
fn wants_rebuild(root: &Path, model: &Model) -> bool {
    let view = match index(root).snapshot().unwrap() {
        IndexState::Ready(view) => view,
        IndexState::NeedsRebuild { .. } => return true,
    };
    let some = [sample(77), sample(3), sample(2999), sample(100)];
    let answer = || {
        Ok::<_, Error>((
            pages(&view, &all(), 500)?,
            view.list(&Filter { project: Some("/home/me/p3".parse().unwrap()), ..all() }, None, 30, None)?.entries,
            some.iter().map(|entry| view.by_uid(entry.uid)).collect::<Result<Vec<_>>>()?,
            some.iter().map(|entry| view.get(&entry.key)).collect::<Result<Vec<_>>>()?,
        ))
    };
    match answer() {
        Ok((listed, project, by_uid, by_key)) => {
            assert_eq!(listed, expected(model, &all()));
            let mut wanted = expected(model, &Filter { project: Some("/home/me/p3".parse().unwrap()), ..all() });
            wanted.truncate(30);
            assert_eq!(project, wanted);
            let wanted: Vec<_> = some.iter().map(|entry| model.get(&entry.uid).cloned()).collect();
            assert_eq!((&by_uid, &by_key), (&wanted, &wanted));
            false
        }
        Err(Error::Corrupt { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn damage_is_never_a_wrong_answer() {
    let root = tempfile::tempdir().unwrap();
    let (_, model) = with_runs(root.path());
    let good = files(root.path());
    let runs = good.keys().filter(|path| path.to_str().unwrap().contains("run-")).count();
    assert!(runs >= 2, "{runs} runs");
    assert!(!wants_rebuild(root.path(), &model));
    let mut dice = Dice(1);
    let mut refused = 0;
    for (path, bytes) in good.iter().filter(|(path, _)| !path.ends_with("lock")) {
        let len = bytes.len() as u64;
        let change = |bytes: &mut Vec<u8>, which: u64, at: usize, dice: &mut Dice| match which {
            0 => bytes.truncate(at),
            1 => bytes[at..].fill(0),
            2 => bytes.extend_from_within(..at.min(5000)),
            3 => bytes[at..].iter_mut().take(300).for_each(|byte| *byte = u8::try_from(dice.roll(256)).unwrap()),
            _ => bytes[at] ^= 1 << dice.roll(8),
        };
        for n in 0..60 {
            let mut bad = bytes.clone();
            let at = usize::try_from(if n < 10 { len - 1 - dice.roll(len.min(200)) } else { dice.roll(len) }).unwrap();
            change(&mut bad, n % 8, at, &mut dice);
            fs::write(path, &bad).unwrap();
            let wants = wants_rebuild(root.path(), &model);
            // What stands behind the end of a tail or an anchor is nothing.
            let harmless = bad == *bytes || bad.starts_with(bytes);
            refused += usize::from(wants);
            assert!(!(wants && harmless && !path.to_str().unwrap().contains("run-")), "{}", path.display());
        }
        fs::remove_file(path).unwrap();
        assert!(wants_rebuild(root.path(), &model), "{} is missing", path.display());
        fs::write(path, bytes).unwrap();
    }
    assert!(refused > 60, "{refused}");
    assert!(!wants_rebuild(root.path(), &model));
}

#[test]
fn every_cut_and_flip_of_a_tail_and_an_anchor_is_found() {
    let root = tempfile::tempdir().unwrap();
    let index = new_index(root.path());
    index.publish(&[sample(1), sample(2)]).unwrap();
    index.remove(&[sample(1).uid]).unwrap();
    let model: Model = [(sample(2).uid, sample(2))].into();
    let tail = root.path().join("index/tail");
    let good = fs::read(&tail).unwrap();
    for cut in 0..good.len() {
        fs::write(&tail, &good[..cut]).unwrap();
        assert!(wants_rebuild(root.path(), &model), "cut at {cut}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&tail, &bad).unwrap();
        assert!(wants_rebuild(root.path(), &model), "bit {bit}");
    }
    fs::write(&tail, &good).unwrap();
    let anchor = root.path().join("anchor");
    let good = fs::read(&anchor).unwrap();
    for cut in 0..=good.len() {
        fs::write(&anchor, &good[..cut]).unwrap();
        wants_rebuild(root.path(), &model);
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&anchor, &bad).unwrap();
        assert!(!wants_rebuild(root.path(), &model), "one slot is enough");
    }
}

#[test]
fn an_older_copy_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let index = new_index(root.path());
    let mut copies = vec![files(root.path())];
    let mut model = Model::new();
    for step in 0..700 {
        let entry = version(step % 300, step);
        model.insert(entry.uid, entry.clone());
        index.publish(&[entry]).unwrap();
        if step % 70 == 0 {
            copies.push(files(root.path()));
        }
    }
    let newest = files(root.path());
    for copy in &copies {
        put_back(root.path(), copy, false);
        assert!(wants_rebuild(root.path(), &model));
        assert!(matches!(self::index(root.path()).publish(&[sample(1)]), Err(Error::Corrupt { .. })));
    }
    // A new index after all this counts from further on, so that the copies of its former life do not fit it either.
    put_back(root.path(), &newest, true);
    assert!(!wants_rebuild(root.path(), &model));
    fs::remove_dir_all(root.path().join("index")).unwrap();
    fs::remove_file(root.path().join("anchor")).unwrap();
    index.rebuild([9; 16], model.values().cloned().map(Ok)).unwrap();
    assert!(!wants_rebuild(root.path(), &model));
    for copy in copies.iter().chain([&newest]) {
        put_back(root.path(), copy, false);
        assert!(wants_rebuild(root.path(), &model));
    }
}

#[test]
fn handles_that_append_and_fold_at_once_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    new_index(root.path());
    let (handles, each) = (4, 400);
    thread::scope(|scope| {
        for handle in 0..handles {
            let root = root.path();
            scope.spawn(move || {
                let index = index(root);
                for n in 0..each {
                    let mut entry = version(handle * each + n, 2000 + n % 3);
                    entry.archived = false;
                    index.publish(&[entry.clone()]).unwrap();
                    if n % 20 == 0 {
                        assert_eq!(view(&index).get(&entry.key).unwrap(), Some(entry));
                    }
                }
            });
        }
        scope.spawn(|| {
            let index = index(root.path());
            let mut last = 0;
            while last < usize::try_from(handles * each).unwrap() {
                let now = pages(&view(&index), &all(), 500).unwrap().len();
                assert!(last <= now);
                last = now;
            }
        });
    });
}

/// A disk that stops the program: after `left` calls that change something, every further one fails.
#[derive(Debug)]
struct Stopping {
    disk: OsDisk,
    left: Arc<AtomicU64>,
}

#[derive(Debug)]
struct StoppingFile {
    file: Box<dyn File>,
    left: Arc<AtomicU64>,
}

fn step(left: &AtomicU64) -> io::Result<()> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    taken.map(drop).map_err(|_| io::Error::other("stopped"))
}

impl Disk for Stopping {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        if matches!(how, How::CreateNew) {
            step(&self.left)?;
        }
        Ok(Box::new(StoppingFile { file: self.disk.open(path, how)?, left: Arc::clone(&self.left) }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.disk.stat(path)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        step(&self.left)
    }

    fn watch(&self, path: &Path) -> io::Result<Box<dyn Watch>> {
        self.disk.watch(path)
    }
}

impl File for StoppingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(out, at)
    }

    /// The call at which the program stops leaves half of its bytes.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Err(error) = step(&self.left) {
            if self.left.fetch_add(0, Ordering::SeqCst) == 0 {
                self.file.write_at(&bytes[..bytes.len() / 2], at)?;
            }
            return Err(error);
        }
        self.file.write_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        step(&self.left)?;
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        step(&self.left)
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        self.file.try_lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn file_id(&self) -> io::Result<u64> {
        self.file.file_id()
    }

    fn map(&self) -> io::Result<Mapped> {
        self.file.map()
    }
}

#[test]
fn a_program_that_is_stopped_at_any_call_loses_nothing_it_was_told() {
    let root = tempfile::tempdir().unwrap();
    let (mut done, mut folded) = (false, 0);
    // One large entry makes the next change fold.
    let mut large = sample(1);
    large.description = Some("x".repeat(300 << 10));
    for calls in 0.. {
        let path = root.path().join(calls.to_string());
        fs::create_dir(&path).unwrap();
        new_index(&path).publish(&[sample(2), sample(3)]).unwrap();
        let disk = Stopping { disk: OsDisk, left: Arc::new(AtomicU64::new(calls)) };
        let stopped = Index::open(Arc::new(disk), &path);
        let mut told = 2;
        for (n, change) in [large.clone(), sample(4), sample(5)].into_iter().enumerate() {
            if stopped.publish(&[change]).is_err() {
                break;
            }
            told = 3 + n;
            done = n == 2;
        }
        let found = pages(&view(&index(&path)), &all(), 10).unwrap();
        assert!(told <= found.len() && found.len() <= told + 1, "call {calls}: {told} told, {} found", found.len());
        folded += usize::from(fs::read_dir(path.join("index")).unwrap().count() > 2);
        // And the next program goes on from there.
        index(&path).publish(&[large.clone(), sample(4), sample(5)]).unwrap();
        let found = pages(&view(&index(&path)), &all(), 10).unwrap();
        assert_eq!(found.len(), 5, "call {calls}");
        if done {
            break;
        }
    }
    assert!(folded > 5);
}

#[test]
fn a_rebuild_that_is_stopped_leaves_the_old_index_or_asks_for_another() {
    let root = tempfile::tempdir().unwrap();
    let old: Model = (0..20).map(|n| (sample(n).uid, sample(n))).collect();
    for calls in 0.. {
        let path = root.path().join(calls.to_string());
        fs::create_dir(&path).unwrap();
        let fine = new_index(&path);
        fine.publish(&(0..20).map(sample).collect::<Vec<_>>()).unwrap();
        let disk = Stopping { disk: OsDisk, left: Arc::new(AtomicU64::new(calls)) };
        let stopped = Index::open(Arc::new(disk), &path).rebuild([5; 16], old.values().cloned().map(Ok));
        let wants = wants_rebuild(&path, &old);
        assert!(stopped.is_err() || !wants);
        index(&path).rebuild_if_needed([6; 16], || old.values().cloned().map(Ok)).unwrap();
        assert!(!wants_rebuild(&path, &old));
        if stopped.is_ok() {
            break;
        }
    }
}

#[test]
fn without_files_an_index_asks_to_be_built() {
    let root = tempfile::tempdir().unwrap();
    let index = index(root.path());
    assert!(matches!(index.snapshot().unwrap(), IndexState::NeedsRebuild { .. }));
    assert!(matches!(index.publish(&[sample(1)]), Err(Error::Corrupt { .. })));
    index.rebuild([0; 16], []).unwrap();
    assert_eq!(view(&index).list(&all(), None, 10, None).unwrap(), Page { entries: vec![], next: None });
    let failed = index.rebuild([0; 16], [Ok(sample(1)), Err(Error::NothingTo { what: "undo" })]);
    assert!(failed.is_err());
    assert_eq!(view(&index).by_uid(sample(1).uid).unwrap(), None);
    assert_eq!(view(&index).get(&SessionKey::new("a", "b").unwrap()).unwrap(), None);
}
