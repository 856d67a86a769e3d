//! `nats-pi-bridge audit verify`: whether the audit log is as it was written.

use crate::config::{self, Command, ConfigError};
use crate::files::read_text;
use crate::governance::audit::{Seen, Verified, verify};
use crate::nats::nkey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, UnparsedPublicKey};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// The largest file of heads that is read, bytes: years of them.
const MAX_HEADS: u64 = 1 << 30;
const USAGE: &str =
    "usage: nats-pi-bridge audit verify [--heads FILE] [options that say where the log is, such as --owner]";

/// Checks the log that these arguments mean and says what it is.
pub(super) fn run(arguments: Vec<OsString>, environment: HashMap<String, String>) -> ExitCode {
    match checked(arguments, environment) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(Failed::Usage(e)) => {
            eprintln!("pi-exec: {e}");
            ExitCode::from(e.exit_code())
        }
        Err(Failed::Unfit(text)) => {
            eprintln!("pi-exec: {text}");
            ExitCode::FAILURE
        }
    }
}

enum Failed {
    Usage(ConfigError),
    Unfit(String),
}

fn checked(arguments: Vec<OsString>, environment: HashMap<String, String>) -> Result<String, Failed> {
    let usage = |why: String| Failed::Usage(ConfigError::Usage(why));
    let mut args = pico_args::Arguments::from_vec(arguments);
    if args.subcommand().ok().flatten().as_deref() != Some("verify") {
        return Err(usage(USAGE.to_owned()));
    }
    let heads: Option<PathBuf> = args.opt_value_from_str("--heads").map_err(|e| usage(format!("{e}; {USAGE}")))?;
    let config = match config::from_command_line(args.finish(), environment).map_err(Failed::Usage)? {
        Command::Serve { config, .. } => config,
        Command::Check(_) | Command::Print(_) => return Err(usage(USAGE.to_owned())),
    };
    let unfit = |why: String| Failed::Unfit(why);
    let (mut seen, mut signers) = (Vec::new(), BTreeSet::new());
    if let Some(path) = heads {
        let text = read_text(&path, MAX_HEADS).map_err(|e| unfit(format!("{}: {e}", path.display())))?;
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = |why: &str| unfit(format!("{}:{}: {why}", path.display(), at + 1));
            let head = Seen::parse(line).ok_or_else(|| place("the line is no head of an audit log"))?;
            if let Some((user, signature)) = &head.signature {
                if !is_signed(&head, user, signature) {
                    return Err(place("the signature of the head is not that of its user"));
                }
                signers.insert(user.clone());
            }
            seen.push(head);
        }
    }
    let folder = config.audit_dir();
    let verified = verify(&folder, &seen).map_err(|e| unfit(format!("{}: {e}", folder.display())))?;
    let given = seen.len();
    if given > 0 && verified.foreign == given {
        return Err(unfit(format!("{}: none of the heads is of this log", folder.display())));
    }
    Ok(describe(&verified, given, &signers.into_iter().collect::<Vec<_>>().join(", ")))
}

fn is_signed(seen: &Seen, user: &str, signature: &str) -> bool {
    let text: String = seen.head.lines().iter().map(|line| format!("{line}\n")).collect();
    let (Some(key), Ok(signature)) = (nkey::public_key(user, nkey::USER), URL_SAFE_NO_PAD.decode(signature)) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), &signature).is_ok()
}

fn describe(verified: &Verified, given: usize, signers: &str) -> String {
    let Verified { first, last, torn, heads, foreign } = verified;
    let mut text = match last {
        0 => "the audit log is empty".to_owned(),
        _ => format!("the audit log fits: lines {first} to {last}"),
    };
    if given > 0 {
        text.push_str(&format!("; {heads} of {given} heads are in it, {foreign} are of other logs"));
    }
    if !signers.is_empty() {
        text.push_str(&format!(", signed by {signers}"));
    }
    if *torn > 0 {
        text.push_str(&format!("; the last line is not whole ({torn} bytes), as after a crash"));
    }
    text
}
