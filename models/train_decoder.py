"""Train a small decoder of bytes on the documentation that Python ships, and write it with samples beside it.

    python models/train_decoder.py [FOLDER]   ->   decoder.onnx   decoder_calibration.npz   decoder_test.npz

It is exported as language models are run: besides the new tokens it takes the keys and values of those before, and
gives the logits and the keys and values with the new ones:

    tokens [b, t]   past_keys, past_values [b, layers * heads, p, width]   ->   logits   present_keys   present_values

The file has some five million weights, and is made when it is wanted: nothing of it comes with the package. ``p`` may
be 0, which is how a text begins; samples have the cache of 16 bytes before them.
"""

import math
import pydoc_data.topics
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 11
BYTES, WIDTH, LAYERS, HEADS = 256, 256, 6, 8
CONTEXT, PAST, NEW = 128, 16, 48
STEPS, BATCH, LEARNING_RATE = 700, 16, 2e-3
CALIBRATED, HELD_OUT = 256, 500
OPSET = 18


class Block(nn.Module):
    """Attention over the cache and the new tokens, then a gated product."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what comes behind the block, and the cache with the new tokens in it."""
        batch, new, _ = x.shape
        h = self.norm1(x)

        def heads(projected: Tensor) -> Tensor:
            return projected.reshape(batch, new, HEADS, WIDTH // HEADS).transpose(1, 2)

        query = heads(self.query(h))
        keys = torch.cat([keys, heads(self.key(h))], dim=2)
        values = torch.cat([values, heads(self.value(h))], dim=2)
        scores = query @ keys.transpose(2, 3) / math.sqrt(WIDTH // HEADS) + mask
        mixed = (torch.softmax(scores, dim=-1) @ values).transpose(1, 2).reshape(batch, new, WIDTH)
        x = x + self.output(mixed)
        h = self.norm2(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h)), keys, values


class Decoder(nn.Module):
    """A language model of bytes with learnt positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(BYTES, WIDTH), nn.Embedding(2 * CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES, bias=False)

    def forward(self, tokens: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of every new token, and the whole cache."""
        past, new = past_keys.shape[2], tokens.shape[1]
        places = torch.arange(past + new)
        mask = torch.where(places[None, :] <= places[past:, None], 0.0, -1e4)
        x = self.embedding(tokens) + self.positions(places[past:])
        all_keys, all_values = [], []
        for number, block in enumerate(self.blocks):
            own = slice(number * HEADS, (number + 1) * HEADS)
            x, keys, values = block(x, past_keys[:, own], past_values[:, own], mask)
            all_keys.append(keys)
            all_values.append(values)
        return self.head(self.norm(x)), torch.cat(all_keys, dim=1), torch.cat(all_values, dim=1)


def empty(batch: int) -> Tensor:
    """Return a cache of nothing."""
    return torch.zeros(batch, LAYERS * HEADS, 0, WIDTH // HEADS)


def text() -> np.ndarray:
    """Return the topics of Python's help as bytes."""
    topics = pydoc_data.topics.topics
    return np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode("utf-8"), np.uint8).astype(np.int64)


def windows(data: np.ndarray, count: int, length: int, seed: int) -> np.ndarray:
    """Draw pieces of a text."""
    starts = np.random.default_rng(seed).integers(0, len(data) - length, count)
    return np.stack([data[start : start + length] for start in starts])


def trained(data: np.ndarray) -> Decoder:
    """Train on pieces of a text."""
    torch.manual_seed(SEED)
    model = Decoder()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=STEPS)
    for step in range(STEPS):
        piece = torch.from_numpy(windows(data, BATCH, CONTEXT + 1, SEED + step))
        logits, _, _ = model(piece[:, :-1], empty(BATCH), empty(BATCH))
        loss = functional.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        plan.step()
        if step % 50 == 0:
            print(f"step {step}: {loss.item():.3f} nats a byte", flush=True)
    return model.eval()


def samples(model: Decoder, data: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return new tokens with the cache of those before them."""
    piece = torch.from_numpy(windows(data, count, PAST + NEW, seed))
    with torch.no_grad():
        _, keys, values = model(piece[:, :PAST], empty(count), empty(count))
    return {"tokens": piece[:, PAST:].numpy(), "past_keys": keys.numpy(), "past_values": values.numpy()}


def export(model: Decoder, path: Path) -> None:
    """Write the model with batch, new tokens and cache of any length."""
    example = (
        torch.zeros(2, 3, dtype=torch.long),
        *(torch.zeros(2, LAYERS * HEADS, 5, WIDTH // HEADS) for _ in range(2)),
    )
    batch, new, past = (torch.export.Dim(name, min=low) for name, low in (("batch", 1), ("new", 1), ("past", 0)))
    torch.onnx.export(
        model,
        example,
        str(path),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=["tokens", "past_keys", "past_values"],
        output_names=["logits", "present_keys", "present_values"],
        dynamic_shapes=({0: batch, 1: new}, {0: batch, 2: past}, {0: batch, 2: past}),
    )
    onnx.checker.check_model(str(path))


def main(folder: Path) -> None:
    """Train, export and write samples; the last tenth of the text is held out."""
    data = text()
    cut = len(data) * 9 // 10
    model = trained(data[:cut])
    export(model, folder / "decoder.onnx")
    np.savez(folder / "decoder_calibration.npz", **samples(model, data[:cut], CALIBRATED, SEED + 1_000_000))
    np.savez(folder / "decoder_test.npz", **samples(model, data[cut:], HELD_OUT, SEED + 2_000_000))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
