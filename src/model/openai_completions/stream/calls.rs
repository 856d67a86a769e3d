//! The tool calls of an answer, put together from their pieces.
//!
//! A piece belongs to the call that has its id, or else its number, or else to the last one. That is not enough: servers
//! exist that number every call 0, that number nothing, that give no ids, the same one twice, or another one with each
//! piece. What decides then is whether the arguments that the call has so far are a whole object: nothing can follow one, so
//! that what begins another object begins another call.

use super::event::{CallDelta, extra};
use crate::model::answer::Answer;

/// What a call counts of the answer's limit beside its texts, in bytes. More than it takes, so that looking for the call of a
/// piece stays cheap.
const MIN_CALL: usize = 1 << 10;

#[derive(Default)]
pub(super) struct Calls {
    list: Vec<Call>,
}

/// A tool call in progress.
#[derive(Default)]
struct Call {
    /// The server's number for it.
    number: Option<u64>,
    /// The server's id for it; empty if it gave none.
    id: String,
    name: String,
    /// The name of the call behind whose arguments it began; it is its own if none comes.
    earlier_name: String,
    /// Arguments that the answer has not got: those from before the name or the id, and `{}`, which some gateways send before
    /// the real ones.
    waiting: String,
    json: Json,
    extra: Option<String>,
    /// The answer's block, once name and id are known.
    block: Option<usize>,
}

/// What a piece says.
#[derive(Clone, Copy, Default)]
struct Piece<'a> {
    number: Option<u64>,
    id: &'a str,
    name: &'a str,
    arguments: &'a str,
    /// The extra content that belongs to it.
    extra: Option<&'a str>,
}

/// Whose piece it is.
enum Owner {
    Call(usize),
    Another,
    /// The call has it already.
    Nobody,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes in a piece of a call.
    pub(super) fn piece(&mut self, delta: &CallDelta<'_>, answer: &mut Answer<'_>) {
        let piece = piece(delta);
        let at = match self.owner(&piece, answer) {
            Owner::Call(at) => at,
            Owner::Another => {
                let earlier_name = self.list.last().filter(|_| piece.opens_object()).map(|call| call.name.clone());
                let at = self.another(piece.number);
                self.list[at].earlier_name = earlier_name.unwrap_or_default();
                at
            }
            Owner::Nobody => return,
        };
        self.add(at, piece, answer);
    }

    /// Takes in a whole call, the `position`th of a message that repeats what came in pieces, or comes without any.
    pub(super) fn whole(&mut self, position: usize, delta: &CallDelta<'_>, answer: &mut Answer<'_>) {
        let mut piece = piece(delta);
        let by_id = self.list.iter().position(|call| !piece.id.is_empty() && call.id == piece.id);
        let known = by_id.or_else(|| {
            let fits = |call: &Call| {
                (piece.id.is_empty() || call.id.is_empty()) && (call.name.is_empty() || call.name == piece.name)
            };
            self.list.get(position).filter(|call| fits(call)).map(|_| position)
        });
        let Some(at) = known else {
            let at = self.another(piece.number);
            return self.add(at, piece, answer);
        };
        self.list[at].forget_empty_object();
        piece.arguments = piece.arguments.strip_prefix(self.list[at].text(answer)).unwrap_or("");
        self.add(at, piece, answer);
    }

    /// Keeps the extra content of a message with its first call, if that has none of its own.
    pub(super) fn sign_first(&mut self, extra: &str) {
        if let Some(first) = self.list.first_mut() {
            first.extra.get_or_insert_with(|| extra.to_string());
        }
    }

    /// No more pieces will come. What has neither a name nor arguments was no call.
    pub(super) fn finish(&mut self, answer: &mut Answer<'_>) {
        self.list.retain(|call| call.block.is_some() || !call.name.is_empty() || !call.waiting.is_empty());
        self.start_all(self.list.len(), answer);
        for call in &mut self.list {
            let Some(block) = call.block else { continue };
            answer.tool_arguments(block, &std::mem::take(&mut call.waiting));
            if let Some(extra) = call.extra.take() {
                answer.sign_tool_call(block, extra);
            }
        }
    }

    fn another(&mut self, number: Option<u64>) -> usize {
        self.list.push(Call { number, ..Call::default() });
        self.list.len() - 1
    }

    fn owner(&self, piece: &Piece<'_>, answer: &Answer<'_>) -> Owner {
        let Some(at) = self.nearest(piece) else { return Owner::Another };
        let call = &self.list[at];
        let same_id = !piece.id.is_empty() && call.id == piece.id;
        let other_id = !same_id && !piece.id.is_empty() && !call.id.is_empty();
        let other_number = matches!((call.number, piece.number), (Some(a), Some(b)) if a != b);
        let other_name = !piece.name.is_empty() && !call.name.is_empty() && piece.name != call.name;
        let is_new = if call.json.whole {
            if piece.opens_object() {
                let repeats = piece.arguments.trim() == call.text(answer).trim();
                if repeats && !other_number && (same_id || piece.name.is_empty()) {
                    return Owner::Nobody;
                }
                let replaces =
                    call.has_empty_object() && !other_number && (same_id || piece.name.is_empty() && !other_id);
                !replaces
            } else if piece.arguments.trim().is_empty() && !same_id {
                let named = !piece.name.is_empty() && !call.name.is_empty();
                let identified = !piece.id.is_empty() && !call.id.is_empty();
                named || identified
            } else {
                false
            }
        } else if same_id && !other_number {
            false
        } else if other_name {
            true
        } else if same_id {
            !(call.json.begun && call.json.goes_on_with(piece))
        } else if other_id && !call.json.begun {
            // Two calls that begin, or one under an id of its own in each piece.
            piece.number.is_none() || piece.arguments.is_empty() && !piece.name.is_empty()
        } else if other_id {
            !piece.name.is_empty() && piece.arguments.is_empty()
                || !piece.arguments.is_empty() && !call.json.goes_on_with(piece)
        } else {
            !piece.name.is_empty() && call.json.begun && piece.opens_object() && !call.json.goes_on_with(piece)
        };
        if is_new { Owner::Another } else { Owner::Call(at) }
    }

    /// The call that the piece belongs to, if it belongs to one of these.
    fn nearest(&self, piece: &Piece<'_>) -> Option<usize> {
        let same_id = |call: &Call| !piece.id.is_empty() && call.id == piece.id;
        let fits = |call: &Call| call.number.is_none() || piece.number.is_none() || call.number == piece.number;
        let list = &self.list;
        let by_id =
            list.iter().rposition(|call| same_id(call) && fits(call)).or_else(|| list.iter().rposition(same_id));
        if by_id.is_some() {
            return by_id;
        }
        let Some(number) = piece.number else { return list.len().checked_sub(1) };
        list.iter().rposition(|call| call.number == Some(number)).or_else(|| {
            // A number that comes late, or counts the pieces.
            let last = list.len().checked_sub(1)?;
            let call = &list[last];
            let unnumbered =
                call.number.is_none() && piece.name.is_empty() && (piece.id.is_empty() || call.id.is_empty());
            let nameless = piece.id.is_empty() && piece.name.is_empty();
            let goes_on = nameless && !call.json.whole && (!call.json.begun || call.json.goes_on_with(piece));
            (unnumbered || goes_on).then_some(last)
        })
    }

    fn add(&mut self, mut at: usize, piece: Piece<'_>, answer: &mut Answer<'_>) {
        let call = &mut self.list[at];
        // What is kept here counts like what is in the answer; a call that is new has neither id nor name nor arguments.
        if call.id.is_empty() && call.name.is_empty() && !call.json.begun {
            answer.count(MIN_CALL + piece.name.len());
        }
        if call.id.is_empty() {
            call.id = piece.id.to_string();
            answer.count(call.id.len());
        }
        if call.name.is_empty() {
            call.name = piece.name.to_string();
        }
        // A gateway to DeepSeek begins the second call under the first one's number, and goes on under its own.
        if piece.number.is_some() && (call.number.is_none() || !call.json.begun) {
            call.number = piece.number;
        }
        if let Some(extra) = piece.extra {
            answer.count(extra.len());
            call.extra = Some(extra.to_string());
        }
        if call.block.is_none() && !call.id.is_empty() && !call.name.is_empty() {
            self.start_all(at + 1, answer);
        }
        if piece.opens_object() && piece.arguments.trim() != "{}" {
            self.list[at].forget_empty_object();
        }
        let mut arguments = piece.arguments;
        // Some servers send all that there is so far with each piece, or at the end.
        let so_far = self.list[at].text(answer);
        if piece.opens_object() && !so_far.is_empty() {
            arguments = arguments.strip_prefix(so_far).unwrap_or(arguments);
        }
        // Some servers put all calls into the arguments of one.
        while let Some((first, rest)) = self.list[at].json.take(arguments) {
            self.list[at].write(first, answer);
            if rest.trim() == self.list[at].text(answer).trim() {
                return;
            }
            if !self.list[at].forget_empty_object() {
                let name = self.list[at].name.clone();
                at = self.another(piece.number);
                self.list[at].name = name;
            }
            arguments = rest;
        }
        self.list[at].write(arguments, answer);
    }

    /// Starts the blocks of the first calls, in their order. The answer gives an id to those that have none.
    fn start_all(&mut self, count: usize, answer: &mut Answer<'_>) {
        for call in self.list.iter_mut().take(count) {
            if call.block.is_some() {
                continue;
            }
            let name = if call.name.is_empty() { &call.earlier_name } else { &call.name };
            let block = answer.start_tool_call(&call.id, name);
            call.block = Some(block);
            if !call.has_empty_object() {
                answer.tool_arguments(block, &std::mem::take(&mut call.waiting));
            }
        }
    }
}

fn piece<'a>(delta: &'a CallDelta<'_>) -> Piece<'a> {
    let function = delta.function.0.as_ref();
    Piece {
        number: delta.index.0,
        id: match delta.id.as_str() {
            "" => function.map_or("", |function| function.id.as_str()),
            id => id,
        },
        name: function.map_or("", |function| function.name.as_str()),
        arguments: function.and_then(|function| function.arguments.0.as_deref()).unwrap_or(""),
        extra: extra(delta.extra_content),
    }
}

impl Piece<'_> {
    fn opens_object(&self) -> bool {
        self.arguments.trim_start().starts_with('{')
    }
}

impl Call {
    /// The arguments so far.
    fn text<'a>(&'a self, answer: &'a Answer<'_>) -> &'a str {
        match self.block {
            Some(block) if self.waiting.is_empty() => answer.tool_arguments_so_far(block),
            _ => &self.waiting,
        }
    }

    /// Its arguments are an object with nothing in it, which the answer has not got.
    fn has_empty_object(&self) -> bool {
        self.json.whole && self.waiting.trim() == "{}"
    }

    /// Forgets such arguments; false if it has none.
    fn forget_empty_object(&mut self) -> bool {
        let forgets = self.has_empty_object();
        if forgets {
            self.waiting.clear();
            self.json = Json::default();
        }
        forgets
    }

    fn write(&mut self, arguments: &str, answer: &mut Answer<'_>) {
        match self.block {
            Some(block) if arguments.trim() == "{}" && answer.tool_arguments_so_far(block).is_empty() => {
                self.waiting.push_str(arguments);
            }
            Some(block) => {
                if !arguments.is_empty() && !self.waiting.is_empty() {
                    answer.tool_arguments(block, &std::mem::take(&mut self.waiting));
                }
                answer.tool_arguments(block, arguments);
            }
            None => {
                answer.count(arguments.len());
                self.waiting.push_str(arguments);
            }
        }
    }
}

/// How far the JSON text of a call's arguments has come.
#[derive(Default)]
struct Json {
    /// There is something but blanks.
    begun: bool,
    /// The value has ended.
    whole: bool,
    /// How many objects and lists are open.
    depth: usize,
    in_string: bool,
    /// A backslash went before.
    escaped: bool,
    /// The last byte that is no blank.
    last: u8,
}

impl Json {
    /// Takes in a piece. If the value ends in it and another object follows: the piece up to there, and the rest, of which
    /// nothing is taken in.
    fn take<'a>(&mut self, piece: &'a str) -> Option<(&'a str, &'a str)> {
        if self.whole {
            return None;
        }
        for (at, byte) in piece.bytes().enumerate() {
            if byte.is_ascii_whitespace() && !self.in_string {
                continue;
            }
            self.begun = true;
            self.last = byte;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth == 0 && matches!(byte, b'}' | b']') && !self.in_string {
                self.whole = true;
                let (first, rest) = piece.split_at(at + 1);
                return rest.trim_start().starts_with('{').then_some((first, rest));
            }
        }
        None
    }

    /// Whether the piece's arguments can stand behind what is there. In a string, what begins an object with a name in it
    /// cannot: the quotation mark would have ended the string.
    fn goes_on_with(&self, piece: &Piece<'_>) -> bool {
        let begins_with_name = || {
            let name = piece.arguments.trim_start().strip_prefix("{\"");
            name.is_some_and(|name| name.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        !piece.arguments.is_empty()
            && match self.in_string {
                true => !begins_with_name(),
                false => !piece.opens_object() || matches!(self.last, b':' | b'[' | b','),
            }
    }
}
