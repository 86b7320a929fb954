//! The strip of BF16 pairs on AMX: tiles of 16 x 16 sums, of which one instruction adds 16 pairs of
//! depths.
//!
//! The instructions are written out, since the compiler's names for them are not stable. A square
//! of two by two tiles takes four loads for four products, so that loads hide behind them.

use super::avx512_bf16::round_row;
use super::strip::PANEL;
use crate::parallel::{Line, SendPtr, for_each_task};
use std::arch::asm;
use std::ops::Range;

/// Rows of a tile, its columns, and the pairs of depths of one product.
const SIDE: usize = 16;
/// Rows and columns of a square of tiles. The left side has whole squares of rows.
pub(super) const SQUARE: usize = 2 * SIDE;
/// Pairs of depths of one product. The left side has whole ones, zeros at the end.
pub(super) const PAIRS: usize = SIDE;

/// Products that a square of sums takes before the next has its turn: the 32 KiB of B that they
/// read then stay in the first-level cache for the rows that follow.
const STEPS: usize = 16;

/// What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        (row_bytes[i], rows[i]) = (64, SIDE as u8);
        i += 1;
    }
    Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes,
        rows,
    }
};

/// Lines of the right side that are no whole product, with zeros after them.
#[repr(C, align(64))]
struct Rest([u32; PAIRS * PANEL]);

/// Sums on their way to rows or columns that end inside a square.
#[repr(C, align(64))]
struct Sums([f32; SQUARE * SQUARE]);

/// The left side of a product, rounded to BF16 and in the order in which the tiles read it:
/// `[parts][squares of rows]`, of each [`SQUARE`] rows of 16 pairs a product. Rows and depths are
/// filled up with zeros.
pub(super) struct Left {
    pairs: Vec<Line>,
    n_rows: usize,
}

/// Where the squares of one part begin, in lines of 16 pairs, and how many products each has.
#[derive(Clone, Copy)]
struct PartOf {
    first: usize,
    n_steps: usize,
}

impl Left {
    /// Rounds `a[n_rows, depth]`.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16.
    pub(super) unsafe fn of(a: &[f32], n_rows: usize, depth: usize) -> Self {
        let n_squares = n_rows.div_ceil(SQUARE);
        let n_steps = depth.div_ceil(2 * PAIRS);
        let n_lines = n_squares * SQUARE * n_steps;
        let mut pairs: Vec<Line> = Vec::with_capacity(n_lines);
        let out = SendPtr::from_ptr(pairs.as_mut_ptr());
        for_each_task(n_squares, 8 * a.len(), |square| {
            for i in square * SQUARE..(square + 1) * SQUARE {
                let row = a.get(i * depth..(i + 1) * depth).unwrap_or(&[]);
                for step in 0..n_steps {
                    let part = part_of(n_squares, n_steps, step / STEPS);
                    let of_square = part.first + square * part.n_steps * SQUARE;
                    let at = of_square + step % STEPS * SQUARE + i % SQUARE;
                    let from = (step * 2 * PAIRS).min(row.len());
                    let values = &row[from..row.len().min(from + 2 * PAIRS)];
                    // SAFETY: a line of the reserved memory that this task alone writes, all of it;
                    // the processor by the caller's promise.
                    unsafe {
                        let line = out.get().add(at).cast::<u16>();
                        line.add(values.len())
                            .write_bytes(0, 2 * PAIRS - values.len());
                        round_row(values, std::slice::from_raw_parts_mut(line, values.len()));
                    }
                }
            }
        });
        // SAFETY: the tasks wrote every line.
        unsafe { pairs.set_len(n_lines) }
        Self { pairs, n_rows }
    }

    /// The squares of a part from a row on, a multiple of [`SQUARE`].
    fn square(&self, n_steps: usize, part: PartOf, row: usize) -> *const u32 {
        debug_assert!(row.is_multiple_of(SQUARE) && row < self.n_rows && part.n_steps <= n_steps);
        let at = part.first + row * part.n_steps;
        self.pairs[at..].as_ptr().cast()
    }
}

/// A part of a left side of so many squares and products.
fn part_of(n_squares: usize, n_steps: usize, part: usize) -> PartOf {
    PartOf {
        first: part * STEPS * n_squares * SQUARE,
        n_steps: (n_steps - part * STEPS).min(STEPS),
    }
}

/// `C[rows, width] (+)= A B` for one panel of `B` over one depth block.
pub(super) struct TileStrip<'a> {
    pub(super) a: &'a Left,
    /// Pairs of depths of all of A and B.
    pub(super) n_pairs: usize,
    /// Those of the block, from a multiple of [`STEPS`] products on.
    pub(super) pairs: Range<usize>,
    /// Rows, from a multiple of [`SQUARE`] on.
    pub(super) rows: Range<usize>,
    /// The panel from the block's first line on, `[pairs][b_row]`.
    pub(super) b: *const u32,
    pub(super) b_row: usize,
    /// The first of the sums; element (i, j) is at `c + i * c_row + j`.
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    /// Columns, at most a panel's.
    pub(super) width: usize,
    pub(super) accumulate: bool,
}

/// # Safety
/// B is readable and C, for this call alone, writable over these extents, on a processor with AMX
/// BF16 that the process may use.
pub(super) unsafe fn strip(s: &TileStrip) {
    let n_squares = s.a.n_rows.div_ceil(SQUARE);
    let n_steps = s.n_pairs.div_ceil(PAIRS);
    debug_assert!(s.pairs.start.is_multiple_of(STEPS * PAIRS));
    // Lines that are no whole product, with zeros after them.
    let (whole, n_rest) = (s.pairs.len() / PAIRS, s.pairs.len() % PAIRS);
    let mut rest = Rest([0; PAIRS * PANEL]);
    // SAFETY: B has so many lines of `b_row` words, at most a panel's.
    unsafe {
        let from = s.b.add(whole * PAIRS * s.b_row);
        std::ptr::copy_nonoverlapping(from, rest.0.as_mut_ptr(), n_rest * s.b_row);
    }
    // SAFETY: the processor has tiles. No other code of this thread uses them between here and the
    // release.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags));
        for from in (0..whole + n_rest.div_ceil(PAIRS)).step_by(STEPS) {
            let part = part_of(n_squares, n_steps, (s.pairs.start / PAIRS + from) / STEPS);
            let n_whole = (whole - from.min(whole)).min(STEPS);
            for j in (0..s.width).step_by(SQUARE) {
                for row in s.rows.clone().step_by(SQUARE) {
                    let i = row - s.rows.start;
                    let extents = ((s.rows.end - row).min(SQUARE), (s.width - j).min(SQUARE));
                    let c = s.c.add(i * s.c_row + j);
                    let mut product = Product {
                        n_steps: n_whole,
                        a: s.a.square(n_steps, part, row),
                        b: s.b.add(from * PAIRS * s.b_row + j),
                        // A line of a narrow panel may end behind the first tile: its second reads
                        // the first again.
                        second: if j + SIDE < s.b_row { SIDE } else { 0 },
                        accumulate: s.accumulate || from > 0,
                    };
                    if n_whole > 0 {
                        square(&product, s, extents, c);
                    }
                    if n_whole < part.n_steps && n_rest > 0 {
                        product.a = product.a.add(n_whole * SQUARE * PAIRS);
                        product.b = rest.0.as_ptr().add(j);
                        product.accumulate |= n_whole > 0;
                        product.n_steps = 1;
                        square(&product, s, extents, c);
                    }
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem, preserves_flags));
    }
}

/// Some products of a square of tiles.
struct Product {
    n_steps: usize,
    a: *const u32,
    b: *const u32,
    /// Words between the two tiles of a line of B.
    second: usize,
    accumulate: bool,
}

/// A square whose first sum lies at `c`, of which `extents` rows and columns exist.
///
/// # Safety
/// As [`strip`], with the tiles configured.
unsafe fn square(
    product: &Product,
    s: &TileStrip,
    (n_rows, n_columns): (usize, usize),
    c: *mut f32,
) {
    // SAFETY: the caller's promise; `sums` has room for a square.
    unsafe {
        if (n_rows, n_columns) == (SQUARE, SQUARE) {
            return tiles(product, s.b_row, c, s.c_row);
        }
        let mut sums = Sums([0.0; SQUARE * SQUARE]);
        if product.accumulate {
            for (i, row) in sums.0.chunks_exact_mut(SQUARE).enumerate().take(n_rows) {
                std::ptr::copy_nonoverlapping(c.add(i * s.c_row), row.as_mut_ptr(), n_columns);
            }
        }
        tiles(product, s.b_row, sums.0.as_mut_ptr(), SQUARE);
        for (i, row) in sums.0.chunks_exact(SQUARE).enumerate().take(n_rows) {
            std::ptr::copy_nonoverlapping(row.as_ptr(), c.add(i * s.c_row), n_columns);
        }
    }
}

/// `C[32, 32] (+)= A B`, of A a square as it lies in [`Left`].
///
/// # Safety
/// As [`square`], with all of C's rows and columns there.
#[inline(never)]
unsafe fn tiles(product: &Product, b_row: usize, c: *mut f32, c_row: usize) {
    let (b_row, c_row) = (4 * b_row, 4 * c_row);
    // SAFETY: tiles of 16 rows of 64 bytes, whose extents the caller promises. Fetching ahead
    // touches nothing, wherever it points.
    unsafe {
        let c_below = c.byte_add(SIDE * c_row);
        if product.accumulate {
            asm!(
                "tileloadd tmm0, [{c} + {row}*1]",
                "tileloadd tmm1, [{c} + {row}*1 + 64]",
                "tileloadd tmm2, [{c_below} + {row}*1]",
                "tileloadd tmm3, [{c_below} + {row}*1 + 64]",
                c = in(reg) c, c_below = in(reg) c_below, row = in(reg) c_row,
                options(nostack, readonly, preserves_flags),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem, preserves_flags),
            );
        }
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {a_row}*1]",
            "tileloadd tmm6, [{b} + {b_row}*1]",
            "tileloadd tmm7, [{b_second} + {b_row}*1]",
            "tileloadd tmm5, [{a} + {a_row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".irp line,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "prefetcht0 [{a} + 4096 + 64*\\line]",
            ".endr",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ".irp line,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "prefetcht0 [{a} + 4096 + 64*\\line]",
            ".endr",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, {b_step}",
            "add {b_second}, {b_step}",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) product.a => _,
            b = inout(reg) product.b => _,
            b_second = inout(reg) product.b.add(product.second) => _,
            b_step = in(reg) PAIRS * b_row,
            a_row = in(reg) 64usize,
            b_row = in(reg) b_row,
            n = inout(reg) product.n_steps => _,
            options(nostack, readonly),
        );
        asm!(
            "tilestored [{c} + {row}*1], tmm0",
            "tilestored [{c} + {row}*1 + 64], tmm1",
            "tilestored [{c_below} + {row}*1], tmm2",
            "tilestored [{c_below} + {row}*1 + 64], tmm3",
            c = in(reg) c, c_below = in(reg) c_below, row = in(reg) c_row,
            options(nostack, preserves_flags),
        );
    }
}

/// Asks the system for the tiles' state, which a process has to do once; whether it may use them.
pub(crate) fn is_offered() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let has = |bits: u32| __cpuid_count(7, 0).edx & bits == bits;
    cfg!(target_os = "linux") && has(BF16 | TILE) && may_use_tiles()
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)` of Linux, for all threads.
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call of x86-64 Linux takes two numbers and touches no memory of this process.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}
