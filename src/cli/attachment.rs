//! Image files that go with a message.

use super::failure::Failure;
use crate::files;
use crate::images::sniff;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::Path;

/// What the images of one message may have together, bytes: as base64 they fill a record, which has 1 MiB, but for the message.
const MAX_IMAGES: usize = 760_000;
/// The largest file that is read, bytes: enough to say how much too large it is.
const MAX_FILE: u64 = 64 << 20;

/// The content of a message with these image files, as PI has it.
///
/// # Errors
/// A file cannot be read, is no image, or is too large for a request.
pub(super) fn content<'a>(text: &str, images: impl Iterator<Item = &'a str>) -> Result<Value, Failure> {
    let mut parts = vec![json!({"type": "text", "text": text})];
    let mut total = 0;
    for path in images {
        let wrong = |why: String| Failure::Usage(format!("--image {path}: {why}"));
        let data = files::read(Path::new(path), MAX_FILE).map_err(|e| wrong(e.to_string()))?;
        let format = sniff(&data).ok_or_else(|| wrong("that is no PNG, JPEG, GIF, WebP or BMP".into()))?;
        total += data.len();
        if total > MAX_IMAGES {
            let why = format!("{total} bytes of images; a message may have {MAX_IMAGES}, so make them smaller first");
            return Err(wrong(why));
        }
        parts.push(json!({"type": "image", "data": STANDARD.encode(&data), "mimeType": format.mime_type()}));
    }
    Ok(parts.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, data: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, data).expect("written");
            path.to_string_lossy().into_owned()
        };
        let gif = file("a.txt", b"GIF89a rest");
        assert_eq!(
            content("look", [gif.as_str()].into_iter()).expect("content"),
            json!([{"type": "text", "text": "look"},
                {"type": "image", "data": "R0lGODlhIHJlc3Q=", "mimeType": "image/gif"}])
        );
        let text = file("a.gif", b"no image");
        let large = file("b.gif", &[b"GIF89a".as_slice(), &[0; MAX_IMAGES]].concat());
        for (path, part) in
            [(text.as_str(), "is no PNG"), (large.as_str(), "make them smaller"), ("/no/file", "No such")]
        {
            let error = content("x", [path].into_iter()).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("--image {path}: ")) && error.contains(part), "{error}");
        }
    }
}
