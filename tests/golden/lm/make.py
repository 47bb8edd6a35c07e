"""Values of an interpolated, modified Kneser-Ney model, straight from its definition (Chen and Goodman, 1998).

Nothing is stored or smoothed cleverly: every probability is computed by the recursion, over the transcripts of the
committed corpus. `python3 tests/golden/lm/make.py` writes kneser_ney.json beside itself.
"""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ORDER = 3


def sentences():
    for file in sorted((HERE / "../../corpus/LibriSpeech/train").rglob("*.trans.txt")):
        for line in file.read_text().splitlines():
            yield line.split(maxsplit=1)[1].lower()


class KneserNey:
    def __init__(self, texts, order):
        grams = [Counter() for _ in range(order + 1)]
        self.words = {"<unk>", "</s>"}
        for text in texts:
            line = ["<s>", *text.split(), "</s>"]
            self.words.update(line[1:])
            for n in range(1, order + 1):
                grams[n].update(tuple(line[i : i + n]) for i in range(len(line) - n + 1))
        # How many different words stand before; what begins a sentence keeps its count.
        self.counts = {order: dict(grams[order])}
        for n in range(1, order):
            before = defaultdict(set)
            for gram in grams[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = {gram: len(words) for gram, words in before.items()}
            self.counts[n] |= {gram: count for gram, count in grams[n].items() if gram[0] == "<s>"}
        self.counts[1].pop(("<s>",), None)
        self.order = order
        self.after = {n: defaultdict(dict) for n in range(1, order + 1)}
        for n, counts in self.counts.items():
            for gram, count in counts.items():
                self.after[n][gram[:-1]][gram[-1]] = count
        self.discounts = {n: self.discount(Counter(counts.values())) for n, counts in self.counts.items()}

    @staticmethod
    def discount(of):
        if not all(of[k] for k in (1, 2, 3, 4)):
            return [0.5, 1.0, 1.5], True
        y = of[1] / (of[1] + 2 * of[2])
        return [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)], False

    def p(self, word, history):
        n = len(history) + 1
        if n == 1:
            lower = 1 / len(self.words)
        else:
            lower = self.p(word, history[1:])
        after = self.after[n].get(history)
        if not after:
            return lower
        total, (discount, _) = sum(after.values()), self.discounts[n]
        of = lambda count: discount[min(count, 3) - 1]
        own = max(after[word] - of(after[word]), 0) / total if word in after else 0
        return own + sum(of(count) for count in after.values()) / total * lower


def main():
    texts = list(sentences())
    model = KneserNey(texts, ORDER)
    words = sorted(model.words - {"<unk>", "</s>"})
    samples = []
    for number, text in enumerate(texts[::9]):
        line = ["<s>", *text.split()]
        at = 1 + number * 7 % len(line)
        history = line[max(0, at - ORDER + 1) : at]
        for word in (line[at] if at < len(line) else "</s>", words[number * 31 % len(words)], "zebra", "</s>"):
            known = word if word in model.words else "<unk>"
            log10 = round(math.log10(model.p(known, tuple(history))), 9)
            samples.append({"before": line[1:at], "word": word, "log10": log10})
    discounts = [model.discounts[n] for n in range(1, ORDER + 1)]
    result = {"order": ORDER, "sentences": len(texts), "discounts": discounts, "samples": samples}
    (HERE / "kneser_ney.json").write_text(json.dumps(result, indent=0) + "\n")
    print(len(texts), "sentences,", len(samples), "samples, discounts", discounts)


if __name__ == "__main__":
    main()
