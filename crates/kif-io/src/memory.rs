//! How much memory this process holds at most.

/// Makes [`peak_rss_mib`] start anew, where the system can do it (Linux).
pub fn reset_peak_rss() {
    // Where it cannot, the peak stays that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Largest resident memory of this process since [`reset_peak_rss`], in MiB.
pub fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}
