//! One thing that is known about a device.

/// One thing about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub what: &'static str,
    /// What was found, or what is missing and what to do about it.
    pub found: Result<String, String>,
}

impl Fact {
    pub(crate) fn new(what: &'static str, found: Result<String, String>) -> Self {
        Self { what, found }
    }
}

/// Sizes of a memory in words.
pub(crate) fn memory(total: u64, free: u64) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    format!("{:.1} GiB, {:.1} GiB free", gib(total), gib(free))
}
