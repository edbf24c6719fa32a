//! Checksums that fit.

/// What stands behind a line's checksum.
const END: &[u8] = b"\"}\n";

/// Makes the checksum of every line of a transcript, and the one in the payload of an `xclose`, fit what stands before it.
pub(crate) fn seal(bytes: &mut [u8]) {
    let mut previous = base(bytes).unwrap_or(0);
    for line in bytes.split_inclusive_mut(|&c| c == b'\n') {
        let Some(at) = line.len().checked_sub(8 + END.len()).filter(|_| line.ends_with(END)) else { continue };
        if let Some(chain) = after(line, b"\"xclose\":{\"chain\":\"").filter(|chain| chain + 8 <= at) {
            write(&mut line[chain..chain + 8], previous);
        }
        let mut hasher = crc32fast::Hasher::new_with_initial(previous);
        hasher.update(&line[..at]);
        previous = hasher.finalize();
        write(&mut line[at..at + 8], previous);
    }
}

/// The checksum in a fork's first line with which that line is continued.
fn base(bytes: &[u8]) -> Option<u32> {
    let header = bytes.split(|&c| c == b'\n').next()?;
    let crc = header.get(after(header, b"\"base\":{\"at\":{")?..)?;
    let crc = crc.get(after(crc, b"\"crc\":\"")?..)?.get(..8)?;
    u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()
}

/// The place behind the first `needle`.
fn after(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|part| part == needle).map(|at| at + needle.len())
}

fn write(to: &mut [u8], crc: u32) {
    to.copy_from_slice(format!("{crc:08x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;

    #[test]
    fn a_sound_transcript_is_sealed_already() {
        let disk = world::disk();
        let files = world::files(&disk);
        let transcripts: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
        assert!(transcripts.len() > 3);
        for path in transcripts {
            let bytes = disk.peek(path).expect("there");
            let mut sealed = bytes.to_vec();
            seal(&mut sealed);
            assert!(sealed == **bytes, "{}", path.display());
        }
    }
}
