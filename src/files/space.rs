//! Room on the disk.

use rustix::fs::{Access, access, statvfs};
use std::io;
use std::path::Path;

/// Bytes that this user can still write into a folder, or into the next one above it that is there.
///
/// # Errors
/// Nothing can be written there, and why.
pub(crate) fn room(folder: &Path) -> io::Result<u64> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    access(there, Access::WRITE_OK | Access::EXEC_OK)?;
    let system = statvfs(there)?;
    // File systems that count no files say that there can be none.
    if system.f_files > 0 && system.f_favail == 0 {
        return Err(io::Error::other("no more files can be made there"));
    }
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_has_the_room_of_the_one_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let room_of = |name: &str| room(&folder.path().join(name)).map_err(|e| e.kind());
        assert!(room_of("").is_ok_and(|bytes| bytes > 0));
        assert!(room_of("a/b").is_ok_and(|bytes| bytes > 0));
    }
}
