//! The items of an answer: which of them an event means.
//!
//! Events name their item by its id and by its number in the output. Servers leave out either, number all items 0, give an
//! item another id with each event, or give two items the same one. So ids go before numbers, and what contradicts both is
//! another item: arguments of one call must not reach another.

use super::event::{Kind, OutputItem};

/// An item that has begun.
#[derive(Debug)]
pub(super) struct Item {
    pub kind: Kind,
    /// The answer's block.
    pub index: usize,
    /// The item's number in the output.
    pub number: Option<u64>,
    /// Empty if the server gave none.
    pub id: String,
    pub call_id: String,
    pub phase: Option<String>,
    /// Arguments that stood in the beginning, for calls of which nothing else comes.
    pub initial: String,
    /// A part of the thoughts has ended: what follows is another paragraph.
    pub paragraph: bool,
    pub ended: bool,
    /// The item began with a piece of it, without having been announced.
    pub unannounced: bool,
    /// The whole response at the end has the item.
    pub in_response: bool,
}

#[derive(Default)]
pub(super) struct Items(pub Vec<Item>);

/// When an item is looked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Moment {
    Beginning,
    End,
}

impl Items {
    /// The open item that a piece belongs to.
    pub(super) fn of_piece(&self, kind: Kind, number: Option<u64>, id: &str) -> Option<usize> {
        let find = |fits: &dyn Fn(&Item) -> bool| {
            self.0.iter().rposition(|item| !item.ended && item.kind == kind && fits(item))
        };
        let by_id = |item: &Item| !id.is_empty() && (item.id == id || item.call_id == id);
        let by_number = |item: &Item| number.is_some() && item.number == number;
        let found = find(&|item| by_id(item) && by_number(item)).or_else(|| find(&by_id)).or_else(|| find(&by_number));
        if found.is_some() || kind != Kind::Tool {
            return found.or_else(|| find(&|_| true));
        }
        // What says nothing of its item belongs to the only one there is.
        let contradicts = |item: &Item| {
            let other_id = !id.is_empty() && (!item.id.is_empty() || !item.call_id.is_empty());
            other_id || number.is_some() && item.number.is_some()
        };
        let only = find(&|_| true)?;
        let open = self.0.iter().filter(|item| !item.ended && item.kind == kind).count();
        (open == 1 && !contradicts(&self.0[only])).then_some(only)
    }

    /// Whether a piece belongs to an item that has ended.
    pub(super) fn has_ended(&self, kind: Kind, id: &str) -> bool {
        !id.is_empty() && self.0.iter().any(|item| item.ended && item.kind == kind && item.id == id)
    }

    /// The item that is this one, whether it is open or has ended.
    pub(super) fn find(&self, at: Moment, kind: Kind, number: Option<u64>, item: &OutputItem<'_>) -> Option<usize> {
        let (id, call) = (item.id.as_str(), item.call_id.as_str());
        let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        let find = |ended: bool, fits: &dyn Fn(&Item) -> bool| {
            self.0.iter().rposition(|known| {
                known.kind == kind
                    && known.ended == ended
                    && !known.in_response
                    && !differ(&known.call_id, call)
                    && fits(known)
            })
        };
        let same_number = |known: &Item| number.is_some() && known.number == number;
        let by_id = |known: &Item| same(&known.id, id);
        let by_call = |known: &Item| same(&known.call_id, call) && !differ(&known.id, id);
        let by_number = |known: &Item| {
            same_number(known)
                && match (at, kind) {
                    (Moment::End, Kind::Text | Kind::Thinking) => true,
                    (Moment::End, Kind::Tool) => same(&known.call_id, call) || !differ(&known.id, id),
                    (Moment::Beginning, _) => known.unannounced && !differ(&known.id, id),
                }
        };
        let by_kind = |known: &Item| {
            (number.is_none() || known.number.is_none())
                && (id.is_empty() || known.id.is_empty())
                && match (at, kind) {
                    (Moment::End, Kind::Text | Kind::Thinking) => true,
                    (Moment::End, Kind::Tool) => call.is_empty() || known.call_id.is_empty(),
                    (Moment::Beginning, _) => known.unannounced,
                }
        };
        find(false, &|known| by_id(known) && same_number(known))
            .or_else(|| find(false, &by_id))
            .or_else(|| find(false, &by_call))
            .or_else(|| find(false, &by_number))
            .or_else(|| find(false, &by_kind))
            .or_else(|| find(true, &|known| by_id(known) || by_call(known)))
    }
}
