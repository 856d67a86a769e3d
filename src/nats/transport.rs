//! The byte stream to the server, plain or TLS, without ever blocking.

use rustls::ClientConnection;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A connected socket in non-blocking mode.
pub(super) enum Transport {
    /// Shared with publishers, who write to it themselves.
    Plain(Arc<TcpStream>),
    Tls(Box<TlsStream>),
}

/// A TLS session and its socket. One thread owns both: a session cannot be read and written at the same time.
pub(super) struct TlsStream {
    session: ClientConnection,
    socket: TcpStream,
    /// The last read filled all the space it was given, so decrypted bytes may wait that poll(2) cannot see.
    more: bool,
}

/// What is encrypted at a time, in bytes: the most that one TLS record holds.
const RECORD: usize = 16 << 10;

impl Transport {
    pub(super) fn tls(session: ClientConnection, socket: TcpStream) -> Transport {
        Transport::Tls(Box::new(TlsStream { session, socket, more: false }))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Plain(socket) => socket.as_fd(),
            Transport::Tls(tls) => tls.socket.as_fd(),
        }
    }

    /// Reads what is there; 0 is the end of the stream. `WouldBlock` when there is nothing yet.
    pub(super) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => (&**socket).read(space),
            Transport::Tls(tls) => tls.read(space),
        }
    }

    /// Hands over some of `bytes` and says how many. `WouldBlock` when none can be taken now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => (&**socket).write(bytes),
            Transport::Tls(tls) => tls.write(bytes),
        }
    }

    /// Sends what TLS has encrypted and not yet sent, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(_) => Ok(()),
            Transport::Tls(tls) => match tls.send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                other => other,
            },
        }
    }

    /// There are encrypted bytes that the socket has not taken yet.
    pub(super) fn wants_write(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.session.wants_write(),
        }
    }

    /// There may be more to read although the socket is silent.
    pub(super) fn has_buffered(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.more,
        }
    }

    /// Takes the TLS handshake as far as it goes without waiting.
    pub(super) fn handshake(&mut self) -> io::Result<()> {
        let Transport::Tls(tls) = self else { return Ok(()) };
        while tls.session.is_handshaking() {
            match tls.send().and_then(|()| tls.receive()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            }
        }
        self.flush()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.session.is_handshaking(),
        }
    }

    /// Ends our direction in an orderly way. What was written still arrives.
    pub(super) fn finish(&mut self) {
        // The connection is being given up: an error here changes nothing.
        match self {
            Transport::Plain(socket) => drop(socket.shutdown(Shutdown::Write)),
            Transport::Tls(tls) => {
                tls.session.send_close_notify();
                let _ = tls.send();
                let _ = tls.socket.shutdown(Shutdown::Write);
            }
        }
    }
}

impl TlsStream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(space) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.more = result.as_ref().is_ok_and(|count| *count == space.len());
                    return result;
                }
            }
            self.more = false;
            match self.receive() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => other?,
            }
        }
    }

    /// Reads from the socket and decrypts.
    fn receive(&mut self) -> io::Result<()> {
        if self.session.read_tls(&mut self.socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = self.session.process_new_packets() {
            // The peer is told what was wrong, if it can be.
            let _ = self.send();
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Before more is encrypted the socket must have taken what is: the session's own buffer stays small.
        self.send()?;
        let count = self.session.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        match self.send() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}
