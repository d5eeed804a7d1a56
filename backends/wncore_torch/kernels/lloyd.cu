// A step of Lloyd's algorithm: labels by products with the centroids, squares of differences, sums by label.
//
// A block takes a run of points, TILE at a time, beside the centroids of one start in shared memory. A warp multiplies
// 16 points with GROUP centroids on tensor cores, both seen from amid the centroids, |c|^2 - 2 x'c: each factor is cut
// into two parts of 11 bits, of whose products three are added up, which is as good as float32. What a point adds to the
// inertia is a sum of squared differences, which cancels nothing. The points of a tile are then put in the order of
// their labels, and a thread sums up a component: float32 within a run, each sum in a fixed order, and float64 over
// runs, which the caller adds.
//
// Compiled with VALUE and READ(v), and with WARPS of 16 points each, TEAMS of threads that sum up a part of the tile
// each, and BLOCKS that share a multiprocessor.

#define THREADS (32 * WARPS)
#define TILE (16 * WARPS)
#define GROUP 16 // centroids that are measured at once
#define AHEAD 8  // reads that are under way at once
#define INFINITE __int_as_float(0x7f800000)
#define EVERYONE 0xffffffffu

// 16 bytes from global to shared memory, on their way while the thread goes on
__device__ void fetch(float* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from));
}

// a number as the sum of two of 11 bits, but for its last two bits
struct Halves {
    unsigned high, low;
    __device__ Halves(float v) {
        high = __float_as_uint(v) & 0xffffe000u;
        low = __float_as_uint(v - __uint_as_float(high));
    }
};

// 16 x 8 times 8 x 8: the tensor core's own layout of rows and columns over the threads of a warp
__device__ void multiply(float* sum, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) lloyd(
    const VALUE* x, const float* centroids, const float* middles, i64* labels, double* parts,
    int n, int r, int k, int starts, int run, int row_stride, int column_stride, int aligned) {
    extern __shared__ float shared[];
    const int pitch = (r + 7) / 8 * 8 + 4, clusters = (k + GROUP - 1) / GROUP * GROUP; // rows begin in other banks
    float* points = shared;                       // [TILE][pitch]
    float* centres = points + TILE * pitch;       // [clusters][pitch]
    float* middle = centres + clusters * pitch;   // [pitch]
    float* norms = middle + pitch;                // [clusters]; what is no centroid is infinitely far
    float* sums = norms + clusters;               // [TEAMS][k][r]
    float* inertia = sums + TEAMS * k * r;        // [k]
    float* least = inertia + k;                   // [TILE] squared distances
    int* order = (int*)(least + TILE);            // [TILE] points by label, which is in the upper half
    int* begin = order + TILE;                    // [k + 1] first place of each label in the order
    int* count = begin + k + 1;                   // [k] of the run
    int* seen = count + k;                        // [WARPS][k] points of each label in each warp's 16
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int row = lane / 4, column = lane % 4; // the place in a tensor core's layout

    const i64 start = blockIdx.x % starts, part = blockIdx.x / starts;
    centroids += start * k * r, middles += start * r, labels += start * n;
    for (int j = thread; j < pitch; j += THREADS) middle[j] = j < r ? middles[j] : 0.0f;
    for (int c = warp; c < clusters; c += WARPS) {
        float norm = 0;
        for (int j = lane; j < pitch; j += 32) {
            const float v = c < k && j < r ? centroids[c * r + j] : 0.0f, away = c < k && j < r ? v - middles[j] : 0.0f;
            centres[c * pitch + j] = v, norm = fmaf(away, away, norm);
        }
        for (int other = 16; other > 0; other /= 2) norm += __shfl_xor_sync(EVERYONE, norm, other);
        if (lane == 0) norms[c] = c < k ? norm : INFINITE;
    }
    for (int i = thread; i < TILE * pitch; i += THREADS) points[i] = 0.0f;
    for (int i = thread; i < TEAMS * k * r; i += THREADS) sums[i] = 0.0f;
    for (int c = thread; c < k; c += THREADS) inertia[c] = 0, count[c] = 0;

    const i64 begins = part * run, ends = min(begins + run, (i64)n);
    for (i64 first = begins; first < ends; first += TILE) {
        const int many = (int)min((i64)TILE, ends - first);
        __syncthreads();
        for (int p = warp; p < many; p += WARPS) {
            const VALUE* from = x + (first + p) * row_stride;
            if (aligned)
                for (int j = 4 * lane; j < r; j += 128) fetch(points + p * pitch + j, from + j);
            else
                for (int j = lane; j < r; j += 32) points[p * pitch + j] = (float)READ(from[(i64)j * column_stride]);
        }
        for (int i = thread; i < WARPS * k; i += THREADS) seen[i] = 0;
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();

        const int top = 16 * warp + row;
        const float *upper = points + top * pitch + column, *lower = upper + 8 * pitch;
        float best[2] = {INFINITE, INFINITE};
        int which[2] = {0, 0};
        for (int base = 0; base < clusters; base += GROUP) {
            float small[2][2][4] = {}, large[2][4] = {}; // apart, so that no product waits for the one before
            const float *left = centres + (base + row) * pitch + column, *right = left + 8 * pitch;
#pragma unroll 4
            for (int j = 0; j < pitch - 4; j += 8) {
                const float near = middle[column + j], far = middle[column + j + 4];
                const Halves a0(upper[j] - near), a1(lower[j] - near), a2(upper[j + 4] - far), a3(lower[j + 4] - far);
                const Halves l0(left[j] - near), l1(left[j + 4] - far), r0(right[j] - near), r1(right[j + 4] - far);
                multiply(small[0][0], a0.low, a1.low, a2.low, a3.low, l0.high, l1.high);
                multiply(small[0][1], a0.low, a1.low, a2.low, a3.low, r0.high, r1.high);
                multiply(small[1][0], a0.high, a1.high, a2.high, a3.high, l0.low, l1.low);
                multiply(small[1][1], a0.high, a1.high, a2.high, a3.high, r0.low, r1.low);
                multiply(large[0], a0.high, a1.high, a2.high, a3.high, l0.high, l1.high);
                multiply(large[1], a0.high, a1.high, a2.high, a3.high, r0.high, r1.high);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) { // two rows by two centroids of either half
                const int half = i / 4, c = base + 8 * half + 2 * column + i % 2, point = i / 2 % 2;
                const float dot = large[half][i % 4] + (small[0][half][i % 4] + small[1][half][i % 4]);
                const float gap = fmaf(-2.0f, dot, norms[c]);
                if (gap < best[point]) best[point] = gap, which[point] = c;
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int other = 1; other < 4; other *= 2) { // ties to the lowest label
                const float theirs = __shfl_xor_sync(EVERYONE, best[i], other);
                const int theirs_is = __shfl_xor_sync(EVERYONE, which[i], other);
                if (theirs < best[i] || (theirs == best[i] && theirs_is < which[i])) best[i] = theirs, which[i] = theirs_is;
            }
        float squares[2] = {};
        const float *one = centres + which[0] * pitch + column, *two = centres + which[1] * pitch + column;
#pragma unroll 4
        for (int j = 0; j < pitch - 4; j += 4) {
            const float gap = upper[j] - one[j], other = lower[j] - two[j];
            squares[0] = fmaf(gap, gap, squares[0]), squares[1] = fmaf(other, other, squares[1]);
        }
#pragma unroll
        for (int other = 1; other < 4; other *= 2)
            squares[0] += __shfl_xor_sync(EVERYONE, squares[0], other), squares[1] += __shfl_xor_sync(EVERYONE, squares[1], other);
        // the threads of column 0 speak for the upper points of their row, those of column 1 for the lower
        const int mine = top + 8 * column;
        const bool speaks = column < 2 && mine < many;
        const int chosen = !speaks ? -1 : column ? which[1] : which[0];
        if (speaks) least[mine] = column ? squares[1] : squares[0], labels[first + mine] = chosen;
        const unsigned same = __match_any_sync(EVERYONE, chosen), before = same & ((1u << lane) - 1);
        if (speaks && !before) seen[warp * k + chosen] = __popc(same);
        __syncthreads();

        for (int c = thread; c < k; c += THREADS) {
            int total = 0;
            for (int w = 0; w < WARPS; w++) total += seen[w * k + c];
            begin[c + 1] = total, count[c] += total;
        }
        __syncthreads();
        if (warp == 0) { // where each label begins
            int past = 0;
            for (int c = lane; c - lane < k; c += 32) {
                int upto = c < k ? begin[c + 1] : 0;
                for (int other = 1; other < 32; other *= 2) {
                    const int theirs = __shfl_up_sync(EVERYONE, upto, other);
                    if (lane >= other) upto += theirs;
                }
                if (c < k) begin[c + 1] = past + upto;
                past += __shfl_sync(EVERYONE, upto, 31);
            }
            if (lane == 0) begin[0] = 0;
        }
        __syncthreads();
        if (speaks) {
            int place = begin[chosen] + __popc(before);
            for (int w = 0; w < warp; w++) place += seen[w * k + chosen];
            order[place] = mine | chosen << 16;
        }
        __syncthreads();

        const int team = thread / (THREADS / TEAMS), share = TILE / TEAMS;
        for (int j = thread % (THREADS / TEAMS); j < r; j += THREADS / TEAMS) {
            float* own = sums + team * k * r + j;
            float sum = 0;
            int now = -1;
            for (int s = team * share; s < min((team + 1) * share, many); s += AHEAD) {
                float value[AHEAD];
                int of[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const int p = order[min(s + i, many - 1)];
                    value[i] = points[(p & 0xffff) * pitch + j], of[i] = p >> 16;
                }
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    if (s + i >= many) break;
                    if (of[i] != now) {
                        if (now >= 0) own[now * r] += sum;
                        now = of[i], sum = 0;
                    }
                    sum += value[i];
                }
            }
            if (now >= 0) own[now * r] += sum;
        }
        for (int c = warp; c < k; c += WARPS) {
            float sum = 0;
            for (int s = begin[c] + lane; s < begin[c + 1]; s += 32) sum += least[order[s] & 0xffff];
            for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(EVERYONE, sum, other);
            if (lane == 0) inertia[c] += sum;
        }
    }

    __syncthreads();
    double* out = parts + (start * (gridDim.x / starts) + part) * k * (r + 2);
    for (int i = thread; i < k * r; i += THREADS) {
        double sum = sums[i];
        for (int team = 1; team < TEAMS; team++) sum += (double)sums[team * k * r + i];
        out[i] = sum;
    }
    for (int c = thread; c < k; c += THREADS) out[k * r + c] = count[c], out[k * (r + 1) + c] = inertia[c];
}
