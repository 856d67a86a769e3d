//! Descriptors that come along with a client's requests, for what is too large for a line.
//!
//! A path would not do: tools are clients as well, and what their sandbox keeps from them the daemon would open for them. What
//! is taken is sealed memory. It is the client's own, nobody can change or cut it while it is read, and to read it never waits.

use crate::images::MAX_SOURCE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

/// Descriptors that a client may have sent for requests that have not come yet. Others are closed.
pub(crate) const MAX_DESCRIPTORS: usize = 16;

/// What came and was not asked for yet, the oldest first.
#[derive(Default)]
pub(super) struct Descriptors(VecDeque<OwnedFd>);

impl Descriptors {
    /// Reads from the client, and takes the descriptors that come along.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn read(&mut self, socket: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                let room = MAX_DESCRIPTORS.saturating_sub(self.0.len());
                self.0.extend(descriptors.take(room));
            }
        }
        Ok(received.bytes)
    }

    /// The image that the oldest one holds, in base64.
    ///
    /// # Errors
    /// There is none, or it is not what is taken.
    pub(super) fn take_image(&mut self) -> Result<String, String> {
        let descriptor = self.0.pop_front().ok_or("a descriptor has to come along with the request")?;
        let sealed = SealFlags::WRITE | SealFlags::SHRINK;
        if !fcntl_get_seals(&descriptor).is_ok_and(|seals| seals.contains(sealed)) {
            return Err("a descriptor has to be of a memfd that is sealed against writing and shrinking".into());
        }
        let failed = |e: io::Error| format!("a descriptor cannot be read: {e}");
        let file = File::from(descriptor);
        let size = file.metadata().map_err(failed)?.len();
        if size > MAX_SOURCE {
            return Err(format!("an image of {size} bytes; it may have {MAX_SOURCE}"));
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut data, 0).map_err(failed)?;
        Ok(STANDARD.encode(&data))
    }
}
