//! Files: opened by their paths without ever waiting for a pipe or reading a device, made for their owner only, replaced as
//! a whole. Everything that the daemon opens by a path goes through here.

mod error;
mod open;
pub(crate) mod private;
mod replace;
mod size;
mod space;
pub(crate) mod walk;

use crate::metrics::METRICS;
pub(crate) use error::{describe, error_code};
pub(crate) use open::{Links, open, open_regular, read, read_text};
pub(crate) use replace::{check_writable, keep_access, real_path, replace, sync_folder};
pub(crate) use size::size;
pub(crate) use space::room;

/// Waits until what was written to a file is on the disk.
///
/// # Errors
/// The system's; it may then get lost with the machine.
pub(crate) fn sync(file: &std::fs::File) -> std::io::Result<()> {
    METRICS.disk_wait(|| file.sync_data())
}

/// Whether there is something in a folder; false also if there is no such folder.
pub(crate) fn has_entries(folder: &std::path::Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| entries.next().is_some())
}
