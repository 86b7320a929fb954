//! What becomes of a capability that a model does not have and a caller needs.

use std::ops::Deref;

use crate::ModelError;

/// Something that a model can do beyond what every [`LanguageModel`](crate::LanguageModel) can.
pub trait Capability {
    /// What a caller asks for who needs it, as [`ModelError::Unsupported`] says it.
    const WANTED: &'static str;
}

/// A capability that the caller cannot do without: an error where the model does not offer it.
pub fn required<R>(offered: Option<R>) -> Result<R, ModelError>
where
    R: Deref,
    R::Target: Capability,
{
    offered.ok_or_else(|| ModelError::Unsupported {
        what: R::Target::WANTED.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Distributions, Prompted};

    #[test]
    fn the_error_says_what_was_asked_for() {
        let missing = |error: Option<ModelError>| error.expect("nothing was offered").to_string();
        assert_eq!(
            missing(required(None::<&dyn Prompted>).err()),
            "a soft prompt in a model without them is not supported"
        );
        assert_eq!(
            missing(required(None::<&mut dyn Distributions>).err()),
            "sampling from this model, or learning from distributions with it, is not supported"
        );
    }
}
