#!/usr/bin/env python3
"""Makes the demo corpus: synthetic speakers reading generated sentences, laid out as LibriSpeech is.

    sudo apt-get install espeak-ng flac
    python3 tests/corpus/make.py            # rewrites tests/corpus/LibriSpeech and its CHECKSUMS

Neither `make demo` nor any test runs this: the result is committed. Everything is a function of the
tables below and of SEED, so that the same espeak-ng gives the same samples (the bytes of the FLAC
files depend on the encoder's version too, the decoded samples do not). Standard library only.
"""

import argparse
import array
import concurrent.futures
import hashlib
import io
import math
import operator
import pathlib
import random
import shutil
import subprocess
import sys
import wave

SEED = 1
RATE = 16_000
PEAK = 12_000  # of 32,767, before noise: about -9 dBFS, so that noise cannot clip
STEP = 128  # samples are multiples of this (about 8 bits are left of 16), which keeps FLAC small
MARGIN = 0.08  # seconds of background kept before and after the speech

# ---------------------------------------------------------------------------------------------
# Who speaks. speaker: (espeak-ng voice, pitch 0..99, words a minute). No speaker, voice variant
# or sentence is in two subsets.
# ---------------------------------------------------------------------------------------------
CLEAN_DB = 35.0  # speech over background noise
OTHER_DB = 20.0

SUBSETS = {
    # name: (utterances a speaker, signal-to-noise ratio in dB, speakers)
    "train": (
        18,
        CLEAN_DB,
        {
            101: ("en-us+m1", 38, 178),
            102: ("en-us+m3", 52, 190),
            103: ("en+m7", 44, 170),
            104: ("en-us+f2", 55, 182),
            105: ("en-gb-x-rp+f4", 48, 174),
            106: ("en-us+klatt2", 50, 184),
            107: ("en-us+Andrea", 46, 180),
            108: ("en-029+Mike", 52, 172),
            109: ("en-us-nyc+m5", 62, 188),
            110: ("en-us+Annie", 60, 176),
            111: ("en+Gene", 36, 186),
            112: ("en-us+steph", 54, 168),
            113: ("en-gb-scotland+m2", 50, 176),
            114: ("en-us+Denis", 42, 182),
            115: ("en-us+m8", 58, 180),
            116: ("en+rob", 46, 176),
            117: ("en-us+belinda", 40, 186),
            118: ("en-us+max", 50, 172),
            119: ("en-029+klatt4", 44, 184),
            120: ("en-us+Diogo", 54, 178),
            121: ("en-gb-x-rp+paul", 56, 190),
            122: ("en-us-nyc+aunty", 44, 174),
            123: ("en-us+marcelo", 60, 182),
            124: ("en+Andy", 48, 186),
        },
    ),
    "dev-clean": (
        14,
        CLEAN_DB,
        {201: ("en-us+m4", 46, 176), 202: ("en+f1", 50, 180), 203: ("en-us+Alex", 40, 184)},
    ),
    "dev-other": (
        14,
        OTHER_DB,
        {211: ("en-gb-x-gbclan+m6", 60, 184), 212: ("en-us+linda", 42, 190), 213: ("en-us+Jacky", 56, 172)},
    ),
    "test-clean": (
        14,
        CLEAN_DB,
        {301: ("en-us+robert", 48, 180), 302: ("en-us+f3", 52, 174), 303: ("en+john", 44, 182)},
    ),
    "test-other": (
        14,
        OTHER_DB,
        {311: ("en-gb-x-gbcwmd+Hugo", 54, 186), 312: ("en-us-nyc+f5", 56, 178), 313: ("en-us+Lee", 44, 188)},
    ),
}

# ---------------------------------------------------------------------------------------------
# What they say: a closed vocabulary in a small grammar. All 26 letters and the apostrophe occur.
# A word in capitals is drawn from its list; every draw counts the word's uses, rarer words first.
# ---------------------------------------------------------------------------------------------
WORDS = {
    "PERSON": "king queen man girl boy farmer sailor",
    "OWNER": "king's queen's girl's farmer's",
    "ANIMAL": "fox dog cat bird horse zebra",
    "HERD": "dogs birds horses boys",
    "ADJECTIVE": "old young red blue small big quick lazy happy cold",
    "THING": "box lamp ring key book map apple coat",
    "PLACE": "garden house river hill forest ship table bridge",
    "FOUND": "took found saw left held",
    "SAT": "jumped walked sat slept ran waited",
    "BY": "by in near over under behind",
    "HIS": "his her my",
    "NUMBER": "two three five seven",
    "BRING": "bring give show send",
    "TODAY": "today again now",
}
SENTENCES = [
    "the ADJECTIVE ANIMAL SAT BY the PLACE",
    "a ADJECTIVE PERSON FOUND HIS THING",
    "the PERSON FOUND a ADJECTIVE THING BY the PLACE",
    "the OWNER ADJECTIVE THING was BY the PLACE",
    "NUMBER HERD SAT BY HIS PLACE TODAY",
    "BRING me the ADJECTIVE THING TODAY",
    "we FOUND NUMBER HERD BY the PLACE",
    "HIS ANIMAL SAT with the OWNER ANIMAL",
    "the ADJECTIVE PERSON and the ANIMAL SAT TODAY",
    "they were BY the OWNER PLACE every night",
]
VOCABULARY = {word for words in WORDS.values() for word in words.split()} | {
    word for sentence in SENTENCES for word in sentence.split() if word not in WORDS
}


class Writer:
    """Draws sentences that were never drawn before, keeping the words' frequencies even."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.uses = {}
        self.seen = set()

    def draw(self, options):
        # random() is the one method whose results the language promises to keep.
        key = lambda option: self.uses.get(option, 0) + 2.0 * self.random.random()
        choice = min(options, key=key)
        self.uses[choice] = self.uses.get(choice, 0) + 1
        return choice

    def sentence(self):
        while True:
            words = []
            for slot in self.draw(SENTENCES).split():
                options = [w for w in WORDS.get(slot, slot).split() if w not in words or w == slot]
                words.append(self.draw(options) if slot in WORDS else slot)
            text = " ".join(words)
            if text not in self.seen:
                self.seen.add(text)
                return text


# ---------------------------------------------------------------------------------------------
# How it sounds.
# ---------------------------------------------------------------------------------------------
def synthesise(text, voice, pitch, speed):
    """What espeak-ng says: its samples and their rate."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-a", "50", "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(wav)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth()) == (1, 2), f"{voice}: not mono 16 bit"
        rate = reader.getframerate()
    samples = array.array("h")
    data = wav[wav.index(b"data") + 8 :]  # the stream's header does not know the length
    samples.frombytes(data[: len(data) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    assert max(map(abs, samples)) < 32_767, f"{voice}: espeak-ng clipped"
    return samples, rate


def check_voices():
    """espeak-ng ignores a variant that it does not know: every voice must sound unlike all others."""
    voices = [voice for _, _, speakers in SUBSETS.values() for voice, _, _ in speakers.values()]
    heard = {}
    for voice in voices + sorted({voice.split("+")[0] for voice in voices}):
        sound = bytes(synthesise("the young farmer waited", voice, 50, 175)[0])
        if sound in heard:
            sys.exit(f"{voice} and {heard[sound]} sound the same: is the variant installed?")
        heard[sound] = voice


def resample(samples, rate):
    """Windowed-sinc polyphase resampling from `rate` to RATE (here 441 to 320)."""
    divisor = math.gcd(rate, RATE)
    up, down = RATE // divisor, rate // divisor
    cutoff = 0.92 * min(1.0, up / down)  # of the input's Nyquist frequency
    half = 24
    phases = []
    for phase in range(up):
        taps = []
        for k in range(-half + 1, half + 1):
            x = k - phase / up
            sinc = cutoff if x == 0 else math.sin(math.pi * cutoff * x) / (math.pi * x)
            window = 0.5 + 0.5 * math.cos(math.pi * x / half) if abs(x) < half else 0.0
            taps.append(sinc * window)
        phases.append(taps)
    padded = array.array("d", [0.0] * (half - 1))
    padded.extend(map(float, samples))
    padded.extend([0.0] * (half + 1))
    out = array.array("d")
    for n in range(len(samples) * up // down):
        start, phase = divmod(n * down, up)
        # fsum: correctly rounded, so the same in every version of Python.
        out.append(math.fsum(map(operator.mul, phases[phase], padded[start : start + 2 * half])))
    return out


def trim(samples):
    """Cuts leading and trailing silence, then puts MARGIN of it back."""
    threshold = 0.01 * max(map(abs, samples))
    loud = [i for i, v in enumerate(samples) if abs(v) > threshold]
    margin = [0.0] * round(MARGIN * RATE)
    return array.array("d", margin + list(samples[loud[0] : loud[-1] + 1]) + margin)


def pink(count, rng):
    """Noise that falls by about 3 dB an octave (three leaky integrators and a white part)."""
    a = b = c = 0.0
    out = []
    for _ in range(count):
        white = math.fsum(rng.random() for _ in range(4)) - 2.0
        a = 0.99765 * a + 0.0990460 * white
        b = 0.96300 * b + 0.2965164 * white
        c = 0.57000 * c + 1.0526913 * white
        out.append(a + b + c + 0.1848 * white)
    return out


def power(samples):
    return math.fsum(v * v for v in samples) / len(samples)


def record(job):
    """Synthesises one utterance and writes its FLAC file; returns what CHECKSUMS says of it."""
    path, text, voice, pitch, speed, decibel, seed = job
    rng = random.Random(seed)
    speed = round(speed * (0.92 + 0.16 * rng.random()))
    pitch = round(pitch + 8 * rng.random() - 4)
    speech = trim(resample(*synthesise(text, voice, pitch, speed)))
    gain = PEAK / max(map(abs, speech))
    speech = [gain * v for v in speech]
    active = speech[round(MARGIN * RATE) : -round(MARGIN * RATE)]
    noise = pink(len(speech), rng)
    level = math.sqrt(power(active) / power(noise) / 10 ** (decibel / 10))
    mixed = [round((s + level * n) / STEP) * STEP for s, n in zip(speech, noise)]
    assert max(map(abs, mixed)) < 32_767, f"{path.name}: clipped"
    samples = array.array("h", mixed)
    if sys.byteorder == "big":
        samples.byteswap()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setparams((1, 2, RATE, len(samples), "NONE", ""))
        writer.writeframes(samples.tobytes())
    command = ["flac", "--silent", "-8", "-e", "-p", "--no-padding", "--no-seektable", "-f", "-o", str(path), "-"]
    subprocess.run(command, input=buffer.getvalue(), check=True)
    return hashlib.sha256(samples.tobytes()).hexdigest(), len(samples), path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--out", type=pathlib.Path, default=here, help="where LibriSpeech/ is written")
    root = parser.parse_args().out / "LibriSpeech"
    for tool in ("espeak-ng", "flac"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed (Debian: apt-get install espeak-ng flac)")
    shutil.rmtree(root, ignore_errors=True)

    check_voices()
    sentences = Writer(SEED)
    jobs = []
    for subset, (count, decibel, speakers) in SUBSETS.items():
        for speaker, (voice, pitch, speed) in speakers.items():
            chapter = 1
            folder = root / subset / str(speaker) / str(chapter)
            folder.mkdir(parents=True)
            lines = []
            for number in range(count):
                utterance = f"{speaker}-{chapter}-{number:04}"
                text = sentences.sentence()
                lines.append(f"{utterance} {text.upper()}\n")
                seed = f"{SEED} {utterance}"
                jobs.append((folder / f"{utterance}.flac", text, voice, pitch, speed, decibel, seed))
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))

    with concurrent.futures.ProcessPoolExecutor() as pool:
        results = list(pool.map(record, jobs, chunksize=4))
    lines = [f"{digest} {length} {path.relative_to(root)}\n" for digest, length, path in results]
    (root / "CHECKSUMS").write_text("".join(sorted(lines, key=lambda line: line.split()[2])))

    for subset in SUBSETS:
        own = [(length, path) for _, length, path in results if path.relative_to(root).parts[0] == subset]
        seconds = sum(length for length, _ in own) / RATE
        size = sum(path.stat().st_size for _, path in own)
        print(f"{subset:12} {len(own):4} utterances {seconds / 60:6.2f} min {size / 1e6:6.2f} MB")
    total = sum(path.stat().st_size for path in root.rglob("*.flac"))
    unused = VOCABULARY - {word for _, text, *_ in jobs for word in text.split()}
    print(f"{len(VOCABULARY)} words (unused: {sorted(unused)}), {total / 1e6:.2f} MB of FLAC")


if __name__ == "__main__":
    main()
