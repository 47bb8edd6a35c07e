"""Writes small DeepSpeech 2 networks as PyTorch has them, and what they compute in double precision.

    pip install torch numpy safetensors
    python tests/golden/deepspeech2/make.py

For every FORM of the recurrent layers (FORM.toml beside this script describes the network):

    FORM.safetensors            the state dictionary, f32
    FORM.gradients.safetensors  gradients under the same names (of the loss below, in training)
    FORM.golden.safetensors     features [batch, 64, frames], lengths, upstream [batch, frames', labels],
                                logits and hidden states in evaluation, loss = sum(logits * upstream) in training

and openseq2seq.safetensors, the weights of two-stacks in the names and layouts of OpenSeq2Seq's variables. Computed in
f64 from f32 weights and features, and rounded to f32 once.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

BINS, CELLS, LAYERS, HIDDEN, LABELS = 64, 10, 2, 7, 29
# out, taps in frequency and time, stride in frequency and time
CONVOLUTIONS = [(4, (9, 5), (4, 2)), (3, (5, 3), (2, 1))]
LENGTHS, FRAMES = [38, 21, 1], 40


def zeros(kernel, stride, size, same):
    """TensorFlow's "same" padding, or PyTorch's symmetric one."""
    if not same:
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def mask(x, lengths):
    """Zero beyond the end: x is [..., frames]."""
    keep = torch.arange(x.shape[-1]) < lengths[:, None]
    return x * keep.view(len(lengths), *[1] * (x.dim() - 2), -1)


def recur(lstm, x, lengths, reverse=False):
    """Runs x [batch, frames, in] by each utterance's own length; `reverse` turns the utterances before and after."""
    turn = lambda x: torch.stack([torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(x, lengths)])
    packed = pack_padded_sequence(turn(x) if reverse else x, lengths, batch_first=True, enforce_sorted=False)
    y, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=x.shape[1])
    return turn(y) if reverse else y


class DeepSpeech2(nn.Module):
    def __init__(self, form, same):
        super().__init__()
        self.form, self.same = form, same
        inputs, bins = 1, BINS
        for n, (out, kernel, stride) in enumerate(CONVOLUTIONS, 1):
            setattr(self, f"conv{n}", nn.Conv2d(inputs, out, kernel, stride, bias=False))
            setattr(self, f"bn{n}", nn.BatchNorm2d(out, eps=1e-3))
            inputs, bins = out, -(-bins // stride[0])
        width = inputs * bins
        if form == "two-stacks":
            self.rnn_forward = nn.LSTM(width, CELLS, LAYERS, batch_first=True)
            self.rnn_reverse = nn.LSTM(width, CELLS, LAYERS, batch_first=True)
        elif form == "summed":
            sizes = [width] + [CELLS] * (LAYERS - 1)
            self.rnns = nn.ModuleList(nn.LSTM(n, CELLS, bidirectional=True, batch_first=True) for n in sizes)
        else:
            self.rnn = nn.LSTM(width, CELLS, LAYERS, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(CELLS if form == "summed" else 2 * CELLS, HIDDEN)
        self.output = nn.Linear(HIDDEN, LABELS)

    def forward(self, features, lengths):
        x = mask(features, lengths)[:, None]
        for n, (_, kernel, stride) in enumerate(CONVOLUTIONS, 1):
            bins, frames = (zeros(*sizes, self.same) for sizes in zip(kernel, stride, x.shape[2:]))
            x = getattr(self, f"conv{n}")(F.pad(x, (*frames, *bins)))
            lengths = -(-lengths // stride[1])
            x = mask(torch.relu(getattr(self, f"bn{n}")(x)), lengths)
        x = x.flatten(1, 2).transpose(1, 2)
        if self.form == "two-stacks":
            x = torch.cat([recur(self.rnn_forward, x, lengths), recur(self.rnn_reverse, x, lengths, True)], 2)
        elif self.form == "summed":
            for rnn in self.rnns:
                x = recur(rnn, x, lengths).unflatten(2, (2, CELLS)).sum(2)
        else:
            x = recur(self.rnn, x, lengths)
        hidden = torch.relu(self.fc(x))
        return hidden, self.output(hidden), lengths


def openseq2seq(state):
    """The same weights under the names of ds2_encoder.py and fc_decoders.py."""
    scope, out = "ForwardPass/ds2_encoder", {}
    for n in range(1, len(CONVOLUTIONS) + 1):
        out[f"{scope}/conv{n}/kernel"] = state[f"conv{n}.weight"].permute(3, 2, 1, 0)
        names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        for theirs, ours in names.items():
            out[f"{scope}/conv{n}/bn/{theirs}"] = state[f"bn{n}.{ours}"]
    for short, direction in (("fw", "forward"), ("bw", "reverse")):
        for k in range(LAYERS):
            get = lambda name: state[f"rnn_{direction}.{name}_l{k}"]
            weight = get("weight_ih")
            if k == 0:  # from [channels, bins] to [bins, channels]
                weight = weight.unflatten(1, (CONVOLUTIONS[-1][0], -1)).transpose(1, 2).flatten(1)
            kernel = torch.cat([weight, get("weight_hh")], 1).T
            bias = (get("bias_ih") + get("bias_hh")).clone()
            bias[CELLS : 2 * CELLS] -= 1  # forget_bias
            cell = f"{scope}/bidirectional_rnn/{short}/multi_rnn_cell/cell_{k}/basic_lstm_cell"
            for name, value in (("kernel", kernel), ("bias", bias)):
                i, f, g, o = value.chunk(4, -1)
                out[f"{cell}/{name}"] = torch.cat([i, g, f, o], -1)
    for theirs, ours in ((scope, "fc"), ("ForwardPass/fully_connected_ctc_decoder", "output")):
        out[f"{theirs}/fully_connected/kernel"] = state[f"{ours}.weight"].T
        out[f"{theirs}/fully_connected/bias"] = state[f"{ours}.bias"]
    kernel = out[f"{scope}/conv1/kernel"]
    out["Loss_Optimization/FP32-master-copy/" + f"{scope}/conv1/kernel"] = kernel
    out[f"{scope}/conv1/kernel"] = kernel.half()
    out[f"Loss_Optimization/{scope}/conv1/kernel/Adam"] = torch.zeros_like(kernel)
    return out


def save(tensors, name):
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, Path(__file__).with_name(name))


for seed, form in enumerate(("two-stacks", "summed", "concatenated")):
    torch.manual_seed(seed)
    model = DeepSpeech2(form, same=form == "two-stacks")
    for name, value in model.state_dict().items():
        if name.startswith("bn"):
            noise = 0.3 * torch.randn_like(value, dtype=torch.float32)
            value.copy_(torch.exp(noise) if name.endswith(("weight", "var")) else noise)
    for name, value in model.named_parameters():
        if "bias_hh" in name and form == "two-stacks":
            value.data.zero_()
    features, lengths = torch.randn(len(LENGTHS), BINS, FRAMES), torch.tensor(LENGTHS)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save(state, f"{form}.safetensors")
    if form == "two-stacks":
        save(openseq2seq(state), "openseq2seq.safetensors")
    model = model.double()
    hidden, logits, frames = model.eval()(features.double(), lengths)
    upstream = mask(torch.randn_like(logits).transpose(1, 2), frames).transpose(1, 2).float()
    running = {name: torch.zeros_like(value) for name, value in state.items() if "running" in name}
    loss = (model.train()(features.double(), lengths)[1] * upstream.double()).sum()
    loss.backward()
    gradients = {name: value.grad.float() for name, value in model.named_parameters()}
    for name, value in gradients.items():
        if "bias_hh" in name and form == "two-stacks":
            value.zero_()  # one bias, read as the sum of two
    save(gradients | running, f"{form}.gradients.safetensors")
    golden = {"features": features, "lengths": lengths.int(), "upstream": upstream, "loss": loss.float()[None]}
    golden |= {"hidden": hidden.transpose(1, 2).float(), "logits": logits.float()}
    save(golden, f"{form}.golden.safetensors")
