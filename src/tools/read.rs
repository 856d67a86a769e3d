//! The `read` tool: text files in pieces, images as images.

use super::grep::decode;
use super::paths;
use super::tool::{Tool, ToolContext, ToolOutput};
use super::truncate::{self, MAX_BYTES, MAX_LINES, TruncatedBy};
use crate::cancel::Cancel;
use crate::files::{describe, open_regular, size};
use crate::images::{self, Format, Omission, Prepared};
use crate::transcript::{Block, ToolSpec};
use serde_json::{Map, Value, json};
use std::fmt;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::LazyLock;

/// Past the part that is shown, the file is read for at most this many bytes (10 MiB) to tell how much more there is.
const MAX_COUNTED: u64 = 10 * 1024 * 1024;
/// Bytes per read; the most that is held of a file beside the part that is shown.
const CHUNK: usize = 64 * 1024;

pub(super) struct Read;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| ToolSpec {
    name: "read".into(),
    description: format!(
        "Read a file. Text is returned as it is, at most {MAX_LINES} lines or {} per call, whichever comes first; use \
         offset and limit to page through more. Images (PNG, JPEG, GIF, WebP) are returned as images.",
        size(MAX_BYTES as u64)
    ),
    parameters: json!({
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "File to read, absolute or relative to the working directory"},
            "offset": {"type": "number", "description": "First line to read, counted from 1"},
            "limit": {"type": "number", "description": "Most lines to read"},
        },
        "required": ["path"],
    })
    .into(),
});

impl Tool for Read {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Read file contents"
    }

    fn rules(&self) -> &'static [&'static str] {
        &["Examine files with read rather than with cat or sed"]
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let given = arguments.get("path").and_then(Value::as_str).unwrap_or_default();
        let path = paths::resolve(given, context.cwd, context.home());
        let number = |name: &str| arguments.get(name).and_then(Value::as_f64).map(|n| n.max(0.0) as u64);
        let range = Range { start: number("offset").unwrap_or(0).saturating_sub(1), limit: number("limit") };
        match read(&path, range, context) {
            Ok(output) => output,
            Err(Failure::Io(error)) => ToolOutput::error(format!("{}: {}", describe(&error), path.display())),
            Err(Failure::Aborted) => ToolOutput::aborted(),
        }
    }
}

enum Failure {
    Io(io::Error),
    Aborted,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// Which lines were asked for.
#[derive(Clone, Copy)]
struct Range {
    /// Lines before the first one.
    start: u64,
    limit: Option<u64>,
}

fn read(path: &Path, range: Range, context: &ToolContext<'_>) -> Result<ToolOutput, Failure> {
    let (mut file, metadata) = open_regular(path)?;
    let mut start = Vec::with_capacity(images::SNIFF_BYTES);
    (&mut file).take(images::SNIFF_BYTES as u64).read_to_end(&mut start)?;
    if let Some(format) = images::sniff(&start) {
        return read_image(format, start, file, metadata.len(), context);
    }
    let marked = start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]);
    let raw = start.as_slice().chain(file);
    let text: Box<dyn io::Read> = if marked { decode::text(raw)? } else { Box::new(raw) };
    let selection = select(text, range, context.cancel)?;
    Ok(present(&selection, range, path))
}

/// An image in the form in which models take it, else a text that says why it is left out.
fn read_image(
    format: Format,
    start: Vec<u8>,
    rest: impl io::Read,
    length: u64,
    context: &ToolContext<'_>,
) -> Result<ToolOutput, Failure> {
    let prepared = if length <= images::MAX_SOURCE {
        let mut data = start;
        rest.take(images::MAX_SOURCE).read_to_end(&mut data)?;
        // What makes a PNG an animation may stand further behind.
        let format = images::sniff(&data).unwrap_or(format);
        images::prepare(format, data, context.resize_images, context.cancel).ok_or(Failure::Aborted)?
    } else {
        Prepared::left_out(format, Omission::TooLarge)
    };
    let mut text = format!("Read image file [{}]", prepared.mime_type);
    for note in &prepared.notes {
        text.push('\n');
        text.push_str(note);
    }
    if prepared.data.is_some() && !context.images {
        text.push_str("\n[Current model does not support images. The image will be omitted from this request.]");
    }
    let image = prepared.data.map(|data| Block::image(data, prepared.mime_type));
    let content = std::iter::once(Block::text(text)).chain(image).collect();
    Ok(ToolOutput { content, details: None, is_error: false })
}

/// A count that stopped early when `exact` is false.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Count {
    at_least: u64,
    exact: bool,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.exact { "" } else { "more than " };
        write!(f, "{prefix}{}", self.at_least)
    }
}

/// What a pass over a file found of the lines that were asked for.
#[derive(Debug, Default)]
struct Selection {
    /// The selected lines, cut soon after what is ever shown.
    bytes: Vec<u8>,
    /// Newlines of the file, as far as it was read.
    newlines: u64,
    /// Bytes of the first selected line, as far as it was read.
    first_line: u64,
    /// Bytes of the selected lines, as far as they were read.
    selected: u64,
    /// The last byte that was read was a newline.
    ends_with_newline: bool,
    /// The file was read to its end.
    complete: bool,
}

impl Selection {
    /// Lines of the file; a trailing newline begins no line.
    fn lines(&self) -> Count {
        let open_line = self.complete && !self.ends_with_newline && self.newlines + self.selected > 0;
        Count { at_least: self.newlines + u64::from(open_line), exact: self.complete }
    }
}

/// Reads through a file once, holding no more than one chunk and the selected lines as far as they can be shown.
fn select(mut file: impl io::Read, range: Range, cancel: &Cancel) -> Result<Selection, Failure> {
    let end = range.limit.map(|limit| range.start.saturating_add(limit.max(1)));
    let mut found = Selection::default();
    let mut counted = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::Aborted);
        }
        let length = match file.read(&mut chunk) {
            Ok(0) => {
                found.complete = true;
                return Ok(found);
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let mut rest = &chunk[..length];
        found.ends_with_newline = rest.ends_with(b"\n");
        while !rest.is_empty() {
            if end.is_some_and(|end| found.newlines >= end) {
                counted += rest.len() as u64;
                found.newlines += memchr::memchr_iter(b'\n', rest).count() as u64;
                break;
            }
            let newline = memchr::memchr(b'\n', rest);
            let line_length = newline.unwrap_or(rest.len());
            if found.newlines >= range.start {
                // The newline of the very last selected line is not part of the selection.
                let with_newline = newline.is_some() && end.is_none_or(|end| found.newlines + 1 < end);
                let part = &rest[..line_length + usize::from(with_newline)];
                let room = (MAX_BYTES + 1 - found.bytes.len()).min(part.len());
                found.bytes.extend_from_slice(&part[..room]);
                found.selected += part.len() as u64;
                counted += (part.len() - room) as u64;
                if found.newlines == range.start {
                    found.first_line += line_length as u64;
                }
            }
            found.newlines += u64::from(newline.is_some());
            rest = &rest[newline.map_or(rest.len(), |at| at + 1)..];
        }
        if counted > MAX_COUNTED {
            return Ok(found);
        }
    }
}

/// The result for the model, with the notice that tells how to go on.
fn present(found: &Selection, range: Range, path: &Path) -> ToolOutput {
    if range.start > found.newlines {
        // Here a trailing newline counts as one more, empty line, which can be read.
        let (offset, total) = (range.start + 1, found.newlines + 1);
        return ToolOutput::error(format!("Offset {offset} is beyond end of file ({total} lines total)"));
    }
    let lines = found.lines();
    let first = range.start + 1;
    let text = String::from_utf8_lossy(&found.bytes);
    let mut cut = truncate::head(&text, Some(MAX_LINES));
    if !cut.truncated() {
        let end = range.limit.map(|limit| range.start.saturating_add(limit.max(1)));
        let text = match end {
            Some(end) if end < lines.at_least || !lines.exact => {
                let left = lines.at_least - end;
                let more_than = if lines.exact { "" } else { "More than " };
                format!("{text}\n\n[{more_than}{left} more lines in file. Use offset={} to continue.]", end + 1)
            }
            _ => text.into_owned(),
        };
        return ToolOutput::text(text);
    }
    // What was held of the selection is less than what there is; the numbers are those of the whole selection.
    let selected_lines = lines.at_least.saturating_sub(range.start).min(range.limit.unwrap_or(u64::MAX));
    cut.total_lines = usize::try_from(selected_lines).unwrap_or(usize::MAX);
    cut.total_bytes = usize::try_from(found.selected).unwrap_or(usize::MAX).max(cut.total_bytes);
    let text = if cut.first_line_exceeds_limit {
        let at_least = if found.first_line > MAX_COUNTED { "more than " } else { "" };
        format!(
            "[Line {first} is {at_least}{}, exceeds {} limit. Use bash: sed -n '{first}p' {} | head -c {MAX_BYTES}]",
            size(found.first_line.min(MAX_COUNTED)),
            size(MAX_BYTES as u64),
            quoted(path),
        )
    } else {
        let last = range.start + cut.output_lines as u64;
        let why = match cut.by {
            Some(TruncatedBy::Bytes) => format!(" ({} limit)", size(MAX_BYTES as u64)),
            _ => String::new(),
        };
        let next = last + 1;
        format!("{}\n\n[Showing lines {first}-{last} of {lines}{why}. Use offset={next} to continue.]", cut.content)
    };
    ToolOutput {
        content: vec![Block::text(text)],
        details: Some(json!({"truncation": cut.to_json()})),
        is_error: false,
    }
}

/// The path as a shell takes it; plain ones stay as they are.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests;
