//! What can be chosen when a store is opened.

use std::path::Path;
use std::sync::Arc;

use super::Store;
use crate::digest::{AgentDigest, Digest};
use crate::disk::{Disk, OsDisk};
use crate::error::{Error, Result};
use crate::format::line::MAX_LEN;
use crate::session::Durability;
use crate::time::{Env, OsEnv};

/// The longest line that a writer writes unless it is told otherwise: 64 MiB.
const MAX_LINE: u64 = 64 << 20;

/// How a [`Store`] is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) env: Arc<dyn Env>,
    pub(super) digest: Arc<dyn Digest>,
    pub(super) durability: Durability,
    pub(super) max_line: u64,
    pub(super) spill_over: Option<u64>,
    pub(super) create: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl StoreOptions {
    /// The defaults: the operating system's disk and clock, [`AgentDigest`], [`Durability::Write`], lines of at most 64 MiB, and a
    /// store is made where there is none.
    #[must_use]
    pub fn new() -> Self {
        Self {
            disk: Arc::new(OsDisk),
            env: Arc::new(OsEnv),
            digest: Arc::new(AgentDigest),
            durability: Durability::default(),
            max_line: MAX_LINE,
            spill_over: None,
            create: true,
        }
    }

    /// Puts the store on another disk: a simulated one, in tests.
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Takes clock and randomness from elsewhere.
    #[must_use]
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    /// Looks at payloads with another digest. Stores are not tied to one: what another digest left is made again.
    #[must_use]
    pub fn digest(mut self, digest: Arc<dyn Digest>) -> Self {
        self.digest = digest;
        self
    }

    /// What appends survive, where a session is not opened with something else.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The longest line that is written, in bytes, at most 1 GiB. Longer ones that are there already are read all the same.
    #[must_use]
    pub fn max_line(mut self, bytes: u64) -> Self {
        self.max_line = bytes;
        self
    }

    /// Keeps payloads longer than so many bytes out of transcripts, where a session is not opened with something else: they become objects, compressed
    /// and stored once in the whole store, and are read back as if nothing had happened. Off by default.
    ///
    /// The line says which object, so programs that read the file themselves see that instead. An append with such a payload costs one sync of the
    /// objects, whatever the [`Durability`]: a line never survives a crash without its payload. The limit of a line does not hold for
    /// these payloads; they have at most 1 GiB.
    #[must_use]
    pub fn spill_over(mut self, bytes: u64) -> Self {
        self.spill_over = Some(bytes);
        self
    }

    /// Refuses, with [`Error::NotFound`], to make a store where there is none.
    #[must_use]
    pub fn existing(mut self) -> Self {
        self.create = false;
        self
    }

    /// Opens the store in `root`.
    ///
    /// A store that was made survives a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::BadArgument`] for a line limit that makes no sense, [`Error::Corrupt`] and [`Error::Newer`] of
    /// `store.json`, [`Error::Full`], [`Error::Io`] (where `root` is a file, say).
    pub fn open(self, root: impl AsRef<Path>) -> Result<Store> {
        if !(1024..=MAX_LEN as u64).contains(&self.max_line) {
            return Err(Error::BadArgument { why: "the limit of a line is 1024 bytes to 1 GiB".to_owned() });
        }
        Store::with_options(self, root.as_ref())
    }
}
