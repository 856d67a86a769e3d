//! Images for models: recognised, checked against what models take, and scaled down or converted where needed.

pub(super) mod format;
#[cfg(feature = "image")]
mod resize;

use crate::cancel::Cancel;
use crate::transcript::Block;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use format::{Format, SNIFF_BYTES, sniff};

/// Largest width and height in pixels of an image for a model; the limit that PI has.
pub const MAX_PIXELS: u32 = 2000;
/// An image's base64 text must be shorter than this many bytes (4.5 MiB), since providers refuse more than 5 MB.
const MAX_BASE64: usize = 4_718_592;
/// Largest image file in bytes (32 MiB) that is looked at; photographs have a third of it.
pub const MAX_SOURCE: u64 = 32 * 1024 * 1024;

/// An image as a model gets it.
#[derive(Debug, PartialEq)]
pub struct Prepared {
    pub mime_type: &'static str,
    /// `None` = left out; the notes say why.
    pub image: Option<Block>,
    /// Lines for the model, in brackets.
    pub notes: Vec<String>,
}

/// Brings the image file `data` into a form that models take. Within the limits it is left as it is, and with `resize`
/// off wherever its format is one that models know. Returns `None` when cancelled.
pub fn prepare(format: Format, data: &[u8], resize: bool, cancel: &Cancel) -> Option<Prepared> {
    let (width, height) = format::dimensions(format, data).unwrap_or_default();
    let small = fits(data.len()) && (1..=MAX_PIXELS).contains(&width) && (1..=MAX_PIXELS).contains(&height);
    if format.is_supported() && (small || !resize) {
        return Some(Prepared::new(format, data, Vec::new()));
    }
    scaled_down(format, data, cancel)
}

#[cfg(feature = "image")]
use resize::scaled_down;

#[cfg(not(feature = "image"))]
fn scaled_down(format: Format, _: &[u8], _: &Cancel) -> Option<Prepared> {
    Some(Prepared::left_out(format))
}

impl Prepared {
    fn new(format: Format, data: &[u8], notes: Vec<String>) -> Prepared {
        let mime_type = format.mime_type();
        let image = Block::Image { data: STANDARD.encode(data), mime_type: mime_type.into() };
        Prepared { mime_type, image: Some(image), notes }
    }

    /// An image that no model can get, with the reason.
    pub fn left_out(format: Format) -> Prepared {
        let reason = if format.is_supported() {
            "could not be resized below the inline image size limit"
        } else {
            "could not be converted to a supported inline image format"
        };
        Prepared { mime_type: format.mime_type(), image: None, notes: vec![format!("[Image omitted: {reason}.]")] }
    }
}

/// So many bytes make a base64 text below the limit.
fn fits(bytes: usize) -> bool {
    bytes.div_ceil(3).saturating_mul(4) < MAX_BASE64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_within_the_limits_stay_as_they_are() {
        let mut png = format::tests::png(2000, 2000);
        png.resize(3_538_941, 0);
        let prepared = prepare(Format::Png, &png, true, &Cancel::new()).expect("not cancelled");
        let image = Block::Image { data: STANDARD.encode(&png), mime_type: "image/png".into() };
        assert_eq!(prepared, Prepared { mime_type: "image/png", image: Some(image), notes: vec![] });
        assert!(fits(3_538_941) && !fits(3_538_942));
    }

    #[test]
    fn damaged_images_beyond_the_limits_are_left_out_with_the_reason() {
        let mut heavy = format::tests::png(10, 10);
        heavy.resize(3_538_942, 0);
        for (format, data, reason) in [
            (Format::Png, format::tests::png(2001, 10), "could not be resized below the inline image size limit."),
            (Format::Png, format::tests::png(0, 10), "could not be resized below the inline image size limit."),
            (
                Format::Png,
                format::tests::png(u32::MAX, u32::MAX),
                "could not be resized below the inline image size limit.",
            ),
            (Format::Png, heavy, "could not be resized below the inline image size limit."),
            (Format::Bmp, format::tests::bmp(), "could not be converted to a supported inline image format."),
        ] {
            let prepared = prepare(format, &data, true, &Cancel::new()).expect("not cancelled");
            assert_eq!((prepared.image, prepared.notes), (None, vec![format!("[Image omitted: {reason}]")]));
        }
    }

    #[test]
    fn images_that_are_not_to_be_resized_stay_as_they_are() {
        let large = format::tests::png(2001, 10);
        let prepared = prepare(Format::Png, &large, false, &Cancel::new()).expect("not cancelled");
        assert_eq!(prepared, Prepared::new(Format::Png, &large, Vec::new()));
    }
}
