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
    /// The views that undoing brings back, newest last.
    pub undo: Vec<Vec<Item>>,
    /// The views that redoing brings back, newest last.
    pub redo: Vec<Vec<Item>>,
    /// Head moves so far: two states may look alike and have other things to undo.
    pub moves: usize,
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
}

/// A transcript of a session: the main one, or the side one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which(pub &'static str, pub Option<&'static str>);

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
        self.moves += 1;
        let view = self.upto(keep);
        self.undo.push(std::mem::replace(&mut self.view, view));
        self.redo.clear();
    }

    /// Takes back a rewind.
    pub fn undo(&mut self) {
        self.moves += 1;
        if let Some(view) = self.undo.pop() {
            self.redo.push(std::mem::replace(&mut self.view, view));
        }
    }

    /// Takes back an undo.
    pub fn redo(&mut self) {
        self.moves += 1;
        if let Some(view) = self.redo.pop() {
            self.undo.push(std::mem::replace(&mut self.view, view));
        }
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
