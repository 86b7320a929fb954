//! A look inside the layers with an adapter: what each LoRA matrix reads, and how large its outputs are.

use dfdx::prelude::{HasShape, NoneTape, Tape};
use kif_data::Batch;

use super::core::Core;
use super::layer::{Linear, Param};
use super::{Model, Network};
use crate::ModelError;
use crate::engine::{Act, Engine, InputGradient};

/// What is gathered, by place in the layout.
pub(crate) enum Look {
    /// Sums over all tokens that have passed, in f64.
    Magnitudes(Vec<RowSums>),
    /// The inputs of every A, at most so many.
    Inputs(Vec<Vec<f32>>, usize),
}

#[derive(Clone, Default)]
pub(crate) struct RowSums {
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

/// At most `at_most` of the tokens of `x`, `[tokens, width]`, spread evenly over all of them.
fn spread(x: &[f32], width: usize, at_most: usize) -> Vec<f32> {
    let n_tokens = x.len() / width;
    let n = n_tokens.min(at_most);
    let chosen = (0..n).map(|i| i * n_tokens / n);
    chosen
        .flat_map(|token| &x[token * width..][..width])
        .copied()
        .collect()
}

impl<E: Engine, N: Network<E>> Model<E, N> {
    /// See [`LanguageModel::output_magnitudes`](crate::LanguageModel::output_magnitudes).
    pub(super) fn magnitudes(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        let sums = vec![RowSums::default(); self.core.layout.specs().len()];
        match self.looked(batch, Look::Magnitudes(sums))? {
            Some(Look::Magnitudes(rows)) => Ok(rows.iter().map(RowSums::mean).collect()),
            _ => unreachable!("a look gathers what it was asked for"),
        }
    }

    /// See [`LanguageModel::layer_inputs`](crate::LanguageModel::layer_inputs).
    pub(super) fn inputs(
        &self,
        batch: &Batch,
        at_most: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let none = vec![Vec::new(); self.core.layout.specs().len()];
        match self.looked(batch, Look::Inputs(none, at_most))? {
            Some(Look::Inputs(inputs, _)) => Ok(inputs),
            _ => unreachable!("a look gathers what it was asked for"),
        }
    }

    /// What a pass over the batch gathers.
    fn looked(&self, batch: &Batch, look: Look) -> Result<Option<Look>, ModelError> {
        *self.core.look.borrow_mut() = Some(look);
        let passed = self.hidden::<NoneTape>(batch, None);
        let seen = self.core.look.take();
        passed?;
        Ok(seen)
    }
}

impl<E: Engine> Core<E> {
    /// Whether somebody looks.
    pub(crate) fn is_looked_at(&self) -> bool {
        self.look.borrow().is_some()
    }

    /// While somebody looks: takes in what a layer's A and B make of the input `x`.
    pub(super) fn see<T: Tape<f32, E::Device>>(
        &self,
        x: &Act<E::Device, T>,
        linear: &Linear<E>,
    ) -> Result<(), ModelError> {
        let mut look = self.look.borrow_mut();
        let (Some(look), Some(adapter)) = (look.as_mut(), &linear.adapter) else {
            return Ok(());
        };
        let place = |matrix: &Param<E>| matrix.slot.expect("matrices of an adapter are trained");
        match look {
            Look::Magnitudes(rows) => {
                let product = |x: Act<E::Device>, matrix: &Param<E>| {
                    self.engine
                        .linear(x, &matrix.weight, None, None, InputGradient::Skip)
                };
                let hidden = product(x.retaped::<NoneTape>(), &adapter.a)?;
                let output = product(hidden.clone(), &adapter.b)?;
                for (matrix, output) in [(&adapter.a, hidden), (&adapter.b, output)] {
                    rows[place(matrix)].add(&self.engine.to_host(&output)?, output.shape().1);
                }
            }
            Look::Inputs(inputs, at_most) => {
                let host = self.engine.to_host(&x.retaped::<NoneTape>())?;
                inputs[place(&adapter.a)] = spread(&host, x.shape().1, *at_most);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_spread_evenly_and_few_are_all_taken() {
        let x: Vec<f32> = (0..10).map(|i| i as f32).collect();
        assert_eq!(spread(&x, 2, 2), [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(spread(&x, 2, 9), x);
        assert!(spread(&x, 2, 0).is_empty());
    }
}
