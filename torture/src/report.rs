//! What a run counts and prints.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Asked;
use crate::judge::Seen;

pub(crate) struct Report {
    name: String,
    /// What is counted in `struck`.
    blows: &'static str,
    begun: Instant,
    /// Workers that were begun.
    pub(crate) cycles: u64,
    /// Kills, power cuts, images or calls that failed.
    pub(crate) struck: u64,
    looked: u64,
    seen: Seen,
    violations: Vec<String>,
    /// So many violations end the run.
    most: usize,
    told: Duration,
}

impl Report {
    pub(crate) fn new(name: impl Into<String>, blows: &'static str) -> Self {
        Self {
            name: name.into(),
            blows,
            begun: Instant::now(),
            cycles: 0,
            struck: 0,
            looked: 0,
            seen: Seen::default(),
            violations: Vec::new(),
            most: 1,
            told: Duration::ZERO,
        }
    }

    /// Does not end with the first violation.
    pub(crate) fn go_on_for(&mut self, violations: usize) {
        self.most = violations;
    }

    /// Whether as much was done as was asked for, or `usual` much.
    pub(crate) fn enough(&mut self, asked: &Asked, usual: u64) -> bool {
        let time = self.begun.elapsed();
        if self.told + Duration::from_secs(30) <= time {
            self.told = time;
            println!("{}", self.line());
        }
        let most = asked.seconds.map_or(asked.count.unwrap_or(usual), |_| asked.count.unwrap_or(u64::MAX));
        self.struck >= most
            || asked.seconds.is_some_and(|most| time >= Duration::from_secs(most))
            || self.violations.len() >= self.most
    }

    /// Takes note of what was looked at.
    pub(crate) fn seen(&mut self, seen: Seen) {
        self.looked += 1;
        self.seen.add(seen);
    }

    /// Takes note of what is wrong, and leaves the directory for who looks into it.
    pub(crate) fn violation(&mut self, wrong: &str, dir: TempDir) {
        self.wrong(format!("{wrong}\n    left in {}", dir.keep().display()));
    }

    /// Takes note of what is wrong.
    pub(crate) fn wrong(&mut self, wrong: String) {
        let wrong = without_padding(&wrong);
        println!("VIOLATION in {}: {wrong}", self.name);
        self.violations.push(wrong);
    }

    fn line(&self) -> String {
        let Self { name, blows, cycles, struck, looked, seen, violations, .. } = self;
        format!(
            "{name}: {cycles} workers, {struck} {blows}, {looked} stores looked at: {} sessions, {} records, {} files of \
             workspaces; {} violations, {:.0} s",
            seen.sessions,
            seen.records,
            seen.files,
            violations.len(),
            self.begun.elapsed().as_secs_f64(),
        )
    }

    /// Prints the counts; whether nothing was wrong.
    pub(crate) fn end(self) -> bool {
        println!("{}", self.line());
        self.violations.is_empty()
    }
}

/// A text without the long runs of one letter that payloads are filled with.
fn without_padding(text: &str) -> String {
    text.split("xxx").filter(|part| !part.is_empty()).collect::<Vec<_>>().join("…")
}
