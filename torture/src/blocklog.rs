//! Block log.

use std::path::Path;

/// How many entries.
pub(crate) fn entries(_log: &Path) -> u64 {
    0
}
