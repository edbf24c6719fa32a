//! What checkpoints promise when things go wrong. One binary, so that it links once.
#![cfg(unix)]

mod ends;
mod faults;
mod foes;
mod gc;
mod world;
