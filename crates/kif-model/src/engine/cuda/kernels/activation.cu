// Activations of feed-forward blocks, element by element.

extern "C" __global__ void relu(u64 n, const float *x, float *y) {
    // Not fmaxf, which would make 0 of NaN.
    FOR_ELEMENTS(i, n) y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

// gx = gy where y > 0.
extern "C" __global__ void relu_backward(u64 n, const float *y, const float *gy, float *gx) {
    FOR_ELEMENTS(i, n) gx[i] = y[i] > 0.0f ? gy[i] : 0.0f;
}

// The tanh form of gelu, and its derivative.
__device__ __forceinline__ float gelu(float x, float *derivative) {
    const float c = 0.7978845608028654f;  // sqrt(2 / pi)
    float t = tanhf(c * (x + 0.044715f * x * x * x));
    *derivative = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * c * (1.0f + 3.0f * 0.044715f * x * x);
    return 0.5f * x * (1.0f + t);
}

// y = gelu(gate) * up
extern "C" __global__ void gated_gelu(u64 n, const float *gate, const float *up, float *y) {
    FOR_ELEMENTS(i, n) {
        float slope;
        y[i] = gelu(gate[i], &slope) * up[i];
    }
}

extern "C" __global__ void gated_gelu_backward(u64 n, const float *gate, const float *up, const float *gy, float *g_gate,
                                               float *g_up) {
    FOR_ELEMENTS(i, n) {
        float slope;
        float y = gelu(gate[i], &slope);
        g_gate[i] = gy[i] * up[i] * slope;
        g_up[i] = gy[i] * y;
    }
}

// y = silu(gate) * up
extern "C" __global__ void gated_silu(u64 n, const float *gate, const float *up, float *y) {
    FOR_ELEMENTS(i, n) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

extern "C" __global__ void gated_silu_backward(u64 n, const float *gate, const float *up, const float *gy, float *g_gate,
                                               float *g_up) {
    FOR_ELEMENTS(i, n) {
        float sigmoid = 1.0f / (1.0f + expf(-gate[i]));
        g_gate[i] = gy[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
        g_up[i] = gy[i] * gate[i] * sigmoid;
    }
}

// x *= a *factor
extern "C" __global__ void scale_by(u64 n, float a, const float *factor, float *x) {
    FOR_ELEMENTS(i, n) x[i] *= a * *factor;
}

// y += a *factor x
extern "C" __global__ void add_scaled(u64 n, float a, const float *factor, const float *x, float *y) {
    FOR_ELEMENTS(i, n) y[i] += a * *factor * x[i];
}
