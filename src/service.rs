//! What the daemon says and hears on NATS: the `pi-exec` micro service and the agent protocol.
//!
//! | file | what |
//! |---|---|
//! | `micro.rs`, `services.rs`, `host.rs` | discovery; what it shows of the daemon; what all sessions share |
//! | `session_subjects.rs`, `control.rs`, `waiting_room.rs` | requests to sessions: prompts, control; what waits to be answered |
//! | `agents/` | the agent protocol on top of all this |
//! | `replies.rs`, `reply_subjects.rs`, `stream.rs`, `events.rs` | what is said, and where it may go: errors, streams, events |
//! | `recent.rs`, `peers.rs` | requests that were sent twice; what daemons of the same owner say to each other |

pub(crate) mod agents;
pub(crate) mod control;
pub(crate) mod events;
pub(crate) mod host;
pub(crate) mod intake;
pub(crate) mod micro;
pub(crate) mod peers;
pub(crate) mod presence;
pub(crate) mod recent;
pub(crate) mod replies;
pub(crate) mod reply_subjects;
pub(crate) mod services;
pub(crate) mod session_subjects;
pub(crate) mod stream;
pub(crate) mod waiting_room;
