//! A synchronous NATS client. It knows nothing of the rest of this crate.
//!
//! | file | what |
//! |---|---|
//! | `codec.rs` | the protocol's text format, both directions, no I/O |
//! | `subject.rs`, `message.rs`, `handshake.rs` | the rules for subjects; messages and headers; INFO and CONNECT |
//! | `options.rs`, `address.rs` | what a connection is told; server addresses |
//! | `connection.rs`, `subscription.rs`, `error.rs` | the handles: publishing, subscribing, requests |
//! | `shared.rs`, `subscriptions.rs`, `inbox.rs`, `output.rs` | behind them: who gets which messages; what waits to be sent |
//! | `io.rs`, `connect.rs`, `pool.rs`, `transport.rs`, `waker.rs` | the I/O thread: connecting, reading, reconnecting |
//! | `jetstream.rs` and its folder | requests to JetStream: streams, fenced publishing, reading back |
//! | `auth.rs`, `nkey.rs`, `identity.rs`, `tls.rs` | proving who we are, to servers and to others; checking who they are |

mod address;
mod auth;
pub mod codec;
mod connect;
mod connection;
mod error;
pub mod handshake;
mod identity;
mod inbox;
mod io;
pub mod jetstream;
mod message;
pub mod nkey;
mod options;
pub mod output;
mod pool;
mod shared;
pub mod subject;
mod subscription;
mod subscriptions;
mod tls;
mod transport;
pub mod waker;

pub use address::{AddressError, ServerAddress};
pub use auth::{Auth, ReadFile};
pub use connection::Connection;
pub use error::{PublishError, RequestError};
pub use identity::{UserIdentity, valid_account};
pub use inbox::Inbox;
pub use message::{Headers, Message};
pub use options::{ConnectionEvent, Options, Tls};
pub use subject::{MAX_SUBJECT, valid_pattern, valid_subject, valid_token};
pub use subscription::Subscription;
