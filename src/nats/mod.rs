//! NATS: our own small synchronous client, and on it what the daemon says and hears.
//!
//! | file | what |
//! |---|---|
//! | `codec.rs` | the protocol's text format, both directions, no I/O |
//! | `subject.rs`, `message.rs`, `handshake.rs` | the rules for subjects; messages and headers; INFO and CONNECT |
//! | `options.rs`, `address.rs` | what a connection is told; server addresses |
//! | `connection.rs`, `shared.rs`, `subscriptions.rs`, `output.rs` | the handle: publishing, subscribing, requests; what waits to be sent |
//! | `io.rs`, `connect.rs`, `pool.rs`, `transport.rs`, `waker.rs` | the I/O thread: connecting, reading, reconnecting |
//! | `auth.rs`, `nkey.rs`, `tls.rs` | proving who we are, checking who they are |
//! | `micro.rs`, `intake.rs`, `session_subjects.rs` | the service: discovery, requests for sessions, prompts |
//! | `replies.rs`, `documents.rs` | what is said in answer: streams, errors, JSON documents |

mod address;
mod auth;
pub mod codec;
mod connect;
mod connection;
pub mod documents;
mod handshake;
pub mod intake;
mod io;
mod message;
pub mod micro;
mod nkey;
mod options;
mod output;
mod pool;
pub mod replies;
pub mod session_subjects;
mod shared;
mod subject;
mod subscriptions;
mod tls;
mod transport;
mod waker;

pub use address::{AddressError, ServerAddress};
pub use connection::{Connection, PublishError, RequestError};
pub use message::{Headers, Message};
pub use options::{Auth, ConnectionEvent, Options, Tls};
pub use subject::{MAX_SUBJECT, valid_pattern, valid_subject, valid_token};
pub use subscriptions::Subscription;
