//! What GGUF calls the tensors of a model, and what it does to their values.

use std::collections::BTreeSet;

use super::Gguf;
use super::header::Place;
use crate::files::config::ModelConfig;
use crate::files::family::Family;

/// The rows of the tokens.
pub(super) const EMBEDDING: &str = "token_embd.weight";
/// Tensors that say what the configuration says as well, or nothing.
pub(super) const DROPPED: [&str; 1] = ["rope_freqs.weight"];

/// What is undone when a tensor is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    /// Nothing.
    Keep,
    /// Rows of each of so many heads lie pair by pair: first row of the first half, first of the
    /// second half, second of the first half, and so on.
    UnpairRows { n_heads: usize },
    /// What a norm adds to its gains was added.
    Subtract(f32),
}

impl Change {
    /// Undoes it; `width` values make a row.
    pub(super) fn undo(self, mut values: Vec<f32>, width: usize) -> Vec<f32> {
        match self {
            Self::Keep => values,
            Self::UnpairRows { n_heads } => unpair_rows(&values, width, n_heads),
            Self::Subtract(offset) => {
                values.iter_mut().for_each(|value| *value -= offset);
                values
            }
        }
    }
}

fn unpair_rows(values: &[f32], width: usize, n_heads: usize) -> Vec<f32> {
    let per_head = values.len() / width.max(1) / n_heads.max(1);
    let mut unpaired = Vec::with_capacity(values.len());
    for head in values.chunks(per_head * width) {
        for half in 0..2 {
            for pair in 0..per_head / 2 {
                let row = 2 * pair + half;
                unpaired.extend_from_slice(&head[row * width..(row + 1) * width]);
            }
        }
    }
    unpaired
}

/// The tensors of the model that a file holds: name as Hugging Face has it, place, and what is to
/// be undone. Tensors without a counterpart keep their names, so that whoever checks the names
/// refuses them.
pub(super) fn tensors(gguf: &Gguf, config: &ModelConfig) -> Vec<(String, Place, Change)> {
    let all = &gguf.header.tensors;
    let mut named = Vec::new();
    let mut known: BTreeSet<String> = DROPPED.map(str::to_owned).into();
    for (name, _) in config.tensors() {
        let Some(theirs) = gguf_name(config, &name) else {
            continue;
        };
        if let Some(place) = all.get(&theirs) {
            let change = change_of(config, &name, place);
            named.push((name, place.clone(), change));
        }
        known.insert(theirs);
    }
    let rest = all.iter().filter(|(name, _)| !known.contains(*name));
    named.extend(rest.map(|(name, place)| (name.clone(), place.clone(), Change::Keep)));
    named
}

fn change_of(config: &ModelConfig, name: &str, place: &Place) -> Change {
    let ModelConfig::Decoder(decoder) = config else {
        return Change::Keep;
    };
    let family = decoder.family;
    let is = |ending: &str| name.ends_with(ending);
    if is("norm.weight") && family.norm_offset() != 0.0 {
        return Change::Subtract(family.norm_offset());
    }
    let n_heads = match () {
        () if is("self_attn.q_proj.weight") => decoder.num_attention_heads,
        () if is("self_attn.k_proj.weight") => decoder.num_key_value_heads,
        () => return Change::Keep,
    };
    // A shape that does not fit is refused where the tensors are held against the configuration.
    let pairs = place.shape.len() == 2 && place.shape[0].is_multiple_of(2 * n_heads);
    match family {
        Family::Llama | Family::Mistral if pairs => Change::UnpairRows { n_heads },
        _ => Change::Keep,
    }
}

/// GGUF's name of a tensor.
fn gguf_name(config: &ModelConfig, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some(EMBEDDING.to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let norms_outputs = match config {
        ModelConfig::T5(_) => false,
        ModelConfig::Decoder(config) => config.family.has_output_norms(),
    };
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, part) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" if norms_outputs => "post_attention_norm",
        "pre_feedforward_layernorm" | "post_attention_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_rows_become_halves_in_every_head() {
        // Two heads of four rows of one value: 0 and 2 of the first half, 1 and 3 of the second.
        let paired = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        let rows = Change::UnpairRows { n_heads: 2 }.undo(paired.to_vec(), 1);
        assert_eq!(rows, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
}
