//! How a new process takes the place of this one (`--replace`) without a lost prompt: what the two say to each other, over a
//! Unix socket in the folder that both of them use, in lines of JSON.
//!
//! | who | says | |
//! |---|---|---|
//! | new | `replace` | it is set up and connected; nothing has changed yet |
//! | old | `agreed` | with the lock of the folder, which both hold from here on; or `refused` |
//! | new | `ready` | it takes requests like any other daemon of the owner |
//! | old | `go` | it has left the intake; what signatures it accepted is in the folder |
//! | old | `prepare` | a session is between two steps: the new process shall listen for it |
//! | new | `prepared` | what comes for the session from now on waits there |
//! | old | `take`, `dropped` | the session has left, and its file is complete; or it came to its end |
//! | old | `done` | everything has left; with the embedded broker's socket, if there is one |
//! | old | `off` | something went wrong: the new process ends, and the old one goes on with everything |
//!
//! Until `go`, the old process goes on as if nothing had happened when the new one ends. After it, it takes back what had left.
//! If the old one ends without a word the new one has the lock, and takes up the rest as after a crash.

pub(super) mod predecessor;
pub(super) mod successor;

use crate::contract::ids::{InstanceId, SessionId};
use crate::sync::lock;
use crate::tools::child::{self, Descent};
use crossbeam_channel::Sender;
use rustix::cmsg_space;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The socket's name in the folder.
const SOCKET: &str = "replace.sock";
/// How long one process waits for an answer of the other that takes no work; also for its socket to take a line.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The longest line, bytes; an id has at most a hundredth of it.
const MAX_LINE: usize = 64 * 1024;

/// What the two processes say.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Said {
    Replace { owner: String },
    Agreed,
    Refused { why: String },
    Ready,
    Go,
    Prepare { session: SessionId, instance: InstanceId },
    Prepared { instance: InstanceId, ok: bool },
    Take { session: SessionId },
    Dropped { session: SessionId },
    Done,
    Off,
}

/// What the main thread of either process hears of the other one.
pub(super) enum Notice {
    /// A new process wants to take over.
    Asked(Arc<successor::Successor>),
    Ready,
    /// The new process does not do its part.
    Stuck,
    Go,
    /// Takes whether the session can be listened for.
    Prepare(SessionId, Sender<bool>),
    Take(SessionId),
    Dropped(SessionId),
    /// With the socket of the embedded broker.
    Done(Option<OwnedFd>),
    Off,
    /// The other process has ended, or what it says makes no sense.
    Gone,
}

/// The writing end of the connection to the other process.
pub(super) struct Writer(Mutex<UnixStream>);

impl Writer {
    /// Says something, with a file descriptor if there is one to hand over.
    ///
    /// # Errors
    /// Those of the system; the other process is gone, or takes nothing.
    pub(super) fn say(&self, what: &Said, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let socket = lock(&self.0);
        let sent = sendmsg(&*socket, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?;
        // A socket that takes only a part of so short a line is read by nobody.
        if sent == line.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Ends the connection, also for who reads it.
    pub(super) fn close(&self) {
        let _ = lock(&self.0).shutdown(std::net::Shutdown::Both);
    }
}

/// The reading end.
pub(super) struct Reader {
    socket: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Reader {
    /// What the other process says next; `None` when it is gone.
    ///
    /// # Errors
    /// Those of the system, or what it says makes no sense.
    pub(super) fn next(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.bytes) {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.bytes.len() > MAX_LINE {
                return Err(ErrorKind::InvalidData.into());
            }
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let count = match recvmsg(&self.socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => received.bytes,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if count == 0 {
                return Ok(None);
            }
            self.bytes.extend_from_slice(&bytes[..count]);
        }
    }

    /// A whole line has come that was not read yet.
    pub(super) fn has_more(&self) -> bool {
        memchr::memchr(b'\n', &self.bytes).is_some()
    }

    /// Waits as long as it takes from now on.
    pub(super) fn wait_forever(&self) -> io::Result<()> {
        self.socket.set_read_timeout(None)
    }

    /// What came with the line that was read last.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }
}

/// Both ends of a connection, if it is to a process of this user which no agent has started. Either waits no longer than
/// [`ANSWER_TIME`].
///
/// # Errors
/// It is not, or those of the system.
fn ends(socket: UnixStream) -> io::Result<(Reader, Writer)> {
    let peer = socket_peercred(&socket)?;
    if peer.uid != getuid() && !peer.uid.is_root() || child::descent(peer.pid.as_raw_pid()) != Descent::Foreign {
        return Err(ErrorKind::PermissionDenied.into());
    }
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    socket.set_write_timeout(Some(ANSWER_TIME))?;
    let reader = Reader { socket: socket.try_clone()?, bytes: Vec::new(), descriptors: VecDeque::new() };
    Ok((reader, Writer(Mutex::new(socket))))
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The socket in a folder whose own path may be longer than that of a socket may be: by the number of the open folder.
fn socket_in(folder: BorrowedFd<'_>) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn lines_and_descriptors_arrive_in_order() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let ((_, writer), (mut reader, _)) = (ends(one).expect("ours"), ends(other).expect("ours"));
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let session = || SessionId::try_from("s".to_owned()).expect("an id");
        writer.say(&Said::Take { session: session() }, None).expect("it is said");
        writer.say(&Said::Done, Some(far.as_fd())).expect("it is said");
        drop((writer, far));
        assert!(matches!(reader.next(), Ok(Some(Said::Take { session })) if &*session == "s"));
        assert!(matches!(reader.next(), Ok(Some(Said::Done))));
        let descriptor = reader.descriptor().expect("it came along");
        UnixStream::from(descriptor).write_all(b"x").expect("it is written");
        near.read_exact(&mut [0]).expect("it is read");
        assert!(matches!(reader.next(), Ok(None)));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for bytes in [&b"{}\n"[..], b"{\"op\":\"more\"}\n", b"\xff\n", &[b'x'; MAX_LINE + 4096]] {
            let (mut one, other) = UnixStream::pair().expect("a pair");
            let (mut reader, _) = ends(other).expect("ours");
            let written = std::thread::spawn({
                let bytes = bytes.to_vec();
                move || one.write_all(&bytes)
            });
            assert!(reader.next().is_err());
            drop(reader);
            let _ = written.join().expect("no panic");
        }
    }
}
