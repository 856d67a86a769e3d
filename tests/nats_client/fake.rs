//! A server that says exactly what a test wants it to say.

use crate::server::{PATIENCE, options};
use nats_pi_bridge::nats::Options;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use std::{io, thread};

pub const INFO: &str = "INFO {\"server_id\":\"fake\",\"headers\":true,\"max_payload\":1048576,\"proto\":1}\r\n";

/// A listening socket of which each connection is accepted by the test.
pub struct FakeServer(TcpListener);

impl FakeServer {
    pub fn new() -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        FakeServer(listener)
    }

    pub fn options(&self) -> Options {
        options(&self.0.local_addr().expect("an address").to_string())
    }

    /// The next connection, to which nothing was said yet.
    pub fn accept(&self) -> FakeClient {
        let start = Instant::now();
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return FakeClient::new(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            assert!(start.elapsed() < PATIENCE, "nobody connects");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next connection, taken through the handshake.
    pub fn greet(&self) -> FakeClient {
        let mut client = self.accept();
        client.say(INFO);
        assert!(client.line().starts_with("CONNECT {"));
        assert_eq!(client.line(), "PING");
        client.say("PONG\r\n");
        client.pings_to_skip = 1;
        client
    }
}

/// The server's end of a connection.
pub struct FakeClient {
    stream: BufReader<TcpStream>,
    /// Behind the subscriptions of a new connection comes a PING, which no test is about.
    pub pings_to_skip: usize,
}

impl FakeClient {
    fn new(stream: TcpStream) -> FakeClient {
        stream.set_nonblocking(false).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        FakeClient { stream: BufReader::new(stream), pings_to_skip: 0 }
    }

    pub fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(text.as_ref()).expect("written");
    }

    /// The next line without its end; empty at the end of the stream.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        if self.pings_to_skip > 0 && line == "PING\r\n" {
            self.pings_to_skip -= 1;
            return self.line();
        }
        line.trim_end().to_owned()
    }

    /// Reads a message that was published: subject and payload.
    pub fn message(&mut self) -> (String, Vec<u8>) {
        let line = self.line();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "PUB", "{line}");
        let size: usize = words[words.len() - 1].parse().expect("a size");
        let mut payload = vec![0; size + 2];
        self.stream.read_exact(&mut payload).expect("a payload");
        assert_eq!(payload.split_off(size), b"\r\n");
        (words[1].to_owned(), payload)
    }

    /// Reads so many bytes whatever they are.
    pub fn skip(&mut self, count: usize) {
        self.stream.read_exact(&mut vec![0; count]).expect("bytes");
    }
}
