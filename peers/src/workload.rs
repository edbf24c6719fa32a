//! What is appended: payloads of a fixed size, and payloads whose sizes are those of real transcripts.

/// Line sizes in bytes at these quantiles, in lines that Claude Code and Codex sessions wrote: the 125 lines of the samples of
/// claude-code-log 1.7.0 (MIT, © 2025 Daniel Demmel; `dev-docs/messages` and `test/test_data`).
///
/// Its own maximum is 198,665 bytes; what lies above 0.99 comes from [`TAIL`] instead.
const QUANTILES: [(f64, f64); 8] = [
    (0.0, 100.0),
    (0.10, 154.0),
    (0.25, 299.0),
    (0.50, 659.0),
    (0.75, 1182.0),
    (0.90, 2130.0),
    (0.95, 6855.0),
    (1.0, 24_666.0),
];

/// What samples of single lines are too few to show, and sessions have: the probability of a line between two sizes. Attachments
/// and results of tools are some tens of KiB, and single lines of 12 MB have been reported.
const TAIL: [(f64, f64, f64); 2] =
    [(0.03, 20.0 * 1024.0, 60.0 * 1024.0), (0.0004, 1024.0 * 1024.0, 12.0 * 1024.0 * 1024.0)];

/// A sequence of numbers that is the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The size of one line.
fn size(random: &mut Random) -> usize {
    let mut at = random.unit();
    for (share, from, to) in TAIL {
        if at < share {
            return whole(from * (to / from).powf(random.unit()));
        }
        at -= share;
    }
    let at = random.unit();
    let above = QUANTILES.iter().position(|(quantile, _)| at < *quantile).unwrap_or(QUANTILES.len() - 1).max(1);
    let ((low, from), (high, to)) = (QUANTILES[above - 1], QUANTILES[above]);
    whole(from * (to / from).powf((at - low) / (high - low)))
}

fn whole(size: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes are positive and below 16 MiB")]
    let size = size as usize;
    size
}

const WORDS: [&str; 24] = [
    "the", "file", "returns", "an", "error", "when", "let", "me", "check", "test", "passes", "now", "we", "should",
    "look", "at", "function", "and", "then", "run", "cargo", "again", "to", "see",
];

/// A message of an agent's transcript that is `len` bytes of JSON, or a little more where that is less than its frame.
pub(crate) fn message(random: &mut Random, n: u64, len: usize) -> String {
    let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
    let mut text = format!(r#"{{"type":"{role}","n":{n},"message":{{"role":"{role}","content":""#);
    let end = r#""}}"#;
    let room = len.saturating_sub(text.len() + end.len());
    let from = text.len();
    while text.len() - from < room {
        text.push_str(WORDS[usize::try_from(random.below(24)).unwrap_or_default()]);
        text.push_str(if random.below(12) == 0 { r"\n" } else { " " });
    }
    text.truncate(from + room);
    if text.ends_with('\\') {
        text.pop();
        text.push('.');
    }
    text.push_str(end);
    text
}

/// `n` messages of `len` bytes.
pub(crate) fn fixed(n: usize, len: usize) -> Vec<String> {
    let mut random = Random::new(7);
    (0..n as u64).map(|n| message(&mut random, n, len)).collect()
}

/// `n` messages whose sizes are those of real transcripts.
pub(crate) fn real(n: usize) -> Vec<String> {
    let mut random = Random::new(11);
    (0..n as u64)
        .map(|n| {
            let len = size(&mut random);
            message(&mut random, n, len)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_json_of_the_size_that_was_asked_for() {
        let mut random = Random::new(1);
        for len in [100, 101, 1024, 5000] {
            let text = message(&mut random, 3, len);
            assert_eq!(text.len(), len);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
    }

    #[test]
    fn sizes_are_those_of_the_samples_and_their_tail() {
        let mut sizes: Vec<usize> = {
            let mut random = Random::new(11);
            (0..50_000).map(|_| size(&mut random)).collect()
        };
        sizes.sort_unstable();
        let at = |quantile: f64| sizes[whole(quantile * sizes.len() as f64)];
        assert!((600..720).contains(&at(0.5)), "{}", at(0.5));
        assert!((20_000..62_000).contains(&at(0.985)), "{}", at(0.985));
        assert!(sizes.iter().any(|size| *size > 4 << 20) && sizes.iter().all(|size| *size < 12 << 20));
        assert_eq!(real(50), real(50));
    }
}
