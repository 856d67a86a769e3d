//! All sessions and runs of this machine in one table: what `list` prints once and `top` shows all the time.

use super::activity::time;
use super::attach::{dollars, sandbox, tokens};
use super::connection::{Connection, Deadline, new_id};
use super::output::{one_line, printable};
use super::registry::Row;
use super::terminal::screen::cut;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

/// How long a daemon may take to tell about its sessions. One that hangs must not hide the others.
const PATIENCE: Duration = Duration::from_secs(2);
/// Widest columns for texts that may have any length, columns.
const WIDE: usize = 40;

/// A session or a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub id: String,
    pub name: Option<String>,
    /// The socket of its daemon, or its own where it has no daemon.
    pub socket: PathBuf,
    /// Whether a daemon is asked for it by its id.
    pub of_daemon: bool,
    is_run: bool,
    state: String,
    /// The host that has it, where that is one of several.
    host: String,
    model: String,
    doing: String,
    queue: u64,
    tokens: Option<u64>,
    cost: Option<f64>,
    today: Option<f64>,
    context: Option<(u64, u64)>,
    sandbox: String,
    error: String,
    cwd: String,
    pid: String,
    /// Where it can be reached, for people who want to know.
    path: String,
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Session,
    Name,
    State,
    Host,
    Model,
    Doing,
    Queue,
    Tokens,
    Cost,
    Today,
    Context,
    Sandbox,
    Cwd,
    Pid,
    Error,
    Socket,
}

/// The columns in their order, with their headers.
const COLUMNS: [(Column, &str); 16] = [
    (Column::Session, "SESSION"),
    (Column::Name, "NAME"),
    (Column::State, "STATE"),
    (Column::Host, "HOST"),
    (Column::Model, "MODEL"),
    (Column::Doing, "DOING"),
    (Column::Queue, "QUEUE"),
    (Column::Tokens, "TOKENS"),
    (Column::Cost, "COST"),
    (Column::Today, "TODAY"),
    (Column::Context, "CONTEXT"),
    (Column::Sandbox, "SANDBOX"),
    (Column::Cwd, "CWD"),
    (Column::Pid, "PID"),
    (Column::Error, "LAST ERROR"),
    (Column::Socket, "SOCKET"),
];

impl Column {
    fn header(self) -> &'static str {
        COLUMNS.iter().find(|(column, _)| *column == self).map_or("", |(_, header)| header)
    }

    fn is_number(self) -> bool {
        matches!(self, Column::Queue | Column::Tokens | Column::Cost | Column::Today | Column::Context)
    }
}

impl Entry {
    /// From a daemon's row of `list`.
    fn told(row: &Value, is_run: bool, daemon: &Row, registered: Option<&str>) -> Entry {
        let text = |key: &str| row[key].as_str().map(|text| printable(text).into_owned());
        let doing = &row["doing"];
        let label = |what: &str| match (what, doing["label"].as_str().unwrap_or_default()) {
            ("tool", label) => one_line(label, WIDE),
            (what, "") => what.to_string(),
            (what, label) => one_line(&format!("{what} {label}"), WIDE),
        };
        let since = doing["sinceMs"].as_u64().unwrap_or_default() / 1000;
        Entry {
            id: text("sessionId").unwrap_or_default(),
            name: text("name"),
            socket: daemon.daemon_socket().unwrap_or_else(|| daemon.socket()).into(),
            of_daemon: true,
            is_run,
            state: match (is_run, row["state"].as_str()) {
                (true, _) => "run".into(),
                (false, state) => state.unwrap_or("?").into(),
            },
            host: text("host").unwrap_or_default(),
            model: text("model").unwrap_or_default(),
            doing: doing["what"].as_str().map_or(String::new(), |what| format!("{} {}", label(what), time(since))),
            queue: row["queuedRequests"].as_u64().unwrap_or_default()
                + row["pendingMessages"].as_u64().unwrap_or_default(),
            tokens: row["tokens"]["total"].as_u64(),
            cost: row["cost"].as_f64(),
            today: row["today"]["cost"].as_f64(),
            context: row["contextTokens"].as_u64().zip(row["contextWindow"].as_u64()),
            sandbox: sandbox(&row["sandbox"]).unwrap_or_default(),
            error: row["lastError"].as_str().map_or(String::new(), |error| one_line(error, WIDE)),
            cwd: text("cwd").unwrap_or_default(),
            pid: daemon.pid(),
            path: registered.or(daemon.daemon_socket()).unwrap_or_default().to_string(),
        }
    }

    /// From a row of the registry, where nobody tells more.
    fn registered(row: &Row) -> Entry {
        let text = |key: &str| row.text(key).map(|text| printable(text).replace(['\t', '\n'], " ")).unwrap_or_default();
        let id = text("sessionId");
        Entry {
            name: Some(text("sessionName")).filter(|name| !name.is_empty() && *name != id),
            id,
            socket: row.socket().into(),
            state: match row.is_idle() {
                _ if row.is_stale() => "gone".into(),
                Some(true) => "idle".into(),
                Some(false) => "running".into(),
                None => "?".into(),
            },
            model: row.model(),
            cwd: text("cwd"),
            pid: row.pid(),
            path: row.socket().to_string(),
            ..Entry::default()
        }
    }

    /// The words that a filter looks in.
    pub(super) fn contains(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let fields = [&self.id, &self.state, &self.host, &self.model, &self.doing, &self.cwd, &self.error];
        fields.into_iter().chain(&self.name).any(|field| field.to_lowercase().contains(&text))
    }

    /// What a person calls it.
    pub(super) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    fn cell(&self, column: Column) -> String {
        let known = |text: String| if text.is_empty() { "-".to_string() } else { text };
        match column {
            Column::Session => known(self.id.clone()),
            Column::Name => known(self.name.clone().unwrap_or_default()),
            Column::State => self.state.clone(),
            Column::Host => known(self.host.clone()),
            Column::Model => known(self.model.clone()),
            Column::Doing => known(self.doing.clone()),
            Column::Queue => self.queue.to_string(),
            Column::Tokens => self.tokens.map_or("-".into(), tokens),
            Column::Cost => self.cost.map_or("-".into(), |cost| dollars(Some(cost))),
            Column::Today => self.today.map_or("-".into(), |cost| dollars(Some(cost))),
            Column::Context => match self.context {
                Some((used, window)) if window > 0 => format!("{}%", used * 100 / window),
                _ => "-".into(),
            },
            Column::Sandbox => known(self.sandbox.clone()),
            Column::Error => known(self.error.clone()),
            Column::Cwd => known(self.cwd.clone()),
            Column::Pid => known(self.pid.clone()),
            Column::Socket => known(self.path.clone()),
        }
    }

    /// The number by which rows are sorted; texts are sorted by their letters.
    fn number(&self, column: Column) -> f64 {
        match column {
            Column::Queue => self.queue as f64,
            Column::Tokens => self.tokens.unwrap_or_default() as f64,
            Column::Cost => self.cost.unwrap_or_default(),
            Column::Today => self.today.unwrap_or_default(),
            Column::Context => self.context.map_or(0.0, |(used, window)| used as f64 / window.max(1) as f64),
            Column::Session
            | Column::Name
            | Column::State
            | Column::Host
            | Column::Model
            | Column::Doing
            | Column::Sandbox
            | Column::Error
            | Column::Cwd
            | Column::Pid
            | Column::Socket => 0.0,
        }
    }
}

/// All that these rows of the registry stand for. Daemons are asked for what they know; `runs` adds those of theirs that have no row.
pub(super) fn gather(rows: &[&Row], runs: bool) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut asked: Vec<(&str, Option<Told>)> = Vec::new();
    for row in rows {
        let Some(socket) = row.daemon_socket() else {
            entries.push(Entry::registered(row));
            continue;
        };
        if !asked.iter().any(|(known, _)| *known == socket) {
            asked.push((socket, ask(Path::new(socket))));
        }
        let told = asked.iter().find(|(known, _)| *known == socket).and_then(|(_, told)| told.as_ref());
        match (told, row.text("sessionId")) {
            (Some(told), Some(id)) => match told.iter().find(|(_, row)| row["sessionId"] == id) {
                Some((is_run, found)) => entries.push(Entry::told(found, *is_run, row, Some(row.socket()))),
                None => entries.push(Entry::registered(row)),
            },
            (None, Some(_)) => entries.push(Entry::registered(row)),
            // What a dead daemon left behind is something to be seen; a live one without sessions is not.
            (_, None) if row.is_stale() => entries.push(Entry::registered(row)),
            (_, None) => {}
        }
    }
    if runs {
        for (socket, told) in &asked {
            let Some(daemon) = rows.iter().find(|row| row.daemon_socket() == Some(socket)) else { continue };
            for (is_run, row) in told.iter().flatten() {
                if !entries.iter().any(|entry| row["sessionId"] == entry.id.as_str()) {
                    entries.push(Entry::told(row, *is_run, daemon, None));
                }
            }
        }
    }
    entries
}

/// Rows of a daemon's list, with whether they are of runs.
type Told = Vec<(bool, Value)>;

/// A daemon's sessions and runs, all pages; absent if it does not tell.
fn ask(socket: &Path) -> Option<Told> {
    let deadline = Deadline::after(Some(PATIENCE));
    let mut connection = Connection::open(socket, deadline).ok()?;
    let mut request = json!({"id": new_id(), "type": "list"});
    let mut rows = Vec::new();
    loop {
        let page = connection.ask(&request, deadline).ok().filter(|page| page["success"] == true)?;
        for (kind, is_run) in [("sessions", false), ("runs", true)] {
            let of_kind = page["data"][kind].as_array().into_iter().flatten();
            rows.extend(of_kind.map(|row| (is_run, row.clone())));
        }
        let next = &page["data"]["next"];
        if next.is_null() || request["after"] == *next {
            return Some(rows);
        }
        request = json!({"id": new_id(), "type": "list", "after": next});
    }
}

/// A table of what the registry knows of these rows, for somebody who has to choose one.
pub(super) fn short(rows: &[&Row]) -> String {
    let entries: Vec<Entry> = rows.iter().map(|row| Entry::registered(row)).collect();
    let columns = [Column::Session, Column::Name, Column::State, Column::Model, Column::Cwd, Column::Pid];
    table(&entries, &columns, None).join("\n") + "\n"
}

/// The columns of a table of these entries.
pub(super) fn columns(entries: &[Entry], long: bool) -> Vec<Column> {
    let named = entries.iter().any(|entry| entry.name.is_some());
    let has_host = entries.iter().any(|entry| !entry.host.is_empty());
    let is_shown = |column: &Column| {
        (named || *column != Column::Name)
            && (has_host || *column != Column::Host)
            && (long || *column != Column::Socket)
    };
    COLUMNS.iter().map(|(column, _)| *column).filter(is_shown).collect()
}

/// Sorts by a column: numbers from the largest, texts from the first letter.
pub(super) fn sort(entries: &mut [Entry], by: Column, backwards: bool) {
    entries.sort_by(|a, b| {
        let numbers = b.number(by).total_cmp(&a.number(by));
        let order = numbers.then_with(|| a.cell(by).cmp(&b.cell(by)));
        (if backwards { order.reverse() } else { order }).then_with(|| a.id.cmp(&b.id))
    });
}

/// The header and a line for each entry, in aligned columns; `mark` is the column whose header is marked.
pub(super) fn table(entries: &[Entry], columns: &[Column], mark: Option<Column>) -> Vec<String> {
    let header = |column: &Column| {
        let name = column.header();
        if mark == Some(*column) { format!("{name}*") } else { name.to_string() }
    };
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(header).collect()];
    for entry in entries {
        // A name with a tab or a line end would shift the columns.
        let cell = |column: &Column| entry.cell(*column).replace(['\t', '\n'], " ");
        lines.push(columns.iter().map(cell).collect());
    }
    let widths: Vec<usize> =
        (0..columns.len()).map(|at| lines.iter().map(|line| line[at].width()).max().unwrap_or_default()).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).zip(columns).map(|((cell, width), column)| {
            let blanks = " ".repeat(width - cell.width());
            if column.is_number() { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    lines.iter().map(padded).collect()
}

/// All of them in one line.
pub(super) fn summary(entries: &[Entry]) -> String {
    let count = |test: &dyn Fn(&Entry) -> bool| entries.iter().filter(|entry| test(entry)).count();
    let sum = |of: &dyn Fn(&Entry) -> Option<f64>| entries.iter().filter_map(of).sum::<f64>();
    let (runs, working) = (count(&|entry| entry.is_run), count(&|entry| entry.state == "running" || entry.is_run));
    let waiting: u64 = entries.iter().map(|entry| entry.queue).sum();
    let used: u64 = entries.iter().filter_map(|entry| entry.tokens).sum();
    format!(
        "{} sessions, {runs} runs; {working} working, {waiting} waiting; {} tokens, {}; today {}",
        entries.len() - runs,
        tokens(used),
        dollars(Some(sum(&|entry| entry.cost))),
        dollars(Some(sum(&|entry| entry.today)))
    )
}

/// A line that fits into a terminal's row.
pub(super) fn fitted(line: &str, columns: usize) -> String {
    cut(line, columns)
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::live;
    use super::*;

    fn entry(id: &str, cost: f64) -> Entry {
        Entry { id: id.into(), state: "idle".into(), cost: Some(cost), tokens: Some(1200), ..Entry::default() }
    }

    #[test]
    fn columns_are_aligned() {
        let long = Entry { name: Some("漢字".into()), context: Some((50, 200)), ..entry("a-long-id", 12.5) };
        let entries = [entry("b", 0.5), long];
        let columns = [Column::Session, Column::Name, Column::Cost, Column::Context, Column::Cwd];
        assert_eq!(
            table(&entries, &columns, Some(Column::Cost)),
            [
                "SESSION    NAME     COST*  CONTEXT  CWD",
                "b          -      $0.5000        -  -",
                "a-long-id  漢字  $12.5000      25%  -",
            ]
        );
        assert!(!super::columns(&entries, false).contains(&Column::Socket));
        assert!(super::columns(&entries, true).contains(&Column::Socket));
        assert!(!super::columns(&entries[..1], true).contains(&Column::Name));
        assert!(!super::columns(&entries, true).contains(&Column::Host));
        let of_fleet = Entry { host: "h0".into(), ..entry("c", 0.0) };
        assert!(super::columns(&[of_fleet], false).contains(&Column::Host));
    }

    #[test]
    fn rows_are_sorted() {
        let mut entries = [entry("b", 0.5), entry("c", 2.0), entry("a", 0.5)];
        let order = |entries: &[Entry]| entries.iter().map(|entry| entry.id.as_str()).collect::<String>();
        sort(&mut entries, Column::Cost, false);
        assert_eq!(order(&entries), "cab");
        sort(&mut entries, Column::Cost, true);
        assert_eq!(order(&entries), "abc");
        sort(&mut entries, Column::Session, true);
        assert_eq!(order(&entries), "cba");
    }

    #[test]
    fn a_row_of_a_daemon_says_what_goes_on() {
        let row = json!({"sessionId": "s", "model": "p/m", "state": "running", "queuedRequests": 1, "pendingMessages": 2,
            "doing": {"what": "tool", "label": "bash make", "sinceMs": 65_000}, "tokens": {"total": 7}, "cost": 0.25,
            "today": {"tokens": 7, "cost": 0.125}, "contextTokens": 100, "contextWindow": 400, "lastError": "a\nb",
            "sandbox": {"profile": "workspace", "level": "full"}, "cwd": "/w"});
        let daemon = live(json!({"role": "daemon", "socketPath": "/d"}));
        let entry = Entry::told(&row, false, &daemon, None);
        let cells: Vec<String> = COLUMNS.iter().map(|(column, _)| entry.cell(*column)).collect();
        assert_eq!(
            cells.join("|"),
            "s|-|running|-|p/m|bash make 1 min 5 s|3|7|$0.2500|$0.1250|25%|workspace/full|/w|10|a...|/d"
        );
        assert!(entry.contains("MAKE") && !entry.contains("nothing"));
        let waiting = json!({"sessionId": "s", "doing": {"what": "retry", "label": "2 of 5", "sinceMs": 0}});
        assert_eq!(Entry::told(&waiting, true, &daemon, None).cell(Column::Doing), "retry 2 of 5 0 s");
    }

    #[test]
    fn what_only_the_registry_knows_is_shown_as_far_as_it_goes() {
        let row = live(json!({"sessionId": "s", "sessionName": "a\tb\u{1b}", "isIdle": false, "model": {"id": "m"}}));
        let entry = Entry::registered(&row);
        let shown = [Column::Session, Column::Name, Column::State, Column::Model, Column::Cost, Column::Context];
        assert_eq!(shown.map(|column| entry.cell(column)).join("|"), "s|a b?|running|m|-|-");
    }
}
