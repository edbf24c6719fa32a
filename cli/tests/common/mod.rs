//! The shipped command line, run in directories of its own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A store and a workspace in a temporary directory; commands run in the workspace.
pub struct Cli {
    pub dir: tempfile::TempDir,
}

impl Cli {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("work")).expect("made");
        Self { dir }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn work(&self) -> PathBuf {
        fs::canonicalize(self.dir.path().join("work")).expect("there")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.command_in(&self.work(), args)
    }

    fn command_in(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forklog"));
        command.env("FORKLOG_STORE", self.store()).args(args).current_dir(dir);
        command
    }

    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        fed(self.command(args), input)
    }

    pub fn run_in(&self, dir: &Path, args: &[&str]) -> Output {
        fed(self.command_in(dir, args), b"")
    }

    pub fn good_with(&self, args: &[&str], input: &[u8]) -> String {
        good(args, self.run_with(args, input))
    }

    pub fn good_in(&self, dir: &Path, args: &[&str]) -> String {
        good(args, self.run_in(dir, args))
    }

    pub fn good(&self, args: &[&str]) -> String {
        self.good_with(args, b"")
    }

    /// What was printed, a value a line.
    pub fn values(&self, args: &[&str]) -> Vec<Value> {
        self.good(args).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub fn value(&self, args: &[&str]) -> Value {
        let values = self.values(args);
        assert_eq!(values.len(), 1, "{args:?}: {values:?}");
        values.into_iter().next().expect("one")
    }

    /// [`Self::values`] of a command that is asked for JSON.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        self.values(&[&["--json"], args].concat())
    }

    pub fn json_value(&self, args: &[&str]) -> Value {
        self.value(&[&["--json"], args].concat())
    }

    /// Refused with this code and one line that says `why`.
    pub fn bad_with(&self, args: &[&str], input: &[u8], code: i32, why: &str) {
        bad(args, &self.run_with(args, input), code, why);
    }

    pub fn bad_in(&self, dir: &Path, args: &[&str], code: i32, why: &str) {
        bad(args, &self.run_in(dir, args), code, why);
    }

    pub fn bad(&self, args: &[&str], code: i32, why: &str) {
        self.bad_with(args, b"", code, why);
    }

    /// The numbers `n` of the records that a command prints.
    pub fn numbers(&self, args: &[&str]) -> Vec<u64> {
        self.values(args).iter().filter_map(|value| value["n"].as_u64()).collect()
    }
}

fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A command that refuses early reads nothing.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn good(args: &[&str], output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn bad(args: &[&str], output: &Output, code: i32, why: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
    assert!(error.contains(why), "{args:?}: {error}");
}
