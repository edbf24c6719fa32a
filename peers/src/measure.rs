//! Rounds of the same work on several sides in turn, and what is made of them.

use std::time::{Duration, Instant};

use forklog_sim::Rng;
use hdrhistogram::Histogram;

/// What a row's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Seconds for one operation; fewer is better.
    Seconds,
    /// Bytes; fewer is better.
    Bytes,
    /// Bytes a second; more is better.
    BytesPerSecond,
    /// A number; fewer is better.
    Count,
}

/// What one side did in one round.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// Nanoseconds of each operation, where they were timed one by one.
    pub(crate) each: Option<Histogram<u64>>,
}

impl Sample {
    pub(crate) fn of(value: f64) -> Self {
        Self { value, each: None }
    }

    /// The seconds that `work` takes.
    pub(crate) fn time<T>(work: impl FnOnce() -> T) -> Self {
        let start = Instant::now();
        let done = work();
        let took = start.elapsed();
        drop(done);
        Self::of(took.as_secs_f64())
    }

    /// [`Sample::time`], the second time that it is done: what the side before has left in the caches does not count.
    pub(crate) fn again<T>(mut work: impl FnMut() -> T) -> Self {
        drop(work());
        Self::time(work)
    }

    /// [`Sample::rate`], the second time that it is done.
    pub(crate) fn rate_again(bytes: u64, mut work: impl FnMut()) -> Self {
        work();
        Self::rate(bytes, work)
    }

    /// The rate at which `work` goes through `bytes`.
    pub(crate) fn rate(bytes: u64, work: impl FnOnce()) -> Self {
        Self::of(bytes as f64 / Self::time(work).value)
    }
}

/// Times operations one by one.
pub(crate) struct Clock {
    each: Histogram<u64>,
    total: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { each: Histogram::new(3).expect("three digits can be kept"), total: Duration::ZERO }
    }

    pub(crate) fn time(&mut self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        let took = start.elapsed();
        self.total += took;
        self.each.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)).expect("it grows");
    }

    /// The mean of an operation, and all of them.
    pub(crate) fn sample(self) -> Sample {
        Sample { value: self.total.as_secs_f64() / self.each.len().max(1) as f64, each: Some(self.each) }
    }

    /// What `threads` of these did together in `wall`: the share of one operation, and all of them.
    pub(crate) fn together(clocks: Vec<Self>, wall: Duration) -> Sample {
        let mut each = Histogram::new(3).expect("three digits can be kept");
        for clock in clocks {
            each.add(clock.each).expect("histograms that grow take one another");
        }
        Sample { value: wall.as_secs_f64() / each.len().max(1) as f64, each: Some(each) }
    }
}

/// One side of a row: its name, what it promises, and its work.
pub(crate) struct Case<'a> {
    pub(crate) name: String,
    pub(crate) mode: &'static str,
    pub(crate) run: Box<dyn FnMut(usize) -> Sample + 'a>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(name: impl Into<String>, mode: &'static str, run: impl FnMut(usize) -> Sample + 'a) -> Self {
        Self { name: name.into(), mode, run: Box::new(run) }
    }
}

/// The same work on several sides. The first is forklog's, to which the others are compared.
pub(crate) struct Row<'a> {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) goal: &'static str,
    pub(crate) cases: Vec<Case<'a>>,
}

/// What became of a row.
pub(crate) struct Outcome {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) goal: &'static str,
    pub(crate) sides: Vec<Side>,
}

/// What one side of a row came to.
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) mode: &'static str,
    /// `None` where it could not be run; `mode` says why.
    pub(crate) figures: Option<Figures>,
}

pub(crate) struct Figures {
    /// One a round.
    pub(crate) values: Vec<f64>,
    pub(crate) each: Option<Histogram<u64>>,
    /// How many times better than this side the first side is: one a round.
    pub(crate) ratios: Vec<f64>,
}

impl Figures {
    pub(crate) fn median(&self) -> f64 {
        quantile(&self.values, 0.5)
    }

    /// Median, lower and upper quartile of the ratios.
    pub(crate) fn ratio(&self) -> (f64, f64, f64) {
        (quantile(&self.ratios, 0.5), quantile(&self.ratios, 0.25), quantile(&self.ratios, 0.75))
    }

    /// The latency of an operation at `quantile`, in seconds.
    pub(crate) fn at(&self, quantile: f64) -> Option<f64> {
        self.each.as_ref().map(|each| each.value_at_quantile(quantile) as f64 / 1e9)
    }
}

/// The value below which this share of all lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share * (sorted.len().max(1) - 1) as f64;
    let get = |at: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a short list")]
        let index = at as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    };
    let (low, high) = (get(at.floor()), get(at.ceil()));
    low + (high - low) * at.fract()
}

/// Runs every side once a round, in an order that is drawn anew for each, since what one leaves in caches, and in the file system's
/// background, helps or hinders the next.
/// What a side has written is on the disk before the next one begins, whose syncs would have to wait for it.
pub(crate) fn run(row: Row<'_>, rounds: usize, mut progress: impl FnMut(&str)) -> Outcome {
    let Row { id, what, unit, goal, mut cases } = row;
    let n = cases.len();
    let mut samples: Vec<Vec<Sample>> = (0..n).map(|_| Vec::new()).collect();
    let (mut random, mut order) = (Rng::new(1), (0..n).collect::<Vec<_>>());
    for round in 0..rounds {
        for last in (1..n).rev() {
            order.swap(last, random.below(last + 1));
        }
        for &index in &order {
            progress(&format!("{id}, round {} of {rounds}: {}", round + 1, cases[index].name));
            rustix::fs::sync();
            samples[index].push((cases[index].run)(round));
        }
    }
    let first: Vec<f64> = samples.first().map(|of| of.iter().map(|sample| sample.value).collect()).unwrap_or_default();
    let sides = cases.iter().zip(samples).map(|(case, samples)| {
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        let ratios = values.iter().zip(&first).map(|(value, first)| match unit {
            Unit::BytesPerSecond => first / value,
            _ => value / first,
        });
        let ratios = ratios.collect();
        let mut each: Option<Histogram<u64>> = None;
        for more in samples.into_iter().filter_map(|sample| sample.each) {
            match &mut each {
                None => each = Some(more),
                Some(each) => each.add(more).expect("histograms that grow take one another"),
            }
        }
        Side { name: case.name.clone(), mode: case.mode, figures: Some(Figures { values, each, ratios }) }
    });
    Outcome { id, what, unit, goal, sides: sides.collect() }
}

impl Outcome {
    /// Adds a side that could not be run, and why, so that the table does not keep it quiet.
    pub(crate) fn missing(mut self, name: &str, why: Option<&'static str>) -> Self {
        if let Some(why) = why {
            self.sides.push(Side { name: name.to_owned(), mode: why, figures: None });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round_and_a_rate_is_better_when_higher() {
        let values = [[1.0, 2.0, 4.0], [2.0, 8.0, 4.0]];
        let case = |side: usize| Case::new("side", "", move |round| Sample::of(values[side][round]));
        let row = |unit| Row { id: "row", what: String::new(), unit, goal: "", cases: vec![case(0), case(1)] };
        let of = |unit| run(row(unit), 3, |_| {}).sides[1].figures.as_ref().expect("it ran").ratios.clone();
        assert_eq!(of(Unit::Seconds), [2.0, 4.0, 1.0]);
        assert_eq!(of(Unit::BytesPerSecond), [0.5, 0.25, 1.0]);
        assert_eq!(quantile(&[4.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.5);
    }
}
