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
        debug_assert!(is_time(text));
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(Self(MAX_MS))
    }
}

fn digit(value: i64) -> u8 {
    b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or_default()
}

/// Whether `text` is a time in the one spelling that lines use.
pub(crate) fn is_time(text: &[u8]) -> bool {
    let Ok(text) = <&[u8; Timestamp::LEN]>::try_from(text) else { return false };
    let (words, _) = text.as_chunks::<8>();
    let [first, second, third] = words else { return false };
    let shape = has_shape(*first, b"0000-00-") && has_shape(*second, b"00T00:00") && has_shape(*third, b":00.000Z");
    let two = |at: usize| (text[at] & 15) * 10 + (text[at + 1] & 15);
    shape
        && (1..=12).contains(&two(5))
        && (1..=days(u16::from(two(0)) * 100 + u16::from(two(2)), two(5))).contains(&two(8))
        && two(11) <= 23
        && two(14) <= 59
        && two(17) <= 59
}

/// Whether `text` has a digit where `shape` has 0, and else the same bytes: all eight at once, since every line that is read has
/// a time.
fn has_shape(text: [u8; 8], shape: &[u8; 8]) -> bool {
    let digits = u64::from_be_bytes(shape.map(|c| if c == b'0' { 0xff } else { 0 }));
    // Of a digit its value is left, of any other byte that fits nothing.
    let left = u64::from_be_bytes(text) ^ u64::from_be_bytes(*shape);
    left & !(digits & 0x0f0f_0f0f_0f0f_0f0f) == 0 && (left + 0x7676_7676_7676_7676) & 0x8080_8080_8080_8080 == 0
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
            assert!(is_time(text.as_bytes()), "{text}");
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
            "2025-01-01T00:00:00Z",
        ] {
            assert!(!is_time(bad.as_bytes()), "{bad}");
        }
        assert!(is_time(b"2024-02-29T00:00:00.000Z") && is_time(b"2000-02-29T00:00:00.000Z"));
    }

    #[test]
    fn finer_times_are_cut_to_milliseconds() {
        let at: Timestamp = "2025-11-21T01:29:42.1239+02:00".parse().expect("RFC 3339");
        assert_eq!(at.to_string(), "2025-11-20T23:29:42.123Z");
    }
}
