//! Scaling images down until models take them.

use super::format::Format;
use super::prepared::{MAX_PIXELS, Omission, Prepared, fits};
use super::too_many_pixels;
use crate::cancel::Cancel;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{
    ColorType, ExtendedColorType, GenericImageView, ImageBuffer, ImageDecoder, ImageEncoder, ImageError, ImageFormat,
    ImageReader, Limits, Pixel, Rgb, RgbImage, RgbaImage,
};
use std::io::Cursor;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// Memory in bytes (96 MiB) for one decoded image: as many pixels as are allowed, with transparency; half as many if they have
/// 16 bits.
const MAX_DECODED: u64 = 96 * 1024 * 1024;
/// Rows or columns that are scaled at once. The scaler needs 16 bytes for each pixel that it is at, so that it is given an
/// image in strips; between them it can be cancelled.
const STRIP: u32 = 128;
/// JPEG qualities in the order in which they are tried; the first one competes with PNG.
const QUALITIES: [u8; 5] = [80, 85, 70, 55, 40];
/// How long to wait before asking again whether another image is done.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Only one image is decoded at a time, whichever sessions ask for it, as each can take much memory.
static DECODING: Mutex<()> = Mutex::new(());

fn one_at_a_time(cancel: &Cancel) -> Option<MutexGuard<'static, ()>> {
    loop {
        match DECODING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if cancel.sleep(ASK_AGAIN) => return None,
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// The image, turned upright, in a size and format that models take. `None` = cancelled.
pub(super) fn scaled_down(format: Format, data: &[u8], cancel: &Cancel) -> Option<Prepared> {
    let _turn = one_at_a_time(cancel)?;
    let (original, orientation) = match decode(format, data) {
        Ok(decoded) => decoded,
        Err(reason) => return Some(Prepared::left_out(format, reason)),
    };
    let (width, height) = original.size();
    let mut size = within_limits(width, height);
    loop {
        // Turned when it is small already, as that makes a copy.
        let image = original.scaled(size, cancel)?.upright(orientation);
        match encode(&image, cancel)? {
            Some((encoded_as, encoded)) => {
                let original = if is_on_its_side(orientation) { (height, width) } else { (width, height) };
                let notes = notes(format, encoded_as, original, image.size());
                return Some(Prepared::new(encoded_as, &encoded, notes));
            }
            None if size == (1, 1) => return Some(Prepared::left_out(format, Omission::TooLarge)),
            None => size = (smaller(size.0), smaller(size.1)),
        }
    }
}

/// A decoded image. It is one of two kinds only, as what is done with images is compiled once for each kind: the ten
/// kinds of the crate's own `DynamicImage` would add 200 KB to the program.
enum Picture {
    Opaque(RgbImage),
    Transparent(RgbaImage),
}

impl Picture {
    fn size(&self) -> (u32, u32) {
        match self {
            Picture::Opaque(image) => image.dimensions(),
            Picture::Transparent(image) => image.dimensions(),
        }
    }

    /// `None` = cancelled.
    fn scaled(&self, size: (u32, u32), cancel: &Cancel) -> Option<Picture> {
        Some(match self {
            Picture::Opaque(image) => Picture::Opaque(scaled(image, size, cancel)?),
            Picture::Transparent(image) => Picture::Transparent(scaled(image, size, cancel)?),
        })
    }

    fn upright(self, orientation: Orientation) -> Picture {
        match self {
            Picture::Opaque(image) => Picture::Opaque(upright(image, orientation)),
            Picture::Transparent(image) => Picture::Transparent(upright(image, orientation)),
        }
    }
}

/// The image in another size: first its columns are scaled, then its rows. One that is several times as large is brought near
/// to that size by plain averages before, which takes a tenth of the time. `None` = cancelled.
fn scaled<P>(
    image: &ImageBuffer<P, Vec<u8>>,
    (width, height): (u32, u32),
    cancel: &Cancel,
) -> Option<ImageBuffer<P, Vec<u8>>>
where
    P: Pixel<Subpixel = u8> + 'static,
{
    let times = (image.width() / width).min(image.height() / height);
    if times > 1 {
        return scaled(&averaged(image, times)?, (width, height), cancel);
    }
    if image.dimensions() == (width, height) {
        return Some(image.clone());
    }
    let mut columns = ImageBuffer::new(image.width(), height);
    for x in (0..image.width()).step_by(STRIP as usize) {
        if cancel.is_cancelled() {
            return None;
        }
        let strip = imageops::crop_imm(image, x, 0, STRIP.min(image.width() - x), image.height());
        let strip = imageops::resize(&*strip, strip.width(), height, FilterType::Lanczos3);
        imageops::replace(&mut columns, &strip, i64::from(x), 0);
    }
    let mut rows = ImageBuffer::new(width, height);
    for y in (0..height).step_by(STRIP as usize) {
        if cancel.is_cancelled() {
            return None;
        }
        let strip = imageops::crop_imm(&columns, 0, y, columns.width(), STRIP.min(height - y));
        let strip = imageops::resize(&*strip, width, strip.height(), FilterType::Lanczos3);
        imageops::replace(&mut rows, &strip, 0, i64::from(y));
    }
    Some(rows)
}

/// The image with one pixel for each square of so many rows and columns.
fn averaged<P>(image: &ImageBuffer<P, Vec<u8>>, side: u32) -> Option<ImageBuffer<P, Vec<u8>>>
where
    P: Pixel<Subpixel = u8> + 'static,
{
    let channels = usize::from(P::CHANNEL_COUNT);
    let (width, height) = (image.width() / side, image.height() / side);
    let (line, area) = (image.width() as usize * channels, side * side);
    let mut averages = Vec::with_capacity(width as usize * height as usize * channels);
    for rows in image.as_raw().chunks_exact(line * side as usize) {
        let mut sums = vec![0; width as usize * channels];
        for row in rows.chunks_exact(line) {
            for (sums, square) in sums.chunks_exact_mut(channels).zip(row.chunks_exact(channels * side as usize)) {
                for pixel in square.chunks_exact(channels) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += u32::from(*value);
                    }
                }
            }
        }
        averages.extend(sums.iter().map(|sum| ((sum + area / 2) / area) as u8));
    }
    ImageBuffer::from_raw(width, height, averages)
}

/// Whether the pixels of a whole file can be decoded. `None` = cancelled.
pub(super) fn decodes(format: Format, data: &[u8], cancel: &Cancel) -> Option<Result<(), Omission>> {
    // PNG and GIF were unpacked to the last pixel already, and for WebP there is no decoder.
    if format != Format::Jpeg {
        return Some(Ok(()));
    }
    let _turn = one_at_a_time(cancel)?;
    Some(decode(format, data).map(drop))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "ColorType is non-exhaustive")]
fn decode(format: Format, data: &[u8]) -> Result<(Picture, Orientation), Omission> {
    let codec = match format {
        Format::Png | Format::AnimatedPng => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        // The decoder for WebP would add 165 KB to the program (measured), that for GIF about 60, and images of these kinds
        // are seldom beyond the limits.
        Format::Gif | Format::Webp => return Err(Omission::TooLarge),
        Format::Bmp => return Err(Omission::Unsupported),
    };
    let reason = |error| if matches!(error, ImageError::Limits(_)) { Omission::TooLarge } else { Omission::Damaged };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED);
    let mut reader = ImageReader::with_format(Cursor::new(data), codec);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(reason)?;
    limits.reserve(decoder.total_bytes()).map_err(reason)?;
    let (width, height) = decoder.dimensions();
    if too_many_pixels(width, height) {
        return Err(Omission::TooManyPixels);
    }
    let color = decoder.color_type();
    let orientation = decoder.orientation().map_err(reason)?;
    let mut samples = vec![0; usize::try_from(decoder.total_bytes()).map_err(|_| Omission::TooLarge)?];
    decoder.read_image(&mut samples).map_err(reason)?;
    let samples = match color {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => in_8_bits(&samples),
        _ => samples,
    };
    let picture = match color {
        ColorType::Rgb8 | ColorType::Rgb16 => RgbImage::from_raw(width, height, samples).map(Picture::Opaque),
        ColorType::Rgba8 | ColorType::Rgba16 => RgbaImage::from_raw(width, height, samples).map(Picture::Transparent),
        ColorType::L8 | ColorType::L16 => {
            let samples = samples.iter().flat_map(|&grey| [grey; 3]).collect();
            RgbImage::from_raw(width, height, samples).map(Picture::Opaque)
        }
        ColorType::La8 | ColorType::La16 => {
            let (pixels, _) = samples.as_chunks();
            let samples = pixels.iter().flat_map(|&[grey, alpha]| [grey, grey, grey, alpha]).collect();
            RgbaImage::from_raw(width, height, samples).map(Picture::Transparent)
        }
        // None of the formats has any other.
        _ => None,
    };
    Ok((picture.ok_or(Omission::Damaged)?, orientation))
}

/// Samples of 16 bits, rounded to 8; no screen and no model tells the difference.
fn in_8_bits(samples: &[u8]) -> Vec<u8> {
    let (samples, _) = samples.as_chunks();
    samples.iter().map(|&sample| ((u32::from(u16::from_ne_bytes(sample)) + 128) / 257) as u8).collect()
}

fn is_on_its_side(orientation: Orientation) -> bool {
    use Orientation::*;
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// The image turned and mirrored as its metadata ask for.
fn upright<P>(mut image: ImageBuffer<P, Vec<u8>>, orientation: Orientation) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8> + 'static,
{
    use Orientation::*;
    match orientation {
        Rotate90 | Rotate90FlipH => image = imageops::rotate90(&image),
        Rotate270 | Rotate270FlipH => image = imageops::rotate270(&image),
        Rotate180 => imageops::rotate180_in_place(&mut image),
        FlipVertical => imageops::flip_vertical_in_place(&mut image),
        NoTransforms | FlipHorizontal => {}
    }
    if matches!(orientation, Rotate90FlipH | Rotate270FlipH | FlipHorizontal) {
        imageops::flip_horizontal_in_place(&mut image);
    }
    image
}

/// The largest size within the limits that keeps the proportions.
fn within_limits(width: u32, height: u32) -> (u32, u32) {
    let scale =
        |length: u32, by: u32| (f64::from(length) * f64::from(MAX_PIXELS) / f64::from(by)).round().max(1.0) as u32;
    let (width, height) = if width > MAX_PIXELS { (MAX_PIXELS, scale(height, width)) } else { (width, height) };
    if height > MAX_PIXELS { (scale(width, height), MAX_PIXELS) } else { (width, height) }
}

fn smaller(length: u32) -> u32 {
    (length * 3 / 4).max(1)
}

/// The image file that fits, the smaller one of PNG and JPEG if both do, else the best JPEG. The outer `None` = cancelled,
/// the inner one = nothing fits.
fn encode(image: &Picture, cancel: &Cancel) -> Option<Option<(Format, Vec<u8>)>> {
    let (width, height) = image.size();
    let (samples, color) = match image {
        Picture::Opaque(image) => (image.as_raw(), ExtendedColorType::Rgb8),
        Picture::Transparent(image) => (image.as_raw(), ExtendedColorType::Rgba8),
    };
    let mut png = Vec::new();
    let png =
        PngEncoder::new(&mut png).write_image(samples, width, height, color).is_ok().then_some((Format::Png, png));
    let on_white;
    let opaque = match image {
        Picture::Opaque(image) => image,
        Picture::Transparent(image) => {
            on_white = opaque(image);
            &on_white
        }
    };
    let mut candidates: Vec<(Format, Vec<u8>)> = png.into_iter().collect();
    for quality in QUALITIES {
        if cancel.is_cancelled() {
            return None;
        }
        let mut jpeg = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut jpeg, quality);
        if encoder.write_image(opaque, width, height, ExtendedColorType::Rgb8).is_ok() {
            candidates.push((Format::Jpeg, jpeg));
        }
        let best = std::mem::take(&mut candidates).into_iter().min_by_key(|(_, data)| data.len());
        if let Some(best) = best.filter(|(_, data)| fits(data.len())) {
            return Some(Some(best));
        }
    }
    Some(None)
}

/// The image on a white ground, as JPEG has no transparency.
fn opaque(image: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha)) / 255) as u8))
    })
}

/// What the model should know about the difference between the file and what it sees.
fn notes(from: Format, to: Format, original: (u32, u32), shown: (u32, u32)) -> Vec<String> {
    let mut notes = Vec::new();
    if !from.is_supported() && from.mime_type() != to.mime_type() {
        notes.push(format!("[Image converted from {} to {}.]", from.mime_type(), to.mime_type()));
    }
    if original != shown {
        let ((width, height), (shown_width, shown_height)) = (original, shown);
        let scale = f64::from(width) / f64::from(shown_width);
        notes.push(format!(
            "[Image: original {width}x{height}, displayed at {shown_width}x{shown_height}. Multiply coordinates by \
             {scale:.2} to map to original image.]"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::format::{dimensions, sniff};
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use image::DynamicImage;

    /// Neighbouring pixels have nothing in common, so that nothing can be compressed.
    fn noise(width: u32, height: u32) -> RgbImage {
        let mut random = fastrand::Rng::with_seed(7);
        RgbImage::from_fn(width, height, |_, _| Rgb([random.u8(..), random.u8(..), random.u8(..)]))
    }

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut data = Cursor::new(Vec::new());
        image.write_to(&mut data, format).expect("it is encoded");
        data.into_inner()
    }

    /// The result's format and size in pixels, as its bytes tell.
    fn result(prepared: &Prepared) -> (Format, (u32, u32)) {
        let Some(data) = &prepared.data else { panic!("no image: {prepared:?}") };
        let data = STANDARD.decode(data).expect("it is base64");
        assert!(fits(data.len()), "{} bytes", data.len());
        let format = sniff(&data).expect("it is an image");
        assert_eq!(format.mime_type(), prepared.mime_type);
        (format, dimensions(format, &data).expect("it has a header"))
    }

    fn scaled(format: Format, data: &[u8]) -> Prepared {
        scaled_down(format, data, &Cancel::new()).expect("not cancelled")
    }

    #[test]
    fn sizes_keep_their_proportions() {
        for (original, expected) in [
            ((2000, 2000), (2000, 2000)),
            ((4000, 3000), (2000, 1500)),
            ((3000, 4000), (1500, 2000)),
            ((4000, 8000), (1000, 2000)),
            ((2001, 1), (2000, 1)),
            ((100_000, 10), (2000, 1)),
            ((3, 3001), (2, 2000)),
        ] {
            assert_eq!(within_limits(original.0, original.1), expected, "{original:?}");
        }
        assert_eq!((smaller(1), smaller(2), smaller(2000)), (1, 1, 1500));
    }

    #[test]
    fn too_many_pixels_are_scaled_down_and_told() {
        let data = encoded(&RgbImage::from_pixel(2500, 100, Rgb([200, 10, 10])), ImageFormat::Png);
        let prepared = scaled(Format::Png, &data);
        assert_eq!(result(&prepared), (Format::Png, (2000, 80)));
        let note =
            "[Image: original 2500x100, displayed at 2000x80. Multiply coordinates by 1.25 to map to original image.]";
        assert_eq!(prepared.notes, [note]);
    }

    #[test]
    fn scaling_keeps_what_is_to_be_seen() {
        // Left half red, right half blue, at sizes with and without averages before, and over several strips.
        let image = RgbImage::from_fn(1000, 700, |x, _| Rgb(if x < 500 { [250, 0, 0] } else { [0, 0, 250] }));
        for size in [(900, 630), (400, 280), (250, 175), (10, 7)] {
            let small = super::scaled(&image, size, &Cancel::new()).expect("not cancelled");
            assert_eq!(small.dimensions(), size);
            let (width, height) = size;
            for y in [0, height / 2, height - 1] {
                let colors = [0, width / 4, width * 3 / 4, width - 1].map(|x| small.get_pixel(x, y).0);
                assert_eq!(colors, [[250, 0, 0], [250, 0, 0], [0, 0, 250], [0, 0, 250]], "{size:?} {y}");
            }
        }
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(super::scaled(&image, (900, 630), &cancel).is_none());
    }

    #[test]
    fn other_formats_are_converted_and_told() {
        let data = encoded(&RgbImage::from_pixel(30, 20, Rgb([1, 2, 3])), ImageFormat::Png);
        let prepared = scaled(Format::AnimatedPng, &data);
        assert_eq!((result(&prepared), prepared.notes.len()), ((Format::Png, (30, 20)), 0));
        let data = encoded(&noise(1100, 1100), ImageFormat::Png);
        let prepared = scaled(Format::AnimatedPng, &data);
        assert_eq!(result(&prepared), (Format::Jpeg, (1100, 1100)));
        assert_eq!(prepared.notes, ["[Image converted from image/png to image/jpeg.]"]);
    }

    #[test]
    fn formats_without_a_decoder_are_left_out() {
        for (format, reason) in [(Format::Gif, Omission::TooLarge), (Format::Bmp, Omission::Unsupported)] {
            assert_eq!(scaled(format, b"whatever"), Prepared::left_out(format, reason));
        }
    }

    #[test]
    fn pixels_are_tried() {
        let cancel = Cancel::new();
        let jpeg = encoded(&noise(40, 30), ImageFormat::Jpeg);
        assert_eq!(decodes(Format::Jpeg, &jpeg, &cancel), Some(Ok(())));
        let frame = b"\xff\xd8\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0x\xff\xd9";
        assert_eq!(decodes(Format::Jpeg, frame, &cancel), Some(Err(Omission::Damaged)), "it has no tables");
    }

    #[test]
    fn too_many_bytes_become_a_jpeg() {
        let data = encoded(&noise(1100, 1100), ImageFormat::Png);
        assert!(!fits(data.len()));
        let prepared = scaled(Format::Png, &data);
        assert_eq!(result(&prepared), (Format::Jpeg, (1100, 1100)));
        assert!(prepared.notes.is_empty(), "its size in pixels is the same");
    }

    #[test]
    fn photographs_are_turned_upright() {
        let mut data = encoded(&RgbImage::from_pixel(2100, 50, Rgb([9, 9, 9])), ImageFormat::Jpeg);
        // An EXIF segment that says: turned by 90 degrees.
        let exif = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        data.splice(2..2, *exif);
        let prepared = scaled(Format::Jpeg, &data);
        assert_eq!(result(&prepared).1, (48, 2000));
        assert!(
            prepared.notes[0].starts_with("[Image: original 50x2100, displayed at 48x2000."),
            "{:?}",
            prepared.notes
        );
    }

    #[test]
    fn transparency_becomes_white() {
        let image = RgbaImage::from_fn(2, 1, |x, _| image::Rgba([0, 0, 100, if x == 0 { 0 } else { 255 }]));
        let opaque = opaque(&image);
        assert_eq!((opaque.get_pixel(0, 0).0, opaque.get_pixel(1, 0).0), ([255, 255, 255], [0, 0, 100]));
    }

    #[test]
    fn all_kinds_of_pixels_are_decoded() {
        let image = DynamicImage::ImageRgba8(RgbaImage::from_pixel(2, 1, image::Rgba([40, 40, 40, 200])));
        for (image, alpha) in [
            (image.to_luma8().into(), None),
            (image.to_luma16().into(), None),
            (image.to_luma_alpha8().into(), Some(200)),
            (image.to_luma_alpha16().into(), Some(200)),
            (image.to_rgb8().into(), None),
            (image.to_rgb16().into(), None),
            (image.to_rgba8().into(), Some(200)),
            (DynamicImage::from(image.to_rgba16()), Some(200)),
        ] {
            let mut data = Cursor::new(Vec::new());
            image.write_to(&mut data, ImageFormat::Png).expect("it is encoded");
            let pixel = match decode(Format::Png, data.get_ref()).expect("it is decoded").0 {
                Picture::Opaque(image) => (image.get_pixel(1, 0).0, None),
                Picture::Transparent(image) => {
                    let [red, green, blue, alpha] = image.get_pixel(1, 0).0;
                    ([red, green, blue], Some(alpha))
                }
            };
            assert_eq!(pixel, ([40, 40, 40], alpha), "{:?}", image.color());
        }
    }

    #[test]
    fn all_orientations_are_turned_as_the_crate_does() {
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).expect("it is one of the eight");
            let mut expected = DynamicImage::ImageRgb8(noise(3, 2));
            expected.apply_orientation(orientation);
            assert_eq!(upright(noise(3, 2), orientation), expected.to_rgb8(), "{exif}");
        }
    }

    #[test]
    fn bombs_are_not_decoded() {
        // A header that promises 16 gigapixels.
        let data = super::super::format::tests::cut_png(131_072, 131_072);
        assert_eq!(scaled(Format::Png, &data).data, None);
    }

    #[test]
    fn waiting_for_another_image_can_be_cancelled() {
        let cancel = Cancel::new();
        let held = one_at_a_time(&cancel).expect("it comes free");
        cancel.cancel();
        assert_eq!(scaled_down(Format::Png, &[], &cancel), None);
        drop(held);
    }
}
