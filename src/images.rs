//! Images for models: recognised, checked against damage and what models take, and scaled down or converted where needed.

pub(crate) mod format;
mod integrity;
mod prepared;
#[cfg(feature = "image")]
mod resize;

use crate::cancel::Cancel;
use crate::threads;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use crossbeam_channel::{bounded, select};
pub(crate) use format::{Format, SNIFF_BYTES, sniff};
use prepared::fits;
pub(crate) use prepared::{MAX_PIXELS, Omission, Prepared};
use std::sync::Arc;

/// Largest image file in bytes (32 MiB) that is looked at; photographs have a third of it.
pub(crate) const MAX_SOURCE: u64 = 32 * 1024 * 1024;
/// Most pixels (24 million) of an image that is looked at: what most cameras have. A file of 65 KB can promise thousands of
/// times as many, so that its header is asked before anything is unpacked.
const MAX_AREA: u64 = 24_000_000;

/// Base64 with or without padding, whatever the unused bits of its last character are.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Brings the image file `data` into a form that models take. Within the limits it is left as it is, and with `resize`
/// off wherever its format is one that models know. What is damaged or cannot be decoded is left out: a provider would
/// refuse it, and every later request of the conversation with it. Returns `None` when cancelled.
///
/// Decoders cannot be interrupted, so that the work is done on a thread of its own. Who cancels does not wait for it; it
/// ends at its next step.
pub(crate) fn prepare(format: Format, data: Vec<u8>, resize: bool, cancel: &Cancel) -> Option<Prepared> {
    let data = Arc::new(data);
    let (finished, result) = bounded(1);
    let (waiting, cancelled) = bounded::<()>(0);
    let work = {
        let (data, cancel) = (data.clone(), cancel.clone());
        // Whoever does not wait any more needs no result.
        move || drop(finished.send(look_through(format, &data, resize, &cancel)))
    };
    let Ok(thread) = threads::run("image", work) else {
        return look_through(format, &data, resize, cancel);
    };
    let _wakes = cancel.on_cancel(move || drop(waiting));
    select! {
        // A decoder that panics has no result.
        recv(result) -> prepared => prepared.unwrap_or_else(|_| Some(Prepared::left_out(format, Omission::Damaged))),
        recv(cancelled) -> _ => {
            thread.abandon();
            None
        }
    }
}

fn look_through(format: Format, data: &[u8], resize: bool, cancel: &Cancel) -> Option<Prepared> {
    let (width, height) = format::dimensions(format, data).unwrap_or_default();
    if too_many_pixels(width, height) {
        return Some(Prepared::left_out(format, Omission::TooManyPixels));
    }
    if !integrity::is_whole(format, data, cancel)? {
        return Some(Prepared::left_out(format, Omission::Damaged));
    }
    let small = fits(data.len()) && (1..=MAX_PIXELS).contains(&width) && (1..=MAX_PIXELS).contains(&height);
    if format.is_supported() && (small || !resize) {
        return Some(match decodes(format, data, cancel)? {
            Ok(()) => Prepared::new(format, data, Vec::new()),
            Err(reason) => Prepared::left_out(format, reason),
        });
    }
    scaled_down(format, data, cancel)
}

fn too_many_pixels(width: u32, height: u32) -> bool {
    u64::from(width) * u64::from(height) > MAX_AREA
}

/// Brings an image that came with a prompt into a form that models take: its base64 text is read as tolerantly as can be,
/// and its type is told by its bytes, because providers refuse what is called by another name. Returns `None` when
/// cancelled.
pub(crate) fn prepare_base64(text: &str, resize: bool, cancel: &Cancel) -> Option<Prepared> {
    // Browsers put the type in front.
    let text =
        text.split_once(";base64,").filter(|(start, _)| start.starts_with("data:")).map_or(text, |(_, text)| text);
    let plain: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let data = if plain.len() as u64 > MAX_SOURCE.div_ceil(3) * 4 { None } else { TOLERANT.decode(&plain).ok() };
    match data.and_then(|data| Some((sniff(&data)?, data))) {
        Some((format, data)) => prepare(format, data, resize, cancel),
        None => Some(Prepared { mime_type: "", data: None, notes: vec![Omission::NoImage.note()] }),
    }
}

#[cfg(feature = "image")]
use resize::{decodes, scaled_down};

#[cfg(not(feature = "image"))]
fn scaled_down(format: Format, _: &[u8], _: &Cancel) -> Option<Prepared> {
    let reason = if format.is_supported() { Omission::TooLarge } else { Omission::Unsupported };
    Some(Prepared::left_out(format, reason))
}

#[cfg(not(feature = "image"))]
fn decodes(_: Format, _: &[u8], _: &Cancel) -> Option<Result<(), Omission>> {
    Some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn images_within_the_limits_stay_as_they_are() {
        let mut png = format::tests::png(2000, 2000);
        // What follows the end is no part of the image.
        png.resize(3_538_941, 0);
        let prepared = prepare(Format::Png, png.clone(), true, &Cancel::new()).expect("not cancelled");
        let data = Some(STANDARD.encode(&png));
        assert_eq!(prepared, Prepared { mime_type: "image/png", data, notes: vec![] });
        assert!(fits(3_538_941) && !fits(3_538_942));
    }

    #[test]
    fn what_no_model_could_use_is_left_out_with_the_reason() {
        for (format, data, reason) in [
            (Format::Png, format::tests::cut_png(10, 10), Omission::Damaged),
            (Format::Png, format::tests::cut_png(2001, 10), Omission::Damaged),
            (Format::Png, format::tests::cut_png(0, 10), Omission::Damaged),
            (Format::Png, format::tests::cut_png(u32::MAX, u32::MAX), Omission::TooManyPixels),
            (Format::Png, format::tests::cut_png(6000, 4001), Omission::TooManyPixels),
            (Format::Png, format::tests::cut_png(6000, 4000), Omission::Damaged),
            (Format::Gif, b"GIF89a\x01\0\x01\0".to_vec(), Omission::Damaged),
            (Format::Bmp, format::tests::bmp(), Omission::Unsupported),
        ] {
            for resize in [true, false] {
                let prepared = prepare(format, data.clone(), resize, &Cancel::new());
                assert_eq!(prepared, Some(Prepared::left_out(format, reason)), "{format:?} {resize}");
            }
        }
    }

    #[test]
    fn images_that_are_not_to_be_resized_stay_as_they_are() {
        let large = format::tests::png(2001, 10);
        let prepared = prepare(Format::Png, large.clone(), false, &Cancel::new()).expect("not cancelled");
        assert_eq!(prepared, Prepared::new(Format::Png, &large, Vec::new()));
    }

    #[test]
    fn images_of_prompts_are_told_by_their_bytes() {
        let png = format::tests::png(3, 2);
        let image = Some(Prepared::new(Format::Png, &png, Vec::new()));
        let base64 = STANDARD.encode(&png);
        let (start, end) = base64.split_at(20);
        for text in [
            base64.clone(),
            format!("data:image/jpeg;base64,{base64}"),
            format!(" {start}\r\n{end}\n"),
            base64.trim_end_matches('=').to_owned(),
        ] {
            assert_eq!(prepare_base64(&text, true, &Cancel::new()), image, "{text}");
        }
        for text in ["", "%", "AA==", &STANDARD.encode("<!DOCTYPE html>"), "data:;base64,"] {
            let prepared = prepare_base64(text, true, &Cancel::new()).expect("not cancelled");
            assert_eq!(prepared.notes, ["[Image omitted: the data is no image in a known format.]"], "{text}");
            assert_eq!(prepared.data, None);
        }
    }

    #[test]
    fn a_cancelled_check_has_no_result() {
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(prepare(Format::Png, format::tests::png(3, 2), true, &cancel), None);
    }
}
