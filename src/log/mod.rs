//! One transcript file: reading it from either side, finding its end, and appending to it.

pub(crate) mod append;
pub(crate) mod back;
pub(crate) mod ends;
pub(crate) mod files;
pub(crate) mod find;
pub(crate) mod large;
pub(crate) mod lineage;
pub(crate) mod note;
pub(crate) mod recover;
pub(crate) mod scan;
pub(crate) mod state;
pub(crate) mod transcript;
pub(crate) mod walk;
