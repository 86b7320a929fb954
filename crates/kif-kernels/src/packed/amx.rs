//! The strip of BF16 pairs on AMX: tiles of 16 x 16 sums, of which one instruction adds 16 pairs of
//! depths.
//!
//! The instructions are written out, since the compiler's names for them are not stable. A square
//! of two by two tiles takes four loads for four products, so that loads hide behind them.

use super::bf16::PairStrip;
use super::strip::PANEL;
use std::arch::asm;

/// Rows of a tile, its columns, and the pairs of depths of one product.
const SIDE: usize = 16;
/// Rows and columns of a square of tiles. The left side has whole squares of rows.
pub(super) const SQUARE: usize = 2 * SIDE;
/// Pairs of depths of one product. The left side has whole ones, zeros at the end.
pub(super) const PAIRS: usize = SIDE;

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

/// # Safety
/// As [`multiply_strip`](super::multiply::multiply_strip), on a processor with AMX BF16 that the
/// process may use. A has whole squares of rows and whole [`PAIRS`].
pub(super) unsafe fn strip(n_rows: usize, s: PairStrip) {
    let whole = s.n_pairs / PAIRS;
    let n_rest = s.n_pairs % PAIRS;
    let mut rest = Rest([0; PAIRS * PANEL]);
    // SAFETY: B has `n_pairs` lines of `b_row` words, at most a panel's.
    unsafe {
        let from = s.b.add(whole * PAIRS * s.b_row);
        std::ptr::copy_nonoverlapping(from, rest.0.as_mut_ptr(), n_rest * s.b_row);
    }
    // SAFETY: the processor has tiles. No other code of this thread uses them between here and the
    // release.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags));
        for i in (0..n_rows).step_by(SQUARE) {
            for j in (0..s.width).step_by(SQUARE) {
                let of_whole = Product {
                    n_steps: whole,
                    a: s.a.add(i * s.a_row),
                    b: s.b.add(j),
                    accumulate: s.accumulate,
                };
                let of_rest = Product {
                    n_steps: n_rest.div_ceil(PAIRS),
                    a: s.a.add(i * s.a_row + whole * PAIRS),
                    b: rest.0.as_ptr().add(j),
                    accumulate: s.accumulate || whole > 0,
                };
                let extents = ((n_rows - i).min(SQUARE), (s.width - j).min(SQUARE));
                for product in [of_whole, of_rest].iter().filter(|p| p.n_steps > 0) {
                    square(product, &s, extents, s.c.add(i * s.c_row + j), j);
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
    accumulate: bool,
}

/// A square whose first sum lies at `c`, of which `extents` rows and columns exist.
///
/// # Safety
/// As [`strip`], with the tiles configured.
unsafe fn square(
    product: &Product,
    s: &PairStrip,
    (n_rows, n_columns): (usize, usize),
    c: *mut f32,
    column: usize,
) {
    // A line of a narrow panel may end behind the first tile: its second reads the first again.
    let second = if column + SIDE < s.b_row { 4 * SIDE } else { 0 };
    // SAFETY: the caller's promise; `sums` has room for a square.
    unsafe {
        if (n_rows, n_columns) == (SQUARE, SQUARE) {
            return tiles(product, s, second, c, s.c_row);
        }
        let mut sums = Sums([0.0; SQUARE * SQUARE]);
        if product.accumulate {
            for (i, row) in sums.0.chunks_exact_mut(SQUARE).enumerate().take(n_rows) {
                std::ptr::copy_nonoverlapping(c.add(i * s.c_row), row.as_mut_ptr(), n_columns);
            }
        }
        tiles(product, s, second, sums.0.as_mut_ptr(), SQUARE);
        for (i, row) in sums.0.chunks_exact(SQUARE).enumerate().take(n_rows) {
            std::ptr::copy_nonoverlapping(row.as_ptr(), c.add(i * s.c_row), n_columns);
        }
    }
}

/// `C[32, 32] (+)= A B`; the second half of the columns of B is `second` bytes behind the first.
///
/// # Safety
/// As [`square`], with all of C's rows and columns there.
#[inline(never)]
unsafe fn tiles(product: &Product, s: &PairStrip, second: usize, c: *mut f32, c_row: usize) {
    let (a_row, b_row, c_row) = (4 * s.a_row, 4 * s.b_row, 4 * c_row);
    // SAFETY: tiles of 16 rows of 64 bytes, whose extents the caller promises.
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
            "tileloadd tmm5, [{a_below} + {a_row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {a_below}, 64",
            "add {b}, {b_step}",
            "add {b_second}, {b_step}",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) product.a => _,
            a_below = inout(reg) product.a.byte_add(SIDE * a_row) => _,
            b = inout(reg) product.b => _,
            b_second = inout(reg) product.b.byte_add(second) => _,
            b_step = in(reg) PAIRS * b_row,
            a_row = in(reg) a_row, b_row = in(reg) b_row,
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
