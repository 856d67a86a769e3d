//! Which proxy a request goes through.

use super::HttpError;
use ureq::Proxy;

/// The proxy for requests to `server` (`scheme://host:port`): what the environment says, else `setting`, which is PI's
/// `httpProxy` and stands for both `HTTP_PROXY` and `HTTPS_PROXY` where these are not set. Hosts that `NO_PROXY` names are
/// spoken to directly.
///
/// # Errors
/// The setting is of no use. It may hold a password, so the text does not quote it.
pub(super) fn choose(
    server: &str,
    setting: Option<&str>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, HttpError> {
    let variable = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
    let names =
        if server.starts_with("https:") { ["HTTPS_PROXY", "HTTP_PROXY"] } else { ["HTTP_PROXY", "HTTPS_PROXY"] };
    // A SOCKS proxy, which often stands in ALL_PROXY beside another one, is not spoken.
    let usable = |text: String| Proxy::new(text.trim()).ok().filter(is_http);
    let found = match names.into_iter().filter_map(either).find_map(usable) {
        Some(proxy) => Some(proxy),
        None => match setting.map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) => {
                let proxy = Proxy::new(text).ok().filter(is_http);
                let wrong = || HttpError::Invalid("\"httpProxy\" in settings.json is no http:// address".to_string());
                Some(proxy.ok_or_else(wrong)?)
            }
            None => either("ALL_PROXY").and_then(usable),
        },
    };
    let Some(found) = found else { return Ok(None) };
    let direct = either("NO_PROXY").unwrap_or_default();
    let mut proxy = Proxy::builder(found.protocol()).host(found.host()).port(found.port());
    if let Some(name) = found.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = found.password() {
        proxy = proxy.password(password);
    }
    for host in direct.split([',', ' ']).filter(|host| !host.is_empty()) {
        proxy = proxy.no_proxy(host);
    }
    proxy.build().map(Some).map_err(|_| HttpError::Invalid("the proxy's address has a wrong form".to_string()))
}

fn is_http(proxy: &Proxy) -> bool {
    matches!(proxy.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(server: &str, setting: Option<&str>, environment: &[(&str, &str)]) -> Result<String, HttpError> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        let proxy = choose(server, setting, &variable)?;
        let target = format!("{server}/v1").parse().expect("an address");
        Ok(match proxy {
            Some(proxy) if !proxy.is_no_proxy(&target) => format!("{}:{}", proxy.host(), proxy.port()),
            _ => "direct".to_string(),
        })
    }

    #[test]
    fn the_environment_comes_before_the_setting() {
        const HTTPS: &str = "https://api.example.com";
        const HTTP: &str = "http://api.example.com";
        for (server, setting, environment, expected) in [
            (HTTPS, None, &[][..], "direct"),
            (HTTPS, Some("http://set:1"), &[], "set:1"),
            (HTTP, Some("set:1"), &[], "set:1"),
            (HTTPS, Some(" "), &[], "direct"),
            (HTTPS, Some("http://set:1"), &[("HTTPS_PROXY", "http://env:2")], "env:2"),
            (HTTPS, Some("http://set:1"), &[("https_proxy", "")], "set:1"),
            (HTTPS, Some("http://set:1"), &[("ALL_PROXY", "http://env:2")], "set:1"),
            (HTTPS, None, &[("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://secure:2")], "secure:2"),
            (HTTP, None, &[("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://secure:2")], "plain:1"),
            (HTTPS, None, &[("http_proxy", "http://user:p%40ss@plain")], "plain:80"),
            (HTTPS, None, &[("ALL_PROXY", "http://all:3")], "all:3"),
            (HTTPS, None, &[("ALL_PROXY", "socks5://all:3"), ("HTTPS_PROXY", "http://env:2")], "env:2"),
            (HTTPS, None, &[("ALL_PROXY", "socks5://all:3")], "direct"),
            (HTTPS, Some("http://set:1"), &[("NO_PROXY", "other.com, api.example.com")], "direct"),
            (HTTPS, Some("http://set:1"), &[("no_proxy", ".example.com")], "direct"),
            (HTTPS, Some("http://set:1"), &[("no_proxy", "*")], "direct"),
            (HTTPS, Some("http://set:1"), &[("no_proxy", "example.com")], "set:1"),
        ] {
            assert_eq!(
                chosen(server, setting, environment).as_deref(),
                Ok(expected),
                "{server} {setting:?} {environment:?}"
            );
        }
    }

    #[test]
    fn a_setting_of_no_use_is_an_error_that_does_not_quote_it() {
        for setting in ["socks5://user:secret@host:1", "http://", "ht!tp://secret"] {
            let error = chosen("https://h", Some(setting), &[]).expect_err(setting).to_string();
            assert!(error.contains("httpProxy") && !error.contains("secret"), "{error}");
        }
        let all = [("HTTPS_PROXY", "http://env:2")];
        assert_eq!(chosen("https://h", Some("socks5://host:1"), &all).as_deref(), Ok("env:2"));
    }
}
