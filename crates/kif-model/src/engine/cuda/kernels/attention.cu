// Attention between ragged sequences. Products want rectangles: heads are gathered into [B, H, rows, head_dim], padded with
// zeros, and scattered back.
//
// spans is [4, B]: first query row, number of queries, first key row, number of keys of every sequence.

// out[b, h, i, c] = x[first[b] + i, h / group, c] for i < n[b], and 0 behind. which is 0 for queries and 2 for keys; group query
// heads share a head of keys.
extern "C" __global__ void gather_heads(u64 n_sequences, u64 n_heads, u64 group, u64 n_rows, u64 head_dim, const u32 *spans,
                                        u32 which, const float *x, float *out) {
    FOR_ELEMENTS(at, n_sequences * n_heads * n_rows * head_dim) {
        u64 c = at % head_dim, i = at / head_dim % n_rows, h = at / head_dim / n_rows % n_heads;
        u64 b = at / head_dim / n_rows / n_heads;
        u64 first = spans[which * n_sequences + b], len = spans[(which + 1) * n_sequences + b];
        out[at] = i < len ? x[((first + i) * (n_heads / group) + h / group) * head_dim + c] : 0.0f;
    }
}

// The way back: out[first[b] + i, k, c] = the sum of x[b, h, i, c] over the heads h of group k, for i < n[b].
extern "C" __global__ void scatter_heads(u64 n_sequences, u64 n_heads, u64 group, u64 n_rows, u64 head_dim, const u32 *spans,
                                         u32 which, const float *x, float *out) {
    u64 n_groups = n_heads / group;
    FOR_ELEMENTS(at, n_sequences * n_groups * n_rows * head_dim) {
        u64 c = at % head_dim, i = at / head_dim % n_rows, k = at / head_dim / n_rows % n_groups;
        u64 b = at / head_dim / n_rows / n_groups;
        u64 first = spans[which * n_sequences + b], len = spans[(which + 1) * n_sequences + b];
        if (i >= len) continue;
        float sum = 0.0f;
        for (u64 h = k * group; h < (k + 1) * group; h++) sum += x[((b * n_heads + h) * n_rows + i) * head_dim + c];
        out[((first + i) * n_groups + k) * head_dim + c] = sum;
    }
}

// bias[h, i] = table[buckets[i], h]
extern "C" __global__ void bias_by_distance(u64 n_heads, u64 n_distances, const u32 *buckets, const float *table,
                                            float *bias) {
    FOR_ELEMENTS(at, n_heads * n_distances) bias[at] = table[buckets[at % n_distances] * n_heads + at / n_distances];
}

// Number of keys that query i of a sequence sees.
__device__ __forceinline__ u64 n_visible(u64 i, u64 n_queries, u64 n_keys, u32 causal) {
    if (!causal) return n_keys;
    u64 seen = i + 1 + n_keys;
    return seen > n_queries ? seen - n_queries : 0;
}

// scores[b, h, i, :] = softmax(scores + bias) over the keys that query i sees, and 0 elsewhere. Query i stands at position
// i + n_keys - n_queries; bias is [H, n_distances] with column 0 for min_distance, or null. A block for a row: (i + n_rows b, h).
extern "C" __global__ void softmax_rows(u64 n_sequences, u64 n_rows, u64 n_cols, const u32 *spans, u32 causal, u64 window, const float *bias,
                                        u64 n_distances, long long min_distance, float *scores) {
    u64 i = blockIdx.x % n_rows, b = blockIdx.x / n_rows, h = blockIdx.y, n_heads = gridDim.y;
    float *row = scores + ((b * n_heads + h) * n_rows + i) * n_cols;
    u64 n_queries = spans[n_sequences + b], n_keys = spans[3 * n_sequences + b];
    u64 seen = i < n_queries ? n_visible(i, n_queries, n_keys, causal) : 0;
    u64 first = seen > window ? seen - window : 0;
    const float *columns = bias;
    if (bias) columns = bias + h * n_distances - ((long long)(i + n_keys) - (long long)n_queries) - min_distance;
    float most = -__uint_as_float(0x7f800000u);
    for (u64 j = first + threadIdx.x; j < seen; j += blockDim.x) {
        if (bias) row[j] += columns[j];
        most = fmaxf(most, row[j]);
    }
    most = block_max(most);
    float sum = 0.0f;
    for (u64 j = first + threadIdx.x; j < seen; j += blockDim.x) {
        row[j] = expf(row[j] - most);
        sum += row[j];
    }
    sum = block_sum(sum);
    for (u64 j = threadIdx.x; j < n_cols; j += blockDim.x) row[j] = first <= j && j < seen ? row[j] / sum : 0.0f;
}

// g[row, :] = probs * (g - sum(probs * g)): from the gradient of the probabilities to that of the scores. A block for a row.
extern "C" __global__ void softmax_rows_backward(u64 n_cols, const float *probs, float *g) {
    u64 start = blockIdx.x * n_cols;
    float dot = 0.0f;
    for (u64 j = threadIdx.x; j < n_cols; j += blockDim.x) dot += probs[start + j] * g[start + j];
    dot = block_sum(dot);
    for (u64 j = threadIdx.x; j < n_cols; j += blockDim.x) g[start + j] = probs[start + j] * (g[start + j] - dot);
}

// g_bias[h, d] = the sum of the scores' gradient over all pairs at that distance. A block for a pair (d, h).
extern "C" __global__ void bias_backward(u64 n_sequences, u64 n_rows, u64 n_cols, const u32 *spans, long long min_distance,
                                         const float *g, float *g_bias) {
    u64 d = blockIdx.x, h = blockIdx.y, n_heads = gridDim.y;
    long long distance = (long long)d + min_distance;
    float sum = 0.0f;
    for (u64 at = threadIdx.x; at < n_sequences * n_rows; at += blockDim.x) {
        u64 b = at / n_rows, i = at % n_rows;
        u64 n_queries = spans[n_sequences + b], n_keys = spans[3 * n_sequences + b];
        long long j = (long long)(i + n_keys) - (long long)n_queries + distance;
        if (i < n_queries && j >= 0 && j < (long long)n_keys) sum += g[((b * n_heads + h) * n_rows + i) * n_cols + j];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) g_bias[h * gridDim.x + d] = sum;
}

// g_table[bucket, h] += the sum of g_bias[h, d] over the distances of that bucket.
extern "C" __global__ void bias_table_backward(u64 n_buckets, u64 n_heads, u64 n_distances, const u32 *buckets,
                                               const float *g_bias, float *g_table) {
    FOR_ELEMENTS(at, n_buckets * n_heads) {
        u64 bucket = at / n_heads, h = at % n_heads;
        float sum = 0.0f;
        for (u64 d = 0; d < n_distances; d++) sum += buckets[d] == bucket ? g_bias[h * n_distances + d] : 0.0f;
        g_table[at] += sum;
    }
}
