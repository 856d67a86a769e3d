//! Why a call of `pi-bridge` does not succeed.

use std::fmt;
use std::io;

/// The end of a call before its time; `Display` is the line for standard error.
#[derive(Debug)]
pub(super) enum Failure {
    /// No subcommand: the usage is printed instead of a line.
    NoSubcommand,
    /// The command line is wrong.
    Usage(String),
    /// Something on this side, or the connection.
    Local(String),
    /// The session or daemon said no; what it said is printed already.
    Refused,
    /// Nobody reads what we print any more, which is no error (`pi-bridge stream | head -1`).
    OutputClosed,
}

impl Failure {
    /// The process's exit code. Usage errors are 1 as well, as with the first client.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::NoSubcommand | Failure::Usage(_) | Failure::Local(_) | Failure::Refused => 1,
        }
    }

    /// For an error of writing to standard output.
    pub(super) fn output(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::OutputClosed
        } else {
            Failure::Local(format!("Cannot write the output: {error}"))
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Local(text) => f.write_str(text),
            Failure::NoSubcommand | Failure::Refused | Failure::OutputClosed => Ok(()),
        }
    }
}
