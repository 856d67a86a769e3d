//! What daemon and runner say to each other: JSON with its length, four bytes in little-endian order, in front.

use super::policy::{Level, Sandbox};
use crate::quota::Kind;
use crate::tools::tool::{ToolContext, ToolOutput};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Most bytes of one frame (64 MiB): a picture of 16 MiB in base64 and a text fit in.
const MAX_FRAME: u32 = 64 * 1024 * 1024;

/// What the daemon says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Order {
    /// The first one: what the runner may do.
    Setup(Box<Setup>),
    Call {
        id: u64,
        tool: String,
        arguments: Map<String, Value>,
        context: Box<CallContext>,
    },
    Cancel {
        id: u64,
    },
    /// The answer to [`Answer::Keep`]: how much may be kept, and why not all.
    Room {
        id: u64,
        bytes: u64,
        why: String,
    },
}

/// What a runner may do, and where.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    pub sandbox: Sandbox,
    /// Without links.
    pub cwd: PathBuf,
    /// The session's own folder, which tools may write to.
    pub private: PathBuf,
    /// The files that come with prompts, which tools may read.
    pub attachments: Option<PathBuf>,
    /// It and its programs are to see and signal nobody else, as Landlock does not see to that here.
    pub own_processes: bool,
}

/// What the runner says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// It is confined, this far.
    Ready {
        level: Level,
        /// It has a network of its own, with nothing but a loopback device.
        loopback: bool,
        /// Folders of which not all could be allowed.
        cut: Vec<PathBuf>,
    },
    /// It is not, and ends.
    Failed {
        why: String,
    },
    /// It wants to keep so much on the session's account.
    Keep {
        id: u64,
        kind: Kind,
        bytes: u64,
    },
    Begun {
        id: u64,
    },
    Update {
        id: u64,
        output: ToolOutput,
    },
    Done {
        id: u64,
        output: ToolOutput,
    },
}

/// The part of a call's context that is no channel.
#[derive(Serialize, Deserialize)]
pub(super) struct CallContext {
    pub cwd: PathBuf,
    pub environment: Vec<(String, String)>,
    pub spill_dir: PathBuf,
    pub images: bool,
    pub resize_images: bool,
    pub shell: Option<PathBuf>,
    pub command_prefix: Option<String>,
    pub default_timeout: Option<Duration>,
}

impl CallContext {
    pub(super) fn of(context: &ToolContext<'_>) -> CallContext {
        CallContext {
            cwd: context.cwd.to_owned(),
            environment: context.environment.to_owned(),
            spill_dir: context.spill_dir.to_owned(),
            images: context.images,
            resize_images: context.resize_images,
            shell: context.shell.map(ToOwned::to_owned),
            command_prefix: context.command_prefix.map(ToOwned::to_owned),
            default_timeout: context.default_timeout,
        }
    }
}

/// Bytes that are made room for before they come.
const FRAME_ROOM: usize = 64 * 1024;

/// # Errors
/// What the system says, and of kind `InvalidData` for what does not fit into a frame.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "too large for a frame"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
}

/// The next message; `None` = there is none any more.
///
/// # Errors
/// What the system says, and of kind `InvalidData` for what is no such frame.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too large"));
    }
    // Room for all of most frames at once, and never for much that does not come.
    let mut frame = Vec::with_capacity((length as usize).min(FRAME_ROOM));
    from.take(u64::from(length)).read_to_end(&mut frame)?;
    if frame.len() < length as usize {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&frame)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Answer::Begun { id: 7 }).expect("it fits");
        write(&mut bytes, &Answer::Done { id: 7, output: ToolOutput::text("a\nb") }).expect("it fits");
        let mut rest = &bytes[..];
        assert!(matches!(read(&mut rest), Ok(Some(Answer::Begun { id: 7 }))));
        let done = read(&mut rest).expect("it is whole");
        assert!(matches!(done, Some(Answer::Done { id: 7, output }) if output == ToolOutput::text("a\nb")));
        assert!(read::<Answer>(&mut rest).expect("nothing is wrong").is_none());
        for cut in 1..bytes.len() {
            let mut rest = &bytes[..cut];
            while let Some(Answer::Begun { .. } | Answer::Done { .. }) = read(&mut rest).expect("nothing is wrong") {}
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert!(read::<Answer>(&mut &[0xff; 64][..]).is_err());
        assert!(read::<Answer>(&mut &b"\x02\0\0\0{}"[..]).is_err());
    }
}
