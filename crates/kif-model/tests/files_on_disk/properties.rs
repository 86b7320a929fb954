//! What is written is what is read.

use half::bf16;
use kif_model::{
    Adapter, Dtype, LoraConfig, ModelConfig, ParamLayout, T5Config, Weights, random_weights,
    write_model,
};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::{t5, tiny_config};

fn lora_configs() -> impl Strategy<Value = LoraConfig> {
    let targets = proptest::sample::subsequence(vec!["k", "o", "q", "v", "wi", "wo"], 1..=6);
    (1..=16usize, 0.01f32..1000.0, 0.0f32..0.99, targets).prop_map(
        |(rank, alpha, dropout, targets)| LoraConfig {
            rank,
            alpha,
            dropout,
            targets: targets.into_iter().map(str::to_owned).collect(),
        },
    )
}

/// Layouts in any order, with parameters of any finite bits.
fn layouts_with_params() -> impl Strategy<Value = (ParamLayout, Vec<f32>)> {
    let entry = (
        "[a-z]{1,8}(\\.[0-9])?",
        prop::collection::vec(0..5usize, 0..=3),
    );
    prop::collection::btree_map(entry.0, entry.1, 0..12).prop_flat_map(|entries| {
        let order: Vec<_> = entries.into_iter().collect();
        Just(order).prop_shuffle().prop_flat_map(|order| {
            let mut layout = ParamLayout::default();
            for (name, shape) in order {
                layout.push(name, shape);
            }
            let params = prop::collection::vec(
                any::<u32>()
                    .prop_map(f32::from_bits)
                    .prop_filter("finite", |v| v.is_finite()),
                layout.n_params(),
            );
            (Just(layout), params)
        })
    })
}

fn t5_configs() -> impl Strategy<Value = T5Config> {
    let sizes = (
        2..6usize,
        1..4usize,
        1..4usize,
        1..6usize,
        1..3usize,
        1..3usize,
    );
    (
        sizes,
        any::<bool>(),
        any::<bool>(),
        prop::option::of(any::<bool>()),
        1e-7f32..1e-3,
    )
        .prop_map(
            |(
                (vocab_size, d_model, n_heads, d_ff, n_layers, n_decoder_layers),
                gated,
                tied,
                scale,
                epsilon,
            )| T5Config {
                vocab_size,
                d_model,
                num_heads: n_heads,
                d_ff,
                num_layers: n_layers,
                num_decoder_layers: n_decoder_layers,
                tie_word_embeddings: tied,
                scale_decoder_outputs: scale,
                layer_norm_epsilon: epsilon,
                ..tiny_config(gated)
            },
        )
}

proptest! {
    #[test]
    fn an_adapter_survives_writing_and_reading(config in lora_configs(), (layout, params) in layouts_with_params()) {
        let dir = tempfile::tempdir().unwrap();
        Adapter::write(dir.path(), &config, &layout, &params, "base").unwrap();
        let read = Adapter::read(dir.path()).unwrap();
        prop_assert_eq!(&read.config, &config);
        prop_assert_eq!(read.base_model.as_deref(), Some("base"));
        let back = read.into_params(&layout).unwrap();
        prop_assert!(back.iter().zip(&params).all(|(a, b)| a.to_bits() == b.to_bits()));
        // The reference library accepts the file and sees the same tensors.
        let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
        let oracle = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(oracle.len(), layout.specs().len());
        for spec in layout.specs() {
            let tensor = oracle.tensor(&spec.name).unwrap();
            prop_assert_eq!(tensor.shape(), &spec.shape[..]);
            let theirs = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            prop_assert!(theirs.zip(&params[spec.range.clone()]).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn writing_an_adapter_twice_gives_the_same_bytes((layout, params) in layouts_with_params()) {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            Adapter::write(dir.path(), &LoraConfig::default(), &layout, &params, "").unwrap();
        }
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            prop_assert_eq!(std::fs::read(one.path().join(file)).unwrap(), std::fs::read(two.path().join(file)).unwrap());
        }
    }

    #[test]
    fn a_base_survives_writing_and_reading_and_bf16_rounds_once(config in t5_configs(), seed in any::<u64>()) {
        let model = ModelConfig::T5(config);
        let weights = random_weights(&model, seed);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let dir = tempfile::tempdir().unwrap();
            write_model(dir.path(), &model, &weights, dtype).unwrap();
            let (written, mut read) = (t5(model.clone()), t5(ModelConfig::read(dir.path()).unwrap()));
            prop_assert_eq!(read.scale_decoder_outputs, Some(written.scales_logits()));
            read.scale_decoder_outputs = written.scale_decoder_outputs;
            prop_assert_eq!(read, written);
            let back = Weights::read(dir.path()).unwrap();
            prop_assert_eq!(back.n_values(), weights.n_values());
            for name in weights.names() {
                let expected = weights.get(name).unwrap().into_iter().map(|v| match dtype {
                    Dtype::F32 => v,
                    Dtype::Bf16 => bf16::from_f32(v).to_f32(),
                });
                prop_assert_eq!(back.get(name).unwrap(), expected.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn any_bytes_are_an_adapter_or_a_typed_error(header in prop::collection::vec(any::<u8>(), 0..200), config in any::<Vec<u8>>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        std::fs::write(dir.path().join("adapter_model.safetensors"), &file).unwrap();
        std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        prop_assert!(Adapter::read(dir.path()).is_err());
        prop_assert!(Weights::read_file(&dir.path().join("adapter_model.safetensors")).is_err());
    }
}
