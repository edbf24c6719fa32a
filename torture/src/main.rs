//! Real processes that are killed, real file systems that lose their disk, real system calls that fail.
//!
//! `soak/` does this and more in a simulation, which knows what it does to the engine, and nothing of what a kernel does. Here a worker, a
//! process of its own, uses the public API and says through a pipe what was acknowledged; then something happens to it, and a
//! [`judge`] looks at what is left.

mod blocklog;
mod child;
mod crowd;
mod failing;
mod judge;
mod kill;
mod mount;
mod place;
mod play;
mod powercut;
mod program;
mod report;
mod syscalls;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::report::Report;

const USAGE: &str = "usage: forklog-torture KIND... [--count N] [--seconds N] [--seed S] [--dir DIR]

  kill        processes are killed with SIGKILL while they work
  powercut    file systems lose their disk while processes work: ext4 and XFS, or that of --fs
  blocklog    every state that a disk may be left in, from a log of its writes and flushes
  syscalls    system calls of the command line fail, one after another
  failing     devices whose writes fail, below ext4 and XFS, and disks without room that have some again

  --count N   kills, power cuts, images, failing calls: how many of each kind
  --seconds N how long each kind may take
  --seed S    what the workers do; the time of a blow is not the same twice
  --dir DIR   where stores are made; the directory for temporary files otherwise
  --disks DIR where file systems are made; memory (/dev/shm) otherwise
  --fs NAME   ext4, xfs or btrfs

What a machine cannot run (loop mounts need root, system calls strace) is named, and counts as not run.";

/// How far to go.
struct Asked {
    kinds: Vec<String>,
    count: Option<u64>,
    seconds: Option<u64>,
    seed: u64,
    dir: PathBuf,
    disks: PathBuf,
    fs: Option<mount::Kind>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Asked> {
    let (kinds, dir, disks) = (Vec::new(), std::env::temp_dir(), PathBuf::from("/dev/shm"));
    let mut asked = Asked { kinds, count: None, seconds: None, seed: 1, dir, disks, fs: None };
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            asked.kinds.push(arg);
            continue;
        }
        let value = args.next()?;
        let number = value.replace('_', "").parse();
        match arg.as_str() {
            "--count" => asked.count = Some(number.ok()?),
            "--seconds" => asked.seconds = Some(number.ok()?),
            "--seed" => asked.seed = number.ok()?,
            "--dir" => asked.dir = PathBuf::from(value),
            "--disks" => asked.disks = PathBuf::from(value),
            "--fs" => asked.fs = Some(mount::Kind::of(&value)?),
            _ => return None,
        }
    }
    (!asked.kinds.is_empty()).then_some(asked)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == play::PLAY) {
        return match play::run(&args[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let Some(asked) = parse(args.into_iter()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if rustix::process::geteuid().is_root() && std::env::var_os(mount::APART).is_none() {
        return match mount::apart() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                println!("nothing was run: {why}");
                ExitCode::FAILURE
            }
        };
    }
    if std::env::var_os(mount::APART).is_some()
        && let Err(error) = child::end_with_parent()
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut sound = true;
    for kind in &asked.kinds {
        let file_systems = asked.fs.map_or(vec![mount::Kind::Ext4, mount::Kind::Xfs], |only| vec![only]);
        let each = |run: fn(mount::Kind, &Asked) -> Result<Report, String>| -> Vec<Result<Report, String>> {
            file_systems.iter().map(|fs| run(*fs, &asked).map_err(|why| format!("{}: {why}", fs.name()))).collect()
        };
        let runs = match kind.as_str() {
            "kill" => vec![kill::run(&asked)],
            "powercut" => each(powercut::run),
            "failing" => each(failing::device).into_iter().chain([failing::full(&asked)]).collect(),
            "blocklog" => vec![blocklog::run(&asked)],
            "syscalls" => vec![syscalls::run(&asked)],
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        };
        for run in runs {
            match run {
                Ok(report) => sound &= report.end(),
                Err(why) => println!("{kind}: NOT RUN: {why}"),
            }
        }
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
