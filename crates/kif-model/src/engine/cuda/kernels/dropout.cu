// Inverted dropout whose mask is a function of key, stream and place alone: value i is dropped where the i-th 16-bit draw
// of the ChaCha8 stream lies below threshold. The CPU draws the same.

struct Key {
    u32 words[8];
};

#define QUARTER(a, b, c, d)                     \
    a += b; d ^= a; d = (d << 16) | (d >> 16);  \
    c += d; b ^= c; b = (b << 12) | (b >> 20);  \
    a += b; d ^= a; d = (d << 8) | (d >> 24);   \
    c += d; b ^= c; b = (b << 7) | (b >> 25);

// The 16 words of one block of the stream.
__device__ __forceinline__ void chacha8(const Key &key, u64 block, u64 stream, u32 *out) {
    u32 start[16] = {0x61707865u,  0x3320646eu,  0x79622d32u,  0x6b206574u,         key.words[0],          key.words[1],
                     key.words[2], key.words[3], key.words[4], key.words[5],        key.words[6],          key.words[7],
                     (u32)block,   (u32)(block >> 32), (u32)stream, (u32)(stream >> 32)};
    u32 x[16];
    for (int i = 0; i < 16; i++) x[i] = start[i];
    for (int round = 0; round < 4; round++) {
        QUARTER(x[0], x[4], x[8], x[12])
        QUARTER(x[1], x[5], x[9], x[13])
        QUARTER(x[2], x[6], x[10], x[14])
        QUARTER(x[3], x[7], x[11], x[15])
        QUARTER(x[0], x[5], x[10], x[15])
        QUARTER(x[1], x[6], x[11], x[12])
        QUARTER(x[2], x[7], x[8], x[13])
        QUARTER(x[3], x[4], x[9], x[14])
    }
    for (int i = 0; i < 16; i++) out[i] = x[i] + start[i];
}

// y = x mask, or y += x mask; the mask is 0 or kept. Blocks of 64 threads: each draws 32 values for its block of 2048.
extern "C" __global__ void dropout(u64 n, u32 k0, u32 k1, u32 k2, u32 k3, u32 k4, u32 k5, u32 k6, u32 k7, u64 stream,
                                   u32 threshold, float kept, u32 add, const float *x, float *y) {
    __shared__ u32 words[64][17];  // a column more than words: threads of a warp write to different banks
    Key key = {{k0, k1, k2, k3, k4, k5, k6, k7}};
    chacha8(key, (u64)blockIdx.x * 64 + threadIdx.x, stream, words[threadIdx.x]);
    __syncthreads();
    u64 first = (u64)blockIdx.x * 2048;
    for (u32 i = threadIdx.x; i < 2048 && first + i < n; i += blockDim.x) {
        u32 word = words[i / 32][i / 2 % 16];
        u32 draw = i % 2 ? word >> 16 : word & 0xffffu;
        float value = x[first + i] * (draw < threshold ? 0.0f : kept);
        y[first + i] = add ? y[first + i] + value : value;
    }
}
