use super::super::test_support::{Bench, text};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::os::unix::fs::symlink;

fn numbered(lines: usize) -> String {
    (1..=lines).map(|n| format!("{n}\n")).collect()
}

fn read_text(bench: &Bench, arguments: Value) -> String {
    let output = bench.run(&Read, arguments);
    assert!(!output.is_error, "{output:?}");
    text(&output).to_owned()
}

#[test]
fn text_is_returned_as_it_is() {
    let bench = Bench::new();
    for content in ["", "a", "a\n", "a\r\nb\r\n\n", "\u{feff}bom", &numbered(2000), &"x".repeat(51_200)] {
        bench.write("f", content);
        assert_eq!(bench.run(&Read, json!({"path": "f"})), ToolOutput::text(content));
    }
    bench.write("latin", b"caf\xe9\n");
    assert_eq!(read_text(&bench, json!({"path": "latin"})), "caf\u{fffd}\n");
    bench.write("nul", b"a\0b");
    assert_eq!(read_text(&bench, json!({"path": "nul"})), "a\0b");
}

#[test]
fn ranges_and_their_notices() {
    let bench = Bench::new();
    bench.write("f", "1\n2\n3\n4\n5\n");
    bench.write("open", "1\n2\n3");
    for (arguments, expected) in [
        (json!({"path": "f", "offset": 4}), "4\n5\n"),
        (json!({"path": "f", "offset": "4"}), "4\n5\n"),
        (json!({"path": "f", "offset": 0}), "1\n2\n3\n4\n5\n"),
        (json!({"path": "f", "offset": -3}), "1\n2\n3\n4\n5\n"),
        (json!({"path": "f", "offset": 6}), ""),
        (json!({"path": "f", "limit": 2}), "1\n2\n\n[3 more lines in file. Use offset=3 to continue.]"),
        (json!({"path": "f", "offset": 2, "limit": 3}), "2\n3\n4\n\n[1 more lines in file. Use offset=5 to continue.]"),
        (json!({"path": "f", "offset": 2, "limit": 4}), "2\n3\n4\n5"),
        (json!({"path": "f", "limit": 100}), "1\n2\n3\n4\n5\n"),
        (json!({"path": "f", "limit": 0}), "1\n\n[4 more lines in file. Use offset=2 to continue.]"),
        (json!({"path": "f", "limit": null}), "1\n2\n3\n4\n5\n"),
        (json!({"path": "open", "limit": 2}), "1\n2\n\n[1 more lines in file. Use offset=3 to continue.]"),
        (json!({"path": "open", "offset": 3}), "3"),
    ] {
        assert_eq!(read_text(&bench, arguments.clone()), expected, "{arguments}");
    }
    for (path, offset, message) in [
        ("f", 7, "Offset 7 is beyond end of file (6 lines total)"),
        ("open", 4, "Offset 4 is beyond end of file (3 lines total)"),
    ] {
        let output = bench.run(&Read, json!({"path": path, "offset": offset}));
        assert_eq!(output, ToolOutput::error(message));
    }
}

#[test]
fn too_many_lines_are_cut() {
    let bench = Bench::new();
    bench.write("f", numbered(2001));
    let output = bench.run(&Read, json!({"path": "f"}));
    assert!(text(&output).starts_with("1\n2\n"));
    assert!(text(&output).ends_with("\n2000\n\n[Showing lines 1-2000 of 2001. Use offset=2001 to continue.]"));
    let truncation = &output.details.expect("details")["truncation"];
    assert_eq!(truncation["truncatedBy"], "lines");
    assert_eq!((&truncation["totalLines"], &truncation["outputLines"]), (&json!(2001), &json!(2000)));
    assert_eq!(read_text(&bench, json!({"path": "f", "offset": 2001})), "2001\n");
    assert!(
        read_text(&bench, json!({"path": "f", "offset": 2, "limit": 2000})).ends_with("\n2001"),
        "2,000 lines are not too many"
    );
}

#[test]
fn too_many_bytes_are_cut_at_a_line() {
    let bench = Bench::new();
    let line = format!("{}\n", "y".repeat(49));
    bench.write("f", line.repeat(1024));
    assert_eq!(bench.run(&Read, json!({"path": "f"})).details, None, "51,200 bytes are not too many");
    bench.write("f", format!("{}z", line.repeat(1024)));
    let output = bench.run(&Read, json!({"path": "f"}));
    let notice = "\n\n[Showing lines 1-1024 of 1025 (50.0KB limit). Use offset=1025 to continue.]";
    assert!(text(&output).ends_with(notice), "{}", &text(&output)[51_000..]);
    assert_eq!(output.details.expect("details")["truncation"]["totalBytes"], 51_201);
    let output = bench.run(&Read, json!({"path": "f", "offset": 2, "limit": 1024}));
    assert!(text(&output).ends_with(&format!("{}\nz", "y".repeat(49))), "one line less fits");
}

#[test]
fn a_line_over_the_limit_is_not_shown() {
    let bench = Bench::new();
    bench.write("my file", format!("short\n{}\nshort\n", "x".repeat(61_440)));
    let output = bench.run(&Read, json!({"path": "my file", "offset": 2}));
    assert_eq!(
        text(&output),
        format!(
            "[Line 2 is 60.0KB, exceeds 50.0KB limit. Use bash: sed -n '2p' '{}' | head -c 51200]",
            bench.path("my file").display()
        )
    );
    assert_eq!(output.details.expect("details")["truncation"]["firstLineExceedsLimit"], true);
    let before = read_text(&bench, json!({"path": "my file"}));
    assert_eq!(before, "short\n\n[Showing lines 1-1 of 3 (50.0KB limit). Use offset=2 to continue.]");
}

#[test]
fn huge_files_are_read_only_as_far_as_needed() {
    let bench = Bench::new();
    let sparse = std::fs::File::create(bench.path("sparse")).expect("it is created");
    sparse.set_len(4 << 30).expect("it is enlarged");
    assert!(
        read_text(&bench, json!({"path": "sparse"})).starts_with("[Line 1 is more than 10.0MB, exceeds 50.0KB limit.")
    );
    // Many lines, then a hole: how many more there are is not found out.
    bench.write("long", numbered(3000));
    std::fs::File::options()
        .append(true)
        .open(bench.path("long"))
        .expect("it opens")
        .set_len(4 << 30)
        .expect("it grows");
    for (arguments, end) in [
        (json!({"path": "long"}), "[Showing lines 1-2000 of more than 3000. Use offset=2001 to continue.]"),
        (
            json!({"path": "long", "offset": 10, "limit": 3}),
            "12\n\n[More than 2988 more lines in file. Use offset=13 to continue.]",
        ),
    ] {
        let text = read_text(&bench, arguments);
        assert!(text.ends_with(end), "{}", &text[text.len() - 100..]);
    }
}

/// A file of one endless line that counts what was read of it, and can cancel the reading.
struct Endless<'a> {
    left: u64,
    cancel: Option<&'a Cancel>,
}

impl io::Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buffer[..length].fill(0);
        self.left -= length as u64;
        if self.left < 1 << 30
            && let Some(cancel) = self.cancel
        {
            cancel.cancel();
        }
        Ok(length)
    }
}

#[test]
fn memory_stays_bounded_and_a_long_search_can_be_cancelled() {
    let mut file = Endless { left: 4 << 30, cancel: None };
    let found = select(&mut file, Range { start: 0, limit: None }, &Cancel::new());
    let Ok(found) = found else { panic!("it is read") };
    assert!(found.bytes.capacity() <= 2 * MAX_BYTES, "{} bytes are held", found.bytes.capacity());
    assert!(file.left > (4 << 30) - 2 * MAX_COUNTED, "{} bytes are left", file.left);
    let cancel = Cancel::new();
    let file = Endless { left: (1 << 30) + 1, cancel: Some(&cancel) };
    let found = select(file, Range { start: 5, limit: Some(1) }, &cancel);
    assert!(matches!(found, Err(Failure::Aborted)));
}

#[test]
fn characters_and_chunks_may_be_cut_anywhere() {
    let bench = Bench::new();
    // Lines of multi-byte characters that do not line up with the chunks.
    let content = "€uro-äöü-😀\n".repeat(9000);
    bench.write("f", &content);
    let text = read_text(&bench, json!({"path": "f", "offset": 8999}));
    assert_eq!(text, "€uro-äöü-😀\n".repeat(2));
    let text = read_text(&bench, json!({"path": "f", "offset": 3000, "limit": 2000}));
    assert_eq!(
        text,
        format!(
            "{}€uro-äöü-😀\n\n[4001 more lines in file. Use offset=5000 to continue.]",
            "€uro-äöü-😀\n".repeat(1999)
        )
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let bench = Bench::new();
    bench.fifo("fifo");
    symlink("loop", bench.path("loop")).expect("a link");
    for (path, message) in [
        ("none.txt", "ENOENT: no such file or directory"),
        (".", "EISDIR: is a directory"),
        ("fifo", "EINVAL: not a regular file but a named pipe"),
        ("/dev/zero", "EINVAL: not a regular file but a device"),
        ("loop", "ELOOP: too many levels of symbolic links"),
        ("a\0b", "EINVAL: file name contained an unexpected NUL byte"),
    ] {
        let output = bench.run(&Read, json!({"path": path}));
        let shown = if path == "." { bench.cwd.clone() } else { bench.path(path) };
        assert_eq!(output, ToolOutput::error(format!("{message}: {}", shown.display())));
    }
    bench.write("f", "x");
    symlink("f", bench.path("link")).expect("a link");
    assert_eq!(read_text(&bench, json!({"path": "link"})), "x");
    assert_eq!(read_text(&bench, json!({"path": "~/f"})), "x");
}

#[test]
fn images_are_told_by_their_bytes_and_returned_as_images() {
    let mut bench = Bench::new();
    let png = images::format::tests::png(2000, 2000);
    bench.write("picture.txt", &png);
    let block = Block::Image { data: STANDARD.encode(&png), mime_type: "image/png".into() };
    let output = bench.run(&Read, json!({"path": "picture.txt"}));
    assert_eq!(output.content, [Block::text("Read image file [image/png]"), block.clone()]);
    bench.images = false;
    let output = bench.run(&Read, json!({"path": "picture.txt"}));
    let hint = "[Current model does not support images. The image will be omitted from this request.]";
    assert_eq!(output.content, [Block::text(format!("Read image file [image/png]\n{hint}")), block]);
}

#[test]
fn images_that_are_left_out_are_told() {
    let bench = Bench::new();
    bench.write("damaged", images::format::tests::cut_png(2001, 10));
    let huge = std::fs::File::create(bench.path("huge")).expect("it is created");
    std::io::Write::write_all(&mut &huge, &images::format::tests::cut_png(10, 10)).expect("it is written");
    huge.set_len(4 << 30).expect("it is enlarged");
    for (path, reason) in [
        ("damaged", "[Image omitted: the file is damaged or incomplete, and cannot be decoded.]"),
        ("huge", "[Image omitted: could not be resized below the inline image size limit.]"),
    ] {
        let output = bench.run(&Read, json!({"path": path}));
        assert_eq!(output, ToolOutput::text(format!("Read image file [image/png]\n{reason}")));
    }
}
