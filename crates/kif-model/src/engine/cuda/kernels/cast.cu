// f32 operands of a product in f16. A tensor is multiplied by a power of two before it is rounded, so that its largest
// value lies well inside f16's range, and the product is divided by it: neither the large hidden states of T5 nor small
// gradients leave the range.

// out = max(out, max |x|) as the bits of a float, which are ordered like the floats themselves. out starts at 0.
extern "C" __global__ void largest(u64 n, const float *x, u32 *out) {
    float most = 0.0f;
    FOR_ELEMENTS(i, n) most = fmaxf(most, fabsf(x[i]));
    most = block_max(most);
    if (threadIdx.x == 0) atomicMax(out, __float_as_uint(most));
}

// y = f16(x * 2^k), with the largest |x 2^k| between 2^13 and 2^14; alpha = factor / 2^k. Zeros and infinities keep k = 0.
extern "C" __global__ void scaled_half(u64 n, const float *x, const u32 *most, float factor, half_bits *y, float *alpha) {
    int exponent = (int)(*most >> 23);  // of a float without sign: 127 for 1
    bool ordinary = exponent > 0 && exponent < 255;
    int k = ordinary ? 127 + 13 - exponent : 0;
    k = k < -120 ? -120 : (k > 120 ? 120 : k);
    float scale = __uint_as_float((u32)(127 + k) << 23);
    if (blockIdx.x == 0 && threadIdx.x == 0) *alpha = factor * __uint_as_float((u32)(127 - k) << 23);
    FOR_ELEMENTS(i, n) y[i] = to_half(x[i] * scale);
}
