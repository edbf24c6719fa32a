//! The end of a handle: its last line, its entry in the index, and its share in the marker.

use super::{Core, Writer, open_named};
use crate::disk::How;
use crate::error::{Error, Result};
use crate::format::line::{close_payload, kind};
use crate::log::lineage::session_dir;
use crate::log::state::{STRIDE, State};
use crate::log::transcript::Transcript;
use crate::session::options::Sharing;
use crate::session::presence::Presence;
use crate::store::transcripts;

impl Core {
    pub(super) fn close(&self) -> Result<()> {
        if !self.process.is_ours() {
            return Ok(());
        }
        let closed = self.try_close();
        let mut writer = self.lock();
        // Dropping the share without removing the marker leaves the session to be looked at by lists, and to whoever opens it next.
        writer.presence = None;
        // Closing the file would not do while a child that was just forked, and has yet to run its program, holds a copy of it.
        writer.lock.release();
        drop(writer);
        closed
    }

    fn try_close(&self) -> Result<()> {
        if self.lock().presence.is_none() {
            return Ok(());
        }
        self.sync_all()?;
        self.change(|writer| {
            let Some(presence) = writer.presence.take() else { return Ok(()) };
            writer.appender.trim()?;
            let last = presence.leave();
            let end = writer.appender.link();
            if writer.state.uncovered() >= STRIDE {
                self.summarise(writer)?;
                let disk = &**self.store.disk();
                writer.state.write_map(disk, &self.transcript, self.store.digest(), self.store.now())?;
            }
            let synced = !last || self.sync_others(writer, &presence)?;
            if (last || self.options.sharing == Sharing::Exclusive) && writer.closed_at != Some(end.end) {
                self.write_close(writer)?;
            }
            if last && synced && self.settle_entry(writer, &presence)? && !self.is_doubtful(&presence)? {
                presence.remove()?;
            }
            Ok(())
        })
    }

    /// Syncs what others have written and did not sync before they died. False when the sync would prove nothing, since one has failed.
    fn sync_others(&self, writer: &Writer, presence: &Presence) -> Result<bool> {
        let end = writer.appender.link().end;
        if self.syncer.promise() >= end {
            return Ok(true);
        }
        if presence.is_poisoned() {
            return Ok(false);
        }
        let synced = self.syncer.sync_to(end, || end, || self.sync_names());
        if self.syncer.has_failed() {
            presence.poison(&self.key, self.store.now());
        }
        synced.map(|()| true)
    }

    /// Ends the file with an `xclose`. What is written must be synced; it need not be itself.
    fn write_close(&self, writer: &mut Writer) -> Result<()> {
        let end = writer.appender.link();
        if self.syncer.promise() < end.end {
            return Ok(());
        }
        let payload = close_payload(end.crc);
        self.control(writer, kind::CLOSE, &payload).map(drop)
    }

    /// Publishes the session's entry for lists, which the marker stood for. False when the marker must go on doing so.
    fn settle_entry(&self, writer: &mut Writer, presence: &Presence) -> Result<bool> {
        if self.side.is_some() {
            return self.settle_main(presence);
        }
        self.summarise(writer)?;
        let entry = self.store.entry_of(&self.transcript, &writer.state)?;
        self.store.publish(&entry)?;
        Ok(true)
    }

    /// [`Core::settle_entry`] of a side transcript: the entry is the main one's, whose writer may have died, so that what
    /// can be read of it need not survive a power cut.
    fn settle_main(&self, presence: &Presence) -> Result<bool> {
        let (store, key) = (&self.store, &self.key);
        let disk = &**store.disk();
        let main = open_named(disk, &store.layout().session(&key.project, &key.session), key, None, How::Read)?;
        let (_, ends) = State::read(disk, &main, store.look())?;
        if !ends.closed {
            if presence.is_poisoned() {
                return Ok(false);
            }
            let synced = main.file.sync().map_err(|error| Error::io("sync", &main.path, error));
            synced.inspect_err(|_| {
                presence.poison(key, store.now());
            })?;
            store.sync_names(&main.path)?;
        }
        store.publish_session(key)?;
        Ok(true)
    }

    /// Whether a sync of the session has failed and one of its transcripts was not put in order since. The marker must go on saying so.
    fn is_doubtful(&self, presence: &Presence) -> Result<bool> {
        if !presence.is_poisoned() {
            return Ok(false);
        }
        let disk = &**self.store.disk();
        for path in transcripts(disk, &session_dir(&self.transcript.path))? {
            let Some(transcript) = Transcript::open(disk, &path, How::Read)? else { continue };
            if !State::read(disk, &transcript, self.store.look()).is_ok_and(|(_, ends)| ends.closed) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
