//! Errors of files, as tools and clients are told of them.

use rustix::io::Errno;
use std::io;

/// The symbol of an error, such as `ENOENT`, for those that file operations meet; models know them.
pub(crate) fn error_code(error: &io::Error) -> String {
    let Some(errno) = Errno::from_io_error(error) else {
        return "EINVAL".to_owned();
    };
    let known = [
        (Errno::NOENT, "ENOENT"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PERM, "EPERM"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::EXIST, "EEXIST"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::FBIG, "EFBIG"),
        (Errno::ROFS, "EROFS"),
        (Errno::BUSY, "EBUSY"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NXIO, "ENXIO"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::IO, "EIO"),
        (Errno::INVAL, "EINVAL"),
    ];
    known
        .iter()
        .find(|(known, _)| *known == errno)
        .map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

/// An error as tools tell it: `ENOENT: no such file or directory`.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    format!("{}: {}{}", error_code(error), first.map(String::from).unwrap_or_default(), chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_named_by_their_symbol() {
        let error = std::fs::File::open("/nonexistent/x").expect_err("it must fail");
        assert_eq!(describe(&error), "ENOENT: no such file or directory");
        let error = std::fs::File::open("a\0b").expect_err("it must fail");
        assert!(describe(&error).starts_with("EINVAL: "), "{}", describe(&error));
        assert_eq!(error_code(&io::Error::from_raw_os_error(71)), "errno 71");
    }
}
