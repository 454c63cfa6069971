"""One process of all trainings; started by test_distributed.py as ``together.py FOLDER NAME``, by torchrun or alone."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from kexue_lib import lab
from kexue_lib.crf import LinearChainCRF
from kexue_lib.lab import multidigits, segmentation
from kexue_lib.lab.checkpoints import Checkpoint
from kexue_lib.lab.distributed import ranks
from kexue_lib.lab.language import CausalDecoder
from kexue_lib.lab.text import causal_batches
from kexue_lib.lab.training import train
from kexue_lib.vq import EMACodebook

STEPS = 12
STOP = 8
RUN = lab.Run(scale="quick", seed=0, device="cpu")


class Stops(Exception):
    """The crash."""


class Stopping(Checkpoint):
    """Saves after every step, but crashes in one before it is saved."""

    def __init__(self, path, every=0.0, stop=STOP):
        super().__init__(path, every=every)
        self.stop = stop

    def save(self, step, *parts, **options):
        if step == self.stop:
            raise Stops
        return super().save(step, *parts, **options)


def decoder(checkpoint=None):
    """A decoder whose keys pass a codebook, so that buffers, an extra loss and a clipped gradient take part."""

    def loss(model, batch):
        """Like causal_loss, but in float64 to the end."""
        logits = model.logits(model(batch.inputs))
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), batch.targets.flatten()) + model.extra_loss

    class Quantizing(torch.nn.Module):
        def __init__(self, heads, dim):
            super().__init__()
            self.book = EMACodebook(heads, 8, dim, generator=RUN.generator("codes"))

        def forward(self, q, k, v):
            found = self.book(k)
            self.extra_loss = 0.1 * found.commit_loss
            return torch.nn.functional.scaled_dot_product_attention(q, found.k_hat, v, is_causal=True)

    model = CausalDecoder(
        17, dim=16, depth=2, heads=2, attention=lambda _, h, d: Quantizing(h, d), generator=RUN.generator("weights")
    ).double()
    tokens = torch.randint(17, (4000,), generator=RUN.generator("text"))
    batches = causal_batches(tokens, batch=9, n=12, generator=RUN.generator("batches"))
    options = {"loss": loss, "schedule": "cosine", "checkpoint": checkpoint}
    losses = train(model, batches, steps=STEPS, lr=3e-3, warmup=3, clip=0.5, **options)
    return {"losses": torch.from_numpy(losses), "state": model.state_dict()}


def lines():
    """13 lines of 2 to 5 words of a small language: with batches of 5 an epoch has the steps 5, 5, 3."""
    order = torch.randint(3, (13, 5), generator=RUN.generator("lines")).tolist()
    chosen = [[("ab", "cde", "f")[k] for k in row][: 2 + number % 4] for number, row in enumerate(order)]
    some = [segmentation.bmes(words) for words in chosen]
    return segmentation.TaggedLines(some, segmentation.CharacterTable(some, at_least=1))


def tagger(crf, checkpoint=None):
    """A tagger, with its score on the lines after each epoch of three steps."""
    layer = LinearChainCRF(4, generator=RUN.generator("transitions")) if crf else None
    encoder = segmentation.ConvEncoder(8, dim=6, generator=RUN.generator("encoder"))
    model = segmentation.Tagger(encoder, layer, generator=RUN.generator("dense")).double()
    found = segmentation.train_tagger(
        model,
        data := lines(),
        epochs=STEPS // 3,
        lr=1e-2,
        crf_scale=100,
        batch=5,
        generator=RUN.generator("order"),
        after_epoch=lambda tagger: {
            "f1": segmentation.evaluate_tagger(tagger, data).f1,
            "norm": tagger.dense.weight.norm().item(),
        },
        checkpoint=checkpoint,
    )
    return {
        "losses": torch.tensor(found.losses, dtype=torch.float64),
        "state": model.state_dict(),
        "found": torch.tensor([list(each.values()) for each in found.found], dtype=torch.float64),
    }


def hidden_options():
    """So few hidden characters that a part of a batch may have none, and two parts rarely as many."""
    return {"rate": 0.1, "generator": RUN.generator("hidden"), "order": RUN.generator("order")}


def guessing(checkpoint=None):
    """A transformer that learns to guess hidden characters."""
    sizes = {"dim": 8, "depth": 1, "heads": 2, "longest": 15}
    encoder = segmentation.TransformerEncoder(9, **sizes, generator=RUN.generator("transformer")).double()
    options = {"symbol": 8, "epochs": STEPS // 3, "lr": 1e-2, "batch": 5, "checkpoint": checkpoint}
    losses = segmentation.train_on_hidden(encoder, lines(), **options, **hidden_options())
    return {"losses": torch.tensor(losses, dtype=torch.float64), "state": encoder.state_dict()}


def digits(checkpoint=None, batch=7):
    """A member for every rule, in batches of 7."""
    pairs = multidigits.multidigits(60, part="train", rng=RUN.rng("pairs"))
    pairs = dataclasses.replace(pairs, images=pairs.images.double(), difference=pairs.difference.double())
    rules = list(multidigits.RULES)
    model = multidigits.SharedTrunk(len(rules), width=5, generator=RUN.generator("weights")).double()
    options = {"generator": RUN.generator("batches"), "batch": batch, "checkpoint": checkpoint}
    record = multidigits.train(model, pairs, rules, steps=STEPS, **options)
    found = np.concatenate([getattr(record, name).reshape(STEPS, -1) for name in record.__dataclass_fields__], axis=1)
    return {"losses": torch.from_numpy(found), "state": model.state_dict()}


TRAININGS = {
    "decoder": decoder,
    "tagger with CRF": lambda checkpoint=None: tagger(True, checkpoint),
    "tagger with softmax": lambda checkpoint=None: tagger(False, checkpoint),
    "hidden characters": guessing,
    "digits": digits,
    "digits, a batch of one": lambda checkpoint=None: digits(checkpoint, batch=1),
}


def all_trainings(folder, name):
    """What each training gives; in a "crash" nothing, but the state that each has saved."""
    results = {}
    for number, (training, run) in enumerate(TRAININGS.items()):
        path = folder / f"{number}.pt"
        kept = {"straight": None, "crash": Stopping(path), "resumed": Checkpoint(path)}[name]
        try:
            results[training] = run(kept)
        except Stops:
            assert name == "crash"
    return results


if __name__ == "__main__":
    target, name = Path(sys.argv[1]), sys.argv[2]
    torch.save(all_trainings(target, name), target / f"{name}-{ranks().rank}.pt")
