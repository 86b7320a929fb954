// Losses of rows of logits, each with its gradient in the place of the logits. A block for a row.

// log(sum(exp(row)))
__device__ __forceinline__ float log_sum_exp(u64 n, const float *row) {
    float most = -__uint_as_float(0x7f800000u);
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) most = fmaxf(most, row[i]);
    most = block_max(most);
    float sum = 0.0f;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) sum += expf(row[i] - most);
    return most + logf(block_sum(sum));
}

// losses[row] = -log softmax(logits)[target]; logits becomes softmax(logits) - onehot(target) if with_gradient.
extern "C" __global__ void cross_entropy(u64 vocab, u32 with_gradient, const u32 *targets, float *logits, float *losses) {
    float *row = logits + blockIdx.x * vocab;
    u32 target = targets[blockIdx.x];
    float log_sum = log_sum_exp(vocab, row);
    if (threadIdx.x == 0) losses[blockIdx.x] = log_sum - row[target];
    if (!with_gradient) return;
    __syncthreads();  // the target's logit has been read
    for (u64 i = threadIdx.x; i < vocab; i += blockDim.x) row[i] = expf(row[i] - log_sum) - (i == target ? 1.0f : 0.0f);
}

// losses[row] = KL(q || softmax(logits)) for log q = log_q; logits becomes softmax(logits) - q.
extern "C" __global__ void divergence(u64 vocab, const float *log_q, float *logits, float *losses) {
    float *row = logits + blockIdx.x * vocab;
    const float *log_q_row = log_q + blockIdx.x * vocab;
    float log_sum = log_sum_exp(vocab, row);
    float sum = 0.0f;
    for (u64 i = threadIdx.x; i < vocab; i += blockDim.x) {
        float log_p = row[i] - log_sum, q = expf(log_q_row[i]);
        // Where q is 0 its logarithm may be -inf.
        if (q > 0.0f) sum += q * (log_q_row[i] - log_p);
        row[i] = expf(log_p) - q;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}
