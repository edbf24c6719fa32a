//! Calls that go wrong.

use std::io;

use crate::op::Op;

/// An error of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// `ENOSPC`: the disk is full.
    NoSpace,
    /// `EDQUOT`: the user's share is used up.
    Quota,
    /// `EIO`: the device fails.
    Io,
    /// `EROFS`: the file system has turned read-only.
    ReadOnly,
    /// `EINTR`: a signal came.
    Interrupted,
}

impl Errno {
    /// Every one of them.
    pub const ALL: [Self; 5] = [Self::NoSpace, Self::Quota, Self::Io, Self::ReadOnly, Self::Interrupted];

    /// The error as a caller gets it; on Linux with the operating system's own number.
    #[must_use]
    pub fn error(self) -> io::Error {
        #[cfg(target_os = "linux")]
        return io::Error::from_raw_os_error(match self {
            Self::NoSpace => 28,
            Self::Quota => 122,
            Self::Io => 5,
            Self::ReadOnly => 30,
            Self::Interrupted => 4,
        });
        #[cfg(not(target_os = "linux"))]
        io::Error::from(match self {
            Self::NoSpace => io::ErrorKind::StorageFull,
            Self::Quota => io::ErrorKind::QuotaExceeded,
            Self::Io => io::ErrorKind::Other,
            Self::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            Self::Interrupted => io::ErrorKind::Interrupted,
        })
    }

    /// Whether a call of this kind ever returns this error; a full disk does not refuse to read or to cut.
    #[must_use]
    pub fn can_hit(self, op: Op) -> bool {
        match self {
            Self::NoSpace | Self::Quota => op.needs_space(),
            Self::ReadOnly => op.changes(),
            Self::Io | Self::Interrupted => true,
        }
    }
}

/// What happens to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// It fails and does nothing.
    Fail(Errno),
    /// It fails although it has done its work: a write a part from the front, of a length the seed chooses (a short
    /// write), everything else the whole.
    FailAfter(Errno),
    /// A file's sync fails and forgets what it should have written: readers still see it, no later sync writes it, and
    /// the next sync succeeds, as on ext4 and XFS.
    LoseDirty(Errno),
    /// As `LoseDirty`, and where the file had grown it does not help to write the same bytes again, as on ext4: they come back as zeros,
    /// unless the file was cut there first, or what is known of it [forgotten](forklog::disk::File::forget).
    LoseForGood(Errno),
    /// As `LoseDirty`, but some of it reaches the device first, in any subset and torn.
    LoseSomeDirty(Errno),
    /// A read or map returns its bytes with one bit flipped; the disk itself is not changed.
    FlipBit,
}

impl What {
    fn can_hit(self, op: Op) -> bool {
        match self {
            Self::Fail(errno) | Self::FailAfter(errno) => errno.can_hit(op),
            Self::LoseDirty(_) | Self::LoseForGood(_) | Self::LoseSomeDirty(_) => op == Op::Sync,
            Self::FlipBit => matches!(op, Op::Read | Op::Map),
        }
    }
}

/// A rule for calls to come: which one goes wrong, how, and whether only that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    what: What,
    /// Calls that match and still go well.
    spared: u64,
    op: Option<Op>,
    in_path: Option<String>,
    lasting: bool,
}

impl Fault {
    /// The `n`-th call from now that this can happen to, counted from 1, goes wrong; the next one is well again.
    #[must_use]
    pub fn at(n: u64, what: What) -> Self {
        Self { what, spared: n.saturating_sub(1), op: None, in_path: None, lasting: false }
    }

    /// Counts only calls of one kind.
    #[must_use]
    pub fn on(self, op: Op) -> Self {
        Self { op: Some(op), ..self }
    }

    /// Counts only calls on paths in which this occurs. For a rename that is the old name.
    #[must_use]
    pub fn in_path(self, part: &str) -> Self {
        Self { in_path: Some(part.to_owned()), ..self }
    }

    /// From the `n`-th on, every call that matches goes wrong.
    #[must_use]
    pub fn lasting(self) -> Self {
        Self { lasting: true, ..self }
    }

    fn matches(&self, op: Op, path: &std::path::Path) -> bool {
        self.what.can_hit(op)
            && self.op.is_none_or(|only| only == op)
            && self.in_path.as_ref().is_none_or(|part| path.to_string_lossy().contains(part))
    }
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Fault>,
    pub(crate) hits: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.rules.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What is to happen to a call, if anything. Every rule counts every call that it matches.
    pub(crate) fn strike(&mut self, op: Op, path: &std::path::Path) -> Option<What> {
        let mut struck = None;
        self.rules.retain_mut(|rule| {
            if !rule.matches(op, path) {
                return true;
            }
            if rule.spared > 0 {
                rule.spared -= 1;
                return true;
            }
            struck = struck.or(Some(rule.what));
            rule.lasting
        });
        self.hits += u64::from(struck.is_some());
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn strikes(fault: Fault, ops: &[Op]) -> Vec<bool> {
        let mut faults = Faults::default();
        faults.add(fault);
        ops.iter().map(|&op| faults.strike(op, Path::new("/store/index/body")).is_some()).collect()
    }

    #[test]
    fn once_or_lasting_and_only_what_it_can_happen_to() {
        let full = What::Fail(Errno::NoSpace);
        let ops = [Op::Read, Op::Write, Op::Cut, Op::Write, Op::Write, Op::Sync];
        assert_eq!(strikes(Fault::at(2, full), &ops), [false, false, false, true, false, false]);
        assert_eq!(strikes(Fault::at(2, full).lasting(), &ops), [false, false, false, true, true, true]);
        assert_eq!(strikes(Fault::at(1, full).on(Op::Sync), &ops), [false, false, false, false, false, true]);
        assert_eq!(strikes(Fault::at(1, full).in_path("objects").lasting(), &ops), [false; 6]);
        assert!(strikes(Fault::at(1, full).in_path("index/").lasting(), &ops).contains(&true));
        assert_eq!(strikes(Fault::at(1, What::FlipBit).lasting(), &ops), [true, false, false, false, false, false]);
    }

    #[test]
    fn errors_have_the_kinds_that_the_engine_looks_at() {
        let kinds = Errno::ALL.map(|errno| errno.error().kind());
        assert_eq!(kinds[0], io::ErrorKind::StorageFull);
        assert_eq!(kinds[1], io::ErrorKind::QuotaExceeded);
        assert_eq!(kinds[3], io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kinds[4], io::ErrorKind::Interrupted);
    }
}
