//! Texts that begin with `/name`: which there are, and what they stand for.

use super::{Places, resources, skills, templates};
use serde_json::{Value, json};
use std::path::Path;

/// A text in the words that the model gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// `skill` or `prompt`.
    pub kind: &'static str,
    /// The name that was called, without the slash.
    pub command: String,
}

/// What a text that calls up a skill or a template stands for; `None` for any other text. Reads files.
pub fn expand(text: &str, places: &Places<'_>) -> Option<Expanded> {
    let command = text.strip_prefix('/')?.split_whitespace().next()?.to_owned();
    let skill = || {
        let text = resources::skill_commands(places).then(|| skills::expand(text, &skills::discover(places)))??;
        Some((text, "skill"))
    };
    let template = || templates::expand(text, &templates::discover(places)).map(|text| (text, "prompt"));
    let (text, kind) = skill().or_else(template)?;
    Some(Expanded { text, kind, command })
}

/// All commands as the side channel lists them: `[{name, description, source, sourceInfo}]`. Reads files.
pub fn list(places: &Places<'_>) -> Vec<Value> {
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
