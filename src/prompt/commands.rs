//! Texts that begin with `/name`: which there are, and what they stand for.

use super::places::Places;
use super::{resources, skills, templates};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// A text in the words that the model gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub text: String,
    /// `skill` or `prompt`.
    pub kind: &'static str,
    /// The name that was called, without the slash.
    pub command: String,
    /// For a skill.
    pub again: Option<Again>,
}

/// How a skill is invoked again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Again {
    /// Tells instructions apart, also from those that were in the same file before.
    pub key: u64,
    /// The words for a model that has seen these instructions in the same session.
    pub reminder: String,
}

/// The prompt that a text stands for which invokes a skill or a template; `None` for any other text. Reads files.
///
/// # Errors
/// The skill's file cannot be read, or the template comes to nothing.
pub(crate) fn expand(text: &str, places: &Places<'_>) -> Option<Result<Expanded, String>> {
    let command = text.strip_prefix('/')?.split_whitespace().next()?.to_owned();
    let skills = if resources::skill_commands(places) { skills::discover(places) } else { Vec::new() };
    if let Some(call) = skills::call(text, &skills) {
        return Some(call.map(|call| {
            let mut hasher = DefaultHasher::new();
            call.block.hash(&mut hasher);
            let again = Some(Again { key: hasher.finish(), reminder: call.reminder() });
            Expanded { text: call.text(), kind: "skill", command, again }
        }));
    }
    let text = templates::expand(text, &templates::discover(places))?;
    Some(text.map(|text| Expanded { text, kind: "prompt", command, again: None }))
}

/// All commands as the side channel lists them: `[{name, description, source, sourceInfo}]`. Reads files.
pub(crate) fn list(places: &Places<'_>) -> Vec<Value> {
    let row = |name: String, description: &str, source: &str, path: &Path| {
        json!({"name": name, "description": description, "source": source,
            "sourceInfo": {"path": path.to_string_lossy()}})
    };
    let templates = templates::discover(places);
    let skills = if resources::skill_commands(places) { skills::discover(places) } else { Vec::new() };
    templates
        .iter()
        .map(|template| row(template.name.clone(), &template.description, "prompt", &template.file))
        .chain(
            skills.iter().map(|skill| row(format!("skill:{}", skill.name), &skill.description, "skill", &skill.file)),
        )
        .collect()
}
