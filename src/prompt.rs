//! The system prompt: sections in a fixed order, from what the session has and from the files of its user and project.
//!
//! The same input gives the same text, without a date or anything else that changes by itself, since providers charge less
//! for a prompt that they have seen before.

mod context_files;

use crate::tools::Tool;
use std::path::Path;

/// What a system prompt is made from.
pub struct PromptInput<'a> {
    /// The session's working directory, absolute.
    pub cwd: &'a Path,
    /// The folder of the user's own configuration.
    pub agent_dir: &'a Path,
    pub home: &'a Path,
    /// The active tools, in the order in which they are declared.
    pub tools: &'a [&'static dyn Tool],
}

const PREAMBLE: &str = "You are a coding assistant that works inside nats-pi-bridge, a host for agent sessions without a \
    screen. You help by inspecting files, running commands and changing code.";

/// The whole system prompt. Files that are missing, unreadable or damaged are left out or repaired; they never fail it.
pub fn system_prompt(input: &PromptInput<'_>) -> String {
    let sections = [
        Some(PREAMBLE.to_owned()),
        Some(section("tools", &tools(input.tools))),
        Some(section("rules", &rules(input.tools))),
        context_files::section(input.agent_dir, input.cwd).map(|text| section("project_context", &text)),
        Some(section("cwd", &input.cwd.to_string_lossy())),
    ];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn section(name: &str, text: &str) -> String {
    format!("<{name}>\n{text}\n</{name}>")
}

fn tools(tools: &[&dyn Tool]) -> String {
    let lines: Vec<String> = tools
        .iter()
        .filter(|tool| !tool.snippet().is_empty())
        .map(|tool| format!("- {}: {}", tool.spec().name, tool.snippet()))
        .collect();
    let list = if lines.is_empty() { "(none)".to_owned() } else { lines.join("\n") };
    format!("{list}\n\nThere may be further tools than these, depending on the project.")
}

fn rules(tools: &[&dyn Tool]) -> String {
    let has = |name: &str| tools.iter().any(|tool| tool.spec().name == name);
    let explore = (has("bash") && !["grep", "find", "ls"].into_iter().any(has))
        .then_some("Use bash to look around, with ls, rg and find");
    let mut rules: Vec<&str> = Vec::new();
    let always = ["Be concise in what you answer", "Show the paths of files clearly when you work with them"];
    for rule in explore.into_iter().chain(tools.iter().flat_map(|tool| tool.rules()).copied()).chain(always) {
        let rule = rule.trim();
        if !rule.is_empty() && !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules.iter().map(|rule| format!("- {rule}")).collect::<Vec<_>>().join("\n")
}

/// Text as it may stand in XML, in attributes too.
fn xml_escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\'' => result.push_str("&apos;"),
            c => result.push(c),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{DEFAULT_TOOLS, by_name};

    #[test]
    fn sections_come_in_their_order() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("AGENTS.md"), "Use tabs.\n").expect("it is written");
        let tools = DEFAULT_TOOLS.map(|name| by_name(name).expect("a tool"));
        let input =
            PromptInput { cwd: dir.path(), agent_dir: Path::new("/nonexistent"), home: dir.path(), tools: &tools };
        let prompt = system_prompt(&input);
        let starts = [
            "You are a coding assistant",
            "\n\n<tools>\n- read: ",
            "\n\n<rules>\n- ",
            "\n\n<project_context>\n",
            "\n\n<cwd>\n",
        ];
        let places: Vec<_> = starts.iter().map(|start| prompt.find(start)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{prompt}");
        assert!(prompt.ends_with(&format!("\n\n<cwd>\n{}\n</cwd>", dir.path().display())));
        assert_eq!(prompt, system_prompt(&input), "nothing in it changes by itself");
    }

    #[test]
    fn a_session_without_tools_is_told_so() {
        assert!(tools(&[]).starts_with("(none)\n\n"));
        assert!(!rules(&[]).contains("bash"));
    }

    #[test]
    fn rules_are_listed_once() {
        let bash = by_name("bash").expect("a tool");
        let edit = by_name("edit").expect("a tool");
        let rules = rules(&[bash, edit, edit]);
        assert!(rules.starts_with("- Use bash to look around"), "{rules}");
        let lines: Vec<&str> = rules.lines().collect();
        let mut once = lines.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), lines.len(), "{rules}");
    }

    #[test]
    fn text_is_escaped_for_xml() {
        assert_eq!(xml_escaped("a<b>&\"c'\u{e9}"), "a&lt;b&gt;&amp;&quot;c&apos;\u{e9}");
    }
}
