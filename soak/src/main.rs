//! Cuts the power until it is told to stop, and says what it found.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forklog_soak::{Tally, Trial, Unit};

const USAGE: &str = "usage: forklog-soak [--images N] [--seconds N] [--from N] [--first N] [--threads N] [--seed S]

Cuts the power in every program of one and two operations, makes every call of a program fail in every way, kills every
operation at every call, and then cuts the power in drawn programs of three operations and of more, until so many disks
were opened or so many seconds are over: whichever comes first. Without either, 60 seconds.

  --images N   disks to open
  --seconds N  seconds to take
  --from N     draw programs from this number on, so that another run tries others
  --threads N  1 unless said otherwise
  --first N    begin with this unit; `faults` for the first that is no program
  --seed S     run this case alone, as often as you like; the way a violation is replayed";

/// How far to go.
#[derive(Clone, Copy)]
struct Asked {
    images: Option<u64>,
    seconds: Option<u64>,
    from: u64,
    first: u64,
    threads: u64,
    seed: Option<u64>,
}

fn parse() -> Option<Asked> {
    let mut asked = Asked { images: None, seconds: None, from: 0, first: 0, threads: 1, seed: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next()?;
        if (arg.as_str(), value.as_str()) == ("--first", "faults") {
            asked.first = Unit::programs();
            continue;
        }
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.replace('_', "").parse(),
        };
        let number = number.ok()?;
        match arg.as_str() {
            "--images" => asked.images = Some(number),
            "--seconds" => asked.seconds = Some(number),
            "--from" => asked.from = number,
            "--first" => asked.first = number,
            "--threads" => asked.threads = number.max(1),
            "--seed" => asked.seed = Some(number),
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> ExitCode {
    let Some(asked) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match asked.seed {
        Some(seed) => replay(seed),
        None => soak(asked),
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one case; true when nothing is wrong.
fn replay(seed: u64) -> bool {
    let trial = Trial::of(seed);
    println!("seed {seed:#x}: {trial:?}");
    let mut tally = Tally::default();
    let tried = trial.run(&mut tally);
    println!("{tally:?}, {}", if tried.is_ok() { "no violation" } else { "VIOLATION" });
    if let Err(wrong) = &tried {
        println!("{wrong}");
    }
    tried.is_ok()
}

/// Runs cases one after another; true when nothing was wrong.
fn soak(asked: Asked) -> bool {
    let begun = Instant::now();
    let limit = match (asked.images, asked.seconds) {
        (None, None) => Some(Duration::from_secs(60)),
        (_, seconds) => seconds.map(Duration::from_secs),
    };
    let all = Unit::finite();
    println!("{all} units that have an end, then programs drawn from number {} on", asked.from);
    let (next, images, violated) = (AtomicU64::new(asked.first), AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new((Tally::default(), Vec::<String>::new(), Duration::ZERO));
    let enough = || {
        asked.images.is_some_and(|most| most <= images.load(Ordering::Relaxed))
            || limit.is_some_and(|limit| limit <= begun.elapsed())
            || violated.load(Ordering::Relaxed)
    };
    let work = || {
        while !enough() {
            let unit = Unit::of(next.fetch_add(1, Ordering::Relaxed), asked.from);
            let mut tally = Tally::default();
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unit.run(1, &mut tally)));
            let checked = checked.unwrap_or_else(|_| Err(format!("panicked in {unit:?}")));
            images.fetch_add(tally.images, Ordering::Relaxed);
            let Ok(mut total) = total.lock() else { return };
            total.0.add(&tally);
            if let Err(wrong) = checked {
                println!("{wrong}");
                total.1.push(format!("{unit:x?}"));
                violated.store(true, Ordering::Relaxed);
            }
            if total.2 + Duration::from_secs(30) <= begun.elapsed() {
                total.2 = begun.elapsed();
                println!("{:6.0} s: {:?}", total.2.as_secs_f64(), total.0);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(work);
        }
    });
    let Ok((tally, wrong, _)) = total.into_inner() else { return false };
    let Tally { images, again, programs } = tally;
    println!(
        "{programs} programs, {images} images, {again} of them after a second power cut, {} violations, {:.0} s",
        wrong.len(),
        begun.elapsed().as_secs_f64(),
    );
    let reached = next.into_inner();
    if reached < all {
        println!("{} units that have an end were not reached", all - reached);
    }
    for unit in &wrong {
        println!("violation: {unit}");
    }
    wrong.is_empty()
}
