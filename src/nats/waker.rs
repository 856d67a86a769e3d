//! Waking a thread that waits in poll(2), and waiting there.

use super::transport::Transport;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Wakes one thread out of [`wait`]. A wake-up that is not yet noticed is not repeated: that would be a system call per
/// message.
pub struct Waker {
    event: OwnedFd,
    pending: AtomicBool,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { event, pending: AtomicBool::new(false) })
    }

    /// Makes the current or the next [`wait`] of the other thread return. Never blocks.
    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It fails only when the counter is full, and then the wake-up is due anyway.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

/// What became of a [`wait`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub woken: bool,
    /// Reading or writing will not block; an error or the end of the stream counts.
    pub readable: bool,
    pub writable: bool,
}

/// What to wait for on a socket.
#[derive(Clone, Copy)]
pub struct Interest<'a> {
    socket: BorrowedFd<'a>,
    flags: PollFlags,
}

impl<'a> Interest<'a> {
    /// That something can be read, and that what TLS has encrypted can be sent.
    pub(super) fn read(transport: &'a Transport) -> Interest<'a> {
        let interest = Interest::read_socket(transport.socket());
        if transport.wants_write() { interest.or_write() } else { interest }
    }

    /// That something can be read, or a connection accepted.
    pub fn read_socket(socket: BorrowedFd<'a>) -> Interest<'a> {
        Interest { socket, flags: PollFlags::IN }
    }

    /// That something can be written, whatever there is to read.
    pub fn write(socket: BorrowedFd<'a>) -> Interest<'a> {
        Interest { socket, flags: PollFlags::OUT }
    }

    /// The same, and that something can be written.
    pub fn or_write(self) -> Interest<'a> {
        Interest { flags: self.flags | PollFlags::OUT, ..self }
    }
}

/// Waits until `waker` is woken, the socket is ready or the time is over. A wake-up is taken back before this returns, so
/// what was changed before it has to be looked at afterwards.
pub fn wait(waker: &Waker, interest: Option<Interest<'_>>, timeout: Duration) -> io::Result<Ready> {
    // Without a socket the second place is not looked at.
    let (socket, flags) =
        interest.map_or((waker.event.as_fd(), PollFlags::empty()), |interest| (interest.socket, interest.flags));
    let mut fds = [PollFd::new(&waker.event, PollFlags::IN), PollFd::from_borrowed_fd(socket, flags)];
    let count = if interest.is_some() { 2 } else { 1 };
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    match rustix::event::poll(&mut fds[..count], Some(&timeout)) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(error.into()),
    }
    let woken = !fds[0].revents().is_empty();
    if woken {
        let _ = rustix::io::read(&waker.event, &mut [0u8; 8]);
        waker.pending.swap(false, Ordering::AcqRel);
    }
    let happened = if count == 2 { fds[1].revents() } else { PollFlags::empty() };
    let broken = happened.intersects(PollFlags::ERR | PollFlags::HUP);
    Ok(Ready {
        woken,
        readable: broken || happened.contains(PollFlags::IN),
        writable: broken || happened.contains(PollFlags::OUT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_wake_up_is_noticed_once_whenever_it_comes() {
        let waker = Waker::new().expect("an eventfd");
        assert_eq!(wait(&waker, None, SHORT).expect("waits"), Ready::default());
        for _ in 0..3 {
            waker.wake();
            waker.wake();
            assert!(wait(&waker, None, LONG).expect("waits").woken);
            assert_eq!(wait(&waker, None, SHORT).expect("waits"), Ready::default());
        }
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            assert!(wait(&waker, None, LONG).expect("waits").woken);
        });
    }

    #[test]
    fn tells_what_a_socket_is_ready_for() {
        let waker = Waker::new().expect("an eventfd");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        let read = Interest::read_socket(near.as_fd());
        let expected = Ready { woken: false, readable: false, writable: true };
        assert_eq!(wait(&waker, Some(read), SHORT).expect("waits"), Ready::default());
        assert_eq!(wait(&waker, Some(read.or_write()), LONG).expect("waits"), expected);
        far.write_all(b"x").expect("written");
        assert!(wait(&waker, Some(read), LONG).expect("waits").readable);
        let expected = Ready { woken: false, readable: false, writable: true };
        assert_eq!(wait(&waker, Some(Interest::write(near.as_fd())), LONG).expect("waits"), expected);
        drop(far);
        assert!(wait(&waker, Some(read), LONG).expect("waits").readable, "the end counts");
    }
}
