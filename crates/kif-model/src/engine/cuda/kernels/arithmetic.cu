// Sums and multiples, element by element.

extern "C" __global__ void add(u64 n, const float *a, const float *b, float *y) {
    FOR_ELEMENTS(i, n) y[i] = a[i] + b[i];
}

extern "C" __global__ void scale(u64 n, float factor, const float *x, float *y) {
    FOR_ELEMENTS(i, n) y[i] = factor * x[i];
}
