//! Files: opened by their paths without ever waiting for a pipe or reading a device, made for their owner only, replaced as
//! a whole. Everything that the daemon opens by a path goes through here.

mod error;
mod open;
pub(crate) mod private;
mod replace;
mod size;
pub(crate) mod walk;

pub(crate) use error::{describe, error_code};
pub(crate) use open::{Links, open, open_regular, read, read_text};
pub(crate) use replace::{check_writable, keep_access, real_path, replace, sync_folder};
pub(crate) use size::size;
