//! What a program that trains or evaluates sets up once: its threads and its memory.

use anyhow::{Context, Result};

/// Starts the threads of all parallel work, this one among them, so that it does not have to be
/// woken when a part is done; `None` takes as many as there are cores, or as `RAYON_NUM_THREADS`
/// says. To be called once, from the main thread.
pub fn start_threads(n_threads: Option<usize>) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.num_threads(n_threads.unwrap_or(0))
        .build_global()
        .context("starting threads")
}

/// Keeps freed memory for the next batch, up to 256 MiB, where the C library would hand it back to
/// the system and fault it in again page by page: a fifth of the time of evaluating a small model.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    const MAX_FREE: libc::c_int = 256 << 20;
    /// Larger blocks are weights, which stay, and are mapped on their own.
    const MAX_IN_HEAP: libc::c_int = 32 << 20;
    // SAFETY: `mallopt` may be called at any time; a parameter that it does not know it refuses.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAX_FREE);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAX_IN_HEAP);
    }
}

/// Other C libraries are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}
