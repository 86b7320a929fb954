//! How large the outputs of each LoRA matrix are, row by row.

use dfdx::prelude::{HasShape, NoneTape, Tape};
use kif_data::Batch;

use super::{Linear, Param, T5};
use crate::ModelError;
use crate::engine::{Act, Engine, InputGradient};

/// Sums over all tokens that have passed, in f64, by slot of the layout.
pub(super) struct Magnitudes(Vec<RowSums>);

#[derive(Clone, Default)]
struct RowSums {
    sums: Vec<f64>,
    n_tokens: usize,
}

impl RowSums {
    /// Takes in the outputs of one matrix, `[tokens, rows]`.
    fn add(&mut self, outputs: &[f32], n_rows: usize) {
        self.sums.resize(n_rows, 0.0);
        for token in outputs.chunks_exact(n_rows) {
            for (sum, x) in self.sums.iter_mut().zip(token) {
                *sum += f64::from(x.abs());
            }
        }
        self.n_tokens += outputs.len() / n_rows;
    }

    fn mean(&self) -> Vec<f32> {
        let n = self.n_tokens.max(1) as f64;
        self.sums.iter().map(|sum| (sum / n) as f32).collect()
    }
}

impl<E: Engine> T5<E> {
    /// See [`LanguageModel::output_magnitudes`](crate::LanguageModel::output_magnitudes).
    pub(super) fn magnitudes(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        let n_slots = self.layout.specs().len();
        *self.magnitudes.borrow_mut() = Some(Magnitudes(vec![RowSums::default(); n_slots]));
        let passed = self.hidden::<NoneTape>(batch, None);
        let seen = self.magnitudes.take();
        passed?;
        Ok(seen
            .map(|Magnitudes(rows)| rows.iter().map(RowSums::mean).collect())
            .unwrap_or_default())
    }

    /// While magnitudes are asked for: takes in the outputs of a layer's A and B for the input `x`.
    pub(super) fn see<T: Tape<f32, E::Device>>(
        &self,
        x: &Act<E::Device, T>,
        linear: &Linear<E>,
    ) -> Result<(), ModelError> {
        let mut seen = self.magnitudes.borrow_mut();
        let (Some(Magnitudes(rows)), Some(adapter)) = (seen.as_mut(), &linear.adapter) else {
            return Ok(());
        };
        let product = |x: Act<E::Device>, matrix: &Param<E>| {
            self.engine
                .linear(x, &matrix.weight, None, None, InputGradient::Skip)
        };
        let hidden = product(x.retaped::<NoneTape>(), &adapter.a)?;
        let output = product(hidden.clone(), &adapter.b)?;
        for (matrix, output) in [(&adapter.a, hidden), (&adapter.b, output)] {
            let slot = matrix.slot.expect("matrices of an adapter are trained");
            rows[slot].add(&self.engine.to_host(&output), output.shape().1);
        }
        Ok(())
    }
}
