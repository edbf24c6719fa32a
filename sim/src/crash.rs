//! What a power cut leaves: snapshots of a running disk, and the disks that they may turn into.

use std::fmt;
use std::sync::Arc;

use crate::data::Fate as DataFate;
use crate::disk::{Origin, SimDisk};
use crate::fs::Fs;
use crate::names::Fate as NamesFate;
use crate::rng::derive;

/// A disk at one moment, with all that it has not yet made stable. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) fs: Arc<Fs>,
    pub(crate) origin: Origin,
    /// The calls made before this moment.
    pub(crate) call: u64,
}

/// How the power goes: which unsynced names and bytes come through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Nothing that is unsynced survives.
    Nothing,
    /// Everything survives, as after a killed process.
    Everything,
    /// Names and lengths survive, bytes do not: files grow as zeros.
    Sizes,
    /// Names survive, files are as they were last synced.
    Names,
    /// Files are as they were last written, names as they were last synced.
    Data,
    /// Bytes by the seed; of the changes to names all up to some moment, as on a file system with an ordered journal.
    Journal(u64),
    /// Bytes by the seed; of the changes to names any set that makes sense.
    Subset(u64),
}

impl Cut {
    /// The cuts that no seed chooses.
    pub const CANONICAL: [Self; 5] = [Self::Nothing, Self::Everything, Self::Sizes, Self::Names, Self::Data];

    /// The `n`-th random cut of a seed; the two ways to treat names take turns.
    #[must_use]
    pub fn random(seed: u64, n: u64) -> Self {
        let seed = derive(seed, n);
        if n.is_multiple_of(2) { Self::Journal(seed) } else { Self::Subset(seed) }
    }

    fn names(self) -> NamesFate {
        match self {
            Self::Nothing | Self::Data => NamesFate::Lost,
            Self::Everything | Self::Sizes | Self::Names => NamesFate::Kept,
            Self::Journal(seed) => NamesFate::Prefix(seed),
            Self::Subset(seed) => NamesFate::Subset(seed),
        }
    }

    fn data(self, ino: u64) -> DataFate {
        match self {
            Self::Nothing | Self::Names => DataFate::Lost,
            Self::Everything | Self::Data => DataFate::Kept,
            Self::Sizes => DataFate::Sizes,
            Self::Journal(seed) | Self::Subset(seed) => DataFate::Random(derive(seed, ino)),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cut::{self:?}")
    }
}

impl Snapshot {
    /// Whether a power cut at this moment changes nothing, so that one image is all there is to check.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.fs.is_stable()
    }

    /// The calls that had been made before this moment.
    #[must_use]
    pub fn call(&self) -> u64 {
        self.call
    }

    /// The disk after a power cut at this moment. It is a new disk: no process, lock, fault or capacity is carried over.
    #[must_use]
    pub fn after(&self, cut: Cut) -> SimDisk {
        let names = self.fs.names.after(cut.names());
        SimDisk::holding(self.fs.left(&names, |ino| cut.data(ino)), self.origin.after(self.call, cut))
    }

    /// The disk after every process was killed at this moment: nothing is lost, what is unsynced still is, and the machine runs on.
    #[must_use]
    pub fn killed(&self) -> SimDisk {
        SimDisk::holding(Fs::clone(&self.fs), self.origin.clone())
    }

    /// The canonical images and then `n` random ones. Only one when nothing is unsynced, as all would be the same.
    pub fn images(&self, seed: u64, n: u64) -> impl Iterator<Item = (Cut, SimDisk)> + '_ {
        let random = (0..n).map(move |i| Cut::random(seed, i));
        let most = if self.is_stable() { 1 } else { usize::MAX };
        Cut::CANONICAL.into_iter().chain(random).take(most).map(|cut| (cut, self.after(cut)))
    }
}
