"""The nearest of a few centroids to each of a few tokens, by sums of squared differences: no origin spoils them.

A product with so few columns leaves BLAS half idle, and LLVM does not find the loop by itself: its sums have to stay in
registers. So the innermost loop is written in vectors, as that of BLAS is.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TILE = 6
"""Tokens: with two registers of 32 bytes for each, or one of 64, their sums leave some of 16 registers free."""
VECTOR = 64
"""Bytes of one component of centroids side by side: 16 of them in float32."""


def _nearest(typingctx, x, start, columns, block, squares, lanes):
    """Find the centroid of a block of `columns` (blocks, r, lanes) that is nearest to each of TILE tokens of x (n, r).

    Of several it is the first. Writes ||x - c||^2 and its lane, int64, into `squares` and `lanes` (TILE,). Arrays are
    C-contiguous, all but `lanes` of one dtype, and long enough: nothing is checked. Component follows component in each
    sum.
    """

    def generate(context, builder, signature, args):
        tokens, centroids, least, places = (
            context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 4, 5)
        )
        _, r = cgutils.unpack_tuple(builder, tokens.shape)
        number, size, width = context.get_data_type(x.dtype), r.type, x.dtype.bitwidth // 8
        count = VECTOR // width
        vector, lane = ir.VectorType(number, count), ir.IntType(32)
        nothing, everywhere = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(lane, count), [0] * count)

        def spread(value):
            return builder.shuffle_vector(builder.insert_element(nothing, value, lane(0)), nothing, everywhere)

        # each is stored and loaded again at every step; LLVM turns that into a register
        totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * count)) for _ in range(TILE)]
        rows = [builder.mul(builder.add(args[1], size(token)), r) for token in range(TILE)]
        with cgutils.for_range(builder, r) as loop:
            component = builder.add(builder.mul(args[3], r), loop.index)
            pointer = builder.gep(centroids.data, [builder.mul(component, size(count))])
            centroid = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=width)
            for row, total in zip(rows, totals, strict=True):
                value = builder.load(builder.gep(tokens.data, [builder.add(row, loop.index)]))
                gap = builder.fsub(spread(value), centroid)
                square = builder.fmul(gap, gap, flags=["contract"])
                builder.store(builder.fadd(builder.load(total), square, flags=["contract"]), total)
        name = f"llvm.vector.reduce.fmin.v{count}f{8 * width}"
        smallest = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [vector]), name)
        for token, total in enumerate(map(builder.load, totals)):  # the first lane that equals the smallest
            value = builder.call(smallest, [total], fastmath=["nnan"])
            equal = builder.bitcast(builder.fcmp_ordered("==", total, spread(value)), ir.IntType(count))
            first = builder.cttz(equal, ir.IntType(1)(0))
            builder.store(value, builder.gep(least.data, [size(token)]))
            builder.store(builder.zext(first, size), builder.gep(places.data, [size(token)]))
        return context.get_dummy_value()

    return types.void(x, types.intp, columns, types.intp, squares, lanes), generate


nearest: Any = intrinsic(_nearest)
