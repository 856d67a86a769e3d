//! Where sign-ins are refreshed, what is sent there, and what its answers mean: RFC 6749, sections 5 and 6. All pure.

use crate::model::http::is_loopback;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use ureq::http::Uri;

/// Providers whose sign-ins work only with the vendor's own programs: other addresses, and headers that name the program.
pub(crate) const VENDOR_ONLY: [&str; 2] = ["github-copilot", "openai-codex"];
const ANTHROPIC: &str = "anthropic";
/// PI notes the end of an Anthropic token this much too early, in milliseconds.
const ANTHROPIC_EARLIER_MS: i64 = 5 * 60_000;
/// The lifetime of a token whose answer names none, which the RFC allows: the RFC's own example value, in seconds.
const USUAL_LIFETIME: f64 = 3600.0;
/// Longer lifetimes are as good as this one, in seconds; a year.
const LONGEST_LIFETIME: f64 = 366.0 * 86_400.0;
/// How much of an endpoint's own words goes into an error message, in characters.
const MAX_WORDS: usize = 200;
/// From this length on, in characters, a word with digits in it may be a token or a piece of one.
const TOKEN_LENGTH: usize = 20;
/// From this length on, in characters, a piece of a secret is redacted.
const PIECE_LENGTH: usize = 6;

/// The endpoints that the configuration names. Sign-ins of other providers are never refreshed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints(BTreeMap<String, Endpoint>);

/// Where and as whom one provider's sign-in is refreshed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Endpoint {
    pub token_url: String,
    client_id: String,
    body: Option<Body>,
}

/// How the request is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Body {
    Json,
    Form,
}

/// The tokens that an endpoint gave.
#[derive(PartialEq, Eq)]
pub(super) struct Renewed {
    pub access: String,
    /// `None` = the former one stays good.
    pub refresh: Option<String>,
    /// Unix time in milliseconds, as PI would note it.
    pub expires: i64,
}

impl Endpoints {
    /// Reads the setting: an object of objects, by provider.
    ///
    /// # Errors
    /// Which provider's entry is wrong, and how.
    pub(crate) fn parse(text: &str) -> Result<Endpoints, String> {
        let entries: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let mut endpoints = BTreeMap::new();
        for (provider, value) in entries {
            let endpoint = Endpoint::parse(&provider, value).map_err(|why| format!("{provider:?}: {why}"))?;
            endpoints.insert(provider, endpoint);
        }
        Ok(Endpoints(endpoints))
    }

    pub(crate) fn get(&self, provider: &str) -> Option<&Endpoint> {
        self.0.get(provider)
    }
}

impl Endpoint {
    fn parse(provider: &str, value: Value) -> Result<Endpoint, String> {
        if VENDOR_ONLY.contains(&provider) {
            return Err("sign-ins of this provider are not supported".to_string());
        }
        let endpoint: Endpoint = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if endpoint.client_id.trim().is_empty() {
            return Err("\"clientId\" is empty".to_string());
        }
        let url = endpoint.token_url.parse::<Uri>().ok();
        let authority = url.as_ref().and_then(Uri::authority).map(|a| a.as_str()).unwrap_or_default();
        let safe = match url.as_ref().and_then(Uri::scheme_str) {
            Some("https") => true,
            Some("http") => is_loopback(&endpoint.token_url),
            _ => false,
        };
        if !safe || authority.is_empty() {
            return Err("\"tokenUrl\" has to be an https URL, or an http URL of this machine".to_string());
        }
        if authority.contains('@') {
            return Err("\"tokenUrl\" must not have a user or password in it".to_string());
        }
        Ok(endpoint)
    }

    /// The content type and the body of the request.
    pub(crate) fn request(&self, provider: &str, refresh: &str) -> (&'static str, Vec<u8>) {
        let usual = if provider == ANTHROPIC { Body::Json } else { Body::Form };
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", &self.client_id)];
        match self.body.unwrap_or(usual) {
            Body::Json => {
                let object: Map<String, Value> =
                    fields.map(|(name, text)| (name.to_string(), json!(text))).into_iter().collect();
                ("application/json", Value::Object(object).to_string().into_bytes())
            }
            Body::Form => {
                let pairs = fields.map(|(name, text)| format!("{name}={}", form_encoded(text)));
                ("application/x-www-form-urlencoded", pairs.join("&").into_bytes())
            }
        }
    }
}

fn form_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Reads the answer of an endpoint that agreed. The errors quote nothing of it.
pub(super) fn renewed(provider: &str, body: &[u8], now_ms: i64) -> Result<Renewed, &'static str> {
    let answer: Map<String, Value> = serde_json::from_slice(body).map_err(|_| "the answer is not a JSON object")?;
    let token = |name: &str| {
        let text = answer.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())?;
        // Anything else could not be sent in a header.
        text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_string())
    };
    let access = token("access_token").ok_or("the answer has no usable access_token")?;
    let lifetime = match answer.get("expires_in") {
        Some(Value::String(text)) => text.parse::<f64>().ok(),
        other => other.and_then(Value::as_f64),
    };
    let lifetime = lifetime.filter(|s| s.is_finite()).unwrap_or(USUAL_LIFETIME).clamp(0.0, LONGEST_LIFETIME);
    let earlier = if provider == ANTHROPIC { ANTHROPIC_EARLIER_MS } else { 0 };
    Ok(Renewed { access, refresh: token("refresh_token"), expires: now_ms + (lifetime * 1000.0) as i64 - earlier })
}

/// What an endpoint said that refused: the two fields that the RFC has for it, without anything that is or may be a
/// secret. Empty if it said nothing of that kind.
pub(super) fn error_text(body: &str, secrets: &[&str]) -> String {
    let answer: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
    let said = ["error", "error_description"].into_iter().filter_map(|name| answer.get(name)?.as_str());
    let said: Vec<String> = said.map(|text| redact(text, secrets)).filter(|text| !text.is_empty()).collect();
    said.join(": ").chars().take(MAX_WORDS).collect()
}

/// The text in one line, without the secrets, pieces of them, and whatever else looks like a token.
fn redact(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_string();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "[token]");
    }
    let part_of_token = |c: char| c.is_ascii_alphanumeric() || "-_.~+/=%".contains(c);
    let suspicious = |word: &str| {
        let piece = word.trim_matches('.');
        let known = piece.len() >= PIECE_LENGTH && secrets.iter().any(|secret| secret.contains(piece));
        known || (word.len() >= TOKEN_LENGTH && word.bytes().any(|b| b.is_ascii_digit()))
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| !part_of_token(c)).unwrap_or(rest.len());
        if length == 0 {
            // What is no character of a word could end the line, or the message's own quotation.
            out.push(if first.is_control() { ' ' } else { first });
            rest = &rest[first.len_utf8()..];
        } else {
            let word = &rest[..length];
            out.push_str(if suspicious(word) { "[token]" } else { word });
            rest = &rest[length..];
        }
    }
    out.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let entry = |url: &str| json!({"p": {"tokenUrl": url, "clientId": "c"}}).to_string();
        for (text, expected) in [
            (entry("https://h/token"), None),
            (entry("https://h:8443/a/b?c=d"), None),
            (entry("http://127.0.0.1:9/t"), None),
            (entry("http://[::1]:9/t"), None),
            (entry("http://localhost/t"), None),
            (entry("http://h/token"), Some("\"p\": \"tokenUrl\" has to be an https URL")),
            (entry("http://127.0.0.1.h/t"), Some("\"p\": \"tokenUrl\" has to be")),
            (entry("http://127.0.0.1@h/t"), Some("\"p\": \"tokenUrl\" has to be")),
            (entry("ftp://h/token"), Some("\"p\": \"tokenUrl\" has to be")),
            (entry("/token"), Some("\"p\": \"tokenUrl\" has to be")),
            (entry("https://"), Some("\"p\": \"tokenUrl\" has to be")),
            (entry("https://h h/"), Some("\"p\": \"tokenUrl\" has to be")),
            (entry("https://u:s3cret@h/t"), Some("\"p\": \"tokenUrl\" must not have a user")),
            (
                json!({"p": {"tokenUrl": "https://h/", "clientId": " "}}).to_string(),
                Some("\"p\": \"clientId\" is empty"),
            ),
            (json!({"p": {"tokenUrl": "https://h/"}}).to_string(), Some("\"p\": missing field `clientId`")),
            (json!({"p": {"clientId": "c"}}).to_string(), Some("\"p\": missing field `tokenUrl`")),
            (json!({"p": {"tokenUrl": 5, "clientId": "c"}}).to_string(), Some("\"p\": invalid type")),
            (
                json!({"p": {"tokenUrl": "https://h/", "clientId": "c", "secret": "x"}}).to_string(),
                Some("\"p\": unknown field `secret`"),
            ),
            (
                json!({"p": {"tokenUrl": "https://h/", "clientId": "c", "body": "xml"}}).to_string(),
                Some("\"p\": unknown variant `xml`"),
            ),
            (json!({"p": "https://h/"}).to_string(), Some("\"p\": invalid type")),
            (
                json!({"openai-codex": {"tokenUrl": "https://h/", "clientId": "c"}}).to_string(),
                Some("\"openai-codex\": sign-ins of this provider are not supported"),
            ),
        ] {
            match (Endpoints::parse(&text), expected) {
                (Ok(endpoints), None) => assert!(endpoints.get("p").is_some() && endpoints.get("q").is_none()),
                (Err(error), Some(begin)) => {
                    assert!(error.starts_with(begin) && !error.contains("s3cret"), "{text}: {error}");
                }
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }

    #[test]
    fn requests_by_provider_and_setting() {
        let json = r#"{"grant_type":"refresh_token","refresh_token":"r t/+é","client_id":"c&d"}"#;
        let form = "grant_type=refresh_token&refresh_token=r%20t%2F%2B%C3%A9&client_id=c%26d";
        for (provider, body, expected) in [
            ("anthropic", json!(null), json),
            ("anthropic", json!("form"), form),
            ("xai", json!(null), form),
            ("xai", json!("json"), json),
        ] {
            let setting = json!({provider: {"tokenUrl": "https://h/", "clientId": "c&d", "body": body}});
            let endpoints = Endpoints::parse(&setting.to_string()).expect("it is right");
            let (content_type, sent) = endpoints.get(provider).expect("it is there").request(provider, "r t/+é");
            assert_eq!(String::from_utf8_lossy(&sent), expected, "{provider} {body}");
            assert_eq!(content_type == "application/json", expected == json);
        }
    }

    #[test]
    fn answers() {
        for (provider, answer, expected) in [
            ("xai", json!({"access_token":"a","refresh_token":"r","expires_in":60}), Ok(("a", Some("r"), 61_000))),
            (
                "anthropic",
                json!({"access_token":"a","refresh_token":"r","expires_in":600}),
                Ok(("a", Some("r"), 301_000)),
            ),
            ("xai", json!({"access_token":"a","expires_in":"60","refresh_token":""}), Ok(("a", None, 61_000))),
            ("xai", json!({"access_token":"a"}), Ok(("a", None, 3_601_000))),
            ("xai", json!({"access_token":"a","expires_in":-5}), Ok(("a", None, 1000))),
            ("xai", json!({"access_token":"a","expires_in":1e300}), Ok(("a", None, 366 * 86_400_000 + 1000))),
            ("xai", json!({"access_token":"a\r\nx: y"}), Err("the answer has no usable access_token")),
            ("xai", json!({"access_token":5}), Err("the answer has no usable access_token")),
            ("xai", json!({}), Err("the answer has no usable access_token")),
            ("xai", json!("<html>"), Err("the answer is not a JSON object")),
        ] {
            let found = renewed(provider, answer.to_string().as_bytes(), 1000);
            let found = found.as_ref().map(|r| (r.access.as_str(), r.refresh.as_deref(), r.expires)).map_err(|e| *e);
            assert_eq!(found, expected, "{provider} {answer}");
        }
    }

    #[test]
    fn refusals_without_secrets() {
        let secrets = ["sk-ant-oat01-abcdef", "short", ""];
        for (body, expected) in [
            (
                json!({"error":"invalid_grant","error_description":"Refresh token expired"}).to_string(),
                "invalid_grant: Refresh token expired",
            ),
            (json!({"error":"unsupported_grant_type"}).to_string(), "unsupported_grant_type"),
            (json!({"error_description":"bad 'sk-ant-oat01-abcdef'!\nshort"}).to_string(), "bad '[token]'! [token]"),
            (json!({"error_description":"bad sk-ant-oat01..."}).to_string(), "bad [token]"),
            (json!({"error_description":"new eyJhbGciOiJIUzI1NiJ9.eyJ"}).to_string(), "new [token]"),
            (json!({"error_description":"sk%2Dant%2Doat01%2Dabcdef"}).to_string(), "[token]"),
            (json!({"error":{"message":"sk-ant-oat01-abcdef"},"token":"sk-ant-oat01-abcdef"}).to_string(), ""),
            ("sk-ant-oat01-abcdef".to_string(), ""),
            (json!({"error":"é ".repeat(900)}).to_string(), &"é ".repeat(100)),
        ] {
            assert_eq!(error_text(&body, &secrets), expected, "{body}");
        }
    }
}
