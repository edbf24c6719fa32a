//! A disk that drops, tears, reorders and fails, to put behind forklog in tests.
//!
//! [`SimDisk`] is a whole file system in memory. The engine uses it through a [`Process`], which is a
//! [`Disk`](forklog::disk::Disk); the harness holds the [`SimDisk`] and decides what goes wrong. There is no clock and
//! no hidden randomness: the same calls with the same seed give the same bytes, on every machine and in every version.
//!
//! ```
//! use std::path::Path;
//! use forklog::disk::{Disk, How};
//! use forklog_sim::{Cut, SimDisk};
//!
//! let disk = SimDisk::new(1);
//! let process = disk.process();
//! let file = process.open(Path::new("/a"), How::CreateNew)?;
//! file.write_at(b"kept", 0)?;
//! file.sync()?;
//! process.sync_dir(Path::new("/"))?;
//! file.write_at(b" or not", 4)?;
//!
//! assert_eq!(**disk.after(Cut::Nothing).peek(Path::new("/a"))?, *b"kept");
//! assert_eq!(**disk.after(Cut::Everything).peek(Path::new("/a"))?, *b"kept or not");
//! assert_eq!(**disk.after(Cut::Sizes).peek(Path::new("/a"))?, *b"kept\0\0\0\0\0\0\0");
//! for (cut, image) in disk.snapshot().images(7, 100) {
//!     assert!(image.peek(Path::new("/a"))?.starts_with(b"kept"), "{}", image.report(cut));
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What a program sees
//!
//! What Linux shows: open files outlive their names, a rename replaces a file or an empty directory, a lock belongs to
//! the open file, and changing its mode gives it back first. Two departures: a directory cannot be opened as a file
//! nor a file synced as a directory, and a watch never sleeps. There are no hard links. The number of a file that is
//! gone is given to the next one that is made.
//!
//! A [`SimWorkspace`] is a directory of the same disk as a [`Workspace`](forklog::workspace::Workspace), with symbolic
//! links and with modes, which bind its one user; so store and files meet the same power cut. Its syncs do what their
//! contract says and no more: never a whole file system.
//!
//! # What a power cut leaves
//!
//! **Bytes.** A sync makes what was written stable. Of what was written and cut since, anything may be left: each write
//! may be lost, whole, torn at any byte or at sectors of 512 bytes, or in disorder; each cut may have happened or not;
//! the length goes its own way, so that a file may end in zeros or may not count bytes that are there. What cannot be
//! left: a byte that was never there, or a change to bytes that were synced and not written since. A reordering of two
//! writes to the same bytes is the case that the later one is lost.
//!
//! **Names.** Each create, rename and remove is left as a whole or not at all, and surely once all of its directories
//! have been synced, *and* those directories' own names are stable. So a rename between two directories may be undone
//! until both are synced, and syncing a new directory is worth nothing before its parent is synced. Until then
//! [`Cut::Journal`] keeps everything up to some moment, and [`Cut::Subset`] any set in which no change stands without
//! an earlier one on the same name or the same file: no file has two names, and none that is only renamed is lost.
//! Syncing a file says nothing about its name.
//!
//! **Modes.** A change of mode is left or not, and surely once the file or directory itself has been synced. Times and
//! numbers of files are always left as they were last, also beside older bytes.
//!
//! **Nothing else.** Processes, locks, open files, files without a name, faults and capacity are gone.
//!
//! # What else goes wrong
//!
//! A [`Fault`] strikes the N-th call that it can happen to, once or from then on: errors with nothing done, or with the
//! work done or half done (short writes), reads with a flipped bit, and syncs that fail once, lose what they should
//! have written and succeed the next time. [`SimDisk::set_capacity`] makes a disk that is really full,
//! [`SimDisk::stop_after`] turns the power off after so many calls, [`Process::kill`] ends a program, and
//! [`SimDisk::damage`] changes bytes at rest.
//!
//! # How a harness looks for bugs
//!
//! [`SimDisk::on_point`] hands it a [`Snapshot`] before every sync, directory sync and rename (or every call) while the
//! run goes on. A snapshot costs a reference count, and [`Snapshot::images`] are the disks it may turn into. When one
//! is wrong, [`SimDisk::report`] has the seed, the cut and the last calls.

mod crash;
mod data;
mod disk;
mod fault;
mod fs;
mod machine;
mod names;
pub mod objects;
mod op;
pub mod reader;
mod rng;
pub mod through;
mod ticks;
mod workspace;

pub use crash::{Cut, Snapshot};
pub use disk::{Point, Points, Process, SimDisk};
pub use fault::{Errno, Fault, What};
pub use op::{Counts, Op};
pub use rng::{Rng, derive};
pub use ticks::Ticks;
pub use workspace::SimWorkspace;
