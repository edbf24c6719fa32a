//! How many images a minute; run with `--release --ignored --nocapture`.

use std::path::Path;
use std::time::Instant;

use forklog::disk::{Disk, How};
use forklog_sim::SimDisk;

#[test]
#[ignore = "measures time"]
fn images_a_second() {
    const IMAGES: u64 = 50_000;
    let disk = SimDisk::new(1);
    let process = disk.process();
    for n in 0..30 {
        let dir = format!("/{n}");
        process.create_dir(Path::new(&dir)).expect("new");
        let file = process.open(Path::new(&format!("{dir}/transcript.jsonl")), How::CreateNew).expect("new");
        file.write_at(&[b'x'; 8000], 0).expect("room");
        file.sync().expect("no fault");
        process.sync_dir(Path::new(&dir)).expect("no fault");
        if n < 25 {
            process.sync_dir(Path::new("/")).expect("no fault");
        } else {
            (0..5).for_each(|i| file.write_at(&[b'y'; 300], 8000 + 300 * i).expect("room"));
        }
    }
    let begun = Instant::now();
    let mut seen = 0;
    for (_, image) in disk.snapshot().images(1, IMAGES) {
        let process = image.process();
        seen += process.list(Path::new("/")).expect("no fault").len();
    }
    assert!(seen > 0);
    println!("{:.0} images a second", IMAGES as f64 / begun.elapsed().as_secs_f64());
}
