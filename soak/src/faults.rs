//! Calls that fail, and processes that die in the middle of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forklog::{Error, Kind, OpenOptions};
use forklog_sim::{Cut, Errno, Fault, Points, What, derive};

use crate::case::{BEGINNINGS, OPS, beginnings, place};
use crate::check::{Tally, check_image, check_live};
use crate::model::Which;
use crate::world::{Did, Op, ROOT, WAYS, World, all_options};

const A: Which = Which("a", None);
const B: Which = Which("b", None);

/// Everything that writes, on two sessions and their files.
pub const PROGRAM: [Op; 36] = [
    Op::Create("a"),
    Op::Append(A),
    Op::Sync(A),
    Op::Batch(A),
    Op::Set("a"),
    Op::Sync(A),
    Op::Edit,
    Op::Edit,
    Op::Checkpoint(A),
    Op::AppendId(A),
    Op::Fork("a", "b"),
    Op::Append(B),
    Op::Checkpoint(B),
    Op::Close(B),
    Op::Close(A),
    Op::List,
    Op::Append(A),
    Op::Sync(A),
    Op::Rewind(A),
    Op::Append(A),
    Op::Undo(A),
    Op::Kill,
    Op::Append(A),
    Op::Edit,
    Op::RewindFiles(A),
    Op::Append(A),
    Op::Tick,
    Op::Edit,
    Op::Undo(A),
    Op::RevertFiles(A),
    Op::Redo(A),
    Op::Delete("b"),
    Op::Gc,
    Op::Reindex,
    Op::Close(A),
    Op::Append(A),
];

/// What may happen to a call.
pub const WHATS: [What; 15] = [
    What::Fail(Errno::Io),
    What::Fail(Errno::NoSpace),
    What::Fail(Errno::Quota),
    What::Fail(Errno::ReadOnly),
    What::Fail(Errno::Interrupted),
    What::FailAfter(Errno::Io),
    What::FailAfter(Errno::NoSpace),
    What::FailAfter(Errno::Quota),
    What::FailAfter(Errno::ReadOnly),
    What::FailAfter(Errno::Interrupted),
    What::LoseDirty(Errno::Io),
    What::LoseSomeDirty(Errno::Io),
    What::LoseDirty(Errno::NoSpace),
    What::FlipBit,
    What::LoseForGood(Errno::Io),
];

/// A program in which one call goes wrong, or all from one on until the operation is over. Only calls of the store do: what becomes of a
/// workspace that cannot be read or written is for the caller to be told, and not for the model.
#[derive(Clone, Copy, Debug)]
pub struct FaultCase {
    /// What happens.
    pub what: What,
    /// Whether it goes on happening.
    pub lasting: bool,
    /// How sessions are opened.
    pub options: OpenOptions,
    /// Which call, of those that it can happen to, counted from 1.
    pub n: u64,
}

impl FaultCase {
    /// How many combinations there are, each of which has a case for every call.
    pub const KINDS: u64 = (WHATS.len() * 2 * WAYS) as u64;

    /// One of the combinations, with the `n`-th call.
    #[must_use]
    pub fn of(kind: u64, n: u64) -> Self {
        let ways = WAYS as u64;
        let what = WHATS[place(kind / ways / 2, WHATS.len())];
        // Where every read is wrong, an index that is built from what is read is wrong too.
        let lasting = kind / ways % 2 == 1 && what != What::FlipBit;
        Self { what, lasting, options: all_options()[place(kind, WAYS)], n }
    }

    /// Runs the program. Returns whether there was such a call.
    ///
    /// After the fault the same handles go on, where they say that they can.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn run(&self, tally: &mut Tally) -> Result<bool, String> {
        tally.programs += 1;
        let mut world = World::new(derive(0xfa17, self.n), self.options);
        let fault = Fault::at(self.n, self.what).in_path(ROOT);
        world.disk.add_fault(if self.lasting { fault.lasting() } else { fault });
        let run = self.go(&mut world, tally);
        run.map_err(|wrong| world.disk.report(format!("{self:?}: {wrong}")))
    }

    fn go(&self, world: &mut World, tally: &mut Tally) -> Result<bool, String> {
        // What the last failure said of a handle.
        let mut after: Option<(Which, Expected)> = None;
        let mut why = String::new();
        let mut struck = false;
        for op in PROGRAM {
            let did = world.step(op, &mut |_| ());
            let handle = of(op);
            if op == Op::Kill {
                after = None;
            }
            if let (Some((which, expected)), Some(used)) = (after, handle)
                && which == used
            {
                expected.check(&did).map_err(|wrong| format!("{op:?} after {why}: {wrong}"))?;
                after = None;
            }
            let Did::Failed(error) = did else { continue };
            // The handle's own failure, or one that it remembers: both are over now.
            world.disk.clear_faults();
            if !struck && world.disk.fault_hits() > 0 {
                struck = true;
                self.fits(&error).map_err(|wrong| format!("{op:?}: {wrong}"))?;
                self.cut(world, tally, 1)?;
                // Another process finds what is in memory, which a sync that lied may have left there, and makes it good.
                let left = world.disk.snapshot().killed();
                check_live(&left, &world.model, Some(derive(self.n, 3)), tally)
                    .map_err(|wrong| left.report(format!("{op:?} failed, and another process: {wrong}")))?;
                let expected = Expected::after(&error);
                why = format!("{op:?} failed with {error:?}");
                // Without a handle, it was opening or closing that failed.
                after = handle.filter(|which| world.session(*which).is_some()).map(|which| (which, expected));
            } else if error.kind() != Kind::Reopen {
                return Err(format!("{op:?} without a fault: {error}"));
            }
            let then = |wrong| format!("after {op:?} failed with {error}: {wrong}");
            world.relearn().map_err(then)?;
            if error.kind() != Kind::Reopen {
                world.recover_files(&mut |_| ()).map_err(then)?;
            } else {
                handle.into_iter().for_each(|which| world.forget(which));
                after = None;
                world.recover_files(&mut |_| ()).map_err(then)?;
                // What did not happen for a handle that is given up happens now.
                if let Did::Failed(error) = world.step(op, &mut |_| ()) {
                    return Err(format!("{op:?} with a new handle: {error}"));
                }
            }
        }
        let struck = struck || world.disk.fault_hits() > 0;
        world.disk.clear_faults();
        self.cut(world, tally, 2)?;
        Ok(struck)
    }

    /// Whether an error is one that this fault may cause.
    fn fits(&self, error: &Error) -> Result<(), String> {
        let fits = match (self.what, error.kind()) {
            (_, Kind::System | Kind::Reopen) => true,
            // A bit that is read wrong looks like damage, until it is read again.
            (What::FlipBit, Kind::Data | Kind::Newer | Kind::NotFound) => true,
            _ => false,
        };
        let full = matches!(self.what, What::Fail(Errno::NoSpace | Errno::Quota));
        if !fits
            || (full && !matches!(error, Error::Full { .. } | Error::Poisoned { .. } | Error::Io { op: "sync", .. }))
        {
            return Err(format!("{:?} is told as {error:?}", self.what));
        }
        Ok(())
    }

    fn cut(&self, world: &World, tally: &mut Tally, salt: u64) -> Result<(), String> {
        for cut in [Cut::Nothing, Cut::random(derive(self.n, salt), 0), Cut::random(derive(self.n, salt), 1)] {
            let image = world.disk.after(cut);
            check_image(&image, &world.model, None, tally).map_err(|wrong| format!("{cut}: {wrong}"))?;
        }
        Ok(())
    }
}

/// What a handle may do after a call of it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It lives: the disk was full, or something else than a sync or cut of the transcript failed.
    Lives,
    /// It is poisoned: a sync of the transcript failed.
    Poisoned,
    /// Either: a write failed, and the cut after it may have failed too.
    Either,
}

impl Expected {
    fn after(error: &Error) -> Self {
        let transcript = |path: &std::path::Path| path.extension().is_some_and(|ending| ending == "jsonl");
        match error {
            Error::Io { op: "sync", path, .. } if transcript(path) => Self::Poisoned,
            Error::Full { .. } => Self::Lives,
            Error::Io { op, .. } if *op != "append to" => Self::Lives,
            _ => Self::Either,
        }
    }

    fn check(self, did: &Did) -> Result<(), String> {
        match (self, did) {
            (Self::Lives, Did::Failed(error)) => Err(format!("the handle should live, but {error}")),
            (Self::Poisoned, Did::It) => Err("the handle should be poisoned, but it works".to_owned()),
            (Self::Poisoned, Did::Failed(error)) if !matches!(error, Error::Poisoned { .. }) => {
                Err(format!("the handle should be poisoned, but {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// The handle that an operation uses.
fn of(op: Op) -> Option<Which> {
    match op {
        Op::Append(which)
        | Op::AppendId(which)
        | Op::Batch(which)
        | Op::Sync(which)
        | Op::Close(which)
        | Op::Open(which)
        | Op::Rewind(which)
        | Op::Undo(which)
        | Op::Redo(which)
        | Op::Checkpoint(which)
        | Op::RewindFiles(which)
        | Op::RevertFiles(which) => Some(which),
        Op::Set(name) => Some(Which(name, None)),
        _ => None,
    }
}

/// An operation whose process dies before one of its calls, while the disk lives on.
#[derive(Clone, Debug)]
pub struct KillCase {
    /// Done before.
    pub before: Vec<Op>,
    /// Killed on the way.
    pub op: Op,
    /// How sessions are opened.
    pub options: OpenOptions,
    /// Before which of its calls, counted from 1.
    pub n: u64,
}

impl KillCase {
    /// How many combinations there are, each of which has a case for every call.
    pub const KINDS: u64 = (OPS.len() * BEGINNINGS * WAYS) as u64;

    /// One of the combinations, killed before the `n`-th call.
    #[must_use]
    pub fn of(kind: u64, n: u64) -> Self {
        let (op, ops) = (kind / WAYS as u64, OPS.len() as u64);
        let before = beginnings()[place(op / ops, BEGINNINGS)].clone();
        Self { before, op: OPS[place(op, OPS.len())], options: all_options()[place(kind, WAYS)], n }
    }

    /// Runs it, and goes on with the disk as another process finds it, with power cuts. Returns whether there was such a call.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn run(&self, tally: &mut Tally) -> Result<bool, String> {
        tally.programs += 1;
        let mut world = World::new(derive(0xfa17, self.n), self.options);
        for op in &self.before {
            if let Did::Failed(error) = world.step(*op, &mut |_| ()) {
                return Err(format!("{op:?}: {error}"));
            }
        }
        let (calls, last) = (Arc::new(AtomicU64::new(0)), self.n);
        let (victim, counted) = (world.process(0), Arc::clone(&calls));
        world.disk.on_point(Points::Changes, move |_, _| {
            if counted.fetch_add(1, Ordering::Relaxed) + 1 == last {
                victim.kill();
            }
        });
        let did = world.step(self.op, &mut |_| ());
        world.disk.clear_hook();
        if calls.load(Ordering::Relaxed) < self.n {
            return Ok(false);
        }
        let went_on = |world: &mut World, tally: &mut Tally| {
            world.kill(0);
            let disk = world.disk.clone();
            check_live(&disk, &world.model, Some(self.n), tally)
        };
        drop(did);
        let seen = went_on(&mut world, tally);
        seen.map_err(|wrong| world.disk.report(format!("{self:?}: {wrong}")))?;
        Ok(true)
    }
}
