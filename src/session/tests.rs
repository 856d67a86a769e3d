//! The actor with a wire and a model of the tests' own: no NATS, no socket, no configuration, no file.

use super::*;
use crate::contract::control::{Answer, Control, ControlRequest, Deliver, Input};
use crate::contract::identity::{OnRestart, Workspace};
use crate::contract::reply::Restart;
use crate::contract::session::SessionSettings;
use crate::contract::wire::WireSettings;
use crate::event_log::Envelope;
use crate::model::{Answer as ModelAnswer, LocalModel, Request, RequestError, ThinkingLevel, offline};
use crate::prompt::UserFolders;
use crate::quota::HostQuota;
use crate::threads;
use crate::tools::runner::Sandbox;
use crate::transcript::Content;
use crossbeam_channel::{Sender, bounded, unbounded};
use serde_json::json;
use std::time::Duration;

/// Longer than anything here takes, also on a machine that is busy with something else.
const DEADLINE: Duration = Duration::from_secs(20);

/// Answers a prompt with its own words, and one that asks to wait not before it is cancelled.
struct Parrot;

impl LocalModel for Parrot {
    fn run(
        &self,
        request: &Request<'_>,
        cancel: &Cancel,
        answer: &mut ModelAnswer<'_>,
    ) -> Result<StopReason, RequestError> {
        let Some(Message::User(prompt)) = request.messages.last().map(|message| &**message) else {
            panic!("no prompt")
        };
        let Content::Text(text) = &prompt.content else { panic!("no text") };
        answer.accepted();
        if text == "wait" {
            cancel.sleep(DEADLINE);
            return Err(RequestError::aborted());
        }
        let at = answer.start_text();
        answer.text(at, text);
        answer.end_text(at);
        Ok(StopReason::Stop)
    }
}

/// What a caller hears.
#[derive(Debug, PartialEq)]
enum Heard {
    Text(String),
    End(Result<(), String>),
}

/// A caller, and at the same time somebody who listens to events.
struct Caller(Sender<Heard>);

impl Reply for Caller {
    fn text(&self, text: &str, _: &Cancel) {
        let _ = self.0.send(Heard::Text(text.to_owned()));
    }

    fn restart(&self, _: Restart) {}

    fn flush(&self) {}

    fn finish(&self, result: Result<(), ReplyError>) {
        let _ = self.0.send(Heard::End(result.map_err(|error| error.code().to_owned())));
    }
}

struct Listener(Sender<String>);

impl EventSink for Listener {
    fn event(&self, envelope: &Arc<Envelope>) -> bool {
        self.0.send(envelope.event.to_string()).is_ok()
    }
}

/// A wire whose messages are prompts: who asks, and what.
struct TestWire {
    messages: Receiver<Box<(Sender<Heard>, String)>>,
    listener: Arc<Listener>,
}

impl Wire for TestWire {
    type Message = (Sender<Heard>, String);

    fn messages(&self) -> &Receiver<Box<Self::Message>> {
        &self.messages
    }

    fn read(&mut self, (caller, text): &Self::Message, _: Option<ReplyError>) -> Vec<WireRequest> {
        let reply = Arc::new(Caller(caller.clone()));
        if text.is_empty() {
            return vec![WireRequest::Refused { reply, error: ReplyError::empty_prompt("nothing is asked") }];
        }
        let message = crate::contract::prompt::Incoming::new(text.clone());
        vec![WireRequest::Prompt(Prompt { message, from: None, sender: None, reply, received: Instant::now() })]
    }

    fn listener(&self) -> Option<Arc<dyn EventSink>> {
        Some(self.listener.clone())
    }

    fn call_for(&mut self, _: &Arc<Envelope>) -> bool {
        false
    }

    fn settings(&self) -> WireSettings {
        WireSettings::default()
    }

    fn reply_to(&self, _: &Value) -> Option<Arc<dyn Reply>> {
        None
    }

    fn stop(&mut self) {}

    fn close(mut self, _: bool) -> Vec<Prompt> {
        let late: Vec<_> = self.messages.try_iter().collect();
        let requests = late.iter().flat_map(|message| self.read(message, None));
        requests
            .filter_map(|request| if let WireRequest::Prompt(prompt) = request { Some(prompt) } else { None })
            .collect()
    }
}

/// A session that runs, and the other ends of everything it has.
struct Running {
    wire: Sender<Box<(Sender<Heard>, String)>>,
    commands: Sender<Command>,
    events: Receiver<String>,
    stats: Arc<SessionStats>,
    ended: Receiver<EndReason>,
    _thread: threads::Thread,
}

impl Running {
    /// Begins a session in which one prompt may wait.
    fn begin() -> Running {
        let ((wire, messages), (commands, receiver)) = (bounded(8), bounded(8));
        let ((events, heard), (reason, ended)) = (unbounded(), bounded(1));
        let stats = Arc::new(SessionStats::new(SessionSettings {
            model: Arc::new(offline::model()),
            thinking: ThinkingLevel::Off,
            name: None,
            max_lifetime: Duration::ZERO,
            deadline: None,
            sandbox: Arc::new(Sandbox::off()),
            file: None,
        }));
        let nowhere = PathBuf::from("/nonexistent");
        let turn = TurnOptions {
            folders: UserFolders { agent_dir: nowhere.clone(), home: nowhere.clone() },
            tool_environment: Vec::new(),
            bash_timeout: None,
            secrets: crate::turn::SecretTable::new(),
        };
        let identity = SessionIdentity {
            id: "s".to_owned().try_into().expect("an id"),
            subject: None,
            instance_id: "i".to_owned().try_into().expect("an id"),
            named: true,
            cwd: "/".into(),
            from: None,
            host: None,
            workspace: Workspace::Local,
            on_restart: OnRestart::Continue,
            project_trusted: false,
            tools: Vec::new(),
            rules: Arc::default(),
            parent: None,
            environment: crate::contract::environment::SessionEnvironment::default(),
            created_at_start: 0,
            created_ms: 0,
        };
        let parts = Box::new(Parts {
            options: Arc::new(SessionOptions {
                max_queue: 1,
                event_log: event_log::Settings::default(),
                question_timeout: None,
                audit: None,
                approval_timeout: None,
                unattended: Unattended::Deny,
                on_budget: OnBudget::Stop,
                ledger: None,
                turn: Arc::new(turn),
                notices: None,
            }),
            services: Arc::new(Services::with_local_model(Box::new(Parrot))),
            identity: Arc::new(identity),
            stats: stats.clone(),
            wire: Some(TestWire { messages, listener: Arc::new(Listener(events)) }),
            commands: receiver,
            spill_dir: nowhere.clone(),
            attachments: None,
            quota: HostQuota::new(0, 0).session(),
            slots: Slots::new(0),
            raw_file: nowhere,
            state: None,
            storage: Storage::None,
            log: None,
            comes_from_elsewhere: false,
            first: None,
            can_be_left: false,
        });
        let work = move || {
            let _ = reason.send(run(parts));
        };
        let thread = threads::spawn("s-test", threads::SESSION_STACK, work).expect("a thread");
        Running { wire, commands, events: heard, stats, ended, _thread: thread }
    }

    fn prompt(&self, text: &str) -> Receiver<Heard> {
        let (caller, heard) = unbounded();
        self.wire.send(Box::new((caller, text.to_owned()))).expect("the session is there");
        heard
    }

    fn control(&self, control: Control) -> Receiver<Result<Answer, ReplyError>> {
        let (answer, answered) = bounded(1);
        let respond: Respond = Box::new(move |result| drop(answer.send(result)));
        self.commands
            .send(Command::Control(Box::new(ControlRequest { control, respond })))
            .expect("the session is there");
        answered
    }

    fn wait_event(&self, name: &str) {
        while self.events.recv_timeout(DEADLINE).expect("an event") != name {}
    }

    fn end(self, reason: EndReason) {
        self.commands.send(Command::End(reason)).expect("the session is there");
        assert_eq!(self.ended.recv_timeout(DEADLINE), Ok(reason));
        self.wait_event("bridge_stop");
    }
}

/// All that a caller hears.
fn all(heard: &Receiver<Heard>) -> Vec<Heard> {
    let mut all = Vec::new();
    while !matches!(all.last(), Some(Heard::End(_))) {
        all.push(heard.recv_timeout(DEADLINE).expect("something is said"));
    }
    assert!(heard.try_recv().is_err(), "nothing follows the end");
    all
}

#[test]
fn a_prompt_is_answered_and_its_events_are_told_in_order() {
    let session = Running::begin();
    assert_eq!(all(&session.prompt("hello")), [Heard::Text("hello".into()), Heard::End(Ok(()))]);
    for name in ["bridge_start", "input", "agent_start", "turn_start", "message_start", "message_end", "agent_end"] {
        session.wait_event(name);
    }
    assert_eq!(all(&session.prompt("")), [Heard::End(Err("bad_request".into()))]);
    assert_eq!((session.stats.prompts(), session.stats.errors()), (1, 1));
    session.end(EndReason::Stopped);
}

#[test]
fn one_prompt_waits_and_more_are_refused() {
    let session = Running::begin();
    let first = session.prompt("wait");
    session.wait_event("agent_start");
    let (second, third) = (session.prompt("later"), session.prompt("too much"));
    assert_eq!(all(&third), [Heard::End(Err("queue_full".into()))]);
    let aborted = session.control(Control::Abort);
    assert_eq!(all(&first), [Heard::End(Err("aborted".into()))]);
    assert!(aborted.recv_timeout(DEADLINE).expect("an answer").is_ok());
    assert_eq!(all(&second), [Heard::Text("later".into()), Heard::End(Ok(()))]);
    session.end(EndReason::Stopped);
}

#[test]
fn a_session_that_ends_tells_everybody() {
    let session = Running::begin();
    let running = session.prompt("wait");
    session.wait_event("agent_start");
    let waiting = session.prompt("later");
    let inspected = session.control(Control::Inspect).recv_timeout(DEADLINE).expect("an answer");
    let document = inspected.expect("a document").into_document();
    assert_eq!((&document["state"], &document["sessionId"]), (&json!("running"), &json!("s")));
    session.end(EndReason::ShutDown);
    for heard in [running, waiting] {
        assert_eq!(all(&heard), [Heard::End(Err("shutting_down".into()))]);
    }
}

#[test]
fn steering_reaches_the_model_with_the_prompt_that_follows_an_abort() {
    let session = Running::begin();
    let first = session.prompt("wait");
    session.wait_event("agent_start");
    let input = Input {
        text: "left".into(),
        expand: false,
        images: Vec::new(),
        deliver: Deliver::Steer,
        from: None,
        sender: None,
        trace: None,
        source: "rpc",
        reply: None,
    };
    let steered = session.control(Control::Prompt(input)).recv_timeout(DEADLINE).expect("an answer");
    assert_eq!(steered.expect("it is taken").into_document()["deliveredAs"], "steer");
    session.control(Control::Abort);
    assert_eq!(all(&first), [Heard::End(Err("aborted".into()))]);
    // The words that were left behind are the last that the model sees, so that it repeats those.
    assert_eq!(all(&session.prompt("go on")), [Heard::Text("left".into()), Heard::End(Ok(()))]);
    session.end(EndReason::Stopped);
}
