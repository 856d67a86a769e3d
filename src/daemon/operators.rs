//! What operators and their programs look at: figures, and whether the daemon lives and can work.
//!
//! Over HTTP (`metricsListen`) another thread answers. It asks the main thread, whose answer is the sign of life, and has
//! looked after by others what may take long, such as disks.

use super::{Daemon, Phase};
use crate::config::Config;
use crate::files;
use crate::http_server::{HttpServer, Response};
use crate::metrics::{Kind, METRICS, Page};
use crate::model::Services;
use crate::service::services::budgets;
use crate::threads;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the main thread, and the disk, may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests over HTTP that may wait for the main thread. There is one at a time, and those that were given up.
const WAITING: usize = 4;
/// Below this a disk counts as full, bytes: a few of the largest files that a session writes at a time.
const LITTLE_ROOM: u64 = 64 << 20;
/// The type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the HTTP thread asks the main thread.
pub(super) struct Asked(Sender<State>);

/// What the main thread knows.
struct State {
    page: Page,
    /// Why it can take no work.
    problems: Vec<String>,
    default_model: Option<String>,
}

pub(super) struct Operators {
    pub requests: Receiver<Asked>,
    sender: Sender<Asked>,
    server: Option<HttpServer>,
}

impl Operators {
    pub(super) fn new() -> Operators {
        let (sender, requests) = bounded(WAITING);
        Operators { requests, sender, server: None }
    }

    /// Listens, unless it does already or nobody wants it.
    ///
    /// # Errors
    /// Nothing can listen there.
    pub(super) fn listen(&mut self, config: &Config, services: &Arc<Services>) -> Result<(), String> {
        let Some(address) = config.metrics_listen.filter(|_| self.server.is_none()) else { return Ok(()) };
        let sessions = config.session_dir.clone().unwrap_or_else(|| config.agent_dir.join("sessions"));
        let folders =
            if config.persist { vec![config.state_dir.clone(), sessions] } else { vec![config.state_dir.clone()] };
        let mut ready = Readiness { services: services.clone(), folders, looks: None };
        let main = self.sender.clone();
        let ask = move || {
            let (answer, answered) = bounded(1);
            main.try_send(Asked(answer)).ok().and_then(|()| answered.recv_timeout(PATIENCE).ok())
        };
        let answer = move |path: &str| {
            if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
                return None;
            }
            let Some(state) = ask() else {
                return Some(Response::text(503, "the main thread does not answer\n"));
            };
            Some(match path {
                "/metrics" => {
                    let mut page = state.page;
                    METRICS.write(&mut page);
                    page.process();
                    Response { content_type: PROMETHEUS, ..Response::text(200, page.text()) }
                }
                "/readyz" => ready.answer(state),
                _ => Response::text(200, "ok\n"),
            })
        };
        let server = HttpServer::start(address, Box::new(answer))
            .map_err(|e| format!("metricsListen: cannot listen on {address}: {e}"))?;
        log::info!("metrics are served on http://{}/metrics", server.address);
        self.server = Some(server);
        Ok(())
    }
}

/// Whether the daemon can work, as far as the main thread does not know it.
struct Readiness {
    services: Arc<Services>,
    folders: Vec<PathBuf>,
    /// A look that has not come back yet.
    looks: Option<Receiver<Vec<String>>>,
}

impl Readiness {
    fn answer(&mut self, state: State) -> Response {
        let mut problems = state.problems;
        problems.extend(self.look(state.default_model));
        match problems.is_empty() {
            true => Response::text(200, "ready\n"),
            false => Response::text(503, problems.join("\n") + "\n"),
        }
    }

    /// Looks at disks and keys on a thread that may hang. As long as it does, there is no other one.
    fn look(&mut self, default_model: Option<String>) -> Vec<String> {
        let looks = self.looks.take().or_else(|| {
            let (services, folders) = (self.services.clone(), self.folders.clone());
            let (found, looks) = bounded(1);
            let look = move || drop(found.send(problems(&services, &folders, default_model.as_deref())));
            // The thread is one of the pool, which nobody waits for.
            threads::run("ready", look).ok().map(threads::Thread::abandon).map(|()| looks)
        });
        let Some(looks) = looks else { return vec!["no thread can be started".into()] };
        looks.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.looks = Some(looks);
            vec!["the disk does not answer".into()]
        })
    }
}

fn problems(services: &Services, folders: &[PathBuf], default_model: Option<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    for folder in folders {
        match files::room(folder) {
            Ok(room) if room >= LITTLE_ROOM => {}
            Ok(room) => problems.push(format!("disk: {} has {} MiB left", folder.display(), room >> 20)),
            Err(e) => problems.push(format!("disk: {}: {e}", folder.display())),
        }
    }
    let model = match default_model {
        Some(spec) => services.resolve(spec).map(|(model, _)| model).map_err(|e| e.to_string()),
        None => services.default_model().ok_or_else(|| "no provider has a key".to_string()),
    };
    let usable = model.and_then(|model| services.check_credentials(&model).map_err(|e| e.to_string()));
    problems.extend(usable.err().map(|why| format!("model: {why}")));
    problems
}

impl Daemon {
    /// Listens where the process that this one has replaced did until now.
    pub(super) fn listen_for_operators(&mut self) {
        if let Err(why) = self.operators.listen(&self.config, &self.services) {
            log::debug!("{why}");
        }
    }

    pub(super) fn tell_operator(&self, asked: &Asked) {
        let mut page = Page::default();
        self.figures(&mut page);
        let state = State { page, problems: self.unready(), default_model: self.config.default_model.clone() };
        // Who has given up needs no answer.
        let _ = asked.0.try_send(state);
    }

    /// Why no work can be taken, as far as the main thread knows.
    fn unready(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !matches!(self.phase, Phase::Serving) {
            problems.push("the daemon is shutting down".to_string());
        } else if self.slots.is_paused() {
            problems.push("the daemon is draining".to_string());
        }
        if !self.connection.is_connected() {
            problems.push("NATS: not connected".to_string());
        }
        problems
    }

    /// All figures, for those who ask the main thread itself: `{metrics, text}`.
    pub(super) fn metrics(&self) -> Value {
        let mut page = Page::default();
        self.figures(&mut page);
        METRICS.write(&mut page);
        page.process();
        json!({"metrics": page.document(), "text": page.text()})
    }

    /// What the intake's statistics say beside the usual.
    pub(super) fn statistics(&self) -> Map<String, Value> {
        let mut data = budgets(self.day_figures());
        data.insert("metrics".into(), self.metrics()["metrics"].take());
        data
    }

    /// The figures of what the main thread owns.
    fn figures(&self, page: &mut Page) {
        let name = "pi_exec_info";
        let (sandbox, version) = (&self.config.sandbox, env!("CARGO_PKG_VERSION"));
        page.family(name, Kind::Gauge, "The version, and what tools are confined to on this machine.");
        let labels = [("version", version), ("owner", &self.config.owner), ("sandbox", sandbox.profile.as_str())];
        let required = sandbox.required.map_or("none", |level| level.as_str());
        let level = [("sandbox_level", sandbox.level.as_str()), ("sandbox_required", required)];
        page.sample(name, &[&labels[..], &level[..]].concat(), 1.0);
        let mut sessions = [[0_u64; 3]; 2];
        let mut queued = 0;
        for entry in self.sessions.values() {
            let waits = entry.stats.queued();
            queued += waits;
            let state = if entry.stats.running() { 0 } else { 1 + usize::from(waits == 0) };
            sessions[usize::from(!entry.identity.named)][state] += 1;
        }
        let name = "pi_exec_sessions";
        page.family(name, Kind::Gauge, "Sessions and runs by what they do: waiting is for their turn (maxRunning).");
        for (kind, states) in ["session", "run"].into_iter().zip(sessions) {
            for (state, number) in ["running", "waiting", "idle"].into_iter().zip(states) {
                page.sample(name, &[("kind", kind), ("state", state)], number as f64);
            }
        }
        let limit = self.config.max_sessions as f64;
        page.gauge("pi_exec_sessions_limit", "Sessions and runs that there may be (maxSessions).", limit);
        page.gauge("pi_exec_prompts_queued", "Prompts that wait.", queued as f64);
        page.gauge("pi_exec_prompts_running", "Prompts that are worked on.", self.slots.used() as f64);
        let limit = self.slots.limit() as f64;
        page.gauge(
            "pi_exec_prompts_running_limit",
            "Prompts that may be worked on (maxRunning), 0 is no limit.",
            limit,
        );
        page.gauge("pi_exec_draining", "1 while nothing new begins.", f64::from(u8::from(self.slots.is_paused())));
        let connected = f64::from(u8::from(self.connection.is_connected()));
        page.gauge("pi_exec_nats_connected", "1 while there is a connection to a NATS server.", connected);
        let name = "pi_exec_nats_connections_total";
        page.family(name, Kind::Counter, "Connections to a NATS server that were made.");
        page.sample(name, &[], self.connection.generation() as f64);
        if let Some(figures) = self.day_figures() {
            let name = "pi_exec_budget_day";
            page.family(name, Kind::Gauge, "What the owner's sessions have used today, and what they may.");
            for (unit, figure) in figures["day"].as_object().into_iter().flatten() {
                for what in ["used", "allowed"] {
                    let value = figure[what].as_f64().unwrap_or_default();
                    page.sample(name, &[("unit", unit), ("what", what)], value);
                }
            }
        }
        page.gauge("process_start_time_seconds", "Unix time.", self.intake.started_ms as f64 / 1000.0);
    }
}
