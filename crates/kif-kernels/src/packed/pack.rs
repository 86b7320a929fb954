//! The packed order: panels of 64 columns, each panel `[depth][64]`, the last one narrower by whole
//! cache lines and its missing columns zero.
//!
//! In BF16 two neighbouring depths share a line, `[depth / 2][64][2]`, as the pairwise products
//! want them; an odd last depth is paired with zero. In 8 bits the order is that of f32, and
//! every column has a scale.

use super::Precision;
use super::bf16::{self, PairLine};
use super::int8::{self, Bytes};
use super::rows::Rows;
use super::strip::{LANES, PANEL, line_width};
use crate::parallel::{Line, as_floats, as_floats_mut, with_scratch};
use rayon::prelude::*;
use std::ops::Range;

/// `B[depth, width]` in packed order.
pub(super) struct Pack {
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) panels: Panels,
}

pub(super) enum Panels {
    F32(Vec<Line>),
    Bf16(Vec<PairLine>),
    Int8 {
        lines: Vec<Bytes>,
        /// Of every column, and zeros up to whole lines.
        scales: Vec<f32>,
    },
}

impl Pack {
    /// Packs `B[depth, width]`, given by the rows of its transpose.
    pub(super) fn of_transposed(
        source: &impl Rows,
        (depth, width): (usize, usize),
        precision: Precision,
    ) -> Self {
        let n_lines = width.div_ceil(LANES);
        let panels = match precision {
            Precision::F32 => Panels::F32(vec![Line([0.0; LANES]); n_lines * depth]),
            Precision::Bf16 => {
                Panels::Bf16(vec![PairLine([0; LANES]); n_lines * depth.div_ceil(2)])
            }
            Precision::Int8 => Panels::Int8 {
                lines: vec![Bytes([0; LANES]); n_lines * depth],
                scales: vec![0.0; n_lines * LANES],
            },
        };
        let mut pack = Self {
            depth,
            width,
            panels,
        };
        pack.fill_transposed(source);
        pack
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(lines) => size_of_val(&lines[..]),
            Panels::Bf16(lines) => size_of_val(&lines[..]),
            Panels::Int8 { lines, scales } => size_of_val(&lines[..]) + size_of_val(&scales[..]),
        }
    }

    /// Takes new values, given as in [`of_transposed`](Self::of_transposed).
    pub(super) fn fill_transposed(&mut self, source: &impl Rows) {
        let (depth, width) = (self.depth, self.width);
        if depth == 0 {
            return;
        }
        let rows_of = |panel: usize| panel * PANEL..((panel + 1) * PANEL).min(width);
        // In f32, with the rows as they are given.
        let with_panel = |panel: usize, given: &mut Vec<f32>, f: &mut dyn FnMut(&[f32], &[f32])| {
            let Range { start, end } = rows_of(panel);
            let rows = source.rows(start..end, given);
            with_scratch(depth * line_width(end - start), |floats| {
                panels_of_transposed(rows, end - start, depth, depth, floats);
                f(rows, floats);
            });
        };
        match &mut self.panels {
            Panels::F32(lines) => lines
                .par_chunks_mut(depth * PANEL / LANES)
                .enumerate()
                .for_each_init(Vec::new, |given, (panel, lines)| {
                    let range = rows_of(panel);
                    let n = range.len();
                    let rows = source.rows(range, given);
                    panels_of_transposed(rows, n, depth, depth, as_floats_mut(lines));
                }),
            Panels::Bf16(lines) => lines
                .par_chunks_mut(depth.div_ceil(2) * PANEL / LANES)
                .enumerate()
                .for_each_init(Vec::new, |given, (panel, lines)| {
                    let line_width = line_width(rows_of(panel).len());
                    with_panel(panel, given, &mut |_, floats| {
                        bf16::narrow(floats, line_width, lines);
                    });
                }),
            Panels::Int8 { lines, scales } => lines
                .par_chunks_mut(depth * PANEL / LANES)
                .zip(scales.par_chunks_mut(PANEL))
                .enumerate()
                .for_each_init(Vec::new, |given, (panel, (lines, scales))| {
                    with_panel(panel, given, &mut |rows, floats| {
                        int8::narrow(rows, floats, scales, lines);
                    });
                }),
        }
    }

    /// Column `j` of `B`, `[depth]`, widened if need be.
    pub(super) fn read_column(&self, j: usize, column: &mut [f32]) {
        let panel = j / PANEL * PANEL;
        let row = line_width(self.width - panel);
        let at = j - panel;
        match &self.panels {
            Panels::F32(lines) => {
                let values = as_floats(&lines[panel * self.depth / LANES..])[at..]
                    .iter()
                    .step_by(row);
                column.iter_mut().zip(values).for_each(|(x, &y)| *x = y);
            }
            Panels::Bf16(lines) => {
                let words = &lines[panel * self.depth.div_ceil(2) / LANES..];
                let words = words[at / LANES..].iter().step_by(row / LANES);
                for (pair, line) in column.chunks_mut(2).zip(words) {
                    let word = line.0[at % LANES];
                    for (x, bits) in pair.iter_mut().zip([word << 16, word & 0xffff_0000]) {
                        *x = f32::from_bits(bits);
                    }
                }
            }
            Panels::Int8 { lines, scales } => {
                let lines = &lines[panel * self.depth / LANES..][at / LANES..];
                let lines = lines.iter().step_by(row / LANES);
                for (x, line) in column.iter_mut().zip(lines) {
                    *x = f32::from(line.0[at % LANES]) * scales[j];
                }
            }
        }
    }
}

/// Packs `n_rows` rows of `width` values, `stride` apart, into `out` as the panels
/// of `B[n_rows, width]`.
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
        for (k, line) in out.chunks_exact_mut(line_width(n)).enumerate() {
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
    const SIDE: usize = 4;
    for (panel, out) in out.chunks_mut(width.max(1) * PANEL).enumerate() {
        let n = (n_rows - panel * PANEL).min(PANEL);
        let row = |j: usize| &source[(panel * PANEL + j) * stride..][..width];
        let line_width = line_width(n);
        // Few rows at a time: all 64, a power of two apart, would compete for the same cache sets.
        for j in (0..n - n % SIDE).step_by(SIDE) {
            let rows = [row(j), row(j + 1), row(j + 2), row(j + 3)];
            for (k, line) in out.chunks_exact_mut(line_width).enumerate() {
                line[j..j + SIDE].copy_from_slice(&rows.map(|row| row[k]));
            }
        }
        for j in n - n % SIDE..n {
            for (line, &x) in out.chunks_exact_mut(line_width).zip(row(j)) {
                line[j] = x;
            }
        }
        if n < line_width {
            let lines = out.chunks_exact_mut(line_width);
            lines.for_each(|line| line[n..].fill(0.0));
        }
    }
}
