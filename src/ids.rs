//! Ids: all random ones that are made in this process, except for inboxes, which the NATS client makes; and how bytes are
//! written as one.

use ring::rand::{SecureRandom, SystemRandom};
use std::fmt::Write;

/// Random bytes that nobody can guess.
fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // The kernel's generator cannot fail once it is seeded; before that an id is only hard to guess.
        fastrand::fill(&mut bytes);
    }
    bytes
}

/// An id in the form of a NUID: 22 letters and digits, 128 random bits.
pub(crate) fn nuid() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = u128::from_ne_bytes(random());
    let mut id = String::with_capacity(22);
    for _ in 0..22 {
        id.push(char::from(DIGITS[(number % 62) as usize]));
        number /= 62;
    }
    id
}

/// 32 random bits: enough to tell a few things apart.
pub(crate) fn number() -> u32 {
    u32::from_ne_bytes(random())
}

/// A [`number`] in hexadecimal digits, eight of them.
pub(crate) fn hex8() -> String {
    format!("{:08x}", number())
}

/// Bytes in hexadecimal digits, two for each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing into a text cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Sixteen hexadecimal digits.
pub(crate) fn hex16() -> String {
    format!("{:016x}", u64::from_ne_bytes(random()))
}

/// A UUID of version 7 (RFC 9562), which sorts by the time it was made (Unix time in milliseconds).
pub(crate) fn uuid(now_ms: i64) -> String {
    let time = (now_ms.max(0) as u128) << 80;
    let random = u128::from_ne_bytes(random()) & !(0xffff_ffff_ffff_u128 << 80);
    let marked = (time | random) & !((0xf << 76) | (0b11 << 62)) | (7 << 76) | (0b10 << 62);
    let digits = format!("{marked:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_have_their_form_and_differ() {
        type Make = fn() -> String;
        for (make, length) in [(nuid as Make, 22), (hex8 as Make, 8), (hex16 as Make, 16), (|| uuid(5), 36)] {
            let many: HashSet<String> = (0..100).map(|_| make()).collect();
            assert_eq!(many.len(), 100);
            assert!(
                many.iter().all(|id| id.len() == length
                    && id.bytes().all(|b| b.is_ascii_alphanumeric() || (length == 36 && b == b'-')))
            );
        }
    }

    #[test]
    fn uuids_sort_by_time() {
        let id = uuid(0x0123_4567_89ab);
        assert!(id.starts_with("01234567-89ab-7"), "{id}");
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        assert!(id < uuid(0x0123_4567_89ac));
        assert!(uuid(-1).starts_with("00000000-0000-7"));
    }
}
