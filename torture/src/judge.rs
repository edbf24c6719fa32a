//! What must be there after a worker's end, and whether it is.

use std::collections::{BTreeSet, VecDeque};

use forklog::{Durability, OpenOptions, Store};
use forklog_soak::model::{Back, Content, Files, Item, Model, Which};
use forklog_soak::{check_quarantine, comparable, key, resolve_files, tails};

use crate::place::Place;
use crate::program::{FILES, Op, Program, Step, kept, last_files, upto};

/// What ended the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What was acknowledged is there.
    Killed,
    /// What was acknowledged as durable is there, and of the rest a part from the front.
    PowerCut,
    /// What was acknowledged as durable is there, and of the rest any part: a sync that fails says that it may be lost.
    SyncFailed,
}

/// How many operations are shown with a violation.
const LAST: usize = 30;

/// Follows a program, from what its worker says, with a model of the store.
#[derive(Clone)]
pub(crate) struct Judge {
    program: Program,
    end: End,
    model: Model,
    open: BTreeSet<Which>,
    /// The operation that has begun and has not ended.
    flight: Option<Step>,
    work: Work,
    /// The files are not known at the moment that is looked at.
    lost_track: bool,
    /// Nobody can say what an undo of the files brings back: no further worker should go on.
    pub(crate) is_unsure: bool,
    /// What was done last, for who must understand a violation.
    heard: VecDeque<String>,
}

/// What the files of the workspace must be.
#[derive(Clone, Debug)]
enum Work {
    /// The agent was at work, or made nothing yet.
    Anything,
    /// These, as the checkpoint of a turn in this worker has them.
    Are(Files),
    /// The first before the move that is going on, the second after it.
    Move(Files, Files),
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) sessions: u64,
    pub(crate) records: u64,
    pub(crate) files: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.records += other.records;
        self.files += other.files;
    }
}

impl Judge {
    pub(crate) fn new(program: Program, end: End) -> Self {
        let (model, open, heard) = (Model::default(), BTreeSet::new(), VecDeque::new());
        Self {
            program,
            end,
            model,
            open,
            flight: None,
            work: Work::Anything,
            lost_track: false,
            is_unsure: false,
            heard,
        }
    }

    /// Another worker goes on with what was found, and with another program.
    pub(crate) fn next(&mut self, program: Program) {
        self.program = program;
    }

    /// Takes note of a line that the worker said.
    ///
    /// # Errors
    ///
    /// The worker says what cannot be.
    pub(crate) fn hear(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with("failed ") {
            return Err(line.to_owned());
        }
        self.hear_upto(line, u64::MAX)
    }

    /// [`Judge::hear`] of what was said after the disk was taken away. A sync that runs just then may succeed on nothing (Linux 6.18, XFS
    /// and ext4), which no power cut lets anybody see: an acknowledgement does not bind.
    ///
    /// # Errors
    ///
    /// As [`Judge::hear`].
    pub(crate) fn hear_late(&mut self, line: &str) -> Result<(), String> {
        self.hear_bound(line, |_| false)
    }

    /// [`Judge::hear`]; an acknowledgement binds only if no more than so many entries were in the block log by then.
    pub(crate) fn hear_upto(&mut self, line: &str, entries: u64) -> Result<(), String> {
        self.hear_bound(line, |then| then <= entries)
    }

    fn hear_bound(&mut self, line: &str, binds: impl Fn(u64) -> bool) -> Result<(), String> {
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
        let step =
            number(words.next()).map(|n| self.program.step(n)).ok_or_else(|| format!("not understood: {line}"))?;
        if word == "begin" {
            self.begin(step);
            return Ok(());
        }
        let durability = self.program.options(step.which.0).durability;
        self.heard.push_back(format!("{line} {step:?} with {durability:?}"));
        if self.heard.len() > LAST {
            self.heard.pop_front();
        }
        match (word, self.flight == Some(step)) {
            ("done", true) => {
                self.flight = None;
                self.end(step);
                if number(words.next()).is_none_or(binds) {
                    self.settle(step);
                } else if step.which == FILES {
                    // At that moment the files may have been as before, or in between.
                    self.lost_track = true;
                }
                Ok(())
            }
            ("done", false) => {
                Err(format!("{step:?} was done, but there was nothing to do: {:?}", self.model.now(step.which)))
            }
            ("none", false) => Ok(()),
            ("none", true) => Err(format!("{step:?}: the worker found nothing to do")),
            // On a disk that is gone everything fails, in the middle of whatever it was.
            ("failed", _) if self.end == End::PowerCut => Ok(()),
            _ => Err(line.to_owned()),
        }
    }

    /// The model first does what is begun, and is not held to it yet.
    fn begin(&mut self, step: Step) {
        let Step { op, which, .. } = step;
        let lives = self.model.life(which.0).is_some();
        let opens = matches!(op, Op::Append | Op::AppendId | Op::Batch | Op::Set | Op::Rewind | Op::Undo | Op::Redo);
        if opens && lives {
            self.open.insert(which);
            if let Some(side) = which.1 {
                self.model.make_side(which.0, side);
            }
        }
        let now = self.model.now(which);
        let keep = usize::try_from(kept(now.len() as u64)).unwrap_or(usize::MAX);
        let is_file = matches!(self.work, Work::Are(_));
        let makes_sense = match op {
            Op::Create => !lives,
            Op::Append | Op::AppendId | Op::Batch | Op::Set | Op::Delete | Op::Reroot => lives,
            Op::Sync | Op::Close => self.open.contains(&which),
            Op::Fork(of) => !lives && self.model.life(of).is_some(),
            Op::Rewind => lives && !now.is_empty(),
            Op::Undo => lives && !now.undo.is_empty(),
            Op::Redo => lives && !now.redo.is_empty(),
            // Before the first checkpoint nothing is known of the files.
            Op::FilesRewind => is_file && last_files(&upto(&now, keep)).is_some(),
            Op::FilesUndo => is_file && !now.undo.is_empty(),
            Op::FilesRedo => is_file && !now.redo.is_empty(),
            Op::Gc | Op::List | Op::Reindex | Op::Tick | Op::Wait | Op::Import | Op::Turn => true,
        };
        self.flight = makes_sense.then_some(step);
        if !makes_sense {
            return;
        }
        match op {
            Op::Create => {
                self.model.create(which.0, Content::default());
                self.open.insert(which);
            }
            Op::Fork(of) => {
                self.fork(of, which.0);
                self.open.insert(which);
            }
            Op::Append | Op::AppendId | Op::Batch => self.model.push(which, |content| content.add(step.records())),
            Op::Set => self.model.push(which, |content| content.patch(&step.patch())),
            Op::Rewind => self.model.push(which, |content| content.rewind(keep)),
            Op::Undo => self.model.push(which, undo),
            Op::Redo => self.model.push(which, redo),
            Op::Delete => self.model.delete(which.0),
            Op::Import => {
                self.make(which, lives);
                self.model.push(which, |content| content.add(step.imported()));
            }
            Op::Turn => {
                self.make(which, lives);
                self.open.insert(which);
                self.model.push(which, |content| content.add(step.records()));
                let checkpoint = Item::Checkpoint(step.label(), step.files());
                self.model.push(which, |content| content.view.push(checkpoint));
                self.work = Work::Anything;
            }
            Op::FilesRewind => self.move_files(|content| {
                let view = upto(content, keep);
                content.rewind(keep);
                content.view = view;
            }),
            Op::FilesUndo => self.move_files(undo),
            Op::FilesRedo => self.move_files(redo),
            Op::Gc | Op::List | Op::Reindex | Op::Tick | Op::Wait | Op::Sync | Op::Close | Op::Reroot => {}
        }
    }

    fn make(&mut self, which: Which, lives: bool) {
        if !lives {
            self.model.create(which.0, Content::default());
        }
    }

    fn fork(&mut self, of: &'static str, name: &'static str) {
        let parent = self.model.now(Which(of, None));
        let view = upto(&parent, usize::try_from(kept(parent.len() as u64)).unwrap_or(usize::MAX));
        let mut content = Content { view, ..Content::default() };
        if let Some(tags) = parent.meta.get("tags") {
            content.meta.insert("tags".to_owned(), tags.clone());
        }
        self.model.create(name, content);
    }

    fn move_files(&mut self, change: impl FnOnce(&mut Content)) {
        self.model.push(FILES, change);
        if let Work::Are(before) = &self.work {
            // Before the first checkpoint that a power cut left, nothing is known of the files, and they stay.
            let after = last_files(&self.model.now(FILES).view).unwrap_or(before).clone();
            self.work = Work::Move(before.clone(), after);
        }
    }

    /// What has returned is done.
    fn end(&mut self, step: Step) {
        let Step { op, which, .. } = step;
        match op {
            Op::Close => drop(self.open.remove(&which)),
            Op::Delete => self.open.retain(|open| open.0 != which.0),
            Op::Turn => self.work = Work::Are(step.files()),
            Op::FilesRewind | Op::FilesUndo | Op::FilesRedo => {
                if let Work::Move(_, after) = &self.work {
                    self.work = Work::Are(after.clone());
                }
            }
            _ => {}
        }
    }

    /// What is acknowledged has its durability from here on.
    fn settle(&mut self, step: Step) {
        let Step { op, which, .. } = step;
        let durability = self.program.options(which.0).durability;
        let changes = matches!(
            op,
            Op::Create
                | Op::Append
                | Op::AppendId
                | Op::Batch
                | Op::Set
                | Op::Fork(_)
                | Op::Rewind
                | Op::Undo
                | Op::Redo
                | Op::Turn
        );
        let always = matches!(op, Op::Sync | Op::Close | Op::Import | Op::FilesRewind | Op::FilesUndo | Op::FilesRedo);
        if op == Op::Delete {
            self.model.keep_name(which.0);
        } else if always || (changes && (self.end == End::Killed || durability == Some(Durability::Sync))) {
            self.model.keep(which, self.model.state(which));
        } else if matches!(op, Op::Tick | Op::Wait) {
            for which in &self.open {
                if matches!(self.program.options(which.0).durability, Some(Durability::Interval(_))) {
                    self.model.keep(*which, self.model.state(*which));
                }
            }
        }
    }

    /// Looks at everything, goes on with what a rewind left half done, and takes what was found for what is. With `open`, every session is
    /// opened and closed too; otherwise a worker is the next to see what the last one left.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub(crate) fn look(&mut self, place: &Place, open: bool) -> Result<Seen, String> {
        let flight = self.flight;
        self.look_at_all(place, open).map_err(|wrong| {
            let heard: Vec<&str> = self.heard.iter().map(String::as_str).collect();
            format!("{wrong}\n  {}\n  and in the middle of {flight:?}", heard.join("\n  "))
        })
    }

    fn look_at_all(&mut self, place: &Place, open: bool) -> Result<Seen, String> {
        let say = |what: &str, error: forklog::Error| format!("{what}: {error}");
        let store = Store::open(place.store()).map_err(|error| say("the store does not open", error))?;
        let files = || place.store_files().map_err(|error| error.to_string());
        let before = files()?;
        self.may_be_moved_from_earlier();
        let mut found = resolve_files(&store, &before, &self.model)?;
        check_list(place, &store, &found)?;
        sound(&store)?;
        let behind = tails(&before, &found);
        let known = !matches!(self.work, Work::Anything) && !self.lost_track;
        let carries_on = known && found.life(FILES.0).is_some();
        if carries_on {
            let session = store.session(&key(FILES.0)).map_err(|error| say("f", error))?;
            let files = session.files(place.workspace()).map_err(|error| say("files of f", error))?;
            drop(files);
            session.close().map_err(|error| say("close f", error))?;
        }
        if open {
            for (name, life) in found.names.iter().filter_map(|(name, named)| Some((*name, named.now()?))) {
                let sides = life.sides.keys().map(|side| forklog_soak::side_name(side));
                let options = OpenOptions::default();
                for side in sides {
                    let side = store.side(&key(name), &side, options).and_then(|session| session.close());
                    side.map_err(|error| say(name, error))?;
                }
                store.session(&key(name)).and_then(|session| session.close()).map_err(|error| say(name, error))?;
            }
            check_quarantine(&files()?, &behind)?;
        }
        if carries_on || open {
            found = resolve_files(&store, &files()?, &self.model)?;
        }
        let seen = self.look_at_work(place, &found)?;
        self.is_unsure = self.is_unclear(&found);
        self.model = found;
        self.open.clear();
        self.flight = None;
        self.work = Work::Anything;
        self.lost_track = false;
        Ok(seen)
    }

    /// Whether nobody can say what an undo of the files would bring back: the move that was carried on may have begun at several places that
    /// look alike from where it went.
    fn is_unclear(&self, found: &Model) -> bool {
        let Some(life) = self.model.life(FILES.0).filter(|_| found.life(FILES.0).is_some()) else { return false };
        let now = found.now(FILES);
        let alike = |state: &&Content| state.same(&now) && state.moves == now.moves;
        life.main.possible().iter().filter(alike).any(|state| (&state.undo, &state.redo) != (&now.undo, &now.redo))
    }

    /// A power cut in the middle of a rewind of files may take records that were never synced. Then the files go to their end all the same, and
    /// the conversation with them from where it stands, or, if the place that it was to go to is gone, not at all.
    fn may_be_moved_from_earlier(&mut self) {
        let moves = matches!(self.work, Work::Move(..)) && self.end == End::PowerCut;
        let life = self.model.names.get_mut(FILES.0).and_then(|named| named.lives.last_mut()?.as_mut());
        let Some(history) = life.filter(|_| moves).map(|life| &mut life.main) else { return };
        let after = history.now();
        let moved = history.possible().iter().flat_map(|state| {
            let to = |view: &[Item], left: Option<Vec<Item>>| {
                let mut undo = state.undo.clone();
                undo.push(Back { view: left, files: None });
                Content { view: view.to_vec(), undo, redo: Vec::new(), moves: state.moves + 1, ..state.clone() }
            };
            let back = |change: fn(&mut Content)| {
                let mut next = state.clone();
                change(&mut next);
                (next.view == after.view && next.view != state.view).then_some(next)
            };
            let rewound = state.view.starts_with(&after.view).then(|| to(&after.view, Some(state.view.clone())));
            let ends = [Some(to(&state.view, None)), rewound, back(undo), back(redo)];
            ends.into_iter().flatten().collect::<Vec<_>>()
        });
        let moved: Vec<Content> = moved.collect();
        let at = history.floor;
        history.states.splice(at..at, moved);
    }

    fn look_at_work(&self, place: &Place, found: &Model) -> Result<Seen, String> {
        let work = Place::files_below(&place.workspace()).map_err(|error| error.to_string())?;
        let must = match &self.work {
            _ if self.lost_track => None,
            Work::Anything => None,
            Work::Are(files) => Some(files),
            // Either, where the conversation lost what had not been synced before the files went back.
            Work::Move(before, after) if self.end == End::PowerCut && work == *before => Some(before),
            Work::Move(_, after) if self.end == End::PowerCut => Some(after),
            Work::Move(before, after) => {
                let moved = found.now(FILES).moves == self.model.now(FILES).moves;
                Some(if moved { after } else { before })
            }
        };
        if let Some(must) = must.filter(|must| **must != work) {
            return Err(format!("the workspace has {work:?},\n    not {must:?}; {:?}", self.work));
        }
        let lives = || found.names.values().filter_map(|named| named.now());
        let histories =
            lives().flat_map(|life| [&life.main].into_iter().chain(life.sides.values().map(|side| &side.0)));
        let records = histories.map(|history| history.now().len() as u64).sum();
        let files = must.map_or(0, |must| must.len() as u64);
        Ok(Seen { sessions: lives().count() as u64, records, files })
    }
}

/// Files are known from the checkpoints of the view here, not from head moves.
fn undo(content: &mut Content) {
    content.undo(&Files::default());
}

fn redo(content: &mut Content) {
    content.redo(&Files::default());
}

/// That nothing is damaged.
pub(crate) fn sound(store: &Store) -> Result<(), String> {
    let report = store.verify(None, |_| {}).map_err(|error| format!("verify: {error}"))?;
    let objects = store.objects().verify().map_err(|error| format!("verify objects: {error}"))?;
    if !report.is_sound() || !objects.is_empty() {
        return Err(format!("this is called damage: {report:?} {objects:?}"));
    }
    Ok(())
}

/// That the list is what the transcripts say, and what a rebuilt list says, and that nobody has a session open.
fn check_list(place: &Place, store: &Store, found: &Model) -> Result<(), String> {
    let listed = store.entries().map_err(|error| format!("list: {error}"))?;
    if let Some(live) = listed.iter().find(|entry| entry.live) {
        return Err(format!("{} is said to be open", live.key));
    }
    let shown = |entry: &forklog::Entry| (entry.key.session.to_string(), entry.records, entry.title.clone());
    let listed = comparable(listed);
    let wanted = found.names.iter().filter_map(|(name, named)| {
        let content = named.now()?.main.now();
        let title = content.meta.get("title").and_then(|title| title.as_str()).map(str::to_owned);
        Some(((*name).to_owned(), content.len() as u64, title))
    });
    let (shown, wanted): (Vec<_>, Vec<_>) = (listed.iter().map(shown).collect(), wanted.collect());
    if shown != wanted {
        return Err(format!("the list shows {shown:?}, not {wanted:?}"));
    }
    check_rebuilt(place, &listed)
}

/// That a list which is made of the transcripts alone is this one.
pub(crate) fn check_rebuilt(place: &Place, listed: &[forklog::Entry]) -> Result<(), String> {
    let copy = tempfile::tempdir().map_err(|error| error.to_string())?;
    let copied = Place(place.store()).copy_to(copy.path()).map_err(|error| format!("copy: {error}"))?;
    let rebuilt = Store::open(&copied.0).and_then(|store| store.reindex().and_then(|_| store.entries()));
    let rebuilt = comparable(rebuilt.map_err(|error| format!("reindex: {error}"))?);
    if listed != rebuilt {
        return Err(format!("the list is {listed:?},\n    rebuilt {rebuilt:?}"));
    }
    Ok(())
}
