//! Elementwise passes over long slices, in chunks of fixed size.
//!
//! Every element is computed from its own index alone, so the number of threads
//! cannot change a bit.

/// Elements per chunk: three to five f32 slices of it fit a core's L2 cache.
pub(crate) const CHUNK: usize = 1 << 14;

/// Shorter slices are done by the calling thread: starting others would take longer.
pub(crate) const MIN_PARALLEL: usize = 1 << 16;
