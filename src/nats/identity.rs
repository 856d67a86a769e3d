//! Who we are to others on the server: the public key of our user, its account, and signatures that prove it.

use super::nkey::{self, UserKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Display;

/// Where a server says who the asker is.
pub(super) const WHO_AM_I: &str = "$SYS.REQ.USER.INFO";

/// A user that has a key, and the account that it belongs to.
pub struct UserIdentity {
    /// The public key, `U...`.
    pub user: String,
    /// A public key `A...`, or the account's name in the server's configuration.
    pub account: String,
    /// Absent where the configuration has a JWT and no seed: then the rest is only a claim.
    key: Option<UserKey>,
}

impl UserIdentity {
    /// The signature of lines that each end in a line feed, base64 for URLs without padding.
    pub fn sign(&self, lines: &[&dyn Display]) -> Option<String> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.key.as_ref().map(|key| key.sign(&text))
    }
}

/// What our credentials say of us before the server is asked.
pub(super) enum Known {
    /// There is no key: no user name proves anything.
    Nobody,
    /// A user whose account only the server knows.
    User(UserKey),
    All(UserIdentity),
}

/// The claims of a user's JWT that say whose it is.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    #[serde(default)]
    nats: UserClaims,
}

#[derive(Default, Deserialize)]
struct UserClaims {
    /// Set where another key of the account has signed.
    issuer_account: Option<String>,
}

impl Known {
    /// The user of a JWT, whose signature is the server's business.
    pub(super) fn from_jwt(jwt: &str, key: Option<UserKey>) -> Known {
        let claims = jwt.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let Some(claims) = claims.and_then(|json| serde_json::from_slice::<Claims>(&json).ok()) else {
            return Known::Nobody;
        };
        let account = claims.nats.issuer_account.filter(|account| !account.is_empty()).unwrap_or(claims.iss);
        let fits = nkey::public_key(&claims.sub, nkey::USER).is_some()
            && nkey::public_key(&account, nkey::ACCOUNT).is_some()
            && key.as_ref().is_none_or(|key| key.public() == claims.sub);
        if fits { Known::All(UserIdentity { user: claims.sub, account, key }) } else { Known::Nobody }
    }

    /// Completes it with the server's answer to [`WHO_AM_I`], which is `None` where the server gave none.
    pub(super) fn complete(self, answer: Option<&[u8]>) -> Option<UserIdentity> {
        let key = match self {
            Known::Nobody => return None,
            Known::All(identity) => return Some(identity),
            Known::User(key) => key,
        };
        let document: Value = serde_json::from_slice(answer?).ok()?;
        let text = |name: &str| document.get("data")?.get(name)?.as_str();
        let user = key.public();
        let account =
            text("account").filter(|account| valid_account(account) && text("user") == Some(user.as_str()))?;
        Some(UserIdentity { account: account.to_string(), user, key: Some(key) })
    }
}

/// An account's key, or its name in the server's configuration.
pub fn valid_account(text: &str) -> bool {
    let is_word = || text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match text.len() {
        56 if text.starts_with('A') => nkey::public_key(text, nkey::ACCOUNT).is_some(),
        _ => text == "$G" || (!text.is_empty() && is_word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A key that the agent protocol's own examples use, published for that.
    const SEED: &str = "SUAEJ6GDK6FSSB54LD45Q7W25AW7NUT7MVLBABIR5MIPFUTBW7ZNPK2KYE";
    const USER: &str = "UCDUW5V44EBDBIK2FL4CTNDBQFNGBEZVJHSZGQVKRHASN4AV4IWPB5NT";

    fn key() -> UserKey {
        UserKey::from_seed(SEED).expect("a seed")
    }

    /// The user's key bytes under the prefix of accounts.
    fn account() -> String {
        nkey::public_text(nkey::ACCOUNT, &nkey::public_key(USER, nkey::USER).expect("a key"))
    }

    #[test]
    fn a_jwt_says_who_and_for_which_account() {
        let (account, other) = (account(), "AB".to_string());
        // (issuer, subject, issuer_account, expected account)
        for (iss, sub, issuer_account, expected) in [
            (&account, USER, None, Some(&account)),
            (&other, USER, Some(&account), Some(&account)),
            (&account, USER, Some(&String::new()), Some(&account)),
            (&other, USER, None, None),
            (&account, "UX", None, None),
        ] {
            let claims = json!({"iss": iss, "sub": sub, "nats": {"issuer_account": issuer_account}}).to_string();
            let jwt = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
            for seed in [None, Some(key())] {
                let signs = seed.is_some();
                let identity = Known::from_jwt(&jwt, seed).complete(None);
                assert_eq!(identity.as_ref().map(|identity| &identity.account), expected, "{iss} {sub}");
                assert!(identity.is_none_or(|i| i.user == USER && i.sign(&[&"x"]).is_some() == signs));
            }
        }
        for jwt in ["", "a.b.c", "e30.e30.sig"] {
            assert!(Known::from_jwt(jwt, None).complete(None).is_none(), "{jwt}");
        }
    }

    #[test]
    fn the_server_knows_the_account_of_a_bare_key() {
        for (answer, account) in [
            (json!({"data": {"user": USER, "account": "$G"}}), Some("$G")),
            (json!({"data": {"user": USER, "account": "ACME"}}), Some("ACME")),
            (json!({"data": {"user": USER, "account": "a b"}}), None),
            (json!({"data": {"user": "[REDACTED]", "account": "$G"}}), None),
            (json!({"error": {"code": 500}}), None),
        ] {
            let identity = Known::User(key()).complete(Some(answer.to_string().as_bytes()));
            assert_eq!(identity.map(|identity| identity.account).as_deref(), account, "{answer}");
        }
        assert!(Known::User(key()).complete(None).is_none());
        assert!(Known::Nobody.complete(Some(b"{}")).is_none());
    }
}
