"""Our beam search beside pyctcdecode and KenLM, on the same posteriors, model and settings.

Both texts of every utterance get a score from one scorer: ln p(text | audio) over all alignments (the CTC forward
score), plus LM_WEIGHT log10 p of the n-gram model (read by KenLM), plus WORD_BONUS a word. Ours must be at least as
good in 98 % of the utterances. pyctcdecode prunes nothing but its beam, begins sentences as ours does, and weighs unknown
words as the model has them. Run it by `make bench-beam`; TUTORNET is the program.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kenlm
import numpy as np
import pyarrow.parquet as pq
from pyctcdecode import BeamSearchDecoderCTC
from pyctcdecode.alphabet import Alphabet
from pyctcdecode.language_model import LanguageModel

ROOT = Path(__file__).resolve().parents[2]
BEAM, LM_WEIGHT, WORD_BONUS = 256, 2.0, 1.5
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'", ""]


class FromSentenceStart(LanguageModel):
    """As ours: sentences begin with <s>, their end is not scored."""

    def get_start_state(self):
        state = kenlm.State()
        self._kenlm_model.BeginSentenceWrite(state)
        return state


def forward_score(log_p, text):
    """ln p(text | audio), summed over all alignments."""
    target = [LABELS.index(c) for c in text]
    states = [28]
    for label in target:
        states += [label, 28]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_p[0][states[:2]]
    skip = np.array([i > 1 and s != 28 and s != states[i - 2] for i, s in enumerate(states)])
    for frame in log_p[1:]:
        stay = np.logaddexp(alpha, np.concatenate([[-np.inf], alpha[:-1]]))
        jump = np.where(skip, np.concatenate([[-np.inf] * 2, alpha[:-2]])[: len(alpha)], -np.inf)
        alpha = np.logaddexp(stay, jump) + frame[states]
    return np.logaddexp.reduce(alpha[-2:])


def score(model, log_p, text):
    state, out, total = kenlm.State(), kenlm.State(), 0.0
    model.BeginSentenceWrite(state)
    for word in text.split():
        total += LM_WEIGHT * model.BaseScore(state, word, out) + WORD_BONUS
        state, out = out, state
    return forward_score(log_p, text) + total


def tutornet(*arguments, threads="1"):
    environment = {**os.environ, "RAYON_NUM_THREADS": threads}
    subprocess.run([os.environ["TUTORNET"], "-q", *map(str, arguments)], check=True, env=environment)


def rows(cache):
    for shard in sorted(Path(cache).glob("*.parquet")):
        yield from pq.read_table(shard, columns=["utterance", "frames", "posterior", "nbest"]).to_pylist()


def made(scratch):
    """A cache of the committed corpus with our best texts, and the model they were found with."""
    corpus, model, arpa = scratch / "corpus", scratch / "model", scratch / "lm.arpa"
    tutornet("prep", "librispeech", ROOT / "tests/corpus/LibriSpeech", "--subset", "dev-clean", "--out", corpus)
    tutornet("lm", "build", "--text", corpus, "--order", 3, "--out", arpa)
    pipeline = scratch / "p.toml"
    pipeline.write_text(f"""name = "p"\nstudent = "jasper-nano"\n[data]\ntrain = ["{corpus}"]\nbatch_seconds = 30.0
        [[stage]]\nobjective = "ctc"\nmax_updates = 400\n[optimizer]\nname = "adamw"\nlearning_rate = 0.003""")
    tutornet("train", pipeline, "--out", model, "--device", "cpu")
    cache = scratch / "cache"
    tutornet("cache", "--model", model / "student", "--corpus", corpus, "--out", cache, "--device", "cpu", "--nbest", 1,
             "--beam", BEAM, "--lm", arpa, "--lm-weight", LM_WEIGHT, "--word-bonus", WORD_BONUS)
    return cache, arpa


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="made with --nbest and this search's settings")
    parser.add_argument("--arpa", type=Path, help="its language model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        cache, arpa = (arguments.cache, arguments.arpa) if arguments.arpa else made(Path(directory))
        model = kenlm.Model(str(arpa))
        # pyctcdecode's weight is on natural logarithms.
        language = FromSentenceStart(model, unigrams=None, alpha=LM_WEIGHT / np.log(10), beta=WORD_BONUS,
                                     unk_score_offset=0.0, score_boundary=False)
        decoder = BeamSearchDecoderCTC(Alphabet(LABELS, False), language)
        better = equal = worse = 0
        seconds, frames = 0.0, 0
        for row in rows(cache):
            log_p = np.frombuffer(row["posterior"], "<f2").reshape(row["frames"], 29).astype("f8")
            log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
            best = json.loads(row["nbest"])[0]
            start = time.process_time()
            text = decoder.decode(log_p, beam_width=BEAM, beam_prune_logp=-1e9, token_min_logp=-1e9)
            seconds, frames = seconds + time.process_time() - start, frames + row["frames"]
            ours, theirs = score(model, log_p, best["text"]), score(model, log_p, " ".join(text.split()))
            assert abs(forward_score(log_p, best["text"]) - best["log_p"]) < 1e-2 + 1e-4 * abs(best["log_p"]), row["utterance"]
            if best["text"] == " ".join(text.split()):
                equal += 1
            elif ours >= theirs - 1e-6:
                better += 1
            else:
                worse += 1
                print(f"{row['utterance']}: ours {ours:.4f} {best['text']!r}\n   theirs {theirs:.4f} {text!r}")
        count = better + equal + worse
        print(f"{count} utterances, beam {BEAM}: {equal} the same text, ours better in {better}, worse in {worse}; "
              f"pyctcdecode {1e3 * seconds / frames:.2f} ms a frame")
        if better + equal < 0.98 * count:
            sys.exit("ours is worse in more than 2 % of the utterances")


if __name__ == "__main__":
    main()
