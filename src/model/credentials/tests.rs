use super::*;
use crate::model::test_support::test_model;
use serde_json::{Value, json};

fn environment(name: &str) -> Option<String> {
    ["OPENAI_API_KEY", "GROQ_API_KEY", "MINE"].contains(&name).then(|| format!("env-{name}"))
}

fn credentials(dir: &Path, endpoints: &Value) -> Credentials {
    let endpoints = Endpoints::parse(&endpoints.to_string()).expect("they are right");
    Credentials::new(dir, environment, endpoints, Arc::default())
}

fn model(provider: &str) -> Model {
    let api = match provider {
        "anthropic" | "minimax" => Api::AnthropicMessages,
        "openai" => Api::OpenaiResponses,
        "google" => Api::GoogleGenerativeAi,
        _ => Api::OpenaiCompletions,
    };
    let base_url = if provider == "local" { "http://127.0.0.1:1/v1" } else { "https://h/v1" };
    Model { provider: provider.to_string(), api, base_url: base_url.to_string(), ..test_model() }
}

fn authorize(provider: &str, auth: &Value, models: &Value) -> Result<(String, Scheme), ModelError> {
    let dir = tempfile::tempdir().expect("a directory");
    if !auth.is_null() {
        std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
    }
    let user = ModelsJson::parse(&json!({ "providers": models }).to_string()).expect("it parses");
    let credentials = credentials(dir.path(), &json!({}));
    let model = model(provider);
    let checked = credentials.check(&model, &user).map_err(|e| e.to_string());
    let found = credentials.authorize(&model, &user);
    assert_eq!(checked.err(), found.as_ref().err().map(ToString::to_string), "the preflight tells the truth");
    found.map(|a| (a.secret.map(|s| s.reveal().to_string()).unwrap_or_default(), a.scheme))
}

#[test]
fn the_order_of_sources() {
    let later = now_ms() + 60_000;
    let models = json!({"groq":{"apiKey":"$MINE"},"anthropic":{"apiKey":"m"},"other":{"apiKey":"k","authHeader":true}});
    for (provider, auth, expected, scheme) in [
        ("openai", json!(null), "env-OPENAI_API_KEY", Scheme::Key),
        ("openai", json!({"openai":{"type":"api_key","key":"stored"}}), "stored", Scheme::Key),
        ("groq", json!(null), "env-MINE", Scheme::Key),
        ("groq", json!({"groq":{"type":"api_key","key":"x-${MINE}","env":{"MINE":"own"}}}), "x-own", Scheme::Key),
        ("groq", json!({"groq":{"type":"api_key","key":"!echo ran"}}), "ran", Scheme::Key),
        ("anthropic", json!(null), "m", Scheme::Key),
        (
            "anthropic",
            json!({"anthropic":{"type":"oauth","access":"sk-ant-oat-1","expires":later}}),
            "sk-ant-oat-1",
            Scheme::AnthropicSignIn,
        ),
        (
            "anthropic",
            json!({"anthropic":{"type":"api_key","key":"sk-ant-oat-2"}}),
            "sk-ant-oat-2",
            Scheme::AnthropicSignIn,
        ),
        ("anthropic", json!({"anthropic":{"type":"oauth","access":"plain","expires":later}}), "plain", Scheme::Bearer),
        ("xai", json!({"xai":{"type":"oauth","access":"x","refresh":"r","expires":later}}), "x", Scheme::Bearer),
        ("openai", json!({"openai":{"type":"oauth","access":"o","expires":later}}), "o", Scheme::Bearer),
        ("other", json!({"other":{"type":"oauth","access":"t","expires":later}}), "t", Scheme::Bearer),
        ("other", json!(null), "k", Scheme::Bearer),
        // Others' odd entries do not matter, and neither does what an entry can do without.
        ("groq", json!({"openai":"sk","groq":{"type":"api_key","key":"k","env":[1]},"x":null}), "k", Scheme::Key),
        ("groq", json!({"groq":{"type":"api_key","key":"$A","env":{"A":"a","B":5}}}), "a", Scheme::Key),
        ("openai", json!({"openai":{"type":"api_key","key":null,"env":{"A":"a"}}}), "env-OPENAI_API_KEY", Scheme::Key),
        (
            "xai",
            json!({"xai":{"type":"oauth","access":"x","refresh":7,"expires":later as f64 + 0.5}}),
            "x",
            Scheme::Bearer,
        ),
        ("local", json!(null), "", Scheme::Bearer),
    ] {
        let found = authorize(provider, &auth, &models).unwrap_or_else(|e| panic!("{provider} {auth}: {e}"));
        assert_eq!(found, (expected.to_string(), scheme), "{provider} {auth}");
    }
}

#[test]
fn refusals_name_provider_and_fix_and_no_key() {
    for (provider, auth, expected) in [
        ("deepseek", json!(null), "DEEPSEEK_API_KEY"),
        ("nobody", json!(null), "\"apiKey\" in models.json"),
        ("openai", json!({"openai":{"type":"api_key","key":"$GONE"}}), "GONE is not set (auth.json)"),
        ("openai", json!({"openai":{"type":"oauth","access":"secret","expires":0}}), "expired: sign in again"),
        ("openai", json!({"openai":{"type":"passkey","access":"secret"}}), "not supported"),
        (
            "openai-codex",
            json!({"openai-codex":{"type":"oauth","access":"secret","expires":i64::MAX}}),
            "not supported: use another provider",
        ),
        (
            "github-copilot",
            json!({"github-copilot":{"type":"oauth","access":"secret","expires":i64::MAX}}),
            "not supported: use another provider",
        ),
        (
            "google",
            json!({"google":{"type":"oauth","access":"secret","expires":i64::MAX}}),
            "the google-generative-ai API does not take the sign-in",
        ),
        (
            "minimax",
            json!({"minimax":{"type":"oauth","access":"secret","expires":i64::MAX}}),
            "the anthropic-messages API does not take the sign-in",
        ),
        ("anthropic", json!({"anthropic":{"type":"oauth","access":"secret","expires":5}}), "expired"),
        (
            "openai",
            json!({"openai":{"type":"api_key","key":["secret"]}}),
            "the entry \"openai\" has a list as \"key\", not a text",
        ),
        ("openai", json!({"openai":"secret"}), "auth.json: the entry \"openai\" is a text, not an object"),
        ("openai", json!({"openai":null}), "the entry \"openai\" is null, not an object"),
        ("openai", json!({"openai":{"key":"secret"}}), "the entry \"openai\" has no \"type\""),
        ("openai", json!({"openai":{"type":"oauth","refresh":"secret"}}), "has no \"access\" token"),
    ] {
        let error = authorize(provider, &auth, &json!({})).expect_err(provider).to_string();
        assert!(error.contains(expected) && error.contains(provider), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_broken_file_is_named_and_not_quoted() {
    for (text, expected) in [
        ("\"secret\"", "a text, not an object"),
        ("[\"secret\"]", "a list, not an object"),
        ("{\"openai\":{\"key\":\"secret\"", "EOF while parsing an object at line 1 column 25"),
        ("", "EOF while parsing"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("auth.json"), text).expect("it writes");
        let credentials = credentials(dir.path(), &json!({}));
        let error = credentials.authorize(&model("openai"), &ModelsJson::default()).expect_err("it is broken");
        let error = error.to_string();
        assert!(error.contains("/auth.json: ") && error.contains(expected), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(credentials.problems().len(), 1);
    }
}

#[test]
fn an_expired_sign_in_is_available_where_it_can_be_refreshed() {
    let endpoints = json!({"xai": {"tokenUrl": "https://h/", "clientId": "c"}});
    for (provider, refresh, expected) in
        [("xai", "r", true), ("xai", "", false), ("groq", "r", false), ("anthropic", "r", false)]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let auth = json!({provider: {"type":"oauth","access":"a","refresh":refresh,"expires":5}});
        std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
        let (credentials, user) = (credentials(dir.path(), &endpoints), ModelsJson::default());
        assert_eq!(credentials.available(provider, &user), expected, "{provider} {refresh:?}");
        assert_eq!(credentials.check(&model(provider), &user).is_ok(), expected, "{provider} {refresh:?}");
        // As long as nobody has refreshed it, it is of no use.
        assert!(credentials.authorize(&model(provider), &user).is_err());
    }
}

#[test]
fn a_command_of_auth_json_runs_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let auth = json!({"openai":{"type":"api_key","key":format!("!echo k; echo x >> {}", log.display())}});
    std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
    let credentials = credentials(dir.path(), &json!({}));
    let model = model("openai");
    for _ in 0..2 {
        credentials.authorize(&model, &ModelsJson::default()).expect("it works");
    }
    assert_eq!(std::fs::read_to_string(log).expect("it ran"), "x\n");
}
