//! From the command line to a socket: the registry is read and the choice is made.

use super::connection::{Connection, Deadline, new_id};
use super::failure::Failure;
use super::output;
use super::overview;
use super::parse::Invocation;
use super::registry::{self, Row};
use super::table::{Flag, Verb, Words};
use super::target::{self, Choice, Filter};
use crate::near;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub socket: PathBuf,
    /// The session to name in the request, where the socket is not the session's own.
    pub session: Option<String>,
    /// Whether one of our daemons answers there; unknown where only a socket was given.
    pub of_daemon: Option<bool>,
}

impl Target {
    fn socket(path: impl Into<PathBuf>) -> Target {
        Target { socket: path.into(), session: None, of_daemon: None }
    }

    /// The session or daemon of a row, at its own socket.
    fn of(row: &Row) -> Target {
        // While a daemon has one session, the session's row may have the daemon's socket. Another session may begin any
        // moment, so the request says which one is meant.
        let shared = !row.is_daemon() && row.daemon_socket() == Some(row.socket());
        Target {
            socket: row.socket().into(),
            session: row.text("sessionId").filter(|_| shared).map(str::to_string),
            of_daemon: Some(row.daemon_socket().is_some()),
        }
    }

    /// A daemon's socket, with the session that is meant.
    fn at_daemon(row: &Row, session: Option<&str>) -> Target {
        Target {
            socket: row.daemon_socket().unwrap_or_default().into(),
            session: session.map(str::to_string),
            of_daemon: Some(true),
        }
    }
}

/// What the command line says about the target.
pub(super) fn filter(invocation: &Invocation) -> Filter {
    let text = |flag: Flag| invocation.value(flag).map(str::to_string);
    Filter {
        pid: text(Flag::Pid),
        session: text(Flag::Session),
        name: text(Flag::Name),
        cwd: text(Flag::Cwd),
        word: invocation.words.first().filter(|_| invocation.row.words == Words::Target).cloned(),
        exact: matches!(invocation.row.verb, Verb::Stop | Verb::Shutdown),
    }
}

/// The id of the session that the first word of a message names, where it can be meant so: no option chooses a session,
/// there are several, the word is the whole id or name of one of them, and others follow. Where there is one session all
/// words are for it, as they always were.
///
/// # Errors
/// The registry cannot be read.
pub(super) fn leading_target(invocation: &Invocation, directory: &Path) -> Result<Option<String>, Failure> {
    let (Some(word), true) = (invocation.words.first(), invocation.words.len() > 1) else { return Ok(None) };
    let chosen = [Flag::Socket, Flag::Pid, Flag::Session, Flag::Name, Flag::Cwd];
    if !matches!(invocation.row.verb, Verb::Send | Verb::Steer | Verb::FollowUp)
        || invocation.last_of(&chosen).is_some()
    {
        return Ok(None);
    }
    let rows = registry::read(directory, invocation.has(Flag::All))?;
    if !matches!(target::session(&rows, &Filter::default()), Choice::Several(_)) {
        return Ok(None);
    }
    let filter = Filter { word: Some(word.clone()), exact: true, ..Filter::default() };
    match target::session(&rows, &filter) {
        Choice::One(row) if !row.is_daemon() => Ok(row.text("sessionId").map(str::to_string)),
        Choice::One(_) | Choice::Several(_) | Choice::None => Ok(None),
    }
}

/// The socket for a subcommand.
///
/// # Errors
/// There is no such session or daemon, or there are several, whose table is printed.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other subcommands address one session")]
pub(super) fn resolve(invocation: &Invocation, directory: &Path, deadline: Deadline) -> Result<Target, Failure> {
    let (verb, filter) = (invocation.row.verb, filter(invocation));
    if let Some(socket) = invocation.value(Flag::Socket) {
        let session = filter.id().filter(|_| !invocation.row.original).map(str::to_string);
        return Ok(Target { session, ..Target::socket(socket) });
    }
    let rows = registry::read(directory, invocation.has(Flag::All))?;
    let ambiguous = |rows: Vec<&Row>| {
        if invocation.has(Flag::Json) {
            output::print_json(&registry::json(rows))?;
        } else {
            output::print(&overview::short(&rows))?;
        }
        Err(Failure::Local(
            "Multiple matching pi session bridges; choose one with --pid, --session, --name, --cwd or --socket".into(),
        ))
    };
    let none = || match filter.wanted() {
        Some(word) => Err(no_such_session(&rows, word)),
        None => Err(Failure::Local(format!(
            "No matching active pi session bridge in {} (see pi-bridge list)",
            directory.display()
        ))),
    };
    match verb {
        Verb::Run | Verb::Session | Verb::Sessions | Verb::Drain | Verb::Undrain | Verb::Metrics => {
            match target::daemon(&rows, &filter.process_only()) {
                Choice::One(row) => Ok(Target::at_daemon(row, None)),
                Choice::Several(rows) => ambiguous(rows),
                Choice::None => Err(Failure::Local(format!(
                    "No matching active pi session bridge of a daemon in {} (is nats-pi-bridge running?)",
                    directory.display()
                ))),
            }
        }
        Verb::Logs if !filter.names_session() => match target::daemon(&rows, &filter.process_only()) {
            Choice::One(row) => Ok(Target::at_daemon(row, None)),
            Choice::Several(rows) => ambiguous(rows),
            Choice::None => none(),
        },
        Verb::Stop | Verb::Inspect | Verb::Logs => match target::session(&rows, &filter) {
            Choice::One(row) if row.daemon_socket().is_none() => Err(Failure::Local(format!(
                "The session at {} has no daemon; pi-bridge state and request work there",
                row.socket()
            ))),
            Choice::One(row) if !row.is_daemon() => Ok(Target::at_daemon(row, row.text("sessionId"))),
            Choice::Several(rows) => ambiguous(rows),
            // A run without a name is known to its daemon only.
            Choice::One(_) | Choice::None => match (filter.id(), target::daemon(&rows, &filter.process_only())) {
                (Some(id), Choice::One(row)) => Ok(Target::at_daemon(row, Some(id))),
                (Some(_), Choice::Several(_)) => match unregistered(&rows, &filter, deadline)? {
                    Some(target) => Ok(target),
                    None => none(),
                },
                _ => none(),
            },
        },
        Verb::Shutdown if !filter.names_session() => match target::daemon(&rows, &filter) {
            Choice::One(row) => Ok(Target::at_daemon(row, None)),
            Choice::Several(rows) => ambiguous(rows),
            Choice::None => match target::session(&rows, &filter) {
                Choice::One(row) => Ok(Target::of(row)),
                Choice::Several(rows) => ambiguous(rows),
                Choice::None => none(),
            },
        },
        _ => match target::session(&rows, &filter) {
            Choice::One(row) => Ok(Target::of(row)),
            Choice::Several(rows) => ambiguous(rows),
            Choice::None => match unregistered(&rows, &filter, deadline)? {
                Some(target) => Ok(target),
                None => none(),
            },
        },
    }
}

/// The session that a person names while attached to another one.
///
/// # Errors
/// There is no such session, or there are several.
pub(super) fn by_word(directory: &Path, word: &str, deadline: Deadline) -> Result<Target, Failure> {
    let rows = registry::read(directory, false)?;
    let filter = Filter { word: Some(word.to_string()), ..Filter::default() };
    match target::session(&rows, &filter) {
        Choice::One(row) => Ok(Target::of(row)),
        Choice::Several(rows) => {
            let names: Vec<&str> = rows.iter().filter_map(|row| row.text("sessionId")).collect();
            Err(Failure::Local(format!("There are several such sessions: {}", names.join(", "))))
        }
        Choice::None => match unregistered(&rows, &filter, deadline)? {
            Some(target) => Ok(target),
            None => Err(no_such_session(&rows, word)),
        },
    }
}

/// What to tell where a daemon says that it has no such session.
pub(super) fn unknown(directory: &Path, word: &str) -> Failure {
    no_such_session(&registry::read(directory, false).unwrap_or_default(), word)
}

/// There is no session of that name; those that resemble it are told.
fn no_such_session(rows: &[Row], word: &str) -> Failure {
    let names = rows.iter().flat_map(|row| [row.text("sessionName"), row.text("sessionId")]).flatten();
    Failure::Local(format!("No such session: {word}{} (see pi-bridge list)", near::hint(word, names)))
}

/// What is registered of a session that was there before.
pub(super) enum Found {
    Session(Target),
    /// A daemon is there, and it does not have the session.
    OnlyDaemon,
    Nothing,
}

/// Looks for the session of this id again.
pub(super) fn again(directory: &Path, id: &str, deadline: Deadline) -> Found {
    let rows = registry::read(directory, false).unwrap_or_default();
    if let Some(row) = rows.iter().find(|row| row.text("sessionId") == Some(id)) {
        return Found::Session(Target::of(row));
    }
    let filter = Filter { session: Some(id.to_string()), ..Filter::default() };
    match (target::daemon(&rows, &Filter::default()), unregistered(&rows, &filter, deadline)) {
        (_, Ok(Some(target))) => Found::Session(target),
        (Choice::One(_), Ok(None)) => Found::OnlyDaemon,
        _ => Found::Nothing,
    }
}

/// A session that has no row of its own, as runs without a name: the daemons are asked.
fn unregistered(rows: &[Row], filter: &Filter, deadline: Deadline) -> Result<Option<Target>, Failure> {
    let Some(id) = filter.id() else { return Ok(None) };
    let daemons = match target::daemon(rows, &filter.process_only()) {
        Choice::None => Vec::new(),
        Choice::One(row) => vec![row],
        Choice::Several(rows) => rows,
    };
    for row in daemons {
        let target = Target::at_daemon(row, Some(id));
        let mut connection = Connection::open(&target.socket, deadline)?;
        let request = json!({"id": new_id(), "type": "get_state", "session": id});
        if connection.ask(&request, deadline)?["success"] == true {
            return Ok(Some(target));
        }
    }
    Ok(None)
}
