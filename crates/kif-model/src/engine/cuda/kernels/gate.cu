// The gate between A and B of a low-rank part: how much each adapter side by side counts, token by token.

// y[i, c] = hidden[i, c] * weights[rows[i], c / (rank / n_slots)]; y may be hidden.
extern "C" __global__ void gate(u64 n_tokens, u64 rank, u64 n_slots, const float *weights, const u32 *rows,
                                const float *hidden, float *y) {
    FOR_ELEMENTS(i, n_tokens * rank) {
        u64 slot = i % rank / (rank / n_slots);
        y[i] = hidden[i] * weights[(u64)rows[i / rank] * n_slots + slot];
    }
}

// g_weights[ids[g], slot] += the sum over the tokens places[starts[g]..starts[g + 1]] of hidden g_gated in the slot's
// columns. A block for a distinct row of weights, a thread for a slot.
extern "C" __global__ void gate_backward(u64 rank, u64 n_slots, const u32 *ids, const u32 *starts, const u32 *places,
                                         const float *hidden, const float *g_gated, float *g_weights) {
    u32 g = blockIdx.x;
    u64 width = rank / n_slots;
    for (u64 slot = threadIdx.x; slot < n_slots; slot += blockDim.x) {
        float sum = 0.0f;
        for (u32 place = starts[g]; place < starts[g + 1]; place++) {
            u64 first = (u64)places[place] * rank + slot * width;
            for (u64 c = first; c < first + width; c++) sum += hidden[c] * g_gated[c];
        }
        g_weights[(u64)ids[g] * n_slots + slot] += sum;
    }
}
