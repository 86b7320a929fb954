//! A whole product, cut into blocks of rows and groups of panels that any thread may take.

#[cfg(target_arch = "x86_64")]
use super::bf16::PairStrip;
use super::bf16::{self, words_of};
use super::int8;
use super::multiply::multiply_strip;
use super::pack::{Pack, Panels};
use super::strip::{DEPTH_BLOCK, LANES, PANEL, Strip, line_width};
use super::transpose::{self, Part};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512_bf16 as pairs};
use crate::cpu::InstructionSet;
use crate::parallel::{SendPtr, as_floats, as_words, as_words_mut, for_each_task, with_scratch};
use std::ops::Range;

/// Fewest rows of a block: below, a panel is hardly worth fetching, let alone widening or turning.
const MIN_ROW_BLOCK: usize = 24;
/// Rows of the usual tile of sums.
const TILE_ROWS: usize = 6;
/// Most rows of a block: a depth block of them, 1 MiB, stays in a second-level
/// cache while panel after panel is fetched.
const MAX_ROW_BLOCK: usize = 510;
/// Floats that a task needs: a block of a panel, and a square of one that has to be widened
/// before it is turned.
const SCRATCH: usize = (DEPTH_BLOCK + PANEL) * PANEL;
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

/// A part of a panel of the transpose, as it lies in the pack.
struct PackedPart {
    /// The panel of the pack.
    panel: usize,
    /// Its first line that is wanted, among the lines of the pack.
    first: usize,
    /// Columns of a line.
    row: usize,
    /// Lines and columns that are wanted.
    n_lines: usize,
    n_columns: usize,
}

impl PackedPart {
    /// The part in the words of the pack.
    fn of<'a>(&self, words: &'a [u32]) -> Part<'a> {
        self.part(&words[self.first * LANES..], self.n_lines)
    }

    /// The part of `n_lines` lines that begin with `words`.
    fn part<'a>(&self, words: &'a [u32], n_lines: usize) -> Part<'a> {
        Part {
            words,
            row: self.row,
            n_lines,
            n_columns: self.n_columns,
        }
    }

    /// Its lines in 8 bits, with their scales.
    fn bytes<'a>(
        &self,
        lines: &'a [int8::Bytes],
        scales: &'a [f32],
    ) -> (&'a [int8::Bytes], &'a [f32]) {
        (
            &lines[self.first..][..self.n_lines * self.row / LANES],
            &scales[self.panel * PANEL..][..self.row],
        )
    }
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
    /// Blocks have multiples of `unit` rows.
    fn new(n_rows: usize, n_panels: usize, unit: usize) -> Self {
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
            .max(n_rows.div_ceil(MAX_ROW_BLOCK))
            .min(n_rows.div_ceil(MIN_ROW_BLOCK));
        let rows_per_block = n_rows.div_ceil(blocks).next_multiple_of(unit);
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
        let n_panels = width.div_ceil(PANEL);
        let work = 2 * n_rows * depth * width;
        let c = SendPtr::new(c);
        #[cfg(target_arch = "x86_64")]
        match (set, &self.panels) {
            (_, Panels::F32(_)) => {}
            (InstructionSet::Amx, _) => {
                let cut = Cut::new(n_rows, n_panels, amx::SQUARE);
                // SAFETY: the processor has the level.
                let a = unsafe { amx::Left::of(a, n_rows, depth) };
                for_each_task(cut.n_tasks(), work, |t| {
                    let (rows, panels) = cut.task(t);
                    // SAFETY: the extents were checked above, no other task has these rows and
                    // panels of C, and the processor has the level.
                    unsafe { self.tile_task(side, &a, c.get(), rows, panels, accumulate) }
                });
                return;
            }
            (InstructionSet::Avx512Bf16, _) => {
                let cut = Cut::new(n_rows, n_panels, TILE_ROWS);
                let a = RoundedRows::of(a, n_rows, depth);
                for_each_task(cut.n_tasks(), work, |t| {
                    let (rows, panels) = cut.task(t);
                    // SAFETY: as above.
                    unsafe { self.pair_task(side, &a, c.get(), rows, panels, accumulate) }
                });
                return;
            }
            _ => {}
        }
        let cut = Cut::new(n_rows, n_panels, TILE_ROWS);
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
    /// `a` and `c` have the extents that [`multiply`](Self::multiply) checks, with `rows` and the
    /// columns of `panels` of `c` this call's alone.
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
        with_scratch(SCRATCH, |scratch| {
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
                    // SAFETY: in range by the extents that `multiply` checked; C
                    // is this task's alone.
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
        let (scratch, square) = scratch.split_at_mut(DEPTH_BLOCK * PANEL);
        let b_row = line_width(self.extents(side).1 - panel * PANEL);
        match (side, &self.panels) {
            (Side::AsPacked, Panels::F32(lines)) => {
                return as_floats(&lines[self.line(self.depth, panel, from)..]).as_ptr();
            }
            (Side::AsPacked, Panels::Bf16(lines)) => {
                let lines = &lines[self.line(self.depth.div_ceil(2), panel, from / 2)..];
                bf16::widen(set, lines, b_row, &mut scratch[..block * b_row]);
            }
            (Side::AsPacked, Panels::Int8 { lines, scales }) => {
                let lines = &lines[self.line(self.depth, panel, from)..];
                let scales = &scales[panel * PANEL..][..b_row];
                int8::widen(set, lines, scales, &mut scratch[..block * b_row]);
            }
            (Side::Transposed, Panels::F32(lines)) => {
                let (words, out) = (as_words(as_floats(lines)), as_words_mut(scratch));
                self.each_part(1, from, block, panel, |at, packed| {
                    transpose::turn(set, packed.of(words), &mut out[at * b_row..], b_row);
                });
            }
            (Side::Transposed, Panels::Bf16(lines)) => {
                let (words, out) = (words_of(lines), as_words_mut(scratch));
                self.each_part(2, from, block, panel, |at, packed| {
                    transpose::turn_and_widen(set, packed.of(words), &mut out[at * b_row..], b_row);
                });
            }
            (Side::Transposed, Panels::Int8 { lines, scales }) => {
                let out = as_words_mut(scratch);
                self.each_part(1, from, block, panel, |at, packed| {
                    let (lines, scales) = packed.bytes(lines, scales);
                    let square = &mut square[..lines.len() * LANES];
                    int8::widen(set, lines, scales, square);
                    let part = packed.part(as_words(square), packed.n_lines);
                    transpose::turn(set, part, &mut out[at * b_row..], b_row);
                });
            }
        }
        scratch.as_ptr()
    }

    /// The first line of a panel from a line within it on; all panels before it are full.
    fn line(&self, n_lines: usize, panel: usize, from: usize) -> usize {
        (panel * PANEL * n_lines + from * line_width(self.width - panel * PANEL)) / LANES
    }

    /// Calls `f(depth - from, part)` for the parts of the pack that make depths
    /// `from .. from + block` of a panel of the transpose; a line of the pack
    /// holds `per_line` depths.
    fn each_part(
        &self,
        per_line: usize,
        from: usize,
        block: usize,
        panel: usize,
        mut f: impl FnMut(usize, PackedPart),
    ) {
        let n_depths = (self.depth - panel * PANEL).min(PANEL);
        for at in (0..block).step_by(PANEL) {
            let source = (from + at) / PANEL;
            let lines_of_panel = self.depth.div_ceil(per_line);
            let packed = PackedPart {
                panel: source,
                first: self.line(lines_of_panel, source, panel * PANEL / per_line),
                row: line_width(self.width - source * PANEL),
                n_lines: n_depths.div_ceil(per_line),
                n_columns: (block - at).min(PANEL),
            };
            f(at, packed);
        }
    }

    /// # Safety
    /// As [`Self::float_task`], on a processor with AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pair_task(
        &self,
        side: Side,
        a: &RoundedRows,
        c: *mut f32,
        rows: Range<usize>,
        panels: Range<usize>,
        accumulate: bool,
    ) {
        let (_, width) = self.extents(side);
        let multiply = |from: usize, block: usize, panel: usize, b| {
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
            // SAFETY: in range by the extents that `multiply` checked; C
            // is this task's alone.
            unsafe { pairs::strip(rows.len(), strip) }
        };
        // SAFETY: the caller's promise.
        unsafe { self.each_pair_panel(side, panels, multiply) }
    }

    /// # Safety
    /// As [`Self::float_task`], on a processor with AMX BF16 that the process may use.
    #[cfg(target_arch = "x86_64")]
    unsafe fn tile_task(
        &self,
        side: Side,
        a: &amx::Left,
        c: *mut f32,
        rows: Range<usize>,
        panels: Range<usize>,
        accumulate: bool,
    ) {
        let (depth, width) = self.extents(side);
        let multiply = |from: usize, block: usize, panel: usize, b| {
            let strip = amx::TileStrip {
                a,
                n_pairs: depth.div_ceil(2),
                pairs: from / 2..(from + block).div_ceil(2),
                rows: rows.clone(),
                b,
                b_row: line_width(width - panel * PANEL),
                // SAFETY: the task's first element of C.
                c: unsafe { c.add(rows.start * width + panel * PANEL) },
                c_row: width,
                width: (width - panel * PANEL).min(PANEL),
                accumulate: accumulate || from > 0,
            };
            // SAFETY: in range by the extents that `multiply` checked; C
            // is this task's alone.
            unsafe { amx::strip(&strip) }
        };
        // SAFETY: the caller's promise.
        unsafe { self.each_pair_panel(side, panels, multiply) }
    }

    /// Calls `f(from, block, panel, pairs)` for every block of depths of every panel.
    ///
    /// # Safety
    /// As [`Self::pair_panel`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn each_pair_panel(
        &self,
        side: Side,
        panels: Range<usize>,
        mut f: impl FnMut(usize, usize, usize, *const u32),
    ) {
        let (depth, _) = self.extents(side);
        with_scratch(SCRATCH, |scratch| {
            let scratch = as_words_mut(scratch);
            for from in (0..depth).step_by(DEPTH_BLOCK) {
                let block = (depth - from).min(DEPTH_BLOCK);
                for panel in panels.clone() {
                    // SAFETY: the caller's promise.
                    let pairs = unsafe { self.pair_panel(side, from, block, panel, scratch) };
                    f(from, block, panel, pairs);
                }
            }
        });
    }

    /// Depths `from .. from + block` of a panel in BF16 pairs, where it lies or made in `scratch`.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pair_panel(
        &self,
        side: Side,
        from: usize,
        block: usize,
        panel: usize,
        scratch: &mut [u32],
    ) -> *const u32 {
        let set = InstructionSet::Avx512;
        let (scratch, square) = scratch.split_at_mut(DEPTH_BLOCK * PANEL);
        let b_row = line_width(self.extents(side).1 - panel * PANEL);
        match (side, &self.panels) {
            (_, Panels::F32(_)) => unreachable!("f32 is not multiplied in pairs"),
            (Side::AsPacked, Panels::Bf16(lines)) => {
                let first = self.line(self.depth.div_ceil(2), panel, from / 2);
                return words_of(&lines[first..]).as_ptr();
            }
            (Side::AsPacked, Panels::Int8 { lines, scales }) => {
                let lines = &lines[self.line(self.depth, panel, from)..][..block * b_row / LANES];
                let scales = &scales[panel * PANEL..][..b_row];
                // SAFETY: the caller's promise.
                unsafe { pairs::widen_bytes(lines, scales, scratch) }
            }
            (Side::Transposed, Panels::Bf16(lines)) => {
                let words = words_of(lines);
                self.each_part(2, from, block, panel, |at, packed| {
                    let out = &mut scratch[at / 2 * b_row..];
                    transpose::turn_pairs(set, packed.of(words), out, b_row);
                });
            }
            (Side::Transposed, Panels::Int8 { lines, scales }) => {
                self.each_part(1, from, block, panel, |at, packed| {
                    let (lines, scales) = packed.bytes(lines, scales);
                    // SAFETY: the caller's promise.
                    unsafe { pairs::widen_bytes(lines, scales, square) }
                    let part = packed.part(square, packed.n_lines.div_ceil(2));
                    transpose::turn_pairs(set, part, &mut scratch[at / 2 * b_row..], b_row);
                });
            }
        }
        scratch.as_ptr()
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
        let mut pairs: Vec<u32> = Vec::with_capacity(n_rows * stride);
        let out = SendPtr::from_ptr(pairs.as_mut_ptr());
        let rows_per_task = 64;
        for_each_task(n_rows.div_ceil(rows_per_task), 8 * a.len(), |t| {
            for i in t * rows_per_task..((t + 1) * rows_per_task).min(n_rows) {
                // SAFETY: row i of the reserved memory is written by this task alone, all of it;
                // `multiply` checked the processor.
                unsafe {
                    let row = out.get().add(i * stride).cast::<u16>();
                    row.add(depth).write_bytes(0, 2 * stride - depth);
                    let row = std::slice::from_raw_parts_mut(row, depth);
                    pairs::round_row(&a[i * depth..(i + 1) * depth], row);
                }
            }
        });
        // SAFETY: the tasks wrote every row.
        unsafe { pairs.set_len(n_rows * stride) }
        Self { pairs, stride }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_every_row_and_panel_once_in_bounded_blocks() {
        for n_threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
            pool.build().unwrap().install(|| {
                for (n_rows, n_panels) in [(1, 1), (25, 3), (511, 1), (1024, 48), (4096, 2)] {
                    let cut = Cut::new(n_rows, n_panels, 6);
                    let mut counts = vec![0; n_rows * n_panels];
                    for t in 0..cut.n_tasks() {
                        let (rows, panels) = cut.task(t);
                        assert!(rows.len() <= MAX_ROW_BLOCK);
                        for row in rows {
                            panels
                                .clone()
                                .for_each(|panel| counts[row * n_panels + panel] += 1);
                        }
                    }
                    assert!(
                        counts.iter().all(|&n| n == 1),
                        "{n_rows} rows, {n_panels} panels"
                    );
                }
            });
        }
    }
}
