//! A decoder-only model of random weights in Hugging Face layout, written as it is drawn: of 13 GB,
//! no more than a buffer is ever in memory.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use half::bf16;
use kif_data::chance::{self, Purpose};
use kif_model::{DecoderConfig, Dtype, INDEX_FILE, ModelConfig, WEIGHTS_FILE, safetensors_header};
use rayon::prelude::*;
use serde_json::{Map, json};

/// Bytes after which a new shard begins, as transformers cuts them.
const SHARD_BYTES: usize = 5_000_000_000;
/// Values with a stream of their own.
const CHUNK: usize = 1 << 18;
/// Chunks that are drawn at once.
const CHUNKS_AT_ONCE: usize = 64;

/// Writes `config.json` and bfloat16 weights, in shards with an index if there are many. The
/// configuration comes last: a folder that has it is complete.
pub(crate) fn write(dir: &Path, config: &DecoderConfig) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let model = ModelConfig::Decoder(config.clone());
    let tensors: Vec<Tensor> = model.tensors().into_iter().map(Tensor::new).collect();
    let shards = in_shards(&tensors);
    let mut place = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = shard_name(i, shards.len());
        let path = dir.join(&name);
        write_shard(&path, shard, config).with_context(|| format!("writing {}", path.display()))?;
        place.extend(shard.iter().map(|t| (t.name.clone(), json!(name))));
    }
    if shards.len() > 1 {
        let total: usize = tensors.iter().map(Tensor::n_bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": place });
        write_text(&dir.join(INDEX_FILE), &index.to_string())?;
    }
    write_text(&dir.join("config.json"), &model.to_json("bfloat16"))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
}

impl Tensor {
    fn new((name, shape): (String, Vec<usize>)) -> Self {
        Self { name, shape }
    }

    fn n_values(&self) -> usize {
        self.shape.iter().product()
    }

    fn n_bytes(&self) -> usize {
        self.n_values() * size_of::<bf16>()
    }
}

/// The tensors in order, cut where a shard is full.
fn in_shards(tensors: &[Tensor]) -> Vec<&[Tensor]> {
    let (mut shards, mut first, mut n_bytes) = (Vec::new(), 0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if n_bytes > 0 && n_bytes + tensor.n_bytes() > SHARD_BYTES {
            shards.push(&tensors[first..i]);
            (first, n_bytes) = (i, 0);
        }
        n_bytes += tensor.n_bytes();
    }
    shards.push(&tensors[first..]);
    shards
}

fn shard_name(i: usize, n_shards: usize) -> String {
    if n_shards == 1 {
        return WEIGHTS_FILE.to_owned();
    }
    format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1)
}

fn write_shard(path: &Path, tensors: &[Tensor], config: &DecoderConfig) -> Result<()> {
    let mut out = File::create(path)?;
    let shapes = tensors
        .iter()
        .map(|t| (t.name.as_str(), t.shape.as_slice()));
    let header = safetensors_header(&shapes.collect::<Vec<_>>(), Dtype::Bf16);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for tensor in tensors {
        write_values(&mut out, tensor, config)?;
    }
    Ok(())
}

/// Gains of norms are 1, biases 0, everything else uniform with the configuration's standard
/// deviation.
fn write_values(out: &mut impl Write, tensor: &Tensor, config: &DecoderConfig) -> Result<()> {
    let (n, name) = (tensor.n_values(), &tensor.name);
    let (centre, bound) = match name {
        name if name.ends_with("norm.weight") => (1.0, 0.0),
        name if name.ends_with(".bias") => (0.0, 0.0),
        _ => (0.0, config.initializer_range * 3f32.sqrt()),
    };
    let key = name_key(name);
    let mut buffer = vec![0u8; n.min(CHUNK * CHUNKS_AT_ONCE) * size_of::<bf16>()];
    for first in (0..n).step_by(CHUNK * CHUNKS_AT_ONCE) {
        let n_values = (n - first).min(CHUNK * CHUNKS_AT_ONCE);
        let part = &mut buffer[..n_values * size_of::<bf16>()];
        let chunks = part.par_chunks_mut(CHUNK * size_of::<bf16>()).enumerate();
        chunks.for_each(|(i, chunk)| {
            let mut rng = chance::stream(1, Purpose::Init, key, (first / CHUNK + i) as u64);
            for bytes in chunk.as_chunks_mut::<2>().0 {
                let value = centre + bound * (2.0 * chance::uniform(&mut rng) - 1.0);
                *bytes = bf16::from_f32(value).to_le_bytes();
            }
        });
        out.write_all(part)?;
    }
    Ok(())
}

/// FNV-1a: a number for a name that no compiler or library version changes.
fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use kif_model::{Family, Rope, Weights};

    use super::*;

    fn tiny() -> DecoderConfig {
        DecoderConfig {
            family: Family::Qwen2,
            vocab_size: 50,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: 1e4,
                scaling: None,
            },
            window: None,
            query_pre_attn_scalar: None,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: vec![3],
            initializer_range: 0.02,
        }
    }

    #[test]
    fn what_was_written_is_read_back_as_a_model_of_that_shape() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &tiny()).unwrap();
        assert_eq!(
            ModelConfig::read(dir.path()).unwrap(),
            ModelConfig::Decoder(tiny())
        );
        let weights = Weights::read(dir.path()).unwrap();
        let model = ModelConfig::Decoder(tiny());
        weights.expect(&model.tensors(), &[]).unwrap();
        assert_eq!(weights.get("model.norm.weight").unwrap(), [1.0; 8]);
        let table = weights.get("model.embed_tokens.weight").unwrap();
        let square = table.iter().map(|x| x * x).sum::<f32>() / table.len() as f32;
        assert!((0.018..0.022).contains(&square.sqrt()), "{square}");
    }

    #[test]
    fn a_full_shard_is_followed_by_another() {
        let big = |name: &str| Tensor::new((name.to_owned(), vec![1000, 1_500_000]));
        let tensors = [big("a"), big("b"), big("c")];
        let shards = in_shards(&tensors);
        let names: Vec<Vec<&str>> = shards
            .iter()
            .map(|shard| shard.iter().map(|t| t.name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["a"], vec!["b"], vec!["c"]]);
        assert_eq!(shard_name(1, 3), "model-00002-of-00003.safetensors");
    }
}
