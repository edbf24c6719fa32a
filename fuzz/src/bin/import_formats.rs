//! Imports changed transcripts of agents: nothing may panic, and importing again adds nothing.

use forklog::import::discover;
use forklog_fuzz::{mutate, run, world};
use forklog_sim::SimDisk;

const SAMPLES: [(&str, &[u8]); 3] = [
    ("a.jsonl", include_bytes!("../../../tests/samples/plain.jsonl")),
    ("projects/-p/b.jsonl", b"{\"type\":\"user\",\"uuid\":\"u1\",\"sessionId\":\"b\",\"timestamp\":\"2025-06-14T10:00:00Z\",\"message\":{\"role\":\"user\",\"content\":\"hi\"}}\n{\"type\":\"custom-title\",\"customTitle\":\"t\",\"sessionId\":\"b\"}\n"),
    ("rollout-1.jsonl", b"{\"timestamp\":\"2026-01-02T03:04:05.000Z\",\"type\":\"session_meta\",\"payload\":{\"id\":\"x\",\"cwd\":\"/w\"}}\n{\"type\":\"event_msg\",\"payload\":{\"type\":\"user_message\",\"message\":\"hi\"}}\n"),
];

fn main() {
    run("import_formats", |rng| {
        let dir = tempfile::tempdir().expect("a directory");
        let (name, sample) = SAMPLES[rng.below(SAMPLES.len())];
        let mut bytes = sample.to_vec();
        mutate(rng, &mut bytes);
        let path = dir.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().expect("below")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        let Ok(found) = discover(&[dir.path().join("in")], None) else { return };
        let store = world::open(&SimDisk::new(1).process()).expect("a store");
        store.import(&found.sources, |_| {}).expect("imported");
        let again = store.import(&found.sources, |_| {}).expect("imported");
        assert_eq!(again.appended, 0, "importing again added records");
    });
}
