//! Scaling images down until models take them.

use super::format::Format;
use super::{MAX_PIXELS, Prepared, fits};
use crate::cancel::Cancel;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits, Rgb, RgbImage};
use std::io::Cursor;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// Memory in bytes (192 MiB) for one decoded image: 48 megapixels with transparency, 64 without.
const MAX_DECODED: u64 = 192 * 1024 * 1024;
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
pub fn scaled_down(format: Format, data: &[u8], cancel: &Cancel) -> Option<Prepared> {
    let _turn = one_at_a_time(cancel)?;
    let Ok(original) = decode(format, data) else { return Some(Prepared::left_out(format)) };
    let (width, height) = (original.width(), original.height());
    let mut size = within_limits(width, height);
    loop {
        let scaled;
        let image = if size == (width, height) {
            &original
        } else {
            scaled = original.resize_exact(size.0, size.1, FilterType::Lanczos3);
            &scaled
        };
        match encode(image, cancel)? {
            Some((encoded_as, encoded)) => {
                let notes = notes(format, encoded_as, (width, height), size);
                return Some(Prepared::new(encoded_as, &encoded, notes));
            }
            None if size == (1, 1) => return Some(Prepared::left_out(format)),
            None => size = (smaller(size.0), smaller(size.1)),
        }
    }
}

fn decode(format: Format, data: &[u8]) -> ImageResult<DynamicImage> {
    let codec = match format {
        Format::Png | Format::AnimatedPng => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        Format::Gif => ImageFormat::Gif,
        Format::Webp => ImageFormat::WebP,
        Format::Bmp => ImageFormat::Bmp,
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED);
    let mut reader = ImageReader::with_format(Cursor::new(data), codec);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
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
fn encode(image: &DynamicImage, cancel: &Cancel) -> Option<Option<(Format, Vec<u8>)>> {
    let mut png = Vec::new();
    let png = image.write_with_encoder(PngEncoder::new(&mut png)).is_ok().then_some((Format::Png, png));
    let opaque = opaque(image);
    let mut candidates: Vec<(Format, Vec<u8>)> = png.into_iter().collect();
    for quality in QUALITIES {
        if cancel.is_cancelled() {
            return None;
        }
        let mut jpeg = Vec::new();
        if opaque.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, quality)).is_ok() {
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
fn opaque(image: &DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let rgba = image.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0.map(u32::from);
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
    use crate::transcript::Block;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use image::RgbaImage;

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
        let Some(Block::Image { data, mime_type }) = &prepared.image else { panic!("no image: {prepared:?}") };
        let data = STANDARD.decode(data).expect("it is base64");
        assert!(fits(data.len()), "{} bytes", data.len());
        let format = sniff(&data).expect("it is an image");
        assert_eq!((format.mime_type(), prepared.mime_type), (mime_type.as_str(), mime_type.as_str()));
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
    fn other_formats_are_converted_and_told() {
        let data = encoded(&RgbImage::from_pixel(30, 20, Rgb([1, 2, 3])), ImageFormat::Bmp);
        assert_eq!(sniff(&data), Some(Format::Bmp));
        let prepared = scaled(Format::Bmp, &data);
        assert_eq!(result(&prepared), (Format::Png, (30, 20)));
        assert_eq!(prepared.notes, ["[Image converted from image/bmp to image/png.]"]);
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
        let opaque = opaque(&DynamicImage::ImageRgba8(image));
        assert_eq!((opaque.get_pixel(0, 0).0, opaque.get_pixel(1, 0).0), ([255, 255, 255], [0, 0, 100]));
    }

    #[test]
    fn bombs_are_not_decoded() {
        // A header that promises 16 gigapixels.
        let data = super::super::format::tests::png(131_072, 131_072);
        assert_eq!(scaled(Format::Png, &data), Prepared::left_out(Format::Png));
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
