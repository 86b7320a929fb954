//! The packed order: panels of 32 columns, each panel `[depth][32]`, missing columns zero.
//!
//! In BF16 two neighbouring depths share a line, `[depth / 2][32][2]`, as the pairwise products want them; an odd last
//! depth is paired with zero.

use super::Precision;
use super::bf16::{PairLine, to_bf16};
use super::strip::PANEL;
use crate::parallel::{Line, as_floats};
use rayon::prelude::*;

/// `B[depth, width]` in packed order.
pub(super) struct Pack {
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) panels: Panels,
}

pub(super) enum Panels {
    F32(Vec<Line>),
    Bf16(Vec<PairLine>),
}

impl Pack {
    /// Packs `B[depth, width]`, whose element (k, j) is `source[k * strides.0 + j * strides.1]`.
    pub(super) fn of(
        source: &[f32],
        extents: (usize, usize),
        strides: (usize, usize),
        precision: Precision,
    ) -> Self {
        let (depth, width) = extents;
        let n_panels = width.div_ceil(PANEL);
        let panels = match precision {
            Precision::F32 => Panels::F32(vec![Line([0.0; PANEL]); n_panels * depth]),
            Precision::Bf16 => {
                Panels::Bf16(vec![PairLine([0; 2 * PANEL]); n_panels * depth.div_ceil(2)])
            }
        };
        let mut pack = Self {
            depth,
            width,
            panels,
        };
        pack.fill(source, strides);
        pack
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(lines) => size_of_val(&lines[..]),
            Panels::Bf16(lines) => size_of_val(&lines[..]),
        }
    }

    /// Takes values from `source`; the padding stays zero.
    pub(super) fn fill(&mut self, source: &[f32], (row_stride, col_stride): (usize, usize)) {
        let (depth, width) = (self.depth, self.width);
        if depth == 0 {
            return;
        }
        let columns = |panel: usize| panel * PANEL..((panel + 1) * PANEL).min(width);
        match &mut self.panels {
            Panels::F32(lines) => {
                lines
                    .par_chunks_mut(depth)
                    .enumerate()
                    .for_each(|(panel, lines)| {
                        for (k, line) in lines.iter_mut().enumerate() {
                            for (x, j) in line.0.iter_mut().zip(columns(panel)) {
                                *x = source[k * row_stride + j * col_stride];
                            }
                        }
                    })
            }
            Panels::Bf16(lines) => lines
                .par_chunks_mut(depth.div_ceil(2))
                .enumerate()
                .for_each(|(panel, lines)| {
                    for k in 0..depth {
                        for (slot, j) in columns(panel).enumerate() {
                            lines[k / 2].0[2 * slot + k % 2] =
                                to_bf16(source[k * row_stride + j * col_stride]);
                        }
                    }
                }),
        }
    }

    /// The lines of one panel from depth `from`, in f32.
    pub(super) fn f32_panel(lines: &[Line], depth: usize, panel: usize, from: usize) -> *const f32 {
        as_floats(&lines[panel * depth + from..]).as_ptr()
    }
}

/// Packs `n_rows` rows of `width` values, `stride` apart, into `out` as the panels of `B[n_rows, width]`.
pub(crate) fn panels_of(
    source: &[f32],
    n_rows: usize,
    width: usize,
    stride: usize,
    out: &mut [f32],
) {
    for (panel, out) in out.chunks_mut(n_rows.max(1) * PANEL).enumerate() {
        let from = panel * PANEL;
        let n = (width - from).min(PANEL);
        for (k, line) in out.chunks_exact_mut(PANEL).enumerate() {
            let at = k * stride + from;
            line[..n].copy_from_slice(&source[at..at + n]);
            line[n..].fill(0.0);
        }
    }
}

/// Packs the transpose of such rows, as the panels of `B[width, n_rows]`.
pub(crate) fn panels_of_transposed(
    source: &[f32],
    n_rows: usize,
    width: usize,
    stride: usize,
    out: &mut [f32],
) {
    for (panel, out) in out.chunks_mut(width.max(1) * PANEL).enumerate() {
        let from = panel * PANEL;
        let n = (n_rows - from).min(PANEL);
        for (k, line) in out.chunks_exact_mut(PANEL).enumerate() {
            for (j, x) in line.iter_mut().enumerate() {
                *x = if j < n {
                    source[(from + j) * stride + k]
                } else {
                    0.0
                };
            }
        }
    }
}
