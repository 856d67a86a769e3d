//! Numbers of bytes, for people and models.

/// A size in bytes as it is shown to models: `12B`, `50.0KB`, `1.5MB`.
pub(crate) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let value = bytes as f64;
    if value < KIB {
        format!("{bytes}B")
    } else if value < KIB * KIB {
        format!("{:.1}KB", value / KIB)
    } else {
        format!("{:.1}MB", value / (KIB * KIB))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_one_decimal() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KB"),
            (51_200, "50.0KB"),
            (1024 * 1024 - 1, "1024.0KB"),
            (1024 * 1024, "1.0MB"),
            (16 * 1024 * 1024, "16.0MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
