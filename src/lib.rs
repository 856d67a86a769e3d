//! nats-pi-bridge: a headless host for coding agents, and its architecture.
//!
//! One crate, two small binaries: the daemon `nats-pi-bridge` hosts sessions and serves NATS and Unix sockets; `pi-bridge` is
//! the client of the Unix sockets. There is no async runtime: blocking calls, OS threads, bounded channels. Somebody who
//! audits an edge box follows one prompt from the wire to the model, to the tools and back by reading straight-line code.
//!
//! # Bird's eye view
//!
//! ```text
//!               NATS                                         Unix sockets (folder 0700)
//!  intake, $SRV.*   per-session subjects   replies, events        JSONL clients
//!       |                  |                    ^                     |   ^
//!       v                  |                    |                c<N>-r   c<N>-w
//! +----------- main (daemon) --------+      nats-io                   |   |
//! | session table, admission,        |      (sole owner of the        |   | bounded lines; a client that
//! | lifetimes, other daemons, drain  |      NATS socket)              |   | does not read is dropped, told why
//! +--+------------^------------------+        ^                       |   |
//!    | Command    | (id, end reason)          | bounded buffer; full -> text is held and merged, never lost
//!    v try_send   | (blocking, up)            |                       |   |
//! +-- s-<id>  session actor, one thread per session ---+--------------+---+
//! |  transcript store, queues, open questions, events and their numbers
//! |  selects on: commands, its wire, its turn, deadlines
//! +--+------------^--+
//!    | lend       | Step, bounded (blocking, up)        cancel = a dropped sender
//!    v            |
//!  t-<id>  turn, only while something runs: model -> tools -> model -> ...
//!    +-- HTTPS to the model (cancelled by shutting its sockets down)
//!    +-- child processes (a process group each, polled pipes)
//! ```
//!
//! A prompt over NATS comes from `nats-io` through a bounded waiting room straight to its session's actor, which reads it
//! ([`service`]), writes it into the session file and queues it ([`session`]), and lends a turn to a thread ([`turn`]). The
//! caller's [`contract::reply::Reply`] goes along, so that a piece of text takes one parse and one publish on one thread, with
//! nothing in between. What else happens goes up to the actor as [`turn::Step`]s, and from there into the session file, the
//! event log and to whoever listens. A request over a socket takes the same way in as a [`contract::prompt::Command`].
//!
//! # Rooms
//!
//! A room is a child of `src/`, and imports only what stands below it. `scripts/check-layers` holds the code against this.
//!
//! ```text
//! main.rs, startup.rs, bin/     set-up of the processes
//! daemon                        the main thread
//! config                        settings; imports the option types of the rooms below, and none of them imports it
//! socket | service              the two wires: neither knows the other, sessions know neither
//! session                       the actor
//! turn                          the agent loop
//! contract                      what daemon, sessions and wires say to each other: types and pure functions
//! prompt | event_log | model | tools | governance     know nothing of sessions, wires, configuration, or each other
//! transcript                    messages and session files
//! the ground                    what all of them need of the system
//!
//! fleet                         what makes several hosts one service: session logs and host cards in JetStream; used by session
//!                               and daemon
//! nats                          a NATS client that knows nothing of this crate; used by service and daemon
//! broker                        a NATS server, which shares the client's codec
//! cli                           the client `pi-bridge`: knows the names of socket, and nothing else
//! ```
//!
//! # Threads
//!
//! | thread | owns | blocks on | ends when |
//! |---|---|---|---|
//! | `main` | the table of sessions | one `select!` in `Daemon::next_event` | drained after a signal |
//! | `signals` | signal-hook's iterator | signals | its handle is closed |
//! | `last-resort` | the end of the process, after a second signal | a clock | the process ends |
//! | `nats-io` | the NATS socket and its TLS session | poll(2) on the socket and a wake-up | closed, after a bounded flush |
//! | `accept`, `registry` | the listening sockets; the files that clients find sessions by | epoll(7), a channel | told to stop |
//! | `c<N>-r`, `c<N>-w` | the two halves of one socket client | read, recv | end of file, an error, dropped |
//! | `s-<id>` | one session | one `select!` in `Session::next_event` | stop, lifetime, drain |
//! | `t-<id>` | the prompt that is worked on | the model's socket, pipes of children, the gate | settled or cancelled |
//! | `history`, `reply-late`, `oauth`, `auth-lock` | one piece of work that may wait | a disk, a caller that reconnects, a token endpoint | done |
//! | `handover` | the socket over which another process may take over, or the one to that process | accept, read | told to stop |
//! | `http` | the listening socket for those who watch, and its connections | poll(2), an answer of the main thread (2 s) | its owner goes |
//! | `ready` | a look at disks and keys | a disk | done |
//! | `reload` | the configuration that is read again | a disk | done |
//! | `sweep` | folders that a dead daemon left behind | a disk | done |
//! | `w-<id>` | git, which brings the working folder of a session here that comes from another host | a child process | done, or cancelled |
//! | `examine` | git, which looks whether it could | a child process | done, or after a second |
//! | `l-<id>` | the log of one session that other hosts can go on with | its session, JetStream | its session ends, or is another host's |
//! | `fleet`, `fleet-here` | this host's card and the look for sessions of hosts that went; what other hosts ask and give | a clock, JetStream; a channel | told to stop |
//! | `fleet-day` | what this host adds to what all hosts spend on a day | orders, JetStream | told to end, at most 2 s later |
//! | `fleet-memory` | what other hosts tell of requests | a channel | told to stop |
//! | `audit` | the audit log, if there is one | a channel | no session and no daemon has it any more |
//! | `image`, `walk` | one picture or tree that is looked at | nothing can interrupt a decoder, so that who cancels does not wait | done, or at the next step |
//! | `runner`, `confine` | the answers, or the end, of the process that one session's tools run in | its socket | that process ends |
//! | `orders` | in that process: what the daemon says to it | its socket | the daemon says no more |
//! | `broker-*` | one client of the embedded server | poll(2) | that client is gone |
//!
//! # Why it cannot deadlock
//!
//! Blocking sends go only up: turn -> session -> main, and reader of a socket client -> main. The main thread never blocks on a
//! send. Whatever goes down or sideways is `try_send`, with the full case written out. That graph has no circle, and no queue is
//! unbounded: publishing appends to the connection's bounded buffer, and a server that stops reading stalls nobody but its own
//! stream of bytes. A message for which a waiting room is full is answered with its coded error, on the I/O thread.
//!
//! # The gate
//!
//! A turn neither calls the model again nor runs a tool before its session's actor said yes (`Session::judge`). Limits, rules
//! and the durable record of the intent are therefore in one place: no tool runs unless the yes is on disk. The verdict on an
//! answer's calls is one for each: it runs, it is denied with the reason as data ([`contract::denial`]), or its thread waits for
//! an approval, which the actor settles once (`session/approvals.rs`) while the other calls run. Where something may be
//! spent only in part, no request is sent either before what it may take is reserved in the ledger ([`governance::budget`]),
//! which is the one that says yes there; of a day that several hosts share the turn first orders it of them, and waits. Its plain yes the turn gets from it directly, since nobody else has a say; what is
//! no plain yes, is to be recorded in the audit log, or takes time that is limited, the actor decides.
//!
//! # What is absent
//!
//! - No `Arc<Mutex<_>>` for what a session or the daemon decides by: one thread owns each piece of state. Shared are the
//!   immutable settings, the figures of [`contract::session::SessionStats`], what sessions compete for ([`quota`], [`slots`], and the
//!   ledger of budgets, whose file other daemons share as well), and caches.
//! - The actor of a session does no I/O that can hang, so `abort`, `inspect` and "queue full" are answered in one step of its
//!   loop, even while a tool has been stuck for an hour.
//! - No wait without a deadline or a cancel, no thread without a name and a handle that joins.
//! - No secret in logs, events, errors, session files, or the environment of programs that tools run.
//! - No provider's words, and no text of a caller, choose a code of ours: codes are `match`es over [`contract::error`].
//! - No network but the NATS server, the model's endpoint and the configured token endpoints.
//! - No `unsafe` outside of `sys.rs`, where each block says why it is sound.
//!
//! # Where do I add …
//!
//! | what | where |
//! |---|---|
//! | a tool | a file in `tools/` that implements `Tool`, and a row in `tools.rs` |
//! | a provider that speaks a known API | `scripts/pack-catalog.rs`' data, `model/catalog.json`; what is odd about its server: `model/servers.json` |
//! | an API of providers | two files in `model/` (request, stream), and a row in its table of protocols |
//! | a control verb | `contract/control.rs`; how it is done: `session/commands.rs`; how it is written: `service/control.rs`, `socket/requests.rs` |
//! | an error code | `contract/error.rs`; its golden test: `tests/e2e/test_error_codes.py` |
//! | an event | `contract/event.rs` |
//! | a line of the audit log | `session/auditing.rs`, `daemon/auditing.rs`; what it means: `config/SETTINGS.md` |
//! | what a rule can match | `governance/rules.rs`; what it goes by is found out in `turn/calls.rs` |
//! | a program that runs others | `governance/shell/launchers.rs`, and a line in the table of its tests |
//! | a figure | [`metrics`]; one that the main thread owns: `daemon/operators.rs`; what it means: `config/SETTINGS.md` |
//! | a line of `doctor` | `startup/doctor/`, its test: `tests/e2e/test_doctor.py` |
//! | a setting | a row in `config/table.rs`, the field where it is used, `config/SETTINGS.md` |
//! | a wire | a room beside `service` that implements `contract::wire::Wire` |
#![deny(unsafe_code)]
// The documents of a program are made with what is private in it.
#![allow(rustdoc::private_intra_doc_links)]
// Tests make their own files, and know what they are.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm))] // a test panics in such an arm

pub mod broker;
mod cancel;
mod cli;
mod clock;
mod config;
mod contract;
mod daemon;
mod event_log;
mod fault;
mod files;
mod fleet;
mod governance;
mod http_server;
mod ids;
mod images;
mod json;
mod log_buffer;
mod metrics;
mod model;
#[expect(clippy::disallowed_methods, reason = "it stands alone, and is handed the function that reads files")]
pub mod nats;
mod near;
mod prompt;
mod quota;
mod service;
mod session;
mod slots;
mod socket;
mod startup;
mod supervisor;
mod sync;
mod sys;
mod threads;
mod tools;
mod traceparent;
mod transcript;
mod trust_roots;
mod turn;

pub use cli::run as client;
pub use startup::main as daemon;

/// What the fuzz targets feed with bytes: the readers of all that comes from outside.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::cancel::Cancel;
    pub use crate::event_log::HistoryQuery;

    pub mod agents {
        pub use crate::contract::error::ReplyError;
        pub use crate::contract::sender::AgentSender;
        pub use crate::service::agents::SenderTrust;
        pub use crate::service::agents::envelope::{Attachment, parse};
        pub use crate::service::agents::sender::Senders;
    }

    pub mod comments {
        pub use crate::json::comments::{parse, to_json};
    }

    pub mod model {
        pub use crate::model::{
            Answer, Api, Events, Model, Outcome, Rates, Request, Sink, Source, StreamEvent, ThinkingLevel, protocol,
            read,
        };
    }

    pub mod shell {
        pub use crate::governance::shell::names;
    }

    pub mod socket {
        pub use crate::contract::request::Request as DaemonRequest;
        pub use crate::socket::{Frame, Framer, ImagePart, Kind, PromptFields, Request, Slash, parse, slash};
    }

    pub mod tolerant {
        pub use crate::json::tolerant::{arguments, parse, parse_whole};
    }

    pub mod tools {
        pub use crate::tools::{Mismatch, Replacement, apply, diff, with_lf};
    }

    pub mod transcript {
        pub use crate::json::object;
        pub use crate::transcript::contents::{Contents, read_id};
        pub use crate::transcript::restore::{Restored, restore};
        pub use crate::transcript::session_file::SessionFile;
        pub use crate::transcript::{Block, Content, Message, UserMessage};
    }
}
