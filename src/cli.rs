//! `pi-bridge`, the client of the side channel: it drives live sessions of this machine over their Unix sockets.
//!
//! It speaks `pi-session-bridge.v1` with whatever serves it, and the control plane of our own daemon. It knows nothing of
//! the daemon's insides: what it needs to know is in the registry's files and in the records on the socket.
//!
//! One call goes: `parse` by the `table` -> `resolve` the target in the `registry` -> `request` -> `connection`.

mod activity;
mod answer;
mod attach;
mod attachment;
mod completions;
mod connection;
mod directory;
mod failure;
mod help;
mod lines;
mod moving;
mod output;
mod overview;
mod parse;
mod registry;
mod request;
mod resolve;
mod stream;
mod style;
mod table;
mod target;
mod terminal;
mod top;

use crate::traceparent::{TRACEPARENT, TRACEPARENT_VARIABLE};
use attach::{Next, Place};
use connection::{Connection, Deadline, Record};
use directory::Environment;
use failure::Failure;
use parse::{Invocation, Parsed};
use resolve::Target;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use table::{Flag, Verb};

/// The exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Says what is wrong. A terminal that is gone hears nothing any more, which is no reason for a panic.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Does what the command line, which is without the program's name, asks for; returns the process's exit code.
pub fn run(arguments: Vec<OsString>, environment: Environment<'_>) -> ExitCode {
    match dispatch(arguments, environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if matches!(failure, Failure::NoSubcommand) {
                complain(help::usage().trim_end());
            } else if !text.is_empty() {
                complain(&text);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(arguments: Vec<OsString>, environment: Environment<'_>) -> Result<(), Failure> {
    let arguments = arguments
        .into_iter()
        .map(|argument| argument.into_string().map_err(|text| Failure::Usage(format!("Not UTF-8: {}", text.display()))))
        .collect::<Result<Vec<String>, Failure>>()?;
    match parse::parse(&arguments)? {
        Parsed::Help(None) => output::print(&help::usage()),
        Parsed::Help(Some(row)) => output::print(&help::of(row)),
        Parsed::Version => output::print(&format!("pi-bridge {}\n", env!("CARGO_PKG_VERSION"))),
        Parsed::Do(invocation) => act(invocation, environment),
    }
}

fn act(mut invocation: Invocation, environment: Environment<'_>) -> Result<(), Failure> {
    let word = invocation.words.first().map(String::as_str);
    if invocation.row.verb == Verb::Help {
        return print_help(word);
    }
    if invocation.row.verb == Verb::Completions {
        let script = completions::script(word.unwrap_or_default())
            .ok_or_else(|| Failure::Usage("Name a shell: bash, zsh or fish".into()))?;
        return output::print(&script);
    }
    let directory = directory::resolve(invocation.value(Flag::BridgeDir), environment)?;
    if invocation.row.verb == Verb::List {
        return list(&invocation, &directory);
    }
    if invocation.row.verb == Verb::Top {
        return top(&directory);
    }
    if let Some(id) = resolve::leading_target(&invocation, &directory)? {
        invocation.move_target(&id);
    }
    let invocation = &invocation;
    let timeout = invocation.timeout()?;
    let mut along = Vec::new();
    // What is wrong with the command line is told before anything is looked for.
    let request = if invocation.row.verb == Verb::Attach {
        None
    } else {
        let verb = invocation.row.verb;
        let mut request = request::build(invocation, &working_directory(), &read_stdin, &mut along)?;
        if matches!(verb, Verb::Send | Verb::Steer | Verb::FollowUp | Verb::Run | Verb::Session)
            && let Some(trace) = environment(TRACEPARENT_VARIABLE).and_then(|value| value.into_string().ok())
        {
            request.insert(TRACEPARENT.into(), trace.into());
        }
        Some(request)
    };
    let deadline = Deadline::after(timeout);
    let target = resolve::resolve(invocation, &directory, deadline)?;
    if !along.is_empty() && target.of_daemon == Some(false) {
        let most = attachment::MAX_INLINE;
        return Err(Failure::Local(format!("That session takes no more than {most} bytes of images with a message")));
    }
    let mut connection = Connection::open(&target.socket, deadline)?;
    match request {
        None => attach(connection, target, &directory, invocation.has(Flag::Plain), timeout),
        Some(request) => exchange(invocation, &mut connection, &target, (request, along), deadline, &directory),
    }
}

/// Shows a session, and others that the person goes on to.
fn attach(
    mut connection: Connection,
    mut target: Target,
    directory: &std::path::Path,
    plain: bool,
    timeout: Option<std::time::Duration>,
) -> Result<(), Failure> {
    loop {
        let place = Place { directory: directory.to_path_buf(), socket: target.socket, session: target.session };
        let again = place.clone();
        let next = match attach::run(connection, place, plain, timeout)? {
            Next::GoOn | Next::Leave => return Ok(()),
            Next::Switch(next) => next,
        };
        let deadline = Deadline::after(timeout);
        target = match resolve::by_word(directory, &next, deadline) {
            Ok(target) => target,
            Err(why) => {
                complain(&why.to_string());
                Target { socket: again.socket, session: again.session, of_daemon: None }
            }
        };
        connection = Connection::open(&target.socket, deadline)?;
    }
}

/// Sends the request of a subcommand and prints what comes back.
fn exchange(
    invocation: &Invocation,
    connection: &mut Connection,
    target: &Target,
    (mut request, along): (Record, Vec<OwnedFd>),
    deadline: Deadline,
    directory: &std::path::Path,
) -> Result<(), Failure> {
    if let Some(session) = &target.session {
        let key = if invocation.row.verb == Verb::Stop { "sessionId" } else { "session" };
        request.entry(key).or_insert_with(|| session.as_str().into());
    }
    let verb = invocation.row.verb;
    let followed = invocation.row.verb != Verb::Request && request.contains_key("stream");
    if followed && verb == Verb::Run {
        // The daemon ends the run when its only client goes.
        ctrlc::set_handler(|| std::process::exit(INTERRUPTED))
            .map_err(|e| Failure::Local(format!("Cannot handle Ctrl-C: {e}")))?;
    }
    if followed && target.of_daemon == Some(false) {
        return Err(Failure::Local("That session cannot stream an answer; pi-bridge stream shows its events".into()));
    }
    let request = Value::Object(request);
    if verb == Verb::Stream {
        return stream::run(connection, &request, target.session.as_deref(), deadline);
    }
    let since = if followed && verb == Verb::Send && moving::is_wanted() {
        let mut ask = json!({"id": connection::new_id(), "type": "subscribe"});
        if let Some(session) = &target.session {
            ask["session"] = session.as_str().into();
        }
        connection.ask(&ask, deadline)?["data"]["lastSeq"].as_u64().unwrap_or_default()
    } else {
        0
    };
    connection.send_along(along);
    let mut response = connection.ask(&request, deadline)?;
    let success = response["success"] == true;
    if verb == Verb::Sessions && success {
        complete(connection, &request, &mut response, deadline)?;
    }
    let json = invocation.has(Flag::Json);
    if verb == Verb::Logs && success && !json {
        return print_log(&response["data"], target.session.as_deref());
    }
    if let Some(text) = response["data"]["text"].as_str().filter(|_| verb == Verb::Metrics && success && !json) {
        return output::print(text);
    }
    if !followed {
        output::print_json(&response)?;
        if matches!(verb, Verb::Stop | Verb::Inspect)
            && response["code"] == "not_found"
            && let Some(session) = &target.session
        {
            return Err(resolve::unknown(directory, session));
        }
        return if success { Ok(()) } else { Err(Failure::Refused) };
    }
    if json {
        output::print(&format!("{response}\n"))?;
    }
    let made = response["data"]["sessionId"].as_str().filter(|_| verb != Verb::Send).map(str::to_string);
    if !success && let Value::Object(response) = response {
        return Err(Failure::Local(answer::error_of(&response)));
    }
    answer::follow(connection, &request["id"], made.as_deref().or(target.session.as_deref()), since, json)
}

/// Adds the further pages of `list` to the first one.
///
/// # Errors
/// One of them does not come, or the pages never end.
fn complete(
    connection: &mut Connection,
    request: &Value,
    first: &mut Value,
    deadline: Deadline,
) -> Result<(), Failure> {
    while let Some(next) = first["data"].as_object_mut().and_then(|data| data.remove("next")) {
        let mut request = request.clone();
        request["id"] = connection::new_id().into();
        request["after"] = next.clone();
        let mut page = connection.ask(&request, deadline)?;
        if page["success"] != true {
            return Err(Failure::Local(page.as_object().map(answer::error_of).unwrap_or_default()));
        }
        if page["data"]["next"] == next {
            return Err(Failure::Local("The pages of the list do not end".into()));
        }
        for rows in ["sessions", "runs"] {
            if let (Some(all), Some(more)) = (first["data"][rows].as_array_mut(), page["data"][rows].as_array_mut()) {
                all.append(more);
            }
        }
        if !page["data"]["next"].is_null() {
            first["data"]["next"] = page["data"]["next"].take();
        }
    }
    Ok(())
}

/// `pi-bridge list`.
fn list(invocation: &Invocation, directory: &std::path::Path) -> Result<(), Failure> {
    let rows = registry::read(directory, invocation.has(Flag::All))?;
    let filter = resolve::filter(invocation);
    let rows = filter.rows(&rows);
    if invocation.has(Flag::Json) {
        return output::print_json(&registry::json(rows));
    }
    if rows.is_empty() {
        return output::print("No active pi session bridges found.\n");
    }
    let long = invocation.has(Flag::Long);
    let mut entries = overview::gather(&rows, !filter.names_session());
    if entries.is_empty() {
        return output::print("No sessions; a daemon is there (pi-bridge session ID MESSAGE starts one).\n");
    }
    overview::sort(&mut entries, overview::Column::Session, false);
    let cut =
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) && !long { terminal::size().0 } else { usize::MAX };
    let lines = overview::table(&entries, &overview::columns(&entries, long), None);
    output::print(&lines.iter().map(|line| overview::fitted(line, cut) + "\n").collect::<String>())
}

/// `pi-bridge top`.
fn top(directory: &std::path::Path) -> Result<(), Failure> {
    let mut top = top::Top::new();
    loop {
        let id = match top.run(directory)? {
            top::Wish::Leave => return Ok(()),
            top::Wish::Attach(id) => id,
        };
        let timeout = Some(parse::DEFAULT_TIMEOUT);
        let deadline = Deadline::after(timeout);
        let attached = resolve::by_word(directory, &id, deadline)
            .and_then(|target| Ok((Connection::open(&target.socket, deadline)?, target)))
            .and_then(|(connection, target)| attach(connection, target, directory, false, timeout));
        match attached {
            Err(Failure::OutputClosed) => return Err(Failure::OutputClosed),
            Err(why) => top.message = Some(why.to_string()),
            Ok(()) => {}
        }
    }
}

/// Prints the lines of an answer to `logs`.
fn print_log(data: &Value, session: Option<&str>) -> Result<(), Failure> {
    let mut out = String::new();
    for line in data["lines"].as_array().into_iter().flatten() {
        let text = |key: &str| output::printable(line[key].as_str().unwrap_or_default()).replace('\n', "\n    ");
        out.push_str(&format!("{} {:<5} {}\n", text("time"), text("level"), text("text")));
    }
    match session.filter(|_| out.is_empty()) {
        Some(session) => Err(Failure::Local(format!("Nothing was logged about a session {session}"))),
        None => output::print(&out),
    }
}

fn print_help(name: Option<&str>) -> Result<(), Failure> {
    match name {
        None => output::print(&help::usage()),
        Some(name) => match table::verb(name) {
            Some(row) => output::print(&help::of(row)),
            None => Err(Failure::Usage(format!("Unknown subcommand: {name}"))),
        },
    }
}

/// The current directory, which a new session gets; empty if it is gone, which the daemon then refuses.
fn working_directory() -> String {
    std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map(|_| text)
        .map_err(|e| Failure::Local(format!("Cannot read standard input: {e}")))
}
