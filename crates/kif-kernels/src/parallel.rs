//! Work split into numbered tasks whose results do not depend on who runs them, and the
//! scratch memory they use.

use rayon::prelude::*;
use std::cell::RefCell;

/// Floating-point operations below which a call is not worth waking other threads for.
const SERIAL_BELOW: usize = 100_000;

/// A pointer that may cross threads.
///
/// Whoever dereferences it answers for touching only its own task's part.
#[derive(Clone, Copy)]
pub(crate) struct SendPtr<T>(*mut T);

// SAFETY: the pointer is only an address; dereferencing it is unsafe and argued at each place.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    pub(crate) fn from_ptr(pointer: *mut T) -> Self {
        Self(pointer)
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// Runs `task(0) .. task(n_tasks - 1)`, on all threads of the pool when `work`
/// operations are worth it.
pub(crate) fn for_each_task(n_tasks: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    if n_tasks <= 1 || work < SERIAL_BELOW || rayon::current_num_threads() == 1 {
        (0..n_tasks).for_each(task);
    } else {
        (0..n_tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// One cache line: 16 floats.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line(pub(crate) [f32; 16]);

/// Aligned scratch of `n_floats`, its contents arbitrary; kept by the thread for the next call.
///
/// `f` must not reach this function again.
pub(crate) fn with_scratch<R>(n_floats: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|lines| {
        let n_lines = n_floats.div_ceil(16);
        if lines.len() < n_lines {
            lines.resize(n_lines, Line([0.0; 16]));
        }
        f(&mut as_floats_mut(lines)[..n_floats])
    })
}

/// The floats of some lines.
pub(crate) fn as_floats(lines: &[Line]) -> &[f32] {
    // SAFETY: `Line` is `repr(C)` around 16 floats whose size is a multiple of its alignment, so
    // there is no padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

/// The floats of some lines.
pub(crate) fn as_floats_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: as in `as_floats`; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

/// The bits of some floats.
pub(crate) fn as_words(floats: &[f32]) -> &[u32] {
    // SAFETY: f32 and u32 have the same size and alignment, and any bits are valid in either.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
}

/// The bits of some floats.
pub(crate) fn as_words_mut(floats: &mut [f32]) -> &mut [u32] {
    // SAFETY: as in `as_words`; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}
