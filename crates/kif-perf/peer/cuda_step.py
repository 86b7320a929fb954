"""The peer of `kif perf`: the same LoRA step with PyTorch and transformers' T5, on a GPU or the CPU.

    pip install torch transformers
    kif perf --device cuda --peer python

LoRA is written out on q and v: A and B in f32, the frozen base in f32 or bf16. A step is loss and gradient of A and B; no
dropout, no optimizer. `kif perf` passes its own configurations, batches and numbers of steps, and reads one line of JSON
for each piece of work.
"""
import argparse, json, resource, time

import torch
from transformers import T5Config, T5ForConditionalGeneration

WARM_UP = 2
RANK, ALPHA = 8, 32


class Lora(torch.nn.Module):
    """`y = W x + alpha / rank * B A x`."""

    def __init__(self, base):
        super().__init__()
        self.base, device = base, base.weight.device
        self.a = torch.nn.Parameter(0.01 * torch.randn(RANK, base.in_features, device=device))
        self.b = torch.nn.Parameter(0.01 * torch.randn(base.out_features, RANK, device=device))

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        return self.base(x) + (ALPHA / RANK) * ((x @ a.T) @ b.T)


def model(config, device, dtype):
    with torch.device(device):
        model = T5ForConditionalGeneration(T5Config(**{**config, "dropout_rate": 0.0, "use_cache": False}))
    model.to(dtype).train().requires_grad_(False)
    for module in list(model.modules()):
        for name in ("q", "v"):
            if isinstance(getattr(module, name, None), torch.nn.Linear):
                setattr(module, name, Lora(getattr(module, name)))
    return model


def peak_mib(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(model, vocabulary, n_rows, n_inputs, args):
    inputs = torch.randint(10, vocabulary, (n_rows, n_inputs), device=args.device)
    labels = torch.randint(10, vocabulary, (n_rows, args.targets), device=args.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for k in range(WARM_UP + args.steps):
        start = time.perf_counter()
        for p in trained:
            p.grad = None
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        loss.item()
        if args.device == "cuda":
            torch.cuda.synchronize()
        if k >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return dict(step_s=seconds, peak_mib=peak_mib(args.device))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--configs", required=True, help="JSON: fields of a T5Config by name")
    parser.add_argument("--batches", default="8x128,16x512")
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    for shape, config in json.loads(args.configs).items():
        for precision in args.precisions.split(","):
            subject = model(config, args.device, torch.bfloat16 if precision == "bf16" else torch.float32)
            for batch in args.batches.split(","):
                n_rows, n_inputs = map(int, batch.split("x"))
                try:
                    result = measured(subject, config["vocab_size"], n_rows, n_inputs, args)
                except torch.OutOfMemoryError:
                    result = dict(error="no memory")
                print(json.dumps(dict(shape=shape, batch=batch, precision=precision, **result)), flush=True)
            del subject
            if args.device == "cuda":
                torch.cuda.empty_cache()


main()
