//! What a model's name says about how Google's API takes its requests.

/// What Google documents for calls that come from elsewhere and so have no signature.
pub(crate) const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// What a model's name says about it.
pub(crate) struct Family {
    /// `gemini-3` is 3; 0 for models that are no Gemini or do not say.
    gemini: u32,
    other: bool,
    /// The model takes a level of thought, not a number of tokens.
    pub levels: bool,
}

impl Family {
    pub(crate) fn of(id: &str) -> Family {
        let id = id.rsplit('/').next().unwrap_or(id);
        let after = id.strip_prefix("gemini-");
        let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok());
        let gemini = after.and_then(digits).unwrap_or(0);
        let latest = matches!(id, "gemini-flash-latest" | "gemini-flash-lite-latest");
        let third = gemini == 3 && (id.contains("-pro") || id.contains("-flash"));
        Family { gemini, other: after.is_none(), levels: gemini >= 4 || third || latest || id.starts_with("gemma-4") }
    }

    /// Calls are refused without a signature.
    pub(crate) fn wants_signatures(&self) -> bool {
        self.gemini >= 3
    }

    /// Tool calls and their results are matched by id.
    pub(crate) fn sends_ids(&self, id: &str) -> bool {
        self.gemini >= 3 || id.starts_with("claude-") || id.starts_with("gpt-oss-")
    }

    /// Results may hold images.
    pub(crate) fn images_in_results(&self) -> bool {
        self.gemini >= 3 || self.other
    }
}
