//! NATS keys: Ed25519 keys whose seeds and public parts are written in base32 with a prefix and a checksum.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::fmt;

/// First byte of a decoded seed; its five top bits make the `S` at the beginning.
const SEED: u8 = 18 << 3;
/// First byte of a decoded public user key; makes the `U`.
pub const USER: u8 = 20 << 3;
/// First byte of a decoded public account key; makes the `A`.
pub const ACCOUNT: u8 = 0;

/// Why a seed was refused. It never shows the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NkeyError {
    NotBase32,
    WrongLength,
    WrongChecksum,
    NotAUserSeed,
}

impl fmt::Display for NkeyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            NkeyError::NotBase32 => "the nkey seed is not base32",
            NkeyError::WrongLength => "the nkey seed has the wrong length",
            NkeyError::WrongChecksum => "the checksum of the nkey seed is wrong",
            NkeyError::NotAUserSeed => "the nkey seed is not a user's (SU...)",
        })
    }
}

/// A user's key, which can sign.
pub struct UserKey(Ed25519KeyPair);

impl UserKey {
    /// Reads a seed such as `SUAM...`, 58 characters.
    pub fn from_seed(seed: &str) -> Result<UserKey, NkeyError> {
        let bytes = base32_decode(seed.trim())?;
        // Prefix (2 bytes), Ed25519 seed (32), checksum (2).
        let (body, checksum) = bytes.split_last_chunk::<2>().ok_or(NkeyError::WrongLength)?;
        let (prefix, seed) = body.split_first_chunk::<2>().ok_or(NkeyError::WrongLength)?;
        if seed.len() != 32 {
            return Err(NkeyError::WrongLength);
        }
        if crc16(body).to_le_bytes() != *checksum {
            return Err(NkeyError::WrongChecksum);
        }
        // The kind of key is spread over both prefix bytes: three bits in the first, five in the second.
        let kind = (prefix[0] & 7) << 5 | prefix[1] >> 3;
        if prefix[0] & 0xf8 != SEED || kind != USER {
            return Err(NkeyError::NotAUserSeed);
        }
        Ed25519KeyPair::from_seed_unchecked(seed).map(UserKey).map_err(|_| NkeyError::WrongLength)
    }

    /// The public key such as `UDXU...`, 56 characters.
    pub fn public(&self) -> String {
        public_text(USER, self.0.public_key().as_ref())
    }

    /// The signature as CONNECT wants it: base64 for URLs, no padding.
    pub fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.0.sign(text.as_bytes()))
    }
}

/// The text of a public key of a kind.
pub(super) fn public_text(kind: u8, key: &[u8]) -> String {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(key);
    let checksum = crc16(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    base32_encode(&bytes)
}

/// The Ed25519 key in a public key such as `UDXU...`, whose first byte has to be `kind`; `None` for anything else.
pub fn public_key(text: &str, kind: u8) -> Option<[u8; 32]> {
    let bytes = base32_decode(text).ok()?;
    let (body, checksum) = bytes.split_last_chunk::<2>()?;
    let (prefix, key) = body.split_first()?;
    let valid = *prefix == kind && crc16(body).to_le_bytes() == *checksum;
    // Base32 has several texts for the same bytes; only the usual one is a key.
    key.try_into().ok().filter(|_| valid && base32_encode(&bytes) == text)
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn base32_decode(text: &str) -> Result<Vec<u8>, NkeyError> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.bytes() {
        let value = BASE32.iter().position(|other| *other == digit).ok_or(NkeyError::NotBase32)?;
        bits = bits << 5 | value as u32;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(bytes)
}

fn base32_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut bits, mut count) = (0u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(BASE32[(bits >> count) as usize & 31]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(char::from(BASE32[(bits << (5 - count)) as usize & 31]));
    }
    text
}

/// CRC-16/XMODEM: polynomial 0x1021, starting at 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut crc: u16, byte| {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    /// The example pair of the NATS documentation on nkeys.
    const SEED_TEXT: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC_TEXT: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn reads_a_seed_and_signs() {
        let key = UserKey::from_seed(&format!(" {SEED_TEXT}\n")).expect("a valid seed");
        assert_eq!(key.public(), PUBLIC_TEXT);
        let signature = URL_SAFE_NO_PAD.decode(key.sign("nonce")).expect("base64");
        let public = base32_decode(PUBLIC_TEXT).expect("base32");
        let verifier = UnparsedPublicKey::new(&ED25519, &public[1..33]);
        assert!(verifier.verify(b"nonce", &signature).is_ok());
        assert!(verifier.verify(b"other", &signature).is_err());
    }

    #[test]
    fn reads_public_keys() {
        let key = UserKey::from_seed(SEED_TEXT).expect("a valid seed");
        assert_eq!(public_key(PUBLIC_TEXT, USER).as_ref().map(|key| &key[..]), Some(key.0.public_key().as_ref()));
        assert_eq!(public_key(PUBLIC_TEXT, ACCOUNT), None);
        for damaged in ["", "U", &PUBLIC_TEXT[..55], &PUBLIC_TEXT.replace('X', "Y"), &PUBLIC_TEXT.to_lowercase()] {
            assert_eq!(public_key(damaged, USER), None, "{damaged}");
        }
        assert_eq!(public_key(&format!("{PUBLIC_TEXT}A"), USER), None);
    }

    #[test]
    fn refuses_what_is_no_user_seed() {
        let account = {
            // The same key under the prefix of an account seed, with a checksum that fits.
            let mut bytes = base32_decode(SEED_TEXT).expect("base32");
            bytes.truncate(34);
            bytes[0] = SEED;
            let checksum = crc16(&bytes);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            base32_encode(&bytes)
        };
        assert!(account.starts_with("SA"));
        for (seed, error) in [
            ("", NkeyError::WrongLength),
            ("SU", NkeyError::WrongLength),
            (&SEED_TEXT[..56], NkeyError::WrongLength),
            (&SEED_TEXT.replace('Y', "Z"), NkeyError::WrongChecksum),
            (&SEED_TEXT.to_lowercase(), NkeyError::NotBase32),
            (PUBLIC_TEXT, NkeyError::WrongLength),
            (&account, NkeyError::NotAUserSeed),
        ] {
            assert_eq!(UserKey::from_seed(seed).map(|_| ()), Err(error), "{seed}");
        }
    }

    #[test]
    fn base32_both_ways() {
        for length in 0..40 {
            let bytes: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(37)).collect();
            assert_eq!(base32_decode(&base32_encode(&bytes)), Ok(bytes));
        }
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }
}
