//! An image as a model gets it, or why it gets none.

use super::format::Format;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest width and height in pixels of an image for a model; the limit that PI has.
pub(crate) const MAX_PIXELS: u32 = 2000;
/// An image's base64 text must be shorter than this many bytes (4.5 MiB), since providers refuse more than 5 MB.
const MAX_BASE64: usize = 4_718_592;

/// An image as a model gets it.
#[derive(Debug, PartialEq)]
pub(crate) struct Prepared {
    pub mime_type: &'static str,
    /// Base64, standard alphabet with padding. `None` = left out; the notes say why.
    pub data: Option<String>,
    /// Lines for the model, in brackets.
    pub notes: Vec<String>,
}

/// Why an image is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Omission {
    Damaged,
    TooLarge,
    TooManyPixels,
    /// Models do not take the format, and it cannot be made another one.
    Unsupported,
    NoImage,
}

impl Omission {
    /// A line for the model.
    pub(super) fn note(self) -> String {
        let reason = match self {
            Omission::Damaged => "the file is damaged or incomplete, and cannot be decoded",
            Omission::TooManyPixels => "it has more than 24 megapixels; make it smaller with a program first",
            Omission::TooLarge => "could not be resized below the inline image size limit",
            Omission::Unsupported => "could not be converted to a supported inline image format",
            Omission::NoImage => "the data is no image in a known format",
        };
        format!("[Image omitted: {reason}.]")
    }
}

impl Prepared {
    /// An image that goes to the model.
    pub(super) fn new(format: Format, data: &[u8], notes: Vec<String>) -> Prepared {
        Prepared { mime_type: format.mime_type(), data: Some(STANDARD.encode(data)), notes }
    }

    /// An image that no model can get, with the reason.
    pub(crate) fn left_out(format: Format, reason: Omission) -> Prepared {
        Prepared { mime_type: format.mime_type(), data: None, notes: vec![reason.note()] }
    }
}

/// So many bytes make a base64 text below the limit.
pub(super) fn fits(bytes: usize) -> bool {
    bytes.div_ceil(3).saturating_mul(4) < MAX_BASE64
}
