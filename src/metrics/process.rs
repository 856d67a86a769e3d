//! Figures of the process itself, by the names that Prometheus' own clients use.

use super::page::{Kind, Page};
use crate::files;
use std::path::Path;

/// More than the kernel writes into one of these files, bytes.
const MAX_FILE: u64 = 64 * 1024;

impl Page {
    /// Adds what the kernel says of this process.
    pub(crate) fn process(&mut self) {
        let read = |name: &str| files::read_text(&Path::new("/proc/self").join(name), MAX_FILE).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        if let Some(kibibytes) = field("VmRSS:") {
            self.gauge("process_resident_memory_bytes", "Memory in use.", kibibytes * 1024.0);
        }
        if let Some(threads) = field("Threads:") {
            self.gauge("process_threads", "Threads.", threads);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One of them is that of the folder.
            self.gauge("process_open_fds", "Open files.", entries.count().saturating_sub(1) as f64);
        }
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        // Behind the program's name, which may have any characters, user and system time are the 12th and the 13th field.
        let stat = read("stat");
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(11).take(2);
        let times: Vec<f64> = fields.filter_map(|time| time.parse().ok()).collect();
        if let [user, system] = times[..] {
            let name = "process_cpu_seconds_total";
            self.family(name, Kind::Counter, "Time on processors.");
            self.sample(name, &[], (user + system) / ticks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        let mut page = Page::default();
        page.process();
        let document = page.document();
        for name in ["process_resident_memory_bytes", "process_threads", "process_open_fds"] {
            assert!(document[name].as_f64().is_some_and(|value| value >= 1.0), "{document}");
        }
        assert!(document["process_cpu_seconds_total"].is_f64(), "{document}");
    }
}
