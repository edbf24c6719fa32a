//! Appends changed JSON: it is refused, or read again as the same value on one line.

use forklog::{NewRecord, NewSession};
use forklog_fuzz::{mutate, run, world};
use forklog_sim::SimDisk;

const SEEDS: [&str; 6] = [
    "{\"type\":\"user\",\"uuid\":\"a\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"h\\u0065\\ud83d\\ude00\"}]}}",
    "[1,-0.5e+10,true,false,null,\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]",
    "  {\r\n\t\"a\" : [ { } , [ ] ] }  ",
    "\"\u{2028}\u{2029}\u{85}é漢\"",
    "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]",
    "12345678901234567890.123",
];

fn main() {
    let fresh = || {
        let store = world::open(&SimDisk::new(3).process()).expect("a store");
        let session = store.create(NewSession::named(world::key("a"))).expect("created");
        (store, session, 0)
    };
    let world = std::cell::RefCell::new(fresh());
    run("append_input", |rng| {
        let mut bytes = SEEDS[rng.below(SEEDS.len())].as_bytes().to_vec();
        mutate(rng, &mut bytes);
        let valid = serde_json::from_slice::<serde_json::Value>(&bytes);
        let Ok(record) = NewRecord::json(&bytes) else {
            return;
        };
        let mut world = world.borrow_mut();
        if world.2 == 200 {
            *world = fresh();
        }
        let (store, session, appended) = &mut *world;
        session.append_record(&record).expect("appended");
        *appended += 1;
        let reader = store.read(&world::key("a")).expect("readable");
        assert_eq!(reader.len(), *appended);
        let mut last = reader.last(1).expect("readable");
        let record = last.next().expect("readable").expect("one");
        assert!(!record.payload().contains(&b'\n'));
        if let (Ok(given), Ok(kept)) = (valid, serde_json::from_slice::<serde_json::Value>(record.payload())) {
            assert_eq!(given, kept);
        }
    });
}
