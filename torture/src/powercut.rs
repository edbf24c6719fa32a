//! File systems that lose their disk while a worker is at work, and come back with what is on it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use forklog_sim::{Rng, derive};

use crate::child::Player;
use crate::crowd::{self, Crowd};
use crate::judge::{End, Judge};
use crate::mount::{Kind, Mount, missing, restart};
use crate::place::Place;
use crate::program::Program;
use crate::report::Report;
use crate::worker::Task;
use crate::{Asked, play};

/// Power cuts of one store, until a new one begins.
const LIVES: u64 = 12;

pub(crate) fn run(kind: Kind, asked: &Asked) -> Result<Report, String> {
    if let Some(why) = missing(kind) {
        return Err(why);
    }
    let mut report = Report::new(format!("powercut on {}", kind.name()), "power cuts");
    let disk = tempfile::Builder::new().prefix("torture-disk-").tempdir_in(&asked.disks).map_err(|e| e.to_string())?;
    let image = disk.path().join("image");
    File::create(&image).and_then(|file| file.set_len(kind.size())).map_err(|error| error.to_string())?;
    kind.make(&image)?;
    let at = disk.path().join("mounted");
    let mount = Mount::new(kind, &image, &at)?;
    mount.shut_down().map_err(|error| format!("{} cannot be shut down: {error}", kind.name()))?;
    mount.end()?;
    let mut round = 0;
    while !report.enough(asked, 300) {
        let seed = derive(asked.seed, round);
        let dir = at.join(round.to_string());
        let machine = Machine { kind, image: &image, at: &at, dir: &dir };
        let done = if round % 4 == 3 { machine.crowd(seed, &mut report) } else { machine.program(seed, &mut report) };
        if let Err(wrong) = done {
            report.violation(&format!("round {round}, in {}: {wrong}", dir.display()), disk);
            break;
        }
        round += 1;
    }
    Ok(report)
}

struct Machine<'a> {
    kind: Kind,
    image: &'a Path,
    at: &'a Path,
    /// A directory on the file system.
    dir: &'a Path,
}

impl Machine<'_> {
    fn start(&self) -> Result<Mount, String> {
        restart(self.image.parent().unwrap_or(self.image))?;
        Mount::new(self.kind, self.image, self.at)
    }

    /// One worker after another on one store, each with a power cut.
    fn program(&self, seed: u64, report: &mut Report) -> Result<(), String> {
        let mut mount = self.start()?;
        let place = self.begin(Place::make(self.dir).map_err(|error| error.to_string())?)?;
        let mut judge = Judge::new(Program(0), End::PowerCut);
        for life in 0..LIVES {
            let program = Program(derive(seed, life));
            judge.next(program);
            let mut rng = Rng::new(program.0);
            let steps = (1_000 * life, 1_000 * life + 999);
            let task = Task { place: place.clone(), program, steps, synced: true, log: None };
            let mut player = Player::start(&play::worker(&task)).map_err(|error| error.to_string())?;
            for _ in 0..rng.below(160) {
                judge.hear(&player.line().ok_or_else(|| player.end())?)?;
            }
            std::thread::sleep(Duration::from_micros(rng.below(600) as u64));
            for line in player.said_by_now() {
                judge.hear(&line)?;
            }
            mount.shut_down().map_err(|error| format!("shut down: {error}"))?;
            while let Some(line) = player.line_within(Duration::from_millis(20)) {
                judge.hear_late(&line)?;
            }
            for line in player.kill().map_err(|error| error.to_string())? {
                judge.hear_late(&line)?;
            }
            mount.end()?;
            mount = self.start()?;
            report.cycles += 1;
            report.struck += 1;
            let seen = judge.look(&place, rng.chance(1, 2)).map_err(|wrong| format!("life {life}: {wrong}"))?;
            report.seen(seen);
            if judge.is_unsure {
                break;
            }
        }
        self.finish(mount)
    }

    /// Several writers and a reader on one session.
    fn crowd(&self, seed: u64, report: &mut Report) -> Result<(), String> {
        let mut mount = self.start()?;
        let mut rng = Rng::new(seed);
        for life in 0..4 {
            let place = self.begin(crowd::found(&self.dir.join(life.to_string()))?)?;
            let mut crowd = Crowd::start(derive(seed, life), &place)?;
            crowd.work(Duration::from_micros(5_000 + rng.below(60_000) as u64))?;
            crowd.heard.late = true;
            mount.shut_down().map_err(|error| format!("shut down: {error}"))?;
            let cut = crowd::now();
            crowd.work(Duration::from_millis(3))?;
            crowd.end()?;
            mount.end()?;
            mount = self.start()?;
            report.cycles += 3;
            report.struck += 1;
            let seen = crowd.heard.look(&place, End::PowerCut).map_err(|wrong| {
                format!("crowd {life}, {:?}, cut before {cut}: {wrong}", crowd::options(derive(seed, life)))
            })?;
            report.seen(seen);
        }
        self.finish(mount)
    }

    /// The directories that a caller gives the engine are the caller's to sync.
    fn begin(&self, place: Place) -> Result<Place, String> {
        let dirs = [place.imports(), place.workspace(), place.0.clone(), self.dir.to_owned(), self.at.to_owned()];
        let sync = |dir: &std::path::PathBuf| File::open(dir).and_then(|dir| dir.sync_all());
        dirs.iter().try_for_each(sync).map_err(|error| error.to_string())?;
        Ok(place)
    }

    fn finish(&self, mount: Mount) -> Result<(), String> {
        std::fs::remove_dir_all(self.dir).map_err(|error| error.to_string())?;
        mount.end()
    }
}
