// What a CUDA source of ours may use, for a C++ compiler: the language's keywords, built-in variables, vector types,
// barriers, shuffles, atomics and fast mathematics. `grid.cpp` runs the threads.
#pragma once

#define KIF_EMULATED 1

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// Static at block scope, and still right behind `extern` (dynamic shared memory). One block runs at a time.
#define __shared__ thread_local

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

// Set by the scheduler before a thread of the grid goes on.
extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;
constexpr int warpSize = 32;

#define KIF_VECTOR(T, name, bytes)                                                                                     \
    struct alignas(2 * (bytes)) name##2 {                                                                              \
        T x, y;                                                                                                        \
    };                                                                                                                 \
    struct alignas(4 * (bytes)) name##4 {                                                                              \
        T x, y, z, w;                                                                                                  \
    };                                                                                                                 \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                         \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
KIF_VECTOR(float, float, 4)
KIF_VECTOR(int, int, 4)
KIF_VECTOR(unsigned, uint, 4)
KIF_VECTOR(unsigned short, ushort, 2)
KIF_VECTOR(unsigned char, uchar, 1)
#undef KIF_VECTOR

// Barriers and the exchange below end the thread's turn until all others have come as far.
void __syncthreads();
void kif_exchange(unsigned mask, uint64_t mine);
// What `lane` of the caller's warp gave to the exchange just made; fails where no thread gave anything.
uint64_t kif_exchanged(unsigned lane);
bool kif_gave(unsigned lane);
unsigned kif_lane();

inline void __syncwarp(unsigned mask = 0xffffffffu) { kif_exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T kif_shuffle(unsigned mask, T value, int lane_from, bool inside) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    kif_exchange(mask, bits);
    if (!inside) return value;
    bits = kif_exchanged((unsigned)lane_from);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    int lane = (int)kif_lane(), from = lane ^ lane_mask;
    return kif_shuffle(mask, value, from, from < (lane / width + 1) * width);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = (int)kif_lane(), from = lane + (int)delta;
    return kif_shuffle(mask, value, from, from < (lane / width + 1) * width);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = (int)kif_lane(), from = lane - (int)delta;
    return kif_shuffle(mask, value, from, from >= lane / width * width);
}
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    int lane = (int)kif_lane();
    return kif_shuffle(mask, value, lane / width * width + (from & (width - 1)), true);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    kif_exchange(mask, predicate != 0);
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1) && kif_gave(lane) && kif_exchanged(lane)) ballot |= 1u << lane;
    return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// The grid runs on one thread of the host, so a plain sum is atomic.
template <class T, class U> T atomicAdd(T *at, U value) {
    T old = *at;
    *at = old + (T)value;
    return old;
}
template <class T, class U> T atomicMax(T *at, U value) {
    T old = *at;
    *at = old < (T)value ? (T)value : old;
    return old;
}
template <class T, class U> T atomicMin(T *at, U value) {
    T old = *at;
    *at = (T)value < old ? (T)value : old;
    return old;
}
template <class T, class U> T atomicExch(T *at, U value) {
    T old = *at;
    *at = (T)value;
    return old;
}
template <class T> T atomicCAS(T *at, T expected, T value) {
    T old = *at;
    if (old == expected) *at = value;
    return old;
}

template <class T> T __ldg(const T *at) { return *at; }
template <class To, class From> To kif_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
inline int __float_as_int(float x) { return kif_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return kif_bits<unsigned>(x); }
inline float __int_as_float(int x) { return kif_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return kif_bits<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
// The C library's headers use some of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __exp10f(x) powf(10.0f, x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
