//! What a worker does: which operation comes `n`-th follows from the seed alone, so that whoever knows both knows what was done.

use std::collections::BTreeMap;
use std::time::Duration;

use forklog::{Durability, OpenOptions, Sharing};
use forklog_sim::{Rng, derive};
use forklog_soak::model::{Bytes, Content, Files, Item, Rec, Which};
use forklog_soak::{NAMES, SIDE};
use serde_json::{Value, json};

/// The session that imports go to.
pub(crate) const IMPORTED: Which = Which("i", None);
/// The session whose agent changes files.
pub(crate) const FILES: Which = Which("f", None);
/// How long [`Durability::Interval`] may leave a record in memory.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);

/// One operation of the public API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Append,
    AppendId,
    Batch,
    Sync,
    Close,
    Set,
    /// Of this session, named like the step's.
    Fork(&'static str),
    Rewind,
    Undo,
    Redo,
    Delete,
    Gc,
    Reroot,
    List,
    Reindex,
    /// Syncs what was opened with [`Durability::Interval`].
    Tick,
    /// Waits until its thread must have done so.
    Wait,
    /// Of a file that grows, into [`IMPORTED`].
    Import,
    /// A record, changes of files, a checkpoint: of [`FILES`], as the next three.
    Turn,
    FilesRewind,
    FilesUndo,
    FilesRedo,
}

/// The `n`-th operation, and the transcript that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) n: u64,
    pub(crate) op: Op,
    pub(crate) which: Which,
}

/// All that a seed decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program(pub(crate) u64);

impl Program {
    pub(crate) fn step(self, n: u64) -> Step {
        let mut rng = Rng::new(derive(self.0, n));
        let name = NAMES[rng.below(3)];
        let which = Which(name, rng.chance(1, 6).then_some(SIDE));
        let main = Which(name, None);
        let (op, which) = match rng.below(64) {
            0..4 => (Op::Create, main),
            4..13 => (Op::Append, which),
            13..17 => (Op::AppendId, which),
            17..22 => (Op::Batch, which),
            22..26 => (Op::Sync, which),
            26..29 => (Op::Close, which),
            29..31 => (Op::Set, main),
            31..35 => (Op::Fork(NAMES[rng.below(3)]), main),
            35..38 => (Op::Rewind, which),
            38..40 => (Op::Undo, which),
            40 => (Op::Redo, which),
            41..43 => (Op::Delete, main),
            43 => (Op::Gc, main),
            44 => (Op::Reroot, main),
            45 => (Op::List, main),
            46 => (Op::Reindex, main),
            47 => (Op::Tick, main),
            48 if rng.chance(1, 4) => (Op::Wait, main),
            48..52 => (Op::Import, IMPORTED),
            52..58 => (Op::Turn, FILES),
            58..61 => (Op::FilesRewind, FILES),
            61..63 => (Op::FilesUndo, FILES),
            _ => (Op::FilesRedo, FILES),
        };
        Step { n, op, which }
    }

    /// How a session is opened, the same for as long as a worker lives.
    pub(crate) fn options(self, name: &str) -> OpenOptions {
        let mut rng = Rng::new(derive(self.0, name.bytes().fold(0, |sum, byte| sum << 8 | u64::from(byte))));
        let durability = [Durability::Write, Durability::Interval(INTERVAL), Durability::Sync][rng.below(3)];
        OpenOptions {
            durability: Some(durability),
            sharing: if rng.chance(1, 2) { Sharing::Exclusive } else { Sharing::PerCall },
            // Payloads are 8 bytes to some KiB long: some become objects, or all stay in their lines.
            spill_over: rng.chance(1, 3).then_some(2_000),
            padding: if rng.chance(1, 2) { 3_000 } else { 0 },
            // Whoever was killed a moment ago may not be gone wholly.
            wait: Duration::from_secs(10),
        }
    }
}

impl Step {
    /// What is appended.
    pub(crate) fn records(&self) -> Vec<Rec> {
        let mut rng = Rng::new(derive(0x4ec, self.n));
        let record = |at: u64| {
            let pad = match rng.below(40) {
                0 => 40_000,
                1..5 => 3_000,
                _ => rng.below(80),
            };
            let payload = json!({ "n": self.n * 10 + at, "pad": "x".repeat(pad) }).to_string();
            let id = (self.op == Op::AppendId || (self.op == Op::Batch && self.n.is_multiple_of(2)))
                .then(|| format!("id{}", (self.n + at) % 5));
            (payload, id)
        };
        (0..if self.op == Op::Batch { 3 } else { 1 }).map(record).collect()
    }

    /// What is set.
    pub(crate) fn patch(&self) -> Value {
        json!({ "title": format!("title {}", self.n), "tags": [format!("t{}", self.n)] })
    }

    /// The lines of the file that is imported, of which later ones begin as earlier ones do.
    pub(crate) fn imported(&self) -> Vec<Rec> {
        let line = |n: u64| (format!("{{\"uuid\":\"line {n}\",\"n\":{n}}}"), Some(format!("line {n}")));
        (0..=self.n % 50).map(line).collect()
    }

    /// The label of the turn's checkpoint.
    pub(crate) fn label(&self) -> String {
        format!("turn {}", self.n)
    }

    /// All files of the workspace after the turn.
    pub(crate) fn files(&self) -> Files {
        let n = self.n;
        let file = |name: &str, bytes: String| (name.to_owned(), Bytes(bytes.into_bytes()));
        BTreeMap::from([
            file("always", format!("in turn {n}\n")),
            file("same", "always the same\n".to_owned()),
            file(&format!("dir/{}", n % 3), format!("{n}\n").repeat(200)),
            file(&format!("dir/below/{}", n % 2), format!("{n} ").repeat(6_000)),
            file(["dir2/empty", "dir3/empty"][usize::from(n.is_multiple_of(2))], String::new()),
        ])
    }
}

/// How many records a rewind of so many leaves.
pub(crate) fn kept(len: u64) -> u64 {
    len.div_ceil(2)
}

/// A view up to a record and the checkpoints that belong to it.
pub(crate) fn upto(content: &Content, keep: usize) -> Vec<Item> {
    let mut view = content.upto(keep);
    let behind = content.view.iter().skip(view.len()).take_while(|item| matches!(item, Item::Checkpoint(..)));
    view.extend(behind.cloned());
    view
}

/// The files of a view's last checkpoint.
pub(crate) fn last_files(view: &[Item]) -> Option<&Files> {
    view.iter().rev().find_map(|item| match item {
        Item::Checkpoint(_, files) => Some(files),
        Item::Record(_) => None,
    })
}
