//! What a store must say, kept so simply that it cannot be wrong: every transcript is a list of the states that its
//! operations made, with a mark of how many of them a power cut must leave.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A record: its payload and its id.
pub type Rec = (String, Option<String>);

/// Files by their paths, with their contents.
pub type Files = BTreeMap<String, Bytes>;

/// The content of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    /// Its length, and its beginning.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = self.0.get(..12).unwrap_or(&self.0);
        write!(f, "{} bytes {:?}", self.0.len(), String::from_utf8_lossy(start))
    }
}

/// A part of a view.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A record.
    Record(Rec),
    /// A checkpoint: its label, and the files that it has.
    Checkpoint(String, Files),
}

/// What a transcript says at some moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// Records and checkpoints, in order.
    pub view: Vec<Item>,
    /// Metadata.
    pub meta: Map<String, Value>,
    /// What undoing brings back, newest last.
    pub undo: Vec<Back>,
    /// What redoing brings back, newest last.
    pub redo: Vec<Back>,
    /// Head moves so far: two states may look alike and have other things to undo.
    pub moves: usize,
}

/// What was there before a head move.
#[derive(Clone, Debug, PartialEq)]
pub struct Back {
    /// The view, unless the move left it alone.
    pub view: Option<Vec<Item>>,
    /// All files of the workspace, if it moved files.
    pub files: Option<Files>,
}

/// A head move that moves files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the newest checkpoint with a record behind it.
    Rewind,
    /// The files alone, to the newest checkpoint.
    Revert,
    /// Takes back a head move.
    Undo,
    /// Takes back an undo.
    Redo,
}

/// A head move of files that has begun: it leaves the files, and whether there is a record of it, both as before or both as after.
#[derive(Clone, Debug)]
pub struct Moving {
    /// Which transcript gets the record.
    pub which: Which,
    /// What was said before.
    pub from: Content,
    /// What is done.
    pub step: Step,
    /// The files before.
    pub before: Files,
    /// The files afterwards.
    pub after: Files,
}

/// A transcript from its creation on.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// One for every operation, in order. The last one is what the processes see.
    pub states: Vec<Content>,
    /// The oldest state that a power cut may leave.
    pub floor: usize,
}

/// One life of a session, from its creation to its deletion.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The main transcript.
    pub main: History,
    /// Side transcripts, with whether they must be there after a power cut.
    pub sides: BTreeMap<String, (History, bool)>,
}

/// A name and what it has stood for.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// `None` while there was no session of that name. The last one is what the processes see.
    pub lives: Vec<Option<Life>>,
    /// The oldest one that a power cut may leave.
    pub floor: usize,
}

/// A store.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Every name that was ever used.
    pub names: BTreeMap<&'static str, Named>,
    /// Numbers records, so that no two are alike.
    pub count: u64,
    /// The workspace. Whatever changes it is synced at once.
    pub files: Files,
    /// What may or may not have been done to the workspace since.
    pub moving: Option<Moving>,
    /// A move of files that came to nothing, but of which a power cut may bring the journal back.
    pub returning: Option<Moving>,
}

/// A transcript of a session: the main one, or the side one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which(pub &'static str, pub Option<&'static str>);

impl Moving {
    /// The same, of files that are `now`, since the user went on before the journal was found.
    #[must_use]
    pub fn of(&self, now: &Files) -> Self {
        let (mut before, mut after) = (self.before.clone(), now.clone());
        let set = |files: &mut Files, path: &String, bytes: Option<&Bytes>| match bytes {
            Some(bytes) => drop(files.insert(path.clone(), bytes.clone())),
            None => drop(files.remove(path)),
        };
        for path in self.changed() {
            if now.get(path) != self.after.get(path) {
                set(&mut before, path, now.get(path));
            }
            set(&mut after, path, self.after.get(path));
        }
        Self { before, after, ..self.clone() }
    }

    /// Whether a journal with this payload (FORMAT.md, section 16) is its own.
    #[must_use]
    pub fn is_of(&self, payload: &[u8]) -> bool {
        let Ok(journal) = serde_json::from_slice::<Value>(payload) else { return false };
        let step = |name| journal.pointer("/step").and_then(|step| step.get(name));
        let same_step = match self.step {
            Step::Rewind => step("rewind").is_some_and(Value::is_object),
            Step::Revert => step("rewind").is_some_and(Value::is_null),
            Step::Undo => step("undo").is_some(),
            Step::Redo => step("redo").is_some(),
        };
        let session = journal.pointer("/session").and_then(Value::as_str);
        let records = journal.pointer("/head/records").and_then(Value::as_u64);
        same_step && (session, records) == (Some(self.which.0), Some(self.from.len() as u64))
    }

    /// Whether files that are `now` look as if it had begun.
    #[must_use]
    pub fn has_begun(&self, now: &Files) -> bool {
        self.changed().any(|path| now.get(path) == self.after.get(path))
    }

    fn changed(&self) -> impl Iterator<Item = &String> {
        let all = self.before.keys().chain(self.after.keys());
        all.filter(|path| self.before.get(*path) != self.after.get(*path))
    }
}

impl History {
    /// A transcript that is found in this state.
    #[must_use]
    pub fn of(content: Content) -> Self {
        Self { states: vec![content], floor: 0 }
    }

    /// What the processes see.
    #[must_use]
    pub fn now(&self) -> Content {
        self.states.last().cloned().unwrap_or_default()
    }

    /// What a power cut may leave.
    #[must_use]
    pub fn possible(&self) -> &[Content] {
        &self.states[self.floor..]
    }
}

impl Named {
    /// What the processes see.
    #[must_use]
    pub fn now(&self) -> Option<&Life> {
        self.lives.last()?.as_ref()
    }

    /// What a power cut may leave.
    pub fn possible(&self) -> impl Iterator<Item = Option<&Life>> {
        let never = self.lives.is_empty().then_some(None);
        self.lives.iter().skip(self.floor).map(Option::as_ref).chain(never)
    }
}

impl Model {
    /// The session that a name stands for.
    #[must_use]
    pub fn life(&self, name: &str) -> Option<&Life> {
        self.names.get(name)?.now()
    }

    fn life_mut(&mut self, name: &str) -> Option<&mut Life> {
        self.names.get_mut(name)?.lives.last_mut()?.as_mut()
    }

    /// A transcript from its creation on.
    #[must_use]
    pub fn history(&self, which: Which) -> Option<&History> {
        let life = self.life(which.0)?;
        match which.1 {
            None => Some(&life.main),
            Some(side) => life.sides.get(side).map(|side| &side.0),
        }
    }

    fn history_mut(&mut self, which: Which) -> Option<&mut History> {
        let life = self.life_mut(which.0)?;
        match which.1 {
            None => Some(&mut life.main),
            Some(side) => life.sides.get_mut(side).map(|side| &mut side.0),
        }
    }

    /// What a transcript says.
    #[must_use]
    pub fn now(&self, which: Which) -> Content {
        self.history(which).map(History::now).unwrap_or_default()
    }

    /// The number of the state in which a transcript is.
    #[must_use]
    pub fn state(&self, which: Which) -> usize {
        self.history(which).map_or(0, |history| history.states.len() - 1)
    }

    /// A payload that was never there.
    pub fn fresh(&mut self) -> String {
        self.count += 1;
        json!({ "n": self.count, "pad": "x".repeat(usize::try_from(self.count % 5).unwrap_or(0) * 20) }).to_string()
    }

    /// Begins a life with this content.
    pub fn create(&mut self, name: &'static str, content: Content) {
        let named = self.names.entry(name).or_insert_with(|| Named { lives: vec![None], floor: 0 });
        named.lives.push(Some(Life { main: History::of(content), sides: BTreeMap::new() }));
    }

    /// Ends the life of a name.
    pub fn delete(&mut self, name: &'static str) {
        if let Some(named) = self.names.get_mut(name) {
            named.lives.push(None);
        }
    }

    /// What the name stands for now survives from here on.
    pub fn keep_name(&mut self, name: &'static str) {
        if let Some(named) = self.names.get_mut(name) {
            named.floor = named.lives.len() - 1;
        }
    }

    /// A transcript up to this state survives from here on.
    pub fn keep(&mut self, which: Which, state: usize) {
        self.keep_name(which.0);
        if let Some(history) = self.history_mut(which) {
            history.floor = history.floor.max(state);
        }
        if let (Some(side), Some(life)) = (which.1, self.life_mut(which.0))
            && let Some(side) = life.sides.get_mut(side)
        {
            side.1 = true;
        }
    }

    /// Adds the state that an operation makes.
    pub fn push(&mut self, which: Which, change: impl FnOnce(&mut Content)) {
        let Some(history) = self.history_mut(which) else { return };
        let mut next = history.now();
        change(&mut next);
        history.states.push(next);
    }

    /// What the processes see is `found`; what a power cut may leave stays what it was.
    pub fn sees(&mut self, found: &Self) {
        for (name, seen) in &found.names {
            let Some(named) = self.names.get_mut(name) else { continue };
            let before = named.lives.iter().rev().flatten().next().cloned();
            let life = seen.now().map(|seen| {
                let mut life = before.unwrap_or_default();
                life.main.states.push(seen.main.now());
                for (side, (history, _)) in &mut life.sides {
                    history.states.extend(seen.sides.get(side).map(|side| side.0.now()));
                }
                life
            });
            named.lives.push(life);
        }
    }

    /// A side transcript that is about to be made, unless it is there.
    pub fn make_side(&mut self, name: &'static str, side: &'static str) {
        if let Some(life) = self.life_mut(name) {
            life.sides.entry(side.to_owned()).or_insert_with(|| (History::of(Content::default()), false));
        }
    }
}

impl Content {
    /// The records of the view.
    pub fn records(&self) -> impl Iterator<Item = &Rec> {
        self.view.iter().filter_map(|item| match item {
            Item::Record(record) => Some(record),
            Item::Checkpoint(..) => None,
        })
    }

    /// How many records the view has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records().count()
    }

    /// Whether the view has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The view up to and including the record with this number, counted from 1; all of a view without records.
    #[must_use]
    pub fn upto(&self, keep: usize) -> Vec<Item> {
        let is_record = |(_, item): &(usize, &Item)| matches!(item, Item::Record(_));
        let last = keep.checked_sub(1).and_then(|n| self.view.iter().enumerate().filter(is_record).nth(n));
        last.map_or_else(|| self.view.clone(), |(at, _)| self.view[..=at].to_vec())
    }

    /// Appends records whose ids are not there yet.
    pub fn add(&mut self, records: Vec<Rec>) {
        for record in records {
            let known = record.1.is_some() && self.records().any(|(_, id)| *id == record.1);
            if !known {
                self.view.push(Item::Record(record));
            }
        }
    }

    /// Goes back to so many records.
    pub fn rewind(&mut self, keep: usize) {
        let view = self.upto(keep);
        self.go(Some(view), None);
    }

    /// Goes to `view`, if there is one, while the files were `files`, if they move.
    pub fn go(&mut self, view: Option<Vec<Item>>, files: Option<Files>) {
        self.moves += 1;
        let view = view.map(|view| std::mem::replace(&mut self.view, view));
        self.undo.push(Back { view, files });
        self.redo.clear();
    }

    /// Takes back a head move, while the files are `now`.
    pub fn undo(&mut self, now: &Files) {
        if let Some(back) = self.undo.pop() {
            let back = self.swap(back, now);
            self.redo.push(back);
        }
    }

    /// Takes back an undo, while the files are `now`.
    pub fn redo(&mut self, now: &Files) {
        if let Some(back) = self.redo.pop() {
            let back = self.swap(back, now);
            self.undo.push(back);
        }
    }

    /// Where a move of files leads: the place of the checkpoint in the view, if it is to one, and the files.
    #[must_use]
    pub fn goal(&self, step: Step) -> Option<(Option<usize>, Files)> {
        let last = self.view.iter().rposition(|item| matches!(item, Item::Record(_)));
        let before = match step {
            // With a record behind it, that is not where the conversation is already: then it would be left alone.
            Step::Rewind => last.unwrap_or(0),
            Step::Revert => self.view.len(),
            Step::Undo => return Some((None, self.undo.last()?.files.clone()?)),
            Step::Redo => return Some((None, self.redo.last()?.files.clone()?)),
        };
        self.view[..before].iter().enumerate().rev().find_map(|(at, item)| match item {
            Item::Checkpoint(_, files) => Some((Some(at), files.clone())),
            Item::Record(_) => None,
        })
    }

    /// Moves the files, which were `now`, and with them the view.
    pub fn move_files(&mut self, step: Step, now: &Files) {
        match (step, self.goal(step)) {
            (Step::Rewind, Some((Some(at), _))) => self.go(Some(self.view[..=at].to_vec()), Some(now.clone())),
            (Step::Undo, _) => self.undo(now),
            (Step::Redo, _) => self.redo(now),
            _ => self.go(None, Some(now.clone())),
        }
    }

    /// What a move of files that was cut off makes of the conversation when it is carried on: one that has gone on since stays where it is.
    #[must_use]
    pub fn carried_on(&self, moving: &Moving) -> Self {
        let mut next = self.clone();
        if self.stands_as(&moving.from) {
            next.move_files(moving.step, &moving.before);
        } else {
            next.go(None, Some(moving.before.clone()));
        }
        next
    }

    /// Whether it has the records and head moves that it had then.
    #[must_use]
    pub fn stands_as(&self, then: &Self) -> bool {
        (self.moves, self.len()) == (then.moves, then.len())
    }

    fn swap(&mut self, back: Back, now: &Files) -> Back {
        self.moves += 1;
        let view = back.view.map(|view| std::mem::replace(&mut self.view, view));
        Back { view, files: back.files.map(|_| now.clone()) }
    }

    /// Changes metadata.
    pub fn patch(&mut self, patch: &Value) {
        for (name, value) in patch.as_object().into_iter().flatten() {
            self.meta.insert(name.clone(), value.clone());
        }
    }

    /// Whether a reader sees no difference.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.view == other.view && self.meta == other.meta
    }
}
