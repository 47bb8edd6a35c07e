"""Writes lstm.safetensors: LSTM layers over padded batches in PyTorch, computed in double precision.

    pip install torch numpy safetensors
    python tests/golden/lstm/make.py

Weights, inputs and the gradient of the output (`dy`) are f32; what PyTorch computes from them in f64
is rounded to f32 once. Two directions, concatenated; every utterance packed by its own length.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# name: frames, lengths, in, hidden
CASES = {
    "odd": (7, [7, 4, 1], 5, 6),
    "single": (1, [1], 3, 19),
    "alone": (13, [13], 33, 7),
    "short": (11, [5, 9], 20, 24),
    "wide": (10, [3, 10, 8, 8, 1, 2, 9, 10, 7], 40, 17),
}


def case(name, frames, lengths, inputs, hidden, out):
    torch.manual_seed(len(name) + frames)
    lstm = torch.nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
    lstm.bias_hh_l0.data.zero_()
    lstm.bias_hh_l0_reverse.data.zero_()
    x = torch.randn(len(lengths), frames, inputs)
    dy = torch.randn(len(lengths), frames, 2 * hidden)
    tensors = {"x": x, "dy": dy, "lengths": torch.tensor(lengths, dtype=torch.int32)}
    names = {"weight_ih_l0": "input", "weight_hh_l0": "recurrent", "bias_ih_l0": "bias"}
    for suffix, direction in (("", "forward"), ("_reverse", "reverse")):
        for theirs, ours in names.items():
            tensors[f"{direction}.{ours}"] = getattr(lstm, theirs + suffix).detach().clone()
    lstm = lstm.double()
    x = x.double().requires_grad_()
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=frames)
    (y * dy.double()).sum().backward()
    tensors |= {"y": y.detach().float(), "dx": x.grad.float()}
    for suffix, direction in (("", "forward"), ("_reverse", "reverse")):
        for theirs, ours in names.items():
            tensors[f"{direction}.d{ours}"] = getattr(lstm, theirs + suffix).grad.float()
    out |= {f"{name}.{key}": value.contiguous() for key, value in tensors.items()}


tensors = {}
for name, sizes in CASES.items():
    case(name, *sizes, tensors)
save_file(tensors, Path(__file__).with_name("lstm.safetensors"))
