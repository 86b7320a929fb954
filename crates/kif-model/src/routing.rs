//! What chooses between adapters side by side.

use serde::{Deserialize, Serialize};

use crate::{LoraConfig, ModelError};

/// Adapters side by side ([`ParamLayout::slot`](crate::ParamLayout::slot)) that share the work,
/// instead of adding up: the low-rank part of a layer is `sum_i w_i scale B_i A_i x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// How many adapters there are. At least 1.
    pub n_slots: usize,
    /// How many of them take part, the first ones: the others have weight 0. In `1..=n_slots`.
    pub open_slots: usize,
    /// What the weights depend on.
    pub router: Router,
}

/// What the weights of adapters side by side depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Router {
    /// The row's prompt, alike in all layers: `w = softmax(K q / sqrt(D))`, one key `[D]` for every
    /// adapter in K, and `q = gain * n(silu(U V e))` for e `[D]` the mean embedding of the row's
    /// input tokens, V `[hidden, D]`, U `[D, hidden]` and n the norm of the base, `x / rms(x)`. The
    /// decoder takes the weights of its row.
    Instance {
        /// Width between V and U. At least 1.
        hidden: usize,
    },
    /// The token, layer by layer: the `top_k` largest entries of `G x`, for G `[n_slots, in]` and x
    /// the input of the layer, have the softmax over these entries as weights, the others 0. Of
    /// equal entries the first are taken.
    Token {
        /// Adapters that take part. In `2..=n_slots`: the weight of a single one would be 1,
        /// whatever G is.
        top_k: usize,
    },
}

impl Routing {
    /// Routing between `n_slots` adapters that all take part.
    pub fn new(n_slots: usize, router: Router) -> Self {
        Self {
            n_slots,
            open_slots: n_slots,
            router,
        }
    }

    /// Whether an adapter with these settings consists of so many, and whether every value is in
    /// its range.
    pub fn check(&self, lora: &LoraConfig) -> Result<(), ModelError> {
        let bad = |problem| {
            Err(ModelError::Lora {
                field: "routing",
                problem,
            })
        };
        let Self {
            n_slots,
            open_slots,
            router,
        } = *self;
        if n_slots == 0 || !lora.rank.is_multiple_of(n_slots) {
            return bad(format!(
                "rank {} is not {n_slots} adapters side by side",
                lora.rank
            ));
        }
        if !(1..=n_slots).contains(&open_slots) {
            return bad(format!("open_slots {open_slots} is outside 1..={n_slots}"));
        }
        match router {
            Router::Instance { hidden: 0 } => bad("hidden 0 is not at least 1".to_owned()),
            Router::Token { top_k } if !(2..=open_slots).contains(&top_k) => {
                bad(format!("top_k {top_k} is outside 2..={open_slots}"))
            }
            Router::Instance { .. } | Router::Token { .. } => Ok(()),
        }
    }
}
