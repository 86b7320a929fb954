//! A whole product, cut into blocks of rows and groups of panels that any thread may take.

use super::bf16::{PairLine, widen};
use super::pack::{Pack, Panels};
use super::strip::{DEPTH_BLOCK, LANES, PANEL, Strip, line_width, multiply_strip};
#[cfg(target_arch = "x86_64")]
use super::{avx512::pairs, bf16::PairStrip};
use crate::cpu::InstructionSet;
use crate::parallel::{SendPtr, as_floats, for_each_task, with_scratch};
use std::ops::Range;

/// Rows of the tile that full panels are multiplied by.
const TILE: usize = 6;
/// Rows of a block: as many as leave its depth block of A in the second-level cache.
const ROW_BLOCK: usize = 20 * TILE;
/// Fewest rows of a block when there are too few panels to share out.
const MIN_ROW_BLOCK: usize = 4 * TILE;
/// Tasks for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 8;
/// Floats between rows of a copied block of A: no multiple of a page, whose rows would compete for the same cache sets.
const COPY_STRIDE: usize = DEPTH_BLOCK + 16;

/// The cut of a product into tasks. It decides who computes an element, never how.
struct Cut {
    n_rows: usize,
    rows_per_block: usize,
    n_panels: usize,
    panels_per_group: usize,
    n_groups: usize,
}

impl Cut {
    fn new(n_rows: usize, n_panels: usize) -> Self {
        let n_threads = rayon::current_num_threads();
        let wanted = if n_threads == 1 {
            1
        } else {
            n_threads * TASKS_PER_THREAD
        };
        let blocks = n_rows.div_ceil(ROW_BLOCK);
        let panels_per_group = n_panels.div_ceil(wanted.div_ceil(blocks).min(n_panels));
        let n_groups = n_panels.div_ceil(panels_per_group);
        let blocks = wanted
            .div_ceil(n_groups)
            .min(n_rows.div_ceil(MIN_ROW_BLOCK))
            .max(blocks);
        let rows_per_block = n_rows.div_ceil(blocks).next_multiple_of(TILE);
        Self {
            n_rows,
            rows_per_block,
            n_panels,
            panels_per_group,
            n_groups,
        }
    }

    fn n_tasks(&self) -> usize {
        self.n_rows.div_ceil(self.rows_per_block) * self.n_groups
    }

    /// The rows and panels of a task.
    fn task(&self, t: usize) -> (Range<usize>, Range<usize>) {
        let (row, panel) = (
            t / self.n_groups * self.rows_per_block,
            t % self.n_groups * self.panels_per_group,
        );
        (
            row..(row + self.rows_per_block).min(self.n_rows),
            panel..(panel + self.panels_per_group).min(self.n_panels),
        )
    }
}

impl Pack {
    /// `c[n_rows, width] (+)= a[n_rows, depth] B`.
    pub(super) fn multiply(
        &self,
        set: InstructionSet,
        n_rows: usize,
        a: &[f32],
        c: &mut [f32],
        accumulate: bool,
    ) {
        let (depth, width) = (self.depth, self.width);
        assert_eq!(a.len(), n_rows * depth, "left side of {n_rows} x {depth}");
        assert_eq!(c.len(), n_rows * width, "product of {n_rows} x {width}");
        if c.is_empty() {
            return;
        }
        if depth == 0 {
            if !accumulate {
                c.fill(0.0);
            }
            return;
        }
        let cut = Cut::new(n_rows, width.div_ceil(PANEL));
        let work = 2 * n_rows * depth * width;
        let c = SendPtr::new(c);
        #[cfg(target_arch = "x86_64")]
        if let (Panels::Bf16(lines), InstructionSet::Avx512Bf16) = (&self.panels, set) {
            let a = RoundedRows::of(a, n_rows, depth);
            for_each_task(cut.n_tasks(), work, |t| {
                let (rows, panels) = cut.task(t);
                // SAFETY: the extents were checked above, no other task has these rows and panels of C, and the
                // processor has the pairwise products.
                unsafe { self.pair_task(lines, &a, c.get(), rows, panels, accumulate) }
            });
            return;
        }
        for_each_task(cut.n_tasks(), work, |t| {
            let (rows, panels) = cut.task(t);
            // SAFETY: as above.
            unsafe { self.float_task(set, a, c.get(), rows, panels, accumulate) }
        });
    }

    /// Columns of C in a panel.
    fn panel_width(&self, panel: usize) -> usize {
        (self.width - panel * PANEL).min(PANEL)
    }

    /// Multiplies in f32, widening BF16 panels as it goes.
    ///
    /// # Safety
    /// `c` is `[.., width]`, with `rows` and the columns of `panels` this call's alone.
    unsafe fn float_task(
        &self,
        set: InstructionSet,
        a: &[f32],
        c: *mut f32,
        rows: Range<usize>,
        panels: Range<usize>,
        accumulate: bool,
    ) {
        let depth = self.depth;
        // Rows a multiple of a page apart compete for the same cache sets.
        let copied = (depth * size_of::<f32>()).is_multiple_of(4096) && rows.len() > 1;
        let n_copied = if copied { rows.len() * COPY_STRIDE } else { 0 };
        with_scratch(n_copied + DEPTH_BLOCK * PANEL, |scratch| {
            let (copy, widened) = scratch.split_at_mut(n_copied);
            for from in (0..depth).step_by(DEPTH_BLOCK) {
                let block = (depth - from).min(DEPTH_BLOCK);
                for (out, i) in copy.chunks_exact_mut(COPY_STRIDE).zip(rows.clone()) {
                    out[..block].copy_from_slice(&a[i * depth + from..][..block]);
                }
                let (a, a_row) = if copied {
                    (copy.as_ptr(), COPY_STRIDE)
                } else {
                    (a[rows.start * depth + from..].as_ptr(), depth)
                };
                for panel in panels.clone() {
                    let width = self.panel_width(panel);
                    let b_row = line_width(width);
                    // The first line of the panel, of which all before are full, and of the depth in it.
                    let line = |depth, from| (panel * PANEL * depth + from * b_row) / LANES;
                    let b = match &self.panels {
                        Panels::F32(lines) => as_floats(&lines[line(depth, from)..]).as_ptr(),
                        Panels::Bf16(lines) => {
                            let lines = &lines[line(depth.div_ceil(2), from / 2)..];
                            widen(set, lines, b_row, &mut widened[..block * b_row]);
                            widened.as_ptr()
                        }
                    };
                    let strip = Strip {
                        depth: block,
                        a,
                        a_row,
                        a_col: 1,
                        b,
                        b_row,
                        // SAFETY: the task's first element of C.
                        c: unsafe { c.add(rows.start * self.width + panel * PANEL) },
                        c_row: self.width,
                        width,
                        accumulate: accumulate || from > 0,
                    };
                    // SAFETY: in range by the extents that `multiply` checked; C is this task's alone.
                    unsafe { multiply_strip(set, rows.len(), strip) }
                }
            }
        });
    }

    /// # Safety
    /// As [`Self::float_task`], on a processor with AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pair_task(
        &self,
        lines: &[PairLine],
        a: &RoundedRows,
        c: *mut f32,
        rows: Range<usize>,
        panels: Range<usize>,
        accumulate: bool,
    ) {
        const BLOCK: usize = DEPTH_BLOCK / 2;
        let n_pairs = self.depth.div_ceil(2);
        for from in (0..n_pairs).step_by(BLOCK) {
            for panel in panels.clone() {
                let width = self.panel_width(panel);
                let b_row = line_width(width);
                let first_line = (panel * PANEL * n_pairs + from * b_row) / LANES;
                let strip = PairStrip {
                    n_pairs: (n_pairs - from).min(BLOCK),
                    a: a.pairs[rows.start * a.stride + from..].as_ptr(),
                    a_row: a.stride,
                    b: lines[first_line..].as_ptr().cast(),
                    b_row,
                    // SAFETY: the task's first element of C.
                    c: unsafe { c.add(rows.start * self.width + panel * PANEL) },
                    c_row: self.width,
                    width,
                    accumulate: accumulate || from > 0,
                };
                // SAFETY: in range by the extents that `multiply` checked; C is this task's alone.
                unsafe { pairs::strip(rows.len(), strip) }
            }
        }
    }
}

/// Activations rounded to BF16 pairs once per product, an odd last value paired with zero.
#[cfg(target_arch = "x86_64")]
struct RoundedRows {
    pairs: Vec<u32>,
    stride: usize,
}

#[cfg(target_arch = "x86_64")]
impl RoundedRows {
    /// Rounds `a[n_rows, depth]`; needs AVX-512 BF16.
    fn of(a: &[f32], n_rows: usize, depth: usize) -> Self {
        let n_pairs = depth.div_ceil(2);
        // Rows a multiple of a page apart compete for the same cache sets.
        let padding = if n_pairs.is_multiple_of(1024) { 16 } else { 0 };
        let stride = n_pairs + padding;
        let mut pairs = vec![0u32; n_rows * stride];
        let out = SendPtr::new(&mut pairs);
        let rows_per_task = 64;
        for_each_task(n_rows.div_ceil(rows_per_task), 8 * a.len(), |t| {
            for i in t * rows_per_task..((t + 1) * rows_per_task).min(n_rows) {
                // SAFETY: row i has room for `depth` halves and is written by this task alone; `multiply` checked the
                // processor.
                unsafe {
                    let row = std::slice::from_raw_parts_mut(
                        out.get().add(i * stride).cast::<u16>(),
                        depth,
                    );
                    pairs::round_row(&a[i * depth..(i + 1) * depth], row);
                }
            }
        });
        Self { pairs, stride }
    }
}
