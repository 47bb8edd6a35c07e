"""Turns a TensorFlow checkpoint, such as OpenSeq2Seq's, into an .npz that `tutornet import` reads.

    pip install tensorflow-cpu        # on any machine, once; the .npz is all that is needed afterwards
    python tools/tf_to_npz.py model.ckpt-123456 jasper-dr.npz
    tutornet import jasper-dr.npz --like jasper-dr --out models/jasper-dr

The first argument is the checkpoint's path without .index, .meta and .data-00000-of-00001. Variables keep their names
and layouts; the optimiser's slots stay behind. Run with TensorFlow 2.15 (tests/golden/tensorflow/make.py); it is no part
of `make test`.
"""

import sys

import numpy as np
import tensorflow as tf

SLOTS = ("/Momentum", "/Adam", "/Adam_1", "/LARC")


def convert(prefix, out):
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)
    names = [name for name in reader.get_variable_to_shape_map() if not name.endswith(SLOTS)]
    np.savez(out, **{name: reader.get_tensor(name) for name in sorted(names)})
    return names


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(f"{len(convert(*sys.argv[1:]))} variables in {sys.argv[2]}")
