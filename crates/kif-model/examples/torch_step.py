"""The step of `step_time.rs` in PyTorch with peft: same shapes, random weights.

    pip install torch transformers peft
    OMP_NUM_THREADS=2 python crates/kif-model/examples/torch_step.py [--steps 15] [--precision f32|bf16]

Prints one JSON line: milliseconds of forward and backward (minimum, median), peak memory in MiB.
"""
import argparse, json, os, resource, statistics, time
import torch
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

ap = argparse.ArgumentParser()
ap.add_argument("--steps", type=int, default=15)
ap.add_argument("--precision", default="f32", choices=["f32", "bf16"])
a = ap.parse_args()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
config = T5Config(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_decoder_layers=6, num_heads=8,
                  dropout_rate=0.0, decoder_start_token_id=0)
model = get_peft_model(T5ForConditionalGeneration(config),
                       LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules=["q", "v"]))
x = torch.randint(10, 32000, (8, 128))
y = torch.randint(10, 32000, (8, 8))
times = []
for _ in range(a.steps + 2):
    model.zero_grad(set_to_none=True)
    t = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
        loss = model(input_ids=x, labels=y).loss
    loss.backward()
    times.append((time.perf_counter() - t) * 1e3)
times = times[2:]
print(json.dumps(dict(threads=torch.get_num_threads(), torch=torch.__version__, min_ms=round(min(times), 1),
                      median_ms=round(statistics.median(times), 1),
                      peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))
