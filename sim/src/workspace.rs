//! A directory of a simulated disk as a workspace.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use forklog::workspace::{Content, Meta, MetaKind, RelPath, Stamp, Workspace};

use crate::disk::Process;
use crate::fault::What;
use crate::fs::Fs;
use crate::machine::{Detail, Machine};
use crate::names::Ino;
use crate::op::Op;

const READ: u16 = 0o400;
const WRITE: u16 = 0o200;
const SEARCH: u16 = 0o100;

/// A directory of a [`SimDisk`](crate::SimDisk) as a [`Workspace`]; its calls count, fail and are cut off as any other
/// call of its process.
///
/// Everything in it belongs to one user, who is not root: the owner's bits of a mode bind.
#[derive(Clone, Debug)]
pub struct SimWorkspace {
    process: Process,
    root: PathBuf,
}

impl SimWorkspace {
    /// The directory `root`, which must be there by the time it is used.
    #[must_use]
    pub fn new(process: &Process, root: &Path) -> Self {
        Self { process: process.clone(), root: root.to_owned() }
    }

    fn full(&self, path: &RelPath) -> PathBuf {
        if path.is_root() { self.root.clone() } else { self.root.join(path.to_path()) }
    }

    /// One call: `run` gets the full path, of which all directories can be searched.
    fn call<T>(
        &self,
        op: Op,
        path: &RelPath,
        detail: Detail,
        run: impl FnOnce(&mut Machine, &Path, Option<What>) -> io::Result<T>,
    ) -> io::Result<T> {
        let full = self.full(path);
        self.process.call_struck(op, &full, detail, |machine, struck| {
            self.may_reach(&machine.fs, path)?;
            run(machine, &full, struck)
        })
    }

    /// Whether every directory above `path` can be searched.
    fn may_reach(&self, fs: &Fs, path: &RelPath) -> io::Result<()> {
        let above = |path: &RelPath| path.split().map(|(dir, _)| dir);
        let dirs: Vec<RelPath> = std::iter::successors(above(path), above).collect();
        for dir in dirs.iter().rev() {
            let ino = fs.find(&self.full(dir))?;
            if !fs.is_dir(ino) {
                return Err(ErrorKind::NotADirectory.into());
            }
            allowed(fs, ino, SEARCH)?;
        }
        Ok(())
    }

    /// Whether names in the directory of `path` may be changed.
    fn may_change_names(&self, fs: &Fs, path: &RelPath) -> io::Result<()> {
        let (dir, _) = path.split().ok_or(ErrorKind::InvalidInput)?;
        allowed(fs, fs.find(&self.full(&dir))?, WRITE | SEARCH)
    }

    fn change(
        &self,
        op: Op,
        path: &RelPath,
        run: impl FnOnce(&mut Machine, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        self.call(op, path, Detail::None, |machine, full, _| {
            self.may_change_names(&machine.fs, path)?;
            run(machine, full)
        })
    }

    fn move_name(
        &self,
        from: &RelPath,
        to: &RelPath,
        run: impl FnOnce(&mut Fs, &Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let target = self.full(to);
        self.call(Op::Rename, from, Detail::To(target.as_path().into()), |machine, full, _| {
            self.may_reach(&machine.fs, to)?;
            self.may_change_names(&machine.fs, from)?;
            self.may_change_names(&machine.fs, to)?;
            run(machine.fs_mut(), full, &target)
        })
    }

    fn is_a(&self, path: &RelPath, kind: MetaKind) -> io::Result<bool> {
        match self.meta(path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            found => Ok(found?.kind == kind),
        }
    }
}

fn allowed(fs: &Fs, ino: Ino, bits: u16) -> io::Result<()> {
    if fs.attrs(ino)?.mode & bits == bits { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
}

fn meta_of(fs: &Fs, ino: Ino) -> io::Result<Meta> {
    let attrs = fs.attrs(ino)?;
    let stamp = |tick: u64| Stamp { seconds: i64::try_from(tick).unwrap_or(i64::MAX), nanos: 1 };
    let (kind, size) = match (fs.is_dir(ino), fs.link(ino)) {
        (true, _) => (MetaKind::Directory, 0),
        (false, Some(target)) => (MetaKind::Symlink, target.len()),
        (false, None) => (MetaKind::File, fs.content(ino)?.len()),
    };
    Ok(Meta {
        kind,
        mode: attrs.mode,
        size: size as u64,
        modified: stamp(attrs.modified),
        changed: stamp(attrs.changed),
        inode: fs.id(ino),
        device: 1,
    })
}

impl Workspace for SimWorkspace {
    fn root(&self) -> &Path {
        &self.root
    }

    fn list(&self, dir: &RelPath) -> io::Result<Vec<(Vec<u8>, io::Result<Meta>)>> {
        self.call(Op::List, dir, Detail::None, |machine, full, _| {
            let fs = &machine.fs;
            allowed(fs, fs.find(full)?, READ)?;
            let names = fs.list(full)?.into_iter().map(|entry| entry.name);
            let meta = |name: &std::ffi::OsStr| meta_of(fs, fs.find(&full.join(name))?);
            Ok(names.map(|name| (name.as_encoded_bytes().to_owned(), meta(&name))).collect())
        })
    }

    fn meta(&self, path: &RelPath) -> io::Result<Meta> {
        self.call(Op::Stat, path, Detail::None, |machine, full, _| meta_of(&machine.fs, machine.fs.find(full)?))
    }

    fn read(&self, path: &RelPath, max_len: u64) -> io::Result<Content> {
        self.call(Op::Read, path, Detail::None, |machine, full, struck| {
            let ino = machine.fs.find(full)?;
            let meta = meta_of(&machine.fs, ino)?;
            if meta.kind != MetaKind::File {
                return Err(ErrorKind::InvalidInput.into());
            }
            allowed(&machine.fs, ino, READ)?;
            if max_len < meta.size {
                return Err(ErrorKind::FileTooLarge.into());
            }
            Ok(Content { bytes: machine.read_all(ino, struck)?.to_vec(), meta, settled: true })
        })
    }

    fn read_link(&self, path: &RelPath) -> io::Result<Vec<u8>> {
        self.call(Op::Read, path, Detail::None, |machine, full, _| {
            let target = machine.fs.link(machine.fs.find(full)?).map(<[u8]>::to_vec);
            target.ok_or_else(|| ErrorKind::InvalidInput.into())
        })
    }

    fn create_dir(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        self.change(Op::CreateDir, path, |machine, full| machine.fs_mut().create_dir(full, mode))
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.change(Op::RemoveDir, path, |machine, full| machine.fs_mut().remove_dir(full))
    }

    /// In four calls, so that it can be stopped between them: the name, two halves of the bytes, the mode.
    fn write_new(&self, path: &RelPath, bytes: &[u8], mode: u16) -> io::Result<()> {
        self.change(Op::Create, path, |machine, full| machine.fs_mut().create_file(full).map(drop))?;
        let half = bytes.len() / 2;
        for (part, at) in [(&bytes[..half], 0), (&bytes[half..], half)] {
            let range = Detail::Range { at: at as u64, len: part.len() as u64 };
            self.call(Op::Write, path, range, |machine, full, struck| {
                let ino = machine.fs.find(full)?;
                machine.write(ino, part, at as u64, struck)
            })?;
        }
        self.set_mode(path, mode)
    }

    fn create_link(&self, path: &RelPath, target: &[u8]) -> io::Result<()> {
        self.change(Op::Create, path, |machine, full| machine.fs_mut().create_link(full, target))
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.move_name(from, to, Fs::rename_new)
    }

    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()> {
        self.move_name(one, other, Fs::exchange)
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.change(Op::RemoveFile, path, |machine, full| machine.fs_mut().remove_file(full))
    }

    fn set_mode(&self, path: &RelPath, mode: u16) -> io::Result<()> {
        self.call(Op::SetMode, path, Detail::None, |machine, full, _| {
            let ino = machine.fs.find(full)?;
            machine.fs_mut().set_mode(ino, mode)
        })
    }

    fn sync(&self, files: &[RelPath], dirs: &[RelPath]) -> io::Result<()> {
        for path in files {
            if self.is_a(path, MetaKind::File)? {
                self.call(Op::Sync, path, Detail::None, |machine, full, struck| {
                    let ino = machine.fs.find(full)?;
                    machine.sync(ino, struck)
                })?;
            }
        }
        for dir in dirs {
            if self.is_a(dir, MetaKind::Directory)? {
                self.call(Op::SyncDir, dir, Detail::None, |machine, full, _| machine.fs_mut().sync_dir(full))?;
            }
        }
        Ok(())
    }

    fn boot(&self) -> u64 {
        1 + self.process.disk().cuts()
    }
}
