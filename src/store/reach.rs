//! Whether what a record about files refers to can be read.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::checkpoint::read_blob;
use crate::error::{Kind, Result};
use crate::ids::ObjectId;
use crate::objects::{Entry, EntryKind, ObjectStore, read_tree};

/// Trees nested deeper than this were not written by this crate.
const MAX_DEPTH: usize = 256;

/// The objects that have been read, each once however many checkpoints reach it.
pub(super) struct Reached<'s> {
    pub(super) objects: &'s ObjectStore,
    /// For each what is wrong with it or with what it needs.
    read: Mutex<HashMap<ObjectId, Option<String>>>,
}

impl<'s> Reached<'s> {
    pub(super) fn new(objects: &'s ObjectStore) -> Self {
        Self { objects, read: Mutex::default() }
    }

    /// Reads an object, and for a tree all below it; returns what is wrong first.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io). Damage is none.
    pub(super) fn check(&self, entry: &Entry) -> Result<Option<String>> {
        self.check_below(entry, 0)
    }

    fn check_below(&self, entry: &Entry, depth: usize) -> Result<Option<String>> {
        if let Some(known) = self.read().get(&entry.id) {
            return Ok(known.clone());
        }
        let found = match self.look(entry, depth) {
            Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer | Kind::NotFound) => Some(error.to_string()),
            found => found?,
        };
        self.read().insert(entry.id, found.clone());
        Ok(found)
    }

    fn look(&self, entry: &Entry, depth: usize) -> Result<Option<String>> {
        if entry.kind != EntryKind::Directory {
            return read_blob(self.objects, entry).map(|_| None);
        }
        if MAX_DEPTH < depth {
            return Ok(Some("trees are nested too deep".to_owned()));
        }
        let mut first = None;
        for named in read_tree(self.objects, entry)? {
            if let Some(why) = self.check_below(&named.entry, depth + 1)? {
                let name = String::from_utf8_lossy(&named.name);
                let end = if named.entry.kind == EntryKind::Directory { "/" } else { ": " };
                first.get_or_insert(format!("{name}{end}{why}"));
            }
        }
        Ok(first)
    }

    fn read(&self) -> MutexGuard<'_, HashMap<ObjectId, Option<String>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
