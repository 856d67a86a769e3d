//! Skills and templates in places of the user's own choice, which `settings.json` names.

use super::boundary::Boundary;
use super::places::Places;
use super::text_file;
use crate::json::comments;
use serde_json::Value;
use std::path::PathBuf;

/// The folders and files that the user's settings have under `key`, then those of the project's settings if it is trusted.
/// Relative ones begin where the settings file is. PI's filters (`!name`, `+name`, `-name`) are not places. Each comes with
/// how far links in it may lead.
pub(super) fn named(places: &Places<'_>, key: &str) -> Vec<(PathBuf, Boundary)> {
    let mut found = Vec::new();
    for (base, settings) in settings(places) {
        let boundary =
            if base == places.agent_dir { Boundary::of_user(places) } else { Boundary::of_repository(places.cwd) };
        let paths = settings.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        found.extend(paths.filter(|path| !path.starts_with(['!', '+', '-'])).map(|path| {
            let path = match path.strip_prefix("~/") {
                Some(below_home) => places.home.join(below_home),
                None => base.join(path),
            };
            let boundary = boundary.of_named(&path);
            (path, boundary)
        }));
    }
    found
}

/// Whether users may invoke skills as `/skill:name`.
pub(super) fn skill_commands(places: &Places<'_>) -> bool {
    let said =
        settings(places).into_iter().rev().find_map(|(_, settings)| settings.get("enableSkillCommands")?.as_bool());
    said.unwrap_or(true)
}

/// The settings files there are, the user's first, each with the folder it is in. What is wrong with one is logged where
/// the rest of it is read; here it counts as none.
fn settings(places: &Places<'_>) -> Vec<(PathBuf, Value)> {
    let project = places.project_trusted.then(|| places.cwd.join(".pi"));
    let read = |base: PathBuf| {
        let text = text_file::read_own(&base.join("settings.json")).ok()?;
        Some((base, comments::parse(&text).ok()?))
    };
    std::iter::once(places.agent_dir.to_path_buf()).chain(project).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::Tree;
    use super::*;

    #[test]
    fn places_are_found_from_where_they_are_named() {
        let tree = Tree::new(&[
            (
                "agent/settings.json",
                r#"{"skills":["mine","~/s","/abs","!not","-this",7], /* more */ "enableSkillCommands":true}"#,
            ),
            ("p/.pi/settings.json", r#"{"skills":["theirs","../x"],"enableSkillCommands":false}"#),
            ("q/.pi/settings.json", "{broken"),
        ]);
        let user = [tree.path("agent/mine"), tree.path("home/s"), PathBuf::from("/abs")];
        let project = [tree.path("p/.pi/theirs"), tree.path("p/.pi/../x")];
        for (cwd, trusted, expected, commands) in [
            ("p", false, user.to_vec(), true),
            ("p", true, [&user[..], &project].concat(), false),
            ("q", true, user.to_vec(), true),
        ] {
            let places = tree.places(cwd, trusted);
            let found: Vec<PathBuf> = named(&places, "skills").into_iter().map(|(path, _)| path).collect();
            assert_eq!(found, expected, "{cwd} {trusted}");
            assert_eq!(skill_commands(&places), commands, "{cwd} {trusted}");
            assert!(named(&places, "prompts").is_empty());
        }
    }
}
