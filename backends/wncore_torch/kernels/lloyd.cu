// A step of Lloyd's algorithm: squared distances as sums of squares, which cancel nothing, then sums by label.
//
// A block takes a run of points, TILE at a time, beside all centroids in shared memory. A thread measures two points
// against four centroids, which costs two instructions a component and few reads. The points of a tile are then put in
// the order of their labels, and a thread sums up a component of half of them: float32 within a run, each sum in a
// fixed order, and float64 over runs, which the caller adds.
//
// Compiled with VALUE and READ(v), and with TILE = 128 points, THREADS = 256, GROUP = 16 centroids that are measured at
// once, four by each of four neighbouring threads, and TEAMS = 2 of threads that sum up.

#define AHEAD 8 // reads that are under way at once
#define INFINITE __int_as_float(0x7f800000)

// 16 bytes from global to shared memory, on their way while the thread goes on
__device__ void fetch(float* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) lloyd(
    const VALUE* x, const float* centroids, i64* labels, double* parts,
    int n, int r, int k, int run, int row_stride, int column_stride, int aligned) {
    extern __shared__ float shared[];
    const int pitch = (r + 3) / 4 * 4 + 4, clusters = (k + GROUP - 1) / GROUP * GROUP; // rows begin in other banks
    float* points = shared;                   // [TILE][pitch]
    float* centres = points + TILE * pitch;   // [clusters][pitch]; what is no centroid is infinitely far
    float* sums = centres + clusters * pitch; // [TEAMS][k][r]
    float* least = sums + TEAMS * k * r;      // [TILE] squared distances
    int* label = (int*)(least + TILE);        // [TILE]
    int* order = label + TILE;                // [TILE] points by label
    int* held = order + TILE;                 // [k] points of each label
    int* begin = held + k;                    // [k] their first place in the order
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warps = THREADS / 32;
    const int mine = lane % 4, group = lane / 4 + 8 * warp; // measures points group + 64 i, centroids mine + 4 l

    for (int c = warp; c < clusters; c += warps)
        for (int j = lane; j < pitch; j += 32)
            centres[c * pitch + j] = c >= k ? INFINITE : j < r ? centroids[c * r + j] : 0.0f;
    for (int i = thread; i < TILE * pitch; i += THREADS) points[i] = 0.0f;
    for (int i = thread; i < TEAMS * k * r; i += THREADS) sums[i] = 0.0f;
    double inertia = 0;
    int count = 0;

    const i64 start = (i64)blockIdx.x * run, end = min(start + run, (i64)n);
    for (i64 first = start; first < end; first += TILE) {
        const int many = (int)min((i64)TILE, end - first);
        __syncthreads();
        for (int p = warp; p < many; p += warps) {
            const VALUE* row = x + (first + p) * row_stride;
            if (aligned)
                for (int j = 4 * lane; j < r; j += 128) fetch(points + p * pitch + j, row + j);
            else
                for (int j = lane; j < r; j += 32) points[p * pitch + j] = (float)READ(row[(i64)j * column_stride]);
        }
        if (thread < k) held[thread] = 0;
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();

        float best[2] = {INFINITE, INFINITE};
        int which[2] = {0, 0};
        for (int base = 0; base < clusters; base += GROUP) {
            float far[2][4] = {};
#pragma unroll 2
            for (int j = 0; j < pitch - 4; j += 4) {
                float4 p[2], c[4];
#pragma unroll
                for (int i = 0; i < 2; i++) p[i] = *(const float4*)(points + (group + 64 * i) * pitch + j);
#pragma unroll
                for (int l = 0; l < 4; l++) c[l] = *(const float4*)(centres + (base + mine + 4 * l) * pitch + j);
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int l = 0; l < 4; l++) {
                        const float a = p[i].x - c[l].x, b = p[i].y - c[l].y, d = p[i].z - c[l].z, e = p[i].w - c[l].w;
                        far[i][l] = fmaf(a, a, fmaf(b, b, fmaf(d, d, fmaf(e, e, far[i][l]))));
                    }
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int l = 0; l < 4; l++)
                    if (far[i][l] < best[i]) best[i] = far[i][l], which[i] = base + mine + 4 * l;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int other = 1; other < 4; other *= 2) { // ties to the lowest label
                const float theirs = __shfl_xor_sync(0xffffffff, best[i], other);
                const int theirs_is = __shfl_xor_sync(0xffffffff, which[i], other);
                if (theirs < best[i] || (theirs == best[i] && theirs_is < which[i])) best[i] = theirs, which[i] = theirs_is;
            }
            const int p = group + 64 * i;
            if (mine == 0 && p < many) {
                least[p] = best[i], label[p] = which[i], labels[first + p] = which[i];
                atomicAdd(held + which[i], 1);
            }
        }
        __syncthreads();

        if (thread < k) {
            int before = 0;
            for (int c = 0; c < thread; c++) before += held[c];
            begin[thread] = before;
        }
        int rank = 0;
        if (thread < many)
            for (int p = 0; p < thread; p++) rank += label[p] == label[thread];
        __syncthreads();
        if (thread < many) order[begin[label[thread]] + rank] = thread;
        __syncthreads();

        const int team = thread / (THREADS / TEAMS), half = TILE / TEAMS;
        for (int j = thread % (THREADS / TEAMS); j < r; j += THREADS / TEAMS) {
            float* own = sums + team * k * r + j;
            float sum = 0;
            int now = -1;
            for (int s = team * half; s < min((team + 1) * half, many); s += AHEAD) {
                float value[AHEAD];
                int of[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const int p = order[min(s + i, many - 1)];
                    value[i] = points[p * pitch + j], of[i] = label[p];
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
        if (thread < k) {
            for (int s = begin[thread]; s < begin[thread] + held[thread]; s++) inertia += least[order[s]];
            count += held[thread];
        }
    }

    __syncthreads();
    double* part = parts + (i64)blockIdx.x * k * (r + 2);
    for (int i = thread; i < k * r; i += THREADS) part[i] = (double)sums[i] + (double)sums[k * r + i];
    if (thread < k) part[k * r + thread] = count, part[k * (r + 1) + thread] = inertia;
}
