// Whole rows: biases, rotations, choices.

// y = x + bias in every row.
extern "C" __global__ void add_bias(u64 n, u64 width, const float *bias, const float *x, float *y) {
    FOR_ELEMENTS(i, n) y[i] = x[i] + bias[i % width];
}

// sums[c] += the sum of column c of x. 32 columns a block; blockDim is (32, 8).
extern "C" __global__ void add_column_sums(u64 n_rows, u64 width, const float *x, float *sums) {
    __shared__ float parts[8][32];
    u64 c = (u64)blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < width) {
        for (u64 row = threadIdx.y; row < n_rows; row += 8) sum += x[row * width + c];
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < width) {
        for (int part = 1; part < 8; part++) sum += parts[part][threadIdx.x];
        sums[c] += sum;
    }
}

// Rotary position embedding: every pair (x[i], x[i + half]) of a head turned by the angle i of its row, whose cosine and sine
// are [n_rows, half]; turned back for direction -1.
extern "C" __global__ void rotate(u64 n_rows, u64 width, u64 half, float direction, const float *cos, const float *sin,
                                  const float *x, float *y) {
    FOR_ELEMENTS(at, n_rows * width / 2) {
        u64 row = at / (width / 2), pair = at % (width / 2), head = pair / half, i = pair % half;
        u64 first = row * width + head * 2 * half + i, second = first + half;
        float c = cos[row * half + i], s = direction * sin[row * half + i];
        float a = x[first], b = x[second];
        y[first] = a * c - b * s;
        y[second] = b * c + a * s;
    }
}

// y[rows[i]] = x[i]; every row at most once.
extern "C" __global__ void put_rows(u64 n, u64 width, const u32 *rows, const float *x, float *y) {
    FOR_ELEMENTS(i, n * width) y[(u64)rows[i / width] * width + i % width] = x[i];
}
