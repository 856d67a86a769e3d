//! What the daemon says and hears on NATS: the `pi-exec` micro service and the agent protocol.
//!
//! | file | what |
//! |---|---|
//! | `micro.rs`, `services.rs`, `host.rs` | discovery; what it shows of the daemon; what all sessions share |
//! | `session_subjects.rs`, `control.rs`, `waiting_room.rs` | requests to sessions: prompts, control; what waits to be answered |
//! | `agents/` | the agent protocol on top of all this |
//! | `replies.rs`, `reply_subjects.rs`, `stream.rs`, `events.rs` | what is said, and where it may go: errors, streams, events |
//! | `recent.rs`, `peers.rs` | requests that were sent twice; what daemons of the same owner say to each other |

pub mod agents;
pub mod control;
pub mod events;
pub mod host;
pub mod intake;
pub mod micro;
pub mod peers;
pub mod recent;
pub mod replies;
pub mod reply_subjects;
pub mod services;
pub mod session_subjects;
pub mod stream;
pub mod waiting_room;
