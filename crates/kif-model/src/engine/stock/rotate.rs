//! Rotary position embedding as `x cos + swap(x) sin`, the swap being a product with a matrix of 0,
//! 1 and -1.

use dfdx::prelude::*;

use super::{Stock, frozen};
use crate::ModelError;
use crate::engine::{Act, Angles, device_error};

pub(super) fn rotate<D: Device<f32>, T: Tape<f32, D>>(
    engine: &Stock<D>,
    x: Act<D, T>,
    angles: &Angles,
) -> Result<Act<D, T>, ModelError> {
    let (shape, dim) = (*x.shape(), 2 * angles.half);
    let n_heads = shape.1 / dim;
    let heads = (shape.0 * n_heads, dim);
    let spread = |values: &[f32]| {
        let of_token = |token: &[f32]| [token, token].concat().repeat(n_heads);
        let all = values.chunks_exact(angles.half).flat_map(of_token);
        engine.tensor(all.collect(), heads.0, heads.1)
    };
    let (cos, sin) = (spread(&angles.cos)?, spread(&angles.sin)?);
    let swap = engine.tensor(swap(angles.half), dim, dim)?;
    (|| {
        let x = x.try_reshape_like(&heads)?;
        let swapped = frozen::product(x.with_empty_tape(), &swap)?.try_mul(sin)?;
        x.try_mul(cos)?.try_add(swapped)?.try_reshape_like(&shape)
    })()
    .map_err(|e: D::Err| device_error(e))
}

/// `W` with `x W^T = (-x2, x1)` for the halves of x.
fn swap(half: usize) -> Vec<f32> {
    let dim = 2 * half;
    let mut matrix = vec![0.0; dim * dim];
    for i in 0..half {
        matrix[i * dim + half + i] = -1.0;
        matrix[(half + i) * dim + i] = 1.0;
    }
    matrix
}
