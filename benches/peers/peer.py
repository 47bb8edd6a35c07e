"""PyTorch's side of `make bench-peers`: the same words on standard input as `main.rs`.

Written as a user of PyTorch would write it: its own layers, no hand-made kernels.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from networks import Forward, Step

DEVICE = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cpu")


class Conv:
    """conv1d and conv2d without bias, forward and backward."""

    def __init__(self, row, inputs):
        self.x = inputs["x"].requires_grad_()
        self.weight = inputs["weight"].requires_grad_()
        self.upstream = inputs["upstream"]
        self.ones = torch.ones_like(self.upstream)
        self.row = row

    def forward(self):
        row = self.row
        if row["kind"] == "conv1d":
            assert row["padding"][0] == row["padding"][1]
            return F.conv1d(self.x, self.weight, None, row["stride"], row["padding"][0], row["dilation"],
                            row["groups"])
        assert all(low == high for low, high in row["padding"])
        return F.conv2d(self.x, self.weight, None, row["stride"], [low for low, _ in row["padding"]])

    def run(self):
        self.x.grad = self.weight.grad = None
        self.forward().backward(self.ones)

    def outputs(self):
        self.x.grad = self.weight.grad = None
        y = self.forward()
        (y * self.upstream).sum().backward()
        return {"y": y.detach(), "dx": self.x.grad, "dweight": self.weight.grad}


class Ctc:
    """log_softmax and ctc_loss."""

    def __init__(self, row, inputs):
        self.logits = inputs["logits"].requires_grad_()
        self.row = row
        self.frames = torch.tensor(row["frames"])
        self.lengths = torch.tensor([len(target) for target in row["targets"]])
        longest = max(map(len, row["targets"]))
        self.targets = torch.tensor([target + [0] * (longest - len(target)) for target in row["targets"]])

    def loss(self):
        log_p = F.log_softmax(self.logits, 2).transpose(0, 1)
        return F.ctc_loss(log_p, self.targets, self.frames, self.lengths, self.row["blank"], reduction="none",
                          zero_infinity=True)

    def run(self):
        self.logits.grad = None
        self.loss().sum().backward()

    def outputs(self):
        self.logits.grad = None
        loss = self.loss()
        loss.sum().backward()
        return {"loss": loss.detach(), "dlogits": self.logits.grad}


class BiLstm:
    """Layers of LSTMs in both directions, their outputs side by side; parameters by PyTorch's names."""

    def __init__(self, row, inputs):
        width = row["width"]
        self.x = inputs["x"].requires_grad_()
        self.upstream = inputs["upstream"]
        self.ones = torch.ones_like(self.upstream)
        self.lstm = torch.nn.LSTM(self.x.shape[2], width, row["layers"], batch_first=True, bidirectional=True)
        with torch.no_grad():
            for name, parameter in self.lstm.named_parameters():
                parameter.copy_(inputs[name])

    def clear(self):
        self.x.grad = None
        self.lstm.zero_grad(set_to_none=True)

    def run(self):
        self.clear()
        self.lstm(self.x)[0].backward(self.ones)

    def outputs(self):
        self.clear()
        y = self.lstm(self.x)[0]
        (y * self.upstream).sum().backward()
        gradients = {f"d{name}": parameter.grad for name, parameter in self.lstm.named_parameters()}
        return {"y": y.detach(), "dx": self.x.grad} | gradients


def load(row, path):
    inputs = {name: tensor.to(DEVICE) for name, tensor in load_file(path).items()}
    kinds = {"conv1d": Conv, "conv2d": Conv, "ctc": Ctc, "bilstm": BiLstm, "step": Step, "forward": Forward}
    return kinds[row["kind"]](row, inputs)


def wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def matmul(order):
    a, b = torch.randn(order, order, device=DEVICE), torch.randn(order, order, device=DEVICE)
    times = []
    for _ in range(10):
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def peak_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def rounds(work, seconds):
    begin = time.perf_counter()
    times = []
    while not times or time.perf_counter() - begin < seconds:
        if hasattr(work, "make_ready"):
            work.make_ready()
        wait()
        start = time.perf_counter()
        work.run()
        wait()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main():
    torch.set_num_threads(int(sys.argv[1]))
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        sys.exit("peer.py: PyTorch finds no CUDA device; --peer-device cpu compares with the CPU")
    torch.set_default_device(DEVICE)
    # Single precision throughout: the numbers are compared, and ours has no TensorFloat-32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        op, reply = request["op"], {}
        if op == "load":
            work = load(request["row"], request["path"])
        elif op == "outputs":
            tensors = {name: tensor.cpu().contiguous() for name, tensor in work.outputs().items()}
            save_file(tensors, request["path"])
            del tensors  # its memory is not the work's
        elif op == "round":
            reply = {"ms": rounds(work, request["seconds"])}
        elif op == "memory":
            reply = {"kib": peak_memory()}
        elif op == "forget":
            try:
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")
            except OSError:
                pass  # The peak then counts from the start.
        elif op == "matmul":
            reply = {"ms": matmul(request["order"])}
        else:
            raise ValueError(f"no such request: {op}")
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
