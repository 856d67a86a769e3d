//! Skills: instructions for particular tasks, of which a model sees the descriptions and reads the rest when it needs it.

use super::boundary::{Boundary, repository};
use super::places::Places;
use super::text_file::read;
use super::{frontmatter, resources, xml};
use crate::files::walk::walk;
use ignore::DirEntry;
use std::path::{Path, PathBuf};

/// The file that makes a folder a skill.
const SKILL_FILE: &str = "SKILL.md";
/// Most skills of one session; the descriptions of all of them are part of every request.
const MAX_SKILLS: usize = 200;
/// Folders within folders that are looked into; deep enough for any collection.
const MAX_DEPTH: usize = 8;
/// Longest name and description in characters; longer ones work, but not in other hosts.
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 1024;

/// One skill.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skill {
    pub name: String,
    pub description: String,
    /// The file with its instructions, absolute.
    pub file: PathBuf,
    /// How far links to that file may lead.
    pub boundary: Boundary,
    /// Only users invoke it; models do not see it.
    pub hidden: bool,
}

/// The skills of the user, of the project if it is trusted, and of the folders and files that the settings name, in this order. Of several
/// with one name the first one counts. What cannot be read is left out; the log tells.
pub(crate) fn discover(places: &Places<'_>) -> Vec<Skill> {
    let mut found = Found::default();
    let user = || Boundary::of_user(places);
    found.folder(&places.agent_dir.join("skills"), &user, true);
    found.folder(&places.home.join(".agents/skills"), &user, false);
    if places.project_trusted {
        let project = || Boundary::of_repository(places.cwd);
        found.folder(&places.cwd.join(".pi/skills"), &project, true);
        for dir in project_folders(places.cwd) {
            found.folder(&dir.join(".agents/skills"), &project, false);
        }
    }
    for (path, boundary) in resources::named(places, "skills") {
        if path.is_file() { found.file(&path, &boundary) } else { found.folder(&path, &|| boundary.clone(), true) }
    }
    found.skills
}

/// The working directory and the folders above it up to the root of its repository; without a repository only itself.
fn project_folders(cwd: &Path) -> Vec<&Path> {
    let root = repository(cwd).unwrap_or(cwd);
    cwd.ancestors().take_while(|dir| dir.starts_with(root)).collect()
}

#[derive(Default)]
struct Found {
    skills: Vec<Skill>,
    files: Vec<PathBuf>,
}

impl Found {
    /// Takes the skills in a folder: itself, if it is one, else those in the folders below it; with `files` also the
    /// Markdown files right in it. The boundary, which the disk has to be asked for, is only found out for a folder that is
    /// there.
    fn folder(&mut self, dir: &Path, boundary: &dyn Fn() -> Boundary, files: bool) {
        if !dir.is_dir() {
            return;
        }
        let boundary = boundary();
        if !boundary.admits_folder(dir) {
            return;
        }
        let inside = boundary.clone();
        let leads_out = move |entry: &DirEntry| {
            entry.path_is_symlink() && entry.path().is_dir() && !inside.admits_folder(entry.path())
        };
        let mut walk = match walk(dir, move |entry| entry.file_name() != "node_modules" && !leads_out(entry)) {
            Ok(walk) => walk,
            Err(text) => return log::warn!("skills in {} are left out: {text}", dir.display()),
        };
        walk.hidden(true).parents(false).require_git(false).follow_links(true).max_depth(Some(MAX_DEPTH));
        // Folders that are skills; what is below them is part of the skill.
        let mut taken: Vec<PathBuf> = Vec::new();
        for entry in walk.build().filter_map(Result::ok) {
            let path = entry.path();
            if taken.iter().any(|dir| path.starts_with(dir)) {
                continue;
            }
            if path.is_dir() {
                let file = path.join(SKILL_FILE);
                if file.is_file() {
                    self.file(&file, &boundary);
                    taken.push(path.to_owned());
                }
            } else if files && entry.depth() == 1 && path.extension().is_some_and(|extension| extension == "md") {
                self.file(path, &boundary);
            }
        }
    }

    fn file(&mut self, file: &Path, boundary: &Boundary) {
        let Ok(real) = file.canonicalize() else { return };
        if self.files.contains(&real) {
            return;
        }
        self.files.push(real);
        match load(file, boundary) {
            Ok(Some(skill)) if self.skills.iter().any(|known| known.name == skill.name) => {
                log::warn!("the skill {} in {} is left out: there is one of that name", skill.name, file.display());
            }
            Ok(Some(_)) if self.skills.len() >= MAX_SKILLS => {
                log::warn!("the skill in {} is left out: there are {MAX_SKILLS} already", file.display());
            }
            Ok(Some(skill)) => self.skills.push(skill),
            Ok(None) => {}
            Err(error) => log::warn!("the skill in {} is left out: {error}", file.display()),
        }
    }
}

/// `None` = it has no description, thus is no skill.
fn load(file: &Path, boundary: &Boundary) -> std::io::Result<Option<Skill>> {
    let text = read(file, boundary)?;
    let (head, _) = frontmatter::parse(&text);
    let is_folder = file.file_name().is_some_and(|name| name == SKILL_FILE);
    let fallback = if is_folder { file.parent().and_then(Path::file_name) } else { file.file_stem() };
    let named = head.get("name").filter(|name| !name.is_empty()).cloned();
    let name = named.unwrap_or_else(|| fallback.unwrap_or_default().to_string_lossy().into_owned());
    let Some(description) = head.get("description").filter(|text| !text.trim().is_empty()).cloned() else {
        if is_folder {
            log::warn!("the skill in {} is left out: it has no description", file.display());
        }
        return Ok(None);
    };
    if !is_usual_name(&name) {
        log::warn!("the skill {name:?} in {} has an unusual name", file.display());
    }
    if description.chars().count() > MAX_DESCRIPTION {
        log::warn!("the skill {name} in {} has a description over {MAX_DESCRIPTION} characters", file.display());
    }
    let hidden = head.get("disable-model-invocation").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(Some(Skill { name, description, file: file.to_owned(), boundary: boundary.clone(), hidden }))
}

fn is_usual_name(name: &str) -> bool {
    let allowed = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    allowed
        && (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// The section of the system prompt. `None` = there is nothing to tell.
pub(crate) fn section(skills: &[Skill]) -> Option<String> {
    let listed: String = skills
        .iter()
        .filter(|skill| !skill.hidden)
        .map(|skill| {
            format!(
                "  <skill>\n    <name>{}</name>\n    <description>{}</description>\n    <location>{}</location>\n  </skill>\n",
                xml::escaped(&skill.name),
                xml::escaped(&skill.description),
                xml::escaped(&skill.file.to_string_lossy())
            )
        })
        .collect();
    if listed.is_empty() {
        return None;
    }
    Some(format!(
        "These skills are instructions for particular tasks. When a task matches a description, read the file of the skill first.\n\
         Relative paths in such a file are relative to the folder that it is in.\n\
         Use them as absolute paths in tool calls.\n\n<available_skills>\n{listed}</available_skills>"
    ))
}

/// A skill that a text invokes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call<'a> {
    pub name: &'a str,
    /// The instructions themselves, for a model that has not seen them yet.
    pub block: String,
    /// What stands behind the name, trimmed.
    pub arguments: &'a str,
}

/// The invocation that `/skill:NAME ARGUMENTS` is. `None` = `text` invokes no known skill.
///
/// # Errors
/// The skill's file cannot be read.
pub(crate) fn call<'a>(text: &'a str, skills: &[Skill]) -> Option<Result<Call<'a>, String>> {
    let call = text.strip_prefix("/skill:")?;
    let (name, arguments) = call.split_once(char::is_whitespace).unwrap_or((call, ""));
    let skill = skills.iter().find(|skill| skill.name == name)?;
    let content = match read(&skill.file, &skill.boundary) {
        Ok(content) => content,
        Err(error) => return Some(Err(format!("{}: {error}", skill.file.display()))),
    };
    let (_, body) = frontmatter::parse(&content);
    let dir = skill.file.parent().unwrap_or(Path::new("/"));
    let block = format!(
        "<skill name=\"{}\" location=\"{}\">\nReferences are relative to {}.\n\n{}\n</skill>",
        xml::escaped(name),
        xml::escaped(&skill.file.to_string_lossy()),
        dir.display(),
        body.trim()
    );
    Some(Ok(Call { name, block, arguments: arguments.trim() }))
}

impl Call<'_> {
    /// What a model gets that has not seen the instructions.
    pub(crate) fn text(&self) -> String {
        if self.arguments.is_empty() { self.block.clone() } else { format!("{}\n\n{}", self.block, self.arguments) }
    }

    /// What a model gets that has seen them.
    pub(crate) fn reminder(&self) -> String {
        format!("skill_loaded={} invocation={}", self.name, self.arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::Tree;
    use super::*;

    fn skill(name: &str) -> String {
        format!("---\nname: {name}\ndescription: About {name}.\n---\nDo {name}.\n")
    }

    fn names(tree: &Tree, trusted: bool) -> Vec<String> {
        discover(&tree.places("p/sub", trusted)).into_iter().map(|skill| skill.name).collect()
    }

    #[test]
    fn skills_are_found_where_they_are_kept() {
        let tree = Tree::new(&[]);
        for (path, name) in [
            ("agent/skills/a/SKILL.md", "user-a"),
            ("agent/skills/group/b/SKILL.md", "user-b"),
            ("agent/skills/single.md", "user-single"),
            ("home/.agents/skills/c/SKILL.md", "home-c"),
            ("home/.agents/skills/not.md", "no-files-here"),
            ("p/sub/.pi/skills/d/SKILL.md", "project-d"),
            ("p/sub/.agents/skills/e/SKILL.md", "project-e"),
            ("p/.agents/skills/f/SKILL.md", "project-f"),
            (".agents/skills/g/SKILL.md", "outside-the-repository"),
        ] {
            tree.write(path, skill(name).as_bytes());
        }
        tree.write("p/.git/HEAD", b"");
        let user = ["user-a", "user-b", "user-single", "home-c"];
        assert_eq!(names(&tree, false), user);
        assert_eq!(names(&tree, true), [&user[..], &["project-d", "project-e", "project-f"]].concat());
        tree.write("agent/settings.json", br#"{"skills":["../.agents/skills","skills/a/SKILL.md"]}"#);
        let with_extra = discover(&tree.places("p/sub", false));
        assert_eq!(with_extra.last().map(|skill| skill.name.as_str()), Some("outside-the-repository"));
        assert_eq!(with_extra.len(), 5, "a file that is known already is not taken again");
    }

    #[test]
    fn what_is_no_skill_is_left_out() {
        let tree = Tree::new(&[
            ("agent/skills/a/SKILL.md", "---\ndescription: First.\n---\n"),
            ("agent/skills/a/below/SKILL.md", "---\ndescription: Part of the skill above.\n---\n"),
            ("agent/skills/b/SKILL.md", "---\nname: a\ndescription: Same name.\n---\n"),
            ("agent/skills/c/SKILL.md", "---\nname: c\n---\nNo description.\n"),
            ("agent/skills/README.md", "No head.\n"),
            ("agent/skills/d/other.md", "---\ndescription: Not right in the folder.\n---\n"),
            ("agent/skills/node_modules/e/SKILL.md", "---\ndescription: A package.\n---\n"),
            ("agent/skills/.hidden/SKILL.md", "---\ndescription: Hidden.\n---\n"),
            ("agent/skills/.gitignore", "ignored\n"),
            ("agent/skills/ignored/SKILL.md", "---\ndescription: Ignored.\n---\n"),
        ]);
        std::os::unix::fs::symlink(tree.path("agent/skills/a"), tree.path("agent/skills/z")).expect("a link");
        std::os::unix::fs::symlink(tree.path("agent/skills"), tree.path("agent/skills/loop")).expect("a link");
        let expected = Skill {
            name: "a".into(),
            description: "First.".into(),
            file: tree.path("agent/skills/a/SKILL.md"),
            boundary: Boundary::of_user(&tree.places("p", true)),
            hidden: false,
        };
        assert_eq!(discover(&tree.places("p", true)), [expected]);
    }

    #[test]
    fn models_are_told_of_all_but_hidden_ones() {
        let skill = |name: &str, hidden| Skill {
            name: name.into(),
            description: "Less < more & more".into(),
            file: format!("/s/{name}/SKILL.md").into(),
            boundary: Boundary::of_repository(Path::new("/s")),
            hidden,
        };
        assert_eq!(section(&[skill("x", true)]), None);
        let text = section(&[skill("x", true), skill("y", false)]).expect("there is one");
        let expected = "\n\n<available_skills>\n  <skill>\n    <name>y</name>\n    <description>Less &lt; more &amp; more\
            </description>\n    <location>/s/y/SKILL.md</location>\n  </skill>\n</available_skills>";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(text.split("\n\n").next().map(|lines| lines.lines().count()), Some(3));
    }

    #[test]
    fn calling_a_skill_up_puts_its_text_in() {
        let tree = Tree::new(&[(
            "agent/skills/a/SKILL.md",
            "---\ndescription: A.\ndisable-model-invocation: true\n---\n\nDo it.\n",
        )]);
        let skills = discover(&tree.places("p", true));
        assert!(skills[0].hidden);
        let dir = tree.path("agent/skills/a");
        let dir = dir.display();
        let body = format!(
            "<skill name=\"a\" location=\"{dir}/SKILL.md\">\nReferences are relative to {dir}.\n\nDo it.\n</skill>"
        );
        for (text, expected) in [
            ("/skill:a", Some(body.clone())),
            ("/skill:a  now, please\n", Some(format!("{body}\n\nnow, please"))),
            ("/skill:b", None),
            ("/skill", None),
            ("skill:a", None),
        ] {
            let called = call(text, &skills).map(|call| call.expect("it is read").text());
            assert_eq!(called, expected, "{text}");
        }
    }

    #[test]
    fn usual_names() {
        for name in ["a", "a-b", "a1", &"x".repeat(64)] {
            assert!(is_usual_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a--b", "A", "a b", "ä", &"x".repeat(65)] {
            assert!(!is_usual_name(name), "{name}");
        }
    }
}
