//! What a person asks for in attach, and what the session answers.

use super::approval;
use super::outputs;
use super::question::Reply;
use super::totals::{dollars, tokens};
use super::typed::{self, COMMANDS, LEVELS, Typed};
use super::view::Missing;
use super::{Attach, Next, Purpose, Typing, error_of, same_id};
use crate::cli::activity::time;
use crate::cli::connection::{Connection, Deadline, Record};
use crate::cli::failure::Failure;
use crate::cli::output::one_line;
use crate::cli::registry;
use crate::near;
use serde_json::{Value, json};
use std::time::Instant;

/// How much of a message that waits is shown, characters.
const WAITS: usize = 80;

/// What is known of the session beside its events.
#[derive(Default)]
pub(super) struct Session {
    name: String,
    cwd: Option<String>,
    model: Option<String>,
    thinking: Option<String>,
    sandbox: Option<String>,
    /// Its commands, for completion.
    commands: Vec<String>,
    /// It was idle when that was asked for last.
    pub settled: bool,
}

impl Session {
    /// Reads the state, and the facts that only our own daemon tells.
    pub(super) fn read(state: &Value, facts: &Value) -> Session {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_string);
        let provider = state["model"]["provider"].as_str().map_or(String::new(), |provider| format!("{provider}/"));
        Session {
            name: text(&state["sessionName"]).or(text(&state["sessionId"])).unwrap_or("without a name".into()),
            cwd: text(&state["cwd"]),
            model: text(&state["model"]["id"]).map(|id| format!("{provider}{id}")),
            thinking: text(&state["thinkingLevel"]).filter(|level| level != "off"),
            sandbox: sandbox(&facts["sandbox"]),
            commands: Vec::new(),
            settled: false,
        }
    }

    /// The session in one line.
    pub(super) fn header(&self, busy: bool) -> String {
        let mut out = format!("session {}", self.name);
        let parts =
            [(" in ", &self.cwd), (", ", &self.model), (", thinking ", &self.thinking), (", sandbox ", &self.sandbox)];
        for (before, text) in parts {
            out.extend(text.iter().map(|text| format!("{before}{text}")));
        }
        out + if busy { ", busy (/help)" } else { ", idle (/help)" }
    }
}

/// The sandbox of a session as people read it: what holds of it.
pub(in crate::cli) fn sandbox(facts: &Value) -> Option<String> {
    let (profile, level) = (facts["profile"].as_str()?, facts["level"].as_str()?);
    Some(if profile == "off" { "off".to_string() } else { format!("{profile}/{level}") })
}

impl Attach {
    /// Acts on what a person did.
    pub(super) fn typed(&mut self, typing: Typing) -> Result<Next, Failure> {
        match typing {
            Typing::Line(line) => return self.line(&line),
            Typing::Interrupt => return self.interrupted(),
            // A person leaves; who piped something in wants its answer.
            Typing::End if std::io::IsTerminal::is_terminal(&std::io::stdin()) => return Ok(Next::Leave),
            Typing::End => self.leaving = true,
            Typing::Complete => self.complete(),
            Typing::Refused(why) => self.view.error(why),
        }
        Ok(Next::GoOn)
    }

    /// Acts on a typed line.
    fn line(&mut self, line: &str) -> Result<Next, Failure> {
        let typed = typed::read(line);
        if self.front.moves() && !matches!(typed, Typed::Nothing) {
            // The editor's line is gone; what was said stays above.
            self.view.echo(line.trim());
        }
        match typed {
            Typed::Nothing => {}
            Typed::Quit => return Ok(Next::Leave),
            Typed::Attach(target) => return Ok(Next::Switch(target)),
            Typed::Help => self.view.block(&typed::help()),
            Typed::Wrong(why) => self.view.error(&why),
            Typed::Abort => self.abort()?,
            Typed::FollowUp(text) => self.send_message("follow_up", &text)?,
            Typed::Steer(text) => self.send_message("steer", &text)?,
            Typed::Command(text) => self.send_message("prompt", &text)?,
            Typed::Text(text) => match self.questions.front_mut() {
                Some(question) => {
                    let reply = question.answer(&text);
                    self.replied(reply)?;
                }
                None => self.send_message("prompt", &text)?,
            },
            Typed::Skip => match self.questions.front_mut() {
                Some(question) => {
                    let reply = question.skip();
                    self.replied(reply)?;
                }
                None => self.view.error("no question is open"),
            },
            Typed::Reject => match self.questions.pop_front() {
                Some(question) => {
                    match &question.hash {
                        Some(hash) => {
                            let no = approval::settlement(&question.id, hash, &Value::Null);
                            self.send("approve", no, Purpose::Answer)?;
                        }
                        None => self.send("reject", json!({"requestId": question.id}), Purpose::Answer)?,
                    }
                    self.ask_question();
                }
                None => self.view.error("no question is open"),
            },
            Typed::Model(model) if model.is_empty() => self.send("get_state", json!({}), Purpose::Model)?,
            Typed::Thinking(level) if level.is_empty() => self.send("get_state", json!({}), Purpose::Model)?,
            Typed::Model(model) => self.send("configure", json!({"model": model}), Purpose::Configure)?,
            Typed::Thinking(level) => self.send("configure", json!({"thinkingLevel": level}), Purpose::Configure)?,
            Typed::Name(name) => self.send("configure", json!({"name": name}), Purpose::Configure)?,
            Typed::Compact(text) => {
                let fields = if text.is_empty() { json!({}) } else { json!({"instructions": text}) };
                self.send("compact", fields, Purpose::Compact)?;
            }
            Typed::Stop => {
                self.stopping = true;
                self.send("shutdown", json!({"confirm": true}), Purpose::Stop)?;
            }
            Typed::Queue => self.send("inspect", json!({}), Purpose::Queue)?,
            Typed::ClearQueue => self.send("clear", json!({}), Purpose::ClearQueue)?,
            Typed::Cost => self.send("inspect", json!({}), Purpose::Cost)?,
            Typed::Output(number) => self.show_output(number)?,
        }
        Ok(Next::GoOn)
    }

    /// Shows what a tool gave back.
    fn show_output(&mut self, number: Option<usize>) -> Result<(), Failure> {
        let Some(output) = self.view.outputs.find(number) else {
            self.view.error("there is no such output");
            return Ok(());
        };
        match (output.whole(), output.seq) {
            (Some(whole), _) => self.view.block(&whole),
            (None, Some(seq)) => {
                let event = Record::from_iter([("seq".to_string(), json!(seq))]);
                let missing = Missing { event, label: output.label.clone(), number: output.number };
                self.ask_output(missing, true)?;
            }
            (None, None) => self.view.error("the session does not have it any more"),
        }
        Ok(())
    }

    fn send_message(&mut self, kind: &str, text: &str) -> Result<(), Failure> {
        self.view.sent(text);
        if self.connection.is_some() {
            self.view.activity.asked(Instant::now());
        }
        self.about.settled = false;
        self.send(kind, json!({"message": text}), Purpose::Message)
    }

    /// Ends the current work. A connection that waits for a summary takes no other request, so that this goes over one of
    /// its own then.
    pub(super) fn abort(&mut self) -> Result<(), Failure> {
        if !self.requests.iter().any(|request| matches!(request.purpose, Purpose::Compact)) {
            return self.send("abort", json!({}), Purpose::Abort);
        }
        let deadline = Deadline::after(self.timeout);
        let request = self.request("abort", json!({}));
        let sent = Connection::open(&self.place.socket, deadline).and_then(|mut c| c.ask(&request, deadline));
        if let Err(e) = sent {
            self.view.error(&e.to_string());
        }
        Ok(())
    }

    /// Goes on with the question that is asked.
    fn replied(&mut self, reply: Reply) -> Result<(), Failure> {
        match reply {
            Reply::Again(why) => self.view.error(&why),
            Reply::Next => self.ask_question(),
            Reply::Done(answers) => {
                // From here on it is the session's; if the answer is refused, the question is looked up again.
                if let Some(question) = self.questions.pop_front() {
                    match &question.hash {
                        Some(hash) => {
                            let fields = approval::settlement(&question.id, hash, &answers);
                            self.send("approve", fields, Purpose::Answer)?;
                        }
                        None => {
                            let fields = json!({"requestId": question.id, "answers": answers});
                            self.send("answer", fields, Purpose::Answer)?;
                        }
                    }
                }
                self.ask_question();
            }
        }
        Ok(())
    }

    /// Completes a command of ours or of the session, or what stands behind one.
    fn complete(&mut self) {
        let before = self.front.before_cursor().to_string();
        let (start, candidates) = match before.strip_prefix('/').map(|rest| rest.split_once(' ')) {
            Some(None) => (0, self.commands().collect::<Vec<_>>()),
            Some(Some((command, rest))) if !rest.contains(' ') => {
                let values = match command {
                    "thinking" => LEVELS.map(str::to_string).to_vec(),
                    "queue" => vec!["clear".to_string()],
                    "attach" => registry::names(&self.place.directory),
                    "model" => self.about.model.iter().cloned().collect(),
                    _ => Vec::new(),
                };
                (command.len() + 2, values)
            }
            _ => return,
        };
        let mut candidates: Vec<String> =
            candidates.into_iter().filter(|candidate| candidate.starts_with(&before[start..])).collect();
        candidates.sort();
        candidates.dedup();
        let several = self.front.complete(start, &candidates).join("  ");
        if !several.is_empty() {
            self.view.block(&format!("{several}\n"));
        }
    }

    pub(super) fn response(&mut self, mut response: Record) -> Result<(), Failure> {
        let Some(id) = response.get("id") else { return Ok(()) };
        let Some(at) = self.requests.iter().position(|request| same_id(&request.id, id)) else { return Ok(()) };
        let purpose = self.requests.remove(at).purpose;
        let success = response.get("success") == Some(&Value::Bool(true));
        let data = response.remove("data").unwrap_or_default();
        match (purpose, success) {
            // These are asked by nobody, and a session need not know of them.
            (Purpose::Totals(run), _) => self.totals(&run, &data),
            (Purpose::Commands, _) => {
                let commands = data["commands"].as_array().into_iter().flatten();
                self.about.commands =
                    commands.filter_map(|command| command["name"].as_str()).map(str::to_string).collect();
            }
            (Purpose::Output(missing, whole), _) => self.output(*missing, whole, &data),
            (Purpose::Settled, _) => {
                let waits = data["hasPendingMessages"] == true;
                self.about.settled = data["isIdle"] != false && !waits;
                self.view.busy = !self.about.settled;
            }
            (Purpose::Message, false) => {
                let why = self.refusal(&response);
                self.view.error(&why);
                if !self.view.busy {
                    self.view.activity.settled();
                }
            }
            // The question may still be open: it was taken from the list when it was answered.
            (Purpose::Answer, false) => {
                self.view.error(&error_of(&response));
                self.send("questions", json!({}), Purpose::Questions)?;
            }
            (_, false) => self.view.error(&error_of(&response)),
            (Purpose::Questions, true) => {
                data["questions"].as_array().into_iter().flatten().for_each(|entry| self.opened(entry));
            }
            (Purpose::Message, true) => match data["deliveredAs"].as_str() {
                Some("steer") if data["idleBeforeSend"] == false => {
                    self.view.note("it will read that at its next step")
                }
                Some("followUp") if data["idleBeforeSend"] == false => {
                    self.view.note("it will read that when it is done");
                }
                _ => {}
            },
            (Purpose::Model, true) => {
                let now = Session::read(&data, &Value::Null);
                let model = now.model.unwrap_or("none".into());
                self.view.note(&format!("model {model}, thinking {}", now.thinking.unwrap_or("off".into())));
            }
            (Purpose::Cost, true) => self.cost(&data),
            (Purpose::Queue, true) => self.queue(&data),
            (Purpose::ClearQueue, true) => {
                let count = |key: &str| data[key].as_array().map_or(0, Vec::len);
                match count("steering") + count("followUp") {
                    0 => self.view.note("nothing waited"),
                    1 => self.view.note("one message is forgotten"),
                    count => self.view.note(&format!("{count} messages are forgotten")),
                }
            }
            (Purpose::Compact, true) => {
                let before =
                    data["tokensBefore"].as_u64().map_or(String::new(), |n| format!(" (it had {} tokens)", tokens(n)));
                self.view.note(&format!("that is done{before}"));
            }
            (Purpose::Abort | Purpose::Answer | Purpose::Configure | Purpose::Stop, true) => {}
        }
        Ok(())
    }

    /// Why a message was refused. Of a command that is none, the session knows only its own.
    fn refusal(&self, response: &Record) -> String {
        let why = error_of(response);
        let Some(rest) = why.strip_prefix("Unknown command: ") else { return why };
        let name = rest.split(' ').next().unwrap_or_default();
        let known: Vec<String> = self.commands().collect();
        let hint = near::hint(name, known.iter().map(String::as_str));
        format!("Unknown command: {name}{hint} (/help lists ours, Tab those of the session as well)")
    }

    /// The commands of ours and of the session.
    fn commands(&self) -> impl Iterator<Item = String> {
        let own = COMMANDS.iter().map(|(name, ..)| *name);
        own.chain(self.about.commands.iter().map(String::as_str)).map(|name| format!("/{name}"))
    }

    /// What a run used, and the session with it.
    fn totals(&mut self, run: &str, facts: &Value) {
        let all = match facts["tokens"]["total"].as_u64() {
            Some(total) => format!("session: {} tokens, {}", tokens(total), dollars(facts["cost"].as_f64())),
            None => format!("since attaching: {}", self.view.seen),
        };
        self.view.totals(&format!("{run} ({all})"));
    }

    fn cost(&mut self, facts: &Value) {
        let count = |value: &Value| tokens(value.as_u64().unwrap_or_default());
        let used = &facts["tokens"];
        if used.is_null() {
            return self.view.note(&format!("since attaching: {}", self.view.seen));
        }
        let cached = &used["cacheRead"];
        self.view.note(&format!(
            "session: {} in, {} cached, {} out, {}; {} prompts",
            count(&used["input"]),
            count(cached),
            count(&used["output"]),
            dollars(facts["cost"].as_f64()),
            facts["prompts"]
        ));
        let today = &facts["today"];
        self.view.note(&format!("today: {} tokens, {}", count(&today["tokens"]), dollars(today["cost"].as_f64())));
        let window = format!("{} of {} tokens", count(&facts["contextTokens"]), count(&facts["contextWindow"]));
        self.view.note(&format!("context: {window}"));
    }

    fn queue(&mut self, facts: &Value) {
        let waiting = facts["queue"].as_array().map_or(0, Vec::len);
        let pending = facts["pendingMessages"].as_u64().unwrap_or_default();
        if waiting == 0 && pending == 0 && self.view.queue.is_empty() {
            return self.view.note("nothing waits");
        }
        for prompt in facts["queue"].as_array().into_iter().flatten() {
            let from = prompt["from"].as_str().map_or(String::new(), |from| format!(" from {from}"));
            let seconds = prompt["waitingMs"].as_u64().unwrap_or_default() / 1000;
            let waits = time(seconds);
            self.view.note(&format!("a prompt{from} of {} bytes waits for {waits}", prompt["bytes"]));
        }
        for text in std::mem::take(&mut self.view.queue) {
            self.view.note(&format!("waits to be read: {}", one_line(&text, WAITS)));
            self.view.queue.push(text);
        }
        let unseen = pending.saturating_sub(self.view.queue.len() as u64);
        if unseen > 0 {
            self.view.note(&format!("{unseen} more wait to be read, from before"));
        }
    }

    /// The whole result of a call.
    fn output(&mut self, missing: Missing, whole: bool, data: &Value) {
        let seq = missing.event.get("seq");
        let events = data["events"].as_array().into_iter().flatten();
        let found = events.map(|event| (event.get("seq"), &event["data"])).find(|(found, _)| *found == seq);
        let result = found.map(|(_, data)| data).filter(|data| !data["result"].is_null());
        match (result, whole) {
            (Some(result), true) => {
                let text = outputs::text_of(result).unwrap_or_default();
                self.view.block(&outputs::whole(&missing.label, &text));
            }
            (Some(result), false) => self.view.tool_line(&missing.label, result, missing.number),
            (None, true) => self.view.error("the session does not have it any more"),
            (None, false) => {
                let left = missing.event.get("data").cloned().unwrap_or_default();
                self.view.tool_line(&missing.label, &left, missing.number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_where_one_is() {
        let state = json!({"sessionName": "demo", "cwd": "/w", "model": {"provider": "p", "id": "m"},
            "thinkingLevel": "high"});
        let facts = json!({"sandbox": {"profile": "workspace", "level": "full", "network": "off"}});
        assert_eq!(
            Session::read(&state, &facts).header(false),
            "session demo in /w, p/m, thinking high, sandbox workspace/full, idle (/help)"
        );
        let little = json!({"sessionId": "s", "model": {"id": "m"}, "thinkingLevel": "off"});
        assert_eq!(Session::read(&little, &Value::Null).header(true), "session s, m, busy (/help)");
        assert_eq!(sandbox(&json!({"profile": "off", "level": "none"})).as_deref(), Some("off"));
    }
}
