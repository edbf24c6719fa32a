//! System calls of the shipped program that fail, each in turn.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use forklog::Store;

use crate::Asked;
use crate::judge::{Seen, sound};
use crate::mount::is_there;
use crate::place::Place;
use crate::report::Report;

/// What is done to what is there, with what on standard input.
const COMMANDS: [(&str, &str); 15] = [
    ("append s --id-field uuid", "{\"uuid\":\"x\",\"n\":1}\n{\"uuid\":\"y\",\"n\":2}\n{\"uuid\":\"z\",\"n\":3}\n"),
    ("append s --batch", "{\"n\":1}\n{\"n\":2}\n"),
    ("create n --title new", ""),
    ("fork s --at 2 --as n", ""),
    ("rewind s --to 1", ""),
    ("undo s", ""),
    ("set s --title other", ""),
    ("checkpoint s --label more", ""),
    ("rewind s --to 0 --files", ""),
    ("delete d", ""),
    ("gc", ""),
    ("reindex", ""),
    ("reroot t", ""),
    ("cat s", ""),
    ("ls", ""),
];

/// Calls, and how each may fail.
const CALLS: [(&str, &[&str]); 14] = [
    ("write", &["EIO", "ENOSPC", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC", "EINTR"]),
    ("writev", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EINTR"]),
    ("ftruncate", &["EIO", "EINTR"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("mkdir", &["EIO", "ENOSPC"]),
    ("unlink", &["EIO"]),
    ("openat", &["EIO", "ENOSPC", "EINTR", "EMFILE"]),
    ("pread64", &["EIO", "EINTR"]),
    ("mmap", &["ENOMEM"]),
];

/// What there is to see: the records of every session, its title, and the files of the workspace.
type View = (BTreeMap<String, (Option<String>, Vec<String>)>, BTreeMap<String, Vec<u8>>);

struct Sweep {
    program: PathBuf,
    /// Where everything stands while it is tried, and as it is before.
    place: Place,
    template: PathBuf,
    log: PathBuf,
}

pub(crate) fn run(asked: &Asked) -> Result<Report, String> {
    if !is_there("strace") {
        return Err("there is no strace".to_owned());
    }
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = me.with_file_name("forklog");
    if !program.exists() {
        return Err(format!("there is no {}: cargo build --release -p forklog-cli", program.display()));
    }
    let mut report = Report::new("system calls", "calls that failed");
    report.go_on_for(20);
    let dir = tempfile::Builder::new().prefix("torture-").tempdir_in(&asked.dir).map_err(|error| error.to_string())?;
    let place = Place::make(&dir.path().join("place")).map_err(|error| error.to_string())?;
    let sweep = Sweep { program, place, template: dir.path().join("template"), log: dir.path().join("log") };
    sweep.prepare()?;
    for (command, input) in COMMANDS {
        let (before, after, output) = sweep.well(command, input)?;
        for (call, errors) in CALLS {
            for error in errors {
                for n in 1.. {
                    if report.enough(asked, u64::MAX) {
                        return Ok(report);
                    }
                    match sweep.strike(command, input, (call, error, n), (&before, &after, &output)) {
                        Ok(None) => break,
                        Ok(Some(seen)) => {
                            report.cycles += 1;
                            report.struck += 1;
                            report.seen(seen);
                        }
                        Err(wrong) => report.wrong(format!("{command}: {call} {n} fails with {error}: {wrong}")),
                    }
                }
            }
        }
    }
    Ok(report)
}

impl Sweep {
    fn command(&self, args: &str, wrapper: &[String]) -> Command {
        let mut words = wrapper.iter().cloned().chain([self.program.display().to_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("--store").arg(self.place.store()).args(args.split(' '));
        command.current_dir(self.place.workspace());
        command
    }

    fn run(&self, args: &str, input: &str, wrapper: &[String]) -> Result<Output, String> {
        let from = self.log.with_extension("input");
        fs::write(&from, input).map_err(|error| error.to_string())?;
        let file = fs::File::open(&from).map_err(|error| error.to_string())?;
        let mut command = self.command(args, wrapper);
        command.stdin(Stdio::from(file)).output().map_err(|error| error.to_string())
    }

    fn good(&self, args: &str, input: &str) -> Result<Output, String> {
        let done = self.run(args, input, &[])?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        if done.status.success() { Ok(done) } else { Err(format!("{args}: {said}")) }
    }

    /// A store with something of everything, and its files.
    fn prepare(&self) -> Result<(), String> {
        let write =
            |name: &str, text: &str| fs::write(self.place.workspace().join(name), text).map_err(|e| e.to_string());
        write("one", "first\n")?;
        self.good("create s --title first", "")?;
        self.good("append s --id-field uuid", "{\"uuid\":\"a\",\"n\":1}\n")?;
        self.good("checkpoint s --label before", "")?;
        let lines: String = (0..40).map(|n| format!("{{\"uuid\":\"r{n}\",\"n\":{n}}}\n")).collect();
        self.good("append s --id-field uuid", &lines)?;
        write("one", "second\n")?;
        write("two", "new\n")?;
        self.good("checkpoint s --label after", "")?;
        self.good("fork s --at 3 --as t", "")?;
        self.good("create d", "")?;
        self.good("append d", "{\"n\":1}\n")?;
        self.good("create e", "")?;
        self.good("delete e", "")?;
        self.good("rewind s --to 20", "")?;
        self.place.copy_to(&self.template).map_err(|error| error.to_string()).map(drop)
    }

    fn reset(&self) -> Result<(), String> {
        let again = || {
            fs::remove_dir_all(&self.place.0)?;
            Place(self.template.clone()).copy_to(&self.place.0)
        };
        again().map(drop).map_err(|error| error.to_string())
    }

    fn look(&self) -> Result<View, String> {
        let store = Store::open(self.place.store()).map_err(|error| error.to_string())?;
        let mut sessions = BTreeMap::new();
        for entry in store.entries().map_err(|error| error.to_string())? {
            let reader = store.read(&entry.key).map_err(|error| error.to_string())?;
            let text = |record: forklog::OwnedRecord| String::from_utf8_lossy(&record.payload).into_owned();
            let records: Result<Vec<String>, _> = reader.records().map(|record| record.map(text)).collect();
            let records = records.map_err(|error| error.to_string())?;
            if entry.records != records.len() as u64 {
                return Err(format!(
                    "{}: {} records are listed, {} are there",
                    entry.key,
                    entry.records,
                    records.len()
                ));
            }
            sessions.insert(entry.key.to_string(), (entry.title, records));
        }
        let files = Place::files_below(&self.place.workspace()).map_err(|error| error.to_string())?;
        Ok((sessions, files.into_iter().map(|(path, bytes)| (path, bytes.0)).collect()))
    }

    /// What is there before and after, and what is printed, when nothing fails.
    fn well(&self, command: &str, input: &str) -> Result<(View, View, Vec<u8>), String> {
        self.reset()?;
        let before = self.look()?;
        let done = self.good(command, input)?;
        Ok((before, self.look()?, done.stdout))
    }

    /// Makes the `n`-th such call fail. `None` when there was none.
    fn strike(
        &self,
        command: &str,
        input: &str,
        (call, error, n): (&str, &str, u64),
        (before, after, output): (&View, &View, &[u8]),
    ) -> Result<Option<Seen>, String> {
        self.reset()?;
        let inject = format!("inject={call}:error={error}:when={n}");
        let log = self.log.display().to_string();
        let trace = format!("trace={call}");
        let wrapper = ["strace", "-f", "-qq", "-o", &log, "-e", &trace, "-e", &inject].map(str::to_owned);
        let done = self.run(command, input, &wrapper)?;
        let traced = fs::read_to_string(&self.log).unwrap_or_default();
        if !traced.contains("(INJECTED)") {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let found = self.look().map_err(|wrong| format!("{wrong}; exit {:?}: {said}", done.status.code()))?;
        match done.status.code() {
            Some(0) => {
                if found != *after {
                    return Err(format!("it says that it is done, and there is {found:?}"));
                }
                let reads = matches!(command.split(' ').next(), Some("cat" | "ls"));
                if reads && done.stdout != output {
                    return Err(format!(
                        "it says that it is done, and prints {:?}",
                        String::from_utf8_lossy(&done.stdout)
                    ));
                }
            }
            // The program's own codes, and one line that says why.
            Some(1..=5) if said.lines().count() == 1 && said.starts_with("error: ") => {}
            // The system could not start it, or gave it no memory.
            Some(127) | None if matches!(call, "openat" | "mmap" | "pread64") => {}
            // There is nobody to tell when standard error fails itself.
            Some(1..=5) if call == "write" && said.is_empty() => {}
            code => return Err(format!("exit code {code:?}, and it says {said:?}")),
        }
        if found != *before && found != *after && !between(before, &found, after) {
            return Err(format!("exit {:?}, {said}: there is {found:?}", done.status.code()));
        }
        let store = Store::open(self.place.store()).map_err(|error| error.to_string())?;
        sound(&store)?;
        drop(store);
        self.good("append s", "{\"after\":true}\n").map_err(|wrong| format!("afterwards: {wrong}"))?;
        let records = found.0.values().map(|(_, records)| records.len() as u64).sum();
        Ok(Some(Seen { sessions: found.0.len() as u64, records, files: found.1.len() as u64 }))
    }
}

/// Whether some of what is appended is there and nothing else differs, or a session is there whose title is not.
fn between(before: &View, found: &View, after: &View) -> bool {
    let grows = |(name, (title, records)): (&String, &(Option<String>, Vec<String>))| {
        let (was, is) = (before.0.get(name), after.0.get(name));
        let first = was.map_or(&[][..], |(_, records)| records);
        is.is_some_and(|(last, all)| {
            all.starts_with(records) && records.starts_with(first) && (title == last || title.is_none())
        })
    };
    found.1 == after.1 && found.0.iter().all(grows) && before.0.keys().all(|name| found.0.contains_key(name))
}
