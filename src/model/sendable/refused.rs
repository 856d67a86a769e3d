//! What providers refused to take, so that it is not sent to them again.

use crate::model::model_info::Model;
use crate::model::openai_fields::REASONING_FIELDS;
use crate::transcript::Block;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How many pieces are remembered, the latest ones: about 3 MB in all. One that was forgotten costs a refused request.
const MAX_PIECES: usize = 50_000;

/// A piece of a conversation that was sent to one model: an image's data, a signature, a thought. Known by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// Comes first, so that data of other lengths need not be hashed.
    length: usize,
    hash: u64,
}

impl Piece {
    pub fn new(model: &Model, data: &str) -> Piece {
        let mut hasher = DefaultHasher::new();
        (&model.provider, &model.id, data).hash(&mut hasher);
        Piece { length: data.len(), hash: hasher.finish() }
    }
}

/// Why a piece is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omission {
    /// The provider cannot use it.
    Refused,
    /// There was too much of its kind.
    TooMuch,
}

/// What a server wants that is not known of it beforehand. Learned from its refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// The server knows no role `developer`.
    NoDeveloperRole,
    /// The server knows no `block_binding`.
    NoBlockBinding,
    /// Calls without signature need one that says so.
    WantsSignatures,
    /// Every answer needs its thoughts, even if there are none.
    WantsReasoning,
}

/// What was refused, by all models of this process.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    pieces: BTreeMap<Piece, Omission>,
    order: VecDeque<Piece>,
}

impl Refused {
    /// Why the piece is not to be sent to the model, if it is not.
    pub fn why(&self, model: &Model, data: &str) -> Option<Omission> {
        let shortest = Piece { length: data.len(), hash: 0 };
        let longest = Piece { length: data.len(), hash: u64::MAX };
        self.pieces.range(shortest..=longest).next()?;
        self.pieces.get(&Piece::new(model, data)).copied()
    }

    /// Whether a thought is not to be sent to the model.
    pub fn thinking(&self, model: &Model, block: &Block) -> bool {
        thought(block).is_some_and(|data| self.why(model, data).is_some())
    }

    pub fn has(&self, model: &Model, habit: Habit) -> bool {
        self.why(model, &habit_name(habit)).is_some()
    }

    pub fn add(&mut self, piece: Piece, why: Omission) {
        if self.pieces.insert(piece, why).is_none() {
            self.order.push_back(piece);
        }
        while self.order.len() > MAX_PIECES {
            if let Some(oldest) = self.order.pop_front() {
                self.pieces.remove(&oldest);
            }
        }
    }
}

/// A habit is remembered like a piece that no conversation has.
pub(super) fn habit_piece(model: &Model, habit: Habit) -> Piece {
    Piece::new(model, &habit_name(habit))
}

fn habit_name(habit: Habit) -> String {
    format!("\u{0}{habit:?}")
}

/// What a thought is known by: its signature, or its text where the signature is only the name of a field.
pub(super) fn thought(block: &Block) -> Option<&str> {
    match block {
        Block::Thinking { thinking, thinking_signature, .. } => {
            let names_field = |signature: &&str| REASONING_FIELDS.contains(signature);
            Some(thinking_signature.as_deref().filter(|s| !names_field(s)).unwrap_or(thinking))
        }
        Block::Text { .. } | Block::ToolCall { .. } | Block::Image { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::test_model;

    #[test]
    fn pieces_are_known_by_model_and_data() {
        let (model, other) = (test_model(), Model { id: "other".to_string(), ..test_model() });
        let mut refused = Refused::default();
        refused.add(Piece::new(&model, "AAAA"), Omission::Refused);
        refused.add(habit_piece(&model, Habit::NoDeveloperRole), Omission::Refused);
        assert_eq!(refused.why(&model, "AAAA"), Some(Omission::Refused));
        assert_eq!(
            (refused.why(&model, "AAAB"), refused.why(&model, "AA"), refused.why(&other, "AAAA")),
            (None, None, None)
        );
        assert!(refused.has(&model, Habit::NoDeveloperRole) && !refused.has(&model, Habit::NoBlockBinding));
        for number in 0..MAX_PIECES {
            refused.add(Piece::new(&model, &format!("{number:09}")), Omission::TooMuch);
        }
        assert_eq!((refused.pieces.len(), refused.why(&model, "AAAA")), (MAX_PIECES, None), "the oldest are forgotten");
    }
}
