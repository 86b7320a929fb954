//! What a model shows of its layers.

use kif_model::{DropoutOf, EngineKind, LoraConfig, ModelConfig};
use proptest::prelude::*;

use crate::cases::{Case, adapted, batch, decoder, tiny};

proptest! {
    /// In the last layer, too, of which the loss needs the predicting tokens alone.
    #[test]
    fn who_looks_inside_a_decoder_sees_all_tokens(case in decoder()) {
        let model = adapted(&case, EngineKind::Fused);
        let inputs = model.insights().unwrap().layer_inputs(&batch(&case.rows), 1000).unwrap();
        let n_tokens: usize = case.rows.iter().map(|(x, y)| x.len() + y.len() - 1).sum();
        for (spec, inputs) in model.layout().specs().iter().zip(&inputs) {
            if spec.name.contains("lora_A") {
                prop_assert_eq!(inputs.len(), n_tokens * spec.shape[1], "{}", spec.name);
            }
        }
    }
}

/// `layer_inputs` against what `output_magnitudes` computes from the same inputs.
#[test]
fn layer_inputs_are_what_a_reads() {
    let lora = LoraConfig {
        rank: 2,
        targets: vec!["q".into(), "wo".into()],
        ..LoraConfig::default()
    };
    let case = Case {
        config: ModelConfig::T5(tiny()),
        lora,
        routing: None,
        rows: vec![(vec![3, 4, 5], vec![7, 1]), (vec![9], vec![2, 1])],
        seed: 5,
        dropout_of: DropoutOf::Row,
    };
    let model = adapted(&case, EngineKind::Fused);
    let batch = batch(&case.rows);
    let all = model
        .insights()
        .unwrap()
        .layer_inputs(&batch, 1000)
        .unwrap();
    let magnitudes = model.insights().unwrap().output_magnitudes(&batch).unwrap();
    let few = model.insights().unwrap().layer_inputs(&batch, 2).unwrap();
    for (i, spec) in model.layout().specs().iter().enumerate() {
        if !spec.name.contains("lora_A") {
            assert!(all[i].is_empty() && few[i].is_empty());
            continue;
        }
        let width = spec.shape[1];
        assert_eq!(
            (all[i].len(), few[i].len()),
            (4 * width, 2 * width),
            "{}",
            spec.name
        );
        assert_eq!(few[i][..width], all[i][..width]);
        assert_eq!(few[i][width..], all[i][2 * width..3 * width]);
        let a = &model.params()[spec.range.clone()];
        for (row, magnitude) in a.chunks_exact(width).zip(&magnitudes[i]) {
            let output = |x: &[f32]| row.iter().zip(x).map(|(a, x)| a * x).sum::<f32>().abs();
            let mean = all[i].chunks_exact(width).map(output).sum::<f32>() / 4.0;
            assert!((mean - magnitude).abs() < 1e-5, "{}", spec.name);
        }
    }
}
