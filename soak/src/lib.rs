//! Programs that run on forklog and on a model of it, with the power cut at every disk call.
//!
//! [`Case::of`] makes a program of a seed. [`Case::run`] runs it on a [`World`]: the engine on a simulated disk, and beside it a
//! [`model`] that keeps, for every transcript, the states it went through and which of them a power cut must leave. Before
//! every sync, or every call, the disk is cloned as a power cut may leave it; [`check_image`] opens each clone, reads it with the engine and
//! with an independent reader, compares both with the model, verifies it, writes to it, collects its garbage, and cuts it again.
//!
//! The tests of the library use this crate for a bounded share. The program runs for as long as it is told:
//!
//! ```text
//! cargo run --release -p forklog-soak -- --images 1000000
//! cargo run --release -p forklog-soak -- --seed 0x5000000000000007
//! ```

mod case;
mod check;
mod faults;
pub mod model;
mod trial;
mod world;

pub use case::{Case, Effort, Family, OPS, beginnings};
pub use check::{
    Snapshots, StoreFiles, Tails, Tally, check_image, check_live, check_quarantine, comparable, files, images, records,
    resolve, resolve_files, tails,
};
pub use faults::{FaultCase, KillCase, PROGRAM, WHATS};
pub use trial::{Trial, Unit};
pub use world::{
    Between, Did, NAMES, Op, PROCESSES, ROOT, SIDE, Step, WORK, World, all_options, key, new_record, open_store, path,
    side_name,
};
