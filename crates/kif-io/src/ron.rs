//! RON as settings files use it.

use ron::extensions::Extensions;

/// RON in which `Some(...)` may be left out, and so may the inner brackets of `name((...))`.
pub fn ron_options() -> ron::Options {
    ron::Options::default()
        .with_default_extension(Extensions::IMPLICIT_SOME)
        .with_default_extension(Extensions::UNWRAP_VARIANT_NEWTYPES)
}
