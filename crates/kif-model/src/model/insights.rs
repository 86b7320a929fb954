//! A look inside: what each LoRA matrix reads, how large its outputs are, and what texts are
//! embedded as.

use dfdx::prelude::{HasShape, NoneTape, Tape};
use kif_data::{Batch, Ragged};

use super::core::Core;
use super::layer::{Linear, Param};
use super::parts::{Gathered, RowSums};
use super::{Model, Network};
use crate::engine::{Act, Engine, InputGradient};
use crate::{Insights, ModelError};

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

impl<E: Engine, N: Network<E>> Insights for Model<E, N> {
    fn output_magnitudes(&self, batch: &Batch) -> Result<Vec<Vec<f32>>, ModelError> {
        let sums = vec![RowSums::default(); self.core.layout.specs().len()];
        match self.gather(batch, Gathered::Magnitudes(sums))? {
            Some(Gathered::Magnitudes(rows)) => Ok(rows.iter().map(RowSums::mean).collect()),
            _ => unreachable!("a pass gathers what it was asked for"),
        }
    }

    fn layer_inputs(&self, batch: &Batch, at_most: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let none = vec![Vec::new(); self.core.layout.specs().len()];
        match self.gather(batch, Gathered::Inputs(none, at_most))? {
            Some(Gathered::Inputs(inputs, _)) => Ok(inputs),
            _ => unreachable!("a pass gathers what it was asked for"),
        }
    }

    fn mean_embeddings(&self, texts: &Ragged) -> Result<Vec<f32>, ModelError> {
        self.core.check_rows(texts)?;
        self.core.mean_embeddings(self.table(), texts)
    }
}

impl<E: Engine, N: Network<E>> Model<E, N> {
    /// What a pass over the batch gathers, into an empty `gathered`.
    fn gather(&self, batch: &Batch, gathered: Gathered) -> Result<Option<Gathered>, ModelError> {
        self.check_batch(batch)?;
        *self.core.gathered.borrow_mut() = Some(gathered);
        let passed = self.hidden::<NoneTape>(batch, None);
        let gathered = self.core.gathered.take();
        passed?;
        Ok(gathered)
    }
}

impl<E: Engine> Core<E> {
    /// Whether this pass gathers something.
    pub(crate) fn is_gathering(&self) -> bool {
        self.gathered.borrow().is_some()
    }

    /// Where the pass gathers: takes in what a layer's A and B make of the input `x`.
    pub(super) fn gather_from<T: Tape<f32, E::Device>>(
        &self,
        x: &Act<E::Device, T>,
        linear: &Linear<E>,
    ) -> Result<(), ModelError> {
        let mut gathered = self.gathered.borrow_mut();
        let (Some(gathered), Some(adapter)) = (gathered.as_mut(), &linear.adapter) else {
            return Ok(());
        };
        let place = |matrix: &Param<E>| matrix.slot.expect("matrices of an adapter are trained");
        match gathered {
            Gathered::Magnitudes(rows) => {
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
            Gathered::Inputs(inputs, at_most) => {
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
