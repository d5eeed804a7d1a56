// Histograms of neurons' outputs: counts, sums of heights above the left edge, power sums; one read of the outputs.
//
// A block counts NEURONS neurons, with their edges and bins in shared memory; a thread stays with one neuron. Floats
// added by many threads at once would round in another order each time, so a height is kept as an integer, 51 bits of
// the bin's width, in three limbs of 17 bits: sums of up to 2^15 of them fit into 32 bits, whatever the order. The
// tails, which have no width, and the powers are summed thread by thread, then over threads in a fixed order.
//
// Compiled with VALUE (unsigned short, float or double: how a number is stored), READ(v), THREADS, NEURONS (a
// power of 2), and CELLS: a neuron's guide table has so many cells, which divide the middle of its edges evenly and know
// the first edge in each. All is added to what counts, sums and powers hold.

#define LIMB 17
#define LIMB_MASK ((1u << LIMB) - 1)
#define ROUND 32000  // tokens of a neuron between two emptyings of the limbs
#define AHEAD 8      // reads that are under way at once
#define LANES (THREADS / NEURONS)

// 2^51 over the power of two above the width, and what one unit of such a height is worth
__device__ double fine(double width) {
    i64 exponent = (__double_as_longlong(width) >> 52) & 0x7ff;
    i64 field = 2096 - exponent;
    return __longlong_as_double((field > 2046 ? 2046 : field) << 52);
}

// the nearest integer to 0 <= x <= 2^51: with 2^52 added, the fraction of a double holds it
__device__ u64 rounded(double x) {
    return (u64)__double_as_longlong(x + 4503599627370496.0) & ((1ull << 52) - 1);
}

extern "C" __global__ void __launch_bounds__(THREADS) histogram(
    const VALUE* y, const double* edges, const double* bias, const i64* starts, i64* counts, double* sums, double* powers,
    int n, int m, int bins, int row_stride, int column_stride, int has_bias, int has_starts) {
    extern __shared__ double shared[];
    const int neuron = threadIdx.x % NEURONS, lane = threadIdx.x / NEURONS;
    const int column = blockIdx.x * NEURONS + neuron, here = min(column, m - 1);
    const int slots = bins * NEURONS;
    double* edge = shared;                                        // [bins + 1][NEURONS]
    unsigned* count = (unsigned*)(edge + slots + NEURONS);        // [bins][NEURONS]
    unsigned* limbs = count + slots;                              // three of [bins][NEURONS]
    unsigned short* guide = (unsigned short*)(limbs + 3 * slots); // [CELLS + 1][NEURONS]

    for (int j = lane; j <= bins; j += LANES) edge[j * NEURONS + neuron] = edges[(i64)here * (bins + 1) + j];
    for (int i = threadIdx.x; i < 4 * slots; i += THREADS) count[i] = 0;
    __syncthreads();

    // the guide table: how many edges lie at or below the start of each cell
#define EDGE(j) edge[(j) * NEURONS + neuron]
    const int skipped = bins / 32;
    const double low = EDGE(skipped), high = EDGE(bins - skipped);
    const double per_cell = high > low ? (high - low) / CELLS : 1.0, cells = 1.0 / per_cell;
    for (int c = lane; c <= CELLS; c += LANES) {
        double start = low + c * per_cell;
        int first = 0, last = bins + 1;  // edges below first are <= start, from last on they are not
        while (first < last) {
            int middle = (first + last) / 2;
            if (EDGE(middle) <= start) first = middle + 1; else last = middle;
        }
        guide[c * NEURONS + neuron] = first;
    }
    __syncthreads();

    const double lowest = EDGE(0), highest = EDGE(bins), centre = EDGE((bins + 1) / 2), per_unit = 1.0 / (highest - lowest);
    const double shift = has_bias ? bias[here] : 0.0;
    const VALUE* values = y + (i64)here * column_stride;
    const i64 step = (i64)LANES * row_stride;
    double p1 = 0, p2 = 0, p3 = 0, p4 = 0, below = 0, above = 0;
    i64 many_below = 0, many_above = 0;
    // this block's share of the tokens
    const i64 from = has_starts ? starts[blockIdx.y] : (i64)n * blockIdx.y / gridDim.y;
    const i64 upto = has_starts ? starts[blockIdx.y + 1] : (i64)n * (blockIdx.y + 1) / gridDim.y;
    const i64 out = ((i64)blockIdx.y * m + here) * (bins + 2);

    for (i64 start = from; start < upto; start += ROUND) {
        const int tokens = (int)min((i64)ROUND, upto - start);
        const VALUE* next = values + (start + lane) * row_stride;
        for (int token = lane; token < tokens && column < m; token += AHEAD * LANES, next += AHEAD * step) {
            double read[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) read[k] = token + k * LANES < tokens ? (double)READ(next[k * step]) : 0.0;
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                if (token + k * LANES >= tokens) break;
                const double v = read[k] + shift;
                const double t = (v - centre) * per_unit, tt = t * t;
                p1 += t; p2 += tt; p3 += tt * t; p4 += tt * tt;
                if (v <= lowest) { below += v - lowest; many_below++; continue; }
                if (v > highest) { above += v - highest; many_above++; continue; }
                int right;  // the first edge that is not below v
                const double place = (v - low) * cells;
                if (place >= 0 && place < CELLS) {
                    right = guide[(int)place * NEURONS + neuron];
                } else {
                    int last = bins;
                    right = 1;
                    while (right < last) {
                        int middle = (right + last) / 2;
                        if (EDGE(middle) < v) right = middle + 1; else last = middle;
                    }
                }
                double under = EDGE(right - 1), over = EDGE(right);
                while (under >= v) { over = under; under = EDGE(--right - 1); }
                while (over < v) { under = over; over = EDGE(++right); }
                const u64 height = rounded((v - under) * fine(over - under));
                unsigned* slot = count + (right - 1) * NEURONS + neuron;
                atomicAdd(slot, 1u);
                atomicAdd(slot + slots, (unsigned)height & LIMB_MASK);
                atomicAdd(slot + 2 * slots, (unsigned)(height >> LIMB) & LIMB_MASK);
                atomicAdd(slot + 3 * slots, (unsigned)(height >> 2 * LIMB));
            }
        }
        __syncthreads();
        for (int j = lane; j < bins && column < m; j += LANES) {
            unsigned* slot = count + j * NEURONS + neuron;
            const double low_limbs = (double)(slot[slots] + ((u64)slot[2 * slots] << LIMB));
            const double units = low_limbs + (double)slot[3 * slots] * (double)(1ull << 2 * LIMB);
            counts[out + j + 1] += slot[0];
            sums[out + j + 1] += units / fine(EDGE(j + 1) - EDGE(j));
            slot[0] = slot[slots] = slot[2 * slots] = slot[3 * slots] = 0;
        }
        __syncthreads();
    }

    // what each thread has summed on its own, over the threads of a neuron in a fixed order
    double own[8] = {p1, p2, p3, p4, below, above, (double)many_below, (double)many_above};
    double* scratch = shared;  // [THREADS]
    for (int k = 0; k < 8; k++) {
        __syncthreads();
        scratch[threadIdx.x] = own[k];
        for (int half = THREADS / 2; half >= NEURONS; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        }
        own[k] = scratch[neuron];
    }
    if (lane == 0 && column < m) {
        double* power = powers + ((i64)blockIdx.y * m + here) * 4;
        for (int k = 0; k < 4; k++) power[k] += own[k];
        sums[out] += own[4];
        sums[out + bins + 1] += own[5];
        counts[out] += (i64)own[6];
        counts[out + bins + 1] += (i64)own[7];
    }
}
