//! The daemon `nats-pi-bridge`: one call into the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nats_pi_bridge::daemon(std::env::args_os().skip(1).collect())
}
