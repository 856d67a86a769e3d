//! Rules: what tools may be called with, by the call alone and not by anything that a model or a tool wrote.

use super::pattern::Pattern;
use super::shell::{Script, Unreadable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Rules of one list, and the bytes of one text in them; far above what people write.
const MAX_RULES: usize = 256;
const MAX_TEXT: usize = 4096;
/// Bytes of a request's rules, which are kept with what is remembered of its session.
const MAX_NARROWING: usize = 64 * 1024;
/// Tools that take a path, and those of them that look at everything below it.
const PATH_TOOLS: [&str; 6] = ["read", "write", "edit", "ls", "grep", "find"];
const TREE_TOOLS: [&str; 2] = ["grep", "find"];
const COMMAND_TOOL: &str = "bash";
/// Asking people does nothing to the host, so that what holds otherwise does not hold for it.
const QUESTION: &str = "question";
/// Stands for every tool.
const EVERY: &str = "*";

/// What becomes of a call; the stricter one is the greater one.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effect {
    #[default]
    Allow,
    Ask,
    Deny,
}

impl Effect {
    pub(crate) const NAMES: &str = "allow, ask or deny";

    pub(crate) fn parse(text: &str) -> Option<Effect> {
        [Effect::Allow, Effect::Ask, Effect::Deny].into_iter().find(|effect| effect.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Ask => "ask",
            Effect::Deny => "deny",
        }
    }
}

/// What a call is about, as far as rules look at it.
#[derive(Debug)]
pub(crate) enum Target {
    Command(Result<Script, Unreadable>),
    Path {
        /// Absolute, by the name that the call gives.
        named: String,
        /// Without links.
        real: String,
    },
    /// More than a budget allows, by the limit's name. It is no tool's, so that rules are not about it.
    Budget(String),
    Other,
}

impl Target {
    /// A command, as the shell of that name reads it; absent = bash.
    pub(crate) fn command(command: &str, shell: Option<&str>) -> Target {
        let shell = shell.and_then(|shell| shell.rsplit('/').next());
        let is_known = matches!(shell, None | Some("bash" | "sh" | "dash"));
        Target::Command(if is_known { Script::read(command) } else { Err(Unreadable) })
    }

    pub(crate) fn path(named: &Path, real: &Path) -> Target {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Target::Path { named: text(named), real: text(real) }
    }
}

/// What the rules say to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub effect: Effect,
    /// The rule that decided, as people name it; absent where none matched.
    pub rule: Option<Arc<str>>,
}

/// What rules are in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    otherwise: Effect,
    /// Those that a request added, as it wrote them.
    narrowing: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Rule {
    tool: String,
    what: What,
    effect: Effect,
    /// As people name it.
    name: Arc<str>,
}

#[derive(Clone, Debug)]
enum What {
    Every,
    Command(Pattern),
    Path { written: String, patterns: Vec<Pattern> },
}

/// Where paths of rules begin.
#[derive(Clone, Copy)]
pub(crate) struct Places<'p> {
    pub home: &'p Path,
    pub cwd: &'p Path,
}

impl Rules {
    /// Reads and checks the operator's rules, of tools that `is_tool`.
    ///
    /// # Errors
    /// What is wrong, with the rule that it is about.
    pub(crate) fn parse(
        list: &Value,
        otherwise: Effect,
        home: &Path,
        is_tool: &dyn Fn(&str) -> bool,
    ) -> Result<Rules, String> {
        let places = Places { home, cwd: Path::new("/") };
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Rules { rules: read(list, places, is_tool)?, otherwise, narrowing: Vec::new() })
    }

    /// The rules of a session: these, and those that its request adds, which may only ask or deny.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub(crate) fn narrowed(
        &self,
        narrowing: Vec<Value>,
        places: Places<'_>,
        is_tool: &dyn Fn(&str) -> bool,
    ) -> Result<Rules, String> {
        if serde_json::to_vec(&narrowing).is_ok_and(|json| json.len() > MAX_NARROWING) {
            return Err(format!("the rules of a request may have {MAX_NARROWING} bytes"));
        }
        let added = read(&narrowing, places, is_tool)?;
        if let Some(rule) = added.iter().find(|rule| rule.effect == Effect::Allow) {
            return Err(format!("rule {}: a request may only add rules that ask or deny", rule.name));
        }
        let mut rules = self.rules.clone();
        for rule in &mut rules {
            if let What::Path { written, patterns } = &mut rule.what {
                *patterns = path_patterns(written, places);
            }
        }
        rules.extend(added);
        Ok(Rules { rules, otherwise: self.otherwise, narrowing })
    }

    /// What the request added.
    pub(crate) fn narrowing(&self) -> &[Value] {
        &self.narrowing
    }

    /// Every call is allowed.
    pub(crate) fn is_open(&self) -> bool {
        self.rules.is_empty() && self.otherwise == Effect::Allow
    }

    /// Decides about a call of a tool. Of all rules that match the strictest wins.
    pub(crate) fn decide(&self, tool: &str, target: &Target) -> Decision {
        let mut strictest: Option<&Rule> = None;
        for rule in self.rules.iter().filter(|rule| rule.effect > Effect::Allow && rule.is_about(tool)) {
            if strictest.is_none_or(|other| other.effect < rule.effect) && rule.may_match(tool, target) {
                strictest = Some(rule);
            }
        }
        if strictest.is_none() {
            strictest = allowing(self.rules.iter().filter(|rule| rule.is_about(tool)), target);
        }
        match strictest {
            Some(rule) => Decision { effect: rule.effect, rule: Some(rule.name.clone()) },
            None if tool == QUESTION => Decision { effect: Effect::Allow, rule: None },
            None => Decision { effect: self.otherwise, rule: None },
        }
    }
}

/// The rule that allows a call: one alone, or for a command one for each of its simple commands, of which the first is
/// returned.
fn allowing<'r>(rules: impl Iterator<Item = &'r Rule> + Clone, target: &Target) -> Option<&'r Rule> {
    let mut rules = rules.filter(|rule| rule.effect == Effect::Allow);
    let mut every = rules.clone();
    if let Some(rule) = every.find(|rule| matches!(rule.what, What::Every)) {
        return Some(rule);
    }
    match target {
        Target::Command(Ok(script)) if !script.does_more => {
            let fits = |rule: &&Rule, simple: &super::shell::Simple| match &rule.what {
                What::Command(pattern) => simple.is_named && pattern.surely_matches(&simple.text),
                What::Every | What::Path { .. } => false,
            };
            let mut first = None;
            for simple in &script.commands {
                let rule = rules.clone().find(|rule| fits(rule, simple))?;
                first = first.or(Some(rule));
            }
            first
        }
        Target::Command(_) | Target::Budget(_) | Target::Other => None,
        Target::Path { real, .. } => rules.find(|rule| match &rule.what {
            What::Path { patterns, .. } => patterns.iter().any(|pattern| pattern.surely_matches(real)),
            What::Every | What::Command(_) => false,
        }),
    }
}

impl Rule {
    fn is_about(&self, tool: &str) -> bool {
        self.tool == EVERY || self.tool == tool
    }

    /// What a rule that asks or denies is meant for: also what may come to match once it runs.
    fn may_match(&self, tool: &str, target: &Target) -> bool {
        match (&self.what, target) {
            (What::Every, _) => true,
            (What::Command(pattern), Target::Command(Ok(script))) => script.commands.iter().any(|simple| {
                let by_name = simple.base > 0 && pattern.may_match(&simple.text[simple.base..]);
                by_name || pattern.may_match(&simple.text)
            }),
            (What::Command(_), Target::Command(Err(Unreadable))) => true,
            (What::Path { patterns, .. }, Target::Path { named, real }) => {
                let below = |path: &str| format!("{}/{}", path.trim_end_matches('/'), super::shell::ANY);
                let is_tree = TREE_TOOLS.contains(&tool);
                [named, real].into_iter().any(|path| {
                    patterns.iter().any(|pattern| pattern.may_match(path) || is_tree && pattern.may_match(&below(path)))
                })
            }
            (What::Command(_) | What::Path { .. }, _) => false,
        }
    }
}

fn read(list: &[Value], places: Places<'_>, is_tool: &dyn Fn(&str) -> bool) -> Result<Vec<Rule>, String> {
    if list.len() > MAX_RULES {
        return Err(format!("more than {MAX_RULES} rules"));
    }
    let number = |at: usize| at + 1;
    list.iter()
        .enumerate()
        .map(|(at, value)| {
            let fields = value.as_object().ok_or_else(|| format!("rule {}: it is no object", number(at)))?;
            let name = name(fields);
            read_rule(fields, &name, places, is_tool).map_err(|why| format!("rule {} ({name}): {why}", number(at)))
        })
        .collect()
}

/// A rule as people name it.
fn name(fields: &Map<String, Value>) -> String {
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let shown: String = text("match").or(text("path")).unwrap_or_default().chars().take(100).collect();
    format!("{} {shown}", text("tool").unwrap_or("?")).trim_end().to_owned()
}

fn read_rule(
    fields: &Map<String, Value>,
    name: &str,
    places: Places<'_>,
    is_tool: &dyn Fn(&str) -> bool,
) -> Result<Rule, String> {
    if let Some(key) = fields.keys().find(|key| !["tool", "match", "path", "do", "examples"].contains(&key.as_str())) {
        return Err(format!("it has an unknown key {key:?}"));
    }
    let text = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TEXT && !text.contains('\0') => {
            Ok(Some(text.as_str()))
        }
        Some(_) => Err(format!("{key} must be a text")),
    };
    let tool = text("tool")?.ok_or("it names no tool")?;
    if tool != EVERY && !is_tool(tool) {
        return Err(format!("there is no tool {tool:?}"));
    }
    let effect = text("do")?.and_then(Effect::parse).ok_or_else(|| format!("do is not {}", Effect::NAMES))?;
    let what = match (text("match")?, text("path")?) {
        (None, None) => What::Every,
        (Some(pattern), None) if tool == COMMAND_TOOL => What::Command(Pattern::of_commands(pattern)),
        (None, Some(path)) if PATH_TOOLS.contains(&tool) => {
            What::Path { written: path.to_owned(), patterns: path_patterns(path, places) }
        }
        (Some(_), Some(_)) => return Err("it has both match and path".into()),
        (Some(_), None) => return Err("match is for bash".into()),
        (None, Some(_)) => return Err(format!("path is for {}", PATH_TOOLS.join(", "))),
    };
    let rule = Rule { tool: tool.to_owned(), what, effect, name: name.into() };
    if let Some(examples) = fields.get("examples") {
        check_examples(&rule, examples, places)?;
    }
    Ok(rule)
}

fn check_examples(rule: &Rule, examples: &Value, places: Places<'_>) -> Result<(), String> {
    let wrong = || "examples must be {\"match\": [...], \"not\": [...]} with texts".to_owned();
    let examples = examples.as_object().ok_or_else(wrong)?;
    for (key, list) in examples {
        let expected = match key.as_str() {
            "match" => true,
            "not" => false,
            _ => return Err(wrong()),
        };
        for example in list.as_array().ok_or_else(wrong)? {
            let example = example.as_str().ok_or_else(wrong)?;
            let target = match &rule.what {
                What::Every => return Err("it matches every call, so that examples say nothing".into()),
                What::Command(_) => Target::command(example, None),
                What::Path { .. } => {
                    let path = absolute(example, places);
                    Target::path(&path, &path)
                }
            };
            let matches = match rule.effect {
                Effect::Allow => allowing(std::iter::once(rule), &target).is_some(),
                Effect::Ask | Effect::Deny => rule.may_match(&rule.tool, &target),
            };
            if matches != expected {
                return Err(format!(
                    "it {} its example {example:?}",
                    if expected { "does not match" } else { "matches" }
                ));
            }
        }
    }
    Ok(())
}

/// A path as a rule or an example writes it, without `.` and `..`.
fn absolute(path: &str, places: Places<'_>) -> PathBuf {
    let path = match path.strip_prefix("~/") {
        Some(rest) => places.home.join(rest),
        None => places.cwd.join(path),
    };
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normal.push(part),
        }
    }
    normal
}

/// The patterns that a rule's path stands for: as it is written, and without the links in the folders that it names. What
/// is meant for everything in a folder is meant for the folder itself, too.
fn path_patterns(written: &str, places: Places<'_>) -> Vec<Pattern> {
    let path = absolute(written, places);
    let fixed: PathBuf =
        path.components().take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?'])).collect();
    let rest = path.strip_prefix(&fixed).unwrap_or(Path::new(""));
    let real = crate::files::real_path(&fixed).join(rest);
    let mut texts = vec![path.to_string_lossy().into_owned()];
    texts.extend(Some(real.to_string_lossy().into_owned()).filter(|real| *real != texts[0]));
    let folders: Vec<String> = texts.iter().filter_map(|text| text.strip_suffix("/**")).map(str::to_owned).collect();
    texts.iter().chain(folders.iter().filter(|folder| !folder.is_empty())).map(|text| Pattern::of_paths(text)).collect()
}

#[cfg(test)]
mod tests;
