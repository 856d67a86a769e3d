//! A small HTTP server for those who watch the daemon: it answers GET and HEAD, one request a connection, from one thread.
//!
//! Whoever connects may be anybody. A request has a bounded size and a bounded time, and when there are more connections than
//! may be, the oldest one goes: clients that do nothing keep nobody from being answered.

mod connection;

use crate::threads::{self, Thread};
use connection::{Connection, State};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection may take, from its beginning to its end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a listener rests that cannot accept, because there are no more file descriptors for example.
const REST: Duration = Duration::from_millis(100);

/// What a request is answered with.
pub(crate) struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

impl Response {
    /// A plain text.
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Response {
        Response { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Answers a request for a path; `None` = there is nothing of that name.
pub(crate) type Answer = Box<dyn FnMut(&str) -> Option<Response> + Send>;

/// The server; it ends when this is dropped.
pub(crate) struct HttpServer {
    pub address: SocketAddr,
    /// Dropping it ends the thread's wait.
    _stop: UnixStream,
    /// Disconnected when the thread is done.
    done: Receiver<()>,
    thread: Option<Thread>,
}

impl HttpServer {
    /// Listens on the address.
    ///
    /// # Errors
    /// The system's, for example that the address is in use.
    pub(crate) fn start(address: SocketAddr, answer: Answer) -> io::Result<HttpServer> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        let (alive, done) = bounded(0);
        let work = move || serve(&listener, &stopped, answer, &alive);
        let thread = threads::spawn("http", threads::SMALL_STACK, work)?;
        Ok(HttpServer { address, _stop: stop, done, thread: Some(thread) })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // The thread may be in an answer that waits for somebody, who may be the one who drops this.
        let _ = self._stop.shutdown(std::net::Shutdown::Both);
        if self.done.recv_timeout(REST).is_err_and(|e| e.is_timeout()) {
            self.thread.take().into_iter().for_each(Thread::abandon);
        }
    }
}

/// What the thread does. `_alive` is dropped at its end.
fn serve(listener: &TcpListener, stopped: &UnixStream, mut answer: Answer, _alive: &Sender<()>) {
    let mut connections: Vec<Connection> = Vec::new();
    let mut rests_until: Option<Instant> = None;
    loop {
        let now = Instant::now();
        rests_until = rests_until.filter(|end| *end > now);
        connections.retain(|connection| connection.ends > now);
        let mut waits = vec![PollFd::new(stopped, PollFlags::IN)];
        waits.extend(connections.iter().map(|connection| {
            let flags = if connection.writes() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::new(&connection.stream, flags)
        }));
        if rests_until.is_none() {
            waits.push(PollFd::new(listener, PollFlags::IN));
        }
        let next = connections.iter().map(|connection| connection.ends).chain(rests_until).min();
        let timeout = next.and_then(|end| Timespec::try_from(end.saturating_duration_since(now)).ok());
        if let Err(e) = poll(&mut waits, timeout.as_ref())
            && e != rustix::io::Errno::INTR
        {
            return log::warn!("metrics: nobody is answered any more: {e}");
        }
        let ready: Vec<bool> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            return;
        }
        let mut looked = ready.iter().skip(1);
        connections.retain_mut(|connection| match looked.next() {
            Some(true) => connection.go_on(&mut answer) == State::Open,
            Some(false) | None => true,
        });
        while rests_until.is_none() {
            match listener.accept() {
                Ok((stream, _)) => {
                    if connections.len() >= MAX_CONNECTIONS {
                        connections.remove(0);
                    }
                    connections.extend(Connection::new(stream, Instant::now() + TIMEOUT));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    log::debug!("metrics: no connection can be accepted: {e}");
                    rests_until = Some(Instant::now() + REST);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn server() -> HttpServer {
        let answer: Answer = Box::new(|path| (path == "/a").then(|| Response::text(200, "x".repeat(1 << 20))));
        HttpServer::start("127.0.0.1:0".parse().expect("an address"), answer).expect("a server")
    }

    fn ask(server: &HttpServer, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        stream.write_all(request).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    #[test]
    fn requests_are_answered_by_their_method_and_path() {
        let server = server();
        let long = format!("GET /a HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        for (request, status, length) in [
            ("GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", 1 << 20),
            ("GET /a?x=1 HTTP/1.0\r\n\r\n", "200 OK", 1 << 20),
            ("HEAD /a HTTP/1.1\r\n\r\n", "200 OK", 0),
            ("GET /b HTTP/1.1\r\n\r\n", "404 Not Found", 10),
            ("POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405 Method Not Allowed", 19),
            ("\u{16}\u{3}\u{1} hello\r\n\r\n", "400 Bad Request", 12),
            (&long, "431 Request Header Fields Too Large", 32),
        ] {
            let answer = ask(&server, request.as_bytes());
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {head}");
            assert_eq!(body.len(), length, "{request}: {head}");
            assert!(head.contains("\r\nConnection: close"), "{head}");
        }
        let head = ask(&server, b"HEAD /a HTTP/1.1\r\n\r\n");
        assert!(head.contains(&format!("Content-Length: {}\r\n", 1 << 20)), "{head}");
    }

    #[test]
    fn clients_that_do_nothing_keep_nobody_from_being_answered() {
        let server = server();
        let idle: Vec<TcpStream> =
            (0..100).map(|_| TcpStream::connect(server.address).expect("a connection")).collect();
        assert!(ask(&server, b"GET /a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        drop(idle);
        let address = server.address;
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
