//! NATS: our own small synchronous client, and on it what the daemon says and hears.
//!
//! | file | what |
//! |---|---|
//! | `codec.rs` | the protocol's text format, both directions, no I/O |
//! | `subject.rs`, `message.rs`, `handshake.rs` | the rules for subjects; messages and headers; INFO and CONNECT |
//! | `options.rs`, `address.rs` | what a connection is told; server addresses |
//! | `connection.rs`, `shared.rs`, `subscriptions.rs`, `inbox.rs`, `output.rs` | the handle: publishing, subscribing, requests; what waits to be sent |
//! | `io.rs`, `connect.rs`, `pool.rs`, `transport.rs`, `waker.rs` | the I/O thread: connecting, reading, reconnecting |
//! | `auth.rs`, `nkey.rs`, `tls.rs` | proving who we are, checking who they are |
//! | `micro.rs`, `services.rs`, `host.rs` | discovery; what it shows of the daemon; what all sessions share |
//! | `intake.rs`, `session_subjects.rs`, `control.rs`, `waiting_room.rs` | requests for sessions; to sessions: prompts, control; what waits to be answered |
//! | `agents/` | the agent protocol on top of all this |
//! | `replies.rs`, `stream.rs`, `documents.rs`, `events.rs` | what is said: errors, streams, JSON documents, events |
//! | `recent.rs`, `peers.rs` | requests that were sent twice; other daemons of the same owner |
//! | `broker/` | a small NATS server for hosts that have none |

mod address;
pub mod agents;
mod auth;
pub mod broker;
pub mod codec;
mod connect;
mod connection;
pub mod control;
pub mod documents;
pub mod events;
mod handshake;
pub mod host;
mod inbox;
pub mod intake;
mod io;
mod message;
pub mod micro;
mod nkey;
mod options;
mod output;
pub mod peers;
mod pool;
pub mod recent;
pub mod replies;
pub mod services;
pub mod session_subjects;
mod shared;
pub mod stream;
mod subject;
mod subscriptions;
mod tls;
mod transport;
pub mod waiting_room;
mod waker;

pub use address::{AddressError, ServerAddress};
pub use connection::{Connection, PublishError, RequestError};
pub use inbox::Inbox;
pub use message::{Headers, Message};
pub use options::{Auth, ConnectionEvent, Options, Tls};
pub use subject::{MAX_SUBJECT, valid_pattern, valid_subject, valid_token};
pub use subscriptions::Subscription;
