//! A writer of small GGUF files, right ones and wrong ones.

use std::path::Path;

/// A file to be: metadata and tensors in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct GgufFile {
    entries: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

/// Types of tensors: number, values and bytes of a block, places of f16 scales in it.
pub(crate) const TYPES: [(u32, u64, usize, &[usize]); 13] = [
    (0, 1, 4, &[]),
    (1, 1, 2, &[]),
    (2, 32, 18, &[0]),
    (3, 32, 20, &[0, 2]),
    (6, 32, 22, &[0]),
    (7, 32, 24, &[0, 2]),
    (8, 32, 34, &[0]),
    (10, 256, 84, &[80, 82]),
    (11, 256, 110, &[108]),
    (12, 256, 144, &[0, 2]),
    (13, 256, 176, &[0, 2]),
    (14, 256, 210, &[208]),
    (30, 1, 2, &[]),
];

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl GgufFile {
    /// A value of type `kind` by its bytes; a later value of a key replaces an earlier one.
    pub(crate) fn raw(mut self, key: &str, kind: u32, bytes: &[u8]) -> Self {
        let value = [&kind.to_le_bytes(), bytes].concat();
        self.entries.retain(|(known, _)| known != key);
        self.entries.push((key.to_owned(), value));
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.entries.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn whole(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn number(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn flag(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &text(value))
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Self {
        let elements = values.iter().flat_map(|value| text(value));
        self.list(key, 8, values.len(), elements.collect())
    }

    pub(crate) fn numbers(self, key: &str, values: &[f32]) -> Self {
        let elements = values.iter().flat_map(|value| value.to_le_bytes());
        self.list(key, 6, values.len(), elements.collect())
    }

    pub(crate) fn wholes(self, key: &str, values: &[i32]) -> Self {
        let elements = values.iter().flat_map(|value| value.to_le_bytes());
        self.list(key, 5, values.len(), elements.collect())
    }

    pub(crate) fn list(self, key: &str, kind: u32, len: usize, elements: Vec<u8>) -> Self {
        let head = [&kind.to_le_bytes()[..], &(len as u64).to_le_bytes()].concat();
        self.raw(key, 9, &[head, elements].concat())
    }

    /// A tensor of these extents, the first the fastest; a later one replaces an earlier one.
    pub(crate) fn tensor(mut self, name: &str, extents: &[u64], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.retain(|(known, ..)| known != name);
        self.tensors
            .push((name.to_owned(), extents.to_vec(), kind, bytes));
        self
    }

    /// A tensor of random bytes, with scales that are finite.
    pub(crate) fn random(self, name: &str, extents: &[u64], kind: u32, seed: u64) -> Self {
        let (_, n_values, n_bytes, scales) = TYPES.into_iter().find(|t| t.0 == kind).unwrap();
        let n_blocks = (extents.iter().product::<u64>() / n_values) as usize;
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let mut bytes = Vec::new();
        for _ in 0..n_blocks {
            let mut block: Vec<u8> = (0..n_bytes).map(|_| next()).collect();
            for &at in scales {
                // Of 2^-8 to 2^-5.
                block[at + 1] = 0x1c | block[at + 1] & 0x83;
            }
            if scales.is_empty() {
                // Exponents of numbers below 1.
                block[n_bytes - 1] = 0x30 | block[n_bytes - 1] & 0x80;
            }
            bytes.append(&mut block);
        }
        self.tensor(name, extents, kind, bytes)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        let mut at = 0;
        for (name, extents, kind, values) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((extents.len() as u32).to_le_bytes());
            bytes.extend(extents.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend((at as u64).to_le_bytes());
            at += values.len().next_multiple_of(32);
        }
        for (.., values) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(values);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// A model of one layer of `arch`, of width 32 and four tokens, its matrices of type `kind` where
/// their rows allow it.
pub(crate) fn tiny(arch: &str, kind: u32) -> GgufFile {
    let key = |field: &str| format!("{arch}.{field}");
    let mut file = GgufFile::default()
        .text("general.architecture", arch)
        .whole(&key("block_count"), 1)
        .whole(&key("context_length"), 64)
        .whole(&key("embedding_length"), 32)
        .whole(&key("feed_forward_length"), 32)
        .whole(&key("attention.head_count"), 4)
        .whole(&key("attention.head_count_kv"), 2)
        .number(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .number(&key("rope.freq_base"), 10_000.0)
        .whole("tokenizer.ggml.eos_token_id", 1)
        .random("token_embd.weight", &[32, 4], kind, 1)
        .random("output_norm.weight", &[32], 0, 2);
    for (i, (name, rows)) in [
        ("attn_q", 32),
        ("attn_k", 16),
        ("attn_v", 16),
        ("attn_output", 32),
        ("ffn_gate", 32),
        ("ffn_up", 32),
        ("ffn_down", 32),
    ]
    .into_iter()
    .enumerate()
    {
        file = file.random(
            &format!("blk.0.{name}.weight"),
            &[32, rows],
            kind,
            3 + i as u64,
        );
    }
    for name in ["attn_norm", "ffn_norm"] {
        file = file.random(&format!("blk.0.{name}.weight"), &[32], 0, 20);
    }
    match arch {
        "qwen2" => ["q", "k", "v"]
            .into_iter()
            .zip([32, 16, 16])
            .fold(file, |file, (name, n)| {
                file.random(&format!("blk.0.attn_{name}.bias"), &[n], 0, 21)
            }),
        "qwen3" => ["q", "k"].into_iter().fold(file, |file, name| {
            file.random(&format!("blk.0.attn_{name}_norm.weight"), &[8], 0, 22)
        }),
        "gemma3" => {
            let file = ["q", "k"].into_iter().fold(file, |file, name| {
                file.random(&format!("blk.0.attn_{name}_norm.weight"), &[8], 0, 22)
            });
            let file = ["post_attention_norm", "post_ffw_norm"]
                .into_iter()
                .fold(file, |file, name| {
                    file.random(&format!("blk.0.{name}.weight"), &[32], 0, 23)
                });
            file.whole("gemma3.attention.sliding_window", 16)
        }
        _ => file,
    }
}

/// The tokenizer of four tokens over bytes.
pub(crate) fn with_bytes(file: GgufFile) -> GgufFile {
    file.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &["a", "<end>", "b", "ab"])
        .wholes("tokenizer.ggml.token_type", &[1, 3, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b"])
}
