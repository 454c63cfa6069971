"""One process of a training; started by test_distributed.py as ``together.py FOLDER NAME``, by torchrun or alone."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from kexue_lib import lab
from kexue_lib.lab.distributed import ranks
from kexue_lib.lab.language import CausalDecoder
from kexue_lib.lab.text import causal_batches
from kexue_lib.lab.training import train
from kexue_lib.vq import EMACodebook

STEPS = 12


class Stops(Exception):
    """The crash."""


def loss(model, batch):
    """Like causal_loss, but in float64 to the end."""
    logits = model.logits(model(batch.inputs))
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), batch.targets.flatten()) + model.extra_loss


def training(checkpoint=None, stop_at=None):
    """A decoder whose keys pass a codebook, so that buffers, an extra loss and a clipped gradient take part."""
    run = lab.Run(scale="quick", seed=0, device="cpu")

    class Quantizing(torch.nn.Module):
        def __init__(self, heads, dim):
            super().__init__()
            self.book = EMACodebook(heads, 8, dim, generator=run.generator("codes"))

        def forward(self, q, k, v):
            found = self.book(k)
            self.extra_loss = 0.1 * found.commit_loss
            return torch.nn.functional.scaled_dot_product_attention(q, found.k_hat, v, is_causal=True)

    model = CausalDecoder(
        17, dim=16, depth=2, heads=2, attention=lambda _, h, d: Quantizing(h, d), generator=run.generator("weights")
    ).double()
    tokens = torch.randint(17, (4000,), generator=run.generator("text"))
    batches = causal_batches(tokens, batch=8, n=12, generator=run.generator("batches"))

    def crashing():
        for count, batch in enumerate(batches):
            if count == stop_at:
                raise Stops
            yield batch

    losses = train(
        model,
        crashing(),
        steps=STEPS,
        lr=3e-3,
        warmup=3,
        clip=0.5,
        loss=loss,
        schedule="cosine",
        checkpoint=checkpoint,
    )
    return {"losses": torch.from_numpy(losses), "state": model.state_dict()}


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), sys.argv[2]
    kept = lab.checkpoints.Checkpoint(folder / "state.pt", every=0.0) if name != "straight" else None
    try:
        result = training(kept, stop_at=7 if name == "crash" else None)
    except Stops:
        sys.exit(0)
    torch.save(result, folder / f"{name}-{ranks().rank}.pt")
