"""Writes small networks as TensorFlow has them: the layers that OpenSeq2Seq calls, under the names that it gives.

    pip install tensorflow-cpu==2.15.1 safetensors
    python tests/golden/tensorflow/make.py

For each of dense, separable and deepspeech2 (NAME.toml beside this script describes the network): NAME.npz, the variables
of a checkpoint through tools/tf_to_npz.py, and NAME.golden.safetensors with features [batch, 64, frames], lengths and
the hidden states and logits that TensorFlow computes in evaluation, in f32. Names, layouts, "same" padding, the order of
the LSTM's gates and their forget bias are TensorFlow's own; what is added here is the wiring of tdnn_encoder.py,
ds2_encoder.py and fc_decoders.py, and a mask between DeepSpeech 2's convolutions, which OpenSeq2Seq does without.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[2] / "tools"))
from tf_to_npz import convert

v1 = tf.compat.v1
v1.disable_eager_execution()
LABELS, FRAMES, LENGTHS = 29, 48, [48, 31, 10]

# filters, repeat, kernel, stride, dilation, residual
DENSE = [(6, 1, 11, 2, 1, None), (6, 2, 5, 1, 1, "dense"), (8, 2, 3, 1, 1, "dense"), (8, 1, 5, 1, 2, None), (10, 1, 1, 1, 1, None)]
SEPARABLE = [(6, 1, 11, 2, 1, None), (6, 2, 5, 1, 1, "plain"), (8, 3, 3, 1, 1, "plain"), (8, 1, 5, 1, 2, None), (10, 1, 1, 1, 1, None)]
# filters, taps in time and frequency, strides
CONVOLUTIONS = [(3, (11, 41), (2, 2)), (4, (11, 21), (1, 2))]
CELLS, LAYERS, HIDDEN = 7, 2, 9


def mask(x, lengths):
    keep = tf.sequence_mask(lengths, tf.shape(x)[1], dtype=x.dtype)
    return x * tf.reshape(keep, [len(LENGTHS), -1] + [1] * (x.shape.rank - 2))


def norm(x, name):
    return v1.layers.batch_normalization(x, name=name, training=False, momentum=0.9, epsilon=1e-3)


def head(hidden):
    with v1.variable_scope("ForwardPass/fully_connected_ctc_decoder"):
        return v1.layers.dense(hidden, LABELS, name="fully_connected")


def jasper(blocks, separable):
    def network(x, lengths):
        layer = v1.layers.separable_conv1d if separable else v1.layers.conv1d
        dense = []
        with v1.variable_scope("ForwardPass/w2l_encoder"):
            for number, (filters, repeat, kernel, stride, dilation, residual) in enumerate(blocks, 1):
                x = mask(x, lengths)
                dense += [x] if residual == "dense" else []
                sources = {"dense": dense, "plain": [x], None: []}[residual]
                for r in range(1, repeat + 1):
                    name = f"conv{number}{r}"
                    x = mask(x, lengths) if r > 1 else x
                    lengths = -(-lengths // stride)
                    x = layer(x, filters, kernel, strides=stride, padding="SAME", dilation_rate=dilation, use_bias=False, name=name)
                    x = norm(x, f"{name}/bn")
                    if r == repeat:
                        for i, source in enumerate(sources):
                            suffix = f"_{i}" if residual == "dense" else ""
                            shortcut = layer(source, filters, 1, use_bias=False, name=f"{name}/res{suffix}")
                            x += norm(shortcut, f"{name}/res_bn{suffix}")
                    x = tf.nn.relu(x)
        return x, head(x)

    return network


def deepspeech2(x, lengths):
    with v1.variable_scope("ForwardPass/ds2_encoder"):
        x = x[..., None]
        for n, (filters, kernel, strides) in enumerate(CONVOLUTIONS, 1):
            x = mask(x, lengths)
            x = v1.layers.conv2d(x, filters, kernel, strides, padding="SAME", use_bias=False, name=f"conv{n}")
            x = tf.nn.relu(norm(x, f"conv{n}/bn"))
            lengths = -(-lengths // strides[0])
        x = tf.reshape(x, [len(LENGTHS), -1, x.shape[2] * x.shape[3]])
        stack = lambda: v1.nn.rnn_cell.MultiRNNCell([v1.nn.rnn_cell.BasicLSTMCell(CELLS) for _ in range(LAYERS)])
        both, _ = v1.nn.bidirectional_dynamic_rnn(stack(), stack(), x, sequence_length=lengths, dtype=tf.float32)
        x = v1.layers.dense(tf.concat(both, -1), HIDDEN, activation=tf.nn.relu, name="fully_connected")
    return x, head(x)


def main():
    networks = {"dense": jasper(DENSE, False), "separable": jasper(SEPARABLE, True), "deepspeech2": deepspeech2}
    for seed, (name, network) in enumerate(networks.items()):
        v1.reset_default_graph()
        random = np.random.default_rng(seed)
        features = random.standard_normal((len(LENGTHS), FRAMES, 64)).astype("f4")
        hidden, logits = network(tf.constant(features), tf.constant(LENGTHS))
        with v1.Session() as session, tempfile.TemporaryDirectory() as directory:
            session.run(v1.global_variables_initializer())
            for variable in v1.global_variables():
                shape = tuple(variable.shape)
                value = random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]), 1))
                if len(shape) == 1:
                    value = 0.3 * random.standard_normal(shape)
                    value = np.exp(value) if variable.name.endswith(("gamma:0", "variance:0")) else value
                variable.load(value.astype("f4"), session)
            prefix = v1.train.Saver().save(session, f"{directory}/model.ckpt", global_step=1)
            convert(prefix, HERE / f"{name}.npz")
            hidden, logits = session.run([hidden, logits])
        save_file({"features": np.ascontiguousarray(features.transpose(0, 2, 1)), "lengths": np.array(LENGTHS, "i4"),
                   "hidden": np.ascontiguousarray(hidden.transpose(0, 2, 1)), "logits": logits},
                  HERE / f"{name}.golden.safetensors")


main()
