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
    let (left, width) = (left.trim_end(), COLUMN - 3);
    // What is too long for the column has a line of its own, so that all explanations begin there.
    let gap = if left.len() > width { format!("\n{:COLUMN$}", "") } else { " ".to_string() };
    out.push_str(&format!("  {left:<width$}{gap}{right}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_a_wide_terminal() {
        for text in VERBS.iter().map(of).chain([usage()]) {
            for line in text.lines() {
                assert!(line.chars().count() <= 120, "{line}");
            }
        }
    }

    #[test]
    fn all_explanations_begin_in_one_column() {
        for text in VERBS.iter().map(of).chain([usage()]) {
            let table = text.split("Options:").last().unwrap_or_default();
            // What has a line of its own is explained in the next one.
            let gap = format!("\n{:COLUMN$}", "");
            let below: Vec<&str> = table.split(&gap).filter_map(|text| text.lines().last()).collect();
            for line in table.lines().filter(|line| line.starts_with("  ") && !below.contains(line)) {
                let (left, right) = line.split_at(line.len().min(COLUMN));
                assert!(right.is_empty() || left.ends_with(' ') && !right.starts_with(' '), "{line}");
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
