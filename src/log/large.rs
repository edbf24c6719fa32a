//! Records whose payload is an object (FORMAT.md, section 4).

use crate::Summary;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::control::{self, Large};
use crate::format::line::{Whole, kind};
use crate::ids::ObjectKind;
use crate::log::transcript::Transcript;
use crate::objects::ObjectStore;

/// The payload that the line `whole`, which starts at `start`, stands for; every byte verified.
///
/// # Errors
///
/// [`Error::Corrupt`] of the line when the object is missing or damaged, [`Error::Newer`] when the line is not as it must be, [`Error::Io`].
pub(crate) fn payload(objects: &ObjectStore, source: &Transcript, start: u64, whole: &Whole<'_>) -> Result<Vec<u8>> {
    let Large { object, size } = reference(source, start, whole)?;
    match objects.get(ObjectKind::Blob, object, size) {
        Ok(bytes) if bytes.len() as u64 == size => Ok(bytes),
        Ok(_) => Err(source.corrupt(start, "its payload is shorter than the line says")),
        Err(Error::NotFound { .. }) => Err(source.corrupt(start, "its payload is missing from the store's objects")),
        Err(Error::Corrupt { .. }) => Err(source.corrupt(start, "its payload is damaged in the store's objects")),
        Err(error) => Err(error),
    }
}

/// Which object a line of kind `large` names.
pub(crate) fn reference(source: &Transcript, start: u64, whole: &Whole<'_>) -> Result<Large> {
    control::decode(whole.payload).ok_or_else(|| source.newer(start, whole.kind))
}

/// What is needed to keep a digest: who makes it, and where payloads are that are not in their lines.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) digest: &'a dyn Digest,
    pub(crate) objects: &'a ObjectStore,
}

impl Look<'_> {
    /// Shows a record to the digest. One whose payload is lost counts as `null`: what else there is to list is listed.
    ///
    /// # Errors
    ///
    /// [`Error::Newer`], and [`Error::Io`] of the objects.
    pub(crate) fn observe(
        self,
        summary: &mut Summary,
        source: &Transcript,
        start: u64,
        whole: &Whole<'_>,
    ) -> Result<()> {
        if whole.kind != kind::LARGE {
            self.digest.observe(summary, whole.payload);
            return Ok(());
        }
        match payload(self.objects, source, start, whole) {
            Ok(payload) => self.digest.observe(summary, &payload),
            Err(Error::Corrupt { .. }) => self.digest.observe(summary, b"null"),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
