//! Recognising images by their first bytes, and their size in pixels from their headers.

/// As many bytes of a file as [`sniff`] needs to see.
pub(crate) const SNIFF_BYTES: usize = 4100;
/// The image formats that are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Png,
    /// A PNG of several frames, which no provider takes.
    AnimatedPng,
    Jpeg,
    Gif,
    Webp,
    Bmp,
}

impl Format {
    pub(crate) fn mime_type(self) -> &'static str {
        match self {
            Format::Png | Format::AnimatedPng => "image/png",
            Format::Jpeg => "image/jpeg",
            Format::Gif => "image/gif",
            Format::Webp => "image/webp",
            Format::Bmp => "image/bmp",
        }
    }

    /// Models take it as it is.
    pub(crate) fn is_supported(self) -> bool {
        !matches!(self, Format::AnimatedPng | Format::Bmp)
    }
}

/// The format of an image file that begins with `start`, whatever its name says. `None` = it is no image.
pub(crate) fn sniff(start: &[u8]) -> Option<Format> {
    if start.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(if is_animated_png(start) { Format::AnimatedPng } else { Format::Png });
    }
    if start.starts_with(b"\xff\xd8\xff") && start.get(3) != Some(&0xf7) {
        return Some(Format::Jpeg);
    }
    if start.starts_with(b"GIF87a") || start.starts_with(b"GIF89a") {
        return Some(Format::Gif);
    }
    if start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP") {
        return Some(Format::Webp);
    }
    // Two letters alone would turn texts into images: the reserved fields are zero and the header's size is a known one.
    let is_bmp = start.starts_with(b"BM")
        && le_u32(start, 6) == Some(0)
        && matches!(le_u32(start, 14), Some(12 | 40 | 52 | 56 | 64 | 108 | 124));
    is_bmp.then_some(Format::Bmp)
}

/// An `acTL` chunk before the first `IDAT` chunk makes a PNG an animation.
fn is_animated_png(start: &[u8]) -> bool {
    let mut at = 8;
    while let (Some(length), Some(kind)) = (be_u32(start, at), start.get(at + 4..at + 8)) {
        match kind {
            b"acTL" => return true,
            b"IDAT" => return false,
            // Length, type and checksum surround the data.
            _ => at = at.saturating_add(length as usize).saturating_add(12),
        }
    }
    false
}

/// Width and height in pixels, from the headers alone. `None` = the headers are damaged.
pub(crate) fn dimensions(format: Format, data: &[u8]) -> Option<(u32, u32)> {
    match format {
        Format::Png | Format::AnimatedPng => Some((be_u32(data, 16)?, be_u32(data, 20)?)),
        Format::Gif => Some((le_u16(data, 6)?, le_u16(data, 8)?)),
        Format::Bmp => Some((le_u32(data, 18)?, le_u32(data, 22)?)),
        Format::Webp => webp_dimensions(data),
        Format::Jpeg => jpeg_dimensions(data),
    }
}

fn webp_dimensions(data: &[u8]) -> Option<(u32, u32)> {
    match data.get(12..16)? {
        b"VP8X" => Some((le_u24(data, 24)? + 1, le_u24(data, 27)? + 1)),
        b"VP8L" => {
            let bits = le_u32(data, 21)?;
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        // The upper two bits of each are a scaling hint for players.
        b"VP8 " => Some((le_u16(data, 26)? & 0x3fff, le_u16(data, 28)? & 0x3fff)),
        _ => None,
    }
}

fn jpeg_dimensions(data: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        if *data.get(at)? != 0xff {
            return None;
        }
        match *data.get(at + 1)? {
            // Markers may be padded with any number of 0xff.
            0xff => at += 1,
            // Markers without a length.
            0x01 | 0xd0..=0xd8 => at += 2,
            // The frame headers: all SOF markers, without DHT, JPG and DAC, which share the range.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be_u16(data, at + 7)?, be_u16(data, at + 5)?));
            }
            _ => at += 2 + be_u16(data, at + 2)? as usize,
        }
    }
}

pub(super) fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn be_u16(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(|b| u16::from_be_bytes(b).into())
}

pub(super) fn be_u32(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(u32::from_be_bytes)
}

pub(super) fn le_u16(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(|b| u16::from_le_bytes(b).into())
}

pub(super) fn le_u24(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(|[a, b, c]: [u8; 3]| u32::from_le_bytes([a, b, c, 0]))
}

pub(super) fn le_u32(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(u32::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One chunk of a PNG.
    pub(crate) fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(body);
        [&(body.len() as u32).to_be_bytes()[..], kind, body, &crc.sum().to_be_bytes()].concat()
    }

    /// A whole PNG of that size, black.
    pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
        let (mut header, row) = (Vec::new(), width as usize + 1);
        header.extend(width.to_be_bytes());
        header.extend(height.to_be_bytes());
        header.extend(b"\x08\0\0\0\0");
        let mut rows = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut rows, &vec![0; row * height as usize]).expect("into memory");
        let rows = rows.finish().expect("into memory");
        let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &rows), chunk(b"IEND", b"")];
        [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
    }

    /// The headers of a PNG of that size; no decoder would take it.
    pub(crate) fn cut_png(width: u32, height: u32) -> Vec<u8> {
        let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        data.extend(width.to_be_bytes());
        data.extend(height.to_be_bytes());
        data.extend(b"\x08\x06\0\0\0crc!\0\0\0\0IDATcrc!");
        data
    }

    pub(crate) fn bmp() -> Vec<u8> {
        let mut data = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        data.extend(3u32.to_le_bytes());
        data.extend(2u32.to_le_bytes());
        data
    }

    fn animated_png() -> Vec<u8> {
        let mut data = cut_png(5, 6);
        let at = data.len() - 12;
        data.splice(at..at, *b"\0\0\0\x08acTL\0\0\0\x02\0\0\0\0crc!");
        data
    }

    fn jpeg() -> Vec<u8> {
        let mut data = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
        data.extend(b"\xff\xff\xdb\0\x03q\xff\xc4\0\x02\xff\xc2\0\x0b\x08\x01\x02\x03\x04\x01");
        data
    }

    fn webp(chunk: &[u8; 4], rest: &[u8]) -> Vec<u8> {
        [b"RIFF\x20\0\0\0WEBP", &chunk[..], b"\x10\0\0\0", rest].concat()
    }

    #[test]
    fn images_are_recognised_and_measured_from_their_bytes() {
        for (data, format, size) in [
            (cut_png(640, 480), Format::Png, Some((640, 480))),
            (animated_png(), Format::AnimatedPng, Some((5, 6))),
            (jpeg(), Format::Jpeg, Some((0x304, 0x102))),
            (b"GIF89a\x03\0\x01\x02".to_vec(), Format::Gif, Some((3, 513))),
            (b"GIF87a\x03\0\x01".to_vec(), Format::Gif, None),
            (webp(b"VP8X", b"\0\0\0\0\x0f\x27\0\xe7\x03\0"), Format::Webp, Some((10_000, 1000))),
            (webp(b"VP8L", b"\x2f\x63\xc0\x18\0"), Format::Webp, Some((100, 100))),
            (webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\x20\x43\x10\0"), Format::Webp, Some((800, 16))),
            (webp(b"ABCD", b""), Format::Webp, None),
            (bmp(), Format::Bmp, Some((3, 2))),
            (b"\xff\xd8\xff\xe0\xff\xff".to_vec(), Format::Jpeg, None),
            (b"\xff\xd8\xff\xda\0\x02abc".to_vec(), Format::Jpeg, None),
        ] {
            assert_eq!(sniff(&data), Some(format), "{data:?}");
            assert_eq!(dimensions(format, &data), size, "{data:?}");
        }
    }

    #[test]
    fn other_files_are_not_taken_for_images() {
        for data in
            [&b""[..], b"BM is a text", b"\xff\xd8\xff\xf7", b"RIFF\0\0\0\0WAVE", b"\x89PNG\n", b"GIF88a", b"\x7fELF"]
        {
            assert_eq!(sniff(data), None, "{data:?}");
        }
    }

    #[test]
    fn damaged_headers_never_panic() {
        for data in [cut_png(1, 1), animated_png(), jpeg(), bmp(), webp(b"VP8X", &[0; 6]), webp(b"VP8L", &[0; 4])] {
            for end in 0..data.len() {
                if let Some(format) = sniff(&data[..end]) {
                    let _ = dimensions(format, &data[..end]);
                }
            }
        }
        let mut endless = b"\x89PNG\r\n\x1a\n".to_vec();
        endless.extend(b"\xff\xff\xff\xffaaaa");
        assert_eq!(sniff(&endless), Some(Format::Png));
    }
}
