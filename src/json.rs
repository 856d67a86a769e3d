//! JSON that is not quite JSON: as people write it, and as models do.

pub mod comments;
pub mod tolerant;
