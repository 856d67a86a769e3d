//! Reading an answer: events go to the decoder of the model's API one by one. What is not its business is settled here,
//! alike for all APIs: errors in place of an answer, events that are none, answers without end, lost connections.

use super::answer::Answer;
use super::error_body::quoted;
use super::protocol::{DONE, Decoder, Progress};
use super::request::RequestError;
use super::sse::{Event, Events};
use super::stated_error::{is_error_alone, provider_error, unusable};
use crate::cancel::Cancel;
use crate::json::tolerant;
use crate::transcript::StopReason;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::io::{self, ErrorKind, Read};

/// Where an answer is read from.
pub trait Source: Read {
    /// The answer is whole as far as anybody knows: what may still follow it is not waited for as long as an answer is.
    fn expect_end(&self) {}
}

impl Source for &[u8] {}

/// Feeds a stream's events to the decoder: how the answer ended, and `Done` if nothing follows that matters, so that the
/// connection is of use for another request.
///
/// # Errors
/// The decoder's, that of a connection that was lost before the answer's end, and that of a cancelled request.
pub fn read<R: Source>(
    events: &mut Events<R>,
    decoder: &mut dyn Decoder,
    answer: &mut Answer<'_>,
    cancel: &Cancel,
) -> Result<(StopReason, Progress), RequestError> {
    let mut reading = Reading { decoder, words: Vec::new(), first: Vec::new(), count: 0 };
    loop {
        let mut came = false;
        while let Some(event) = events.next_event() {
            came = true;
            let progress = reading.event(event, answer)?;
            if answer.is_full() {
                // Only the decoder knows what it left open.
                reading.decoder.cut(answer);
                return Ok((StopReason::Length, Progress::More));
            }
            if progress == Progress::Done {
                return Ok((reading.end(events, answer)?, Progress::Done));
            }
        }
        answer.drained();
        if came && reading.decoder.is_finished() {
            events.reader().expect_end();
        }
        match events.fill() {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) if cancel.is_cancelled() => return Err(RequestError::aborted()),
            Err(e) => {
                reading.rest(events, answer)?;
                // Some servers just hang up after the last event, or never do.
                return match reading.decoder.is_finished() {
                    true => Ok((reading.end(events, answer)?, Progress::More)),
                    false => Err(lost(&e)),
                };
            }
        }
    }
    if cancel.is_cancelled() {
        return Err(RequestError::aborted());
    }
    reading.rest(events, answer)?;
    Ok((reading.end(events, answer)?, Progress::Done))
}

/// The answer as far as it was read.
struct Reading<'a> {
    decoder: &'a mut dyn Decoder,
    /// The beginning of the data that was no JSON at all.
    words: Vec<u8>,
    /// The beginning of the first event's data.
    first: Vec<u8>,
    /// How many events there were; what says that it was the last one is none.
    count: u64,
}

/// How much is kept of data that may be needed to explain a failure, in bytes: more than an error message quotes.
const MAX_KEPT: usize = 16 << 10;

impl Reading<'_> {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        let mut data = event.data;
        // Nearly all data is an object, which needs no more looking at.
        if data.first() != Some(&b'{') {
            data = data.trim_ascii_start();
            // Gateways that pass on what was an event already name its field twice.
            while let Some(rest) = data.strip_prefix(b"data:") {
                data = rest.trim_ascii_start();
            }
            if is_done(data) {
                return self.decoder.event(Event { name: b"", data: DONE }, answer);
            }
        }
        if self.count == 0 {
            self.first.extend(data.iter().take(MAX_KEPT));
        }
        self.count += 1;
        match data.first() {
            _ if event.name == b"error" => Err(provider_error(&String::from_utf8_lossy(data))),
            Some(b'{') if memchr::memchr(b'\n', data).is_some() && !is_json(data) => match self.lines(data, answer)? {
                (progress, None) => Ok(progress),
                (_, Some(failed)) => Err(failed),
            },
            Some(b'{') => self.decoder.event(Event { data, ..event }, answer),
            Some(b'[') => self.list(data, answer),
            _ => {
                // Numbers and nulls say nothing; words do, if no answer comes.
                if !is_json(data) {
                    let room = MAX_KEPT.saturating_sub(self.words.len());
                    self.words.extend(data.iter().chain(b"\n").take(room));
                }
                Ok(Progress::More)
            }
        }
    }

    /// Takes in lines that are not one event together, but events of their own: servers exist that put no empty line between
    /// them, and those that break off inside an event and write why behind it. With the complaint about what is no JSON.
    fn lines(
        &mut self,
        data: &[u8],
        answer: &mut Answer<'_>,
    ) -> Result<(Progress, Option<RequestError>), RequestError> {
        let mut cut = None;
        for line in data.split(|byte| *byte == b'\n') {
            let data = if is_done(line) { DONE } else { line.trim_ascii() };
            if data != DONE && (!data.starts_with(b"{") || !is_json(data)) {
                cut = cut.or_else(|| serde_json::from_slice::<IgnoredAny>(data).err());
            } else if self.decoder.event(Event { name: b"", data }, answer)? == Progress::Done {
                return Ok((Progress::Done, None));
            }
        }
        Ok((Progress::More, cut.map(|error| unusable(&error))))
    }

    fn list(&mut self, data: &[u8], answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        let mut repaired = String::new();
        let list: Vec<&RawValue> = tolerant::parse(data, &mut repaired).map_err(|e| unusable(&e))?;
        for raw in list.into_iter().map(|raw| raw.get().as_bytes()).filter(|raw| raw.starts_with(b"{")) {
            if self.decoder.event(Event { name: b"", data: raw }, answer)? == Progress::Done {
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::More)
    }

    /// Takes in the event that the end of the stream left without its end. One that was cut is none: that the answer's end is
    /// missing is for the decoder to say.
    fn rest<R: Source>(&mut self, events: &mut Events<R>, answer: &mut Answer<'_>) -> Result<(), RequestError> {
        let Some(event) = events.rest() else { return Ok(()) };
        if event.name != b"error" && event.data.trim_ascii_start().starts_with(b"{") && !is_json(event.data) {
            return self.lines(event.data, answer).map(drop);
        }
        self.event(event, answer).map(drop)
    }

    /// How the answer ended. Where it did not, the error has what the server said instead.
    fn end<R: Source>(&mut self, events: &Events<R>, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        let result = self.decoder.end(answer);
        let stray = events.stray().trim_ascii();
        if answer.is_untouched() {
            let first = String::from_utf8_lossy(&self.first);
            if self.count == 1 && (result.is_err() && events.has_objects() || is_error_alone(&first)) {
                return Err(provider_error(&first));
            }
            if !stray.is_empty() {
                return Err(RequestError::new(format!("The server sent no event stream: {}", quoted(stray))));
            }
        }
        result.map_err(|failed| match [self.words.trim_ascii(), stray].concat() {
            words if words.is_empty() => failed,
            words => RequestError { text: format!("{}: {}", failed.text, quoted(&words)), ..failed },
        })
    }
}

/// Whether the data says that it is the last; some servers write that as JSON.
fn is_done(data: &[u8]) -> bool {
    let data = data.trim_ascii_end();
    data == DONE || data.strip_prefix(b"\"").and_then(|data| data.strip_suffix(b"\"")) == Some(DONE)
}

fn is_json(data: &[u8]) -> bool {
    tolerant::parse::<IgnoredAny>(data, &mut String::new()).is_ok()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds of io::Error are a lost connection")]
fn lost(error: &io::Error) -> RequestError {
    RequestError::lost(match error.kind() {
        ErrorKind::TimedOut => format!("Request timed out: {error}"),
        ErrorKind::InvalidData => format!("Unusable response: {error}"),
        _ => format!("Connection lost: {error}"),
    })
}

#[cfg(test)]
mod tests;
