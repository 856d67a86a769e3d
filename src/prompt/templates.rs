//! Prompt templates: texts with placeholders, invoked as `/name arguments`.

use super::boundary::Boundary;
use super::places::Places;
use super::text_file::read;
use super::{frontmatter, resources};
use std::path::{Path, PathBuf};

/// The name of the gap that all arguments go into.
const ALL: &str = "ARGUMENTS";
/// Most templates of one session.
const MAX_TEMPLATES: usize = 500;

/// One template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    pub name: String,
    /// For people who choose; empty if it has none.
    pub description: String,
    /// What to write after the name; empty if it does not say.
    pub argument_hint: String,
    pub body: String,
    /// The file that it comes from, absolute.
    pub file: PathBuf,
}

/// The templates of the user, of the project if it is trusted, and of the folders and files that the settings name, in this order. Of several
/// with one name the first one counts. What cannot be read is left out; the log tells.
pub(crate) fn discover(places: &Places<'_>) -> Vec<Template> {
    let mut paths = markdown_in(&places.agent_dir.join("prompts"), &Boundary::of_user(places));
    if places.project_trusted {
        paths.extend(markdown_in(&places.cwd.join(".pi/prompts"), &Boundary::of_repository(places.cwd)));
    }
    for (path, boundary) in resources::named(places, "prompts") {
        if path.is_file() { paths.push((path, boundary)) } else { paths.extend(markdown_in(&path, &boundary)) }
    }
    let mut templates: Vec<Template> = Vec::new();
    for (path, boundary) in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if templates.len() >= MAX_TEMPLATES || templates.iter().any(|known| known.name == name) {
            log::warn!("the template in {} is left out: its name is taken, or there are too many", path.display());
            continue;
        }
        match read(&path, &boundary) {
            Ok(text) => templates.push(parse(name, &text, path)),
            Err(error) => log::warn!("the template in {} is left out: {error}", path.display()),
        }
    }
    templates
}

fn markdown_in(dir: &Path, boundary: &Boundary) -> Vec<(PathBuf, Boundary)> {
    if !dir.is_dir() || !boundary.admits_folder(dir) {
        return Vec::new();
    }
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    let is_markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md") && path.is_file();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_markdown).collect();
    paths.sort();
    paths.into_iter().map(|path| (path, boundary.clone())).collect()
}

fn parse(name: String, text: &str, file: PathBuf) -> Template {
    let (mut head, body) = frontmatter::parse(text);
    Template {
        name,
        description: head.remove("description").unwrap_or_default(),
        argument_hint: head.remove("argument-hint").unwrap_or_default(),
        body: body.trim().to_owned(),
        file,
    }
}

/// What a model gets for `/NAME ARGUMENTS`. `None` = `text` invokes no known template.
///
/// # Errors
/// The template comes to nothing, which is no question to a model.
pub(crate) fn expand(text: &str, templates: &[Template]) -> Option<Result<String, String>> {
    let call = text.strip_prefix('/')?;
    let (name, arguments) = call.split_once(char::is_whitespace).unwrap_or((call, ""));
    let template = templates.iter().find(|template| template.name == name)?;
    let text = filled(&template.body, &words(arguments));
    if text.trim().is_empty() {
        let file = template.file.display();
        return Some(Err(format!("the template in {file} comes to an empty text with these arguments")));
    }
    Some(Ok(text))
}

/// The words of `text`; quotes of either kind keep several together. An apostrophe behind a letter or a digit is one of
/// `text`'s own, and so is any quote that is never closed.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut before = None;
    // Whether there may be an apostrophe that closes something.
    let mut closes = true;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let quoted = match c {
            '"' => quoted(rest, before),
            '\'' if closes && !before.is_some_and(char::is_alphanumeric) => {
                let found = quoted(rest, before);
                closes = found.is_some();
                found
            }
            _ => None,
        };
        let length = quoted.map_or(c.len_utf8(), |inner| inner.len() + 2);
        match quoted {
            Some(inner) => word.get_or_insert_default().push_str(inner),
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
        before = Some(c);
        rest = &rest[length..];
    }
    words.extend(word);
    words
}

/// What stands in the quotes of which `text`, which follows `before`, begins with the first.
fn quoted(text: &str, before: Option<char>) -> Option<&str> {
    let is_inside_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let inner = &text[1..];
    if text.starts_with('"') {
        return Some(&inner[..inner.find('"')?]);
    }
    let closes = |(at, _): &(usize, &str)| !is_inside_word(inner[at + 1..].chars().next());
    let (end, _) = inner.match_indices('\'').find(closes).filter(|_| !is_inside_word(before))?;
    Some(&inner[..end])
}

/// The body with its gaps filled. What is put in is not looked at again.
fn filled(body: &str, arguments: &[String]) -> String {
    let mut result = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match gap(rest, arguments) {
            Some((value, length)) => {
                result.push_str(&value);
                rest = &rest[length..];
            }
            None => result.push('$'),
        }
    }
    result.push_str(rest);
    result
}

/// The value of the gap that `text`, which followed a `$`, begins with, and the gap's length.
fn gap(text: &str, arguments: &[String]) -> Option<(String, usize)> {
    if text.starts_with('@') {
        return Some((arguments.join(" "), 1));
    }
    if text.starts_with(ALL) {
        return Some((arguments.join(" "), ALL.len()));
    }
    if let Some(inner) = text.strip_prefix('{') {
        let inner = &inner[..inner.find('}')?];
        return Some((braced(inner, arguments)?, inner.len() + 2));
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| (argument(&text[..digits], arguments).to_owned(), digits))
}

/// Arguments count from 1; one that was not given is empty, as is that of number 0.
fn argument<'a>(number: &str, arguments: &'a [String]) -> &'a str {
    let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    index.and_then(|index| arguments.get(index)).map_or("", String::as_str)
}

/// `N:-default`, `@:-default`, `ARGUMENTS:-default`, `@:N` or `@:N:L`.
fn braced(inner: &str, arguments: &[String]) -> Option<String> {
    let (what, how) = inner.split_once(':')?;
    if let Some(default) = how.strip_prefix('-') {
        let value = match what {
            "@" | ALL => arguments.join(" "),
            number if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                argument(number, arguments).to_owned()
            }
            _ => return None,
        };
        return Some(if value.is_empty() { default.to_owned() } else { value });
    }
    if what != "@" {
        return None;
    }
    let (first, length) = match how.split_once(':') {
        Some((first, length)) => (first, length.parse().ok()?),
        None => (how, usize::MAX),
    };
    let skip = first.parse::<usize>().ok()?.saturating_sub(1);
    Some(arguments.iter().skip(skip).take(length).cloned().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::Tree;
    use super::*;

    #[test]
    fn words_are_split_with_regard_to_quotes() {
        for (text, expected) in [
            ("", &[][..]),
            ("  a  b\n", &["a", "b"]),
            ("a 'b c' \"d 'e'\"", &["a", "b c", "d 'e'"]),
            ("don't panic and don't stop", &["don't", "panic", "and", "don't", "stop"]),
            ("the users' and O'Brien's", &["the", "users'", "and", "O'Brien's"]),
            ("'don't panic' x", &["don't panic", "x"]),
            ("--title='two words' --name=\"it's me\"", &["--title=two words", "--name=it's me"]),
            ("a '' \"\" b", &["a", "", "", "b"]),
            ("open \"quote stays", &["open", "\"quote", "stays"]),
            ("'tis open", &["'tis", "open"]),
            ("one\n\ntwo\tthree\u{a0}four", &["one", "two", "three", "four"]),
            ("é'ü 日本'語", &["é'ü", "日本'語"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn gaps_are_filled() {
        let arguments = ["one", "two words", "$1"].map(str::to_owned);
        for (body, expected) in [
            ("$1-$2-$3-$4.", "one-two words-$1-."),
            ("$@|$ARGUMENTS", "one two words $1|one two words $1"),
            ("${1:-x} ${9:-none} ${9:-}", "one none "),
            ("${@:-all} ${ARGUMENTS:-all}", "one two words $1 one two words $1"),
            ("[$0] [${0:-none}] [$99999999999999999999]", "[] [none] []"),
            ("${@:2}|${@:2:1}|${@:9}|${@:1:0}", "two words $1|two words||"),
            ("$x ${x} ${1} ${1:y} ${x:-y} ${:-y} $ ${", "$x ${x} ${1} ${1:y} ${x:-y} ${:-y} $ ${"),
            ("costs $12", "costs "),
            ("ä$1ö", "äoneö"),
        ] {
            assert_eq!(filled(body, &arguments), expected, "{body}");
        }
        assert_eq!(filled("${@:-all} ${ARGUMENTS:-every thing} $1.", &[]), "all every thing .");
    }

    #[test]
    fn templates_are_found_and_called_up() {
        let tree = Tree::new(&[
            ("agent/prompts/fix.md", "---\ndescription: Fix it\nargument-hint: ISSUE\n---\n\nFix $1 now.\n"),
            ("agent/prompts/notes.txt", "not a template"),
            ("p/.pi/prompts/fix.md", "not taken, as the name is known"),
            ("p/.pi/prompts/test.md", "Test $ARGUMENTS"),
            ("p/.pi/prompts/as-is.md", "---\ndescription: x\n---\n$ARGUMENTS"),
        ]);
        let names = |trusted| discover(&tree.places("p", trusted)).into_iter().map(|t| t.name).collect::<Vec<_>>();
        let all = ["fix", "as-is", "test"].map(str::to_owned);
        assert_eq!((names(false), names(true)), (vec!["fix".to_owned()], all.to_vec()));
        tree.write("agent/settings.json", br#"{"prompts":["more"]}"#);
        tree.write("agent/more/late.md", b"Late");
        let templates = discover(&tree.places("p", true));
        assert_eq!(templates.last().map(|template| template.name.as_str()), Some("late"));
        assert_eq!((templates[0].description.as_str(), templates[0].argument_hint.as_str()), ("Fix it", "ISSUE"));
        for (text, expected) in [
            ("/fix 'issue 7'", Some("Fix issue 7 now.")),
            ("/test a\nb", Some("Test a b")),
            ("/test\na isn't\r\nb", Some("Test a isn't b")),
            ("/as-is do it", Some("do it")),
            ("/test", Some("Test ")),
            ("/unknown", None),
            ("fix", None),
        ] {
            let found = expand(text, &templates).map(|expanded| expanded.expect(text));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        for text in ["/as-is", "/as-is   ", "/as-is ''"] {
            let error = expand(text, &templates).expect("it is known").expect_err("there is nothing");
            assert!(error.contains("as-is.md"), "{error}");
        }
    }
}
