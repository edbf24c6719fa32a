//! Everything that can be tried, each with a seed that names it.

use crate::case::{Case, Family};
use crate::check::Tally;
use crate::faults::{FaultCase, KillCase};

/// One thing to try.
#[derive(Clone, Debug)]
pub enum Trial {
    /// A program with power cuts.
    Case(Case),
    /// A program in which a call fails.
    Fault(FaultCase),
    /// An operation whose process is killed on the way.
    Kill(KillCase),
}

/// The first four bits of the seeds of faults and kills; those of programs are those of their [`Family`].
const FAULT: u64 = 0xe;
const KILL: u64 = 0xf;

fn seed(first: u64, kind: u64, n: u64) -> u64 {
    first << 60 | kind << 32 | n
}

impl Trial {
    /// What a seed names.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let (kind, n) = (seed << 4 >> 36, seed & u64::from(u32::MAX));
        match seed >> 60 {
            FAULT => Self::Fault(FaultCase::of(kind, n)),
            KILL => Self::Kill(KillCase::of(kind, n)),
            _ => Self::Case(Case::of(seed)),
        }
    }

    /// Tries it. Returns whether there was anything to try: a fault may have no call left to strike.
    ///
    /// # Errors
    ///
    /// What is wrong, and how to do it again.
    pub fn run(&self, tally: &mut Tally) -> Result<bool, String> {
        match self {
            Self::Case(case) => case.check(tally).map(|()| true),
            Self::Fault(case) => case.run(tally),
            Self::Kill(case) => case.run(tally),
        }
    }
}

/// A part of a soak: one case, or one fault or kill at every call in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The program of this seed.
    Program(u64),
    /// One kind of fault.
    Faults(u64),
    /// One kind of kill.
    Kills(u64),
}

impl Unit {
    /// How many units are programs that are not drawn. Faults come behind them, then kills.
    #[must_use]
    pub fn programs() -> u64 {
        Family::ALL.iter().filter_map(|family| family.count()).sum()
    }

    /// How many units are not drawn.
    #[must_use]
    pub fn finite() -> u64 {
        Self::programs() + FaultCase::KINDS + KillCase::KINDS
    }

    /// The `n`-th unit of a soak. Drawn programs begin with number `from`.
    #[must_use]
    pub fn of(n: u64, from: u64) -> Self {
        let mut rest = n;
        for family in Family::ALL {
            match family.count() {
                Some(count) if rest < count => return Self::Program(family.seed(rest)),
                count => rest -= count.unwrap_or(0),
            }
        }
        if rest < FaultCase::KINDS {
            return Self::Faults(rest);
        }
        rest -= FaultCase::KINDS;
        if rest < KillCase::KINDS {
            return Self::Kills(rest);
        }
        rest -= KillCase::KINDS;
        // The drawn ones take turns.
        let family = if rest.is_multiple_of(3) { Family::Three } else { Family::Random };
        Self::Program(family.seed(from + rest))
    }

    /// Tries all of it. `every` is 1 for each call, more for a share of them.
    ///
    /// # Errors
    ///
    /// As [`Trial::run`], with the seed.
    pub fn run(self, every: u64, tally: &mut Tally) -> Result<(), String> {
        let (first, kind) = match self {
            Self::Program(seed) => return Trial::of(seed).run(tally).map(drop),
            Self::Faults(kind) => (FAULT, kind),
            Self::Kills(kind) => (KILL, kind),
        };
        // A share begins elsewhere for every kind.
        let begin = 1 + kind % every;
        for n in (begin..).step_by(usize::try_from(every).unwrap_or(1)) {
            let seed = seed(first, kind, n);
            let run = Trial::of(seed).run(tally);
            let again = "replay: cargo run --release -p forklog-soak -- --seed";
            if !run.map_err(|wrong| format!("{wrong}\nseed {seed:#x}\n{again} {seed:#x}"))? {
                return Ok(());
            }
        }
        Ok(())
    }
}
