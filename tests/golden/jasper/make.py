"""Writes small networks of the Jasper family as PyTorch has them, and what they compute in double precision.

    pip install torch numpy safetensors
    python tests/golden/jasper/make.py

Two FORMs, each described by FORM.toml beside this script: `dense` has plain convolutions, dense residuals and PyTorch's
symmetric padding, `separable` separable convolutions and residuals and TensorFlow's "same" padding.

    dense.safetensors           weights in NeMo's names
    dense.{nemo,pt,npz}         the same as NeMo, DeepLearningExamples and OpenSeq2Seq (mixed precision) write them
    separable.npz               weights in OpenSeq2Seq's names
    FORM.gradients.*            in the same names: gradients of the loss below in training, and the running statistics
                                after that step
    FORM.golden.safetensors     features [batch, 64, frames], lengths, targets; hidden states and logits in evaluation
                                and (train.*) in training; loss: CTC, mean over the batch. dense: same.* are evaluated
                                with the other padding

Computed in f64 from f32 weights and features, and rounded to f32 once.

    pip install pyarrow
    python tests/golden/jasper/make.py --full DIR --nemo CORPUS --openseq2seq CORPUS

writes Jasper DR 10x5 at its full size with drawn weights, as DIR/jasper-dr.nemo and DIR/jasper-dr.npz (4 GB in all), and
what PyTorch computes of the utterances of two corpora that `tutornet prep` made with those frontends:
DIR/{nemo,npz}.golden.safetensors with ID.features, ID.hidden and ID.logits. With TUTORNET_FULL=DIR, `make test` imports
both, caches both corpora and compares (tests/it/full_size.rs).
"""

import argparse
import copy
import io
import json
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
LABELS = " abcdefghijklmnopqrstuvwxyz'"
LENGTHS, FRAMES = [40, 27, 9], 44
TARGETS = [[3, 3, 0, 17, 2, 2], [8, 0, 27], [1]]


def block(filters, repeat, kernel, stride=1, dilation=1, separable=False, residual=None, dropout=0.0):
    """residual: None, "dense", "pointwise" or "separable"."""
    return dict(filters=filters, repeat=repeat, kernel=kernel, stride=stride, dilation=dilation, separable=separable,
                residual=residual, dropout=dropout)


SMALL = {
    "dense": [
        block(8, 1, 5, stride=2), block(8, 2, 5, residual="dense"), block(8, 2, 3, residual="dense"),
        block(12, 2, 7, residual="dense"), block(12, 1, 5, dilation=2), block(16, 1, 1)],
    "separable": [
        block(8, 1, 11, stride=2, separable=True), block(8, 2, 5, separable=True, residual="separable"),
        block(12, 3, 7, separable=True, residual="separable"), block(12, 1, 5, dilation=2, separable=True),
        block(16, 1, 1, separable=True)],
}
FULL = [
    block(256, 1, 11, stride=2, dropout=0.2),
    *[block(filters, 5, kernel, residual="dense", dropout=p)
      for filters, kernel, p in [(256, 11, 0.2), (384, 13, 0.2), (512, 17, 0.2), (640, 21, 0.3), (768, 25, 0.3)]
      for _ in range(2)],
    block(896, 1, 29, dilation=2, dropout=0.4), block(1024, 1, 1, dropout=0.4)]


class Masked(nn.Module):
    """NeMo's MaskedConv1d keeps its convolution under `conv`; masks and padding are applied outside."""

    def __init__(self, inputs, outputs, kernel, groups=1, **more):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, groups=groups, bias=False, **more)

    def forward(self, x, same):
        span, stride = self.conv.dilation[0] * (self.conv.kernel_size[0] - 1) + 1, self.conv.stride[0]
        left = right = span // 2
        if same:  # TensorFlow's rule for what the batch has frames of: an even number
            total = max((-(-x.shape[2] // stride) - 1) * stride + span - x.shape[2], 0)
            left, right = total // 2, total - total // 2
        return self.conv(F.pad(x, (left, right)))


def convolution(inputs, outputs, kernel, separable, **more):
    norm = nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.1)
    if separable:
        return [Masked(inputs, inputs, kernel, inputs, **more), Masked(inputs, outputs, 1), norm]
    return [Masked(inputs, outputs, kernel, **more), norm]


class Block(nn.Module):
    def __init__(self, inputs, sources, b):
        super().__init__()
        steps = []
        for r in range(b["repeat"]):
            steps += convolution(inputs, b["filters"], b["kernel"], b["separable"], stride=b["stride"], dilation=b["dilation"])
            if r + 1 < b["repeat"]:
                steps += [nn.ReLU(), nn.Dropout(b["dropout"])]
            inputs = b["filters"]
        self.mconv = nn.ModuleList(steps)
        if sources:
            separable = b["residual"] == "separable"
            self.res = nn.ModuleList(nn.ModuleList(convolution(n, inputs, 1, separable)) for n in sources)
        self.mout = nn.Sequential(nn.ReLU(), nn.Dropout(b["dropout"]))


def mask(x, lengths):
    """Zero beyond the end: x is [batch, channels, frames]."""
    return x.masked_fill((torch.arange(x.shape[2]) >= lengths[:, None])[:, None], 0)


def run(steps, x, same):
    for step in steps:
        x = step(x, same) if isinstance(step, Masked) else step(x)
    return x


class Jasper(nn.Module):
    """Under NeMo's names."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks, rows, inputs, dense = blocks, [], 64, []
        for b in blocks:
            dense += [inputs] if b["residual"] == "dense" else []
            sources = list(dense) if b["residual"] == "dense" else [inputs] if b["residual"] else []
            rows.append(Block(inputs, sources, b))
            inputs = b["filters"]
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.encoder = nn.ModuleList(rows)
        self.decoder.decoder_layers = nn.ModuleList([nn.Conv1d(inputs, len(LABELS) + 1, 1)])

    def forward(self, features, lengths, same):
        x, dense = mask(features, lengths), []
        for number, (row, b) in enumerate(zip(self.encoder.encoder, self.blocks)):
            dense += [x] if b["residual"] == "dense" else []
            sources = dense if b["residual"] == "dense" else [x]
            for step in row.mconv:
                # Whatever follows a ReLU and its dropout is the next layer's input.
                x = step(x, same) if isinstance(step, Masked) else step(x)
                if isinstance(step, Masked) and step.conv.stride[0] > 1:
                    lengths = -(-lengths // step.conv.stride[0])
                if isinstance(step, nn.Dropout):
                    x = mask(x, lengths)
            if b["residual"]:
                x = x + sum(run(steps, source, same) for steps, source in zip(row.res, sources))
            x = row.mout(x)
            if number + 1 < len(self.blocks):
                x = mask(x, lengths)
        return x, self.decoder.decoder_layers[0](x).transpose(1, 2), lengths


def openseq2seq(blocks, state):
    """The same tensors under the names and in the layouts of tdnn_encoder.py and fc_decoders.py."""
    out = {}
    norms = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

    def layer(theirs, bn, prefix, first, separable):
        if separable:
            out[f"{theirs}/depthwise_kernel"] = state[f"{prefix}.{first}.conv.weight"].permute(2, 0, 1)
            first += 1
            out[f"{theirs}/pointwise_kernel"] = state[f"{prefix}.{first}.conv.weight"].permute(2, 1, 0)
        else:
            out[f"{theirs}/kernel"] = state[f"{prefix}.{first}.conv.weight"].permute(2, 1, 0)
        for name, ours in norms.items():
            out[f"{bn}/{name}"] = state[f"{prefix}.{first + 1}.{ours}"]

    for number, b in enumerate(blocks):
        prefix = f"encoder.encoder.{number}"
        for r in range(b["repeat"]):
            theirs = f"ForwardPass/w2l_encoder/conv{number + 1}{r + 1}"
            layer(theirs, f"{theirs}/bn", f"{prefix}.mconv", (5 if b["separable"] else 4) * r, b["separable"])
        for i in range(sum(f"{prefix}.res.{i}.0.conv.weight" in state for i in range(len(blocks)))):
            suffix = f"_{i}" if b["residual"] == "dense" else ""
            layer(f"{theirs}/res{suffix}", f"{theirs}/res_bn{suffix}", f"{prefix}.res.{i}", 0, b["residual"] == "separable")
    head = "ForwardPass/fully_connected_ctc_decoder/fully_connected"
    out[f"{head}/kernel"] = state["decoder.decoder_layers.0.weight"][:, :, 0].T
    out[f"{head}/bias"] = state["decoder.decoder_layers.0.bias"]
    return out


def mixed_precision(variables):
    """What a run in mixed precision keeps: kernels as f16 with copies in f32, and the optimiser's variables."""
    out = {"global_step": torch.tensor(7), "Loss_Optimization/loss_scale": torch.tensor(1024.0)}
    for name, value in variables.items():
        if name.endswith("kernel"):
            out[f"Loss_Optimization/FP32-master-copy/{name}"] = value
            out[name] = value.half()
            if "conv11" in name:
                out[f"Loss_Optimization/FP32-master-copy/{name}/Momentum"] = torch.zeros_like(value)
        else:
            out[name] = value
    return out


def deeplearningexamples(state):
    """A checkpoint as common/helpers.py writes it; the averages are the weights, the others are not."""
    rules = [("encoder.encoder.", "encoder.layers."), (".mconv.", ".conv."), (".conv.weight", ".weight"),
             ("decoder.decoder_layers.", "decoder.layers.")]

    def renamed(name):
        for old, new in rules:
            name = name.replace(old, new)
        return name

    average = OrderedDict((renamed(name), value) for name, value in state.items())
    average._metadata = state._metadata
    last = OrderedDict(
        (name, value + 1 if value.is_floating_point() and value.dim() == 1 else value) for name, value in average.items())
    return {"epoch": 3, "step": 120, "best_wer": 0.5, "state_dict": last, "ema_state_dict": average,
            "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.01, "params": [0]}]},
            "scaler": {"scale": 1024.0}}


def settings(blocks):
    """model_config.yaml, for which JSON is YAML enough."""
    jasper = [dict(filters=b["filters"], repeat=b["repeat"], kernel=[b["kernel"]], stride=[b["stride"]],
                   dilation=[b["dilation"]], dropout=b["dropout"], residual=bool(b["residual"]),
                   separable=b["separable"], residual_dense=b["residual"] == "dense") for b in blocks]
    modules = "nemo.collections.asr.modules"
    return json.dumps({
        "name": "golden", "sample_rate": 16000, "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "preprocessor": {"_target_": f"{modules}.AudioToMelSpectrogramPreprocessor", "normalize": "per_feature",
                         "window_size": 0.02, "window_stride": 0.01, "window": "hann", "features": 64, "n_fft": 512},
        "encoder": {"_target_": f"{modules}.ConvASREncoder", "feat_in": 64, "activation": "relu", "conv_mask": True,
                    "jasper": jasper},
        "decoder": {"_target_": f"{modules}.ConvASRDecoder", "feat_in": blocks[-1]["filters"],
                    "num_classes": len(LABELS), "vocabulary": list(LABELS)}}, indent=1)


def write_nemo(path, blocks, state):
    weights = path.with_suffix(".ckpt")
    torch.save(state, weights)
    with tarfile.open(path, "w:") as archive:
        text = settings(blocks).encode()
        member = tarfile.TarInfo("./model_config.yaml")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
        member = tarfile.TarInfo("./model_weights.ckpt")
        member.size = weights.stat().st_size
        with weights.open("rb") as file:
            archive.addfile(member, file)
    weights.unlink()


def write_npz(path, tensors, compressed=False):
    arrays = {name: value.detach().numpy() for name, value in tensors.items()}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def save(tensors, path):
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path)


def draw_norms(model):
    """Batch norms as after training: nothing is 1 or 0."""
    for name, value in model.state_dict().items():
        if value.dim() == 1 and value.is_floating_point() and "decoder" not in name:
            noise = 0.3 * torch.randn_like(value)
            value.copy_(torch.exp(noise) if name.endswith(("weight", "var")) else noise)


def small(seed, form, blocks):
    torch.manual_seed(seed)
    model, same = Jasper(blocks), form == "separable"
    draw_norms(model)
    features, lengths = torch.randn(len(LENGTHS), 64, FRAMES), torch.tensor(LENGTHS)
    state = copy.deepcopy(model.state_dict())
    model = model.double()
    hidden, logits, _ = model.eval()(features.double(), lengths, same)
    golden = {"features": features, "lengths": lengths.int(), "hidden": hidden.float(), "logits": logits.float()}
    if form == "dense":
        hidden, logits, _ = model(features.double(), lengths, True)
        golden |= {"same.hidden": hidden.float(), "same.logits": logits.float()}
    hidden, logits, frames = model.train()(features.double(), lengths, same)
    sizes = torch.tensor([len(target) for target in TARGETS])
    loss = F.ctc_loss(logits.log_softmax(2).transpose(0, 1), torch.tensor(sum(TARGETS, [])), frames, sizes,
                      blank=len(LABELS), reduction="none").mean()
    loss.backward()
    golden |= {"train.hidden": hidden.float(), "train.logits": logits.float(), "loss": loss.float()[None],
               "targets": torch.tensor(sum(TARGETS, [])).int(), "target_lengths": sizes.int()}
    gradients = {name: value.grad.float() for name, value in model.named_parameters()}
    gradients |= {name: value.float() for name, value in model.state_dict().items() if "running" in name}
    save(golden, HERE / f"{form}.golden.safetensors")
    if form == "dense":
        save(state, HERE / "dense.safetensors")
        save(gradients, HERE / "dense.gradients.safetensors")
        write_nemo(HERE / "dense.nemo", blocks, state)
        torch.save(deeplearningexamples(state), HERE / "dense.pt")
        write_npz(HERE / "dense.npz", mixed_precision(openseq2seq(blocks, state)))
    else:
        write_npz(HERE / "separable.npz", openseq2seq(blocks, state))
        write_npz(HERE / "separable.gradients.npz", openseq2seq(blocks, gradients), compressed=True)


def utterances(corpus):
    """Ids and features [frames, 64] of a corpus; schemas/corpus.md has the columns."""
    import pyarrow.parquet as pq

    for shard in sorted(Path(corpus).glob("shard-*.parquet")):
        for row in pq.read_table(shard, columns=["utterance", "frames", "features"]).to_pylist():
            yield row["utterance"], torch.from_numpy(np.frombuffer(row["features"], "<f4").reshape(row["frames"], 64).copy())


def full(directory, corpora):
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = Jasper(FULL)
    # Statistics of a real utterance: activations then stay as large as in a trained network.
    _, features = next(utterances(corpora["nemo"]))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        nn.init.normal_(model.decoder.decoder_layers[0].weight, std=0.1)
        model.train()(features.T[None], torch.tensor([len(features)]), False)
        model.eval()
        for name, value in model.named_parameters():
            if value.dim() == 1 and "decoder" not in name:
                value.add_(0.1 * torch.randn_like(value))
        for kind, same in (("nemo", False), ("npz", True)):
            golden = {}
            for name, features in utterances(corpora["openseq2seq" if same else "nemo"]):
                # A batch of OpenSeq2Seq's is a multiple of 16 frames long, so its padding is always that of an even one.
                padded = F.pad(features.T[None], (0, -len(features) % 16))
                hidden, logits, frames = model(padded, torch.tensor([len(features)]), same)
                golden[f"{name}.features"] = features
                golden[f"{name}.hidden"] = hidden[0, :, : frames[0]].T
                golden[f"{name}.logits"] = logits[0, : frames[0]]
            save(golden, directory / f"{kind}.golden.safetensors")
            link = directory / f"{kind}.corpus"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(corpora["openseq2seq" if same else "nemo"]).resolve())
    state = model.state_dict()
    write_nemo(directory / "jasper-dr.nemo", FULL, state)
    write_npz(directory / "jasper-dr.npz", openseq2seq(FULL, state))
    print(f"{sum(p.numel() for p in model.parameters()):,} trainable parameters in {directory}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, metavar="DIR")
    parser.add_argument("--nemo", type=Path, metavar="CORPUS")
    parser.add_argument("--openseq2seq", type=Path, metavar="CORPUS")
    arguments = parser.parse_args()
    if arguments.full:
        if not (arguments.nemo and arguments.openseq2seq):
            parser.error("--full needs a corpus of each frontend: --nemo and --openseq2seq")
        full(arguments.full, {"nemo": arguments.nemo, "openseq2seq": arguments.openseq2seq})
    else:
        for seed, (form, blocks) in enumerate(SMALL.items()):
            small(seed, form, blocks)
