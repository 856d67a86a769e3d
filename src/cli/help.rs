//! The help texts, made of the table.

use super::table::{FlagRow, VERBS, VerbRow};

/// Column in which the explanations begin.
const COLUMN: usize = 30;

/// What `pi-bridge --help` prints.
pub(super) fn usage() -> String {
    let mut out = String::from(
        "pi-bridge: drives live agent sessions of this machine\n\nUsage: pi-bridge SUBCOMMAND [options] [words]\n\n",
    );
    for row in VERBS {
        line(&mut out, format!("{} {}", row.name, row.arguments), row.help);
    }
    out.push_str(
        "\nThe session may be left out when there is exactly one. pi-bridge SUBCOMMAND --help tells more.\n\
         Sessions are registered in $PI_BRIDGE_DIR, or else pi-session-bridge-<uid> in the folder for temporary files.\n",
    );
    out
}

/// What `pi-bridge SUBCOMMAND --help` prints.
pub(super) fn of(row: &VerbRow) -> String {
    let mut out = format!("pi-bridge {}: {}\n\nUsage: pi-bridge {} [options]", row.name, row.help, row.name);
    if !row.arguments.is_empty() {
        out.push(' ');
        out.push_str(row.arguments);
    }
    out.push('\n');
    if !row.aliases.is_empty() {
        out.push_str(&format!("Also: {}\n", row.aliases.join(", ")));
    }
    if !row.notes.is_empty() {
        out.push('\n');
        out.push_str(row.notes);
    }
    out.push_str("\nOptions:\n");
    for flag in row.flags() {
        line(&mut out, flag_text(flag), flag.help);
    }
    out
}

fn flag_text(flag: &FlagRow) -> String {
    let names = flag.names.join(", ");
    flag.value.map_or(names.clone(), |value| format!("{names} {value}"))
}

fn line(out: &mut String, left: String, right: &str) {
    let left = left.trim_end();
    out.push_str(&format!("  {left:<width$} {right}\n", width = COLUMN - 3));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_a_wide_terminal() {
        for text in VERBS.iter().map(of).chain([usage()]) {
            for line in text.lines() {
                assert!(line.chars().count() <= 120, "{line}");
                assert!(
                    !line.starts_with("  ") || line.len() < COLUMN || line.as_bytes()[COLUMN - 3..].contains(&b' ')
                );
            }
        }
    }

    #[test]
    fn help_names_what_there_is() {
        let usage = usage();
        for row in VERBS {
            assert!(usage.contains(&format!("  {}", row.name)), "{}", row.name);
            let own = of(row);
            for name in row.aliases.iter().chain(row.flags().flat_map(|flag| flag.names)) {
                assert!(own.contains(name), "{name} of {}", row.name);
            }
        }
    }
}
