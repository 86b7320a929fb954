//! A whole product, cut into blocks of rows and groups of panels that any thread may take.

#[cfg(target_arch = "x86_64")]
use super::avx512_bf16 as pairs;
#[cfg(target_arch = "x86_64")]
use super::bf16::PairStrip;
use super::bf16::{PairLine, widen, words_of};
use super::pack::{Pack, Panels};
use super::strip::{DEPTH_BLOCK, LANES, PANEL, Strip, line_width, multiply_strip};
use super::transpose::{self, Part};
use crate::cpu::InstructionSet;
use crate::parallel::{SendPtr, as_floats, as_words, as_words_mut, for_each_task, with_scratch};
use std::ops::Range;

/// Fewest rows of a block: below, a panel is hardly worth fetching, let alone widening or turning.
const MIN_ROW_BLOCK: usize = 24;
/// Tasks for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 8;

/// Which matrix a product is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The packed `B[depth, width]`.
    AsPacked,
    /// Its transpose.
    Transposed,
}

/// The cut of a product into tasks. It decides who computes an element, never how.
///
/// Rows are cut last: a panel is then fetched, widened or turned for many of them.
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
        let panels_per_group = n_panels.div_ceil(wanted.min(n_panels));
        let n_groups = n_panels.div_ceil(panels_per_group);
        let blocks = wanted
            .div_ceil(n_groups)
            .min(n_rows.div_ceil(MIN_ROW_BLOCK));
        // Tiles of 6 rows are the usual ones.
        let rows_per_block = n_rows.div_ceil(blocks).next_multiple_of(6);
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
    /// `c[n_rows, ..] (+)= a[n_rows, ..] B`, or with the transpose of `B`.
    pub(super) fn multiply(
        &self,
        set: InstructionSet,
        side: Side,
        n_rows: usize,
        a: &[f32],
        c: &mut [f32],
        accumulate: bool,
    ) {
        let (depth, width) = self.extents(side);
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
                unsafe { self.pair_task(lines, side, &a, c.get(), rows, panels, accumulate) }
            });
            return;
        }
        for_each_task(cut.n_tasks(), work, |t| {
            let (rows, panels) = cut.task(t);
            // SAFETY: as above.
            unsafe { self.float_task(set, side, a, c.get(), rows, panels, accumulate) }
        });
    }

    /// Rows and columns of the matrix that is multiplied by.
    fn extents(&self, side: Side) -> (usize, usize) {
        match side {
            Side::AsPacked => (self.depth, self.width),
            Side::Transposed => (self.width, self.depth),
        }
    }

    /// Multiplies in f32, widening and turning panels as it goes.
    ///
    /// # Safety
    /// `a` and `c` have the extents that [`multiply`](Self::multiply) checks, with `rows` and the columns of `panels`
    /// of `c` this call's alone.
    unsafe fn float_task(
        &self,
        set: InstructionSet,
        side: Side,
        a: &[f32],
        c: *mut f32,
        rows: Range<usize>,
        panels: Range<usize>,
        accumulate: bool,
    ) {
        let (depth, width) = self.extents(side);
        with_scratch(DEPTH_BLOCK * PANEL, |scratch| {
            for from in (0..depth).step_by(DEPTH_BLOCK) {
                let block = (depth - from).min(DEPTH_BLOCK);
                for panel in panels.clone() {
                    let strip = Strip {
                        depth: block,
                        a: a[rows.start * depth + from..].as_ptr(),
                        a_row: depth,
                        a_col: 1,
                        b: self.float_panel(set, side, from, block, panel, scratch),
                        b_row: line_width(width - panel * PANEL),
                        // SAFETY: the task's first element of C.
                        c: unsafe { c.add(rows.start * width + panel * PANEL) },
                        c_row: width,
                        width: (width - panel * PANEL).min(PANEL),
                        accumulate: accumulate || from > 0,
                    };
                    // SAFETY: in range by the extents that `multiply` checked; C is this task's alone.
                    unsafe { multiply_strip(set, rows.len(), strip) }
                }
            }
        });
    }

    /// Depths `from .. from + block` of a panel in f32, where it lies or made in `scratch`.
    fn float_panel(
        &self,
        set: InstructionSet,
        side: Side,
        from: usize,
        block: usize,
        panel: usize,
        scratch: &mut [f32],
    ) -> *const f32 {
        match (side, &self.panels) {
            (Side::AsPacked, Panels::F32(lines)) => {
                as_floats(&lines[self.line(self.depth, panel, from)..]).as_ptr()
            }
            (Side::AsPacked, Panels::Bf16(lines)) => {
                let b_row = line_width(self.width - panel * PANEL);
                let lines = &lines[self.line(self.depth.div_ceil(2), panel, from / 2)..];
                widen(set, lines, b_row, &mut scratch[..block * b_row]);
                scratch.as_ptr()
            }
            (Side::Transposed, Panels::F32(lines)) => {
                let words = as_words(as_floats(lines));
                let out = as_words_mut(scratch);
                self.each_part(words, 1, from, block, panel, |at, part, out_row| {
                    transpose::turn(set, part, &mut out[at * out_row..], out_row);
                });
                scratch.as_ptr()
            }
            (Side::Transposed, Panels::Bf16(lines)) => {
                let out = as_words_mut(scratch);
                self.each_part(
                    words_of(lines),
                    2,
                    from,
                    block,
                    panel,
                    |at, part, out_row| {
                        transpose::turn_and_widen(set, part, &mut out[at * out_row..], out_row);
                    },
                );
                scratch.as_ptr()
            }
        }
    }

    /// The first line of a panel from a line within it on; all panels before it are full.
    fn line(&self, n_lines: usize, panel: usize, from: usize) -> usize {
        (panel * PANEL * n_lines + from * line_width(self.width - panel * PANEL)) / LANES
    }

    /// Calls `f(depth - from, part, out_row)` for the parts of the pack that make depths `from .. from + block` of a
    /// panel of the transpose, whose lines have `out_row` columns; a line of the pack holds `per_line` depths.
    fn each_part(
        &self,
        words: &[u32],
        per_line: usize,
        from: usize,
        block: usize,
        panel: usize,
        mut f: impl FnMut(usize, Part, usize),
    ) {
        let n_columns = (self.depth - panel * PANEL).min(PANEL);
        for at in (0..block).step_by(PANEL) {
            let source = (from + at) / PANEL;
            let first = self.line(
                self.depth.div_ceil(per_line),
                source,
                panel * PANEL / per_line,
            );
            let part = Part {
                words: &words[first * LANES..],
                row: line_width(self.width - source * PANEL),
                n_lines: n_columns.div_ceil(per_line),
                n_columns: (block - at).min(PANEL),
            };
            f(at, part, line_width(n_columns));
        }
    }

    /// # Safety
    /// As [`Self::float_task`], on a processor with AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pair_task(
        &self,
        lines: &[PairLine],
        side: Side,
        a: &RoundedRows,
        c: *mut f32,
        rows: Range<usize>,
        panels: Range<usize>,
        accumulate: bool,
    ) {
        let (depth, width) = self.extents(side);
        with_scratch(DEPTH_BLOCK / 2 * PANEL, |scratch| {
            let scratch = as_words_mut(scratch);
            for from in (0..depth).step_by(DEPTH_BLOCK) {
                let block = (depth - from).min(DEPTH_BLOCK);
                for panel in panels.clone() {
                    let b = match side {
                        Side::AsPacked => {
                            let first = self.line(depth.div_ceil(2), panel, from / 2);
                            words_of(&lines[first..]).as_ptr()
                        }
                        Side::Transposed => {
                            let words = words_of(lines);
                            self.each_part(words, 2, from, block, panel, |at, part, out_row| {
                                let out = &mut scratch[at / 2 * out_row..];
                                transpose::turn_pairs(InstructionSet::Avx512, part, out, out_row);
                            });
                            scratch.as_ptr()
                        }
                    };
                    let strip = PairStrip {
                        n_pairs: block.div_ceil(2),
                        a: a.pairs[rows.start * a.stride + from / 2..].as_ptr(),
                        a_row: a.stride,
                        b,
                        b_row: line_width(width - panel * PANEL),
                        // SAFETY: the task's first element of C.
                        c: unsafe { c.add(rows.start * width + panel * PANEL) },
                        c_row: width,
                        width: (width - panel * PANEL).min(PANEL),
                        accumulate: accumulate || from > 0,
                    };
                    // SAFETY: in range by the extents that `multiply` checked; C is this task's alone.
                    unsafe { pairs::strip(rows.len(), strip) }
                }
            }
        });
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
