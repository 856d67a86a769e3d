//! Which of the registered sessions or daemons is meant.

use super::registry::Row;

/// What a row has to be like. Absent fields allow all.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub pid: Option<String>,
    /// A part of the id or of the session file.
    pub session: Option<String>,
    pub name: Option<String>,
    pub cwd: Option<String>,
    /// An id, a name, a part of either, or a process id.
    pub word: Option<String>,
    /// Whether a part is not enough for `word`: what ends a session must not end one with a similar name.
    pub exact: bool,
}

impl Filter {
    /// Whether it asks for a session and not merely for a process.
    pub(super) fn names_session(&self) -> bool {
        self.session.is_some() || self.name.is_some() || self.cwd.is_some() || self.word.is_some()
    }

    /// The same process, whatever session.
    pub(super) fn process_only(&self) -> Filter {
        Filter { pid: self.pid.clone(), ..Filter::default() }
    }

    /// The text by which a session was asked for, if there is one.
    pub(super) fn wanted(&self) -> Option<&str> {
        self.word.as_deref().or(self.session.as_deref()).or(self.name.as_deref())
    }

    /// The text that may be the whole id of a session which is not registered.
    pub(super) fn id(&self) -> Option<&str> {
        match (&self.name, &self.cwd) {
            (None, None) => self.session.as_deref().or(self.word.as_deref()),
            _ => None,
        }
    }

    /// Whether each text is found by `test` in one of the values that it is about.
    fn every_text(&self, row: &Row, test: impl Fn(&str, &str) -> bool, word: impl Fn(&str, &str) -> bool) -> bool {
        let one_of = |text: &Option<String>, keys: &[&str], test: &dyn Fn(&str, &str) -> bool| {
            text.as_deref()
                .is_none_or(|text| keys.iter().filter_map(|key| row.text(key)).any(|value| test(value, text)))
        };
        one_of(&self.session, &["sessionId", "sessionFile"], &test)
            && one_of(&self.name, &["sessionName"], &test)
            && one_of(&self.cwd, &["cwd"], &test)
            && (self.word.as_deref().is_some_and(|word| word == row.pid())
                || one_of(&self.word, &["sessionId", "sessionName"], &word))
    }

    fn matches(&self, row: &Row) -> bool {
        let contains = |value: &str, text: &str| value.contains(text);
        let equals = |value: &str, text: &str| value == text;
        self.pid.as_ref().is_none_or(|pid| *pid == row.pid())
            && if self.exact {
                self.every_text(row, contains, equals)
            } else {
                self.every_text(row, contains, contains)
            }
    }

    /// Whether every text is not just a part of the row's but the whole.
    fn matches_wholly(&self, row: &Row) -> bool {
        let equals = |value: &str, text: &str| value == text;
        self.every_text(row, equals, equals)
    }

    /// The rows that are meant.
    pub(super) fn rows<'a>(&self, rows: &'a [Row]) -> Vec<&'a Row> {
        rows.iter().filter(|row| self.matches(row)).collect()
    }
}

/// The outcome of a choice.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    None,
    One(&'a Row),
    Several(Vec<&'a Row>),
}

fn choice(mut rows: Vec<&Row>) -> Choice<'_> {
    match (rows.pop(), rows.is_empty()) {
        (None, _) => Choice::None,
        (Some(row), true) => Choice::One(row),
        (Some(row), false) => {
            rows.push(row);
            Choice::Several(rows)
        }
    }
}

/// The session that is meant. A daemon's own row counts only where there is no other. Where several rows have the texts,
/// one that has nothing but them is meant: `alpha` is not `alpha2`.
pub(super) fn session<'a>(rows: &'a [Row], filter: &Filter) -> Choice<'a> {
    let (daemons, sessions): (Vec<&Row>, Vec<&Row>) = filter.rows(rows).into_iter().partition(|row| row.is_daemon());
    let found = if sessions.is_empty() { daemons } else { sessions };
    if found.len() > 1 && filter.names_session() {
        let whole: Vec<&Row> = found.iter().copied().filter(|row| filter.matches_wholly(row)).collect();
        if let [row] = whole[..] {
            return Choice::One(row);
        }
    }
    choice(found)
}

/// A row of the daemon that is meant: its own, or one of its sessions'.
pub(super) fn daemon<'a>(rows: &'a [Row], filter: &Filter) -> Choice<'a> {
    let mut found: Vec<&Row> = Vec::new();
    for row in filter.rows(rows) {
        if let Some(socket) = row.daemon_socket()
            && !found.iter().any(|other| other.daemon_socket() == Some(socket))
        {
            found.push(row);
        }
    }
    choice(found)
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::live;
    use super::*;
    use serde_json::json;

    /// Two daemons, of which one has two sessions and the other one, and a session of the first implementation.
    fn rows() -> Vec<Row> {
        [
            json!({"pid": 10, "socketPath": "/d10", "role": "daemon"}),
            json!({"pid": 10, "socketPath": "/a", "sessionId": "id-a", "sessionName": "alpha", "cwd": "/w/a",
                "daemonSocketPath": "/d10"}),
            json!({"pid": 10, "socketPath": "/b", "sessionId": "id-b", "sessionName": "alpha2", "cwd": "/w/b",
                "daemonSocketPath": "/d10"}),
            json!({"pid": 20, "socketPath": "/d20", "sessionId": "id-c", "sessionName": "gamma", "cwd": "/w/a",
                "daemonSocketPath": "/d20"}),
            json!({"pid": 30, "socketPath": "/p", "sessionId": "id-d", "sessionFile": "/f/delta.jsonl", "cwd": "/w/d"}),
        ]
        .map(live)
        .to_vec()
    }

    fn filter(text: &str) -> Filter {
        let mut filter = Filter::default();
        for (key, value) in text.split_whitespace().filter_map(|part| part.split_once('=')) {
            let place = match key {
                "pid" => &mut filter.pid,
                "session" => &mut filter.session,
                "name" => &mut filter.name,
                "cwd" => &mut filter.cwd,
                "exact" => {
                    filter.exact = true;
                    &mut filter.word
                }
                _ => &mut filter.word,
            };
            *place = Some(value.to_string());
        }
        filter
    }

    /// The sockets of the choice, separated by spaces.
    fn sockets(choice: Choice<'_>) -> String {
        match choice {
            Choice::None => String::new(),
            Choice::One(row) => row.socket().to_string(),
            Choice::Several(rows) => rows.iter().map(|row| row.socket()).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn sessions() {
        for (text, expected) in [
            ("", "/a /b /d20 /p"),
            ("pid=10", "/a /b"),
            ("pid=20", "/d20"),
            ("pid=1", ""),
            ("session=id-a", "/a"),
            ("session=id-", "/a /b /d20 /p"),
            ("session=delta", "/p"),
            ("name=gam", "/d20"),
            ("name=alpha2", "/b"),
            ("name=alpha", "/a"),
            ("name=alph", "/a /b"),
            ("name=ALPHA", ""),
            ("cwd=/w/a", "/a /d20"),
            ("cwd=/w/a name=alpha", "/a"),
            ("session=id-a name=gamma", ""),
            ("word=alpha", "/a"),
            ("word=id-b", "/b"),
            ("word=30", "/p"),
            ("word=10", "/a /b"),
            ("word=amm", "/d20"),
            ("exact=amm", ""),
            ("exact=gamma", "/d20"),
            ("exact=id-d", "/p"),
        ] {
            assert_eq!(sockets(session(&rows(), &filter(text))), expected, "{text:?}");
        }
    }

    #[test]
    fn a_daemon_without_sessions_is_all_there_is() {
        let only = [live(json!({"socketPath": "/d", "role": "daemon"}))];
        assert_eq!(sockets(session(&only, &filter(""))), "/d");
        assert_eq!(sockets(session(&only, &filter("session=x"))), "");
        let two = [live(json!({"socketPath": "/d", "role": "daemon"})), live(json!({"socketPath": "/s"}))];
        assert_eq!(sockets(session(&two, &filter(""))), "/s");
    }

    #[test]
    fn daemons() {
        let daemon_of = |text: &str| match daemon(&rows(), &filter(text)) {
            Choice::None => String::new(),
            Choice::One(row) => row.daemon_socket().unwrap_or_default().to_string(),
            Choice::Several(rows) => rows.len().to_string(),
        };
        for (text, expected) in [
            ("", "2"),
            ("pid=10", "/d10"),
            ("pid=20", "/d20"),
            ("pid=30", ""),
            ("word=id-b", "/d10"),
            ("name=gamma", "/d20"),
        ] {
            assert_eq!(daemon_of(text), expected, "{text:?}");
        }
    }
}
