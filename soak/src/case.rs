//! Programs: every short one, random longer ones, and how a failing one is made short.

use forklog::{OpenOptions, Sharing};
use forklog_sim::{Points, Rng, derive};

use crate::check::{Snapshots, Tally, check_image, images, resolve};
use crate::model::Which;
use crate::world::{Did, NAMES, Op, PROCESSES, SIDE, Step, World, all_options};

const A: Which = Which("a", None);
const X: Which = Which("a", Some(SIDE));
const B: Which = Which("b", None);

/// How many beginnings there are.
pub(crate) const BEGINNINGS: usize = 6;

/// Every operation that differs, on two sessions.
pub const OPS: [Op; 38] = [
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
    Op::Edit,
    Op::Checkpoint(A),
    Op::Checkpoint(B),
    Op::Open(B),
    Op::RewindFiles(A),
    Op::RevertFiles(A),
    Op::Tick,
];

/// What may be there before a program: nothing, a new session, one that was closed and has something to undo, a fork whose
/// parent is gone and which needs its files, one of files whose older checkpoints nobody needs any more, and one whose files were
/// moved.
#[must_use]
pub fn beginnings() -> [Vec<Op>; BEGINNINGS] {
    [
        vec![],
        vec![Op::Create("a"), Op::Append(A)],
        vec![Op::Create("a"), Op::Append(A), Op::Batch(A), Op::Rewind(A), Op::Append(A), Op::Undo(A), Op::Close(A)],
        vec![
            Op::Create("a"),
            Op::Append(A),
            Op::Edit,
            Op::Checkpoint(A),
            Op::Append(A),
            Op::Fork("a", "b"),
            Op::Append(B),
            Op::Delete("a"),
        ],
        vec![
            Op::Create("b"),
            Op::Edit,
            Op::Edit,
            Op::Checkpoint(B),
            Op::Create("a"),
            Op::Append(A),
            Op::Edit,
            Op::Edit,
            Op::Edit,
            Op::Checkpoint(A),
            Op::Append(A),
            Op::Delete("b"),
        ],
        vec![
            Op::Create("a"),
            Op::Append(A),
            Op::Edit,
            Op::Edit,
            Op::Checkpoint(A),
            Op::Append(A),
            Op::Edit,
            Op::Edit,
            Op::RewindFiles(A),
            Op::Append(A),
            Op::Edit,
            Op::Undo(A),
            Op::Edit,
        ],
    ]
}

/// How hard a program is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Where the power is cut.
    pub points: Points,
    /// How many of the canonical cuts there.
    pub canonical: usize,
    /// How many random ones.
    pub random: u64,
    /// One image in so many is cut a second time.
    pub again: usize,
}

impl Effort {
    /// Some cuts before every sync, directory sync and rename.
    pub const QUICK: Self = Self { points: Points::Barriers, canonical: 2, random: 1, again: 24 };
    /// Some cuts before every call that changes what a power cut may leave.
    pub const CLOSE: Self = Self { points: Points::Changes, canonical: 2, random: 1, again: 16 };
    /// What a failing program is tried with while it is made shorter.
    const SHRINK: Self = Self { points: Points::Changes, canonical: 5, random: 8, again: 4 };
}

/// A program and how it is tried: all that it takes to do the same again.
#[derive(Clone, Debug)]
pub struct Case {
    /// Chooses disks, cuts and uids.
    pub seed: u64,
    /// How sessions are opened.
    pub options: OpenOptions,
    /// Done first, without power cuts.
    pub before: Vec<Step>,
    /// Done with power cuts.
    pub program: Vec<Step>,
    /// How many of them.
    pub effort: Effort,
}

/// Kinds of cases: the first four bits of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// All programs of one operation, opened in every way, from every beginning.
    One,
    /// All programs of two operations.
    Two,
    /// All programs of two operations of which another process does the second.
    Rivals,
    /// Programs of three operations, drawn.
    Three,
    /// Longer random programs, drawn.
    Random,
}

impl Family {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::One, Self::Two, Self::Rivals, Self::Three, Self::Random];

    /// How many cases there are; `None` where there is no end to them.
    #[must_use]
    pub fn count(self) -> Option<u64> {
        let (ops, begun) = (OPS.len() as u64, beginnings().len() as u64);
        match self {
            Self::One => Some(begun * ops * all_options().len() as u64),
            Self::Two | Self::Rivals => Some(begun * ops * ops),
            Self::Three | Self::Random => None,
        }
    }

    /// The seed of the `n`-th case.
    #[must_use]
    pub fn seed(self, n: u64) -> u64 {
        ((self as u64) + 1) << 60 | n & (u64::MAX >> 4)
    }
}

impl Case {
    /// The case that a seed names.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let n = seed & (u64::MAX >> 4);
        let family = usize::try_from(seed >> 60).ok().and_then(|n| Family::ALL.get(n.checked_sub(1)?));
        let mut rng = Rng::new(derive(0x50ac, seed));
        let options = all_options();
        match family.copied().unwrap_or(Family::Random) {
            Family::One => {
                let (n, way) = (n / options.len() as u64, options[place(n, options.len())]);
                let (before, op) = (place(n / OPS.len() as u64, BEGINNINGS), place(n, OPS.len()));
                Self::short(seed, way, before, vec![OPS[op].into()], Effort::CLOSE)
            }
            family @ (Family::Two | Family::Rivals) => {
                let ops = OPS.len() as u64;
                let before = place(n / ops / ops, BEGINNINGS);
                let (first, second) = (place(n / ops, OPS.len()), place(n, OPS.len()));
                let by = usize::from(family == Family::Rivals);
                // Rivals that hold a session exclusively get no further than to be refused.
                let fits = |way: &&OpenOptions| by == 0 || way.sharing == Sharing::PerCall;
                let ways: Vec<_> = options.iter().filter(fits).collect();
                let way = *ways[rng.below(ways.len())];
                let program = vec![OPS[first].into(), Step { by, op: OPS[second] }];
                Self::short(seed, way, before, program, Effort::QUICK)
            }
            Family::Three => {
                let (way, before) = (options[rng.below(options.len())], rng.below(BEGINNINGS));
                let mut step = || Step { by: usize::from(rng.chance(1, 4)), op: OPS[rng.below(OPS.len())] };
                let program = vec![step(), step(), step()];
                Self::short(seed, way, before, program, Effort::QUICK)
            }
            Family::Random => {
                let (way, program) = random_program(&mut rng);
                let before = vec![Op::Create("a").into()];
                Self { seed, options: way, before, program, effort: Effort::QUICK }
            }
        }
    }

    fn short(seed: u64, options: OpenOptions, before: usize, program: Vec<Step>, effort: Effort) -> Self {
        let before = beginnings()[before].iter().map(|op| (*op).into()).collect();
        Self { seed, options, before, program, effort }
    }

    /// Runs the program and cuts the power all along.
    ///
    /// # Errors
    ///
    /// What is wrong, and the last calls before.
    pub fn run(&self, tally: &mut Tally) -> Result<(), String> {
        tally.programs += 1;
        let mut rng = Rng::new(derive(self.seed, 99));
        let mut world = World::new(self.seed, self.options);
        for step in &self.before {
            if let Did::Failed(error) = world.step(*step, &mut |_| ()) {
                return Err(format!("{step:?}: {error}"));
            }
        }
        let snapshots = Snapshots::default();
        snapshots.collect(&world.disk, self.effort.points);
        let mut wrong = None;
        let mut check = |world: &World, wrong: &mut Option<String>, tally: &mut Tally| {
            for snapshot in snapshots.take() {
                for (cut, image) in images(&snapshot, rng.bits(), self.effort.canonical, self.effort.random) {
                    let again = rng.chance(1, self.effort.again).then(|| rng.bits());
                    if wrong.is_none() {
                        let checked = check_image(&image, &world.model, again, tally);
                        let report = |error| {
                            let at = snapshot.call();
                            world.disk.report(format!("{cut} after call {at}: {error}"))
                        };
                        *wrong = checked.err().map(report);
                    }
                }
            }
        };
        for step in &self.program {
            let did = world.step(*step, &mut |world| check(world, &mut wrong, tally));
            if let Did::Failed(error) = did {
                return Err(format!("{step:?}: {error}"));
            }
            if wrong.is_some() {
                break;
            }
        }
        snapshots.push(world.disk.snapshot());
        check(&world, &mut wrong, tally);
        world.disk.clear_hook();
        match wrong {
            None => resolve(world.store(), &world.disk, &world.model).map(drop),
            Some(wrong) => Err(wrong),
        }
    }

    /// [`Case::run`]; the error tells how to do it again, and the shortest program that fails too.
    ///
    /// # Errors
    ///
    /// As [`Case::run`].
    pub fn check(&self, tally: &mut Tally) -> Result<(), String> {
        self.run(tally).map_err(|wrong| {
            let (short, why) = self.shrink(&wrong);
            let shown = |case: &Self| format!("{:?}, {:?} then {:?}", case.options, case.before, case.program);
            let seed = self.seed;
            format!(
                "{wrong}\nseed {seed:#x}: {}\nshortest that fails: {}\n  with {}\nreplay: cargo run --release -p forklog-soak -- --seed {seed:#x}",
                shown(self),
                shown(&short),
                why.lines().next().unwrap_or_default(),
            )
        })
    }

    /// Takes steps away for as long as the program still fails, and says how the rest does.
    fn shrink(&self, wrong: &str) -> (Self, String) {
        let (mut short, mut why) = (self.clone(), wrong.to_owned());
        loop {
            let steps = short.before.len() + short.program.len();
            let found = (0..steps).rev().find_map(|n| short.without(n).fails());
            match found {
                Some((case, wrong)) => (short, why) = (case, wrong),
                None => return (short, why),
            }
        }
    }

    fn without(&self, n: usize) -> Self {
        let mut case = self.clone();
        match n.checked_sub(case.before.len()) {
            None => drop(case.before.remove(n)),
            Some(n) => drop(case.program.remove(n)),
        }
        case
    }

    /// Tries hard to make it fail: with fewer steps, other cuts may be needed.
    fn fails(self) -> Option<(Self, String)> {
        (0..3).find_map(|n| {
            let case = Self { seed: derive(self.seed, n), effort: Effort::SHRINK, ..self.clone() };
            let wrong = case.run(&mut Tally::default()).err()?;
            Some((case, wrong))
        })
    }
}

/// `n` modulo `of`.
pub(crate) fn place(n: u64, of: usize) -> usize {
    usize::try_from(n % of as u64).unwrap_or_default()
}

fn random_program(rng: &mut Rng) -> (OpenOptions, Vec<Step>) {
    let options = all_options();
    let mut options = options[rng.below(options.len())];
    // Payloads are 16 to 96 bytes long: some become objects, or all stay in their lines.
    options.spill_over = rng.chance(1, 3).then_some(30);
    // Half of the programs have one process, half of them have no files.
    let (processes, files) = (1 + rng.below(PROCESSES), rng.chance(1, 2));
    let len = 3 + rng.below(12);
    let op = |rng: &mut Rng| {
        let name = NAMES[rng.below(3)];
        let which = Which(name, rng.chance(1, 5).then_some(SIDE));
        match rng.below(if files { 53 } else { 41 }) {
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
            38..40 => Op::Kill,
            40 => Op::Tick,
            41..44 => Op::Edit,
            44..48 => Op::Checkpoint(Which(name, None)),
            48..51 => Op::RewindFiles(Which(name, None)),
            51 => Op::RevertFiles(Which(name, None)),
            _ => Op::Gc,
        }
    };
    let program = (0..len).map(|_| Step { by: rng.below(processes), op: op(rng) }).collect();
    (options, program)
}
