//! Single operations of the engine, for watching how they change. What they are worth is told by `goals`, which compares.
#![expect(clippy::expect_used, reason = "a bench that cannot do its work has nothing to say")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forklog::{At, Filter, NewSession, Seq, Store};
use serde_json::json;
use serde_json::value::RawValue;

/// Records of the transcript that is read.
const RECORDS: u64 = 20_000;

fn engine(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("a directory to measure in");
    let store = Store::open(dir.path().join("store")).expect("a store");
    let value = json!({ "type": "note", "text": "x".repeat(1000) });
    let raw = RawValue::from_string(value.to_string()).expect("JSON");

    let session = store.create(NewSession::default()).expect("created");
    let mut group = criterion.benchmark_group("append 1 KiB");
    group.throughput(Throughput::Bytes(raw.get().len() as u64));
    group.bench_function("Serialize", |bench| bench.iter(|| session.append(black_box(&value)).expect("appended")));
    group.bench_function("RawValue", |bench| bench.iter(|| session.append_raw(black_box(&raw)).expect("appended")));
    group.bench_function("bytes", |bench| {
        bench.iter(|| session.append_json(black_box(raw.get().as_bytes())).expect("appended"));
    });
    group.finish();
    session.close().expect("closed");

    let session = store.create(NewSession::default()).expect("created");
    for _ in 0..RECORDS {
        session.append_raw(&raw).expect("appended");
    }
    let key = session.key().clone();
    session.close().expect("closed");
    let count = || {
        let mut records = store.read(&key).expect("there").records();
        let mut count = 0;
        while records.next().expect("good").is_some() {
            count += 1;
        }
        count
    };
    assert_eq!(count(), RECORDS);
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(store.read(&key).expect("there").size()));
    group.bench_function("all, verified", |bench| bench.iter(|| black_box(count())));
    group.finish();
    assert_eq!(store.read(&key).expect("there").last(100).expect("good").count(), 100);
    criterion.bench_function("the last 100", |bench| {
        bench.iter(|| store.read(&key).expect("there").last(100).expect("good").count());
    });
    criterion.bench_function("fork in the middle", |bench| {
        bench.iter(|| store.fork(&key, &At::Seq(Seq::new(RECORDS / 2)), NewSession::default()).expect("forked"));
    });
    assert!(!store.list(&Filter::default(), None, 50).expect("listed").entries.is_empty());
    criterion.bench_function("list the newest 50", |bench| {
        bench.iter(|| store.list(&Filter::default(), None, 50).expect("listed").entries.len());
    });
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = engine }
criterion_main!(benches);
