//! Processes that are killed at any moment, on a file system that lives on.

use std::time::Duration;

use forklog_sim::{Rng, derive};

use crate::child::Player;
use crate::crowd;
use crate::judge::{End, Judge};
use crate::place::Place;
use crate::program::Program;
use crate::report::Report;
use crate::worker::Task;
use crate::{Asked, play};

/// Workers that use one store, one after another, until a new one begins.
const LIVES: u64 = 20;

pub(crate) fn run(asked: &Asked) -> Result<Report, String> {
    let mut report = Report::new("kill", "kills");
    let mut round = 0;
    while !report.enough(asked, 500) {
        let seed = derive(asked.seed, round);
        let dir = tempfile::Builder::new().prefix("torture-").tempdir_in(&asked.dir).map_err(|e| e.to_string())?;
        // Every fourth store is one on which several work at once.
        let done = if round % 4 == 3 {
            crowd::round(seed, dir.path(), &mut report)
        } else {
            program(seed, dir.path(), &mut report)
        };
        if let Err(wrong) = done {
            report.violation(&format!("round {round}: {wrong}"), dir);
        }
        round += 1;
    }
    Ok(report)
}

/// One worker after another on one store, each killed.
fn program(seed: u64, dir: &std::path::Path, report: &mut Report) -> Result<(), String> {
    let place = Place::make(dir).map_err(|error| error.to_string())?;
    let mut judge = Judge::new(Program(0), End::Killed);
    for life in 0..LIVES {
        let program = Program(derive(seed, life));
        judge.next(program);
        let mut rng = Rng::new(program.0);
        let task =
            Task { place: place.clone(), program, steps: (1_000 * life, 1_000 * life + 999), synced: false, log: None };
        let mut player = Player::start(&play::worker(&task)).map_err(|error| error.to_string())?;
        for _ in 0..rng.below(160) {
            let line = player.line().ok_or_else(|| player.end())?;
            judge.hear(&line)?;
        }
        // Most operations take less than this.
        std::thread::sleep(Duration::from_micros(rng.below(600) as u64));
        for line in player.kill().map_err(|error| error.to_string())? {
            judge.hear(&line)?;
        }
        report.cycles += 1;
        report.struck += 1;
        let open = rng.chance(1, 2);
        report.seen(judge.look(&place, open).map_err(|wrong| format!("life {life}: {wrong}"))?);
    }
    Ok(())
}
