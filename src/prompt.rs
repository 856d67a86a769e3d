//! The system prompt: sections in a fixed order, from what the session has and from the files of its user and project.
//!
//! The same input gives the same text, without a date or anything else that changes by itself, since providers charge less
//! for a prompt that they have seen before.

mod boundary;
pub(crate) mod commands;
mod context_files;
mod frontmatter;
mod places;
mod resources;
pub(crate) mod skills;
pub(crate) mod templates;
#[cfg(test)]
mod test_tree;
mod text_file;
mod xml;
mod yaml;

use boundary::Boundary;
pub(crate) use places::{Places, UserFolders};
use skills::Skill;

/// What the prompt says of a tool.
#[derive(Clone, Copy)]
pub(crate) struct ToolText<'a> {
    pub name: &'a str,
    /// One line for the list of tools; empty = the tool is not in it.
    pub snippet: &'a str,
    pub rules: &'a [&'a str],
}

/// What a system prompt is made from.
pub(crate) struct PromptInput<'a> {
    pub places: Places<'a>,
    /// The active tools, in the order in which they are declared.
    pub tools: &'a [ToolText<'a>],
    /// What [`skills::discover`] found.
    pub skills: &'a [Skill],
}

const PREAMBLE: &str = "You are a coding assistant that works inside nats-pi-bridge, a host for agent sessions without a \
    screen. You help by inspecting files, running commands and changing code.";

/// The whole system prompt. Files that are missing, unreadable or damaged are left out or repaired; they never fail it.
pub(crate) fn system_prompt(input: &PromptInput<'_>) -> String {
    let places = &input.places;
    let mut sections = match configured(places, "SYSTEM.md") {
        // Whoever writes a prompt of their own does without the sections that explain the usual one.
        Some(custom) => vec![custom],
        None => vec![PREAMBLE.to_owned(), section("tools", &tools(input.tools)), section("rules", &rules(input.tools))],
    };
    sections.extend(configured(places, "APPEND_SYSTEM.md").map(|text| section("addendum", &text)));
    let context = context_files::section(places);
    sections.extend(context.map(|text| section("project_context", &text)));
    if ["read", "bash"].into_iter().any(|name| has(input.tools, name)) {
        sections.extend(skills::section(input.skills).map(|text| section("skills", &text)));
    }
    sections.push(section("cwd", &places.cwd.to_string_lossy()));
    sections.join("\n\n")
}

/// A file of the project's configuration, if the project is trusted and has it, else that of the user.
fn configured(places: &Places<'_>, name: &str) -> Option<String> {
    let project = places.project_trusted.then(|| (places.cwd.join(".pi").join(name), true));
    let user = (places.agent_dir.join(name), false);
    let mut files = project.into_iter().chain([user]).filter(|(path, _)| text_file::is_there(path));
    let text = files.find_map(|(path, of_project)| {
        let boundary = if of_project { Boundary::of_repository(places.cwd) } else { Boundary::of_user(places) };
        text_file::read(&path, &boundary)
            .inspect_err(|error| log::warn!("{} is left out: {error}", path.display()))
            .ok()
    })?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn has(tools: &[ToolText<'_>], name: &str) -> bool {
    tools.iter().any(|tool| tool.name == name)
}

fn section(name: &str, text: &str) -> String {
    ["<", name, ">\n", text, "\n</", name, ">"].concat()
}

fn tools(tools: &[ToolText<'_>]) -> String {
    let lines: Vec<String> = tools
        .iter()
        .filter(|tool| !tool.snippet.is_empty())
        .map(|tool| ["- ", tool.name, ": ", tool.snippet].concat())
        .collect();
    let list = if lines.is_empty() { "(none)".to_owned() } else { lines.join("\n") };
    format!("{list}\n\nThere may be further tools than these, depending on the project.")
}

fn rules(tools: &[ToolText<'_>]) -> String {
    let explore = (has(tools, "bash") && !["grep", "find", "ls"].into_iter().any(|name| has(tools, name)))
        .then_some("Use bash to look around, with ls, rg and find");
    let mut rules: Vec<&str> = Vec::new();
    let always = ["Be concise in what you answer", "Show the paths of files clearly when you work with them"];
    for rule in explore.into_iter().chain(tools.iter().flat_map(|tool| tool.rules).copied()).chain(always) {
        let rule = rule.trim();
        if !rule.is_empty() && !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    ["- ", &rules.join("\n- ")].concat()
}

#[cfg(test)]
mod tests {
    use super::test_tree::Tree;
    use super::*;

    const READ: ToolText<'_> = ToolText { name: "read", snippet: "Read a file", rules: &["Look first"] };
    const BASH: ToolText<'_> = ToolText { name: "bash", snippet: "Run a command", rules: &[] };
    const LS: ToolText<'_> = ToolText { name: "ls", snippet: "List a folder", rules: &[] };

    fn prompt(tree: &Tree, trusted: bool, tools: &[ToolText<'_>]) -> String {
        let places = tree.places("p", trusted);
        let skills = skills::discover(&places);
        system_prompt(&PromptInput { places, tools, skills: &skills })
    }

    /// Asserts that the parts are there, in this order.
    fn in_order(prompt: &str, parts: &[&str]) {
        let places: Vec<_> = parts.iter().map(|part| prompt.find(part)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{prompt}");
    }

    #[test]
    fn sections_come_in_their_order() {
        let tree = Tree::new(&[
            ("p/AGENTS.md", "Use tabs.\n"),
            ("agent/APPEND_SYSTEM.md", "Be kind.\n"),
            ("agent/skills/a/SKILL.md", "---\ndescription: A skill.\n---\n"),
        ]);
        let tools = [READ, BASH];
        let text = prompt(&tree, false, &tools);
        let parts = [
            "You are a coding assistant",
            "\n\n<tools>\n- read: ",
            "\n\n<rules>\n- ",
            "\n\n<addendum>\nBe kind.\n</addendum>",
            "\n\n<project_context>\n",
            "\n\n<skills>\n",
            "\n\n<cwd>\n",
        ];
        in_order(&text, &parts);
        assert!(text.ends_with(&format!("\n\n<cwd>\n{}\n</cwd>", tree.path("p").display())));
        assert_eq!(text, prompt(&tree, false, &tools), "nothing in it changes by itself");
        let without = prompt(&tree, false, &[LS]);
        assert!(!without.contains("<skills>"), "skills are of no use to those who cannot read them");
    }

    #[test]
    fn a_prompt_of_ones_own_replaces_the_usual_one() {
        let tree = Tree::new(&[
            ("agent/SYSTEM.md", "You are a pirate.\n"),
            ("agent/APPEND_SYSTEM.md", "user"),
            ("p/.pi/SYSTEM.md", "You are the project.\n"),
            ("p/CLAUDE.md", "Use tabs."),
        ]);
        let tools = [READ, BASH];
        let text = prompt(&tree, false, &tools);
        assert!(
            text.starts_with("You are a pirate.\n\n<addendum>\nuser\n</addendum>\n\n<project_context>\n"),
            "{text}"
        );
        let text = prompt(&tree, true, &tools);
        assert!(text.starts_with("You are the project.\n\n<addendum>\nuser\n</addendum>\n\n"), "{text}");
        tree.write("p/.pi/SYSTEM.md", b" \n");
        assert!(prompt(&tree, true, &tools).starts_with(PREAMBLE), "an empty prompt is none");
    }

    #[test]
    fn a_session_without_tools_is_told_so() {
        assert!(tools(&[]).starts_with("(none)\n\n"));
        assert!(!rules(&[]).contains("bash"));
    }

    #[test]
    fn rules_are_listed_once() {
        let rules = rules(&[BASH, READ, READ]);
        assert!(
            rules.starts_with("- Use bash to look around, with ls, rg and find\n- Look first\n- Be concise"),
            "{rules}"
        );
        let lines: Vec<&str> = rules.lines().collect();
        let mut once = lines.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), lines.len(), "{rules}");
    }
}
