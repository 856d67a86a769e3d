//! Inputs that say themselves where they are to be cut: one byte tells how many bytes of piece sizes follow; the rest is
//! what is cut.

/// The sizes of the pieces, and the bytes to cut.
pub fn sizes_and_bytes(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = input.split_first()?;
    Some(rest.split_at(usize::from(*count).min(rest.len())))
}

/// Cuts bytes into pieces of these sizes, over and over, and leaves them whole when there are none. No piece is empty.
pub fn pieces<'a>(mut bytes: &'a [u8], sizes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().map_or(bytes.len(), |size| usize::from(*size).max(1)).min(bytes.len());
        let (piece, rest) = bytes.split_at(size);
        bytes = rest;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}
