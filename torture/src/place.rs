//! A directory with a store, the files that its agent works on, and what is imported.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use forklog_soak::StoreFiles;
use forklog_soak::model::{Bytes, Files};

#[derive(Clone, Debug)]
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    /// Makes what is missing of it.
    pub(crate) fn make(dir: &Path) -> io::Result<Self> {
        let place = Self(dir.to_owned());
        fs::create_dir_all(place.workspace())?;
        fs::create_dir_all(place.imports())?;
        Ok(place)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.0.join("work")
    }

    pub(crate) fn imports(&self) -> PathBuf {
        self.0.join("imports")
    }

    /// Every file of the store.
    pub(crate) fn store_files(&self) -> io::Result<StoreFiles> {
        let store = self.store();
        if !store.exists() {
            return Ok(StoreFiles::new());
        }
        let below = Self::files_below(&store)?;
        Ok(below.into_iter().map(|(path, bytes)| (PathBuf::from(path), bytes.0)).collect())
    }

    /// Every file below a directory, by its path from there.
    pub(crate) fn files_below(root: &Path) -> io::Result<Files> {
        let mut files = BTreeMap::new();
        for dir in Self::dirs_below(root)? {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    let path = entry.path();
                    let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                    files.insert(name, Bytes(fs::read(&path)?));
                }
            }
        }
        Ok(files)
    }

    /// A directory and all below it.
    pub(crate) fn dirs_below(root: &Path) -> io::Result<Vec<PathBuf>> {
        let mut dirs = vec![root.to_owned()];
        let mut next = 0;
        while let Some(dir) = dirs.get(next).cloned() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    dirs.push(entry.path());
                }
            }
            next += 1;
        }
        Ok(dirs)
    }

    /// Copies everything to another directory.
    pub(crate) fn copy_to(&self, to: &Path) -> io::Result<Self> {
        for dir in Self::dirs_below(&self.0)? {
            let dir = dir.strip_prefix(&self.0).map_err(io::Error::other)?;
            fs::create_dir_all(to.join(dir))?;
        }
        for (path, bytes) in Self::files_below(&self.0)? {
            fs::write(to.join(path), bytes.0)?;
        }
        Ok(Self(to.to_owned()))
    }
}
