//! SQLite, bundled, with a write-ahead log.
//!
//! A record's key is one integer, session and number in it, which is the table's own key: SQLite has no quicker way to append
//! and to read in order. Statements are prepared once and cached. The page cache and the map are large enough for all that is read here.

use std::path::Path;
use std::sync::Mutex;

use rusqlite::{Connection, params};

use super::{Log, Mode, Payload, Peer};

/// SQLite through rusqlite.
pub(crate) struct Sqlite;

impl Peer for Sqlite {
    fn name(&self) -> String {
        "SQLite".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        Some(match mode {
            Mode::Write => "WAL, NORMAL",
            Mode::Sync => "WAL, FULL",
        })
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let db = connect(&dir.join("sqlite.db"), mode);
        db.execute_batch("CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, body TEXT NOT NULL)")
            .expect("made");
        let next = |n: u64| {
            let last: Option<i64> = db
                .query_row(
                    "SELECT max(id) FROM records WHERE id BETWEEN ?1 AND ?2",
                    [id(n, 0), id(n + 1, 0) - 1],
                    |row| row.get(0),
                )
                .expect("asked");
            last.map_or(id(n, 0), |last| last + 1)
        };
        let next = (0..sessions).map(next).collect();
        Box::new(Open { inner: Mutex::new((db, next)) })
    }
}

/// Opens a database as its documentation advises for one that several use.
pub(crate) fn connect(path: &Path, mode: Mode) -> Connection {
    let db = Connection::open(path).expect("a database");
    let synchronous = match mode {
        Mode::Write => "NORMAL",
        Mode::Sync => "FULL",
    };
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -65536; \
         PRAGMA mmap_size = 2147418112; PRAGMA temp_store = MEMORY; PRAGMA busy_timeout = 10000;"
    ))
    .expect("set up");
    db
}

fn id(session: u64, seq: u64) -> i64 {
    i64::try_from(session << 32 | seq).expect("few sessions")
}

struct Open {
    /// One connection for all threads: writers wait for each other in any case, and this way they need not poll.
    inner: Mutex<(Connection, Vec<i64>)>,
}

const INSERT: &str = "INSERT INTO records (id, body) VALUES (?1, ?2)";

impl Log for Open {
    fn append(&self, session: u64, payload: &Payload) {
        let mut inner = self.inner.lock().expect("nobody panics");
        let (db, next) = &mut *inner;
        let next = &mut next[usize::try_from(session).expect("few sessions")];
        db.prepare_cached(INSERT)
            .and_then(|mut insert| insert.execute(params![*next, payload.text]))
            .expect("inserted");
        *next += 1;
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let mut inner = self.inner.lock().expect("nobody panics");
        let (db, next) = &mut *inner;
        let next = &mut next[usize::try_from(session).expect("few sessions")];
        let transaction = db.transaction().expect("begun");
        {
            let mut insert = transaction.prepare_cached(INSERT).expect("prepared");
            for payload in payloads {
                insert.execute(params![*next, payload.text]).expect("inserted");
                *next += 1;
            }
        }
        transaction.commit().expect("committed");
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        let inner = self.inner.lock().expect("nobody panics");
        let sql = "SELECT body FROM records WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        let mut select = inner.0.prepare_cached(sql).expect("prepared");
        let mut rows = select.query([id(session, 0), id(session + 1, 0) - 1]).expect("asked");
        while let Some(row) = rows.next().expect("a row") {
            each(row.get_ref(0).and_then(|body| Ok(body.as_bytes()?)).expect("text"));
        }
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let inner = self.inner.lock().expect("nobody panics");
        let sql = "SELECT body FROM (SELECT id, body FROM records WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT ?3) ORDER BY id";
        let mut select = inner.0.prepare_cached(sql).expect("prepared");
        let n = i64::try_from(n).expect("few records");
        let mut rows = select.query([id(session, 0), id(session + 1, 0) - 1, n]).expect("asked");
        while let Some(row) = rows.next().expect("a row") {
            each(row.get_ref(0).and_then(|body| Ok(body.as_bytes()?)).expect("text"));
        }
    }
}
