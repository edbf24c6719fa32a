//! Several processes that use one session at once: two writers with two threads each, and a reader.
//!
//! A writer numbers what each of its threads appends and says when a call began and returned, on a clock that all processes share. So
//! it is known which records must be there, and in what order any two must stand of which one was acknowledged before the other
//! began.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use forklog::{Durability, Error, Kind, NewRecord, NewSession, OpenOptions, OwnedRecord, Session, Sharing, Store};
use forklog_sim::{Rng, derive};
use forklog_soak::{comparable, key};
use serde_json::{Value, json};

use crate::child::Player;
use crate::judge::{End, Seen, check_rebuilt, sound};
use crate::place::Place;
use crate::play;
use crate::report::Report;
use crate::worker::say;

/// The name of the session.
const NAME: &str = "a";
/// Processes that write.
const WRITERS: u64 = 2;
/// Threads of each.
const N_THREADS: usize = 2;
const THREADS: u64 = N_THREADS as u64;

/// How all writers of a store open the session.
pub(crate) fn options(seed: u64) -> OpenOptions {
    let mut rng = Rng::new(derive(seed, 77));
    let durability = [Durability::Write, Durability::Sync][rng.below(2)];
    let sharing = if rng.chance(2, 3) { Sharing::PerCall } else { Sharing::Exclusive };
    let padding = if rng.chance(1, 2) { 3_000 } else { 0 };
    let wait = Duration::from_secs(30);
    OpenOptions { durability: Some(durability), sharing, padding, wait, ..OpenOptions::default() }
}

/// Nanoseconds that mean the same in every process.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Plays a part until it is killed. A writer goes on after failures as the engine says that one can; a reader says when something is wrong.
pub(crate) fn play(role: &str, dir: &Path, seed: u64, id: u64) -> io::Result<()> {
    let place = Place(dir.to_owned());
    if role == "reader" {
        return match read_for_ever(&place) {
            Ok(never) => match never {},
            Err(wrong) => say(&wrong),
        };
    }
    let mut numbers = [0; N_THREADS];
    for turn in 0.. {
        let firsts = numbers;
        let opened = Store::open(place.store()).and_then(|store| store.session_with(&key(NAME), options(seed)));
        let session = match opened {
            Ok(session) => session,
            Err(error) => {
                say(&format!("closed {error}"))?;
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        std::thread::scope(|scope| {
            let session = &session;
            let work = |(thread, number): (u64, &mut u64)| {
                let (own, name) = (derive(derive(seed, id), turn * THREADS + thread), id * THREADS + thread);
                let mut writer = Writer { session, name, first: *number, next: *number, rng: Rng::new(own) };
                let done = writer.work();
                *number = writer.next;
                done
            };
            let threads = (0..THREADS).zip(&mut numbers).map(|of| scope.spawn(move || work(of)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("panicked"))?)
        })?;
        let sync = session.close();
        if let Err(error) = &sync {
            say(&format!("closed {error}"))?;
        }
        for (thread, (first, next)) in (0..THREADS).zip(firsts.iter().zip(&numbers)).filter(|_| sync.is_ok()) {
            say(&format!("synced {} {first} {next}", id * THREADS + thread))?;
        }
    }
    Ok(())
}

/// A thread that appends.
struct Writer<'a> {
    session: &'a Session,
    name: u64,
    /// The number of the first record that it appends through this handle.
    first: u64,
    /// The number of its next record.
    next: u64,
    rng: Rng,
}

impl Writer<'_> {
    /// Appends some records; ends earlier when the session must be opened again.
    fn work(&mut self) -> io::Result<()> {
        for _ in 0..1 + self.rng.below(30) {
            let done = match self.rng.below(8) {
                0 => self.sync()?,
                1 | 2 => {
                    let len = 2 + self.rng.below(3) as u64;
                    self.append(len)?
                }
                _ => self.append(1)?,
            };
            if done.is_err_and(|error| error.kind() == Kind::Reopen) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<Result<(), Error>> {
        let done = self.session.sync();
        if done.is_ok() {
            say(&format!("synced {} {} {}", self.name, self.first, self.next))?;
        }
        Ok(done)
    }

    fn append(&mut self, len: u64) -> io::Result<Result<(), Error>> {
        let Self { name, next: first, .. } = *self;
        self.next += len;
        let pad = if self.rng.chance(1, 10) { 5_000 } else { self.rng.below(100) };
        let payloads: Vec<Value> = (first..first + len)
            .map(|n| json!({ "w": name, "n": n, "first": first, "len": len, "pad": "x".repeat(pad) }))
            .collect();
        say(&format!("begin {name} {first} {len} {}", now()))?;
        let done = match payloads.as_slice() {
            [one] => self.session.append(one).map(drop),
            all => {
                let records: Result<Vec<_>, _> = all.iter().map(NewRecord::of).collect();
                records.and_then(|records| self.session.append_batch(&records)).map(drop)
            }
        };
        match &done {
            Ok(()) => say(&format!("done {name} {first} {len} {}", now()))?,
            Err(error) => {
                say(&format!("failed {name} {first} {len} {error}"))?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(done)
    }
}

enum Never {}

/// Reads, follows and lists for ever: what it saw once it sees again, and behind it only what is new.
fn read_for_ever(place: &Place) -> Result<Never, String> {
    let failed = |error: Error| format!("failed {error}");
    let store = Store::open(place.store()).map_err(failed)?;
    let mut before: Vec<Vec<u8>> = Vec::new();
    let mut reader = store.read(&key(NAME)).map_err(failed)?;
    for round in 0_u64.. {
        let records: Result<Vec<_>, _> = reader.records().collect();
        let seen: Vec<_> = records.map_err(failed)?.into_iter().map(|record| record.payload).collect();
        let fewer = seen.len() < before.len() && before.starts_with(&seen);
        if fewer {
            say(&format!("fewer {} {}", seen.len(), before.len())).map_err(|error| error.to_string())?;
        }
        if !(fewer || seen.starts_with(&before)) || seen.len() as u64 != reader.len() {
            return Err(format!("wrong: {} records, {} before", seen.len(), before.len()));
        }
        before = seen;
        let listed = store.entry(&key(NAME)).map_err(failed)?;
        if listed.records < before.len() as u64 {
            return Err(format!("wrong: {} records are listed, {} were read", listed.records, before.len()));
        }
        let last = reader.last(3).and_then(Iterator::collect::<Result<Vec<OwnedRecord>, _>>).map_err(failed)?;
        if !before.ends_with(&last.into_iter().map(|record| record.payload).collect::<Vec<_>>()) {
            return Err("wrong: the last three are others".to_owned());
        }
        say(&format!("saw {}", before.len())).map_err(|error| error.to_string())?;
        if round.is_multiple_of(3) {
            reader = store.read(&key(NAME)).map_err(failed)?;
        } else {
            reader.refresh().map_err(failed)?;
        }
    }
    Err("never".to_owned())
}

/// What writers and readers said.
#[derive(Default)]
pub(crate) struct Heard {
    /// When the call that appended a record began.
    begun: HashMap<(u64, u64), u64>,
    /// When it returned.
    done: HashMap<(u64, u64), u64>,
    failed: HashSet<(u64, u64)>,
    /// Acknowledged with [`Durability::Sync`], or synced since through the same handle.
    durable: HashSet<(u64, u64)>,
    /// What of it each writer's newest acknowledgement made so.
    newest: HashMap<u64, Vec<(u64, u64)>>,
    /// The disk is taken away: see [`Judge::hear_late`](crate::judge::Judge::hear_late).
    pub(crate) late: bool,
    /// How many records a reader has seen.
    saw: u64,
    /// What a reader said that saw fewer records than it had seen: btrfs forgets what it has failed to write.
    fewer: Option<String>,
    /// How many calls failed, by what was said.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Everything, for who must understand a violation.
    pub(crate) lines: Vec<String>,
}

impl Heard {
    pub(crate) fn hear(&mut self, durability: Option<Durability>, line: &str) -> Result<(), String> {
        self.lines.push(line.to_owned());
        if line.ends_with("Read-only file system (os error 30)") {
            self.forgive();
        }
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        match (words.first().copied(), number(1), number(2), number(3), number(4)) {
            (Some("begin"), Some(w), Some(first), Some(len), Some(at)) => {
                self.begun.extend((first..first + len).map(|n| ((w, n), at)));
            }
            (Some("done"), Some(w), Some(first), Some(len), Some(at)) => {
                self.done.extend((first..first + len).map(|n| ((w, n), at)));
                if durability == Some(Durability::Sync) && !self.late {
                    self.acknowledge(w, first..first + len);
                }
            }
            (Some("failed"), Some(w), Some(first), Some(len), _) => {
                self.failed.extend((first..first + len).map(|n| (w, n)));
                let why = words.get(4..).unwrap_or_default().join(" ");
                let why = why.split(": ").skip(1).collect::<Vec<_>>().join(": ");
                *self.failures.entry(why).or_default() += 1;
            }
            (Some("synced"), ..) if self.late => {}
            (Some("synced"), Some(w), Some(first), Some(next), _) => {
                self.acknowledge(w, first..next);
            }
            (Some("saw"), Some(n), ..) => self.saw = self.saw.max(n),
            (Some("fewer"), ..) => self.fewer = Some(line.to_owned()),
            (Some("failed" | "closed"), ..) => *self.failures.entry(line.to_owned()).or_default() += 1,
            _ => return Err(line.to_owned()),
        }
        Ok(())
    }

    fn acknowledge(&mut self, w: u64, records: Range<u64>) {
        let names = records.map(|n| (w, n)).filter(|name| self.done.contains_key(name) && !self.durable.contains(name));
        let names: Vec<_> = names.collect();
        self.durable.extend(&names);
        self.newest.insert(w, names);
    }

    /// The file system has given its journal up. A sync that runs just then may succeed on nothing (ext4, Linux 6.18, without forklog too), so
    /// that the newest acknowledgement of each writer binds no more.
    fn forgive(&mut self) {
        for name in self.newest.drain().flat_map(|(_, names)| names) {
            self.durable.remove(&name);
        }
    }

    /// How many records were acknowledged.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// That the session holds what it must, nothing else, and in order.
    pub(crate) fn check(&self, records: &[OwnedRecord], end: End) -> Result<(), String> {
        let mut places = HashMap::new();
        let mut next = BTreeMap::new();
        let mut latest = 0;
        let mut batch = None;
        for (place, record) in records.iter().enumerate() {
            let value: Value = serde_json::from_slice(&record.payload).map_err(|error| error.to_string())?;
            let member =
                |name: &str| value.get(name).and_then(Value::as_u64).ok_or_else(|| format!("not ours: {value}"));
            let (w, n, first, len) = (member("w")?, member("n")?, member("first")?, member("len")?);
            let begun = *self.begun.get(&(w, n)).ok_or_else(|| format!("{w} {n} was never appended"))?;
            let expected = next.insert(w, n + 1).unwrap_or(0);
            let may_be_lost = |n: u64| {
                let name = (w, n);
                self.failed.contains(&name) || (end == End::SyncFailed && !self.durable.contains(&name))
            };
            if let Some(lost) = (expected..n).find(|lost| !may_be_lost(*lost)) {
                return Err(format!("record {place} is {n} of {w}, {lost} is not before it"));
            }
            if n < expected {
                return Err(format!("record {place} is {n} of {w}, behind {}", expected - 1));
            }
            if batch.is_some_and(|expected| expected != (w, n)) || (batch.is_none() && n != first) {
                return Err(format!("record {place} is {n} of {w}: a batch is not whole"));
            }
            batch = (n + 1 < first + len).then_some((w, n + 1));
            if self.done.get(&(w, n)).is_some_and(|done| *done < latest) {
                return Err(format!(
                    "record {place}, {n} of {w}, was acknowledged before one that stands before it began"
                ));
            }
            latest = latest.max(begun);
            places.insert((w, n), place);
        }
        if batch.is_some() {
            return Err("the last batch is not whole".to_owned());
        }
        let must = |name: &(u64, u64), done: u64| match end {
            End::Killed => true,
            End::PowerCut => done < latest || self.durable.contains(name),
            End::SyncFailed => self.durable.contains(name),
        };
        let missing = self.done.iter().find(|(name, done)| must(name, **done) && !places.contains_key(name));
        if let Some((lost, at)) = missing {
            let (len, durable) = (records.len(), self.durable.contains(lost));
            return Err(format!(
                "{lost:?} was acknowledged at {at}, durable: {durable}, and is not among {len} records"
            ));
        }
        if end == End::Killed && self.saw > records.len() as u64 {
            return Err(format!("a reader saw {} records, there are {}", self.saw, records.len()));
        }
        Ok(())
    }

    /// That all of the store is as it must be.
    pub(crate) fn look(&self, place: &Place, end: End) -> Result<Seen, String> {
        if let Some(fewer) = self.fewer.as_ref().filter(|_| self.failures.is_empty()) {
            return Err(format!("nothing failed, and a reader saw {fewer}"));
        }
        let store = Store::open(place.store()).map_err(|error| format!("the store does not open: {error}"))?;
        let read = |store: &Store| -> Result<Vec<OwnedRecord>, String> {
            let reader = store.read(&key(NAME)).map_err(|error| format!("read: {error}"))?;
            reader.records().collect::<Result<_, _>>().map_err(|error| format!("read: {error}"))
        };
        let records = read(&store)?;
        self.check(&records, end)?;
        sound(&store)?;
        let listed = comparable(store.entries().map_err(|error| format!("list: {error}"))?);
        if listed.iter().map(|entry| entry.records).ne([records.len() as u64]) {
            return Err(format!("the list shows {listed:?}, there are {} records", records.len()));
        }
        check_rebuilt(place, &listed)?;
        // Whoever held the lock is gone, and nothing that counts goes with the next to open it.
        let opened = store.session(&key(NAME)).and_then(Session::close);
        opened.map_err(|error| format!("open: {error}"))?;
        if read(&store)? != records {
            return Err("opening the session changed its records".to_owned());
        }
        Ok(Seen { sessions: 1, records: records.len() as u64, files: 0 })
    }
}

/// Makes the session.
pub(crate) fn found(dir: &Path) -> Result<Place, String> {
    let place = Place::make(dir).map_err(|error| error.to_string())?;
    let store = Store::open(place.store()).map_err(|error| error.to_string())?;
    let durable = OpenOptions { durability: Some(Durability::Sync), ..OpenOptions::default() };
    let new = NewSession::named(key(NAME)).options(durable);
    store.create(new).and_then(Session::close).map_err(|error| error.to_string())?;
    Ok(place)
}

/// All that use the session at once.
pub(crate) struct Crowd {
    seed: u64,
    place: Place,
    writers: Vec<Player>,
    readers: Vec<Player>,
    /// How many writers there were.
    next: u64,
    pub(crate) heard: Heard,
}

impl Crowd {
    pub(crate) fn start(seed: u64, place: &Place) -> Result<Self, String> {
        let (writers, readers, heard) = (Vec::new(), Vec::new(), Heard::default());
        let mut crowd = Self { seed, place: place.clone(), writers, readers, next: 0, heard };
        for _ in 0..WRITERS {
            crowd.add()?;
        }
        crowd.readers.push(crowd.player("reader", 0)?);
        Ok(crowd)
    }

    fn player(&self, role: &str, id: u64) -> Result<Player, String> {
        Player::start(&play::member(role, &self.place.0, self.seed, id)).map_err(|error| error.to_string())
    }

    /// Another writer.
    fn add(&mut self) -> Result<(), String> {
        self.writers.push(self.player("writer", self.next)?);
        self.next += 1;
        Ok(())
    }

    /// Lets all of them work for a while.
    pub(crate) fn work(&mut self, time: Duration) -> Result<(), String> {
        let until = now() + u64::try_from(time.as_nanos()).unwrap_or(0);
        // Who says much must be heard, or would wait in the middle of it.
        while now() < until {
            for player in self.writers.iter_mut().chain(&mut self.readers) {
                for line in player.said_by_now() {
                    self.heard.hear(options(self.seed).durability, &line)?;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills one writer.
    fn kill(&mut self) -> Result<(), String> {
        let rest = self.writers.remove(0).kill().map_err(|error| error.to_string())?;
        rest.iter().try_for_each(|line| self.heard.hear(options(self.seed).durability, line))
    }

    /// Kills everybody.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        for player in std::mem::take(&mut self.writers).into_iter().chain(std::mem::take(&mut self.readers)) {
            let rest = player.kill().map_err(|error| error.to_string())?;
            rest.iter().try_for_each(|line| self.heard.hear(options(self.seed).durability, line))?;
        }
        Ok(())
    }
}

/// Kills writers one after another while the others go on; then all.
pub(crate) fn round(seed: u64, dir: &Path, report: &mut Report) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let place = found(dir)?;
    let mut crowd = Crowd::start(seed, &place)?;
    for _ in 0..6 {
        crowd.work(Duration::from_micros(5_000 + rng.below(40_000) as u64))?;
        crowd.kill()?;
        crowd.add()?;
        report.cycles += 1;
        report.struck += 1;
    }
    crowd.work(Duration::from_micros(5_000 + rng.below(20_000) as u64))?;
    crowd.end()?;
    report.cycles += WRITERS + 1;
    report.struck += WRITERS + 1;
    if let Some((failed, _)) = crowd.heard.failures.first_key_value() {
        return Err(format!("nothing should fail: {failed}"));
    }
    report.seen(crowd.heard.look(&place, End::Killed)?);
    Ok(())
}
