#define ROW_SUM(name, BARRIER)                                                                                         \
    extern "C" __global__ void name(const int n_cols, const float *x, float *sums) {                                   \
        __shared__ float part[256];                                                                                    \
        float mine = 0.0f;                                                                                             \
        for (int i = threadIdx.x; i < n_cols; i += blockDim.x) mine += x[blockIdx.x * n_cols + i];                     \
        part[threadIdx.x] = mine;                                                                                      \
        BARRIER;                                                                                                       \
        for (int width = blockDim.x / 2; width > 0; width /= 2) {                                                      \
            if (threadIdx.x < width) part[threadIdx.x] += part[threadIdx.x + width];                                   \
            BARRIER;                                                                                                   \
        }                                                                                                              \
        if (threadIdx.x == 0) sums[blockIdx.x] = part[0];                                                              \
    }
ROW_SUM(row_sum, __syncthreads())
// The same without barriers, which must show.
ROW_SUM(row_sum_wrong, )

// Shuffles inside warps, shared memory of run-time size between them, and an atomic sum over blocks.
extern "C" __global__ void __launch_bounds__(256) sum_all(const int n, const float *x, float *sum) {
    extern __shared__ float of_warp[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = warp_sum(i < n ? x[i] : 0.0f);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = warp_sum(threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0.0f);
        if (threadIdx.x == 0) atomicAdd(sum, value);
    }
}

// Half of the threads leave before the barrier.
extern "C" __global__ void leaves_early(float *out) {
    if (threadIdx.x >= blockDim.x / 2) return;
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}

extern "C" __global__ void writes_outside(const int n, float *out) { out[n] = 1.0f; }
