//! Processes of this program, and what they say until they end.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// A process of this program that plays a part.
pub(crate) struct Player {
    child: Child,
    /// Its lines; a process that says more than is listened to is held up here.
    said: Receiver<String>,
}

impl Player {
    pub(crate) fn start(args: &[String]) -> io::Result<Self> {
        // By this name it is the same program, whatever was built in its place meanwhile.
        let mut command = Command::new("/proc/self/exe");
        let mut child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let pipe = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let (tell, said) = sync_channel(1_000);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = String::new();
            // Half a line, which a killed process may leave, is none.
            while pipe.read_line(&mut line).is_ok() && line.ends_with('\n') {
                line.pop();
                if tell.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, said })
    }

    /// Its next line; `None` once it has ended and all is read.
    pub(crate) fn line(&mut self) -> Option<String> {
        self.said.recv().ok()
    }

    /// How a process ended that says no more.
    pub(crate) fn end(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| format!("the worker ended: {status}"))
    }

    /// Its next line, if it says one in time.
    pub(crate) fn line_within(&mut self, time: Duration) -> Option<String> {
        self.said.recv_timeout(time).ok()
    }

    /// What it has said by now.
    pub(crate) fn said_by_now(&mut self) -> Vec<String> {
        self.said.try_iter().collect()
    }

    /// Kills it, and returns what it had said that was not read.
    pub(crate) fn kill(mut self) -> io::Result<Vec<String>> {
        self.child.kill()?;
        let rest = self.said.iter().collect();
        self.child.wait()?;
        Ok(rest)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process when its parent ends, whatever ended that.
pub(crate) fn end_with_parent() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}
