//! Whether an image file is whole: every chunk, block and row is there and can be unpacked.
//!
//! A provider refuses a request with an image that it cannot decode, and goes on refusing every later request of the
//! conversation, which still has that image in it. So a file is looked through before it becomes part of one. PNG and GIF
//! are unpacked to their last pixel, of which nothing is kept. The pixels of JPEG are for a decoder to try; here they only have
//! to be there, and so do those of WebP.

use super::format::{Format, be_u16, be_u32, bytes, le_u16, le_u24, le_u32};
use crate::cancel::Cancel;
use flate2::{Crc, Decompress, FlushDecompress, Status};

/// Pieces in which pixels are unpacked, bytes.
const PIECE: usize = 32 * 1024;

/// Whether the file is whole. `None` = cancelled. A file whose header promises more than is there costs no more than what
/// is there, except for PNG, whose compressed rows take time by the number of pixels: the caller bounds that.
pub(super) fn is_whole(format: Format, data: &[u8], cancel: &Cancel) -> Option<bool> {
    let whole = match format {
        Format::Png | Format::AnimatedPng => png(data, cancel),
        Format::Gif => gif(data, cancel),
        Format::Jpeg => jpeg(data),
        Format::Webp => webp(data),
        // No model takes it as it is; a decoder for it would have to tell.
        Format::Bmp => Some(()),
    };
    if cancel.is_cancelled() { None } else { Some(whole.is_some()) }
}

fn require(condition: bool) -> Option<()> {
    condition.then_some(())
}

// --- PNG ---

fn png(data: &[u8], cancel: &Cancel) -> Option<()> {
    let mut rows = None;
    let mut palette = false;
    let mut inflater = Decompress::new(true);
    let mut at = 8;
    loop {
        let length = usize::try_from(be_u32(data, at)?).ok()?;
        let kind: [u8; 4] = bytes(data, at + 4)?;
        let end = (at + 8).checked_add(length)?;
        let body = data.get(at + 8..end)?;
        let mut crc = Crc::new();
        crc.update(data.get(at + 4..end)?);
        require(be_u32(data, end)? == crc.sum())?;
        require((at == 8) == (&kind == b"IHDR"))?;
        match &kind {
            b"IHDR" => rows = Some(Rows::of(body)?),
            b"PLTE" => {
                require(length % 3 == 0 && (3..=768).contains(&length))?;
                palette = true;
            }
            b"IDAT" => {
                let rows = rows.as_mut()?;
                require(palette || !rows.needs_palette)?;
                inflate(body, &mut inflater, rows, cancel)?;
            }
            b"IEND" => return require(rows?.is_complete()),
            // An upper-case first letter says that the image cannot be understood without the chunk.
            [b'A'..=b'Z', ..] => return None,
            _ => {}
        }
        at = end + 4;
    }
}

/// Unpacks one piece of the compressed rows. What comes after the last row is not looked at, as in other decoders.
fn inflate(mut packed: &[u8], inflater: &mut Decompress, rows: &mut Rows, cancel: &Cancel) -> Option<()> {
    let mut piece = [0; PIECE];
    while !rows.is_complete() {
        require(!cancel.is_cancelled())?;
        let (read, written) = (inflater.total_in(), inflater.total_out());
        let status = inflater.decompress(packed, &mut piece, FlushDecompress::None).ok()?;
        packed = packed.get(usize::try_from(inflater.total_in() - read).ok()?..)?;
        let unpacked = usize::try_from(inflater.total_out() - written).ok()?;
        rows.take(piece.get(..unpacked)?)?;
        match status {
            Status::StreamEnd => return require(rows.is_complete()),
            _ if unpacked == 0 && packed.is_empty() => return Some(()),
            // Neither input was taken nor output made: it would stay so.
            Status::BufError if unpacked == 0 => return None,
            Status::Ok | Status::BufError => {}
        }
    }
    Some(())
}

/// The rows that a PNG has to have, and how far they have come.
struct Rows {
    needs_palette: bool,
    /// Bytes of a row and number of rows, of each pass that is to come; the next one is the last.
    passes: Vec<(u64, u64)>,
    /// Bytes that the current row still lacks; 0 = it has not begun.
    lacking: u64,
}

impl Rows {
    fn of(header: &[u8]) -> Option<Rows> {
        require(header.len() == 13)?;
        let (width, height) = (u64::from(be_u32(header, 0)?), u64::from(be_u32(header, 4)?));
        let [depth, color, compression, filter, interlace] = bytes(header, 8)?;
        let samples = match (color, depth) {
            (0, 1 | 2 | 4 | 8 | 16) | (3, 1 | 2 | 4 | 8) => 1,
            (2, 8 | 16) => 3,
            (4, 8 | 16) => 2,
            (6, 8 | 16) => 4,
            _ => return None,
        };
        require(compression == 0 && filter == 0 && interlace <= 1 && width > 0 && height > 0)?;
        // First column and row, and distance of columns and rows, of each of the seven passes; last pass first.
        const ADAM7: [(u64, u64, u64, u64); 7] =
            [(0, 1, 1, 2), (1, 0, 2, 2), (0, 2, 2, 4), (2, 0, 4, 4), (0, 4, 4, 8), (4, 0, 8, 8), (0, 0, 8, 8)];
        let whole = [(0, 0, 1, 1)];
        let passes = if interlace == 1 { &ADAM7[..] } else { &whole[..] };
        let passes = passes.iter().map(|(left, top, columns, rows)| {
            let (width, height) =
                (width.saturating_sub(*left).div_ceil(*columns), height.saturating_sub(*top).div_ceil(*rows));
            (width.saturating_mul(samples * u64::from(depth)).div_ceil(8), height)
        });
        let passes = passes.filter(|(bytes, rows)| *bytes > 0 && *rows > 0).collect();
        Some(Rows { needs_palette: color == 3, passes, lacking: 0 })
    }

    fn is_complete(&self) -> bool {
        self.passes.is_empty()
    }

    /// Takes unpacked bytes. Each row begins with a byte that says how it was filtered, 0 to 4.
    fn take(&mut self, mut bytes: &[u8]) -> Option<()> {
        while let (Some(&filter), Some((length, rows))) = (bytes.first(), self.passes.last_mut()) {
            if self.lacking == 0 {
                require(filter <= 4)?;
                bytes = &bytes[1..];
                self.lacking = *length;
            }
            let taken = bytes.len().min(usize::try_from(self.lacking).unwrap_or(usize::MAX));
            bytes = &bytes[taken..];
            self.lacking -= taken as u64;
            if self.lacking == 0 {
                *rows -= 1;
                if *rows == 0 {
                    self.passes.pop();
                }
            }
        }
        Some(())
    }
}

// --- GIF ---

fn gif(data: &[u8], cancel: &Cancel) -> Option<()> {
    let mut at = 13 + color_table(*data.get(10)?);
    let mut frames = 0;
    loop {
        require(!cancel.is_cancelled())?;
        match *data.get(at)? {
            // An extension, of whatever kind.
            0x21 => {
                at += 2;
                while sub_block(data, &mut at)?.is_some() {}
            }
            0x2c => {
                let pixels = u64::from(le_u16(data, at + 5)?) * u64::from(le_u16(data, at + 7)?);
                at += 10 + color_table(*data.get(at + 9)?);
                let mut codes = Lzw::new(*data.get(at)?)?;
                at += 1;
                while let Some(block) = sub_block(data, &mut at)? {
                    if codes.pixels < pixels {
                        block.iter().try_for_each(|byte| codes.take(*byte))?;
                    }
                }
                require(pixels > 0 && codes.pixels >= pixels)?;
                frames += 1;
            }
            0x3b => return require(frames > 0),
            // Some programs pad with zeroes.
            0 => at += 1,
            _ => return None,
        }
    }
}

/// Bytes of the colour table that the flags announce.
fn color_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// The next sub-block; `Some(None)` = there are no more. `None` = the file ends inside.
fn sub_block<'a>(data: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let start = *at + 1;
    let length = usize::from(*data.get(*at)?);
    *at = start + length;
    let block = data.get(start..*at)?;
    Some((length > 0).then_some(block))
}

/// The largest code has so many bits.
const MAX_CODE_BITS: u32 = 12;

/// Reads the compressed pixels of a GIF's frame, and only counts what they unpack to: for that it is enough to know how
/// long the string behind each code is.
struct Lzw {
    lengths: [u16; 1 << MAX_CODE_BITS],
    /// Bits of a pixel; the code that this makes clears the table, and the one after it ends the frame.
    pixel_bits: u32,
    code_bits: u32,
    /// The code that the next string gets.
    next: usize,
    /// Length of the string before; 0 = there is none since the table was cleared.
    before: u16,
    bits: u32,
    bit_count: u32,
    ended: bool,
    pixels: u64,
}

impl Lzw {
    fn new(pixel_bits: u8) -> Option<Lzw> {
        let pixel_bits = u32::from(pixel_bits);
        require((1..MAX_CODE_BITS).contains(&pixel_bits))?;
        let mut lengths = [0; 1 << MAX_CODE_BITS];
        lengths[..1 << pixel_bits].fill(1);
        let mut codes = Lzw {
            lengths,
            pixel_bits,
            code_bits: 0,
            next: 0,
            before: 0,
            bits: 0,
            bit_count: 0,
            ended: false,
            pixels: 0,
        };
        codes.clear();
        Some(codes)
    }

    fn clear(&mut self) {
        self.code_bits = self.pixel_bits + 1;
        self.next = (1 << self.pixel_bits) + 2;
        self.before = 0;
    }

    /// `None` = the codes make no sense.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.bits |= u32::from(byte) << self.bit_count;
        self.bit_count += 8;
        while self.bit_count >= self.code_bits && !self.ended {
            let code = self.bits as usize & ((1 << self.code_bits) - 1);
            self.bits >>= self.code_bits;
            self.bit_count -= self.code_bits;
            self.code(code)?;
        }
        if self.ended {
            (self.bits, self.bit_count) = (0, 0);
        }
        Some(())
    }

    fn code(&mut self, code: usize) -> Option<()> {
        let clear = 1 << self.pixel_bits;
        if code == clear {
            self.clear();
            return Some(());
        }
        if code == clear + 1 {
            self.ended = true;
            return Some(());
        }
        let is_known = code < clear || (code < self.next && self.before > 0);
        // The string that this very code is given: the one before and its own first pixel.
        let is_being_made = code == self.next && self.before > 0 && self.next < self.lengths.len();
        require(is_known || is_being_made)?;
        let grown = self.before.saturating_add(1);
        let length = if is_known { *self.lengths.get(code)? } else { grown };
        if self.before > 0
            && let Some(new) = self.lengths.get_mut(self.next)
        {
            *new = grown;
            self.next += 1;
            if self.next == 1 << self.code_bits && self.code_bits < MAX_CODE_BITS {
                self.code_bits += 1;
            }
        }
        self.before = length;
        self.pixels += u64::from(length);
        Some(())
    }
}

// --- JPEG ---

/// From the first segment to the end marker: a frame, and pixels for it.
fn jpeg(data: &[u8]) -> Option<()> {
    let (mut at, mut frame, mut scan) = (2, false, false);
    loop {
        let marker;
        (marker, at) = next_marker(data, at)?;
        match marker {
            // The end. What some cameras put behind it is no part of the image.
            0xd9 => return require(frame && scan),
            // Markers without a length; some of them are among the pixels.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                // The frame headers: all SOF markers, without DHT, JPG and DAC, which share the range.
                frame |= matches!(marker, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf);
                if marker == 0xda {
                    require(frame)?;
                    scan = true;
                }
                let length = be_u16(data, at)? as usize;
                require(length >= 2)?;
                at += length;
            }
        }
    }
}

/// The next marker and the position after it. Pixels that look like the beginning of one are followed by a zero.
fn next_marker(data: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += memchr::memchr(0xff, data.get(at..)?)? + 1;
        match *data.get(at)? {
            0 => {}
            // Markers may be padded with any number of 0xff.
            0xff => continue,
            marker => return Some((marker, at + 1)),
        }
    }
}

// --- WebP ---

fn webp(data: &[u8]) -> Option<()> {
    let length = usize::try_from(le_u32(data, 4)?).ok()?;
    let chunks = Chunks { data: data.get(12..length.checked_add(8)?)?, at: 0 };
    let mut frames = 0;
    for (at, chunk) in chunks.enumerate() {
        let (kind, body) = chunk?;
        match &kind {
            b"VP8X" => require(at == 0 && body.len() >= 10)?,
            b"VP8 " | b"VP8L" => {
                pixels(kind, body)?;
                frames += 1;
            }
            b"ANMF" => {
                // Position, size, time and flags come before the frame's own chunks.
                require(le_u24(body, 6).is_some())?;
                let mut painted = false;
                for chunk in (Chunks { data: body.get(16..)?, at: 0 }) {
                    let (kind, body) = chunk?;
                    if matches!(&kind, b"VP8 " | b"VP8L") {
                        pixels(kind, body)?;
                        painted = true;
                    }
                }
                require(painted)?;
                frames += 1;
            }
            _ => {}
        }
    }
    require(frames > 0)
}

/// The chunks of a WebP file; `None` for one that is cut, after which there are no more.
struct Chunks<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Option<([u8; 4], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        // What is shorter than a chunk's header is padding.
        let kind = bytes(self.data, self.at)?;
        let length = le_u32(self.data, self.at + 4)?;
        let start = self.at + 8;
        let body = usize::try_from(length).ok().and_then(|length| self.data.get(start..start.checked_add(length)?));
        // Chunks of an odd length are followed by a byte of padding.
        self.at = body.map_or(self.data.len(), |body| start + body.len() + body.len() % 2);
        Some(body.map(|body| (kind, body)))
    }
}

/// The beginning of a frame's compressed pixels, of either kind.
fn pixels(kind: [u8; 4], body: &[u8]) -> Option<()> {
    if &kind == b"VP8L" {
        // Signature; and the version, in the upper three bits of the sizes.
        return require(body.first() == Some(&0x2f) && le_u32(body, 1)? >> 29 == 0 && body.len() > 5);
    }
    let tag = le_u24(body, 0)?;
    // A frame that needs no other, and its first partition as long as it says.
    let first_partition = usize::try_from(tag >> 5).ok()?;
    require(tag & 1 == 0 && body.get(3..6) == Some(b"\x9d\x01\x2a") && first_partition > 0)?;
    require(le_u16(body, 6)? & 0x3fff > 0 && le_u16(body, 8)? & 0x3fff > 0)?;
    require(body.len() - 10 > first_partition)
}

#[cfg(test)]
mod tests;
