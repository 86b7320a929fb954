//! RON as settings files use it.

use ron::extensions::Extensions;

/// RON as protocols use it: `Some(...)` may be left out, and so may the inner brackets of
/// `kif((...))`.
pub fn ron_options() -> ron::Options {
    ron::Options::default()
        .with_default_extension(Extensions::IMPLICIT_SOME)
        .with_default_extension(Extensions::UNWRAP_VARIANT_NEWTYPES)
}
