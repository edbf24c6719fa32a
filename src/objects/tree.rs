//! Trees as objects.

use super::{Entry, EntryKind, ObjectStore};
use crate::error::{Error, Result};
use crate::format::pack::Bad;
use crate::format::tree::{self, Named};
use crate::ids::ObjectKind;

/// The names in the directory that `entry` stands for; its length must be what the entry says.
pub(crate) fn read_tree(store: &ObjectStore, entry: &Entry) -> Result<Vec<Named>> {
    debug_assert_eq!(entry.kind, EntryKind::Directory, "only a directory has a tree");
    let bytes = store.get(ObjectKind::Tree, entry.id, entry.size.min(tree::MAX_TREE))?;
    let bad = |why| Error::corrupt(&store.dir.join(entry.id.to_string()), 0, why);
    if bytes.len() as u64 != entry.size {
        return Err(bad("a tree is shorter than its entry says"));
    }
    tree::decode(&bytes).map_err(|found| match found {
        Bad::Torn => bad("a tree ends within an entry"),
        Bad::Corrupt(why) => bad(why),
        Bad::Newer => Error::Newer {
            path: store.dir.join(entry.id.to_string()),
            at: crate::Offset::new(0),
            what: "this tree".to_owned(),
        },
    })
}
