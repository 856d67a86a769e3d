//! Ids of tool calls, brought into forms that other APIs take.

/// The id with everything but letters, digits, `_` and `-` replaced by `_`.
pub(super) fn sanitize(id: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    id.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// An id that both Anthropic and Google take: plain characters, 64 at most.
pub(super) fn portable(id: &str) -> String {
    sanitize(id).chars().take(64).collect()
}

/// Eight hexadecimal digits that differ for different texts as a rule (FNV-1a). Guards nothing: it names.
pub(super) fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(sanitize("call_1-x|fc.ü"), "call_1-x_fc__");
        assert_eq!((portable("a|b").as_str(), portable(&"ü".repeat(99)).as_str()), ("a_b", &*"_".repeat(64)));
        assert_eq!(short_hash(""), "811c9dc5");
        assert_eq!(short_hash("a"), "e40c292c");
    }
}
