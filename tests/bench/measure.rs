//! What both programs read off processes and samples.

/// Resident memory of a process in KiB: all of it, and without the program's own pages from its file.
pub(crate) fn memory(process: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the server still runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or_default()
    };
    (field("VmRSS"), field("RssAnon"))
}

/// The value below which a share of the sorted ones lies.
pub(crate) fn percentile<T: Copy + Default>(sorted: &[T], share: f64) -> T {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
