//! Commands that print a session's records.

use std::time::Duration;

use forklog::{At, Followed, Reader, Seq, SessionKey, SideName, Store};
use serde_json::json;

use super::Context;
use crate::args::{Cat, Export, Follow};
use crate::output::{Done, Out, Shown, say};

/// How long a follower sleeps at most before it looks again.
const NAP: Duration = Duration::from_secs(1);

fn open(store: &Store, key: &SessionKey, side: Option<&SideName>) -> Done<Reader> {
    Ok(match side {
        None => store.read(key)?,
        Some(side) => store.read_side(key, side)?,
    })
}

pub(super) fn cat(at: &mut Context, args: &Cat) -> Done {
    let mut reader = open(&at.store()?, &args.name.key()?, args.side.as_ref())?;
    let mut end = u64::MAX;
    match &args.to {
        Some(At::Position(position)) => reader = reader.at(*position)?,
        Some(At::Seq(seq)) => {
            reader.position(&At::Seq(*seq))?;
            end = seq.get();
        }
        _ => {}
    }
    let mut records = match (args.last, args.from) {
        (Some(n), _) => reader.last(n)?,
        (None, Some(seq)) => reader.records_from(Seq::new(seq))?,
        (None, None) => reader.records(),
    };
    while let Some(record) = records.next()? {
        if end < record.seq().get() {
            break;
        }
        at.out.raw(if args.envelope { record.line() } else { record.payload() })?;
    }
    Ok(())
}

pub(super) fn export(at: &mut Context, args: &Export) -> Done {
    let reader = open(&at.store()?, &args.name.key()?, args.side.as_ref())?;
    let mut records = reader.records();
    while let Some(record) = records.next()? {
        at.out.raw(record.payload())?;
    }
    Ok(())
}

pub(super) fn follow(at: &mut Context, args: &Follow) -> Done {
    let mut follower = open(&at.store()?, &args.name.key()?, args.side.as_ref())?.follow()?;
    loop {
        match follower.next(NAP)? {
            Followed::Record(record) if at.out.json => {
                at.out.value(&Shown::new(None, &record))?;
            }
            Followed::Record(record) => at.out.raw(&record.payload)?,
            Followed::Moved(seq) => moved(&mut at.out, seq)?,
            Followed::Nothing => {}
        }
        at.out.flush()?;
    }
}

fn moved(out: &mut Out, seq: Seq) -> Done {
    if out.json {
        return out.value(&json!({"moved": seq.get()}));
    }
    say(&format!("-- the conversation moved: what follows replaces it from record {seq} on --"));
    Ok(())
}
