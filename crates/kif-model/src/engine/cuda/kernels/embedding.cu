// Rows of tables.

// y[i] = table[ids[i]], and more[ids[i] - n_ids] for ids from n_ids on. more may be null where there are none.
extern "C" __global__ void embed(u64 n, u64 width, u32 n_ids, const float *table, const float *more, const u32 *ids,
                                 float *y) {
    FOR_ELEMENTS(i, n * width) {
        u32 id = ids[i / width];
        const float *row = id < n_ids ? table + (u64)id * width : more + (u64)(id - n_ids) * width;
        y[i] = row[i % width];
    }
}

// The same from a table in f16.
extern "C" __global__ void embed_half(u64 n, u64 width, u32 n_ids, const half_bits *table, const float *more,
                                      const u32 *ids, float *y) {
    FOR_ELEMENTS(i, n * width) {
        u32 id = ids[i / width];
        y[i] = id < n_ids ? from_half(table[(u64)id * width + i % width]) : more[(u64)(id - n_ids) * width + i % width];
    }
}

// g_table[ids[g]] += the sum of the rows places[starts[g]..starts[g + 1]] of gy. A block for a distinct id, so that every
// row is added in order.
extern "C" __global__ void embed_backward(u64 width, const u32 *ids, const u32 *starts, const u32 *places, const float *gy,
                                          float *g_table) {
    u32 g = blockIdx.x;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = 0.0f;
        for (u32 place = starts[g]; place < starts[g + 1]; place++) sum += gy[(u64)places[place] * width + c];
        g_table[(u64)ids[g] * width + c] += sum;
    }
}
