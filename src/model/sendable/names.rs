//! Names of tools: which tool a model means by a name, and what of a name a provider takes back.

/// The longest name that every provider takes, in characters (Anthropic takes 128).
const MAX_NAME: usize = 64;
/// Stands for a name that has nothing in it.
const NAMELESS: &str = "unnamed_tool";

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The offered tool that a model means by `raw`, if that is clear. Models write tokens of their templates behind a name
/// (`bash<|channel|>commentary`), the namespace of their training before it (`functions.bash`, `default_api:bash`), quotes
/// and blanks around it, a number behind it (`functions.bash:0`), and capitals into it. Whatever has blanks inside is
/// a command rather than a name, and means no tool.
pub(crate) fn resolve_tool_name<'a>(raw: &str, offered: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    if let Some(exact) = offered.clone().find(|name| *name == raw) {
        return Some(exact);
    }
    let name = raw.trim_start_matches(|c| !is_plain(c));
    let name = name.split('<').next()?.trim_end_matches(|c| !is_plain(c));
    let name = match name.rsplit_once(':') {
        Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => name,
    };
    let parts: Vec<&str> = name.split(['.', '/', ':', '=', '>', '|']).filter(|part| !part.is_empty()).collect();
    if !parts.iter().all(|part| part.chars().all(is_plain)) {
        return None;
    }
    let last = parts.last()?;
    // A tool of a server may have its namespace in its own name.
    let whole = parts.join("_");
    let same = |wanted: &str| {
        let mut same = offered.clone().filter(|name| name.eq_ignore_ascii_case(wanted));
        same.next().filter(|_| same.next().is_none())
    };
    offered.clone().find(|name| name == last).or_else(|| same(&whole)).or_else(|| same(last))
}

/// The name in a form that every provider takes: `[A-Za-z0-9_-]{1,64}`. With `letter_first`, it begins with a letter or `_`.
pub(super) fn sanitize_name(raw: &str, letter_first: bool) -> String {
    let plain = raw.trim().chars().map(|c| if is_plain(c) { c } else { '_' });
    let name: String = if letter_first && !raw.trim().starts_with(begins) {
        std::iter::once('_').chain(plain).take(MAX_NAME).collect()
    } else {
        plain.take(MAX_NAME).collect()
    };
    // A name of nothing but replaced characters says nothing.
    if name.bytes().all(|b| b == b'_') { NAMELESS.to_string() } else { name }
}

/// Whether [`sanitize_name`] would leave the name as it is.
pub(super) fn is_sane_name(name: &str, letter_first: bool) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_plain) && (!letter_first || name.starts_with(begins))
}

/// What Google lets a name begin with.
fn begins(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_a_tool() {
        let offered = ["bash", "read", "Grep", "files_list"];
        for (raw, expected) in [
            ("bash", Some("bash")),
            ("Bash", Some("bash")),
            ("grep", Some("Grep")),
            (" bash ", Some("bash")),
            ("\"bash\"", Some("bash")),
            ("`bash`\n", Some("bash")),
            ("bash()", Some("bash")),
            ("bash<|channel|>commentary", Some("bash")),
            ("bash<|constrain|>json", Some("bash")),
            ("<tool_call>bash", Some("bash")),
            ("functions.bash", Some("bash")),
            ("functions.bash:0", Some("bash")),
            ("functions.Bash<|channel|>commentary", Some("bash")),
            ("functions::bash", Some("bash")),
            ("default_api.bash", Some("bash")),
            ("default_api:bash", Some("bash")),
            ("tools/bash", Some("bash")),
            ("to=functions.read", Some("read")),
            ("files.list", Some("files_list")),
            ("", None),
            (" ", None),
            ("<|channel|>", None),
            ("exec.command", None),
            ("bash.exec", None),
            ("rm -rf bash", None),
            ("psql postgresql://x INSERT INTO t", None),
            ("bäsh", None),
        ] {
            assert_eq!(resolve_tool_name(raw, offered.into_iter()), expected, "{raw:?}");
        }
        assert_eq!(resolve_tool_name("BASH", ["bash", "Bash"].into_iter()), None, "it is not clear which");
        assert_eq!(resolve_tool_name("x.Bash", ["bash", "Bash"].into_iter()), Some("Bash"));
    }

    #[test]
    fn names_that_go_back() {
        for (raw, letter_first, expected) in [
            ("bash", true, "bash"),
            ("", false, NAMELESS),
            (" ", true, NAMELESS),
            ("工具", false, NAMELESS),
            ("functions.bash", false, "functions_bash"),
            ("7zip", false, "7zip"),
            ("7zip", true, "_7zip"),
            ("-x", true, "_-x"),
            ("a b\u{0}c", false, "a_b_c"),
        ] {
            assert_eq!(sanitize_name(raw, letter_first), expected, "{raw:?}");
            assert!(is_sane_name(expected, letter_first));
            assert_eq!(is_sane_name(raw, letter_first), raw == expected, "{raw:?}");
        }
        assert_eq!(sanitize_name(&"9".repeat(200), true).len(), MAX_NAME);
        assert!(!is_sane_name(&"x".repeat(65), false));
    }
}
