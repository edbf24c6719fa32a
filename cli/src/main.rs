//! The command line of forklog.
fn main() {}
