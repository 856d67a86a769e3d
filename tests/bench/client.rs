//! A NATS client for measuring: the codec on a plain socket, read by whoever waits, so that no other thread is in between.
//!
//! Every wait ends: reading and writing time out, and a time-out becomes a panic.

use nats_pi_bridge::nats::codec::{self, Decoder, Delivery, Limits, ServerOp};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longer than anything that works is ever silent here, however slow the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One client of the server.
pub(crate) struct Client {
    pub socket: TcpStream,
    decoder: Decoder,
    /// The same socket for whoever else writes to it; a lock keeps operations whole.
    pub output: Arc<Mutex<TcpStream>>,
}

impl Client {
    /// Connects, subscribes to a subject, and waits until the server has understood both.
    pub(crate) fn connect(address: SocketAddr, subject: Option<&str>) -> Client {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
        socket.set_nodelay(true).expect("set");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket.set_write_timeout(Some(PATIENCE)).expect("set");
        let output = Arc::new(Mutex::new(socket.try_clone().expect("cloned")));
        let mut client = Client { socket, decoder: Decoder::new(Limits::default()), output };
        let mut bytes = Vec::new();
        codec::put_connect(&mut bytes, br#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#);
        if let Some(subject) = subject {
            codec::put_sub(&mut bytes, subject, None, 1);
        }
        bytes.extend_from_slice(codec::PING);
        write(&client.output, &bytes);
        while !client.understood() {
            assert!(client.read(), "the server answers");
        }
        client
    }

    /// Whether the PONG is among what was read.
    fn understood(&mut self) -> bool {
        while let Some(operation) = self.decoder.next_server_op().expect("the server speaks NATS") {
            match operation {
                ServerOp::Pong => return true,
                ServerOp::Error(text) => panic!("the server says {:?}", String::from_utf8_lossy(text)),
                ServerOp::Info(_) | ServerOp::Message(_) | ServerOp::Ping | ServerOp::Ok => {}
            }
        }
        false
    }

    /// Reads once; false when nothing came in time.
    pub(crate) fn read(&mut self) -> bool {
        match self.socket.read(self.decoder.space()) {
            Ok(0) => panic!("the server has closed the connection"),
            Ok(count) => self.decoder.filled(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) => panic!("reading: {error}"),
        }
        true
    }

    /// Hands on all messages that were read, and answers the server's PINGs.
    pub(crate) fn messages(&mut self, mut handle: impl FnMut(&Delivery<'_>)) {
        while let Some(operation) = self.decoder.next_server_op().expect("the server speaks NATS") {
            match operation {
                ServerOp::Message(delivery) => handle(&delivery),
                ServerOp::Ping => write(&self.output, codec::PONG),
                ServerOp::Error(text) => panic!("the server says {:?}", String::from_utf8_lossy(text)),
                ServerOp::Info(_) | ServerOp::Pong | ServerOp::Ok => {}
            }
        }
    }

    /// Reads messages until `handle` says that it has had enough.
    pub(crate) fn until(&mut self, mut handle: impl FnMut(&Delivery<'_>) -> bool) {
        let mut done = false;
        while !done {
            assert!(self.read(), "a message comes in time");
            self.messages(|delivery| done |= handle(delivery));
        }
    }
}

/// Writes whole operations, one writer at a time.
pub(crate) fn write(output: &Mutex<TcpStream>, bytes: &[u8]) {
    output.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes).expect("written in time");
}
