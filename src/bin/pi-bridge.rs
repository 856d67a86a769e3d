//! The client `pi-bridge`: the command line, then one call into the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nats_pi_bridge::client(std::env::args_os().skip(1).collect(), &|name| std::env::var_os(name))
}
