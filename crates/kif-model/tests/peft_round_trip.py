"""Loads what this crate wrote with the Python libraries that users load it with, and writes what this crate loads.

    pip install torch transformers peft safetensors
    python peft_round_trip.py adapter (MODEL OUR_ADAPTER GOLDEN_ADAPTER)...  # both give the same logits
    python peft_round_trip.py model (OUR_MODEL GOLDEN_MODEL)...              # both give the same logits
    python peft_round_trip.py merged (OUR_MERGED MODEL ADAPTER)...           # the merged base gives those of the adapter
    python peft_round_trip.py forward (MODEL OUR_ADAPTER NUMBERS)...         # writes a batch and its logits
    python peft_round_trip.py make (MODEL OUR_ADAPTER ADAPTER NUMBERS)...    # the same for a new adapter of these settings

The first three print the largest difference of the logits of one fixed batch and exit with 1 if it is above 1e-5; for a
merged base, where rounding differs by design, above 1e-5 of the largest logit (peft's own merge_and_unload differs by 0.2e-5
and 0.6e-5 of it on the two golden T5). Missing and unexpected tensors are errors everywhere. NUMBERS has the form of the
golden files: `input.*`, `target.*`, `logits.<row>`.
"""
import sys
import warnings

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM


def base(path):
    reads_both_ways = AutoConfig.from_pretrained(path).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if reads_both_ways else AutoModelForCausalLM
    model, info = kind.from_pretrained(path, output_loading_info=True)
    for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[keys], (path, keys, info[keys])
    return model.float().eval()


def adapted(model, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns where keys are missing
        loaded = PeftModel.from_pretrained(base(model), adapter).eval()
        # Once more, under a name of its own: peft says only here which keys it did not know.
        found = loaded.load_adapter(adapter, "again")
    assert not found.missing_keys and not found.unexpected_keys, (adapter, found)
    loaded.delete_adapter("again")
    return loaded


def batch():
    torch.manual_seed(0)
    return torch.randint(2, 500, (3, 17)), torch.randint(2, 500, (3, 5))


def logits(model):
    """Of every target of the batch, [B, T, V]."""
    ids, labels = batch()
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=ids, labels=labels).logits
        return model(input_ids=torch.cat([ids, labels], 1)).logits[:, ids.shape[1] - 1:-1]


def same(kind, of, one, two):
    with_one, with_two = logits(one), logits(two)
    difference = (with_one - with_two).abs().max().item()
    allowed = 1e-5 * (with_two.abs().max().item() if kind == "merged" else 1)
    print(f"{kind} {of}: largest difference of logits {difference:.3g}, allowed {allowed:.3g}")
    return difference <= allowed


def adapter(model, ours, golden):
    one, two = adapted(model, ours), adapted(model, golden)
    of_one, of_two = one.state_dict(), two.state_dict()
    assert of_one.keys() == of_two.keys() and all(torch.equal(of_one[k], of_two[k]) for k in of_one)
    return same("adapter", model, one, two)


def model(ours, golden):
    return same("model", golden, base(ours), base(golden))


def merged(ours, model, adapter):
    return same("merged", model, base(ours), adapted(model, adapter))


def write_numbers(model, path):
    numbers = {f"logits.{i}": rows.contiguous() for i, rows in enumerate(logits(model))}
    for name, ids in zip(("input", "target"), batch()):
        numbers[name + ".ids"] = ids.reshape(-1).contiguous()
        numbers[name + ".offsets"] = torch.arange(len(ids) + 1) * ids.shape[1]
    save_file(numbers, path)
    return True


def forward(model, adapter, path):
    return write_numbers(adapted(model, adapter), path)


def make(model, settings, out, path):
    wanted = PeftConfig.from_pretrained(settings)
    torch.manual_seed(1)
    config = LoraConfig(r=wanted.r, lora_alpha=wanted.lora_alpha, lora_dropout=0.1, target_modules=wanted.target_modules,
                        task_type=wanted.task_type)
    made = get_peft_model(base(model), config).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "lora_B" in name:  # zero in a new adapter, which would change nothing
                p.copy_(0.05 * torch.randn_like(p))
    made.save_pretrained(out)
    return write_numbers(made, path)


work = {f.__name__: f for f in (adapter, model, merged, forward, make)}.get(sys.argv[1])
if work is None:
    sys.exit(__doc__)
paths, n = sys.argv[2:], work.__code__.co_argcount
assert len(paths) % n == 0, (paths, n)
agree = [work(*paths[i:i + n]) for i in range(0, len(paths), n)]
sys.exit(not all(agree))
