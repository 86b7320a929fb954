//! Which instructions the kernels use: found at run time, or chosen among those that there are.

#[cfg(target_arch = "x86_64")]
use crate::packed::amx;
use std::cell::Cell;
use std::sync::OnceLock;

/// A level of instructions; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Plain Rust, as the compiler vectorises it for the build's target.
    Portable,
    /// AVX2 and FMA (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, DQ and VL (x86-64-v4).
    Avx512,
    /// AVX-512 with products of BF16 pairs; taken where they run at full rate (AMD, from Zen 4).
    Avx512Bf16,
    /// AMX: products of BF16 in tiles (Intel, from Sapphire Rapids), where the system grants them.
    Amx,
}

impl InstructionSet {
    /// Every level, lowest first.
    pub const ALL: [Self; 5] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// The level that `KIF_CPU` names: `portable`, `avx2`, `avx512` (without BF16
    /// products), `avx512bf16` or `amx`.
    fn named(name: &str) -> Option<Self> {
        match name {
            "portable" => Some(Self::Portable),
            "avx2" => Some(Self::Avx2),
            "avx512" => Some(Self::Avx512),
            "avx512bf16" => Some(Self::Avx512Bf16),
            "amx" => Some(Self::Amx),
            _ => None,
        }
    }
}

thread_local! {
    static CHOSEN: Cell<Option<InstructionSet>> = const { Cell::new(None) };
}

/// The level that calls from this thread use: the one chosen by [`with_instruction_set`], else
/// the one that the environment variable `KIF_CPU` names, else the fastest; never more than
/// the processor offers.
pub fn instruction_set() -> InstructionSet {
    let (offered, preferred) = available();
    CHOSEN.get().map_or(preferred, |chosen| chosen.min(offered))
}

/// The highest level to use and the one to use unless told otherwise: what the processor offers and
/// what is fastest on it, or for both what `KIF_CPU` names.
fn available() -> (InstructionSet, InstructionSet) {
    static AVAILABLE: OnceLock<(InstructionSet, InstructionSet)> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let (offered, preferred) = (offered(), preferred());
        let Ok(wish) = std::env::var("KIF_CPU") else {
            return (offered, preferred);
        };
        match InstructionSet::named(&wish) {
            Some(level) => (offered.min(level), offered.min(level)),
            None => {
                eprintln!(
                    "KIF_CPU={wish} is none of portable, avx2, avx512, avx512bf16, amx and is ignored"
                );
                (offered, preferred)
            }
        }
    })
}

/// Runs `f` with the kernels that this thread calls at `level`, or at the highest one
/// below it that there is.
///
/// A kernel asks once, on the thread that calls it, so its own worker threads follow.
pub fn with_instruction_set<R>(level: InstructionSet, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<InstructionSet>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    let _restore = Restore(CHOSEN.replace(Some(level)));
    f()
}

#[cfg(target_arch = "x86_64")]
fn offered() -> InstructionSet {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (_, true) if is_x86_feature_detected!("avx512bf16") && amx::is_offered() => {
            InstructionSet::Amx
        }
        (_, true) if is_x86_feature_detected!("avx512bf16") => InstructionSet::Avx512Bf16,
        (_, true) => InstructionSet::Avx512,
        (true, _) => InstructionSet::Avx2,
        _ => InstructionSet::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn offered() -> InstructionSet {
    InstructionSet::Portable
}

/// The level to use unless told otherwise.
///
/// Intel's processors take their time over BF16 pairs outside of tiles: on Sapphire Rapids 88
/// GFLOP/s a core against 175 in f32, so that widening the weight is faster there.
fn preferred() -> InstructionSet {
    match offered() {
        InstructionSet::Avx512Bf16 if !is_amd() => InstructionSet::Avx512,
        offered => offered,
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

/// Compiles a function once per instruction set and chooses among the copies by its first argument.
///
/// Inside the body, the constant `FUSED` says whether [`madd`](crate::lanes::madd) may fuse.
macro_rules! versions {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(set: $crate::cpu::InstructionSet, $($arg: $ty),*) $(-> $ret)? {
            #[allow(unused)]
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            match set {
                $crate::cpu::InstructionSet::Portable => body::<false>($($arg),*),
                // SAFETY: a level is only ever chosen where the processor offers its
                // instructions (`cpu::offered`).
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::InstructionSet::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                _ => unsafe { avx512($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use versions;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_bounded_by_the_processor_and_ends_with_its_scope() {
        let before = instruction_set();
        with_instruction_set(InstructionSet::Portable, || {
            assert_eq!(instruction_set(), InstructionSet::Portable);
        });
        with_instruction_set(InstructionSet::Amx, || {
            assert_eq!(instruction_set(), available().0)
        });
        assert_eq!(instruction_set(), before);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(InstructionSet::named("avx2"), Some(InstructionSet::Avx2));
        assert_eq!(InstructionSet::named("sse"), None);
    }
}
