//! Changes what is derived (the index, its anchor, maps): a list is what it is without them.

use forklog_fuzz::{run_files, world};
use forklog_sim::{Cut, SimDisk};

fn list(disk: &SimDisk) -> String {
    let store = world::open(&disk.process()).expect("a store");
    let entries = store.entries().expect("listed");
    let last = |entry: &forklog::Entry| {
        let reader = store.read(&entry.key).expect("sound");
        reader.last(2).expect("sound").map(|record| record.expect("sound").payload).collect::<Vec<_>>()
    };
    entries.iter().map(|entry| format!("{entry:?} {:?}\n", last(entry))).collect()
}

fn main() {
    let disk = world::disk();
    // A list makes the index, where there is none.
    list(&disk);
    let good = list(&disk.after(Cut::Everything));
    let derived = |path: &std::path::PathBuf| {
        let text = path.to_string_lossy();
        ["/index/", "/anchor", ".map"].iter().any(|part| text.contains(part))
    };
    let files: Vec<_> = world::files(&disk).into_iter().filter(derived).collect();
    // One file: where the anchor's newer half and the end of the tail are damaged at once, the older half knows nothing of that end.
    run_files("index_open", disk, files, move |disk| assert_eq!(list(disk), good));
}
