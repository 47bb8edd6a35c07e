"""The rows of the table: what both sides compute, and the ratio that ours must not exceed.

Every row is a dictionary that both sides read. `flop` is the arithmetic of one run.
"""

import math


def conv1d(work, batch, inputs, outputs, kernel, frames, limit, groups=1, stride=1, dilation=1):
    both = dilation * (kernel - 1)
    padding = [both // 2, both - both // 2]
    frames_out = -(-frames // stride)
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


def bilstm(work, batch, frames, width, layers, limit):
    flop = sum(2 * 2 * batch * frames * 4 * width * (width + (width if layer == 0 else 2 * width))
               for layer in range(layers))
    return {
        "work": work, "kind": "bilstm", "limit": limit, "flop": 3 * flop, "width": width, "layers": layers,
        "x": [batch, frames, width], "y": [batch, frames, 2 * width],
    }


def block(filters, repeat, kernel, **others):
    return {"filters": filters, "repeat": repeat, "kernel": kernel, "separable": True, **others}


def blocks(widths, count, repeat, **others):
    return [block(filters, repeat, kernel, **others) for filters, kernel in widths for _ in range(count)]


JASPER_MINI = {"blocks": [
    block(256, 1, 11, stride=2),
    *blocks([(256, 11), (256, 13), (512, 17), (512, 21), (512, 25)], 2, 3, residual="separable"),
    block(512, 1, 29, dilation=2), block(1024, 1, 1)]}
QUARTZNET = {"blocks": [
    block(256, 1, 33, stride=2),
    *blocks([(256, 33), (256, 39), (512, 51), (512, 63), (512, 75)], 3, 5, residual="pointwise"),
    block(512, 1, 87, dilation=2), block(1024, 1, 1, separable=False)]}
JASPER_DR = {"blocks": [
    block(256, 1, 11, stride=2, separable=False),
    *blocks([(256, 11), (384, 13), (512, 17), (640, 21), (768, 25)], 2, 5, residual="pointwise", dense=True,
            separable=False),
    block(896, 1, 29, dilation=2, separable=False), block(1024, 1, 1, separable=False)]}


def weights_used(network):
    """Values of all convolutions: each makes two FLOP an output frame."""
    inputs, dense, count = 64, [], 29 * network["blocks"][-1]["filters"]
    for b in network["blocks"]:
        filters, kernel, residual = b["filters"], b["kernel"], b.get("residual", "none")
        sources = [inputs]
        if b.get("dense"):
            dense.append(inputs)
            sources = dense
        for channels in sources if residual != "none" else []:
            count += channels * filters + (channels if residual == "separable" else 0)
        for _ in range(b["repeat"]):
            count += inputs * kernel + inputs * filters if b["separable"] else inputs * filters * kernel
            inputs = filters
    return count


# Lengths of a bucket of 16 utterances, in frames of 10 ms: 12.0 to 14.5 s.
BUCKET = [1200 + 17 * (i * 7 % 16) for i in range(16)]


def batch(frames):
    letter = lambda b, i: (11 * i + b * 5 + i * i % 7) % 28
    return {"frames": frames, "padded": -(-max(frames) // 16) * 16,
            "targets": [[letter(b, i) for i in range(f // 7)] for b, f in enumerate(frames)]}


# In f32 a value near zero passes a ReLU or not by its last bits, and 28 layers multiply that: PyTorch's own
# gradients are 1 to 1.6 % of their norm away from its double precision, ours 1.2 to 2 %. Adam's first step
# divides by the gradient's size, so weights inherit it. The loss has no such excuse: 1e-5. DeepSpeech 2 has three
# layers with a ReLU: 0.9 to 1.4e-3 were measured.
STEP = {"jasper": {"gradient": 3e-2, "after": 2e-2}, "deepspeech2": {"gradient": 5e-3, "after": 2e-2}}


def flop_of(network, count, padded):
    """Of a forward pass over `count` utterances of `padded` feature frames."""
    if network == "deepspeech2":
        convolutions = 32 * 41 * 11 * 32 + 32 * 32 * 21 * 11 * 16  # an output frame; 32 and 16 bins
        recurrent = 2 * 3 * 4 * 512 * (512 + 512)
        return 2 * (convolutions + recurrent + 1024 * 256 + 256 * 29) * count * padded // 2
    return 2 * weights_used(network) * count * padded // 2


def step(work, network, objective, limit):
    one = batch(BUCKET)
    kind = {"preset": network} if isinstance(network, str) else {"network": network}
    return {"work": work, "kind": "step", "limit": limit, "flop": 3 * flop_of(network, len(BUCKET), one["padded"]),
            "objective": objective, "learning_rate": 1e-3, "weight_decay": 1e-3, "tolerance": STEP["deepspeech2" if isinstance(network, str) else "jasper"], **kind, **one}


def forward(work, network, frames, limit, limit_mib=None, speech=None):
    """A teacher over batches; `speech` marks the row that a corpus of real speech can take the place of."""
    batches = [{key: batch(frames)[key] for key in ("frames", "padded")}]
    return {"work": work, "kind": "forward", "limit": limit, "limit_mib": limit_mib, "network": network,
            "flop": forward_flop(network, batches), "batches": batches, "speech": speech}


def forward_flop(network, batches):
    return sum(flop_of(network, len(b["frames"]), b["padded"]) for b in batches)


ROWS = [
    conv1d("conv 768 k25 [1,768,800]", 1, 768, 768, 25, 800, 1.1),
    conv1d("conv 256 k11 [8,256,800]", 8, 256, 256, 11, 800, 1.0),
    conv1d("conv depthwise 512 k33 [8,512,400]", 8, 512, 512, 33, 400, 0.6, groups=512),
    conv1d("conv pointwise 512 [8,512,400]", 8, 512, 512, 1, 400, 1.1),
    conv2d("conv2d 1x32 11x41/2x2 [8,1,64,800]", 8, 1, 32, [41, 11], [64, 800], [2, 2], 1.0),
    conv2d("conv2d 32x32 11x21/1x2 [8,32,32,400]", 8, 32, 32, [21, 11], [32, 400], [2, 1], 1.0),
    ctc("ctc T400 B8 L100", 8, 400, 29, 100, 1.0),
    bilstm("bilstm 3x512 [8,400,512]", 8, 400, 512, 3, 1.2),
    step("step jasper-mini ctc+skd, 16 utterances", JASPER_MINI, "ctc+skd", 1.0),
    step("step jasper-mini rkd, 16 utterances", JASPER_MINI, "rkd", 1.0),
    step("step deepspeech2 ctc+skd, 16 utterances", "deepspeech2", "ctc+skd", 1.2),
    forward("forward quartznet15x5", QUARTZNET, BUCKET, 0.9, speech=True),
    forward("forward jasper-dr-10x5, 60 s", JASPER_DR, [6000], 1.1, 3 * 1024),
]
