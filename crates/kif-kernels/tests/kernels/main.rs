//! Tests of the kernels against plain twins in f64.

mod forced_level;
mod properties;
mod twin;
