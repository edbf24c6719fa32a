//! forklog in ten lines: create, append, fork, read. Run it with `cargo run --example ten_lines`.

use forklog::{At, NewSession, Seq, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path().join("store"))?;
    let session = store.create(NewSession::default().title("First steps"))?;
    session.append(&serde_json::json!({ "role": "user", "text": "hello" }))?;
    session.append(&serde_json::json!({ "role": "assistant", "text": "hi" }))?;
    let fork = store.fork(session.key(), &At::Seq(Seq::new(0)), NewSession::default())?;
    fork.append(&serde_json::json!({ "role": "assistant", "text": "good morning" }))?;
    for record in store.read(fork.key())?.records() {
        println!("{}", String::from_utf8(record?.payload)?);
    }
    Ok(())
}
