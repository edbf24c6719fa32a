//! Compressing an object against one that it resembles.

use std::io;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, SafeResult};

/// Finds more in small objects than the quickest level, which is what deltas are for.
const LEVEL: i32 = 3;

/// The zstd frame that makes `bytes` of `base`.
pub(super) fn zip(base: &[u8], bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut context = CCtx::create();
    checked(context.set_parameter(CParameter::CompressionLevel(LEVEL)))?;
    // The base's beginning must still be in the window at the end.
    let window = usize::BITS - (base.len() + bytes.len()).leading_zeros();
    checked(context.set_parameter(CParameter::WindowLog(window.clamp(10, 27))))?;
    checked(context.ref_prefix(base))?;
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    checked(context.compress2(&mut out, bytes))?;
    Ok(out)
}

/// What [`zip`] was given, if it has `len` bytes; nothing longer is allocated.
pub(super) fn unzip(base: &[u8], frame: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut context = DCtx::create();
    checked(context.ref_prefix(base))?;
    let mut out = Vec::with_capacity(len);
    checked(context.decompress(&mut out, frame))?;
    Ok(out)
}

fn checked(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_costs_little_and_comes_back() {
        let base: Vec<u8> =
            (0..20_000_u32).flat_map(|n| format!("line {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).collect();
        let mut bytes = base.clone();
        bytes.splice(150_000..150_010, *b"another line");
        let frame = zip(&base, &bytes).expect("zipped");
        assert!(frame.len() < 200, "{}", frame.len());
        assert_eq!(unzip(&base, &frame, bytes.len()).expect("unzipped"), bytes);
        assert!(unzip(&base, &frame, bytes.len() - 1).is_err(), "longer than it says");
        assert!(unzip(&base[..base.len() - 1], &frame, bytes.len()).ok() != Some(bytes), "another base");
    }
}
