//! From configured credentials to what CONNECT carries.

use super::handshake::Credentials;
use super::identity::Known;
use super::nkey::{NkeyError, UserKey};
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Reads a file with keys or certificates: all of its bytes.
pub type ReadFile = fn(&Path) -> io::Result<Vec<u8>>;

/// Who we are to the server. It has no `Debug`, because it holds secrets. Files are read at each connection, so that
/// credentials can be replaced while the daemon runs.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    None,
    UserPassword {
        user: String,
        password: String,
    },
    Token(String),
    /// A credentials file: JWT and seed in their `-----BEGIN` blocks.
    CredsFile(PathBuf),
    /// A file with a user's seed (`SU...`).
    NkeyFile(PathBuf),
    /// Without a seed only a server that does not ask for a signature accepts the JWT.
    Jwt {
        jwt: String,
        seed: Option<String>,
    },
}

/// Why there are no credentials to show. It never contains them.
#[derive(Debug)]
pub(super) enum AuthError {
    Read { path: PathBuf, error: io::Error },
    NoJwt(PathBuf),
    NoSeed(PathBuf),
    BadSeed(NkeyError),
}

impl fmt::Display for AuthError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::Read { path, error } => write!(out, "{}: {error}", path.display()),
            AuthError::NoJwt(path) => write!(out, "{}: no user JWT in it", path.display()),
            AuthError::NoSeed(path) => write!(out, "{}: no user seed in it", path.display()),
            AuthError::BadSeed(error) => write!(out, "{error}"),
        }
    }
}

impl From<NkeyError> for AuthError {
    fn from(error: NkeyError) -> AuthError {
        AuthError::BadSeed(error)
    }
}

/// What CONNECT carries to prove who we are, and what is known of that identity; files are read with `read_file`.
pub(super) fn credentials(
    auth: &Auth,
    read_file: ReadFile,
    nonce: Option<&str>,
) -> Result<(Credentials, Known), AuthError> {
    let read = |path: &Path| {
        let error = |error| AuthError::Read { path: path.into(), error };
        let bytes = read_file(path).map_err(error)?;
        String::from_utf8(bytes).map_err(|e| error(io::Error::new(io::ErrorKind::InvalidData, e.utf8_error())))
    };
    let shown = match auth {
        Auth::None => Credentials::default(),
        Auth::UserPassword { user, password } => {
            Credentials { user: Some(user.clone()), pass: Some(password.clone()), ..Credentials::default() }
        }
        Auth::Token(token) => Credentials { auth_token: Some(token.clone()), ..Credentials::default() },
        Auth::CredsFile(path) => {
            let text = read(path)?;
            let jwt = block(&text, "USER JWT").ok_or_else(|| AuthError::NoJwt(path.clone()))?;
            let seed = block(&text, "USER NKEY SEED").ok_or_else(|| AuthError::NoSeed(path.clone()))?;
            return jwt_credentials(jwt, Some(seed), nonce);
        }
        Auth::NkeyFile(path) => {
            let text = read(path)?;
            let seed = block(&text, "USER NKEY SEED").or_else(|| bare_seed(&text));
            let key = UserKey::from_seed(seed.ok_or_else(|| AuthError::NoSeed(path.clone()))?)?;
            let sig = nonce.map(|nonce| key.sign(nonce));
            return Ok((Credentials { nkey: Some(key.public()), sig, ..Credentials::default() }, Known::User(key)));
        }
        Auth::Jwt { jwt, seed } => return jwt_credentials(jwt.trim(), seed.as_deref(), nonce),
    };
    Ok((shown, Known::Nobody))
}

fn jwt_credentials(jwt: &str, seed: Option<&str>, nonce: Option<&str>) -> Result<(Credentials, Known), AuthError> {
    let key = seed.map(UserKey::from_seed).transpose()?;
    let sig = key.as_ref().zip(nonce).map(|(key, nonce)| key.sign(nonce));
    Ok((Credentials { jwt: Some(jwt.into()), sig, ..Credentials::default() }, Known::from_jwt(jwt, key)))
}

/// The line between `-----BEGIN ... label-----` and its end. The number of dashes varies between tools, and so does a
/// `NATS` before the label.
fn block<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let begins = |line: &&str| {
        let title = line.trim_matches('-').trim().strip_prefix("BEGIN ");
        line.starts_with("---") && title.is_some_and(|title| title.ends_with(label))
    };
    let mut lines = text.lines().map(str::trim);
    lines.find(begins)?;
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("---"))
}

/// The first line that looks like a seed, in a file that holds nothing else or some commentary.
fn bare_seed(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| line.starts_with("SU"))
}

#[cfg(test)]
mod tests {
    use super::super::address::ServerAddress;
    use super::*;
    use std::fs;

    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    fn read(path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn shows_what_was_configured() {
        let password = Auth::UserPassword { user: "u".into(), password: "p".into() };
        let creds_file = file(&format!(
            "-----BEGIN OTHER-----\nold\n\n-----BEGIN NATS USER JWT-----\neyJ.a.b\n------END NATS USER JWT------\n\n\
             ************ IMPORTANT ***\n-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
        ));
        let bare = file(&format!("# comment\n{SEED}\n\n"));
        let wrapped = file(&format!("-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------"));
        let jwt = |seed: Option<&str>| Auth::Jwt { jwt: "eyJ.a.b".into(), seed: seed.map(Into::into) };
        // (configured, address, nonce, user, pass, token, jwt, nkey, signed)
        let plain = "h";
        type Row<'a> = (Auth, &'a str, Option<&'a str>, [Option<&'a str>; 5], bool);
        let table: Vec<Row<'_>> = vec![
            (Auth::None, plain, Some("n"), [None; 5], false),
            (password.clone(), plain, None, [Some("u"), Some("p"), None, None, None], false),
            (Auth::Token("t".into()), plain, None, [None, None, Some("t"), None, None], false),
            (Auth::None, "x@h", None, [None, None, Some("x"), None, None], false),
            (password, "x:y@h", None, [Some("x"), Some("y"), None, None, None], false),
            (jwt(None), "x:y@h", Some("n"), [None, None, None, Some("eyJ.a.b"), None], false),
            (jwt(Some(SEED)), plain, Some("n"), [None, None, None, Some("eyJ.a.b"), None], true),
            (jwt(Some(SEED)), plain, None, [None, None, None, Some("eyJ.a.b"), None], false),
            (
                Auth::CredsFile(creds_file.path().into()),
                plain,
                Some("n"),
                [None, None, None, Some("eyJ.a.b"), None],
                true,
            ),
            (Auth::NkeyFile(bare.path().into()), "x:y@h", Some("n"), [None, None, None, None, Some(PUBLIC)], true),
            (Auth::NkeyFile(wrapped.path().into()), plain, Some("n"), [None, None, None, None, Some(PUBLIC)], true),
        ];
        for (index, (auth, address, nonce, expected, signed)) in table.into_iter().enumerate() {
            let server: ServerAddress = address.parse().expect("an address");
            let (shown, _) =
                credentials(server.auth(&auth), read, nonce).unwrap_or_else(|error| panic!("{index}: {error}"));
            let parts = [&shown.user, &shown.pass, &shown.auth_token, &shown.jwt, &shown.nkey];
            assert_eq!(parts.map(|part| part.as_deref()), expected, "row {index}");
            assert_eq!(shown.sig.is_some(), signed, "row {index}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let no_jwt = file(&format!("-----BEGIN USER NKEY SEED-----\n{SEED}\n"));
        let no_seed = file("-----BEGIN USER JWT-----\na.b.c\n------END USER JWT------\n");
        let empty_block = file("-----BEGIN USER JWT-----\n------END USER JWT------\n");
        let damaged = file(&SEED.replace('Y', "Z"));
        let table = [
            (Auth::CredsFile("/nonexistent/creds".into()), "No such file"),
            (Auth::CredsFile(no_jwt.path().into()), "no user JWT"),
            (Auth::CredsFile(empty_block.path().into()), "no user JWT"),
            (Auth::CredsFile(no_seed.path().into()), "no user seed"),
            (Auth::NkeyFile(no_seed.path().into()), "no user seed"),
            (Auth::NkeyFile(damaged.path().into()), "checksum"),
        ];
        for (auth, expected) in table {
            let text = credentials(&auth, read, Some("n")).map(|_| ()).expect_err(expected).to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("SU"), "{text}");
        }
    }
}
