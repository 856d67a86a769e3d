//! A client of the tests' own.

use super::PATIENCE;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection that speaks the protocol by hand.
pub(crate) struct Raw(pub TcpStream, pub Vec<u8>);

impl Raw {
    /// Connects and reads the INFO.
    pub(crate) fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        let mut raw = Raw(stream, Vec::new());
        assert!(raw.line().starts_with("INFO {"));
        raw
    }

    pub(crate) fn say(&mut self, text: impl AsRef<[u8]>) {
        // Whoever is cut off while it speaks finds out by reading.
        let _ = self.0.write_all(text.as_ref());
    }

    /// One more piece; false at the end of the stream, however it comes.
    pub(crate) fn more(&mut self) -> bool {
        let mut piece = [0; 65536];
        match self.0.read(&mut piece) {
            Ok(count) => {
                self.1.extend_from_slice(&piece[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.1)),
        }
    }

    /// The next line without its end; empty at the end of the stream.
    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.1.windows(2).position(|two| two == b"\r\n") {
                let rest = self.1.split_off(end + 2);
                let line = std::mem::replace(&mut self.1, rest);
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            if !self.more() {
                return String::new();
            }
        }
    }

    /// Everything that is said in answer to `script`.
    pub(crate) fn answers(mut self, script: &[u8]) -> String {
        // The subscriptions end before the last PING is answered: those of a connection that is only closed may still be
        // there when the next script is played, and would get its messages.
        let is_sub = |line: &&str| line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case("SUB "));
        let text = String::from_utf8_lossy(script);
        let sids = text.lines().filter(is_sub).filter_map(|line| line.split_whitespace().next_back());
        let ends: String = sids.map(|sid| format!("UNSUB {sid}\r\n")).collect();
        let count = |text: &[u8], part: &[u8]| {
            text.windows(part.len()).filter(|window| window.eq_ignore_ascii_case(part)).count()
        };
        self.say([script, ends.as_bytes(), b"PING\r\n"].concat());
        // The answer to the last PING is the end, unless the connection ends before.
        let pings = count(script, b"PING\r\n") + 1;
        while count(&self.1, b"PONG\r\n") < pings && self.more() {}
        let text = String::from_utf8_lossy(&self.1).into_owned();
        // INFO differs in its contents, and comes once more from servers with accounts.
        text.split_inclusive("\r\n").filter(|line| !line.starts_with("INFO ")).collect()
    }
}
