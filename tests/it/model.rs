//! What a store must say, kept so simply that it cannot be wrong: every transcript is a list of the states that its
//! operations made, with a mark of how many of them a power cut must leave.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A record: its payload and its id.
pub(crate) type Rec = (String, Option<String>);

/// What a transcript says at some moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) view: Vec<Rec>,
    pub(crate) meta: Map<String, Value>,
    pub(crate) undo: Vec<Vec<Rec>>,
    pub(crate) redo: Vec<Vec<Rec>>,
    /// Head moves so far: two states may look alike and have other things to undo.
    pub(crate) moves: usize,
}

/// A transcript from its creation on.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// One for every operation, in order. The last one is what the process sees.
    pub(crate) states: Vec<Content>,
    /// The oldest state that a power cut may leave.
    pub(crate) floor: usize,
}

impl History {
    pub(crate) fn of(content: Content) -> Self {
        Self { states: vec![content], floor: 0 }
    }

    pub(crate) fn now(&self) -> Content {
        self.states.last().cloned().unwrap_or_default()
    }

    pub(crate) fn possible(&self) -> &[Content] {
        &self.states[self.floor..]
    }
}

/// One life of a session, from its creation to its deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) main: History,
    /// Side transcripts, with whether they must be there after a power cut.
    pub(crate) sides: BTreeMap<String, (History, bool)>,
}

/// A name and what it has stood for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    /// `None` while there was no session of that name. The last one is what the process sees.
    pub(crate) lives: Vec<Option<Life>>,
    /// The oldest one that a power cut may leave.
    pub(crate) floor: usize,
}

impl Named {
    pub(crate) fn now(&self) -> Option<&Life> {
        self.lives.last()?.as_ref()
    }

    pub(crate) fn possible(&self) -> impl Iterator<Item = Option<&Life>> {
        let never = self.lives.is_empty().then_some(None);
        self.lives.iter().skip(self.floor).map(Option::as_ref).chain(never)
    }
}

/// A store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) names: BTreeMap<&'static str, Named>,
    /// Numbers records, so that no two are alike.
    pub(crate) count: u64,
}

/// A transcript of a session: the main one, or the side one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Which(pub(crate) &'static str, pub(crate) Option<&'static str>);

impl Model {
    pub(crate) fn life(&self, name: &str) -> Option<&Life> {
        self.names.get(name)?.now()
    }

    fn life_mut(&mut self, name: &str) -> Option<&mut Life> {
        self.names.get_mut(name)?.lives.last_mut()?.as_mut()
    }

    pub(crate) fn history(&self, which: Which) -> Option<&History> {
        let life = self.life(which.0)?;
        match which.1 {
            None => Some(&life.main),
            Some(side) => life.sides.get(side).map(|side| &side.0),
        }
    }

    pub(crate) fn history_mut(&mut self, which: Which) -> Option<&mut History> {
        let life = self.life_mut(which.0)?;
        match which.1 {
            None => Some(&mut life.main),
            Some(side) => life.sides.get_mut(side).map(|side| &mut side.0),
        }
    }

    pub(crate) fn now(&self, which: Which) -> Content {
        self.history(which).map(History::now).unwrap_or_default()
    }

    pub(crate) fn fresh(&mut self) -> String {
        self.count += 1;
        json!({ "n": self.count, "pad": "x".repeat(usize::try_from(self.count % 5).unwrap_or(0) * 20) }).to_string()
    }

    /// Begins a life with this content.
    pub(crate) fn create(&mut self, name: &'static str, content: Content) {
        let named = self.names.entry(name).or_insert_with(|| Named { lives: vec![None], floor: 0 });
        named.lives.push(Some(Life { main: History::of(content), sides: BTreeMap::new() }));
    }

    pub(crate) fn delete(&mut self, name: &'static str) {
        if let Some(named) = self.names.get_mut(name) {
            named.lives.push(None);
        }
    }

    /// What the name stands for now survives from here on.
    pub(crate) fn keep_name(&mut self, name: &'static str) {
        if let Some(named) = self.names.get_mut(name) {
            named.floor = named.lives.len() - 1;
        }
    }

    /// All of this transcript survives from here on.
    pub(crate) fn keep(&mut self, which: Which) {
        self.keep_name(which.0);
        if let Some(history) = self.history_mut(which) {
            history.floor = history.states.len() - 1;
        }
        if let (Some(side), Some(life)) = (which.1, self.life_mut(which.0))
            && let Some(side) = life.sides.get_mut(side)
        {
            side.1 = true;
        }
    }

    /// Adds the state that an operation makes.
    pub(crate) fn push(&mut self, which: Which, change: impl FnOnce(&mut Content)) {
        let Some(history) = self.history_mut(which) else { return };
        let mut next = history.now();
        change(&mut next);
        history.states.push(next);
    }

    pub(crate) fn make_side(&mut self, name: &'static str, side: &'static str) {
        if let Some(life) = self.life_mut(name) {
            life.sides.entry(side.to_owned()).or_insert_with(|| (History::of(Content::default()), false));
        }
    }
}

impl Content {
    pub(crate) fn add(&mut self, records: Vec<Rec>) {
        for record in records {
            let known = record.1.is_some() && self.view.iter().any(|(_, id)| *id == record.1);
            if !known {
                self.view.push(record);
            }
        }
    }

    pub(crate) fn rewind(&mut self, keep: usize) {
        self.moves += 1;
        self.undo.push(self.view.clone());
        self.redo.clear();
        self.view.truncate(keep);
    }

    pub(crate) fn undo(&mut self) {
        self.moves += 1;
        if let Some(view) = self.undo.pop() {
            self.redo.push(std::mem::replace(&mut self.view, view));
        }
    }

    pub(crate) fn redo(&mut self) {
        self.moves += 1;
        if let Some(view) = self.redo.pop() {
            self.undo.push(std::mem::replace(&mut self.view, view));
        }
    }

    pub(crate) fn patch(&mut self, patch: &Value) {
        for (name, value) in patch.as_object().into_iter().flatten() {
            self.meta.insert(name.clone(), value.clone());
        }
    }

    /// What a reader can see of it.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.view == other.view && self.meta == other.meta
    }
}
