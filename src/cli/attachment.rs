//! Image files that go with a message.

use super::failure::Failure;
use crate::files;
use crate::images::{Format, MAX_SOURCE, sniff};
use crate::socket::MAX_DESCRIPTORS;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

/// What the images of one message may have together to go into its record, bytes: as base64 they fill it, since it has
/// 1 MiB, but for the message. Larger ones go along with it.
pub(super) const MAX_INLINE: usize = 760_000;

/// The content of a message with these image files, as PI has it. What has to go along with the request comes into `along`.
///
/// # Errors
/// A file cannot be read, is no image, or is too large; or there are too many.
pub(super) fn content<'a>(
    text: &str,
    images: impl Iterator<Item = &'a str>,
    along: &mut Vec<OwnedFd>,
) -> Result<Value, Failure> {
    let mut files: Vec<(&str, Format, Vec<u8>)> = Vec::new();
    for path in images {
        let wrong = |why: String| Failure::Usage(format!("--image {path}: {why}"));
        if files.len() == MAX_DESCRIPTORS {
            return Err(wrong(format!("a message may have {MAX_DESCRIPTORS} images")));
        }
        let data = files::read(Path::new(path), MAX_SOURCE).map_err(|e| wrong(e.to_string()))?;
        let format = sniff(&data).ok_or_else(|| wrong("that is no PNG, JPEG, GIF, WebP or BMP".into()))?;
        files.push((path, format, data));
    }
    let inline = files.iter().map(|(.., data)| data.len()).sum::<usize>() <= MAX_INLINE;
    let mut parts = vec![json!({"type": "text", "text": text})];
    for (path, format, data) in files {
        let mut part = json!({"type": "image", "mimeType": format.mime_type()});
        if inline {
            part["data"] = STANDARD.encode(&data).into();
        } else {
            let kept = in_memory(&data).map_err(|e| Failure::Local(format!("--image {path}: {e}")))?;
            along.push(kept);
            part["descriptor"] = true.into();
        }
        parts.push(part);
    }
    Ok(parts.into())
}

/// Memory that nobody can change any more, which is what daemons take.
fn in_memory(data: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("image", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(data)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
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
        let mut along = Vec::new();
        let gif = file("a.txt", b"GIF89a rest");
        assert_eq!(
            content("look", [gif.as_str()].into_iter(), &mut along).expect("content"),
            json!([{"type": "text", "text": "look"},
                {"type": "image", "data": "R0lGODlhIHJlc3Q=", "mimeType": "image/gif"}])
        );
        assert!(along.is_empty());
        let large = file("b.gif", &[b"GIF89a".as_slice(), &[0; MAX_INLINE]].concat());
        let part = json!({"type": "image", "descriptor": true, "mimeType": "image/gif"});
        assert_eq!(
            content("look", [large.as_str(), gif.as_str()].into_iter(), &mut along).expect("content"),
            json!([{"type": "text", "text": "look"}, part, part])
        );
        let sizes = along.drain(..).map(|kept| File::from(kept).metadata().expect("a size").len());
        assert_eq!(sizes.collect::<Vec<_>>(), [MAX_INLINE as u64 + 6, 11]);
        let text = file("a.gif", b"no image");
        for (paths, part) in [
            (vec![text.as_str()], "is no PNG"),
            (vec!["/no/file"], "No such"),
            (vec![gif.as_str(); MAX_DESCRIPTORS + 1], "may have 16 images"),
        ] {
            let error = content("x", paths.iter().copied(), &mut along).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("--image {}: ", paths[0])) && error.contains(part), "{error}");
        }
    }
}
