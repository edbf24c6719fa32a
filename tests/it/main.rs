//! The engine's promises, by theme. One binary, so that it links once.

mod crash;
mod engine;
mod format_page;
mod model;
mod world;
