"""Writes recipe.json beside itself: what NumPy makes of schedules, LARC and optimiser rules, in f64.

    python tests/golden/recipe/make.py        (numpy is all that it needs)

Every rule is written down from its source, without a look at ours:
  Adam       Kingma and Ba (2015), algorithm 1; decay in the gradient
  AdamW      Loshchilov and Hutter (2019), algorithm 2
  NovoGrad   OpenSeq2Seq open_seq2seq/optimizers/novograd.py over tf.train.MomentumOptimizer: epsilon under the
             root; beta2 0, since that program never stored its moving average
  published  Ginsburg et al. (2019), algorithm 1: epsilon beside the root, beta2 0.98
  LARC       OpenSeq2Seq open_seq2seq/optimizers/optimizers.py, post_process_gradients, mode "clip"
  L2         tf.contrib.layers.l2_regularizer: scale * sum(w^2) / 2 in the loss
  decay      OpenSeq2Seq open_seq2seq/optimizers/lr_policies.py, poly_decay
"""

import json
import pathlib

import numpy as np

STEPS = 20
KEPT = (1, 2, 10, STEPS)
SHAPES = {"weight": (4, 3), "gamma": (4,), "beta": (4,)}
L2_ON = ("weight", "gamma")


def poly(start, low, power, update, total):
    return (start - low) * (1.0 - min(update, total) / total) ** power + low


def larc(w, g, eta, rate):
    norm = lambda x: float(np.sqrt((x * x).sum()))
    return g * min(1.0, max(eta * norm(w) / (rate * (norm(g) + 1e-7)), 1e-7))


class Adam:
    def __init__(self, s):
        self.s, self.state = s, {}

    def step(self, name, w, g, rate, t):
        s = self.s
        decay = s["weight_decay"] if w.ndim >= 2 else 0.0
        if s["name"] == "adam":
            g = g + decay * w
        m, v = self.state.get(name, (np.zeros_like(w), np.zeros_like(w)))
        m = s["beta1"] * m + (1 - s["beta1"]) * g
        v = s["beta2"] * v + (1 - s["beta2"]) * g * g
        self.state[name] = m, v
        step = m / (1 - s["beta1"] ** t) / (np.sqrt(v / (1 - s["beta2"] ** t)) + s["epsilon"])
        if s["name"] == "adamw":
            step = step + decay * w
        return w - rate * step


class NovoGrad:
    def __init__(self, s):
        self.s, self.state = s, {}

    def step(self, name, w, g, rate, t):
        s = self.s
        square = float((g * g).sum())
        if name not in self.state:
            m, v = np.zeros_like(w), square
        else:
            m, v = self.state[name]
            v = s["beta2"] * v + (1 - s["beta2"]) * square
        under_root = s["name"] == "novograd"
        divisor = np.sqrt(v + s["epsilon"]) if under_root else np.sqrt(v) + s["epsilon"]
        m = s["beta1"] * m + (g / divisor + s["weight_decay"] * w)
        self.state[name] = m, v
        return w - rate * m


def run(s, initial, gradients):
    rule = (Adam if s["name"].startswith("adam") else NovoGrad)(s)
    w = {name: value.copy() for name, value in initial.items()}
    kept = {}
    for t in range(1, STEPS + 1):
        rate = poly(s["learning_rate"], s["min"], s["power"], t - 1, STEPS)
        g = {name: value[t - 1] for name, value in gradients.items()}
        g = {name: g[name] + (s["l2"] * w[name] if name in L2_ON else 0.0) for name in g}
        norm = np.sqrt(sum((x * x).sum() for x in g.values()))
        if 0 < s["gradient_clip"] < norm:
            g = {name: x * (s["gradient_clip"] / norm) for name, x in g.items()}
        for name in SHAPES:
            scaled = larc(w[name], g[name], s["larc"], rate) if s["larc"] > 0 else g[name]
            w[name] = rule.step(name, w[name], scaled, rate, t)
        if t in KEPT:
            kept[str(t)] = {name: value.ravel().tolist() for name, value in w.items()}
    return kept


def settings(**changes):
    s = dict(name="novograd", learning_rate=0.02, min=1e-5, power=2.0, beta1=0.95, beta2=0.0, epsilon=1e-8)
    s |= dict(weight_decay=1e-3, l2=0.0, larc=0.0, gradient_clip=0.0)
    return s | changes


ADAM = dict(beta1=0.9, beta2=0.999, learning_rate=1e-3, power=0.5, min=0.0, weight_decay=0.0)
RUNS = {
    "novograd": settings(),
    "novograd, LARC": settings(larc=0.001),
    "novograd-paper": settings(name="novograd-paper", beta2=0.98),
    "novograd-paper, LARC": settings(name="novograd-paper", beta2=0.98, larc=0.001),
    "NeMo's novograd": settings(name="novograd-paper", beta1=0.8, beta2=0.5, learning_rate=0.01),
    "adam, L2": settings(name="adam", l2=0.05, **ADAM),
    "adam, L2 and LARC": settings(name="adam", l2=0.05, larc=0.001, **ADAM),
    "adam, decay and clipping": settings(name="adam", **ADAM | dict(weight_decay=0.01), gradient_clip=0.5),
    "adamw": settings(name="adamw", **ADAM | dict(weight_decay=0.01)),
}


def main():
    random = np.random.default_rng(20210)
    f32 = lambda x: np.asarray(x, np.float32).astype(np.float64)  # what a tensor can hold
    initial = {
        "weight": f32(random.normal(size=SHAPES["weight"])),
        "gamma": f32(1 + 0.1 * random.normal(size=4)),
        "beta": np.zeros(4),  # LARC treats what is zero apart
    }
    scale = f32(10.0 ** random.uniform(-2, 1, size=STEPS))  # gradients of very different size
    gradients = {
        name: f32(random.normal(size=(STEPS, *shape)) * scale.reshape(-1, *[1] * len(shape)))
        for name, shape in SHAPES.items()
    }
    schedules = []
    for start, low, power, total in [(0.02, 1e-5, 2.0, 1000), (1e-3, 0.0, 0.5, 77), (3e-3, 1e-5, 1.0, 340)]:
        updates = [0, 1, total // 3, total // 2, total - 1, total]
        rates = [poly(start, low, power, u, total) for u in updates]
        schedules.append(dict(start=start, min=low, power=power, total=total, updates=updates, rates=rates))
    cases = []
    for factor_w, factor_g, rate in [(1, 1, 0.02), (1, 1e-3, 0.02), (0, 1, 0.02), (100, 1, 1e-3), (1, 0, 0.02)]:
        w, g = f32(factor_w * random.normal(size=9)), f32(factor_g * random.normal(size=9))
        case = dict(w=w.tolist(), g=g.tolist(), eta=0.001, rate=rate)
        cases.append(case | dict(scaled=larc(w, g, 0.001, rate).tolist()))
    golden = dict(
        schedules=schedules,
        larc=cases,
        shapes=SHAPES,
        initial={name: value.ravel().tolist() for name, value in initial.items()},
        gradients={name: value.reshape(STEPS, -1).tolist() for name, value in gradients.items()},
        runs=[dict(title=title, settings=s, weights=run(s, initial, gradients)) for title, s in RUNS.items()],
    )
    path = pathlib.Path(__file__).with_name("recipe.json")
    path.write_text(json.dumps(golden) + "\n")


main()
