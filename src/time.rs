//! Times with millisecond precision, and the seam through which the engine gets clock and randomness.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Named};

/// A moment: milliseconds since 1970-01-01T00:00:00Z, from year 0000 to the last days of year 9999.
///
/// Written as `2026-11-21T01:29:42.123Z`. [`FromStr`] takes every RFC 3339 time and drops what is finer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 0000-01-01T00:00:00.000Z
const MIN_MS: i64 = -62_167_219_200_000;
/// 9999-12-30T21:59:59.999Z, the last whole second that the date-time library can hold in every zone.
const MAX_MS: i64 = 253_402_207_199_999;

impl Timestamp {
    /// Bytes of a time as text.
    pub const LEN: usize = 24;

    /// The moment `ms` milliseconds after 1970 began, moved to the nearest end of the range where it is outside.
    #[must_use]
    pub fn from_millis(ms: i64) -> Self {
        Self(ms.clamp(MIN_MS, MAX_MS))
    }

    /// Milliseconds since 1970 began.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The first 19 bytes of its text, which are the same for a whole second.
    pub(crate) fn write_second(self) -> [u8; 19] {
        let second = self.0.div_euclid(1000);
        let civil = jiff::Timestamp::from_second(second).map(|at| TimeZone::UTC.to_datetime(at)).unwrap_or_default();
        let mut text = *b"0000-00-00T00:00:00";
        let fields: [(usize, i64); 6] = [
            (4, civil.year().into()),
            (7, civil.month().into()),
            (10, civil.day().into()),
            (13, civil.hour().into()),
            (16, civil.minute().into()),
            (19, civil.second().into()),
        ];
        for (end, mut value) in fields {
            for place in text[..end].iter_mut().rev().take_while(|c| c.is_ascii_digit()) {
                *place = digit(value % 10);
                value /= 10;
            }
        }
        text
    }

    /// Its text.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut text = *b"0000-00-00T00:00:00.000Z";
        text[..19].copy_from_slice(&self.write_second());
        Self::put_millis(&mut text, self.millis_of_second());
        text
    }

    /// Writes the milliseconds of a second, 0 to 999, into the text of a time in it.
    #[inline]
    pub(crate) fn put_millis(text: &mut [u8; Self::LEN], ms: u16) {
        for (place, unit) in text[20..23].iter_mut().zip([100, 10, 1]) {
            *place = digit(i64::from(ms / unit));
        }
    }

    /// The milliseconds of its second, 0 to 999.
    pub(crate) fn millis_of_second(self) -> u16 {
        u16::try_from(self.0.rem_euclid(1000)).unwrap_or_default()
    }

    /// The time that `text` tells, which [`is_time`] has passed; the nearest one that can be held.
    pub(crate) fn of_line(text: &[u8]) -> Self {
        debug_assert!(text.try_into().is_ok_and(is_time));
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(Self(MAX_MS))
    }
}

fn digit(value: i64) -> u8 {
    b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or_default()
}

/// A time's text in the words in which it is checked: eight bytes at once, since every line that is read has one.
const DATE: Shape = Shape::of(b"9999-19-");
const HOUR: Shape = Shape::of(b"39T29:59");
const SECOND: Shape = Shape::of(b":59.999Z");

/// Whether `text` is a time in the one spelling that lines use.
#[inline(always)]
pub(crate) fn is_time(text: &[u8; Timestamp::LEN]) -> bool {
    let ([first, second, third], []) = text.as_chunks::<8>() else { return false };
    let [(date, not_date), (time, not_time), (_, not_rest)] =
        [DATE.read(*first), HOUR.read(*second), SECOND.read(*third)];
    // Two digits in two bytes compare as the numbers that they spell.
    let (month, day, hour) = (date >> 8 & 0xffff, time >> 48, time >> 24 & 0xffff);
    (not_date | not_time | not_rest) == 0
        && (0x0001..=0x0102).contains(&month)
        && hour <= 0x0203
        && day >= 0x0001
        && (day <= 0x0208 || is_day(text))
}

/// The text of a minute, up to where its seconds begin.
pub(crate) type Minute = [u8; 16];

/// [`is_time`], given the minute of a text that was one, which mostly is that of the next line too; it is `text`'s then.
#[inline(always)]
pub(crate) fn is_time_in(text: &[u8; Timestamp::LEN], minute: &mut Minute) -> bool {
    let Some((start, rest)) = text.split_first_chunk() else { return false };
    if start == minute {
        return rest.first_chunk().is_some_and(|rest| SECOND.read(*rest).1 == 0);
    }
    if is_time(text) {
        *minute = *start;
        return true;
    }
    false
}

/// Eight bytes of a time.
struct Shape {
    /// With 0 for each digit.
    text: u64,
    /// The bits that a digit's value may have.
    free: u64,
    /// What must be added to the greatest value of each digit to get 0x7f.
    room: u64,
}

impl Shape {
    /// By the greatest digit at each place; every other byte stands for itself.
    const fn of(most: &[u8; 8]) -> Self {
        let (mut text, mut free, mut room) = (*most, [0; 8], [0; 8]);
        let mut at = 0;
        while at < most.len() {
            if most[at].is_ascii_digit() {
                (text[at], free[at], room[at]) = (b'0', 0x0f, 0x7f - (most[at] - b'0'));
            }
            at += 1;
        }
        Self { text: u64::from_be_bytes(text), free: u64::from_be_bytes(free), room: u64::from_be_bytes(room) }
    }

    /// The values of the digits of `text`, each in its byte, and something else than 0 if it has another shape.
    #[inline(always)]
    fn read(&self, text: [u8; 8]) -> (u64, u64) {
        let values = u64::from_be_bytes(text) ^ self.text;
        (values, values & !self.free | values.wrapping_add(self.room) & 0x8080_8080_8080_8080)
    }
}

/// Whether the month of `text`, which has a time's shape, has the day.
#[cold]
fn is_day(text: &[u8; Timestamp::LEN]) -> bool {
    let two = |at: usize| (text[at] & 15) * 10 + (text[at + 1] & 15);
    two(8) <= days(u16::from(two(0)) * 100 + u16::from(two(2)), two(5))
}

/// Days of a month in the Gregorian calendar.
fn days(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_bytes()).unwrap_or_default())
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let why = "a time is written like 2026-11-21T01:29:42Z";
        let at: jiff::Timestamp = text.parse().map_err(|_| Error::bad_name(Named::Time, text, why))?;
        // Whole milliseconds towards the past, so that the text of a parsed time is a prefix of what was given.
        Ok(Self::from_millis(i64::try_from(at.as_nanosecond().div_euclid(1_000_000)).unwrap_or_default()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the engine gets the time and random bits from, so that tests can replay a run.
pub trait Env: fmt::Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// 128 bits that nobody can guess and that never come twice.
    fn random(&self) -> [u8; 16];
}

/// The operating system's clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEnv;

impl Env for OsEnv {
    fn now(&self) -> Timestamp {
        let millis = |of: Duration| {
            let seconds = i64::try_from(of.as_secs()).unwrap_or(i64::MAX);
            seconds.saturating_mul(1000).saturating_add(of.subsec_millis().into())
        };
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        };
        Timestamp::from_millis(ms)
    }

    /// # Panics
    ///
    /// When the operating system has no randomness to give, which a running Linux, macOS or Windows always has.
    #[expect(clippy::expect_used, reason = "a uid that is not random would let two files be taken for one")]
    fn random(&self) -> [u8; 16] {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).expect("the operating system gives random bits");
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        for ms in [MIN_MS, MAX_MS, 0, -1, 999, 1_763_688_582_123, 951_782_400_000] {
            let at = Timestamp::from_millis(ms);
            let text = at.to_string();
            assert!(is_time(&at.to_bytes()), "{text}");
            assert_eq!(Timestamp::of_line(text.as_bytes()), at, "{text}");
        }
        assert_eq!(Timestamp::from_millis(1_763_688_582_123).to_string(), "2025-11-21T01:29:42.123Z");
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in [
            "2025-02-29T00:00:00.000Z",
            "1900-02-29T00:00:00.000Z",
            "2025-13-01T00:00:00.000Z",
            "2025-00-01T00:00:00.000Z",
            "2025-01-00T00:00:00.000Z",
            "2025-01-01T24:00:00.000Z",
            "2025-01-01T00:60:00.000Z",
            "2025-01-01T00:00:60.000Z",
            "2025-01-01t00:00:00.000Z",
            "2025-01-01T00:00:00.000z",
        ] {
            assert!(!is_time(bad.as_bytes().first_chunk().expect("24 bytes")), "{bad}");
        }
        assert!(is_time(b"2024-02-29T00:00:00.000Z") && is_time(b"2000-02-29T00:00:00.000Z"));
    }

    #[test]
    fn a_time_is_what_reads_back_as_it_is_spelled() {
        let reads_back = |text: &[u8; Timestamp::LEN]| {
            let at = std::str::from_utf8(text).ok().and_then(|text| text.parse::<Timestamp>().ok());
            at.is_some_and(|at| at.to_bytes() == *text)
        };
        for base in [b"2026-11-21T01:29:42.123Z", b"2024-02-29T23:59:59.999Z", b"1900-02-28T10:00:00.000Z"] {
            let is_time = |text: &[u8; Timestamp::LEN]| {
                let (mut minute, mut other) = (*base.first_chunk().expect("16 bytes"), *b"1970-01-01T00:00");
                assert_eq!(is_time_in(text, &mut minute), is_time_in(text, &mut other), "whatever came before");
                assert_eq!(minute == text[..16], is_time(text) || base[..16] == text[..16]);
                is_time(text)
            };
            let mut tried = *base;
            for (at, other) in (0..base.len()).flat_map(|at| (0..=255).map(move |other| (at, other))) {
                tried[at] = other;
                assert_eq!(is_time(&tried), reads_back(&tried), "{:?}", String::from_utf8_lossy(&tried));
                tried = *base;
            }
            let digits: Vec<usize> = (0..base.len()).filter(|at| base[*at].is_ascii_digit()).collect();
            for (nth, first) in digits.iter().enumerate() {
                for (second, pair) in
                    digits[nth + 1..].iter().flat_map(|second| (0..100).map(move |pair| (second, pair)))
                {
                    (tried[*first], tried[*second]) = (b'0' + pair / 10, b'0' + pair % 10);
                    assert_eq!(is_time(&tried), reads_back(&tried), "{:?}", String::from_utf8_lossy(&tried));
                    tried = *base;
                }
            }
        }
    }

    #[test]
    fn finer_times_are_cut_to_milliseconds() {
        let at: Timestamp = "2025-11-21T01:29:42.1239+02:00".parse().expect("RFC 3339");
        assert_eq!(at.to_string(), "2025-11-20T23:29:42.123Z");
    }
}
