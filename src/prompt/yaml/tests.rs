use super::texts;

fn key(yaml: &str) -> Option<String> {
    texts(yaml).remove("key")
}

/// The forms in which people write such heads.
#[test]
fn texts_of_people() {
    for (yaml, expected) in [
        ("key: plain value", "plain value"),
        ("key:\tafter a tab  ", "after a tab"),
        ("key : spaced", "spaced"),
        ("\"key\" : spaced", "spaced"),
        ("'key': x", "x"),
        ("  key: indented\n  other: x", "indented"),
        ("key: it's: fine # comment", "it's: fine"),
        ("key: a#b  # comment\n  no part of it", "a#b"),
        ("key: # nothing but a comment", ""),
        ("key:", ""),
        ("key: ~\nother: x", ""),
        ("key: null", ""),
        ("key: 'null'", "null"),
        ("key: true", "true"),
        ("key: 0x1F", "0x1F"),
        ("key: 1.50", "1.50"),
        ("key: 2026-11-27", "2026-11-27"),
        ("key: [path] [options]", "[path] [options]"),
        ("key: -x --long", "-x --long"),
        ("key: @everyone", "@everyone"),
        ("key: \"half quoted\" text", "\"half quoted\" text"),
        ("key: \"no end", "\"no end"),
        ("key: !!str tagged", "tagged"),
        ("key: &anchor anchored", "anchored"),
        ("# comment\n\nkey: x", "x"),
        ("key: x\nother: y", "x"),
        ("key: first\nkey: second", "second"),
        ("other:\n  key: deep\nkey: top", "top"),
        ("other:\n- key: in a list\n- x\nkey: top", "top"),
        ("other:\n  - a\n  - b\nkey: top", "top"),
        ("key: goes on\n  in the next\n\n  line", "goes on in the next\nline"),
        ("key:\n  in the next line\n  and on", "in the next line and on"),
        ("key:\n\n  # comment\n  'quoted there'\nother: x", "quoted there"),
        ("key: x\r\nother: y\r\n", "x"),
        ("key: |\r\n  one\r\n  two\r\nother: y\r\n", "one\ntwo"),
    ] {
        assert_eq!(key(yaml).as_deref(), Some(expected), "{yaml}");
    }
    for yaml in
        ["", "other: x", "key", "key:x", "other:\n  key: deep", "key:\n  - a", "key:\n  a: b", "- key: x", "# key: x"]
    {
        assert_eq!(key(yaml), None, "{yaml}");
    }
}

/// The forms in which YAML writers write texts that are no plain words.
#[test]
fn texts_of_writers() {
    for (yaml, expected) in [
        (r#"key: "\u4F60\u597D: ok""#, "你好: ok"),
        (r#"key: "\x41\U0001F600\ud83d\ude00""#, "A😀😀"),
        (r#"key: "\ud83d alone""#, "\u{fffd} alone"),
        (
            r#"key: "\0\a\b\t\n\v\f\r\e\N\_\L\P\"\/\\\ ""#,
            "\0\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1b}\u{85}\u{a0}\u{2028}\u{2029}\"/\\ ",
        ),
        (r#"key: "a # b: c" # comment"#, "a # b: c"),
        ("key: \"folded\n  line  \n\n  and \\\n  on\\\n  \\ here\"", "folded line\nand on here"),
        ("key: \"kept blank\\t \n  x\"", "kept blank\t x"),
        ("key: 'it''s #quoted'", "it's #quoted"),
        ("key: 'a\n\n\n  b'", "a\n\nb"),
        ("key: ''", ""),
        ("key: \" blanks \"", " blanks "),
        ("key: >\n  folded\n  text\n\n  and more\n", "folded text\nand more"),
        ("key: >-\n  folded\nother: x", "folded"),
        ("key: >2\n   with a blank in front\n  and on\n", " with a blank in front\nand on"),
        ("key: >\n  list:\n\n    - a\n    - b\n\n  end\n  of it", "list:\n\n  - a\n  - b\n\nend of it"),
        ("key: |\n  line one\n    line two\n\n  three\n", "line one\n  line two\n\nthree"),
        ("key: |+\n  kept\n\n\nother: x", "kept"),
        ("key: |2-\n    two blanks\n", "  two blanks"),
        ("key: |-2 # comment\n    two blanks\n", "  two blanks"),
        ("key: |\n\n  # no comment\n  - no list\n", "\n# no comment\n- no list"),
        ("  key: |\n    in an indented head\n  other: x", "in an indented head"),
        ("key: |\n\tno\nkey: x", "x"),
        ("key: | text", "| text"),
        ("{other: x, key: y}", "y"),
        ("{\"other\": {\"key\": [\"}\", 1]}, \"key\":\"a, b\", x: y}", "a, b"),
        ("{other: [key, x],\n  key: folded\n   text, x: y}", "folded text"),
        ("{key: null}", ""),
    ] {
        assert_eq!(key(yaml).as_deref(), Some(expected), "{yaml}");
    }
}

/// Whatever stands in a file, it is read to its end.
#[test]
fn no_text_is_too_odd() {
    let pieces = [
        "key", ":", " ", "\n", "  ", "\"", "'", "|", ">", "-", "#", "{", "}", "[", "]", ",", "\\", "x4", "!t", "&a",
        "é",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let yaml: String = (0..random.usize(1..14)).map(|_| pieces[random.usize(..pieces.len())]).collect();
        texts(&yaml);
    }
}
