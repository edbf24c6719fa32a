//! Power cuts: whatever the program and the moment, nothing that was promised is lost, and what is left is a state that was there.
//!
//! This is a share of what `cargo run --release -p forklog-soak` does for as long as it is told.

use forklog::{Durability, OpenOptions, Sharing};
use forklog_sim::derive;
use forklog_soak::model::Which;
use forklog_soak::{Case, Effort, Family, Op, SIDE, Step, Tally, all_options};

const A: Which = Which("a", None);
const B: Which = Which("b", None);
const X: Which = Which("a", Some(SIDE));

/// Runs a program in all ways to open, as a case that was found and must not come back.
fn again(before: &[Op], program: &[Step]) {
    for (n, options) in all_options().into_iter().enumerate() {
        let (before, program) = (before.iter().map(|op| (*op).into()).collect(), program.to_vec());
        let effort = Effort { canonical: 5, random: 4, ..Effort::CLOSE };
        let case = Case { seed: derive(0xdead, n as u64), options, before, program, effort };
        case.run(&mut Tally::default()).unwrap_or_else(|wrong| panic!("{options:?}: {wrong}"));
    }
}

fn steps(ops: &[Op]) -> Vec<Step> {
    ops.iter().map(|op| (*op).into()).collect()
}

/// Found by a soak: repairing removed the marker of a writer that had died, before its session was in the index.
#[test]
fn a_repair_keeps_a_dead_writers_session_in_the_list() {
    let program = [Op::Reindex, Op::Append(A), Op::Rewind(A), Op::Kill, Op::Repair("a"), Op::Create("b")];
    again(&[Op::Create("a"), Op::Append(A)], &steps(&program));
}

/// Found by a soak: gc took the marker of a writer that had died away and left in the index what a power cut could take back.
#[test]
fn gc_publishes_nothing_that_a_power_cut_takes_back() {
    again(&[Op::Create("a")], &steps(&[Op::Append(A), Op::Kill, Op::Gc]));
}

/// As with gc: the last to close was a side transcript's handle, which published what the dead writer of the main one had left.
#[test]
fn closing_a_side_publishes_nothing_that_a_power_cut_takes_back() {
    let side = Which("a", Some(SIDE));
    let by = |by, op| Step { by, op };
    let program = [by(0, Op::Append(A)), by(1, Op::Append(side)), by(0, Op::Kill), by(1, Op::Close(side))];
    again(&[Op::Create("a")], &program);
}

/// Payloads that become objects: no line is left without its payload, and none that was promised is lost.
#[test]
fn records_whose_payloads_are_objects_survive_every_cut() {
    let mut tally = Tally::default();
    let before = steps(&[Op::Create("a"), Op::Append(A), Op::Append(A), Op::Append(A)]);
    let programs = [
        &[Op::Append(A), Op::Append(A)][..],
        &[Op::Batch(A), Op::Kill, Op::Append(A)],
        &[Op::AppendId(A), Op::Sync(A), Op::Batch(A), Op::Close(A)],
        &[Op::Append(A), Op::Fork("a", "b"), Op::Append(B), Op::Delete("a"), Op::Gc],
        &[Op::Batch(A), Op::Rewind(A), Op::Gc, Op::Kill, Op::Undo(A), Op::Append(A)],
        &[Op::Append(X), Op::Batch(X), Op::Delete("a"), Op::Gc],
    ];
    for (n, program) in programs.into_iter().enumerate() {
        for (m, options) in all_options().into_iter().enumerate() {
            let options = OpenOptions { spill_over: Some(30), ..options };
            let seed = derive(0x1a46e + n as u64, m as u64);
            let case = Case { seed, options, before: before.clone(), program: steps(program), effort: Effort::CLOSE };
            case.run(&mut tally).unwrap_or_else(|wrong| panic!("{options:?}, {program:?}: {wrong}"));
        }
    }
    eprintln!("{tally:?}");
}

/// Found by a soak: opening an unclean end cut what does not count only after its sync, and a second power cut brought it back in place
/// of what had been written there since.
#[test]
fn what_recovery_cut_off_stays_cut_off() {
    let b = Which("b", None);
    let edited = [Op::Create("a"), Op::Append(A), Op::Edit, Op::Checkpoint(A), Op::Append(A)];
    let forked = [Op::Fork("a", "b"), Op::Append(b), Op::Delete("a")];
    let case = Case {
        seed: 0x3000_0000_0000_10bf,
        options: OpenOptions {
            durability: Some(Durability::Write),
            sharing: Sharing::PerCall,
            ..OpenOptions::default()
        },
        before: steps(&[&edited[..], &forked[..]].concat()),
        program: vec![Op::Sync(b).into(), Step { by: 1, op: Op::Sync(b) }],
        effort: Effort::QUICK,
    };
    case.run(&mut Tally::default()).unwrap_or_else(|wrong| panic!("{wrong}"));
}

fn run(family: Family, cases: impl Iterator<Item = u64>) {
    let mut tally = Tally::default();
    for n in cases {
        Case::of(family.seed(n)).check(&mut tally).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    eprintln!("{tally:?}");
}

// The soak does all of them, first those of one operation. No step has a factor in common with how many operations or ways to open there are.

#[test]
fn programs_of_one_operation_survive_every_cut() {
    run(Family::One, (0..Family::One.count().expect("an end")).step_by(11));
}

#[test]
fn programs_of_two_operations_survive_cuts() {
    run(Family::Two, (0..Family::Two.count().expect("an end")).step_by(35));
}

#[test]
fn programs_of_two_processes_survive_cuts() {
    run(Family::Rivals, (0..Family::Rivals.count().expect("an end")).step_by(49));
}

#[test]
fn random_programs_survive_cuts() {
    run(Family::Random, 0..60);
    run(Family::Three, 0..60);
}

#[test]
fn a_seed_says_all_there_is_to_a_case() {
    let seed = Family::Random.seed(3);
    let tallies = [(); 2].map(|()| {
        let mut tally = Tally::default();
        Case::of(seed).run(&mut tally).expect("no violation");
        tally.images
    });
    assert_eq!(tallies[0], tallies[1]);
}
