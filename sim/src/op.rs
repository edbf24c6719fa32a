//! The calls that a disk serves, and how often each was made.

/// One kind of call of [`Disk`](forklog::disk::Disk) or [`File`](forklog::disk::File), or of a
/// [`Workspace`](forklog::workspace::Workspace) in terms of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opening a file that is there.
    Open,
    /// Opening a file that is made by it.
    Create,
    /// `create_dir`.
    CreateDir,
    /// `rename`.
    Rename,
    /// `remove_file`.
    RemoveFile,
    /// `remove_dir`.
    RemoveDir,
    /// `list`.
    List,
    /// `stat`.
    Stat,
    /// `sync_dir`.
    SyncDir,
    /// `watch`, and each wait.
    Watch,
    /// `len`.
    Len,
    /// `read_at`.
    Read,
    /// `write_at`.
    Write,
    /// `set_len` that shortens, or leaves the length as it is.
    Cut,
    /// `set_len` that makes longer.
    Extend,
    /// `sync`.
    Sync,
    /// `try_lock`.
    Lock,
    /// `unlock`.
    Unlock,
    /// `file_id`.
    FileId,
    /// `map`.
    Map,
    /// `set_mode` of a workspace.
    SetMode,
}

impl Op {
    /// Every kind.
    pub const ALL: [Self; 21] = [
        Self::Open,
        Self::Create,
        Self::CreateDir,
        Self::Rename,
        Self::RemoveFile,
        Self::RemoveDir,
        Self::List,
        Self::Stat,
        Self::SyncDir,
        Self::Watch,
        Self::Len,
        Self::Read,
        Self::Write,
        Self::Cut,
        Self::Extend,
        Self::Sync,
        Self::Lock,
        Self::Unlock,
        Self::FileId,
        Self::Map,
        Self::SetMode,
    ];

    /// Whether the call changes what a power cut may leave.
    #[must_use]
    pub fn changes(self) -> bool {
        self.needs_space()
            || matches!(self, Self::RemoveFile | Self::RemoveDir | Self::Cut | Self::SyncDir | Self::SetMode)
    }

    /// Whether the call may fail for lack of space.
    #[must_use]
    pub fn needs_space(self) -> bool {
        matches!(self, Self::Create | Self::CreateDir | Self::Rename | Self::Write | Self::Extend | Self::Sync)
    }

    /// Whether the call orders or publishes what went before: a sync, a directory sync or a rename.
    #[must_use]
    pub fn is_barrier(self) -> bool {
        matches!(self, Self::Sync | Self::SyncDir | Self::Rename)
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How much a disk was used. Tests prove costs with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    calls: [u64; Op::ALL.len()],
    /// Bytes that `write_at` was given, and took.
    pub bytes_written: u64,
    /// Bytes that `read_at` returned; maps are not counted.
    pub bytes_read: u64,
}

impl Counts {
    /// Calls of one kind, failed ones included.
    #[must_use]
    pub fn of(&self, op: Op) -> u64 {
        self.calls[op.index()]
    }

    /// All calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// What was used since an earlier count of the same disk.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut calls = self.calls;
        calls.iter_mut().zip(earlier.calls).for_each(|(now, before)| *now -= before);
        Self {
            calls,
            bytes_written: self.bytes_written - earlier.bytes_written,
            bytes_read: self.bytes_read - earlier.bytes_read,
        }
    }

    pub(crate) fn add(&mut self, op: Op) {
        self.calls[op.index()] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_count() {
        for (i, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op.index(), i);
        }
    }
}
