//! Changes transcripts and reads them with the engine and with the reader that was written from FORMAT.md alone: both must say the same.

use forklog::{Error, Kind};
use forklog_fuzz::{run_files, world};
use forklog_sim::reader::{self, Name, Reason, Verdict};
use forklog_soak::files;

type Said = (Vec<(Vec<u8>, Option<String>)>, String);

fn main() {
    let disk = world::disk();
    let transcripts: Vec<_> =
        world::files(&disk).into_iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    run_files("transcript_lines", disk, transcripts, |disk| {
        let Ok(store) = world::open(&disk.process()) else { panic!("the store does not open") };
        let files = files(disk);
        for name in world::SESSIONS {
            let engine: Result<Said, Error> = store.read(&world::key(name)).and_then(|reader| {
                let records = reader.records().map(|record| record.map(|r| (r.payload, r.id.map(|id| id.to_string()))));
                Ok((records.collect::<Result<_, _>>()?, serde_json::to_string(&reader.meta()).expect("JSON")))
            });
            let asked = Name { project: "p".into(), session: name.into(), side: None };
            let other: Result<Said, Verdict> = reader::read_map(&files, &asked).map(|read| {
                let records = read.records.into_iter().map(|record| (record.payload, record.id));
                (records.collect(), serde_json::to_string(&read.metadata).expect("JSON"))
            });
            let same = match (&engine, &other) {
                (Ok(engine), Ok(other)) => engine == other,
                // What a reader need not check, and this one does: payloads, and head moves that the view does not use.
                (Ok(_), Err(Verdict::Damage { reason: Reason::Payload | Reason::Move, .. })) => true,
                (Err(error), Err(verdict)) => match verdict {
                    Verdict::NoSession => error.kind() == Kind::NotFound,
                    // What the engine finds before that is a head move which a reader need not check.
                    Verdict::Newer { at, .. } => match error {
                        Error::Corrupt { at: before, .. } => before.get() < *at,
                        error => error.kind() == Kind::Newer,
                    },
                    // One finds the damage first, the other what is newer.
                    Verdict::Lineage { .. } | Verdict::Damage { .. } => {
                        matches!(error.kind(), Kind::Data | Kind::Newer)
                    }
                    Verdict::NoStore => false,
                },
                _ => false,
            };
            assert!(same, "{name}: the engine says {engine:?}, the other reader {other:?}");
        }
    });
}
