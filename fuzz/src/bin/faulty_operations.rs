//! Random programs on a disk that loses its power, and one program in which any call may fail in any way.

use forklog_fuzz::run;
use forklog_soak::{Case, Family, FaultCase, Tally};

fn main() {
    run("faulty_operations", |rng| {
        let tally = &mut Tally::default();
        let done = if rng.chance(1, 3) {
            let kind = rng.bits() % FaultCase::KINDS;
            FaultCase::of(kind, 1 + rng.bits() % 900).run(tally).map(drop)
        } else {
            Case::of(Family::Random.seed(rng.bits())).run(tally)
        };
        done.unwrap_or_else(|wrong| panic!("{wrong}"));
    });
}
