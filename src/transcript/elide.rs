//! Cutting a text inside: its head and its tail stay, and a note between them says how much is missing.

/// No text is made shorter than this many bytes: what is left would say nothing, and the note needs a quarter of it.
pub(crate) const MIN_TEXT: usize = 400;
/// What the note and the blank lines around it take at most, in bytes.
const NOTE_BYTES: usize = 120;
const NOTE_BEGIN: &str = "\n\n[... ";
const NOTE_END: &str = " bytes are left out here, because the whole is too long for the model ...]\n\n";

/// `text` in at most `max` bytes (never less than [`MIN_TEXT`]): its head, a note of what is missing, and its tail. A text that
/// was shortened before has one note afterwards, which counts everything that is missing.
pub(crate) fn elide(text: &str, max: usize) -> String {
    let max = max.max(MIN_TEXT);
    if text.len() <= max {
        return text.to_string();
    }
    let (head, missing, tail) = parts(text);
    let room = max - NOTE_BYTES;
    // The beginning says what it is about, the end how it came out.
    let end = head.floor_char_boundary(room / 3 * 2);
    let start = tail.ceil_char_boundary(tail.len().saturating_sub(room / 3));
    // Without an earlier note, head and tail are both the whole text.
    let cut = match missing {
        Some(missing) => missing.saturating_add(head.len() - end + start),
        None => start.saturating_sub(end),
    };
    format!("{}{NOTE_BEGIN}{cut}{NOTE_END}{}", &head[..end], &tail[start..])
}

/// What is before the note of an earlier shortening, the bytes that it counts, and what is behind it. Without such a note
/// the whole text is both.
fn parts(text: &str) -> (&str, Option<usize>, &str) {
    let found = text.split_once(NOTE_END).and_then(|(before, tail)| {
        let (head, missing) = before.rsplit_once(NOTE_BEGIN)?;
        Some((head, Some(missing.parse().ok()?), tail))
    });
    found.unwrap_or((text, None, text))
}

/// The largest limit under which texts of these lengths come to at most `total` bytes together, when the longer ones are
/// cut to it; never less than `least`.
pub(crate) fn limit_for(mut lengths: Vec<usize>, total: usize, least: usize) -> usize {
    lengths.sort_unstable();
    let (mut left, mut count) = (total, lengths.len());
    for length in lengths {
        // All that are left are at least as long as this one: does each of them fit in with as much?
        if length.saturating_mul(count) > left {
            return (left / count).max(least);
        }
        left -= length;
        count -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_stay_with_a_note_of_what_is_missing() {
        let text = format!("HEAD{}TAIL", "ä".repeat(5000));
        for max in [0, 400, 401, 1000, 9999] {
            let short = elide(&text, max);
            assert!(
                short.len() <= max.max(400) && short.starts_with("HEADä") && short.ends_with("äTAIL"),
                "{max} {short}"
            );
            let (head, missing, tail) = parts(&short);
            assert_eq!(head.len() + missing.expect("a note") + tail.len(), text.len(), "{max}");
            // Shortened in two steps, the note is right as well.
            let shorter = elide(&short, max / 2);
            let (head, missing, tail) = parts(&shorter);
            assert_eq!(head.len() + missing.expect("one note") + tail.len(), text.len(), "{max}");
        }
        assert_eq!(elide(&text, text.len()), text);
        assert_eq!(elide("short", 0), "short");
        assert!(elide(&text, 5000).contains("\n\n[... 51"), "{}", elide(&text, 5000));
    }

    #[test]
    fn the_longest_are_cut_first() {
        for (lengths, total, least, expected) in [
            (vec![10, 20, 30], 60, 0, usize::MAX),
            (vec![10, 20, 30], 59, 0, 29),
            (vec![30, 10, 30], 50, 0, 20),
            (vec![30, 30], 2, 7, 7),
            (vec![5], 0, 0, 0),
            (vec![], 0, 3, usize::MAX),
        ] {
            assert_eq!(limit_for(lengths.clone(), total, least), expected, "{lengths:?} {total}");
        }
    }
}
