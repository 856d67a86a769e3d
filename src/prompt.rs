//! The system prompt: sections in a fixed order, from what the session has and from the files of its user and project.
//!
//! The same input gives the same text, without a date or anything else that changes by itself, since providers charge less
//! for a prompt that they have seen before.

pub mod commands;
mod context_files;
mod frontmatter;
mod resources;
pub mod skills;
pub mod templates;
#[cfg(test)]
mod test_tree;
mod text_file;
mod yaml;

use crate::tools::Tool;
use skills::Skill;
use std::path::{Path, PathBuf};

/// Where a user's own files are looked for.
#[derive(Clone)]
pub struct UserFolders {
    /// The folder of the user's own configuration.
    pub agent_dir: PathBuf,
    pub home: PathBuf,
}

impl UserFolders {
    /// Where the files are that say how the agent works in the folder `cwd`. Those of a project count if the operator trusts it.
    pub fn places<'a>(&'a self, cwd: &'a Path, project_trusted: bool) -> Places<'a> {
        Places { cwd, agent_dir: &self.agent_dir, home: &self.home, project_trusted }
    }
}

/// Where the files of a user and a project are looked for.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The session's working directory, absolute.
    pub cwd: &'a Path,
    /// The folder of the user's own configuration.
    pub agent_dir: &'a Path,
    pub home: &'a Path,
    /// The project's own `.pi` and `.agents` folders may say how the agent works. Instruction files are read regardless.
    pub project_trusted: bool,
}

/// What a system prompt is made from.
pub struct PromptInput<'a> {
    pub places: Places<'a>,
    /// The active tools, in the order in which they are declared.
    pub tools: &'a [&'static dyn Tool],
    /// What [`skills::discover`] found.
    pub skills: &'a [Skill],
    /// Instruction files such as `AGENTS.md` are part of the prompt.
    pub context_files: bool,
}

const PREAMBLE: &str = "You are a coding assistant that works inside nats-pi-bridge, a host for agent sessions without a \
    screen. You help by inspecting files, running commands and changing code.";

/// The whole system prompt. Files that are missing, unreadable or damaged are left out or repaired; they never fail it.
pub fn system_prompt(input: &PromptInput<'_>) -> String {
    let places = &input.places;
    let mut sections = match configured(places, "SYSTEM.md") {
        // Whoever writes a prompt of their own does without the sections that explain the usual one.
        Some(custom) => vec![custom],
        None => vec![PREAMBLE.to_owned(), section("tools", &tools(input.tools)), section("rules", &rules(input.tools))],
    };
    sections.extend(configured(places, "APPEND_SYSTEM.md").map(|text| section("addendum", &text)));
    if input.context_files {
        let text = context_files::section(places.agent_dir, places.cwd);
        sections.extend(text.map(|text| section("project_context", &text)));
    }
    if ["read", "bash"].into_iter().any(|name| has(input.tools, name)) {
        sections.extend(skills::section(input.skills).map(|text| section("skills", &text)));
    }
    sections.push(section("cwd", &places.cwd.to_string_lossy()));
    sections.join("\n\n")
}

/// A file of the project's configuration, if the project is trusted and has it, else that of the user.
fn configured(places: &Places<'_>, name: &str) -> Option<String> {
    let project = places.project_trusted.then(|| places.cwd.join(".pi").join(name));
    let path = project.into_iter().chain([places.agent_dir.join(name)]).find(|path| path.is_file())?;
    match text_file::read(&path) {
        Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Err(error) => {
            log::warn!("{} is left out: {error}", path.display());
            None
        }
    }
}

fn has(tools: &[&dyn Tool], name: &str) -> bool {
    tools.iter().any(|tool| tool.spec().name == name)
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
    let explore = (has(tools, "bash") && !["grep", "find", "ls"].into_iter().any(|name| has(tools, name)))
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
    use super::test_tree::Tree;
    use super::*;
    use crate::tools::{DEFAULT_TOOLS, by_name};

    fn prompt(tree: &Tree, trusted: bool, tools: &[&'static dyn Tool]) -> String {
        let places = tree.places("p", trusted);
        let skills = skills::discover(&places);
        system_prompt(&PromptInput { places, tools, skills: &skills, context_files: true })
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
        let tools = DEFAULT_TOOLS.map(|name| by_name(name).expect("a tool"));
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
        let without = prompt(&tree, false, &[by_name("ls").expect("a tool")]);
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
        let tools = DEFAULT_TOOLS.map(|name| by_name(name).expect("a tool"));
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
    fn instruction_files_can_be_left_out() {
        let tree = Tree::new(&[("p/AGENTS.md", "Use tabs.")]);
        let places = tree.places("p", true);
        let text = system_prompt(&PromptInput { places, tools: &[], skills: &[], context_files: false });
        assert!(!text.contains("Use tabs."));
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
