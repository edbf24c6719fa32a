//! What arguments name: sessions, places, times.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use forklog::{At, Env as _, OsEnv, Position, ProjectName, RecordId, Seq, SessionId, SessionKey, Timestamp};

use crate::output::{Done, Failure};

/// A session, as an argument.
#[derive(Args, Clone, Debug)]
pub(crate) struct Name {
    /// The session: ID, or PROJECT/ID
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// The project that ID is in
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    project: Option<String>,
}

impl Name {
    pub(crate) fn key(&self) -> Done<SessionKey> {
        key(self.project.as_deref(), &self.id)
    }
}

/// The session that a name and perhaps a project stand for.
pub(crate) fn key(project: Option<&str>, id: &str) -> Done<SessionKey> {
    Ok(match project {
        Some(project) => SessionKey::new(project, id)?,
        // Nobody means the `..` of `../x` as a project: such an id is taken whole, and refused for its slash.
        None if id.starts_with(['.', '/']) => {
            SessionKey { project: ProjectName::default_project(), session: SessionId::new(id)? }
        }
        None => id.parse()?,
    })
}

/// A record's number, or a position that was printed.
pub(crate) fn place(text: &str) -> Result<At, String> {
    if text.contains(':') {
        return text.parse::<Position>().map(At::Position).map_err(|error| error.to_string());
    }
    let number = text.parse().map_err(|_| format!("{text:?} is neither a record's number nor a printed position"))?;
    Ok(At::Seq(Seq::new(number)))
}

/// A record's id.
pub(crate) fn record_id(text: &str) -> Result<RecordId, String> {
    RecordId::new(text).map_err(|error| error.to_string())
}

/// A moment: RFC 3339, a date (its first moment in UTC), or how long ago (`30d`).
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    if let Ok(at) = format!("{text}T00:00:00Z").parse() {
        return Ok(at);
    }
    let age = duration(text).ok_or_else(|| {
        format!("{text:?} is no time; write 2026-11-21T01:29:42Z, 2026-11-21, or an age like 30d or 12h")
    })?;
    let ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_millis(OsEnv.now().as_millis().saturating_sub(ms)))
}

/// A number and a unit: s, m, h, d or w.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    if !number.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

/// The store's directory: what was said, or the platform's place for data.
pub(crate) fn store_dir(said: Option<PathBuf>) -> Done<PathBuf> {
    match said {
        Some(dir) if dir.as_os_str().is_empty() => {
            Err(Failure::Usage("--store (or FORKLOG_STORE) is empty".to_owned()))
        }
        Some(dir) => Ok(dir),
        None => dirs::data_local_dir().map(|dir| dir.join("forklog")).ok_or_else(|| {
            Failure::Usage("there is no home directory; say where the store is with --store".to_owned())
        }),
    }
}
