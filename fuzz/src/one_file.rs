//! A store of which one file is changed.

use std::path::{Path, PathBuf};

use forklog_sim::{Cut, SimDisk};

/// An input to [`Inputs::image`]: the number of a file in its first byte, with this where a transcript's checksums are to
/// fit, and then what the file holds.
const SEALED: u8 = 0x80;

/// Runs `case` with copies of `disk` in each of which one of `files` is changed, as [`run`](crate::run) or, under cargo-fuzz, as
/// libFuzzer does.
///
/// In half of them the checksums of a transcript fit what it holds, so that what lies behind them is tried as well.
/// `--corpus DIR` writes the files there as they are, for libFuzzer to begin with.
pub fn run_files(name: &str, disk: SimDisk, files: Vec<PathBuf>, case: impl Fn(&SimDisk) + 'static) {
    assert!((1..usize::from(SEALED)).contains(&files.len()));
    let inputs = Inputs { disk, files };
    if let [flag, dir] = &std::env::args().skip(1).collect::<Vec<_>>()[..]
        && flag == "--corpus"
    {
        return inputs.write(Path::new(dir)).expect("a directory to write to");
    }
    #[cfg(fuzzing)]
    crate::guided::run(name, move |input| case(&inputs.image(input)));
    #[cfg(not(fuzzing))]
    crate::run(name, move |rng| {
        let mut input = inputs.input(rng.below(inputs.files.len()));
        let mut bytes = input.split_off(1);
        crate::mutate(rng, &mut bytes);
        input[0] |= if rng.chance(1, 2) { SEALED } else { 0 };
        input.append(&mut bytes);
        case(&inputs.image(&input));
    });
}

struct Inputs {
    disk: SimDisk,
    files: Vec<PathBuf>,
}

impl Inputs {
    /// The file number `n` as it is.
    fn input(&self, n: usize) -> Vec<u8> {
        let bytes = self.disk.peek(&self.files[n]).expect("there");
        [&[u8::try_from(n).expect("few files")], &bytes[..]].concat()
    }

    /// The disk as `input` says.
    fn image(&self, input: &[u8]) -> SimDisk {
        let disk = self.disk.after(Cut::Everything);
        let Some((&first, bytes)) = input.split_first() else { return disk };
        let path = &self.files[usize::from(first & !SEALED) % self.files.len()];
        let mut bytes = bytes.to_vec();
        if first & SEALED != 0 && path.extension().is_some_and(|e| e == "jsonl") {
            crate::seal::seal(&mut bytes);
        }
        disk.damage(path, |old| *old = bytes.clone()).expect("there");
        disk
    }

    fn write(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        for n in 0..self.files.len() {
            let mut input = self.input(n);
            std::fs::write(dir.join(format!("{n}")), &input)?;
            input[0] |= SEALED;
            std::fs::write(dir.join(format!("{n}-sealed")), &input)?;
        }
        Ok(())
    }
}
