use super::super::format::tests::{chunk, png as black_png};
use super::super::sniff;
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write as _;

fn whole(data: &[u8]) -> bool {
    let format = sniff(data).expect("it begins like an image");
    is_whole(format, data, &Cancel::new()).expect("not cancelled")
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(data).expect("into memory");
    packed.finish().expect("into memory")
}

/// A PNG of these chunks, behind its header.
fn png_of(width: u32, height: u32, kind: [u8; 5], chunks: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &kind].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunks.concat()].concat()
}

const GREY: [u8; 5] = [8, 0, 0, 0, 0];

fn end() -> Vec<u8> {
    chunk(b"IEND", b"")
}

#[test]
fn a_png_has_all_its_rows() {
    let rows = zlib(&[0, 1, 2, 1, 3, 4]);
    let (first, second) = rows.split_at(5);
    let bad_crc = {
        let mut data = chunk(b"tEXt", b"a\0b");
        *data.last_mut().expect("a checksum") ^= 1;
        data
    };
    // Interlaced 5x5 in one bit: 1 row of 1, 1 of 1, 1 of 2, 2 of 1, 1 of 3, 3 of 2 and 2 of 5 pixels, each in one byte.
    let interlaced = zlib(&[0; 2 * 11]);
    for (name, data, expected) in [
        ("plain", png_of(2, 2, GREY, &[chunk(b"IDAT", &rows), end()]), true),
        ("in pieces", png_of(2, 2, GREY, &[chunk(b"IDAT", first), chunk(b"IDAT", second), end()]), true),
        ("an empty piece", png_of(2, 2, GREY, &[chunk(b"IDAT", b""), chunk(b"IDAT", &rows), end()]), true),
        ("more than its rows", png_of(2, 1, GREY, &[chunk(b"IDAT", &rows), end()]), true),
        ("a comment", png_of(2, 2, GREY, &[chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", &rows), end()]), true),
        ("interlaced", png_of(5, 5, [1, 0, 0, 0, 1], &[chunk(b"IDAT", &interlaced), end()]), true),
        ("interlaced, too short", png_of(5, 9, [1, 0, 0, 0, 1], &[chunk(b"IDAT", &interlaced), end()]), false),
        ("palette", png_of(2, 2, [8, 3, 0, 0, 0], &[chunk(b"PLTE", &[0; 6]), chunk(b"IDAT", &rows), end()]), true),
        ("no palette", png_of(2, 2, [8, 3, 0, 0, 0], &[chunk(b"IDAT", &rows), end()]), false),
        ("odd palette", png_of(2, 2, GREY, &[chunk(b"PLTE", &[0; 5]), chunk(b"IDAT", &rows), end()]), false),
        ("garbage", png_of(10, 10, [8, 2, 0, 0, 0], &[chunk(b"IDAT", b"garbage"), end()]), false),
        ("no pixels", png_of(2, 2, GREY, &[end()]), false),
        ("too few rows", png_of(2, 3, GREY, &[chunk(b"IDAT", &rows), end()]), false),
        ("half the pixels", png_of(2, 2, GREY, &[chunk(b"IDAT", first), end()]), false),
        ("an unknown filter", png_of(2, 2, GREY, &[chunk(b"IDAT", &zlib(&[0, 1, 2, 9, 3, 4])), end()]), false),
        ("an unknown kind", png_of(2, 2, [8, 5, 0, 0, 0], &[chunk(b"IDAT", &rows), end()]), false),
        ("no width", png_of(0, 2, GREY, &[chunk(b"IDAT", &rows), end()]), false),
        ("unknown and needed", png_of(2, 2, GREY, &[chunk(b"ABCD", b""), chunk(b"IDAT", &rows), end()]), false),
        ("a wrong checksum", png_of(2, 2, GREY, &[bad_crc, chunk(b"IDAT", &rows), end()]), false),
        ("no end", png_of(2, 2, GREY, &[chunk(b"IDAT", &rows)]), false),
    ] {
        assert_eq!(whole(&data), expected, "{name}");
    }
}

fn gif_of(screen: &[u8], blocks: &[u8]) -> Vec<u8> {
    [b"GIF89a", screen, blocks].concat()
}

/// A screen of 2x2 with four colours.
const SCREEN: &[u8] = b"\x02\0\x02\0\x81\0\0\0\0\0\xff\0\0\0\xff\0\0\0\xff";
/// A frame of 2x2: clear, 0, 1, 2, 3, end, in codes of 3 bits, and of 4 from the fifth on.
const FRAME: &[u8] = b"\x2c\0\0\0\0\x02\0\x02\0\0\x02\x03\x44\x34\x05\0";

#[test]
fn a_gif_has_all_its_frames() {
    let comment = b"\x21\xfe\x03abc\x02de\0";
    // Clear, 0, then the code that is just being made: three pixels.
    let grown = b"\x2c\0\0\0\0\x03\0\x01\0\0\x02\x02\x84\x0b\0";
    // Clear, then a code that nothing was given.
    let unknown = b"\x2c\0\0\0\0\x02\0\x02\0\0\x02\x02\x3c\x05\0";
    for (name, data, expected) in [
        ("one frame", gif_of(SCREEN, &[FRAME, b";"].concat()), true),
        ("two frames", gif_of(SCREEN, &[comment, FRAME, FRAME, b"; and more"].concat()), true),
        ("padded", gif_of(SCREEN, &[FRAME, b"\0\0;"].concat()), true),
        ("a string that is just being made", gif_of(SCREEN, &[&grown[..], b";"].concat()), true),
        ("a code of nothing", gif_of(SCREEN, &[&unknown[..], b";"].concat()), false),
        ("ten bytes", b"GIF89a\x01\0\x01\0".to_vec(), false),
        ("no frame", gif_of(SCREEN, b";"), false),
        ("no end", gif_of(SCREEN, FRAME), false),
        ("garbage", gif_of(SCREEN, b"garbage;"), false),
        ("too few pixels", gif_of(SCREEN, b"\x2c\0\0\0\0\x09\0\x09\0\0\x02\x03\x44\x34\x05\0;"), false),
        ("no pixels", gif_of(SCREEN, b"\x2c\0\0\0\0\x02\0\x02\0\0\x02\0;"), false),
        ("no width", gif_of(SCREEN, b"\x2c\0\0\0\0\0\0\x02\0\0\x02\x03\x44\x34\x05\0;"), false),
        ("codes of 13 bits", gif_of(SCREEN, b"\x2c\0\0\0\0\x02\0\x02\0\0\x0c\x03\x44\x34\x05\0;"), false),
    ] {
        assert_eq!(whole(&data), expected, "{name}");
    }
}

#[test]
fn a_jpeg_goes_on_to_its_end() {
    let start = b"\xff\xd8\xff\xe0\0\x04\xff\xd9";
    let frame = b"\xff\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0";
    let scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0pixels\xff\0more\xff\xd0 and more";
    let end = b"\xff\xd9";
    let of = |parts: &[&[u8]]| parts.concat();
    for (name, data, expected) in [
        ("whole", of(&[start, frame, scan, end]), true),
        ("something behind it", of(&[start, frame, scan, end, b"\xff\xd8 a preview"]), true),
        ("cut", of(&[start, frame, scan]), false),
        ("cut inside of a segment", of(&[start, frame, b"\xff\xda\0"]), false),
        ("no pixels", of(&[start, frame, end]), false),
        ("no frame", of(&[start, scan, end]), false),
        ("a segment without a length", of(&[start, b"\xff\xe1\0\0", frame, scan, end]), false),
        ("header only", b"\xff\xd8\xff\xe0".to_vec(), false),
    ] {
        assert_eq!(whole(&data), expected, "{name}");
    }
}

fn riff(chunks: &[u8]) -> Vec<u8> {
    [&b"RIFF"[..], &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", chunks].concat()
}

fn webp_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let padding = &[0][..body.len() % 2];
    [&kind[..], &(body.len() as u32).to_le_bytes(), body, padding].concat()
}

/// One pixel, without and with loss.
const LOSSLESS: &str = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==";
const LOSSY: &str = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA";

#[test]
fn a_webp_has_all_its_chunks() {
    let read = |text: &str| STANDARD.decode(text).expect("it is base64");
    let (lossless, lossy) = (read(LOSSLESS), read(LOSSY));
    let extended = webp_chunk(b"VP8X", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let frame = |chunk: &[u8]| webp_chunk(b"ANMF", &[&[0; 16], chunk].concat());
    let with_version = [&lossless[..24], &[0x30], &lossless[25..]].concat();
    for (name, data, expected) in [
        ("without loss", lossless.clone(), true),
        ("with loss", lossy.clone(), true),
        ("something behind it", [&lossy[..], b"more"].concat(), true),
        ("extended", riff(&[&extended, &lossy[12..]].concat()), true),
        ("animated", riff(&[extended.clone(), frame(&lossy[12..]), frame(&lossless[12..])].concat()), true),
        ("an empty frame", riff(&[extended.clone(), frame(b"")].concat()), false),
        ("no pixels", riff(&extended), false),
        ("nothing", riff(b""), false),
        ("another version", with_version, false),
        ("a partition longer than the frame", riff(&webp_chunk(b"VP8 ", &lossy[20..32])), false),
        ("a frame that needs another", riff(&webp_chunk(b"VP8 ", &[&[0x31], &lossy[21..]].concat())), false),
    ] {
        assert_eq!(whole(&data), expected, "{name}");
    }
}

#[test]
fn nothing_that_is_cut_is_whole_and_nothing_panics() {
    let read = |text: &str| STANDARD.decode(text).expect("it is base64");
    let interlaced = png_of(5, 5, [1, 0, 0, 0, 1], &[chunk(b"IDAT", &zlib(&[0; 22])), end()]);
    let jpeg = b"\xff\xd8\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0x\xff\xd9";
    let gif = gif_of(SCREEN, &[FRAME, b";"].concat());
    let mut random = fastrand::Rng::with_seed(5);
    for data in [black_png(7, 5), interlaced, gif, jpeg.to_vec(), read(LOSSLESS), read(LOSSY)] {
        assert!(whole(&data));
        for length in 0..data.len() {
            if let Some(format) = sniff(&data[..length]) {
                assert_eq!(is_whole(format, &data[..length], &Cancel::new()), Some(false), "{format:?} {length}");
            }
        }
        for _ in 0..500 {
            let mut damaged = data.clone();
            for _ in 0..=random.usize(..4) {
                let at = random.usize(..damaged.len());
                damaged[at] = random.u8(..);
            }
            if let Some(format) = sniff(&damaged) {
                let _ = is_whole(format, &damaged, &Cancel::new());
            }
        }
    }
}

#[test]
fn a_table_of_codes_grows_to_its_end() {
    // One pixel after the other, without ever clearing the table: 4096 codes at most, of 12 bits.
    let (mut codes, mut packed, mut bits, mut count) = (Lzw::new(8).expect("8 bits"), Vec::new(), 0_u64, 0);
    let (mut next, mut width) = (258, 9);
    for pixel in 0..10_000_u64 {
        bits |= (pixel % 256) << count;
        count += width;
        while count >= 8 {
            packed.push(bits as u8);
            (bits, count) = (bits >> 8, count - 8);
        }
        if pixel > 0 && next < 4096 {
            next += 1;
            if next == 1 << width && width < 12 {
                width += 1;
            }
        }
    }
    packed.push(bits as u8);
    assert_eq!(packed.iter().try_for_each(|byte| codes.take(*byte)), Some(()));
    assert!(codes.pixels >= 10_000, "{}", codes.pixels);
}
