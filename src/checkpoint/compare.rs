//! Comparing two states of a directory tree, looking one path up, and grafting changes into a tree.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::snapshot::{Node, put_tree};
use crate::error::{Error, Result};
use crate::format::tree::Named;
use crate::ids::ObjectId;
use crate::objects::{Batch, Entry, EntryKind, ObjectStore, read_tree};
use crate::workspace::RelPath;

/// A tree nested deeper than this was not written by this crate.
const MAX_DEPTH: usize = 256;
/// No tree is looked into at more paths than this: a few forged ones that name each other over and over would never end.
const MAX_ALIKE: u32 = 1 << 16;

/// At how many paths each stored tree was met.
type Met = HashMap<ObjectId, u32>;

/// One of the two states.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side<'a> {
    Absent,
    Stored(Entry),
    Live(&'a Node),
}

/// A path at which they differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Difference {
    pub(super) one: Option<Entry>,
    pub(super) other: Option<Entry>,
}

impl<'a> Side<'a> {
    pub(super) fn entry(&self) -> Option<Entry> {
        match self {
            Self::Absent => None,
            Self::Stored(entry) => Some(*entry),
            Self::Live(node) => Some(node.entry),
        }
    }

    fn children(&self, objects: &ObjectStore) -> Result<BTreeMap<Vec<u8>, Self>> {
        match self {
            Self::Stored(entry) if entry.kind == EntryKind::Directory => {
                let names = read_tree(objects, entry)?;
                Ok(names.into_iter().map(|named| (named.name, Self::Stored(named.entry))).collect())
            }
            Self::Live(node) => Ok(node.children.iter().map(|(name, node)| (name.clone(), Self::Live(node))).collect()),
            Self::Absent | Self::Stored(_) => Ok(BTreeMap::new()),
        }
    }
}

/// Whether two states are the same to who looks at this path alone: a directory's content is its own paths' affair.
pub(super) fn alike(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) if one.kind == EntryKind::Directory && other.kind == EntryKind::Directory => {
            one.mode == other.mode
        }
        (one, other) => one == other,
    }
}

/// Every path at which two states differ, the root's own mode aside; a directory before what it holds.
///
/// Directories with the same id are not looked into, so the cost is that of what differs. One directory with
/// the same content at more than 65,536 paths is [`Error::Corrupt`].
pub(super) fn compare(
    objects: &ObjectStore,
    one: Side<'_>,
    other: Side<'_>,
    visit: &mut dyn FnMut(RelPath, Difference),
) -> Result<()> {
    compare_below(objects, &RelPath::root(), one, other, 0, &mut Met::new(), visit)
}

fn compare_below(
    objects: &ObjectStore,
    path: &RelPath,
    one: Side<'_>,
    other: Side<'_>,
    depth: usize,
    met: &mut Met,
    visit: &mut dyn FnMut(RelPath, Difference),
) -> Result<()> {
    let tree = |side: &Side<'_>| side.entry().filter(|entry| entry.kind == EntryKind::Directory).map(|entry| entry.id);
    if tree(&one) == tree(&other) {
        return Ok(());
    }
    if MAX_DEPTH < depth {
        return Err(Error::corrupt(&path.to_path(), 0, "trees are nested too deep"));
    }
    for side in [&one, &other] {
        if let Side::Stored(Entry { kind: EntryKind::Directory, id, .. }) = side {
            let times = met.entry(*id).or_default();
            *times += 1;
            if MAX_ALIKE < *times {
                return Err(Error::corrupt(&path.to_path(), 0, "a tree is at too many paths"));
            }
        }
    }
    let mut others = other.children(objects)?;
    let ones = one.children(objects)?;
    let mut pairs: BTreeMap<Vec<u8>, (Side<'_>, Side<'_>)> = BTreeMap::new();
    for (name, one) in ones {
        let other = others.remove(&name).unwrap_or(Side::Absent);
        pairs.insert(name, (one, other));
    }
    pairs.extend(others.into_iter().map(|(name, other)| (name, (Side::Absent, other))));
    for (name, (one, other)) in pairs {
        let path = path.join(&name);
        if !alike(one.entry().as_ref(), other.entry().as_ref()) {
            visit(path.clone(), Difference { one: one.entry(), other: other.entry() });
        }
        compare_below(objects, &path, one, other, depth + 1, met, visit)?;
    }
    Ok(())
}

/// Looks paths up in stored trees, reading each tree once.
pub(super) struct Lookup<'a> {
    objects: &'a ObjectStore,
    trees: HashMap<ObjectId, Rc<Vec<Named>>>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(objects: &'a ObjectStore) -> Self {
        Self { objects, trees: HashMap::new() }
    }

    /// What `path` is in the tree, if anything.
    pub(super) fn find(&mut self, tree: &Entry, path: &RelPath) -> Result<Option<Entry>> {
        let mut here = *tree;
        for name in path.names() {
            if here.kind != EntryKind::Directory {
                return Ok(None);
            }
            let names = self.tree(&here)?;
            match names.binary_search_by(|named| named.name.as_slice().cmp(name)) {
                Ok(at) => match names.get(at) {
                    Some(named) => here = named.entry,
                    None => return Ok(None),
                },
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn tree(&mut self, entry: &Entry) -> Result<Rc<Vec<Named>>> {
        if let Some(names) = self.trees.get(&entry.id) {
            return Ok(Rc::clone(names));
        }
        let names = Rc::new(read_tree(self.objects, entry)?);
        self.trees.insert(entry.id, Rc::clone(&names));
        Ok(names)
    }
}

/// What a path is in the workspace as it was found.
pub(super) fn find_live<'n>(root: &'n Node, path: &RelPath) -> Option<&'n Node> {
    path.names().try_fold(root, |node, name| {
        let at = node.children.binary_search_by(|(found, _)| found.as_slice().cmp(name)).ok()?;
        node.children.get(at).map(|(_, node)| node)
    })
}

/// What is left of a path, and what it becomes.
type Graft<'p> = (Vec<&'p [u8]>, Option<Entry>);

/// What a directory brings along that is grafted into a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grafted {
    /// Nothing: what it holds are changes of their own.
    Alone,
    /// What its tree holds, where nothing is yet.
    Whole,
}

/// The tree `base` with some paths changed; directories on the way are made where they are missing.
pub(super) fn graft(
    objects: &ObjectStore,
    batch: &Batch<'_>,
    base: &Entry,
    changes: &BTreeMap<RelPath, Option<Entry>>,
    grafted: Grafted,
) -> Result<Entry> {
    let list: Vec<Graft<'_>> = changes.iter().map(|(path, entry)| (path.names().collect(), *entry)).collect();
    graft_below(objects, batch, Some(base), base.mode, &list, grafted)
}

/// `changes` are paths below this directory, as what is left of them; a directory's own change only sets its mode.
fn graft_below(
    objects: &ObjectStore,
    batch: &Batch<'_>,
    base: Option<&Entry>,
    mode: u16,
    changes: &[Graft<'_>],
    grafted: Grafted,
) -> Result<Entry> {
    const MADE_MODE: u16 = 0o755;
    let base = base.filter(|base| base.kind == EntryKind::Directory);
    let names = base.map_or(Ok(Vec::new()), |base| read_tree(objects, base))?;
    let mut names: BTreeMap<Vec<u8>, Entry> = names.into_iter().map(|named| (named.name, named.entry)).collect();
    let mut by_name: BTreeMap<&[u8], Vec<Graft<'_>>> = BTreeMap::new();
    for (path, entry) in changes {
        if let Some((first, rest)) = path.split_first() {
            by_name.entry(first).or_default().push((rest.to_vec(), *entry));
        }
    }
    for (name, changes) in by_name {
        let old = names.get(name).copied();
        let own = changes.iter().find(|(rest, _)| rest.is_empty()).map(|(_, entry)| *entry);
        let below: Vec<_> = changes.into_iter().filter(|(rest, _)| !rest.is_empty()).collect();
        let new = match own.unwrap_or(old) {
            Some(entry) if entry.kind == EntryKind::Directory => {
                let base = old.or((grafted == Grafted::Whole).then_some(entry));
                Some(graft_below(objects, batch, base.as_ref(), entry.mode, &below, grafted)?)
            }
            Some(entry) if below.iter().all(|(_, state)| state.is_none()) => Some(entry),
            None if below.iter().all(|(_, state)| state.is_none()) => None,
            Some(_) | None => Some(graft_below(objects, batch, None, MADE_MODE, &below, grafted)?),
        };
        match new {
            Some(entry) => drop(names.insert(name.to_owned(), entry)),
            None => drop(names.remove(name)),
        }
    }
    put_tree(Some(batch), base.map(|base| base.id), mode, names.iter().map(|(name, entry)| (&name[..], entry)))
}
