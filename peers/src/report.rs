//! What was measured, as a table, as CSV and as plots.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use crate::machine::Machine;
use crate::measure::{Figures, Outcome, Side, Unit};
use crate::plot;

/// A line on a terminal's standard error that says what is being done.
pub(crate) struct Progress {
    shown: bool,
    width: Cell<usize>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), width: Cell::new(0) }
    }

    pub(crate) fn say(&self, what: &str) {
        if self.shown {
            // The line before may have been longer.
            let width = self.width.replace(what.len());
            let _ = write!(std::io::stderr(), "\r{what:<width$}");
        }
    }

    pub(crate) fn clear(&self) {
        self.say("");
        if self.shown {
            let _ = write!(std::io::stderr(), "\r");
        }
    }
}

/// All rows so far.
pub(crate) struct Report {
    machine: Machine,
    rounds: usize,
    date: String,
    outcomes: Vec<Outcome>,
}

/// The first line of the CSV. docs/bench/README.md says what each column is.
const COLUMNS: &str =
    "date,row,side,mode,unit,rounds,median,p50,p99,worst,ratio,ratio_q1,ratio_q3,cpu,cores,kernel,file_system,load";

impl Report {
    pub(crate) fn new(machine: Machine, rounds: usize) -> Self {
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        Self { machine, rounds, date, outcomes: Vec::new() }
    }

    /// What was measured on, and the names of columns.
    pub(crate) fn head(&self) -> String {
        format!(
            "{}\n\n{:<40} {:<30} {:>11} {:>9} {:>9} {:>9} {:>8} {:>15}\n",
            self.where_and_when(),
            "",
            "promise",
            "median",
            "p50",
            "p99",
            "worst",
            "ratio",
            "quartiles"
        )
    }

    fn where_and_when(&self) -> String {
        let Machine { cpu, cores, memory_gib, kernel, file_system, rustc, load } = &self.machine;
        let (date, rounds) = (&self.date, self.rounds);
        let machine = format!("{cores} cores, {cpu}; {memory_gib} GiB; {kernel}; {file_system}");
        format!("{date}; {machine}; load {load} before it began; {rustc}; {rounds} rounds")
    }

    /// A row for people.
    pub(crate) fn row(&self, outcome: &Outcome) -> String {
        let mut text = format!("\n{} [{}]; goal: {}\n", outcome.what, outcome.id, outcome.goal);
        for Side { name, mode, figures } in &outcome.sides {
            let _ = match figures {
                None => writeln!(text, "  {name:<38} {mode}"),
                Some(figures) => {
                    let (ratio, low, high) = figures.ratio();
                    let quantile = |share| figures.at(share).map_or(String::new(), seconds);
                    writeln!(
                        text,
                        "  {name:<38} {mode:<30} {:>11} {:>9} {:>9} {:>9} {ratio:>8.2} {:>15}",
                        value(outcome.unit, figures.median()),
                        quantile(0.5),
                        quantile(0.99),
                        quantile(1.0),
                        format!("{low:.2}–{high:.2}"),
                    )
                }
            };
        }
        text
    }

    pub(crate) fn keep(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    pub(crate) fn csv(&self) -> String {
        let mut text = format!("{COLUMNS}\n");
        let Machine { cpu, cores, kernel, file_system, load, .. } = &self.machine;
        for outcome in &self.outcomes {
            for Side { name, mode, figures } in &outcome.sides {
                let figures = figures.as_ref().map_or(",,,,,,".to_owned(), numbers);
                let fields = [&self.date, outcome.id, name, mode, unit(outcome.unit)].map(quoted).join(",");
                let machine = [cpu, cores.to_string().as_str(), kernel, file_system, load].map(quoted).join(",");
                let _ = writeln!(text, "{fields},{},{figures},{machine}", self.rounds);
            }
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text =
            "# The whole table\n\nWritten by `--markdown`; [README.md](README.md) says how to read it.\n\n".to_owned();
        let _ = writeln!(text, "{}", self.where_and_when());
        for outcome in &self.outcomes {
            let _ = writeln!(text, "\n## {}\n\nGoal: {}\n", outcome.what, outcome.goal);
            text.push_str(
                "| | promise | median | p50 | p99 | worst | ratio | quartiles |\n|---|---|--:|--:|--:|--:|--:|--:|\n",
            );
            for Side { name, mode, figures } in &outcome.sides {
                let _ = match figures {
                    None => writeln!(text, "| {name} | {mode} | | | | | | |"),
                    Some(figures) => {
                        let (ratio, low, high) = figures.ratio();
                        let [p50, p99, worst] =
                            [0.5, 0.99, 1.0].map(|share| figures.at(share).map_or(String::new(), seconds));
                        let median = value(outcome.unit, figures.median());
                        writeln!(
                            text,
                            "| {name} | {mode} | {median} | {p50} | {p99} | {worst} | {ratio:.2} | {low:.2}–{high:.2} |"
                        )
                    }
                };
            }
        }
        text
    }

    /// A plot for every row in which somebody was compared: file name and drawing.
    pub(crate) fn plots(&self) -> Vec<(String, String)> {
        let compared = self.outcomes.iter().filter(|outcome| outcome.sides.len() > 1);
        let plot = |outcome: &Outcome| {
            let bars = outcome.sides.iter().filter_map(|side| {
                let median = side.figures.as_ref()?.median();
                let label =
                    if side.mode.is_empty() { side.name.clone() } else { format!("{} ({})", side.name, side.mode) };
                let ours = side.name.starts_with("forklog");
                Some(plot::Bar { label, value: median, text: value(outcome.unit, median), ours })
            });
            let better = if outcome.unit == Unit::BytesPerSecond { "more is better" } else { "less is better" };
            let svg = plot::bars(&format!("{} ({better}, logarithmic)", outcome.what), &bars.collect::<Vec<_>>());
            (format!("{}.svg", outcome.id), svg)
        };
        compared.map(plot).collect()
    }
}

fn numbers(figures: &Figures) -> String {
    let (ratio, low, high) = figures.ratio();
    let quantile = |share| figures.at(share).map_or(String::new(), |seconds| format!("{seconds:e}"));
    let median = figures.median();
    format!("{median:e},{},{},{},{ratio:.4},{low:.4},{high:.4}", quantile(0.5), quantile(0.99), quantile(1.0))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Seconds => "s",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "bytes/s",
        Unit::Count => "",
    }
}

/// A figure for people, with three digits that count.
fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => seconds(value),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => format!("{}/s", bytes(value)),
        Unit::Count => digits(value),
    }
}

fn seconds(value: f64) -> String {
    let (factor, unit) = match value {
        _ if value < 1e-6 => (1e9, "ns"),
        _ if value < 1e-3 => (1e6, "µs"),
        _ if value < 1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{} {unit}", digits(value * factor))
}

fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(scaled), units[unit])
}

fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_units_for_people() {
        assert_eq!(value(Unit::Seconds, 0.000_001_234), "1.23 µs");
        assert_eq!(value(Unit::BytesPerSecond, 4.0 * 1024.0 * 1024.0 * 1024.0), "4.00 GiB/s");
        assert_eq!(value(Unit::Bytes, 440.0), "440 B");
    }
}
