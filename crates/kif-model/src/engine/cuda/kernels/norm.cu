// Root-mean-square normalisation: y = x / rms(x) * gain. A block for a row.

extern "C" __global__ void rms_norm(u64 width, float eps, const float *x, const float *gain, float *y, float *inv_rms) {
    const float *row = x + blockIdx.x * width;
    float squares = 0.0f;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) squares += row[c] * row[c];
    squares = block_sum(squares);
    // A row whose squares overflow has no norm: NaN, not 0.
    float inv = isinf(squares) ? __uint_as_float(0x7fc00000u) : 1.0f / sqrtf(squares / (float)width + eps);
    if (threadIdx.x == 0) inv_rms[blockIdx.x] = inv;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) y[blockIdx.x * width + c] = row[c] * inv * gain[c];
}

// gx += the gradient of x for the gradient gy of y.
extern "C" __global__ void rms_norm_backward(u64 width, const float *x, const float *gain, const float *inv_rms,
                                             const float *gy, float *gx) {
    u64 start = blockIdx.x * width;
    float inv = inv_rms[blockIdx.x];
    float dot = 0.0f;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) dot += x[start + c] * gy[start + c] * gain[c];
    dot = block_sum(dot) / (float)width * inv * inv;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) {
        u64 i = start + c;
        gx[i] += inv * (gy[i] * gain[c] - x[i] * dot);
    }
}

// g_gain[c] += sum over rows of gy x inv_rms. 32 columns a block; blockDim is (32, 8).
extern "C" __global__ void rms_norm_gain_backward(u64 n_rows, u64 width, const float *x, const float *inv_rms,
                                                  const float *gy, float *g_gain) {
    __shared__ float parts[8][32];
    u64 c = (u64)blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < width) {
        for (u64 row = threadIdx.y; row < n_rows; row += 8) sum += gy[row * width + c] * x[row * width + c] * inv_rms[row];
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < width) {
        for (int part = 1; part < 8; part++) sum += parts[part][threadIdx.x];
        g_gain[c] += sum;
    }
}
