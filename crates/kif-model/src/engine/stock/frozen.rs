//! A product with a frozen weight, on any device and with dfdx's public interface alone.

use dfdx::prelude::*;

use crate::engine::Act;

/// `x W^T` for x `[n, in]` and W `[out, in]`, without a gradient for W.
///
/// The backward pass runs a nested tape whose only parameter is x: dfdx offers no other
/// device-independent way to add to a gradient that is already stored.
pub(super) fn product<D: Device<f32>, T: Tape<f32, D>>(
    x: Act<D, T>,
    weight: &Act<D>,
) -> Result<Act<D, T>, D::Err> {
    let (x, mut tape) = x.split_tape();
    let y = x.clone().try_matmul(
        weight
            .clone()
            .try_permute::<(usize, usize), Axes2<1, 0>>()?,
    )?;
    if T::OWNS_TAPE {
        let (weight, out) = (weight.clone(), y.clone());
        tape.add_backward_op(move |gradients: &mut Gradients<f32, D>| {
            // Allocated first: reading a gradient that nothing has touched would panic.
            gradients.get_or_alloc_mut(&out)?;
            let gx: Act<D> = gradients.get(&out).try_matmul(weight)?;
            // The gradient of sum(x * gx) with respect to x is gx. The store must be a leaky one:
            // others drop everything but leaves when the nested pass ends.
            let all = std::mem::replace(gradients, Gradients::leaky());
            *gradients = x
                .traced(all)
                .try_mul(gx)?
                .try_sum::<Rank0, Axes2<0, 1>>()?
                .try_backward()?;
            Ok(())
        });
    }
    Ok(y.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_of_the_input_is_dfdx_own_and_the_weight_has_none() {
        let device = Cpu::seed_from_u64(1);
        let x: Act<Cpu> = device.sample_normal_like(&(5, 7));
        let w: Act<Cpu> = device.sample_normal_like(&(9, 7));
        let by_dfdx = {
            let wt = w.clone().permute::<(usize, usize), Axes2<1, 0>>();
            let y = x.leaky_trace().matmul(wt).tanh();
            y.square().mean().backward().get(&x).as_vec()
        };
        let gradients = product(x.leaky_trace(), &w)
            .unwrap()
            .tanh()
            .square()
            .mean()
            .backward();
        for (ours, theirs) in gradients.get(&x).as_vec().iter().zip(&by_dfdx) {
            assert!((ours - theirs).abs() < 1e-6, "{ours} instead of {theirs}");
        }
        let absent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gradients.get(&w)));
        assert!(absent.is_err(), "the frozen weight got a gradient");
    }
}
