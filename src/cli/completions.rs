//! Shell completions, made of the table.

use super::table::{FLAGS, FlagRow, Offer, VERBS, VerbRow};

/// The completion script for a shell, absent for a shell that is not known.
pub(super) fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// The pipeline that prints the values of a key in the list of sessions, one a line; `key` is how the shell names the key.
/// The list has one key a line.
fn listed(key: &str) -> String {
    let pick = r#"s/^ *\"KEY\": \"*\([^\"]*[^\",]\)\"*,*\$/\1/p"#.replace("KEY", key);
    format!("pi-bridge list --json 2>/dev/null | sed -n \"{pick}\" | sort -u")
}

fn bash() -> String {
    let verbs: Vec<&str> = VERBS.iter().flat_map(VerbRow::names).collect();
    let mut values = String::new();
    let mut named: Vec<&str> = Vec::new();
    // Where two options share a name, the same is offered for both.
    for flag in FLAGS.iter().filter(|flag| flag.value.is_some()) {
        if !named.contains(&flag.names[0]) {
            named.extend(flag.names);
            values.push_str(&format!("        {}) {}return ;;\n", flag.names.join("|"), bash_reply(flag.offer)));
        }
    }
    let mut verb_cases = String::new();
    for row in VERBS {
        let pattern = row.names().collect::<Vec<_>>().join("|");
        let flags = row.flags().flat_map(|flag| flag.names).copied().collect::<Vec<_>>().join(" ");
        let words = match row.offer {
            Offer::Key(key) => format!("$(_pi_bridge_values {key})"),
            Offer::OneOf(texts) => texts.join(" "),
            Offer::Nothing | Offer::Directories | Offer::Files => String::new(),
        };
        let words = if words.is_empty() { words } else { format!("; [[ $cur != -* ]] && words=\"{words}\"") };
        verb_cases.push_str(&format!("        {pattern}) flags='{flags}'{words} ;;\n"));
    }
    format!(
        "# bash completion for pi-bridge
_pi_bridge_values() {{
    {listed}
}}
_pi_bridge() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} flags= words=
    local IFS=$' \\t\\n'
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W '{verbs} --help --version' -- \"$cur\"))
        return
    fi
    case $prev in
{values}    esac
    case ${{COMP_WORDS[1]}} in
{verb_cases}    esac
    [[ $cur == -* ]] && words=$flags
    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))
}}
complete -F _pi_bridge pi-bridge
",
        listed = listed("$1"),
        verbs = verbs.join(" ")
    )
}

/// The commands that offer values for an option.
fn bash_reply(offer: Offer) -> String {
    let generated = match offer {
        Offer::Nothing => return String::new(),
        Offer::Directories => "-d".to_string(),
        Offer::Files => "-f".to_string(),
        Offer::Key(key) => format!("-W \"$(_pi_bridge_values {key})\""),
        Offer::OneOf(texts) => format!("-W '{}'", texts.join(" ")),
    };
    format!("COMPREPLY=($(compgen {generated} -- \"$cur\")); ")
}

fn zsh() -> String {
    let mut verbs = String::new();
    let mut cases = String::new();
    for row in VERBS {
        for name in row.names() {
            verbs.push_str(&format!("        '{name}:{}'\n", zsh_text(row.help)));
        }
        let pattern = row.names().collect::<Vec<_>>().join("|");
        let mut specs: Vec<String> = row.flags().flat_map(zsh_flag).collect();
        specs.push(format!("'*:word:{}'", zsh_action(row.offer)));
        cases.push_str(&format!(
            "        {pattern})\n            _arguments {}\n            ;;\n",
            specs.join(" \\\n                ")
        ));
    }
    format!(
        "#compdef pi-bridge
# zsh completion for pi-bridge
_pi_bridge_values() {{
    local -a found
    found=(${{(f)\"$({listed})\"}})
    compadd -a found
}}
_pi_bridge() {{
    local -a verbs
    verbs=(
{verbs}    )
    if (( CURRENT == 2 )); then
        _describe subcommand verbs
        return
    fi
    local verb=$words[2]
    shift words
    (( CURRENT-- ))
    case $verb in
{cases}    esac
}}
if [[ $funcstack[1] == _pi_bridge ]]; then
    _pi_bridge \"$@\"
else
    compdef _pi_bridge pi-bridge
fi
",
        listed = listed("$1")
    )
}

/// A text within single quotes in which zsh finds no syntax of its own.
fn zsh_text(text: &str) -> String {
    text.replace('\'', "'\\''").replace(':', "\\:").replace('[', "\\[").replace(']', "\\]")
}

/// The specifications of an option for `_arguments`, one for each name.
fn zsh_flag(flag: &FlagRow) -> Vec<String> {
    let help = zsh_text(flag.help);
    let argument = flag.value.map_or(String::new(), |value| format!(":{value}:{}", zsh_action(flag.offer)));
    flag.names.iter().map(|name| format!("'*{name}[{help}]{argument}'")).collect()
}

fn zsh_action(offer: Offer) -> String {
    match offer {
        Offer::Nothing => " ".to_string(),
        Offer::Directories => "_files -/".to_string(),
        Offer::Files => "_files".to_string(),
        Offer::Key(key) => format!("{{_pi_bridge_values {key}}}"),
        Offer::OneOf(texts) => format!("({})", texts.join(" ")),
    }
}

fn fish() -> String {
    let mut out = format!(
        "# fish completion for pi-bridge\nfunction __pi_bridge_values\n    {}\nend\ncomplete -c pi-bridge -f\n",
        listed("$argv[1]")
    );
    for row in VERBS {
        for name in row.names() {
            out.push_str(&format!(
                "complete -c pi-bridge -n __fish_use_subcommand -a {name} -d '{}'\n",
                fish_text(row.help)
            ));
        }
        let condition = format!("'__fish_seen_subcommand_from {}'", row.names().collect::<Vec<_>>().join(" "));
        if let Some(offered) = fish_offer(row.offer) {
            out.push_str(&format!("complete -c pi-bridge -n {condition} {offered}\n"));
        }
        for flag in row.flags() {
            let mut names = String::new();
            for name in flag.names {
                match name.strip_prefix("--") {
                    Some(long) => names.push_str(&format!(" -l {long}")),
                    None => names.push_str(&format!(" -s {}", name.trim_start_matches('-'))),
                }
            }
            let value = match flag.value {
                None => String::new(),
                Some(_) => {
                    format!(" -r{}", fish_offer(flag.offer).map_or(String::new(), |offered| format!(" {offered}")))
                }
            };
            out.push_str(&format!(
                "complete -c pi-bridge -n {condition}{names}{value} -d '{}'\n",
                fish_text(flag.help)
            ));
        }
    }
    out
}

/// A text within single quotes of fish.
fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn fish_offer(offer: Offer) -> Option<String> {
    match offer {
        Offer::Nothing => None,
        Offer::Directories => Some("-a '(__fish_complete_directories)'".to_string()),
        Offer::Files => Some("-F".to_string()),
        Offer::Key(key) => Some(format!("-a '(__pi_bridge_values {key})'")),
        Offer::OneOf(texts) => Some(format!("-a '{}'", texts.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_subcommand_and_option() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell).expect("a script");
            for row in VERBS {
                for name in row.names() {
                    assert!(script.contains(name), "{name} in {shell}");
                }
                for name in row.flags().flat_map(|flag| flag.names) {
                    let name = if shell == "fish" { name.trim_start_matches('-') } else { name };
                    assert!(script.contains(name), "{name} in {shell}");
                }
            }
        }
        assert!(script("tcsh").is_none());
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(zsh_text("it's [a]: b"), "it'\\''s \\[a\\]\\: b");
        assert_eq!(fish_text("it's \\"), "it\\'s \\\\");
        for row in FLAGS.iter().map(|row| row.help).chain(VERBS.iter().map(|row| row.help)) {
            assert!(!row.contains(['\n', '`']), "{row}");
        }
    }
}
