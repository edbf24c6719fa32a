//! Power cuts: whatever the program and the moment, nothing that was promised is lost, and what is left is a state that was there.

use forklog::OpenOptions;
use forklog_sim::{Points, Rng, derive};

use crate::model::Which;
use crate::world::{Effort, NAMES, Op, SIDE, Tally, all_options, run};

const A: Which = Which("a", None);
const X: Which = Which("a", Some(SIDE));
const B: Which = Which("b", None);

/// Every operation that differs, on two sessions.
const OPS: [Op; 31] = [
    Op::Create("b"),
    Op::Append(A),
    Op::AppendId(A),
    Op::Batch(A),
    Op::Sync(A),
    Op::Close(A),
    Op::Open(A),
    Op::Set("a"),
    Op::Fork("a", "b"),
    Op::Rewind(A),
    Op::Undo(A),
    Op::Redo(A),
    Op::Append(X),
    Op::Batch(X),
    Op::Sync(X),
    Op::Close(X),
    Op::Append(B),
    Op::Sync(B),
    Op::Close(B),
    Op::Rewind(B),
    Op::Delete("a"),
    Op::Delete("b"),
    Op::Create("a"),
    Op::Fork("b", "c"),
    Op::Gc,
    Op::Reroot("b"),
    Op::Repair("a"),
    Op::List,
    Op::Reindex,
    Op::Kill,
    Op::Set("b"),
];

/// What was there before a program: nothing, a new session, one that was closed and has something to undo, a fork whose parent is gone.
fn beginnings() -> [Vec<Op>; 4] {
    [
        vec![],
        vec![Op::Create("a"), Op::Append(A)],
        vec![Op::Create("a"), Op::Append(A), Op::Batch(A), Op::Rewind(A), Op::Append(A), Op::Undo(A), Op::Close(A)],
        vec![Op::Create("a"), Op::Append(A), Op::Append(A), Op::Fork("a", "b"), Op::Append(B), Op::Delete("a")],
    ]
}

/// Found by a soak: repairing removed the marker of a writer that had died, before its session was in the index.
#[test]
fn a_repair_keeps_a_dead_writers_session_in_the_list() {
    let mut tally = Tally::default();
    let program = [Op::Reindex, Op::Append(A), Op::Rewind(A), Op::Kill, Op::Repair("a"), Op::Create("b")];
    for (n, options) in all_options().into_iter().enumerate() {
        let seed = derive(0xdead, n as u64);
        run(seed, options, &[Op::Create("a"), Op::Append(A)], &program, QUICK, &mut tally)
            .unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// Seconds that the soak may take; nothing is soaked without it.
fn soak() -> Option<std::time::Duration> {
    std::env::var("FORKLOG_SOAK").ok()?.parse().ok().map(std::time::Duration::from_secs)
}

const QUICK: Effort = Effort { points: Points::Barriers, canonical: 2, random: 1, again: 24 };

#[test]
fn every_program_of_one_operation_survives_every_cut() {
    let mut tally = Tally::default();
    let effort = Effort { points: Points::Changes, canonical: 2, random: 1, again: 16 };
    for (n, before) in beginnings().iter().enumerate() {
        for (m, op) in OPS.iter().enumerate() {
            for options in all_options() {
                let seed = derive(n as u64, m as u64);
                run(seed, options, before, &[*op], effort, &mut tally).unwrap_or_else(|wrong| panic!("{wrong}"));
            }
        }
    }
    eprintln!("{tally:?}");
}

#[test]
fn every_program_of_two_operations_survives_cuts() {
    let mut tally = Tally::default();
    let options = all_options();
    for (n, before) in beginnings().iter().enumerate() {
        for (i, first) in OPS.into_iter().enumerate() {
            for (j, second) in OPS.into_iter().enumerate() {
                // All of them take minutes; these are every tenth, and each operation is in as many as any other.
                if soak().is_none() && (n + 3 * i + j) % 10 != 0 {
                    continue;
                }
                let seed = derive(n as u64, (i * OPS.len() + j) as u64);
                let options = options[Rng::new(seed).below(4)];
                run(seed, options, before, &[first, second], QUICK, &mut tally)
                    .unwrap_or_else(|wrong| panic!("{wrong}"));
            }
        }
    }
    eprintln!("{tally:?}");
}

fn random_program(rng: &mut Rng) -> (OpenOptions, Vec<Op>) {
    let options = all_options()[rng.below(4)];
    let len = 3 + rng.below(12);
    let op = |rng: &mut Rng| {
        let name = NAMES[rng.below(3)];
        let which = Which(name, rng.chance(1, 5).then_some(SIDE));
        match rng.below(40) {
            0..4 => Op::Create(name),
            4..9 => Op::Append(which),
            9..12 => Op::AppendId(which),
            12..15 => Op::Batch(which),
            15..18 => Op::Sync(which),
            18..20 => Op::Close(which),
            20 => Op::Open(which),
            21..23 => Op::Set(name),
            23..27 => Op::Fork(NAMES[rng.below(3)], name),
            27..29 => Op::Rewind(which),
            29 => Op::Undo(which),
            30 => Op::Redo(which),
            31..33 => Op::Delete(name),
            33 => Op::Gc,
            34 => Op::Reroot(name),
            35 => Op::Repair(name),
            36 => Op::List,
            37 => Op::Reindex,
            _ => Op::Kill,
        }
    };
    let program = (0..len).map(|_| op(rng)).collect();
    (options, program)
}

fn random_programs(seeds: impl Iterator<Item = u64>, tally: &mut Tally) {
    for seed in seeds {
        let (options, program) = random_program(&mut Rng::new(seed));
        run(seed, options, &[Op::Create("a")], &program, QUICK, tally).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn random_programs_survive_cuts() {
    let mut tally = Tally::default();
    random_programs((0..120).map(|n| derive(0xc0de, n)), &mut tally);
    if let Some(long) = soak() {
        let begun = std::time::Instant::now();
        let seeds = (0..).map(|n| derive(0x50ac, n)).take_while(|_| begun.elapsed() < long);
        random_programs(seeds, &mut tally);
    }
    eprintln!("{tally:?}");
}
