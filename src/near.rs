//! Names that resemble one that was mistyped.

/// A hint at the name that is nearest to a mistyped one, for the end of an error; empty where none is near.
pub(crate) fn hint<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, names).map_or(String::new(), |name| format!("; did you mean {name}?"))
}

/// The name that takes the fewest changes, if those are few for its length.
fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).clamp(1, 3);
    let near = names.into_iter().map(|name| (distance(&word.to_lowercase(), &name.to_lowercase()), name));
    let (changes, name) = near.min_by_key(|(changes, _)| *changes)?;
    (changes <= most && !name.is_empty()).then_some(name)
}

/// How many characters have to be put in, taken out, replaced, or swapped with their neighbour, to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut above: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut least = (row[j] + usize::from(from != to)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                least = least.min(above[j - 1] + 1);
            }
            next.push(least);
        }
        above = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_others_are_not() {
        let names = ["--stream", "--steer", "--session", "maxSessions", "list", "logs"];
        for (word, expected) in [
            ("--straem", "; did you mean --stream?"),
            ("--sesion", "; did you mean --session?"),
            ("maxsessions", "; did you mean maxSessions?"),
            ("maxSesions", "; did you mean maxSessions?"),
            ("lst", "; did you mean list?"),
            ("lgos", "; did you mean logs?"),
            ("nonsense", ""),
            ("--colour", ""),
            ("x", ""),
            ("", ""),
        ] {
            assert_eq!(hint(word, names), expected, "{word}");
        }
    }
}
