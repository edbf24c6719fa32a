//! The parts that processes of this program play, as arguments.

use std::io;
use std::path::PathBuf;

use crate::child::end_with_parent;
use crate::crowd;
use crate::place::Place;
use crate::program::Program;
use crate::worker::{self, Task};

/// The first argument of a process that plays a part.
pub(crate) const PLAY: &str = "play";

pub(crate) fn worker(task: &Task) -> Vec<String> {
    let Task { place, program, steps, synced, log } = task;
    let log = log.as_ref().map_or(String::new(), |log| log.display().to_string());
    [
        PLAY,
        "worker",
        &place.0.display().to_string(),
        &program.0.to_string(),
        &steps.0.to_string(),
        &steps.1.to_string(),
        if *synced { "1" } else { "0" },
        &log,
    ]
    .map(str::to_owned)
    .to_vec()
}

pub(crate) fn member(role: &str, dir: &std::path::Path, seed: u64, id: u64) -> Vec<String> {
    [PLAY, role, &dir.display().to_string(), &seed.to_string(), &id.to_string()].map(str::to_owned).to_vec()
}

/// Plays the part that the arguments say.
pub(crate) fn run(args: &[String]) -> io::Result<()> {
    end_with_parent()?;
    let bad = || io::Error::other(format!("no such part: {args:?}"));
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok()).ok_or_else(bad);
    let dir = PathBuf::from(args.get(1).ok_or_else(bad)?);
    match args.first().map(String::as_str) {
        Some("worker") => worker::run(&Task {
            place: Place(dir),
            program: Program(number(2)?),
            steps: (number(3)?, number(4)?),
            synced: number(5)? == 1,
            log: args.get(6).filter(|log| !log.is_empty()).map(PathBuf::from),
        }),
        Some(role @ ("writer" | "reader")) => crowd::play(role, &dir, number(2)?, number(3)?),
        _ => Err(bad()),
    }
}
