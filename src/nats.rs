//! A synchronous NATS client. It knows nothing of the rest of this crate.
//!
//! | file | what |
//! |---|---|
//! | `codec.rs` | the protocol's text format, both directions, no I/O |
//! | `subject.rs`, `message.rs`, `handshake.rs` | the rules for subjects; messages and headers; INFO and CONNECT |
//! | `options.rs`, `address.rs` | what a connection is told; server addresses |
//! | `connection.rs`, `shared.rs`, `subscriptions.rs`, `inbox.rs`, `output.rs` | the handle: publishing, subscribing, requests; what waits to be sent |
//! | `io.rs`, `connect.rs`, `pool.rs`, `transport.rs`, `waker.rs` | the I/O thread: connecting, reading, reconnecting |
//! | `auth.rs`, `nkey.rs`, `tls.rs` | proving who we are, checking who they are |

mod address;
mod auth;
pub mod codec;
mod connect;
mod connection;
pub mod handshake;
mod inbox;
mod io;
mod message;
pub mod nkey;
mod options;
pub mod output;
mod pool;
mod shared;
pub mod subject;
mod subscriptions;
mod tls;
mod transport;
pub mod waker;

pub use address::{AddressError, ServerAddress};
pub use connection::{Connection, PublishError, RequestError};
pub use inbox::Inbox;
pub use message::{Headers, Message};
pub use options::{Auth, ConnectionEvent, Options, Tls};
pub use shared::random_token;
pub use subject::{MAX_SUBJECT, valid_pattern, valid_subject, valid_token};
pub use subscriptions::Subscription;
