//! The engine's promises, by theme. One binary, so that it links once.

mod engine;
