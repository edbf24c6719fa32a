//! The engine's promises, by theme. One binary, so that it links once.

mod crash;
mod cut_files;
mod damage;
mod engine;
mod format_page;
mod io_error;
mod maps;
mod old_store;
mod parting;
mod process;
mod recovery;
mod spill;
mod threads;
