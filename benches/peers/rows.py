"""The rows of the table: what both sides compute, and the ratio that ours must not exceed.

Every row is a dictionary that both sides read. `flop` is the arithmetic of one run.
"""

import math


def conv1d(work, batch, inputs, outputs, kernel, frames, limit, groups=1, stride=1, dilation=1):
    both = dilation * (kernel - 1)
    padding = [both // 2, both - both // 2]
    frames_out = (frames + both - both) // stride if stride > 1 else frames
    flop = 2 * batch * outputs * inputs // groups * kernel * frames_out
    return {
        "work": work, "kind": "conv1d", "limit": limit, "flop": 3 * flop,
        "x": [batch, inputs, frames], "weight": [outputs, inputs // groups, kernel],
        "y": [batch, outputs, frames_out],
        "padding": padding, "stride": stride, "dilation": dilation, "groups": groups,
    }


def conv2d(work, batch, inputs, outputs, kernel, size, stride, limit):
    padding = [[(k - 1) // 2, (k - 1) - (k - 1) // 2] for k in kernel]
    size_out = [math.ceil(s / by) for s, by in zip(size, stride)]
    flop = 2 * batch * outputs * inputs * math.prod(kernel) * math.prod(size_out)
    return {
        "work": work, "kind": "conv2d", "limit": limit, "flop": 3 * flop,
        "x": [batch, inputs, *size], "weight": [outputs, inputs, *kernel],
        "y": [batch, outputs, *size_out], "padding": padding, "stride": stride,
    }


def ctc(work, batch, frames, labels, length, limit):
    # Lengths that differ, and targets with repeats: 7 i mod 28 with every tenth label doubled.
    lengths = [length - 3 * b for b in range(batch)]
    label = lambda b, i: (7 * (i - i // 10) + b) % (labels - 1)
    return {
        "work": work, "kind": "ctc", "limit": limit, "flop": None,
        "logits": [batch, frames, labels], "frames": [frames - 7 * b for b in range(batch)],
        "targets": [[label(b, i) for i in range(lengths[b])] for b in range(batch)],
        "blank": labels - 1,
        # PyTorch sums logarithms in f32; ours, in f64, equals its own result in double precision.
        "tolerance": {"dlogits": 2e-3},
    }


ROWS = [
    conv1d("conv 768 k25 [1,768,800]", 1, 768, 768, 25, 800, 1.1),
    conv1d("conv 256 k11 [8,256,800]", 8, 256, 256, 11, 800, 1.0),
    conv1d("conv depthwise 512 k33 [8,512,400]", 8, 512, 512, 33, 400, 0.6, groups=512),
    conv1d("conv pointwise 512 [8,512,400]", 8, 512, 512, 1, 400, 1.1),
    conv2d("conv2d 1x32 11x41/2x2 [8,1,64,800]", 8, 1, 32, [41, 11], [64, 800], [2, 2], 1.0),
    conv2d("conv2d 32x32 11x21/1x2 [8,32,32,400]", 8, 32, 32, [21, 11], [32, 400], [2, 1], 1.0),
    ctc("ctc T400 B8 L100", 8, 400, 29, 100, 1.0),
]
