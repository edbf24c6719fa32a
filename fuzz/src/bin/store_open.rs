//! Changes a file of a store and uses the store: nothing may panic, an answer may be an error, and what is written afterwards must be read again.

use forklog::{Filter, Kind};
use forklog_fuzz::{mutate, run, world};
use forklog_sim::Cut;

fn main() {
    let disk = world::disk();
    let files = world::files(&disk);
    run("store_open", |rng| {
        let disk = disk.after(Cut::Everything);
        for _ in 0..=rng.below(2) {
            let path = &files[rng.below(files.len())];
            let mut bytes = disk.peek(path).expect("there").to_vec();
            mutate(rng, &mut bytes);
            disk.damage(path, |old| *old = bytes.clone()).expect("there");
        }
        let Ok(store) = world::open(&disk.process()) else { return };
        let _ = store.list(&Filter::default(), None, 10);
        let _ = store.verify(None, |_| {});
        for name in world::SESSIONS {
            let key = world::key(name);
            if let Ok(reader) = store.read(&key) {
                let forward = reader.records().collect::<Result<Vec<_>, _>>();
                let last = reader.last(2).and_then(|records| records.collect::<Result<Vec<_>, _>>());
                if let (Ok(all), Ok(last)) = (&forward, &last) {
                    assert!(all.ends_with(last), "{name}: the last records are others than the last of all");
                }
                let _ = reader.summary();
            }
            let before = store.read(&key).and_then(|reader| reader.records().collect::<Result<Vec<_>, _>>());
            let Ok(session) = store.session(&key) else { continue };
            if session.append_json(b"\"fuzz\"").is_err() || session.close().is_err() {
                continue;
            }
            let after = store.read(&key).and_then(|reader| reader.records().collect::<Result<Vec<_>, _>>());
            match (before, after) {
                (Ok(before), Ok(after)) => {
                    assert_eq!(after.len(), before.len() + 1, "{name}");
                    assert!(after.starts_with(&before), "{name}");
                    assert_eq!(after[before.len()].payload, b"\"fuzz\"", "{name}");
                }
                (Err(error), _) | (_, Err(error)) => {
                    assert!(matches!(error.kind(), Kind::Data | Kind::Newer), "{name}: {error}");
                }
            }
        }
        for name in world::SESSIONS {
            let _ = store.repair(&world::key(name));
        }
        let _ = store.gc(false);
    });
}
