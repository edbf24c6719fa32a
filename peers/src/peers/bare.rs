//! The limit: system calls and nothing else, on the bytes that forklog writes.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use serde_json::value::RawValue;

use super::{Log, Mode, Payload, Peer};

/// Bytes of a line of forklog besides its payload.
pub(crate) const FRAME: usize = 33 + 7 + 24 + 19;

/// `write(2)` to a file that stays open, and `fdatasync(2)` after each where that is asked for.
pub(crate) struct Bare(pub(crate) Form);

/// The same with group commit: who comes while a sync runs is written, with all others, in one write when it has ended.
pub(crate) struct Grouped;

/// What a record is before it is written: the limit of an append that is given the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text that nobody looks at.
    Text,
    /// A value, which serde_json writes into the line.
    Value,
    /// Text, which serde_json reads to see that it is JSON.
    Bytes,
}

impl Peer for Bare {
    fn name(&self) -> String {
        let form = match self.0 {
            Form::Text => "",
            Form::Value => ", Serialize",
            Form::Bytes => ", bytes, validated",
        };
        format!("bare system calls{form}")
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        match (mode, self.0) {
            (Mode::Write, Form::Text) => Some("write"),
            (Mode::Write, _) => Some("serde_json, write"),
            (Mode::Sync, Form::Text) => Some("write, fdatasync"),
            (Mode::Sync, _) => None,
        }
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let paths: Vec<PathBuf> = (0..sessions).map(|n| dir.join(format!("bare-{n}"))).collect();
        let files = paths.iter().map(|path| append_to(path)).collect();
        Box::new(Files { mode, form: self.0, paths, files })
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).expect("a file")
}

struct Files {
    mode: Mode,
    form: Form,
    paths: Vec<PathBuf>,
    files: Vec<File>,
}

/// What stands behind a payload: as much as forklog's frame, and one line feed.
const AFTER: [u8; FRAME] = {
    let mut after = [b' '; FRAME];
    after[FRAME - 1] = b'\n';
    after
};

impl Files {
    fn sync(&self, file: &File) {
        if self.mode == Mode::Sync {
            file.sync_data().expect("synced");
        }
    }
}

impl Log for Files {
    fn append(&self, session: u64, payload: &Payload) {
        let mut file = &self.files[usize::try_from(session).expect("few sessions")];
        // One buffer, one call: what is copied together here a program has to copy together, too.
        thread_local!(static LINE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
        LINE.with_borrow_mut(|line| {
            line.clear();
            match self.form {
                Form::Text => line.extend_from_slice(payload.text.as_bytes()),
                Form::Value => serde_json::to_writer(&mut *line, &payload.value).expect("JSON"),
                Form::Bytes => {
                    let json: &RawValue = serde_json::from_slice(payload.text.as_bytes()).expect("JSON");
                    line.extend_from_slice(json.get().as_bytes());
                }
            }
            line.extend_from_slice(&AFTER);
            file.write_all(line).expect("written");
        });
        self.sync(file);
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let mut file = &self.files[usize::try_from(session).expect("few sessions")];
        let mut slices: Vec<IoSlice<'_>> =
            payloads.iter().flat_map(|payload| [IoSlice::new(payload.text.as_bytes()), IoSlice::new(&AFTER)]).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let written = file.write_vectored(slices).expect("written");
            IoSlice::advance_slices(&mut slices, written);
        }
        self.sync(file);
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        read_lines(&self.paths[usize::try_from(session).expect("few sessions")], each);
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let mut lines = std::collections::VecDeque::new();
        self.read(session, &mut |line| {
            lines.push_back(line.to_vec());
            if lines.len() > n {
                lines.pop_front();
            }
        });
        lines.iter().for_each(|line| each(line));
    }
}

/// Shows each line of a file, without its line feed.
pub(crate) fn read_lines(path: &Path, mut each: impl FnMut(&[u8])) {
    let mut file = File::open(path).expect("a file");
    let (mut buffer, mut kept) = (vec![0; 1 << 20], 0);
    loop {
        if kept == buffer.len() {
            buffer.resize(kept * 2, 0);
        }
        let got = file.read(&mut buffer[kept..]).expect("read");
        if got == 0 {
            return;
        }
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', &buffer[..kept + got]) {
            each(&buffer[from..end]);
            from = end + 1;
        }
        buffer.copy_within(from..kept + got, 0);
        kept = kept + got - from;
    }
}

impl Peer for Grouped {
    fn name(&self) -> String {
        "bare group commit".to_owned()
    }

    fn promise(&self, _: Mode) -> Option<&'static str> {
        Some("one write, fdatasync a group")
    }

    fn open(&self, dir: &Path, _: Mode, _: u64) -> Box<dyn Log> {
        let path = dir.join("grouped");
        Box::new(Group { file: append_to(&path), path, state: Mutex::default(), done: Condvar::new() })
    }
}

struct Group {
    file: File,
    path: PathBuf,
    state: Mutex<Pending>,
    done: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Records that were put into `bytes`, and those of them that are synced.
    queued: u64,
    synced: u64,
    running: bool,
}

impl Log for Group {
    fn append(&self, _: u64, payload: &Payload) {
        let mut state = self.state.lock().expect("nobody panics");
        state.bytes.extend_from_slice(payload.text.as_bytes());
        state.bytes.extend_from_slice(&AFTER);
        state.queued += 1;
        let mine = state.queued;
        while state.synced < mine {
            if state.running {
                state = self.done.wait(state).expect("nobody panics");
                continue;
            }
            state.running = true;
            let (bytes, upto) = (std::mem::take(&mut state.bytes), state.queued);
            drop(state);
            (&self.file).write_all(&bytes).expect("written");
            self.file.sync_data().expect("synced");
            state = self.state.lock().expect("nobody panics");
            (state.running, state.synced) = (false, upto);
            self.done.notify_all();
        }
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        payloads.iter().for_each(|payload| self.append(session, payload));
    }

    fn read(&self, _: u64, each: &mut dyn FnMut(&[u8])) {
        let text = std::fs::read(&self.path).expect("a file");
        text.split_inclusive(|c| *c == b'\n').for_each(each);
    }

    fn last(&self, _: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let text = std::fs::read(&self.path).expect("a file");
        let lines: Vec<&[u8]> = text.split_inclusive(|c| *c == b'\n').collect();
        lines[lines.len() - n..].iter().for_each(|line| each(line));
    }
}
