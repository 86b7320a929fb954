// What the kernels share. They are compiled at run time, all as one source, and include no header.
//
// Matrices are row-major. Sizes are 64 bits wide: attention scores may be more than 2^31. Sums have a fixed order, so
// that the same launch gives the same bits. Blocks of kernels that reduce are whole warps.

typedef unsigned short half_bits;
typedef unsigned int u32;
typedef unsigned long long u64;

// Where this thread begins and how far it goes in a loop over n elements.
#define FOR_ELEMENTS(i, n)                                             \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); \
         i += (u64)gridDim.x * blockDim.x)

// float to f16, to the nearest, ties to even.
__device__ __forceinline__ half_bits to_half(float x) {
#ifdef KIF_EMULATED
    _Float16 h = (_Float16)x;
    half_bits bits;
    __builtin_memcpy(&bits, &h, sizeof bits);
    return bits;
#else
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#endif
}

__device__ __forceinline__ float from_half(half_bits bits) {
#ifdef KIF_EMULATED
    _Float16 h;
    __builtin_memcpy(&h, &bits, sizeof bits);
    return (float)h;
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#endif
}

// The sum of x over all threads of the block, in all threads.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[32];
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    __syncthreads();  // an earlier reduction may still be read
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
    __syncthreads();
    x = 0.0f;
    for (u32 warp = 0; warp < blockDim.x >> 5; warp++) x += parts[warp];
    return x;
}

// The largest x of the block, in all threads. NaN is passed over.
__device__ __forceinline__ float block_max(float x) {
    __shared__ float parts[32];
    for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
    __syncthreads();
    x = parts[0];
    for (u32 warp = 1; warp < blockDim.x >> 5; warp++) x = fmaxf(x, parts[warp]);
    return x;
}
