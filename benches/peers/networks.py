"""The networks and a distillation step as a user of PyTorch would write them."""

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    """Convolution, dense or separable, and batch norm."""

    def __init__(self, inputs, outputs, kernel, stride=1, dilation=1, separable=False):
        super().__init__()
        shape = {"stride": stride, "dilation": dilation, "padding": dilation * (kernel - 1) // 2, "bias": False}
        self.depthwise = nn.Conv1d(inputs, inputs, kernel, groups=inputs, **shape) if separable else None
        self.conv = nn.Conv1d(inputs, outputs, 1, bias=False) if separable \
            else nn.Conv1d(inputs, outputs, kernel, **shape)
        self.norm = nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.1)

    def forward(self, x):
        return self.norm(self.conv(x if self.depthwise is None else self.depthwise(x)))


class Block(nn.Module):
    def __init__(self, inputs, block, sources):
        super().__init__()
        separable, residual = block["separable"], block.get("residual", "none")
        self.layers = nn.ModuleList()
        for _ in range(block["repeat"]):
            self.layers.append(Layer(inputs, block["filters"], block["kernel"], block.get("stride", 1),
                                     block.get("dilation", 1), separable))
            inputs = block["filters"]
        self.residuals = nn.ModuleList(
            Layer(channels, block["filters"], 1, separable=residual == "separable")
            for channels in (sources if residual != "none" else []))


class Jasper(nn.Module):
    def __init__(self, network, labels=29):
        super().__init__()
        self.blocks, self.config = nn.ModuleList(), network["blocks"]
        inputs, dense = 64, []
        for block in self.config:
            if block.get("dense"):
                dense.append(inputs)
            self.blocks.append(Block(inputs, block, dense if block.get("dense") else [inputs]))
            inputs = block["filters"]
        self.head = nn.Conv1d(inputs, labels, 1)

    def forward(self, x, frames):
        mask = lambda y: (torch.arange(y.shape[2])[None, :] < frames[:, None])[:, None, :]
        x, dense = x * mask(x), []
        for number, (block, config) in enumerate(zip(self.blocks, self.config)):
            if config.get("dense"):
                dense.append(x)
            sources = dense if config.get("dense") else [x]
            for index, layer in enumerate(block.layers):
                closing = index + 1 == len(block.layers)
                x = layer(x)
                if closing:
                    for residual, source in zip(block.residuals, sources):
                        x = x + residual(source)
                x = torch.relu(x)
                if layer is self.blocks[0].layers[0]:
                    frames = (frames + 1) // 2
                if not (closing and number + 1 == len(self.blocks)):
                    x = x.masked_fill(~mask(x), 0)
        return x, self.head(x).transpose(1, 2), frames


def places(model):
    """Our names of all tensors, and the tensors."""
    norm = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
    for b, block in enumerate(model.blocks):
        for kind in ("layers", "residuals"):
            for index, layer in enumerate(getattr(block, kind)):
                prefix = f"blocks.{b}.{kind}.{index}"
                if layer.depthwise is not None:
                    yield f"{prefix}.depthwise", layer.depthwise.weight
                yield f"{prefix}.weight", layer.conv.weight
                for ours, theirs in norm.items():
                    yield f"{prefix}.norm.{ours}", getattr(layer.norm, theirs)
    yield "head.weight", model.head.weight
    yield "head.bias", model.head.bias


class DeepSpeech2(nn.Module):
    """Two convolutions, two independent stacks of three LSTM layers, one fully connected layer."""

    def __init__(self, labels=29):
        super().__init__()
        self.convs = nn.ModuleList([
            nn.Conv2d(1, 32, (41, 11), (2, 2), (20, 5), bias=False),
            nn.Conv2d(32, 32, (21, 11), (2, 1), (10, 5), bias=False)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(32, eps=1e-3, momentum=0.01) for _ in range(2))
        self.stacks = nn.ModuleList(nn.LSTM(512, 512, 3, batch_first=True) for _ in range(2))
        for stack in self.stacks:
            for name, parameter in stack.named_parameters():
                if "bias_hh" in name:  # one bias, as TensorFlow's cells have
                    nn.init.zeros_(parameter).requires_grad_(False)
        self.connected = nn.Conv1d(1024, 256, 1)
        self.head = nn.Conv1d(256, labels, 1)

    def recur(self, stack, x, frames):
        # What follows an utterance's end cannot reach back: no packing, whose backward pass takes minutes here.
        valid = torch.arange(x.shape[1])[None, :] < frames[:, None]
        return stack(x)[0].masked_fill(~valid[:, :, None], 0)

    def forward(self, x, frames):
        mask = lambda y: (torch.arange(y.shape[-1])[None, :] < frames[:, None])[:, None, None, :]
        x = x[:, None].masked_fill(~mask(x), 0)
        for conv, norm, stride in zip(self.convs, self.norms, (2, 1)):
            x = torch.relu(norm(conv(x)))
            frames = -(-frames // stride)
            x = x.masked_fill(~mask(x), 0)
        x = x.permute(0, 3, 2, 1).flatten(2)
        place = torch.arange(x.shape[1])[None, :]
        turn = torch.where(place < frames[:, None], frames[:, None] - 1 - place, place)[:, :, None]
        turned = lambda y: y.gather(1, turn.expand(-1, -1, y.shape[2]))
        ahead = self.recur(self.stacks[0], x, frames)
        back = turned(self.recur(self.stacks[1], turned(x), frames))
        hidden = torch.relu(self.connected(torch.cat([ahead, back], 2).transpose(1, 2)))
        return hidden, self.head(hidden).transpose(1, 2), frames


def deepspeech2_places(model):
    norm = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
    for n, (conv, batch_norm) in enumerate(zip(model.convs, model.norms)):
        yield f"convolutions.{n}.weight", conv.weight
        for ours, theirs in norm.items():
            yield f"convolutions.{n}.norm.{ours}", getattr(batch_norm, theirs)
    for direction, stack in zip(("forward", "reverse"), model.stacks):
        for layer in range(3):
            for ours, theirs in (("input", "weight_ih"), ("recurrent", "weight_hh"), ("gate_bias", "bias_ih")):
                yield f"layers.{layer}.{direction}.{ours}", getattr(stack, f"{theirs}_l{layer}")
    for name in ("connected", "head"):
        yield f"{name}.weight", getattr(model, name).weight
        yield f"{name}.bias", getattr(model, name).bias


def network(row):
    """The row's network, and its tensors by our names."""
    if row.get("preset") == "deepspeech2":
        model = DeepSpeech2()
        return model, list(deepspeech2_places(model))
    model = Jasper(row["network"])
    return model, list(places(model))


def load_weights(named, inputs, prefix):
    with torch.no_grad():
        for name, tensor in named:
            tensor.copy_(inputs[prefix + name].reshape(tensor.shape))


class Forward:
    """A forward pass in evaluation."""

    def __init__(self, row, inputs):
        self.model, named = network(row)
        load_weights(named, inputs, "weights.")
        self.model.eval()
        self.batches = [(inputs[f"features.{i}"], torch.tensor(batch["frames"]))
                        for i, batch in enumerate(row["batches"])]

    @torch.no_grad()
    def run(self):
        for features, frames in self.batches:
            self.model(features, frames)

    @torch.no_grad()
    def outputs(self):
        outputs = {}
        for i, (features, lengths) in enumerate(self.batches):
            _, logits, frames = self.model(features, lengths)
            valid = torch.arange(logits.shape[1])[None, :] < frames[:, None]
            outputs[f"logits.{i}"] = logits * valid[:, :, None]
        return outputs


class Step:
    """One update of a student: CTC + 0.25 SKD, or RKD through a bridge."""

    def __init__(self, row, inputs):
        self.row = row
        self.model, self.named = network(row)
        load_weights(self.named, inputs, "weights.")
        self.model.train()
        self.features, self.frames = inputs["features"], torch.tensor(row["frames"])
        self.lengths = torch.tensor([len(target) for target in row["targets"]])
        longest = max(map(len, row["targets"]))
        self.targets = torch.tensor([target + [0] * (longest - len(target)) for target in row["targets"]])
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if row["objective"] == "rkd":
            self.hidden, self.weight = inputs["hidden"], inputs["weight"]
            widths = inputs["weights.bridge.weight"].shape
            self.bridge = nn.Conv1d(widths[1], widths[0], 1)
            load_weights(self.bridge_places(), inputs, "weights.")
            parameters += self.bridge.parameters()
        else:
            self.posterior = inputs["posterior"]
        decayed = [p for p in parameters if p.dim() > 1]
        others = [p for p in parameters if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": row["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
            lr=row["learning_rate"])

    def bridge_places(self):
        return [("bridge.weight", self.bridge.weight), ("bridge.bias", self.bridge.bias)]

    def loss(self):
        hidden, logits, frames = self.model(self.features, self.frames)
        count = len(frames)
        if self.row["objective"] == "rkd":
            return ((self.hidden - self.bridge(hidden)) * self.weight).square().sum() / count
        log_p = F.log_softmax(logits, 2)
        ctc = F.ctc_loss(log_p.transpose(0, 1), self.targets, frames, self.lengths, 28, reduction="sum",
                         zero_infinity=True) / count
        valid = torch.arange(logits.shape[1])[None, :] < frames[:, None]
        skd = ((self.posterior - log_p.exp()) * valid[:, :, None]).square().sum() / count
        return ctc + 0.25 * skd

    def backward(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss

    def run(self):
        loss = self.backward()
        self.optimizer.step()
        return loss.item()

    def outputs(self):
        named = self.named + (self.bridge_places() if self.row["objective"] == "rkd" else [])
        loss = self.backward()
        outputs = {f"gradient.{name}": t.grad for name, t in named if t.grad is not None}
        self.optimizer.step()
        outputs |= {f"after.{name}": t.detach() for name, t in named}
        return outputs | {"loss": loss.detach().reshape(1)}
