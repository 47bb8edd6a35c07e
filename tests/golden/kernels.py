"""Writes kernels/conv.safetensors (convolutions, CTC) and kernels/norm.safetensors (batch norm): results of PyTorch in
double precision.

    python tests/golden/kernels.py        (packages: benches/peers/requirements.txt)

Inputs are f32, results f64. The file's metadata names the cases with their parameters; `tests/it/kernels.rs`
computes the same and compares.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(7)
OUT = Path(__file__).parent / "kernels" / "conv.safetensors"
tensors, cases = {}, []


def convolution(name, x, weight, stride, padding, dilation, groups=1):
    """`padding` lists (before, after) for every dimension, as the kernels take it."""
    x, weight = torch.randn(x), torch.randn(weight)
    xd, wd = x.double().requires_grad_(), weight.double().requires_grad_()
    flat = [side for pair in reversed(padding) for side in pair]
    convolve = F.conv1d if len(padding) == 1 else F.conv2d
    y = convolve(F.pad(xd, flat), wd, None, stride, 0, dilation, groups)
    upstream = torch.randn(y.shape)
    (y * upstream).sum().backward()
    values = {"x": x, "weight": weight, "upstream": upstream, "y": y.detach(), "dx": xd.grad, "dweight": wd.grad}
    tensors.update({f"{name}.{key}": value.contiguous() for key, value in values.items()})
    cases.append({"name": name, "kind": f"conv{len(padding)}d", "stride": stride, "padding": padding,
                  "dilation": dilation, "groups": groups})


def ctc(name, frames, labels, lengths, targets, blank):
    logits = 3 * torch.randn(len(targets), frames, labels)
    z = logits.double().requires_grad_()
    padded = torch.tensor([t + [0] * (max(map(len, targets)) - len(t)) for t in targets], dtype=torch.long)
    loss = F.ctc_loss(F.log_softmax(z, 2).transpose(0, 1), padded, torch.tensor(lengths),
                      torch.tensor([len(t) for t in targets]), blank, reduction="none", zero_infinity=True)
    loss.sum().backward()
    tensors.update({f"{name}.logits": logits, f"{name}.loss": loss.detach(), f"{name}.dlogits": z.grad})
    cases.append({"name": name, "kind": "ctc", "frames": lengths, "targets": targets, "blank": blank})


convolution("dense", [2, 5, 37], [33, 5, 11], [1], [(5, 5)], [1])
convolution("dense_odd_length_one_utterance", [1, 17, 41], [9, 17, 25], [1], [(12, 12)], [1])
convolution("dense_stride_2", [1, 6, 34], [7, 6, 11], [2], [(4, 5)], [1])
convolution("dense_dilation_2", [2, 6, 45], [5, 6, 29], [1], [(28, 28)], [2])
convolution("dense_length_1", [1, 3, 1], [4, 3, 11], [1], [(5, 5)], [1])
convolution("pointwise", [3, 40, 33], [35, 40, 1], [1], [(0, 0)], [1])
convolution("pointwise_length_1", [1, 8, 1], [9, 8, 1], [1], [(0, 0)], [1])
convolution("depthwise", [2, 6, 85], [6, 1, 33], [1], [(16, 16)], [1], 6)
convolution("depthwise_stride_2", [1, 4, 51], [4, 1, 11], [2], [(5, 5)], [1], 4)
convolution("depthwise_dilation_2", [1, 4, 70], [4, 1, 29], [1], [(28, 28)], [2], 4)
convolution("depthwise_length_1", [1, 4, 1], [4, 1, 33], [1], [(16, 16)], [1], 4)
convolution("plane_deepspeech_first", [1, 1, 15, 31], [8, 1, 41, 11], [2, 2], [(19, 20), (4, 5)], [1, 1])
convolution("plane_deepspeech_second", [2, 3, 9, 23], [4, 3, 21, 11], [2, 1], [(10, 10), (5, 5)], [1, 1])
convolution("plane_dilation_2", [1, 3, 9, 13], [4, 3, 3, 2], [3, 1], [(1, 0), (0, 3)], [2, 2])
convolution("plane_size_1", [1, 2, 1, 1], [3, 2, 3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1])
ctc("ctc", 30, 29, [30, 25, 30], [[0, 3, 3, 7, 27, 1], [5, 5, 5, 5], list(range(28))], 28)
ctc("ctc_empty_target", 12, 5, [12, 9], [[], [1]], 0)
ctc("ctc_one_frame", 1, 4, [1, 1], [[2], []], 3)
ctc("ctc_impossible", 4, 6, [4, 4], [[1, 1, 1], [1, 2, 3, 4]], 5)



def norm(name, shape, epsilon=1e-3, offset=0.0, counted=None, rectified=None):
    """Statistics over the first `counted` frames of each utterance (all without); with `rectified` lengths, ReLU and 0
    beyond them."""
    batch, channels, frames = shape
    x, gamma, beta = offset + torch.randn(shape), 1 + 0.3 * torch.randn(channels), 0.3 * torch.randn(channels)
    xd, gd, bd = (t.double().requires_grad_() for t in (x, gamma, beta))
    within = lambda lengths: (torch.arange(frames)[None, :] < torch.tensor(lengths)[:, None])[:, None, :].double()
    share = within(counted or [frames] * batch)
    count = share.sum()
    mean = (xd * share).sum((0, 2), keepdim=True) / count
    variance = ((xd - mean).square() * share).sum((0, 2), keepdim=True) / count
    y = (xd - mean) / (variance + epsilon).sqrt() * gd[:, None] + bd[:, None]
    if rectified:
        y = torch.relu(y) * within(rectified)
    if not counted and not rectified:  # PyTorch's own, to hold the formula to
        own = F.batch_norm(xd, None, None, gd, bd, True, 0.1, epsilon)
        assert (own - y).abs().max() < 1e-9
    upstream = torch.randn(shape)
    (y * upstream).sum().backward()
    values = {"x": x, "gamma": gamma, "beta": beta, "upstream": upstream, "y": y.detach(), "mean": mean.detach().flatten(),
              "variance": variance.detach().flatten(), "dx": xd.grad, "dgamma": gd.grad, "dbeta": bd.grad}
    tensors.update({f"{name}.{key}": value.contiguous() for key, value in values.items()})
    cases.append({"name": name, "kind": "norm", "epsilon": epsilon, "counted": counted, "rectified": rectified})


def save(path):
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, {"cases": json.dumps(cases)})
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")
    tensors.clear()
    cases.clear()


save(OUT)
norm("plain", [3, 7, 33])
norm("plain_far_from_zero", [2, 3, 50], offset=100.0)
norm("plain_one_frame_each", [5, 4, 1])
norm("rectified", [3, 7, 33], rectified=[33, 20, 1])
norm("rectified_counted", [3, 5, 37], 1e-5, counted=[37, 30, 2], rectified=[37, 30, 2])
save(OUT.with_name("norm.safetensors"))
