//! Who sent a request: the header `Agent-Sender`, and the signature that proves it.

use super::SenderTrust;
use super::nonces::{Nonces, Refusal, SignedNonce, WINDOW_MS};
use crate::clock::now_ms;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::sender::AgentSender;
use crate::ids;
use crate::nats::{Message, nkey, valid_account, valid_subject};
use crate::sync::lock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// The header's name.
pub(crate) const HEADER: &str = "Agent-Sender";
/// The first line of what is signed.
const SIGNED_TAG: &str = "AGENT-SENDER-V1";
/// Longest header that is looked into, bytes; the SDKs have the same limit.
const MAX_HEADER: usize = 4096;
/// Longest name for people, UTF-16 code units, as the SDKs count.
const MAX_NAME: usize = 64;
/// Longest nonce, bytes.
const MAX_NONCE: usize = 64;

/// A header as it was sent.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    account: String,
    user: String,
    key: [u8; 32],
    name: Option<String>,
    signature: Option<Signature>,
}

#[derive(Debug, PartialEq, Eq)]
struct Signature {
    subject: String,
    time: String,
    time_ms: i64,
    nonce: String,
    bytes: Vec<u8>,
}

/// Checks senders, and remembers what it accepted so that nobody can send it again.
pub struct Senders {
    trust: SenderTrust,
    /// The only users whose signatures count where one is demanded; empty = all.
    trusted: HashSet<String>,
    accepted: Mutex<Nonces>,
    /// Tells the owner's other daemons what was accepted.
    tell: OnceLock<Tell>,
    /// There are other daemons.
    shared: AtomicBool,
}

/// Says what was accepted. Is called on any thread and must not wait.
pub(crate) type Tell = Box<dyn Fn(&SignedNonce) + Send + Sync>;

impl Senders {
    pub fn new(trust: SenderTrust) -> Senders {
        Senders::trusting(trust, HashSet::new(), None)
    }

    /// Trusts only those users, if there are any; what was accepted is remembered over restarts in a file.
    pub fn trusting(trust: SenderTrust, trusted: HashSet<String>, file: Option<PathBuf>) -> Senders {
        let nonces = Nonces::new(trusted.len());
        let nonces = match file {
            Some(file) => nonces.kept_in(file, now_ms()),
            None => nonces,
        };
        Senders { trust, trusted, accepted: Mutex::new(nonces), tell: OnceLock::new(), shared: AtomicBool::new(false) }
    }

    pub fn trust(&self) -> SenderTrust {
        self.trust
    }

    /// Who sent a request, if it says so. `now_ms` is Unix time in milliseconds.
    ///
    /// # Errors
    /// 400 for a malformed header, 401 for a signature that proves nothing or is missing where it is demanded, 403 for a good
    /// one of somebody who is not trusted, 429 if more is signed than we can remember.
    pub fn identify(&self, message: &Message, now_ms: i64) -> Result<Option<AgentSender>, ReplyError> {
        self.identify_signed(message, now_ms, false).map(|(sender, _)| sender)
    }

    /// Like [`Senders::identify`], with what tells a signed request from every other one. A request that is `handed_on` may be
    /// one that the daemon which hands it on accepted.
    ///
    /// # Errors
    /// As [`Senders::identify`].
    pub(crate) fn identify_signed(
        &self,
        message: &Message,
        now_ms: i64,
        handed_on: bool,
    ) -> Result<(Option<AgentSender>, Option<SignedNonce>), ReplyError> {
        let mut values = message.headers.iter().flat_map(|headers| headers.iter());
        let mut next = || values.by_ref().find(|(name, _)| name.eq_ignore_ascii_case(HEADER)).map(|(_, value)| value);
        let header = match (next(), next()) {
            (Some(_), Some(_)) => return Err(malformed("there are several of it")),
            (Some(value), None) => parse(value)?,
            (None, _) => None,
        };
        let unsigned = || match self.trust {
            SenderTrust::Any => Ok(()),
            SenderTrust::Signed => {
                Err(ReplyError::coded(ErrorKind::SignatureRequired, "this agent wants signed requests"))
            }
        };
        let Some(header) = header else { return unsigned().map(|()| (None, None)) };
        let signed = match &header.signature {
            None => unsigned().map(|()| None)?,
            Some(signature) => {
                signature.verify(&header, message, now_ms)?;
                if self.trust == SenderTrust::Signed && !self.trusts(&header.user) {
                    let why = "this user is not among the trusted ones";
                    return Err(ReplyError::coded(ErrorKind::SenderForbidden, why));
                }
                let Signature { nonce, time_ms, .. } = signature;
                let signed = SignedNonce { user: header.user.clone(), nonce: nonce.clone(), time: *time_ms };
                if !(handed_on && self.accepted().take_over(&signed.user, &signed.nonce)) {
                    self.remember(&signed, now_ms)?;
                }
                Some(signed)
            }
        };
        let verified = signed.is_some();
        let sender = AgentSender { account: header.account, user: header.user, name: header.name, verified };
        Ok((Some(sender), signed))
    }

    fn trusts(&self, user: &str) -> bool {
        self.trusted.is_empty() || self.trusted.contains(user)
    }

    fn remember(&self, signed: &SignedNonce, now_ms: i64) -> Result<(), ReplyError> {
        self.accepted().accept(&signed.user, &signed.nonce, signed.time, now_ms).map_err(|refusal| match refusal {
            Refusal::UsedBefore => used_before(),
            Refusal::BeforeStart => {
                rejected("it was signed before this daemon started, and may have been accepted by the one before")
            }
            Refusal::Full => ReplyError::busy("too many signed requests at a time"),
        })?;
        if self.shared.load(Ordering::Relaxed)
            && let Some(tell) = self.tell.get()
        {
            tell(signed);
        }
        Ok(())
    }

    /// Who is told from now on what is accepted, while there are other daemons. Only the first call counts.
    pub(crate) fn tell(&self, tell: Tell) {
        let _ = self.tell.set(tell);
    }

    /// Whether there are other daemons.
    pub(crate) fn set_shared(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// Another daemon accepted a request.
    pub(crate) fn accepted_by_another(&self, signed: &SignedNonce, now_ms: i64) {
        self.accepted().accepted_by_another(signed, now_ms);
    }

    /// Whether this daemon accepted a request itself.
    pub(crate) fn is_ours(&self, signed: &SignedNonce) -> bool {
        self.accepted().is_ours(signed)
    }

    /// A request that was accepted here is done by another daemon.
    pub(crate) fn leave_to_another(&self, signed: &SignedNonce) {
        self.accepted().leave_to_another(&signed.user, &signed.nonce);
    }

    /// Leaves what was accepted so far to another daemon that begins on the same file, and is told of the rest.
    pub(crate) fn lend(&self) {
        self.set_shared(true);
        self.accepted().lend();
    }

    /// That daemon has ended.
    pub(crate) fn take_back(&self, file: PathBuf) {
        self.accepted().take_back(file);
    }

    /// Takes up what another daemon has left in a file, and keeps it there.
    pub(crate) fn keep_in(&self, file: PathBuf) {
        let mut accepted = self.accepted();
        let heard = std::mem::replace(&mut *accepted, Nonces::new(self.trusted.len()));
        *accepted = heard.kept_in(file, now_ms());
    }

    fn accepted(&self) -> MutexGuard<'_, Nonces> {
        lock(&self.accepted)
    }

    /// Gives memory back that is no longer needed.
    pub fn tick(&self, now_ms: i64) {
        self.accepted().forget_old(now_ms);
    }

    /// Leaves what was accepted to the next daemon, and accepts no signature any more.
    pub fn hand_over(&self) {
        self.accepted().hand_over();
    }
}

impl Signature {
    fn verify(&self, header: &Header, message: &Message, now_ms: i64) -> Result<(), ReplyError> {
        if self.subject != message.subject {
            return Err(rejected("it was signed for another subject"));
        }
        if (now_ms - self.time_ms).abs() > WINDOW_MS {
            return Err(rejected("its time is too far from ours"));
        }
        let signed = SignedParts {
            account: &header.account,
            user: &header.user,
            subject: &self.subject,
            time: &self.time,
            nonce: &self.nonce,
        };
        let text: String = signed.lines(&sha256(&message.payload)).map(|line| format!("{line}\n")).concat();
        UnparsedPublicKey::new(&ED25519, header.key)
            .verify(text.as_bytes(), &self.bytes)
            .map_err(|_| rejected("the signature does not fit"))
    }
}

/// What a signature says beside the payload.
pub(crate) struct SignedParts<'a> {
    pub account: &'a str,
    pub user: &'a str,
    pub subject: &'a str,
    pub time: &'a str,
    pub nonce: &'a str,
}

impl SignedParts<'_> {
    /// The lines that are signed; `digest` is that of the payload.
    fn lines<'a>(&'a self, digest: &'a str) -> [&'a str; 7] {
        [SIGNED_TAG, self.account, self.user, self.subject, self.time, self.nonce, digest]
    }

    /// The header's value, with the signature that `sign` makes of those lines.
    pub(crate) fn header(
        &self,
        payload: &[u8],
        sign: impl FnOnce(&[&dyn Display]) -> Option<String>,
    ) -> Option<String> {
        let digest = sha256(payload);
        let lines = self.lines(&digest);
        let signature = sign(&lines.each_ref().map(|line| line as &dyn Display))?;
        let SignedParts { account, user, subject, time, nonce } = self;
        let header = json!({
            "v": 1, "account": account, "user": user, "sub": subject, "ts": time, "nonce": nonce, "sig": signature,
        });
        Some(header.to_string())
    }
}

fn sha256(bytes: &[u8]) -> String {
    ids::hex(digest(&SHA256, bytes).as_ref())
}

fn malformed(why: &str) -> ReplyError {
    ReplyError::coded(ErrorKind::InvalidSender, format_args!("the header {HEADER} is malformed: {why}"))
}

/// Somebody sent again what was accepted, here or by another daemon.
pub(crate) fn used_before() -> ReplyError {
    rejected("the nonce was used before")
}

fn rejected(why: &str) -> ReplyError {
    ReplyError::coded(ErrorKind::SenderRejected, why)
}

/// Reads the header's value; `None` for a version that we do not know, which counts as no header.
fn parse(value: &str) -> Result<Option<Header>, ReplyError> {
    if value.len() > MAX_HEADER {
        return Err(malformed("it is too long"));
    }
    let fields: Map<String, Value> = serde_json::from_str(value).map_err(|_| malformed("no JSON object"))?;
    match fields.get("v").and_then(Value::as_f64) {
        Some(1.0) => {}
        Some(_) => return Ok(None),
        None => return Err(malformed("v is no number")),
    }
    let text = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(malformed(&format!("{key} is no text"))),
    };
    let account = text("account")?.filter(|a| valid_account(a)).ok_or_else(|| malformed("no valid account"))?;
    let user = text("user")?.ok_or_else(|| malformed("no user"))?;
    let key = nkey::public_key(user, nkey::USER).ok_or_else(|| malformed("the user is no user's key"))?;
    let name = text("name")?;
    if name.is_some_and(|name| name.encode_utf16().count() > MAX_NAME || name.chars().any(char::is_control)) {
        return Err(malformed("no valid name"));
    }
    let subject = text("sub")?;
    if subject.is_some_and(|subject| !valid_subject(subject)) {
        return Err(malformed("sub is no subject"));
    }
    let time = text("ts")?.map(|ts| Ok((ts, unix_ms(ts).ok_or_else(|| malformed("ts is no time"))?))).transpose()?;
    let nonce = text("nonce")?;
    if nonce.is_some_and(|nonce| !(1..=MAX_NONCE).contains(&nonce.len()) || !is_word(nonce)) {
        return Err(malformed("no valid nonce"));
    }
    let signature = match text("sig")? {
        None => None,
        Some(sig) => {
            let bytes = URL_SAFE_NO_PAD.decode(sig).map_err(|_| malformed("sig is no base64 for URLs"))?;
            let (64, Some(subject), Some((time, time_ms)), Some(nonce)) = (bytes.len(), subject, time, nonce) else {
                return Err(malformed("sig has to have 64 bytes, and needs sub, ts and nonce"));
            };
            let (subject, time, nonce) = (subject.to_string(), time.to_string(), nonce.to_string());
            Some(Signature { subject, time, time_ms, nonce, bytes })
        }
    };
    let (account, user, name) = (account.to_string(), user.to_string(), name.map(str::to_string));
    Ok(Some(Header { account, user, key, name, signature }))
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Unix time in milliseconds of a time such as `2026-01-02T03:04:05.678Z`, the only form that the header may have.
fn unix_ms(text: &str) -> Option<i64> {
    let has_form = text.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => matches!(byte, b'.' | b'Z'),
        _ if at + 1 == text.len() => byte == b'Z',
        _ => byte.is_ascii_digit(),
    });
    if has_form { crate::clock::parse_time(text) } else { None }
}

#[cfg(test)]
mod tests;
