//! A place to run tools in.

use super::tool::{Tool, ToolContext, ToolOutput};
use super::validate::check;
use crate::cancel::Cancel;
use crate::quota::HostQuota;
use crate::transcript::Block;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// A fresh working directory and all else that a tool call needs.
pub(super) struct Bench {
    _dir: tempfile::TempDir,
    pub cwd: PathBuf,
    pub spill_dir: PathBuf,
    pub cancel: Cancel,
    pub environment: Vec<(String, String)>,
    pub images: bool,
    pub default_timeout: Option<Duration>,
    pub shell: Option<PathBuf>,
    pub command_prefix: Option<String>,
    pub updates: Mutex<Vec<ToolOutput>>,
    /// What was asked of people, and what comes of it.
    pub asked: Mutex<Vec<Value>>,
    pub answer: Result<Value, String>,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it exists");
        let cwd = root.join("cwd");
        std::fs::create_dir(&cwd).expect("it is created");
        let path = std::env::var("PATH").expect("tests have a PATH");
        Bench {
            _dir: dir,
            spill_dir: root.join("spill/session"),
            environment: vec![
                ("PATH".into(), path),
                ("HOME".into(), cwd.to_str().expect("a plain path").into()),
                ("BENCH".into(), "1".into()),
            ],
            cwd,
            cancel: Cancel::new(),
            images: true,
            shell: None,
            command_prefix: None,
            default_timeout: Some(Duration::from_secs(60)),
            updates: Mutex::default(),
            asked: Mutex::default(),
            answer: Err("nobody is there".into()),
        }
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.cwd.join(name)
    }

    /// Writes a file below the working directory, with its folders.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("it is created");
        std::fs::write(path, content).expect("it is written");
    }

    pub(super) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("it is read")
    }

    pub(super) fn fifo(&self, name: &str) {
        rustix::fs::mkfifoat(rustix::fs::CWD, self.path(name), rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
    }

    /// Prepares, checks and runs a call, as the agent loop does it.
    pub(super) fn run(&self, tool: &dyn Tool, arguments: Value) -> ToolOutput {
        let Value::Object(arguments) = arguments else { panic!("an object is needed") };
        let arguments = match check(tool.spec(), tool.prepare(arguments)) {
            Ok(arguments) => arguments,
            Err(text) => return ToolOutput::error(text),
        };
        let context = ToolContext {
            cwd: &self.cwd,
            cancel: &self.cancel,
            environment: &self.environment,
            spill_dir: &self.spill_dir,
            quota: &HostQuota::new(0, 0).session(),
            images: self.images,
            resize_images: true,
            shell: self.shell.as_deref(),
            command_prefix: self.command_prefix.as_deref(),
            default_timeout: self.default_timeout,
            on_update: &|update| self.updates.lock().expect("no panic").push(update),
            ask: &|request| {
                self.asked.lock().expect("no panic").push(request);
                self.answer.clone()
            },
        };
        tool.run(&arguments, &context)
    }
}

/// The text of the first block.
pub(super) fn text(output: &ToolOutput) -> &str {
    match output.content.first() {
        Some(Block::Text { text, .. }) => text,
        other => panic!("a text block is needed, not {other:?}"),
    }
}
