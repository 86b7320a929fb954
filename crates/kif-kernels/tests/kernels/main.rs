//! Tests of the kernels against plain twins in f64.

mod attention;
mod checks;
mod forced_level;
mod properties;
mod twin;
